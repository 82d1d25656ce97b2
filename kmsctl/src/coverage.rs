//! Every operation of AWS KMS has a command.

use std::collections::BTreeMap;

use clap::Parser as _;
use kms_api::{AWS_PREFIX, Request};

use crate::args::Cli;

/// A command line for each operation.
const COMMANDS: &[(&str, &str)] = &[
    ("CancelKeyDeletion", "key cancel-deletion K"),
    ("CreateAlias", "alias create alias/a K"),
    (
        "CreateGrant",
        "grant create K --to user:alice --operations Decrypt",
    ),
    (
        "CreateKey",
        "key create --spec RSA_2048 --usage SIGN_VERIFY",
    ),
    ("Decapsulate", "decapsulate --key K --in F --out F"),
    ("Decrypt", "decrypt --in F --out F"),
    ("DeleteAlias", "alias delete alias/a"),
    (
        "DeleteImportedKeyMaterial",
        "key delete-material K --material-id I --yes",
    ),
    ("DeriveSharedSecret", "derive --key K --public-key F"),
    ("DescribeKey", "key describe K"),
    ("DisableKey", "key disable K"),
    ("DisableKeyRotation", "key disable-rotation K"),
    ("EnableKey", "key enable K"),
    ("EnableKeyRotation", "key enable-rotation K --days 90"),
    ("Encapsulate", "encapsulate --key K --out F --secret-out F"),
    ("Encrypt", "encrypt --key K --context a=b --base64"),
    ("GenerateDataKey", "data-key --key K --plaintext-out F"),
    (
        "GenerateDataKeyPair",
        "data-key-pair --key K --spec ecc_nist_p256 --out F --public-out F --private-out F",
    ),
    (
        "GenerateDataKeyPairWithoutPlaintext",
        "data-key-pair --key K --spec RSA_2048 --out F --public-out F",
    ),
    (
        "GenerateDataKeyWithoutPlaintext",
        "data-key --key K --bytes 16",
    ),
    ("GenerateMac", "mac --key K --in F"),
    ("GenerateRandom", "random 32 --out F"),
    ("GetKeyLastUsage", "key last-usage K"),
    ("GetKeyPolicy", "key policy get K"),
    ("GetKeyRotationStatus", "key rotation-status K"),
    (
        "GetParametersForImport",
        "key import-parameters K --public-out F --token-out F",
    ),
    ("GetPublicKey", "key public-key K --der"),
    (
        "ImportKeyMaterial",
        "key import K F --expires 30d --import-type new_key_material",
    ),
    ("ListAliases", "alias list --key K"),
    ("ListGrants", "grant list K"),
    ("ListKeyPolicies", "key policy list K"),
    ("ListKeyRotations", "key rotations K"),
    ("ListKeys", "key list"),
    ("ListResourceTags", "key tags K"),
    ("ListRetirableGrants", "grant retirable"),
    ("PutKeyPolicy", "key policy put K F"),
    ("ReEncrypt", "re-encrypt --from K --to K"),
    ("ReplicateKey", "key replicate K --to us-west-2"),
    ("RetireGrant", "grant retire --token T"),
    ("RevokeGrant", "grant revoke K 12345678"),
    ("RotateKeyOnDemand", "key rotate K"),
    ("ScheduleKeyDeletion", "key schedule-deletion K --days 7"),
    ("Sign", "sign --key K --message-type digest --in F"),
    ("TagResource", "key tag K a=b"),
    ("UntagResource", "key untag K a"),
    ("UpdateAlias", "alias update alias/a K"),
    ("UpdateKeyDescription", "key set-description K text"),
    (
        "UpdatePrimaryRegion",
        "key set-primary-region K --to us-west-2",
    ),
    ("Verify", "verify --key K --signature F --in F"),
    ("VerifyMac", "verify-mac --key K --mac F --in F"),
];

#[test]
fn every_operation_has_a_command() {
    let commands: BTreeMap<&str, &str> = COMMANDS.iter().copied().collect();
    assert_eq!(commands.len(), COMMANDS.len(), "one line each");
    for (operation, line) in &commands {
        let arguments = std::iter::once("kmsctl").chain(line.split(' '));
        if let Err(error) = Cli::try_parse_from(arguments) {
            panic!("{operation}: {error}");
        }
    }
    let named: Vec<&str> = commands.into_keys().collect();
    let mut operations: Vec<&str> = Request::OPERATIONS
        .iter()
        .filter(|(prefix, name)| *prefix == AWS_PREFIX && !name.contains("CustomKeyStore"))
        .map(|(_, name)| *name)
        .collect();
    operations.sort_unstable();
    assert_eq!(named, operations);
}
