#!/bin/sh
# Builds bench-go from Debian's packages of Go, etcd and its client's dependencies, and nothing else:
#
#   build.sh DIR      makes DIR/bench-go
#
# The packages are unpacked into DIR, not installed: that needs no root, and etcd's would bring a hundred others.
# Exits with 3, and the reason, if they are not available.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

unavailable() {
    echo "$1" >&2
    exit 3
}

command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || unavailable 'this is not a Debian machine'
# `golang-go` names the compiler's package of this release, such as golang-1.19-go.
compiler=$(apt-cache depends golang-go 2>/dev/null | sed -n 's/.*Depends: \(golang-[0-9.]*\)-go$/\1/p')
[ -n "$compiler" ] || unavailable 'apt knows no golang-go (apt-get update?)'

packages="$compiler-go $compiler-src golang-etcd-server-dev
    golang-github-coreos-go-semver-dev golang-github-coreos-go-systemd-dev golang-github-coreos-pkg-dev
    golang-github-gogo-protobuf-dev golang-github-golang-protobuf-1-3-dev golang-github-google-uuid-dev
    golang-go.uber-atomic-dev golang-go.uber-multierr-dev golang-go.uber-zap-dev
    golang-golang-x-net-dev golang-golang-x-sys-dev golang-golang-x-text-dev
    golang-google-genproto-dev golang-google-grpc-dev"
# An existing directory is complete: it is moved into place last.
if ! [ -d debian ]; then
    rm -rf unpacking packages
    mkdir unpacking packages
    # shellcheck disable=SC2086 # a list
    (cd packages && apt-get download -qq -o APT::Sandbox::User=root $packages) >&2 || unavailable "Debian's packages of Go and etcd can't be had"
    for package in packages/*.deb; do
        dpkg-deb -x "$package" unpacking
    done
    # For the report.
    echo "etcd $(dpkg-deb -f packages/golang-etcd-server-dev_* Version), Go $(dpkg-deb -f packages/"$compiler"-go_* Version)" >version
    rm -rf packages
    mv unpacking debian
fi

GOROOT=$PWD/debian/usr/lib/go-${compiler#golang-}
export GOROOT GOPATH="$PWD/debian/usr/share/gocode" GOCACHE="$PWD/cache"
# Downloads nothing, and ignores the user's settings.
export GO111MODULE=off GOENV=off GOFLAGS= CGO_ENABLED=0
"$GOROOT/bin/go" build -o bench-go "$here/main.go" || unavailable "Debian's Go packages don't fit together"
