//! Every operation on every kind of key in every state, code and text: written from AWS's table of key states and its
//! recorded texts.
//!
//! What stands here is the Developer Guide's table ("Key states of AWS KMS keys"), row by row with its footnotes. The order
//! of checks is that of recorded answers: the key, its usage, its state, the input, the dry run.

use super::*;
use crate::place::Served;
use crate::rows::Origin;

/// Columns of the table.
const STATES: [State; 7] = [
    State::Enabled,
    State::Disabled,
    State::PendingDeletion,
    State::PendingImport,
    State::Unavailable,
    State::Creating,
    State::Updating,
];

/// Rows: footnotes by state, 0 where the operation succeeds. Of footnotes 2 and 3 it is 3, as recorded for keys of one
/// Region. Where the table says "not applicable" it is what the neighbours say.
const ROWS: &[(&[&str], [u8; 7])] = &[
    (&["CancelKeyDeletion"], [4, 4, 0, 4, 4, 4, 4]),
    (&["CreateAlias", "UpdateAlias"], [0, 0, 3, 0, 0, 0, 0]),
    (&["CreateGrant"], [0, 1, 3, 5, 0, 14, 0]),
    (
        &[
            "Encrypt",
            "Decrypt",
            "ReEncrypt",
            "GenerateDataKey",
            "GenerateDataKeyWithoutPlaintext",
            "GenerateDataKeyPair",
            "GenerateDataKeyPairWithoutPlaintext",
            "Sign",
            "Verify",
            "GenerateMac",
            "VerifyMac",
            "GetPublicKey",
            "DeriveSharedSecret",
            "Encapsulate",
            "Decapsulate",
        ],
        [0, 1, 3, 5, 11, 14, 0],
    ),
    (
        &[
            "DeleteAlias",
            "DescribeKey",
            "GetKeyLastUsage",
            "GetKeyPolicy",
            "ListAliases",
            "ListGrants",
            "ListKeyPolicies",
            "ListResourceTags",
            "PutKeyPolicy",
            "RetireGrant",
            "RevokeGrant",
        ],
        [0; 7],
    ),
    (&["DeleteImportedKeyMaterial"], [0, 0, 0, 0, 7, 14, 15]),
    (&["DisableKey", "EnableKey"], [0, 0, 3, 5, 0, 14, 15]),
    (
        &["DisableKeyRotation", "EnableKeyRotation"],
        [0, 1, 3, 6, 7, 14, 0],
    ),
    (&["GetKeyRotationStatus"], [0, 0, 0, 6, 7, 0, 0]),
    (&["RotateKeyOnDemand"], [0, 1, 3, 5, 7, 14, 15]),
    (&["ListKeyRotations"], [0, 0, 0, 0, 7, 0, 0]),
    (&["GetParametersForImport"], [0, 0, 3, 0, 7, 14, 15]),
    (&["ImportKeyMaterial"], [0, 0, 3, 0, 7, 14, 0]),
    (&["ReplicateKey"], [0, 1, 3, 5, 7, 14, 15]),
    (&["UpdatePrimaryRegion"], [0, 1, 3, 5, 7, 14, 0]),
    (&["ScheduleKeyDeletion"], [0, 0, 3, 0, 0, 0, 15]),
    (
        &["TagResource", "UntagResource", "UpdateKeyDescription"],
        [0, 0, 3, 0, 0, 0, 0],
    ),
];

/// The operations that take `DryRun`.
const DRY: [&str; 17] = [
    "CreateGrant",
    "RetireGrant",
    "RevokeGrant",
    "Encrypt",
    "Decrypt",
    "ReEncrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "Sign",
    "Verify",
    "GenerateMac",
    "VerifyMac",
    "DeriveSharedSecret",
    "Encapsulate",
    "Decapsulate",
];

/// Where the keys of the test have a replica, and where they may get one.
const REGIONS: [&str; 2] = ["us-west-2", "eu-west-1"];

/// Kinds of keys: spec, usage, an algorithm of theirs.
const KINDS: &[(&str, &str, &str)] = &[
    ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "SYMMETRIC_DEFAULT"),
    ("HMAC_224", "GENERATE_VERIFY_MAC", "HMAC_SHA_224"),
    ("HMAC_256", "GENERATE_VERIFY_MAC", "HMAC_SHA_256"),
    ("HMAC_384", "GENERATE_VERIFY_MAC", "HMAC_SHA_384"),
    ("HMAC_512", "GENERATE_VERIFY_MAC", "HMAC_SHA_512"),
    ("RSA_2048", "ENCRYPT_DECRYPT", "RSAES_OAEP_SHA_256"),
    ("RSA_2048", "SIGN_VERIFY", "RSASSA_PSS_SHA_256"),
    ("RSA_3072", "ENCRYPT_DECRYPT", "RSAES_OAEP_SHA_1"),
    ("RSA_3072", "SIGN_VERIFY", "RSASSA_PSS_SHA_384"),
    ("RSA_4096", "ENCRYPT_DECRYPT", "RSAES_OAEP_SHA_256"),
    ("RSA_4096", "SIGN_VERIFY", "RSASSA_PKCS1_V1_5_SHA_512"),
    ("ECC_NIST_P256", "SIGN_VERIFY", "ECDSA_SHA_256"),
    ("ECC_NIST_P256", "KEY_AGREEMENT", "ECDH"),
    ("ECC_NIST_P384", "SIGN_VERIFY", "ECDSA_SHA_384"),
    ("ECC_NIST_P384", "KEY_AGREEMENT", "ECDH"),
    ("ECC_NIST_P521", "SIGN_VERIFY", "ECDSA_SHA_512"),
    ("ECC_NIST_P521", "KEY_AGREEMENT", "ECDH"),
    ("ECC_SECG_P256K1", "SIGN_VERIFY", "ECDSA_SHA_256"),
    ("ECC_NIST_EDWARDS25519", "SIGN_VERIFY", "ED25519_SHA_512"),
    ("ML_DSA_44", "SIGN_VERIFY", "ML_DSA_SHAKE_256"),
    ("ML_DSA_65", "SIGN_VERIFY", "ML_DSA_SHAKE_256"),
    ("ML_DSA_87", "SIGN_VERIFY", "ML_DSA_SHAKE_256"),
    ("ML_KEM_512", "ENCAPSULATE_DECAPSULATE", "ML_KEM"),
    ("ML_KEM_768", "ENCAPSULATE_DECAPSULATE", "ML_KEM"),
    ("ML_KEM_1024", "ENCAPSULATE_DECAPSULATE", "ML_KEM"),
    ("SM2", "ENCRYPT_DECRYPT", "SM2PKE"),
    ("SM2", "SIGN_VERIFY", "SM2DSA"),
    ("SM2", "KEY_AGREEMENT", "ECDH"),
];

/// The usage that an operation needs, by its name.
fn needed(operation: &str) -> Option<&'static str> {
    Some(match operation {
        "Encrypt"
        | "Decrypt"
        | "ReEncrypt"
        | "GenerateDataKey"
        | "GenerateDataKeyWithoutPlaintext"
        | "GenerateDataKeyPair"
        | "GenerateDataKeyPairWithoutPlaintext" => "ENCRYPT_DECRYPT",
        "Sign" | "Verify" => "SIGN_VERIFY",
        "GenerateMac" | "VerifyMac" => "GENERATE_VERIFY_MAC",
        "DeriveSharedSecret" => "KEY_AGREEMENT",
        "Encapsulate" | "Decapsulate" => "ENCAPSULATE_DECAPSULATE",
        _ => return None,
    })
}

/// A key in the bench, and what was made with it.
struct Made {
    spec: &'static str,
    usage: &'static str,
    external: bool,
    multi_region: bool,
    id: String,
    arn: String,
    bodies: Value,
    row: KeyRow,
}

impl Made {
    fn new(bench: &mut Bench, kind: &(&'static str, &'static str, &'static str)) -> Self {
        let (spec, usage, algorithm) = *kind;
        let body = json!({"KeySpec": spec, "KeyUsage": usage, "MultiRegion": true});
        let id = bench.create(body);
        let body = json!({"KeyId": id, "ReplicaRegion": REGIONS[0]});
        bench.call("ReplicateKey", body).unwrap();
        let mut bodies = json!({
            "KeyId": id,
            "Plaintext": "aGVsbG8=", "Message": "aGVsbG8=",
            "CiphertextBlob": "aGVsbG8=", "Signature": "aGVsbG8=", "Mac": "aGVsbG8=",
            "SharedSecretCiphertextBlob": "aGVsbG8=", "PublicKey": "aGVsbG8=",
            "SigningAlgorithm": "ECDSA_SHA_256", "MacAlgorithm": "HMAC_SHA_256",
            "KeyAgreementAlgorithm": "ECDH", "EncapsulationAlgorithm": "ML_KEM",
            "KeyPairSpec": "ECC_NIST_P256", "KeySpec": "AES_256",
            "AliasName": format!("alias/{id}"), "TargetKeyId": id,
            "Operations": ["DescribeKey"], "GranteePrincipal": "arn:aws:iam::000000000000:root",
            "Tags": [{"TagKey": "a", "TagValue": "b"}], "TagKeys": ["a"], "Description": "new",
            "WrappingAlgorithm": "RSA_AES_KEY_WRAP_SHA_256", "WrappingKeySpec": "RSA_2048",
            "ImportToken": "aGVsbG8=", "EncryptedKeyMaterial": "aGVsbG8=",
            "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
            "PrimaryRegion": REGIONS[0], "ReplicaRegion": REGIONS[1],
        });
        let body = json!({"AliasName": format!("alias/{id}"), "TargetKeyId": id});
        bench.call("CreateAlias", body).unwrap();
        let body = bodies.clone();
        let grant = bench.call("CreateGrant", body).unwrap();
        bodies["GrantId"] = grant["GrantId"].clone();
        let policy = bench.call("GetKeyPolicy", json!({"KeyId": id})).unwrap();
        bodies["Policy"] = policy["Policy"].clone();
        match usage {
            "ENCRYPT_DECRYPT" => {
                bodies["EncryptionAlgorithm"] = json!(algorithm);
                let made = bench.call("Encrypt", bodies.clone()).unwrap();
                bodies["CiphertextBlob"] = made["CiphertextBlob"].clone();
            }
            "SIGN_VERIFY" => {
                bodies["SigningAlgorithm"] = json!(algorithm);
                let made = bench.call("Sign", bodies.clone()).unwrap();
                bodies["Signature"] = made["Signature"].clone();
            }
            "GENERATE_VERIFY_MAC" => {
                bodies["MacAlgorithm"] = json!(algorithm);
                let made = bench.call("GenerateMac", bodies.clone()).unwrap();
                bodies["Mac"] = made["Mac"].clone();
            }
            "KEY_AGREEMENT" => {
                let own = bench.call("GetPublicKey", json!({"KeyId": id})).unwrap();
                bodies["PublicKey"] = own["PublicKey"].clone();
            }
            _ => {
                let made = bench.call("Encapsulate", bodies.clone()).unwrap();
                bodies["SharedSecretCiphertextBlob"] = made["CiphertextBlob"].clone();
                if made["CiphertextBlob"].is_null() {
                    bodies["SharedSecretCiphertextBlob"] =
                        made["SharedSecretCiphertextBlob"].clone();
                }
            }
        }
        let row = KeyRow::clone(bench.kms.snapshot().key(id.parse().unwrap()).unwrap());
        Self {
            spec,
            usage,
            external: false,
            multi_region: true,
            arn: arn(&id),
            id,
            bodies,
            row,
        }
    }

    fn symmetric(&self) -> bool {
        self.spec == "SYMMETRIC_DEFAULT"
    }

    fn asymmetric(&self) -> bool {
        !self.symmetric() && !self.spec.starts_with("HMAC")
    }

    /// Puts the key into a state, with material of this origin, as one of several Regions or of one.
    fn put(&mut self, bench: &mut Bench, state: State, external: bool, multi_region: bool) {
        self.external = external;
        self.multi_region = multi_region;
        let row = KeyRow {
            state,
            multi_region: self.row.multi_region.clone().filter(|_| multi_region),
            origin: match external {
                true => Origin::External,
                false => Origin::AwsKms,
            },
            ..self.row.clone()
        };
        bench.kms.apply(&[Change::Put(Row::Key(Box::new(row)))]);
    }

    fn body(&self, operation: &str) -> Value {
        let mut body = self.bodies.clone();
        match operation {
            "CreateAlias" => body["AliasName"] = json!("alias/another"),
            "ReEncrypt" => {
                body["DestinationKeyId"] = json!(self.id);
                body["SourceKeyId"] = json!(self.id);
                if let Some(algorithm) = body.get("EncryptionAlgorithm").cloned() {
                    body["SourceEncryptionAlgorithm"] = algorithm.clone();
                    body["DestinationEncryptionAlgorithm"] = algorithm;
                }
            }
            "RetireGrant" => body["KeyId"] = json!(self.arn),
            _ => {}
        }
        body
    }

    /// What AWS answers; none for success.
    fn expected(&self, operation: &str, state: State, dry: bool) -> Option<String> {
        let arn = &self.arn;
        if let Some(usage) = needed(operation)
            && usage != self.usage
        {
            return Some(format!(
                "InvalidKeyUsageException: {arn} key usage is {} which is not valid for {operation}.",
                self.usage
            ));
        }
        if operation.starts_with("GenerateDataKey") && !self.symmetric() {
            return Some(format!(
                "InvalidKeyUsageException: Algorithm SYMMETRIC_DEFAULT is incompatible with key spec {}.",
                self.spec
            ));
        }
        if operation == "GetPublicKey" && !self.asymmetric() {
            return Some("UnsupportedOperationException".to_owned());
        }
        let wrong_origin = |origin: &str| {
            Some(format!(
                "UnsupportedOperationException: {arn} origin is {origin} which is not valid for this operation."
            ))
        };
        if ["ReplicateKey", "UpdatePrimaryRegion"].contains(&operation) && !self.multi_region {
            return Some(format!(
                "UnsupportedOperationException: {arn} is not a multi-region primary key."
            ));
        }
        let rotation = [
            "EnableKeyRotation",
            "DisableKeyRotation",
            "GetKeyRotationStatus",
            "RotateKeyOnDemand",
            "ListKeyRotations",
        ];
        if rotation.contains(&operation) && !self.symmetric() {
            return Some("UnsupportedOperationException".to_owned());
        }
        // Footnotes 6 and 7.
        if rotation[..3].contains(&operation) && self.external {
            return wrong_origin("EXTERNAL");
        }
        // Footnote 9.
        let imports = [
            "GetParametersForImport",
            "ImportKeyMaterial",
            "DeleteImportedKeyMaterial",
        ];
        if imports.contains(&operation) && !self.external {
            return wrong_origin("AWS_KMS");
        }
        let column = match state {
            State::PendingReplicaDeletion => State::PendingDeletion,
            state => state,
        };
        let column = STATES.iter().position(|one| *one == column).unwrap();
        let row = ROWS.iter().find(|(names, _)| names.contains(&operation));
        let (_, notes) = row.unwrap_or_else(|| panic!("{operation} is not in the table"));
        let (code, text) = match notes[column] {
            0 => {
                return match operation {
                    _ if dry => Some(
                        "DryRunOperationException: The request would have succeeded, but the DryRun option is set."
                            .to_owned(),
                    ),
                    "RotateKeyOnDemand" if self.external => Some(format!(
                        "KMSInvalidStateException: No available key material pending rotation for the key: {arn}."
                    )),
                    // The input of the test is no token.
                    "ImportKeyMaterial" => Some("InvalidImportTokenException".to_owned()),
                    _ => None,
                };
            }
            1 => ("DisabledException", "is disabled."),
            3 if state == State::PendingReplicaDeletion => (
                "KMSInvalidStateException",
                "is pending deletion (or pending replica deletion).",
            ),
            3 => ("KMSInvalidStateException", "is pending deletion."),
            4 => (
                "KMSInvalidStateException",
                "is not pending deletion (or pending replica deletion).",
            ),
            5 => ("KMSInvalidStateException", "is pending import."),
            7 => return Some("UnsupportedOperationException".to_owned()),
            11 => ("KMSInvalidStateException", "is unavailable."),
            14 => ("KMSInvalidStateException", "is creating."),
            15 => ("KMSInvalidStateException", "is updating."),
            other => panic!("footnote {other}"),
        };
        Some(format!("{code}: {arn} {text}"))
    }
}

/// The answer, without doing what it asks for.
fn answer(bench: &Bench, operation: &str, body: &Value) -> Option<String> {
    let request = Bench::decode(operation, body);
    let caller = Caller::internal("000000000000");
    let outcome = bench.world_call(|kms, world| kms.handle(&request, &caller, world).outcome);
    match outcome {
        Err(error) => Some(error.to_string()),
        Ok(Outcome::Use(usage)) => ready(usage.run(&bench.provider))
            .err()
            .map(|error| error.to_string()),
        Ok(Outcome::Write(write)) => write.refusal.map(|error| error.to_string()),
        Ok(_) => None,
    }
}

#[test]
fn every_operation_on_every_kind_of_key_in_every_state() {
    let mut bench = Bench::new();
    bench.kms.set_served(Served {
        accounts: Vec::new(),
        regions: REGIONS.map(str::to_owned).to_vec(),
        any_region: false,
    });
    let mut wrong = Vec::new();
    let mut count = 0;
    for kind in KINDS {
        let mut key = Made::new(&mut bench, kind);
        // It has its column with PendingDeletion.
        for state in STATES.into_iter().chain([State::PendingReplicaDeletion]) {
            let kinds = [(false, true), (true, true), (false, false), (true, false)];
            for (external, multi_region) in kinds {
                // Only a key of imported material waits for it.
                if state == State::PendingImport && !external {
                    continue;
                }
                // Only one of several Regions waits for its replicas, and is told another primary Region.
                let waits = [
                    State::PendingReplicaDeletion,
                    State::Creating,
                    State::Updating,
                ];
                if waits.contains(&state) && !multi_region {
                    continue;
                }
                key.put(&mut bench, state, external, multi_region);
                for operation in ROWS.iter().flat_map(|(names, _)| *names) {
                    let mut body = key.body(operation);
                    let dry = [false, true];
                    for dry in dry.iter().filter(|dry| !**dry || DRY.contains(operation)) {
                        body["DryRun"] = json!(dry);
                        let found = answer(&bench, operation, &body);
                        let expected = key.expected(operation, state, *dry);
                        count += 1;
                        if found != expected {
                            wrong.push(format!(
                                "{operation} {kind:?} {state:?} external={external} multi_region={multi_region} dry={dry}:\n  {found:?}\n  {expected:?}"
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(count > 20_000, "{count}");
    assert!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn the_table_has_every_operation_on_a_key() {
    // Those on lists, on nothing, on grants of whoever asks, and on what kmsd does not have.
    let others = [
        "CreateKey",
        "GenerateRandom",
        "ListKeys",
        "ListRetirableGrants",
    ];
    for (prefix, operation) in Request::OPERATIONS {
        let known = ROWS.iter().any(|(names, _)| names.contains(operation));
        let expected = *prefix == kms_api::AWS_PREFIX
            && !others.contains(operation)
            && !operation.contains("CustomKeyStore");
        assert_eq!(known, expected, "{operation}");
    }
}

#[test]
fn a_dry_run_may_leave_out_the_ciphertext() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let would =
        "DryRunOperationException: The request would have succeeded, but the DryRun option is set.";
    let ignore = json!(["IGNORE_CIPHERTEXT"]);
    for (operation, mut body) in [
        ("Decrypt", json!({"KeyId": key})),
        (
            "ReEncrypt",
            json!({"SourceKeyId": key, "DestinationKeyId": key}),
        ),
    ] {
        body["DryRun"] = json!(true);
        body["DryRunModifiers"] = ignore.clone();
        assert_eq!(bench.call(operation, body.clone()).unwrap_err(), would);
        body["CiphertextBlob"] = json!("aGVsbG8=");
        assert_eq!(bench.call(operation, body.clone()).unwrap_err(), would);
        let mut unnamed = body.clone();
        for name in ["KeyId", "SourceKeyId"] {
            unnamed.as_object_mut().unwrap().remove(name);
        }
        let refused = bench.call(operation, unnamed).unwrap_err();
        assert!(
            refused.starts_with("ValidationException"),
            "{operation}: {refused}"
        );
        body["DryRunModifiers"] = json!([]);
        assert_eq!(
            bench.call(operation, body.clone()).unwrap_err(),
            "InvalidCiphertextException"
        );
        body["DryRunModifiers"] = json!(["SOMETHING"]);
        let refused = bench.call(operation, body).unwrap_err();
        assert!(refused.contains("[IGNORE_CIPHERTEXT]"), "{refused}");
    }
}

#[test]
fn custom_key_stores_are_refused_with_a_sentence() {
    let mut bench = Bench::new();
    let sentence = "UnsupportedOperationException: Custom key stores are not supported by this kmsd: it keeps every key \
                    in its own store.";
    let store = json!({
        "CustomKeyStoreId": "cks-1234567890abcdef0", "CustomKeyStoreName": "store",
        "KeyStorePassword": "kmsPswd", "XksProxyAuthenticationCredential": {"AccessKeyId": "A", "RawSecretAccessKey": "s"},
    });
    for operation in [
        "CreateCustomKeyStore",
        "ConnectCustomKeyStore",
        "DisconnectCustomKeyStore",
        "DescribeCustomKeyStores",
        "UpdateCustomKeyStore",
        "DeleteCustomKeyStore",
    ] {
        assert_eq!(bench.call(operation, store.clone()).unwrap_err(), sentence);
        // Nothing of it gets into the log.
        let recorded = Bench::decode(operation, &store).recorded();
        let text = serde_json::to_string(&recorded).unwrap();
        assert!(
            !text.contains("kmsPswd") && !text.to_lowercase().contains("secret"),
            "{text}"
        );
    }
    for body in [
        json!({"CustomKeyStoreId": "cks-1"}),
        json!({"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": "cks-1"}),
        json!({"Origin": "EXTERNAL_KEY_STORE", "XksKeyId": "x"}),
    ] {
        assert_eq!(bench.call("CreateKey", body).unwrap_err(), sentence);
    }
    let body = json!({"NumberOfBytes": 8, "CustomKeyStoreId": "cks-1"});
    assert_eq!(bench.call("GenerateRandom", body).unwrap_err(), sentence);
}
