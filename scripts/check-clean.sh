#!/usr/bin/env bash
# A build and a test run must leave the checkout as it was: no changed lock file, no stray output.
set -euo pipefail
cd "$(dirname "$0")/.."
left=$(git -c safe.directory='*' status --porcelain)
if [ -n "$left" ]; then
    echo "the checkout is not as it was:" >&2
    echo "$left" >&2
    exit 1
fi
