#!/usr/bin/env bash
# The demo: a TPM (swtpm), kmsd and one encrypted directory below ./demo.
# usage: scripts/demo.sh up|down
#
#   DEMO_TPM=device:/dev/tpmrm0 make demo    uses this machine's TPM instead of swtpm (it is asked for,
#                                            never taken: the demo makes a key and a counter in it)
#   DEMO_DIR=/elsewhere make demo            another place
set -euo pipefail
cd "$(dirname "$0")/.."

demo=${DEMO_DIR:-$PWD/demo}
private=$demo/private
target=${CARGO_TARGET_DIR:-$PWD/target}/release
alias=alias/demo

say() { printf '%s\n' "$*"; }
fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}
# Shows the end of a log and gives up.
fail_with_log() {
    local log=$1
    shift
    [ -s "$log" ] && tail -n 20 "$log" >&2
    fail "$* (log: $log)"
}

mounted() { mountpoint -q "$demo/plain" 2>/dev/null || ! stat "$demo/plain" >/dev/null 2>&1; }

# True when the process whose id is in file $1 runs and is the program $2: ids are used again.
running() {
    [ -s "$1" ] && [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" = "$2" ]
}

# Ends the process of file $1 (program $2) and waits until it is gone.
end() {
    local pid
    if running "$1" "$2"; then
        pid=$(cat "$1")
        kill "$pid"
        for _ in $(seq 100); do
            [ -d "/proc/$pid" ] || break
            sleep 0.1
        done
        [ -d "/proc/$pid" ] && kill -9 "$pid"
    fi
    rm -f "$1"
}

# Waits up to 20 s for a condition.
await() {
    for _ in $(seq 200); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    return 1
}

down() {
    local said=()
    if [ -d "$demo" ]; then
        if [ -e "$demo/plain" ] || [ -L "$demo/plain" ] && mounted; then
            fusermount3 -u "$demo/plain" 2>/dev/null || fusermount3 -u -z "$demo/plain" 2>/dev/null ||
                fail "cannot unmount $demo/plain: is a shell or an editor still in it?"
            said+=("unmounted $demo/plain")
            await not_running kmsfs || fail "kmsfs has not ended"
        fi
        if running "$private/kmsd.pid" kmsd; then said+=("stopped kmsd"); fi
        end "$private/kmsd.pid" kmsd
        if [ -e "$private/real-tpm" ] && [ -e "$private/store/catalogue.sqlite" ]; then
            if "$target/kmsd" unenroll --yes-destroy --config "$private/kmsd.toml" >"$private/unenroll.log" 2>&1; then
                said+=("removed the demo's enrolment from the TPM")
            else
                said+=("$(cat "$private/unenroll.log")"
                    "The TPM still holds the demo's three NV indices, 0x01804b00 or the next free ones:"
                    "tpm2_getcap handles-nv-index lists them, tpm2_nvundefine removes one.")
            fi
        fi
        if running "$private/swtpm.pid" swtpm; then said+=("stopped swtpm"); fi
        end "$private/swtpm.pid" swtpm
        if [ -s "$private/run" ]; then rm -rf "$(cat "$private/run")"; fi
        if [ -e "$private/made-run-kmsfs" ]; then rmdir /run/kmsfs 2>/dev/null || true; fi
        # Somebody else than root cannot remove what they forbade themselves to enter.
        chmod -R u+rwX "$demo/cipher" 2>/dev/null || true
        rm -rf --one-file-system "$demo"
        said+=("removed $demo")
    fi
    if [ ${#said[@]} -eq 0 ]; then
        say "There is no demo."
    else
        printf '%s\n' "${said[@]}"
    fi
}

not_running() { ! running "$private/$1.pid" "$1"; }

# Two neighbouring free ports: the TPM's own and its control port.
free_ports() {
    local port
    for _ in $(seq 200); do
        port=$((10000 + (RANDOM % 10000) * 2))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null &&
            ! (exec 3<>"/dev/tcp/127.0.0.1/$((port + 1))") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    fail "no free ports on loopback"
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

up() {
    if [ "$(uname -s)" != Linux ] || [ ! -e /dev/fuse ]; then
        fail "/dev/fuse is not there: this kernel or container cannot mount FUSE file systems"
    fi
    command -v cargo >/dev/null || fail "Rust is not installed: see https://rustup.rs"
    if [ -d "$private" ] && mounted && running "$private/kmsd.pid" kmsd; then
        say "The demo is up already."
        show
        return
    fi
    # What a failed or half-removed demo left.
    if [ -d "$demo" ]; then
        [ -d "$private" ] || [ -z "$(ls -A "$demo")" ] || fail "$demo is there and is not a demo's: move it away"
        down >/dev/null
    fi

    scripts/deps.sh build demo
    say "Building (release) ..."
    cargo build --release --locked -p kmsd -p kmsfs -p kmsctl

    mkdir -p "$demo/cipher" "$demo/plain"
    mkdir -m 0700 "$private" "$private/store"
    # Sockets live in a short path of their own: the kernel allows 107 bytes.
    mktemp -d "${XDG_RUNTIME_DIR:-/tmp}/kmsd-demo.XXXXXX" >"$private/run"
    local run device
    run=$(cat "$private/run")

    if [ -n "${DEMO_TPM:-}" ]; then
        device=$DEMO_TPM
        touch "$private/real-tpm"
        say "Using the TPM $device, as DEMO_TPM says."
    else
        [ -e /dev/tpmrm0 ] &&
            say "This machine has a TPM; the demo leaves it alone (DEMO_TPM=device:/dev/tpmrm0 uses it)."
        local port
        port=$(free_ports)
        device=swtpm:host=127.0.0.1,port=$port
        mkdir -m 0700 "$private/tpm"
        swtpm socket --tpm2 --daemon --flags not-need-init,startup-clear \
            --tpmstate "dir=$private/tpm" --pid "file=$private/swtpm.pid" --log "file=$private/swtpm.log" \
            --server "type=tcp,bindaddr=127.0.0.1,port=$port" \
            --ctrl "type=tcp,bindaddr=127.0.0.1,port=$((port + 1))" ||
            fail_with_log "$private/swtpm.log" "swtpm does not start"
        await answers $((port + 1)) || fail_with_log "$private/swtpm.log" "swtpm does not answer"
        say "Started swtpm, a TPM in software (port $port on loopback)."
    fi

    cat >"$private/kmsd.toml" <<TOML
[server]
socket = "$run/kmsd.sock"
service_uids = [$(id -u)]

[store]
directory = "$private/store"

[seal]
kind = "tpm"
device = "$device"
credential = "$private/credential"
TOML
    "$target/kmsd" --config "$private/kmsd.toml" --check-config >/dev/null
    "$target/kmsd" enroll --config "$private/kmsd.toml" --recovery-out "$private/recovery-key" \
        --verify-from "$private/recovery-key" >"$private/enroll.log" 2>&1 ||
        fail_with_log "$private/enroll.log" "enrolment failed"
    say "Enrolled: the root key is sealed to the TPM; the recovery key is in demo/private/recovery-key."

    # setsid: a Ctrl-C in this terminal is not meant for the daemon.
    setsid "$target/kmsd" --config "$private/kmsd.toml" >"$private/kmsd.log" 2>&1 </dev/null &
    echo $! >"$private/kmsd.pid"
    export KMSD_SOCKET=$run/kmsd.sock
    await "$target/kmsctl" status || fail_with_log "$private/kmsd.log" "kmsd does not answer"
    "$target/kmsctl" key create --description "the demo's key" --alias "$alias" >/dev/null
    "$target/kmsctl" fs init "$demo/cipher" --key "$alias" >/dev/null
    # Control sockets of mounts are here when root mounts.
    [ -e /run/kmsfs ] || touch "$private/made-run-kmsfs"
    setsid "$target/kmsfs" mount --foreground "$demo/cipher" "$demo/plain" \
        >"$private/kmsfs.log" 2>&1 </dev/null &
    echo $! >"$private/kmsfs.pid"
    await mountpoint -q "$demo/plain" || fail_with_log "$private/kmsfs.log" "the mount failed"
    say "Mounted demo/plain over demo/cipher under the key $alias."

    # The repository itself: what git knows of, as it is in the work tree.
    git -c safe.directory='*' ls-files -z --cached | tar --null --ignore-failed-read -T - -cf - |
        tar -C "$demo/plain" -xf -
    cat >"$demo/env" <<ENV
export KMSD_SOCKET="$run/kmsd.sock"
export PATH="$target:\$PATH"
ENV
    show
}

show() {
    say ""
    say "The same directory from both sides:"
    say ""
    say "  demo/plain                        demo/cipher"
    paste <(ls "$demo/plain" | head -n 6) <(ls "$demo/cipher" | head -n 6) |
        while IFS=$'\t' read -r plain cipher; do printf '  %-32s  %.44s\n' "$plain" "$cipher"; done
    say ""
    say "Five things to try (first: . demo/env):"
    say ""
    cat <<'TRY'
  1. ls -la demo/plain; ls -la demo/cipher                  one directory, seen from both sides
  2. cp /etc/os-release demo/plain; grep -rc Debian demo/cipher | grep -v ':0$' || echo "no trace below"
  3. kmsctl key list; kmsctl fs status demo/plain           which key opens it
  4. echo hello | kmsctl encrypt --key alias/demo --base64 | kmsctl decrypt --base64
  5. kmsctl key rotate alias/demo; head -n 3 demo/plain/README.md; kmsctl key rotations alias/demo

make demo-down removes every trace.
TRY
}

case ${1:-} in
up) up ;;
down) down ;;
*)
    echo "usage: $0 up|down" >&2
    exit 2
    ;;
esac
