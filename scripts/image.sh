#!/bin/sh
# Packs a binary through the Dockerfile, without the rest of the source:
#
#   image.sh BINARY NAME
#
# The binary's glibc must not be newer than the base image's; a static one needs none. DEBIAN_IMAGE names another base.
set -eu
cd "$(dirname "$0")/.."
base=${DEBIAN_IMAGE:-$(sed -n 's/^ARG DEBIAN_IMAGE=//p' Dockerfile)}
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
cp Dockerfile wait-for-it.sh .dockerignore "$context/"
cp "$1" "$context/elect"
docker build -t "$2" --build-arg ELECT_BINARY=elect --build-arg "RUST_IMAGE=$base" --build-arg "DEBIAN_IMAGE=$base" "$context"
docker image prune -f --filter label=leader-election.stage=build >/dev/null
