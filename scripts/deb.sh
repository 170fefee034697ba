#!/bin/sh
# Packs a binary with the files of `make install` as a Debian package:
#
#   deb.sh BINARY DIRECTORY      makes DIRECTORY/leader-election_VERSION_ARCHITECTURE.deb
#
# With dpkg-deb alone, so that `make install` has the only list of files. The same input gives the same bytes.
set -eu
cd "$(dirname "$0")/.."
binary=$1 into=$2
command -v dpkg-deb >/dev/null || { echo 'dpkg-deb is not here: packages for Debian are made on Debian' >&2; exit 1; }

version=$("$binary" --version | sed 's/^elect //')
architecture=$(dpkg --print-architecture)
# The required glibc, if any.
glibc=$(grep -aoE 'GLIBC_2\.[0-9]+' "$binary" | sort -u -V | tail -n 1 | sed 's/GLIBC_//')
# Timestamps in the package: the source's if set, or a fixed one.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
umask 022
chmod 755 "$tree"
make -s install PREFIX=/usr DESTDIR="$tree" ELECT_BINARY="$binary"
find "$tree/usr/share/man" -name '*.1' -exec gzip -9n {} +
install -D -m 644 LICENSE-APACHE "$tree/usr/share/doc/leader-election/LICENSE-APACHE"
install -D -m 644 LICENSE-MIT "$tree/usr/share/doc/leader-election/LICENSE-MIT"

mkdir "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<EOF
Package: leader-election
Version: $version
Architecture: $architecture
Maintainer: leader-election's maintainers <maintainers@localhost>
Section: admin
Priority: optional${glibc:+
Depends: libc6 (>= $glibc), libgcc-s1}
Description: run several copies of a service, and have exactly one of them lead
 elect stands for election on etcd, or among peers by Raft, and runs a command
 exactly while its machine leads.
EOF
echo /etc/default/elect >"$tree/DEBIAN/conffiles"
cat >"$tree/DEBIAN/postinst" <<'EOF'
#!/bin/sh
set -e
# Without systemd there are no units, and no need for their user.
if [ "$1" = configure ] && command -v systemd-sysusers >/dev/null; then systemd-sysusers elect.conf; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
EOF
cat >"$tree/DEBIAN/postrm" <<'EOF'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
EOF
chmod 755 "$tree/DEBIAN/postinst" "$tree/DEBIAN/postrm"

mkdir -p "$into"
dpkg-deb --root-owner-group --build "$tree" "$into/leader-election_${version}_$architecture.deb"
