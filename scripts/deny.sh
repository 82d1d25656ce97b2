#!/usr/bin/env bash
# cargo-deny: licences, sources and duplicate versions always; known vulnerabilities when the
# advisory database can be fetched, and a loud line when it cannot.
set -euo pipefail
cd "$(dirname "$0")/.."

deny=$(command -v cargo-deny || scripts/tool.sh cargo-deny)
"$deny" --log-level warn --locked check bans licenses sources

if timeout 60 "$deny" --log-level error fetch db >/dev/null 2>&1; then
    "$deny" --log-level warn --locked check advisories
else
    echo "!!! WARNING: the advisory database cannot be reached from here:" >&2
    echo "!!! dependencies were NOT checked for known vulnerabilities." >&2
fi
