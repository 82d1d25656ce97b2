#!/usr/bin/env bash
# The life of a key as the AWS Encryption SDK's command line sees it. It has no commands for keys, so kmsctl, over the same
# endpoint and with the same access key, does what happens to the key.
# Every call of the command line takes a second or two: no more than it needs.
# usage: encryption_cli.sh KMSCTL
set -euo pipefail
kmsctl=$1
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT

kms() { "$kmsctl" --endpoint "$AWS_ENDPOINT_URL_KMS" --region "$AWS_REGION" "$@"; }
# $1: encrypt or decrypt; input; output.
cli() {
    rm -f "$3"
    aws-encryption-cli "--$1" --input "$2" --output "$3" --suppress-metadata \
        --wrapping-keys "key=$key" --encryption-context "purpose=$purpose" $verbose
}
# $1: an error that must be among what it says; the rest as for cli.
fails() {
    local error=$1 said
    shift
    # Else it does not say why.
    if said=$(verbose=-vv cli "$@" 2>&1); then
        echo "should have failed with $error: $*" >&2
        exit 1
    fi
    case $said in
    *"$error"*) ;;
    *)
        echo "should have failed with $error: $*: $said" >&2
        exit 1
        ;;
    esac
}

key=$(kms key create --description "encryption CLI" --json | sed -n 's/.*"Arn": *"\([^"]*\)".*/\1/p' | head -1)
verbose=
purpose=cli
head -c 300000 /dev/urandom >plain
cli encrypt plain sealed
! cmp -s plain sealed
cli decrypt sealed opened
cmp plain opened
# A message with another context is skipped.
purpose=other
cli decrypt sealed again 2>/dev/null || true
purpose=cli
if [ -s again ]; then
    echo "decrypted under another context" >&2
    exit 1
fi
kms key disable "$key"
fails DisabledException encrypt plain more
kms key enable "$key"
# New messages are under the new key material, older ones open.
kms key rotate "$key"
cli encrypt plain newer
for message in sealed newer; do
    cli decrypt "$message" opened
    cmp plain opened
done
kms key schedule-deletion "$key" --days 7 --yes >/dev/null
fails KMSInvalidStateException encrypt plain more
# What it says where no data key opens is its own error, whatever the reason.
fails DecryptKeyError decrypt sealed opened
kms key cancel-deletion "$key" >/dev/null
kms key enable "$key"
cli decrypt sealed opened
cmp plain opened
key=${key%/*}/1234abcd-12ab-34cd-56ef-1234567890ab
fails NotFoundException encrypt plain more
echo "the encryption SDK's command line went through the life of a key"
