#!/usr/bin/env bash
# The life of a key through the aws CLI, with nothing but the environment that `kmsctl aws-config` prints.
# Every call of the CLI takes most of a second: no more than it needs.
set -euo pipefail
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT

# $1: the error that the rest, a command, must fail with.
fails() {
    local error=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "should have failed with $error: $*" >&2
        exit 1
    fi
    case $said in
    *"($error)"*) ;;
    *)
        echo "should have failed with $error: $*: $said" >&2
        exit 1
        ;;
    esac
}
is() {
    [ "$1" = "$2" ] || {
        echo "line ${BASH_LINENO[0]}: is '$1', should be '$2'" >&2
        exit 1
    }
}
kms() { aws kms "$@"; }

key=$(kms create-key --description "aws CLI" --query KeyMetadata.KeyId --output text)
kms create-alias --alias-name alias/aws-cli --target-key-id "$key"
printf 'secret' >plain
kms encrypt --key-id alias/aws-cli --plaintext fileb://plain --encryption-context a=1 \
    --query CiphertextBlob --output text | base64 -d >blob
is "$(kms decrypt --ciphertext-blob fileb://blob --encryption-context a=1 --query Plaintext --output text | base64 -d)" secret
fails InvalidCiphertextException kms decrypt --ciphertext-blob fileb://blob
is "$(kms generate-data-key --key-id "$key" --key-spec AES_256 --query Plaintext --output text | base64 -d | wc -c)" 32
kms rotate-key-on-demand --key-id "$key" >/dev/null
kms disable-key --key-id "$key"
fails DisabledException kms decrypt --ciphertext-blob fileb://blob --encryption-context a=1
kms enable-key --key-id "$key"
is "$(kms schedule-key-deletion --key-id "$key" --pending-window-in-days 7 --query KeyState --output text)" PendingDeletion
kms cancel-key-deletion --key-id "$key" >/dev/null
is "$(kms describe-key --key-id alias/aws-cli --query KeyMetadata.KeyState --output text)" Disabled

signer=$(kms create-key --key-spec ECC_NIST_P256 --key-usage SIGN_VERIFY --query KeyMetadata.KeyId --output text)
kms sign --key-id "$signer" --message fileb://plain --signing-algorithm ECDSA_SHA_256 \
    --query Signature --output text | base64 -d >signature
# OpenSSL agrees.
kms get-public-key --key-id "$signer" --query PublicKey --output text | base64 -d >public.der
is "$(openssl dgst -sha256 -verify public.der -keyform DER -signature signature plain)" "Verified OK"
echo "the aws CLI went through the life of a key"
