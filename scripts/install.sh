#!/usr/bin/env bash
# Installs programs, units and documents. Called by `make install`.
# usage: scripts/install.sh BINARIES DESTDIR PREFIX UNITDIR
set -euo pipefail
cd "$(dirname "$0")/.."
binaries=$1 destdir=$2 prefix=$3 unitdir=$4

for program in kmsd kmsfs kmsctl; do
    install -D -m 0755 "$binaries/$program" "$destdir$prefix/bin/$program"
done
# What mount(8) and fstab call for the types kmsfs and fuse.kmsfs.
for helper in mount.kmsfs mount.fuse.kmsfs; do
    install -d -m 0755 "$destdir/sbin"
    ln -sfn "$prefix/bin/kmsfs" "$destdir/sbin/$helper"
done
for unit in systemd/*.service systemd/*.socket; do
    to=$destdir$unitdir/$(basename "$unit")
    install -D -m 0644 "$unit" "$to"
    # The units name /usr/bin; another prefix needs its own path in them.
    [ "$prefix" = /usr ] || sed -i "s#/usr/bin/kms#$prefix/bin/kms#g" "$to"
done
install -D -m 0644 systemd/kmsd.sysusers "$destdir/usr/lib/sysusers.d/kmsd.conf"
# The administrator's configuration is never overwritten.
[ -e "$destdir/etc/kmsd/kmsd.toml" ] || install -D -m 0644 systemd/kmsd.toml "$destdir/etc/kmsd/kmsd.toml"
install -d -m 0755 "$destdir/etc/kmsfs"
for document in README.md CHANGELOG.md LICENSE docs/*.md; do
    install -D -m 0644 "$document" "$destdir$prefix/share/doc/kmsd/$(basename "$document")"
done
if [ -z "$destdir" ] && command -v systemd-sysusers >/dev/null; then
    systemd-sysusers kmsd.conf
fi
