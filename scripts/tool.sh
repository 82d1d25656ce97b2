#!/usr/bin/env bash
# Prints the path of a cargo-installed tool, installing it first if it is not there. The version is the
# one in scripts/tool-versions.
# usage: scripts/tool.sh CRATE
# Tools live in target/tools (or $KMS_TOOLS_DIR), one folder per version, so that a new version in a
# script is a new build and an old one is never used by mistake.
set -euo pipefail
cd "$(dirname "$0")/.."

crate=$1
version=$(awk -v crate="$crate" '$1 == crate { print $2 }' scripts/tool-versions)
[ -n "$version" ] || { echo "$crate is not in scripts/tool-versions" >&2; exit 2; }
root=${KMS_TOOLS_DIR:-${CARGO_TARGET_DIR:-$PWD/target}/tools}/$crate-$version
if [ ! -x "$root/bin/$crate" ]; then
    echo "Building $crate $version (once) ..." >&2
    mkdir -p "$root"
    # An own target folder: the workspace's flags and lock must not reach a foreign build.
    if ! CARGO_TARGET_DIR=$root/build cargo install --locked --quiet --root "$root" \
        "$crate@$version" >"$root/install.log" 2>&1; then
        cat "$root/install.log" >&2
        echo "could not build $crate $version" >&2
        exit 1
    fi
    rm -rf "$root/build"
fi
echo "$root/bin/$crate"
