#!/bin/bash
# Makes the base images of Dockerfile and docker-compose-etcd.yaml from
# Debian packages and this machine's Rust, for machines without access to a registry.
#
#   scripts/base-images.sh [debian] [rust] [etcd]     the named ones, or all; existing ones are kept
#   scripts/base-images.sh --remove                   removes those made here, and no others
#
# They replace the real images under the same names, so pull those if you
# can. Runs on Debian and its derivatives, as root or as a user with sudo.
set -eu

cd "$(dirname "$0")/.."
readonly SUITE=bookworm
readonly MADE_BY=leader-election.base-images # the label that --remove goes by

say() { printf 'base-images.sh: %s\n' "$*"; }
die() {
    printf 'base-images.sh: error: %s\n' "$*" >&2
    exit 1
}

# The names are read from those files, their only place.
default_of() { # default_of FILE VARIABLE
    sed -n -e "s/^ARG $2=//p" -e "s/.*\${$2:-\([^}]*\)}.*/\1/p" "$1" | head -n 1
}
debian_image=${DEBIAN_IMAGE:-$(default_of Dockerfile DEBIAN_IMAGE)}
rust_image=${RUST_IMAGE:-$(default_of Dockerfile RUST_IMAGE)}
etcd_image=${ETCD_IMAGE:-$(default_of docker-compose-etcd.yaml ETCD_IMAGE)}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "'$1' needs root: run this as root, or install sudo"
    fi
}

command -v docker >/dev/null || die "docker is not installed (Debian: apt-get install docker.io)"
if docker info >/dev/null 2>&1; then
    engine() { docker "$@"; }
elif as_root docker info >/dev/null 2>&1; then
    engine() { as_root docker "$@"; }
else
    die "no Docker engine answers: start it, or look at what 'docker info' says"
fi

have() { engine image inspect "$1" >/dev/null 2>&1; }

install_package() { # install_package PACKAGE COMMAND
    ! command -v "$2" >/dev/null && [ ! -x "/usr/sbin/$2" ] || return 0
    command -v apt-get >/dev/null || die "'$2' is missing and there is no apt-get: install the package $1"
    say "installing $1"
    as_root apt-get install -y --no-install-recommends "$1" >/dev/null ||
        { as_root apt-get update >/dev/null && as_root apt-get install -y --no-install-recommends "$1" >/dev/null; } ||
        die "apt-get could not install $1"
}

scratch=
clean_up() {
    # One file system: leaves debootstrap's mounts alone.
    [ -z "$scratch" ] || as_root rm -rf --one-file-system "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
new_scratch() {
    clean_up
    scratch=$(mktemp -d)
}

# Packs the tree $1 as the image $2; the rest are options for `docker import`.
import() {
    local tree=$1 image=$2
    shift 2
    as_root tar -C "$tree" --numeric-owner -c . |
        engine import -c "LABEL $MADE_BY=yes" "$@" - "$image" >/dev/null
    say "made $image ($(engine image inspect -f '{{.Size}}' "$image" | awk '{ printf "%d MB", $1 / 1e6 }'))"
}

debian_tree() { # debian_tree TREE [PACKAGES]
    install_package debootstrap debootstrap
    say "unpacking Debian $SUITE${2:+ with $2}"
    as_root /usr/sbin/debootstrap --variant=minbase ${2:+--include="$2"} "$SUITE" "$1" >"$scratch/log" 2>&1 || {
        tail -n 20 "$scratch/log" >&2
        die "debootstrap failed"
    }
    # Left out of the slim images too.
    # shellcheck disable=SC2016  # the inner sh expands it
    as_root sh -c 'cd "$1" && rm -rf usr/share/doc/* usr/share/man/* usr/share/info/* usr/share/locale/* \
        var/cache/apt/* var/cache/debconf/*-old var/lib/apt/lists/* var/log/*' sh "$1"
}

make_debian() {
    new_scratch
    debian_tree "$scratch/tree"
    import "$scratch/tree" "$debian_image" -c 'CMD ["bash"]'
}

# Debian's own Rust is too old for this edition, so the toolchain is this machine's.
make_rust() {
    local sysroot
    sysroot=$(rustc --print sysroot) || die "rustc is not installed, or not for user $(id -un): see rustup.rs"
    [ -x "$sysroot/bin/cargo" ] || die "no cargo beside rustc in $sysroot"
    new_scratch
    debian_tree "$scratch/tree" ca-certificates,gcc,libc6-dev
    tar -C "$sysroot" -c bin/cargo bin/rustc lib | as_root tar -C "$scratch/tree/usr/local" --no-same-owner -x
    # Includes this machine's certificates, for proxies that open TLS.
    [ ! -r /etc/ssl/certs/ca-certificates.crt ] ||
        as_root cp /etc/ssl/certs/ca-certificates.crt "$scratch/tree/etc/ssl/certs/ca-certificates.crt"
    import "$scratch/tree" "$rust_image" -c 'ENV CARGO_HOME=/usr/local/cargo' -c 'CMD ["bash"]'
}

# Like etcd's own image, without a shell. etcd is the one in our
# tests' dev-dependency, etcdctl is Debian's, the only one available.
make_etcd() {
    local etcd root library
    etcd=$(cargo metadata -q --format-version 1 --locked |
        grep -o '"manifest_path":"[^"]*/etcd-bin-vendored-linux-'"$(architecture)"'-[^"/]*/Cargo.toml"' |
        cut -d '"' -f 4) || die "cargo metadata names no etcd-bin-vendored for this machine"
    etcd=$(dirname "$etcd")/bin/etcd
    [ -f "$etcd" ] || die "there is no $etcd"
    case $etcd_image in
    *:v"$("$etcd" --version | sed -n 's/^etcd Version: //p')") ;;
    *) say "note: the etcd in $etcd_image will be $("$etcd" --version | head -n 1)" ;;
    esac

    new_scratch
    root=$scratch/tree
    mkdir -p "$root/usr/local/bin" "$root/etc" "$root/var/etcd" "$root/var/lib/etcd" "$root/tmp"
    chmod 1777 "$root/tmp"
    echo 'root:x:0:0:root:/root:/sbin/nologin' >"$root/etc/passwd"
    install -m 755 "$etcd" "$root/usr/local/bin/etcd"

    install_package etcd-client etcdctl
    install -m 755 "$(command -v etcdctl)" "$root/usr/local/bin/etcdctl"
    # Debian's binary is linked to libc; a static one needs nothing, and ldd fails on it.
    { ldd "$root/usr/local/bin/etcdctl" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    as_root chown -R 0:0 "$root"
    import "$root" "$etcd_image" -c 'WORKDIR /var/lib/etcd' -c 'EXPOSE 2379 2380' \
        -c 'ENV PATH=/usr/local/bin' -c 'CMD ["/usr/local/bin/etcd"]'
}

architecture() {
    case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) uname -m ;;
    esac
}

remove() {
    local image
    for image in "$debian_image" "$rust_image" "$etcd_image"; do
        if [ "$(engine image inspect -f "{{index .Config.Labels \"$MADE_BY\"}}" "$image" 2>/dev/null)" = yes ]; then
            engine image rm "$image" >/dev/null
            say "removed $image"
        elif have "$image"; then
            say "left $image: it was not made here"
        fi
    done
}

[ $# -gt 0 ] || set -- debian rust etcd
for what in "$@"; do
    case $what in
    debian) image=$debian_image ;;
    rust) image=$rust_image ;;
    etcd) image=$etcd_image ;;
    --remove)
        remove
        continue
        ;;
    *) die "unknown argument '$what': one of debian, rust, etcd, --remove" ;;
    esac
    if have "$image"; then
        say "have $image"
    else
        "make_$what"
    fi
done
