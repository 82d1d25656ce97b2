#!/usr/bin/env bash
# Formatting, lints, dependency rules. The same checks as CI.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo clippy -p kms-crypto --all-targets --features rustcrypto --locked -- -D warnings
scripts/deny.sh
