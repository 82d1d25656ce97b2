#!/usr/bin/env bash
# All tests, suite by suite, each with its time; the last line is the sum. Run as root for real mounts
# as other users and for the boot of systemd; suites that the machine cannot run say so in one line.
# usage: scripts/test.sh [suite ...]      suites: unit provider tamper audit access revoke e2e clients fs old_kernel programs crash systemd fips
# KMS_TESTS_REQUIRE=fuse,tpm,systemd,loop  fail instead of skipping
# KMS_TESTS_FULL=1                    longer file system exercises, thousands of crash points, and the suite fips
# KMS_CRASH_SEED, KMS_CRASH_POINTS    see tests/crash/main.rs
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/deps.sh build test programs clients
# shellcheck disable=SC2206
suites=(${*:-unit provider tamper audit access revoke e2e clients fs old_kernel programs crash systemd})
# The FIPS module is built from source, with tools of its own.
if [ $# -eq 0 ] && [ "${KMS_TESTS_FULL:-}" = 1 ]; then suites+=(fips); fi
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT

# $1 name, $2 limit in seconds, rest: the command. Keeps going after a failure: the sum tells.
status=0
run() {
    local name=$1 limit=$2 start=$SECONDS result=ok
    shift 2
    echo "=== $name: $*"
    timeout --kill-after=30 "$limit" "$@" 2>&1 | tee "$log/$name" || result=FAILED
    if [ "$result" = FAILED ]; then status=1; fi
    printf '%-10s %-7s %4d s\n' "$name" "$result" $((SECONDS - start)) >>"$log/times"
}

# Tests that are files of their own, in every package but the suites'.
apart=()
for file in crates/*/tests/*.rs kms*/tests/*.rs crates/*/tests/*/main.rs; do
    apart+=(--test "$(basename "${file%/main.rs}" .rs)")
done

start=$SECONDS
echo "=== build"
# Every test of the workspace is built once: what is asked of cargo names the whole workspace, because for some packages of
# it the others would be compiled once more, with fewer features.
cargo build --workspace --bins --locked
cargo test --workspace --no-run --locked
# Before the clocks of the suites run.
for tool in fsx pjdfstest; do scripts/tool.sh "$tool" >/dev/null; done
printf '%-10s %-7s %4d s\n' build ok $((SECONDS - start)) >"$log/times"

for suite in "${suites[@]}"; do
    case $suite in
    unit)
        # With the suites' own helpers: a check that finds nothing must be able to find something.
        run unit 1500 cargo test --workspace --locked --no-fail-fast --lib --bins "${apart[@]}"
        run doc 600 cargo test --workspace --locked --no-fail-fast --doc
        # The operations of the file system once more, in the other content mode. The enumerations go through both by themselves.
        run gcm 600 env KMS_TESTS_MODE=gcm cargo test --workspace --locked --lib fs::tests:: -- --skip fs::tests::enumerate::
        ;;
    # The second provider is a compile-time choice: compared with the first, then by itself.
    provider)
        run provider 900 cargo test -p kms-crypto --features rustcrypto --locked
        run alone 900 cargo test -p kms-crypto --no-default-features --features rustcrypto --locked
        ;;
    # On AWS-LC's FIPS module: every primitive with its vectors, and the daemon with what it refuses then.
    fips)
        scripts/deps.sh fips
        run fips 3600 cargo test -p kms-crypto --features fips --locked
        run fips_kmsd 3600 cargo test -p kms-core -p kmsd --features kmsd/fips --lib --locked
        ;;
    tamper | audit | access | revoke | e2e | clients | fs | programs | systemd)
        # Built beforehand and found here, so that the limit is for the tests alone.
        run "$suite" 1500 cargo test --workspace --locked --test "$suite" ;;
    # With nothing that Linux 6.1 does not have: no STATX, no 64-bit copy_file_range. kmsd uses nothing newer.
    old_kernel)
        run old_kernel 900 env KMSFS_KERNEL=6.1 cargo test --workspace --locked --test fs -- --skip limits:: ;;
    crash)
        # 5,000 crash points take hours on a busy machine.
        limit=1500
        if [ "${KMS_TESTS_FULL:-}" = 1 ]; then limit=21600; fi
        run crash "$limit" cargo test --workspace --locked --test crash
        scripts/crash-table.sh "$log/crash"
        ;;
    *) echo "no such suite: $suite" >&2; exit 2 ;;
    esac
done

echo
echo "suite      result     time"
cat "$log/times"
# libtest's closing lines: "test result: ok. 12 passed; 0 failed; 0 ignored; ..."
awk '/^test result: / {
         for (i = 2; i <= NF; i++) {
             if ($i ~ /^passed/) passed += $(i - 1)
             if ($i ~ /^failed/) failed += $(i - 1)
             if ($i ~ /^ignored/) ignored += $(i - 1)
         }
     }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored }' \
    "$log"/*
exit $status
