#!/usr/bin/env bash
# Every row and paragraph of docs/SEMANTICS.md has a test, and every test that names one names one that is there.
#
# The name of a table row is its first cell up to a comma; the name of a paragraph or list item is the text in bold that
# it begins with. A test names what it checks in a comment: "SEMANTICS: name, another name".
set -euo pipefail
cd "$(dirname "$0")/.."

document=docs/SEMANTICS.md
promised=$(awk '
    /^## / { inside = 1; fresh = 1; next }
    !inside { next }
    /^$/ { fresh = 1; next }
    /^\|( *-+ *\|)+$/ { next }
    /^\|/ {
        # The first line of a table is its head.
        if (fresh) { fresh = 0; next }
        split($0, cells, "|")
        name = cells[2]
        sub(/,.*/, "", name)
        gsub(/[`*]/, "", name)
        gsub(/^ +| +$/, "", name)
        print tolower(name)
        next
    }
    /^- / || fresh {
        fresh = 0
        if (match($0, /^(- )?\*\*[^*]+\*\*/)) {
            name = substr($0, RSTART, RLENGTH)
            gsub(/^- |\*|[.:]$/, "", name)
            sub(/[.:]$/, "", name)
            print tolower(name)
        } else {
            print "line " NR " has no name in bold: " substr($0, 1, 60)
        }
    }' "$document" | sort)
checked=$(grep -rhoE --include='*.rs' --include='*.sh' '(///|//|#) SEMANTICS: .*' tests kmsfs/src kmsctl/src crates scripts/test.sh |
    sed 's/.*SEMANTICS: //' | tr ',' '\n' | sed 's/^ *//; s/ *$//' | tr '[:upper:]' '[:lower:]' | sort -u)

status=0
for twice in $(uniq -d <<<"$promised" | tr ' ' '_'); do
    echo "$document: two are called: ${twice//_/ }" >&2
    status=1
done
while IFS= read -r name; do
    echo "$document: no test names: $name" >&2
    status=1
done < <(comm -23 <(uniq <<<"$promised") <(printf '%s\n' "$checked"))
while IFS= read -r name; do
    echo "a test names what $document does not have: $name" >&2
    status=1
done < <(comm -13 <(uniq <<<"$promised") <(printf '%s\n' "$checked"))
exit $status
