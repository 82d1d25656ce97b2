#!/usr/bin/env bash
# Does what the README says: the demo, what it says to try, the tour, and its removal without a trace.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "README check: $*" >&2
    exit 1
}
traces() {
    [ ! -e demo ] || echo "./demo is still there"
    grep -F "$PWD/demo" /proc/mounts || true
    find "${XDG_RUNTIME_DIR:-/tmp}" -maxdepth 1 -name 'kmsd-demo.*' 2>/dev/null || true
    # Processes of the demo, by what they were started with.
    for process in /proc/[0-9]*; do
        if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -qF "$PWD/demo/"; then
            echo "process ${process#/proc/}: $(tr '\0' ' ' <"$process/cmdline")"
        fi
    done
}

[ -z "$(traces)" ] || fail "a demo is up already: run make demo-down first"
output=$(mktemp)
tour=$(mktemp)
trap 'make demo-down >/dev/null 2>&1 || true; rm -f "$output" "$tour"' EXIT

make demo | tee "$output"

# The five things, as they are printed: "  N. command    remark".
tried=0
while IFS= read -r line; do
    command=$(sed -E 's/^  [1-5]\. //; s/ {3,}.*$//' <<<"$line")
    echo "--- trying: $command"
    bash -c "set -euo pipefail; . demo/env; $command" || fail "does not work: $command"
    tried=$((tried + 1))
done < <(grep -E '^  [1-5]\. ' "$output")
[ "$tried" -eq 5 ] || fail "the demo printed $tried things to try, not 5"

# Blocks of the README marked as checked.
awk '/^<!-- checked -->/ { marked = 1 } /^```sh$/ && marked { inside = 1; next } /^```$/ && inside { inside = 0; marked = 0 }
     inside' README.md >"$tour"
[ -s "$tour" ] || fail "no checked block in the README"
echo "--- the tour of the README"
bash -euo pipefail -x "$tour" || fail "the tour does not work"

# Twice: the second finds it up and says so; so does the removal.
# (Not into a pipe that closes early: make would die of it.)
make demo >"$output"
grep -q "up already" "$output" || fail "a second make demo does not see the first"
make demo-down
make demo-down >"$output"
grep -qi "no demo" "$output" || fail "a second make demo-down finds something"
left=$(traces)
[ -z "$left" ] || fail "left behind: $left"
echo "The README's commands work, and nothing is left."
