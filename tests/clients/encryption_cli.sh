#!/usr/bin/env bash
# The AWS Encryption SDK's command line with a key of kmsd.
# usage: encryption_cli.sh KEY-ARN
set -euo pipefail
key=$1
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT

head -c 300000 /dev/urandom >plain
aws-encryption-cli --encrypt --input plain --output sealed --suppress-metadata \
    --wrapping-keys "key=$key" --encryption-context purpose=cli
! cmp -s plain sealed
aws-encryption-cli --decrypt --input sealed --output opened --suppress-metadata \
    --wrapping-keys "key=$key" --encryption-context purpose=cli
cmp plain opened
# A message with another context is skipped.
aws-encryption-cli --decrypt --input sealed --output again --suppress-metadata \
    --wrapping-keys "key=$key" --encryption-context purpose=other 2>/dev/null || true
if [ -e again ] && [ -s again ]; then
    echo "decrypted under another context" >&2
    exit 1
fi
echo "the encryption SDK's command line encrypted and decrypted"
