#!/usr/bin/env bash
# Every relative link in the Markdown files points at something that is there; rustdoc is clean, private items included.
set -euo pipefail
cd "$(dirname "$0")/.."

bad=0
while IFS= read -r file; do
    while IFS= read -r target; do
        target=${target%%#*}
        [ -z "$target" ] && continue
        if [ ! -e "$(dirname "$file")/$target" ]; then
            echo "$file: broken link: $target" >&2
            bad=1
        fi
    done < <(grep -o '](\([^)]*\))' "$file" | sed 's/^](//; s/)$//' | grep -v -E '^(https?|mailto):' || true)
done < <(git -c safe.directory='*' ls-files '*.md')
[ $bad -eq 0 ] || exit 1

RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet
