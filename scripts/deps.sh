#!/usr/bin/env bash
# Installs the Debian packages that a task needs and this machine lacks, and says which.
# usage: scripts/deps.sh build|demo|test|programs|fips|bench ...
set -euo pipefail

declare -A GROUPS_OF=(
    # libtss2-dev brings the TCTI modules for /dev/tpmrm0 and swtpm with it.
    [build]="gcc libc6-dev pkg-config libtss2-dev"
    [demo]="swtpm fuse3"
    # tpm2-tools: the tests change the TPM behind kmsd's back. procps: pgrep for the host helper.
    # bsdutils: script(1), the terminal systemd-nspawn wants.
    # xfsprogs, e2fsprogs, mount (losetup): file systems that the crash tests cut off; strace: fsyncs that
    # do nothing.
    [test]="curl swtpm tpm2-tools fuse3 gocryptfs xfsprogs e2fsprogs mount strace attr acl procps bsdutils systemd systemd-container python3 python3-venv openssl"
    # What the suite "programs" runs on a mount.
    [programs]="git postgresql rsync stress-ng"
    # AWS-LC's FIPS module is built from source.
    [fips]="cmake golang-go"
    # What the suite "clients" needs beside Python: the AWS SDK for JavaScript.
    [clients]="nodejs npm"
    [bench]="fuse3 gocryptfs fio"
)

if [ $# -eq 0 ]; then
    echo "usage: $0 ${!GROUPS_OF[*]}" >&2
    exit 2
fi
if ! command -v dpkg-query >/dev/null; then
    echo "This is not a Debian system: install the counterparts of these yourself:" >&2
    for group in "$@"; do echo "  $group: ${GROUPS_OF[$group]}" >&2; done
    exit 0
fi

missing=()
for group in "$@"; do
    for package in ${GROUPS_OF[$group]}; do
        # Node.js is often there from elsewhere, with its npm, which Debian's would then be in conflict with.
        case $package in
        nodejs) command -v node >/dev/null && continue ;;
        npm) command -v npm >/dev/null && continue ;;
        esac
        status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || missing+=("$package")
    done
done
[ ${#missing[@]} -eq 0 ] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null; then
    as_root=(sudo)
else
    echo "Debian packages are missing and neither root nor sudo is at hand. As root, run:" >&2
    echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

echo "Installing Debian packages that are missing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt_get=("${as_root[@]}" apt-get install -y -q --no-install-recommends)
# The tests start servers of their own: the package must neither make a cluster nor start one.
case " ${missing[*]} " in
*" postgresql "*)
    "${apt_get[@]}" postgresql-common >/dev/null 2>&1 || {
        "${as_root[@]}" apt-get update -q >/dev/null
        "${apt_get[@]}" postgresql-common >/dev/null
    }
    "${as_root[@]}" sed -i 's/^#* *create_main_cluster *=.*/create_main_cluster = false/' \
        /etc/postgresql-common/createcluster.conf
    ;;
esac
install=("${apt_get[@]}" "${missing[@]}")
# Package lists may be absent or stale: refresh them only when the first attempt fails.
if ! "${install[@]}" >/dev/null 2>&1; then
    "${as_root[@]}" apt-get update -q >/dev/null
    "${install[@]}" >/dev/null || {
        echo "apt-get could not install: ${missing[*]} (its messages are above)" >&2
        exit 1
    }
fi
