#!/bin/sh
# Installs Debian packages for missing programs (or files, by absolute path):
#
#   install.sh PROGRAM:PACKAGE /FILE:PACKAGE …
#
# as root or by sudo. Without apt it prints what to install.
set -eu
# Debian's directory for daemons, which not every PATH has.
PATH=$PATH:/usr/sbin

wanted=
for pair in "$@"; do
    thing=${pair%:*} package=${pair##*:}
    case $thing in
        /*) [ -e "$thing" ] || wanted="$wanted $package" ;;
        *) command -v "$thing" >/dev/null 2>&1 || wanted="$wanted $package" ;;
    esac
done
[ -n "$wanted" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    # Elsewhere protoc includes the files that Debian packages separately.
    if [ "$wanted" = ' libprotobuf-dev' ]; then exit 0; fi
    echo "Please install what these Debian packages hold, by your system's own means:$wanted" >&2
    exit 1
fi
as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "Please run as root: apt-get install$wanted" >&2
        exit 1
    fi
    as_root=sudo
fi
echo "Installing from Debian:$wanted"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# Servers started by the tests must not run as services too.
# shellcheck disable=SC2086 # a list of packages
$as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null
