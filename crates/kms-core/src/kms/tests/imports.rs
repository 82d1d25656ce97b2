//! Imported key material: wrapping, tokens, states, expiry, several materials.

use data_encoding::BASE64;
use kms_crypto::asymmetric::{EncryptionScheme, PairSpec, PublicKey};
use kms_crypto::wrap_kwp;

use super::access::user;
use super::*;
use crate::kms::material_id_of;

const OAEP: &str = "RSAES_OAEP_SHA_256";

/// What GetParametersForImport gave.
struct Parameters {
    algorithm: &'static str,
    spec: PairSpec,
    token: String,
    public: Vec<u8>,
}

fn parameters_of(bench: &mut Bench, key: &str, algorithm: &'static str, spec: &str) -> Parameters {
    let body = json!({"KeyId": key, "WrappingAlgorithm": algorithm, "WrappingKeySpec": spec});
    let given = bench.call("GetParametersForImport", body).unwrap();
    assert_eq!(given["KeyId"], arn(key));
    let valid_to = (bench.now.wall_ms + 86_400_000) / 1000;
    assert_eq!(given["ParametersValidTo"], valid_to);
    Parameters {
        algorithm,
        spec: match spec {
            "RSA_2048" => PairSpec::Rsa2048,
            "RSA_3072" => PairSpec::Rsa3072,
            _ => PairSpec::Rsa4096,
        },
        token: given["ImportToken"].as_str().unwrap().to_owned(),
        public: BASE64
            .decode(given["PublicKey"].as_str().unwrap().as_bytes())
            .unwrap(),
    }
}

fn parameters(bench: &mut Bench, key: &str) -> Parameters {
    parameters_of(bench, key, OAEP, "RSA_2048")
}

impl Parameters {
    fn wrap(&self, material: &[u8]) -> String {
        let public = PublicKey::from_spki(self.spec, &self.public).unwrap();
        let scheme = match self.algorithm.ends_with("SHA_1") {
            true => EncryptionScheme::RsaOaepSha1,
            false => EncryptionScheme::RsaOaepSha256,
        };
        BASE64.encode(&match self.algorithm.starts_with("RSAES") {
            true => public.encrypt(scheme, material).unwrap(),
            false => {
                let kek = [9; 32];
                let mut wrapped = public.encrypt(scheme, &kek).unwrap();
                wrapped.extend_from_slice(&wrap_kwp(&kek, material).unwrap());
                wrapped
            }
        })
    }

    /// Imports; members of `with` are added.
    fn import(
        &self,
        bench: &mut Bench,
        key: &str,
        material: &[u8],
        with: Value,
    ) -> Result<Value, String> {
        let mut body = json!({
            "KeyId": key, "ImportToken": self.token, "EncryptedKeyMaterial": self.wrap(material),
        });
        for (name, value) in with.as_object().unwrap() {
            body[name] = value.clone();
        }
        if body.get("ValidTo").is_none() && body.get("ExpirationModel").is_none() {
            body["ExpirationModel"] = json!("KEY_MATERIAL_DOES_NOT_EXPIRE");
        }
        bench.call("ImportKeyMaterial", body)
    }
}

fn external(bench: &mut Bench) -> String {
    bench.create(json!({"Origin": "EXTERNAL"}))
}

/// Imports with new parameters.
fn import(bench: &mut Bench, key: &str, material: &[u8], with: Value) -> Result<Value, String> {
    parameters(bench, key).import(bench, key, material, with)
}

fn id_of(key: &str, material: &[u8]) -> String {
    material_id_of(&arn(key), material).to_string()
}

fn described(bench: &mut Bench, key: &str) -> Value {
    bench.call("DescribeKey", json!({"KeyId": key})).unwrap()["KeyMetadata"].clone()
}

fn rotations(bench: &mut Bench, key: &str) -> Vec<Value> {
    let body = json!({"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"});
    let list = bench.call("ListKeyRotations", body).unwrap();
    list["Rotations"].as_array().unwrap().clone()
}

#[test]
fn a_key_works_with_the_material_that_was_imported_and_no_other() {
    let mut bench = Bench::new();
    let (key, other) = (external(&mut bench), external(&mut bench));
    assert!(described(&mut bench, &key).get("ExpirationModel").is_none());
    let material = [1; 32];
    let reply = import(&mut bench, &key, &material, json!({})).unwrap();
    let id = id_of(&key, &material);
    assert_eq!(reply, json!({"KeyId": arn(&key), "KeyMaterialId": id}));
    let now = described(&mut bench, &key);
    assert_eq!(now["KeyState"], "Enabled");
    assert_eq!(now["CurrentKeyMaterialId"], id);
    assert_eq!(now["ExpirationModel"], "KEY_MATERIAL_DOES_NOT_EXPIRE");
    assert!(now.get("ValidTo").is_none());
    let blob = bench.encrypt(&key, b"text", json!({"a": "b"}));
    assert_eq!(bench.decrypt(&blob, json!({"a": "b"})).unwrap(), b"text");
    // The same material in another key has another id.
    let reply = import(&mut bench, &other, &material, json!({})).unwrap();
    assert_ne!(reply["KeyMaterialId"], id);
    let opened = bench.call("Decrypt", json!({"CiphertextBlob": blob, "KeyId": other}));
    assert!(opened.unwrap_err().starts_with("IncorrectKeyException"));
}

#[test]
fn every_wrapping_brings_the_material_in() {
    let mut bench = Bench::new();
    let ways = [
        ("RSAES_OAEP_SHA_1", "RSA_2048"),
        (OAEP, "RSA_3072"),
        ("RSA_AES_KEY_WRAP_SHA_1", "RSA_2048"),
        ("RSA_AES_KEY_WRAP_SHA_256", "RSA_4096"),
    ];
    let key = external(&mut bench);
    for (algorithm, spec) in ways {
        let given = parameters_of(&mut bench, &key, algorithm, spec);
        assert!(given.token.len() <= 8192, "6144 bytes in base64");
        let reply = given.import(&mut bench, &key, &[2; 32], json!({})).unwrap();
        assert_eq!(reply["KeyMaterialId"], id_of(&key, &[2; 32]), "{algorithm}");
        // Half of the wrapping is none.
        let body = json!({
            "KeyId": key, "ImportToken": given.token, "EncryptedKeyMaterial": BASE64.encode(&[7; 300]),
            "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        });
        let refused = bench.call("ImportKeyMaterial", body).unwrap_err();
        assert_eq!(refused, "InvalidCiphertextException", "{algorithm}");
    }
}

#[test]
fn a_token_is_for_one_key_one_day_and_until_the_next_is_asked_for() {
    let mut bench = Bench::new();
    let (key, other) = (external(&mut bench), external(&mut bench));
    let first = parameters(&mut bench, &key);
    let invalid = |found: Result<Value, String>| {
        assert_eq!(found.unwrap_err(), "InvalidImportTokenException");
    };
    invalid(first.import(&mut bench, &other, &[3; 32], json!({})));
    let second = parameters(&mut bench, &key);
    invalid(first.import(&mut bench, &key, &[3; 32], json!({})));
    // The former's pair does not go with the new token.
    let mixed = Parameters {
        token: second.token.clone(),
        ..first
    };
    assert_eq!(
        mixed
            .import(&mut bench, &key, &[3; 32], json!({}))
            .unwrap_err(),
        "InvalidCiphertextException"
    );
    // More than once within its day.
    for _ in 0..2 {
        second
            .import(&mut bench, &key, &[3; 32], json!({}))
            .unwrap();
    }
    let token = BASE64.decode(second.token.as_bytes()).unwrap();
    for at in (0..token.len()).step_by(97).chain([token.len() - 1]) {
        let mut altered = token.clone();
        altered[at] ^= 1;
        for altered in [altered, token[..at].to_vec()] {
            if altered.is_empty() {
                continue;
            }
            let altered = Parameters {
                token: BASE64.encode(&altered),
                public: second.public.clone(),
                ..second
            };
            invalid(altered.import(&mut bench, &key, &[3; 32], json!({})));
        }
    }
    // One clock is enough.
    bench.now.elapsed_ms += 86_400_000;
    assert_eq!(
        second
            .import(&mut bench, &key, &[3; 32], json!({}))
            .unwrap_err(),
        "ExpiredImportTokenException"
    );
}

#[test]
fn what_is_no_key_material_is_refused() {
    let mut bench = Bench::new();
    let key = external(&mut bench);
    let given = parameters(&mut bench, &key);
    for length in [1, 16, 31, 33] {
        let refused = given.import(&mut bench, &key, &vec![1; length], json!({}));
        assert_eq!(
            refused.unwrap_err(),
            "IncorrectKeyMaterialException: The key material is not valid for a KMS key with KeySpec SYMMETRIC_DEFAULT."
        );
    }
    let own = bench.create_key();
    for (operation, body) in [
        (
            "GetParametersForImport",
            json!({"KeyId": own, "WrappingAlgorithm": OAEP, "WrappingKeySpec": "RSA_2048"}),
        ),
        ("DeleteImportedKeyMaterial", json!({"KeyId": own})),
    ] {
        assert_eq!(
            bench.call(operation, body).unwrap_err(),
            format!(
                "UnsupportedOperationException: {} origin is AWS_KMS which is not valid for this operation.",
                arn(&own)
            )
        );
    }
    let day = 86_400;
    let now = START.wall_ms / 1000;
    for (with, text) in [
        (
            json!({"ExpirationModel": "KEY_MATERIAL_EXPIRES"}),
            "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES",
        ),
        (
            json!({"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE", "ValidTo": now + day}),
            "A validTo date cannot be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE",
        ),
        (
            json!({"ValidTo": now}),
            "ValidTo must be in the future, and at most 365 days from now.",
        ),
        (
            json!({"ValidTo": now + 366 * day}),
            "ValidTo must be in the future, and at most 365 days from now.",
        ),
        (
            json!({"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialId": "a".repeat(64)}),
            "You cannot specify a KeyMaterialId with ImportType NEW_KEY_MATERIAL.",
        ),
    ] {
        let refused = given.import(&mut bench, &key, &[1; 32], with).unwrap_err();
        assert_eq!(refused, format!("ValidationException: {text}"));
    }
}

#[test]
fn deleted_material_comes_back_only_as_it_was() {
    let mut bench = Bench::new();
    let key = external(&mut bench);
    // Nothing is there yet: nothing happens.
    let delete = |bench: &mut Bench| bench.call("DeleteImportedKeyMaterial", json!({"KeyId": key}));
    assert_eq!(delete(&mut bench).unwrap(), json!({"KeyId": arn(&key)}));
    let with = json!({"KeyMaterialDescription": "from the safe"});
    import(&mut bench, &key, &[4; 32], with).unwrap();
    let blob = bench.encrypt(&key, b"text", json!({}));
    bench.call("DisableKey", json!({"KeyId": key})).unwrap();
    assert!(!bench.kms.snapshot().meta().epoch_owed);
    let id = id_of(&key, &[4; 32]);
    let gone = json!({"KeyId": arn(&key), "KeyMaterialId": id});
    assert_eq!(delete(&mut bench).unwrap(), gone);
    assert!(
        bench.kms.snapshot().meta().epoch_owed,
        "older copies of the store have it"
    );
    assert_eq!(bench.provider.cached(), 0);
    let now = described(&mut bench, &key);
    assert_eq!(
        (&now["KeyState"], &now["CurrentKeyMaterialId"]),
        (&json!("PendingImport"), &json!(id))
    );
    assert!(now.get("ExpirationModel").is_none());
    assert_eq!(
        bench.decrypt(&blob, json!({})).unwrap_err(),
        format!("KMSInvalidStateException: {} is pending import.", arn(&key))
    );
    assert_eq!(
        rotations(&mut bench, &key),
        [json!({
            "KeyId": key, "KeyMaterialId": id, "KeyMaterialState": "CURRENT", "ImportState": "PENDING_IMPORT",
            "KeyMaterialDescription": "from the safe",
        })]
    );

    let refused = import(&mut bench, &key, &[5; 32], json!({})).unwrap_err();
    assert!(
        refused.starts_with("IncorrectKeyMaterialException"),
        "{refused}"
    );
    let named = json!({"KeyMaterialId": "a".repeat(64)});
    let refused = import(&mut bench, &key, &[4; 32], named).unwrap_err();
    assert!(
        refused.starts_with("IncorrectKeyMaterialException"),
        "{refused}"
    );
    let refused = import(
        &mut bench,
        &key,
        &[4; 32],
        json!({"ImportType": "NEW_KEY_MATERIAL"}),
    );
    assert!(
        refused
            .unwrap_err()
            .starts_with("IncorrectKeyMaterialException")
    );
    import(&mut bench, &key, &[4; 32], json!({"KeyMaterialId": id})).unwrap();
    assert_eq!(bench.decrypt(&blob, json!({})).unwrap(), b"text");
    assert_eq!(
        rotations(&mut bench, &key)[0]["KeyMaterialDescription"],
        "from the safe"
    );

    // A key that waits for its end goes on waiting, and then for its material.
    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    let refused = bench.call(
        "GetParametersForImport",
        json!({"KeyId": key, "WrappingAlgorithm": OAEP, "WrappingKeySpec": "RSA_2048"}),
    );
    assert_eq!(
        refused.unwrap_err(),
        format!(
            "KMSInvalidStateException: {} is pending deletion.",
            arn(&key)
        )
    );
    delete(&mut bench).unwrap();
    assert_eq!(bench.state(&key), "PendingDeletion");
    bench
        .call("CancelKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    assert_eq!(bench.state(&key), "PendingImport");
    let unknown = json!({"KeyId": key, "KeyMaterialId": "b".repeat(64)});
    let refused = bench
        .call("DeleteImportedKeyMaterial", unknown)
        .unwrap_err();
    assert!(refused.starts_with("NotFoundException"), "{refused}");
}

#[test]
fn material_expires_when_both_clocks_say_so() {
    let mut bench = Bench::new();
    let key = external(&mut bench);
    let ends = START.wall_ms / 1000 + 2 * 86_400;
    import(&mut bench, &key, &[6; 32], json!({"ValidTo": ends})).unwrap();
    let now = described(&mut bench, &key);
    assert_eq!(
        (&now["ExpirationModel"], &now["ValidTo"]),
        (&json!("KEY_MATERIAL_EXPIRES"), &json!(ends))
    );
    bench.pass_days(1);
    assert_eq!(bench.kms.materials_expired(bench.now), Default::default());
    let jumped = Now {
        wall_ms: bench.now.wall_ms + 86_400_000,
        ..bench.now
    };
    let found = bench.kms.materials_expired(jumped);
    assert!(found.due.is_empty());
    assert_eq!(found.clocks_disagree.len(), 1);
    assert!(matches!(bench.kms.expire(jumped), crate::Outcome::Reply(_)));
    bench.pass_days(1);
    assert_eq!(bench.kms.materials_expired(bench.now).due.len(), 1);
    expire(&mut bench);
    assert_eq!(bench.state(&key), "PendingImport");
    assert!(bench.kms.snapshot().meta().epoch_owed);
    assert!(bench.kms.materials_expired(bench.now).due.is_empty());
    // Imported again, without an end.
    import(&mut bench, &key, &[6; 32], json!({})).unwrap();
    let now = described(&mut bench, &key);
    assert_eq!(now["ExpirationModel"], "KEY_MATERIAL_DOES_NOT_EXPIRE");
}

fn expire(bench: &mut Bench) {
    let crate::Outcome::Write(write) = bench.kms.expire(bench.now) else {
        panic!("nothing has expired");
    };
    assert!(write.tightening);
    let epochs = write.effects.iter();
    let epochs = epochs.filter(|effect| **effect == crate::Effect::DeletionEpoch);
    assert_eq!(epochs.count(), 1);
    bench.commit(*write);
}

#[test]
fn material_is_not_used_once_one_of_the_clocks_says_that_it_has_expired() {
    let mut bench = Bench::new();
    let key = external(&mut bench);
    let mac = bench.create(
        json!({"Origin": "EXTERNAL", "KeySpec": "HMAC_384", "KeyUsage": "GENERATE_VERIFY_MAC"}),
    );
    let until = json!({"ValidTo": START.wall_ms / 1000 + 86_400});
    import(&mut bench, &key, &[6; 32], until.clone()).unwrap();
    import(&mut bench, &mac, &[1; 48], until).unwrap();
    let blob = bench.encrypt(&key, b"text", json!({}));
    let start = bench.now;
    let holds = |bench: &Bench| {
        let id = key.parse().unwrap();
        bench.kms.holds_ms(std::iter::once(id), bench.now)
    };
    assert_eq!(
        holds(&bench),
        Some(86_400_000),
        "nobody relies on it longer"
    );
    for (wall, elapsed) in [(86_400_000, 1_000), (1_000, 86_400_000)] {
        bench.now = Now {
            wall_ms: start.wall_ms + wall,
            elapsed_ms: start.elapsed_ms + u64::try_from(elapsed).unwrap(),
        };
        let pending = |key| format!("KMSInvalidStateException: {} is pending import.", arn(key));
        assert_eq!(bench.decrypt(&blob, json!({})).unwrap_err(), pending(&key));
        for (operation, key, body) in [
            ("Encrypt", &key, json!({"KeyId": key, "Plaintext": "AAAA"})),
            (
                "GenerateDataKey",
                &key,
                json!({"KeyId": key, "KeySpec": "AES_256"}),
            ),
            (
                "GenerateMac",
                &mac,
                json!({"KeyId": mac, "Message": "AAAA", "MacAlgorithm": "HMAC_SHA_384"}),
            ),
        ] {
            assert_eq!(bench.call(operation, body).unwrap_err(), pending(key));
        }
        let now = described(&mut bench, &key);
        assert_eq!(
            (&now["KeyState"], &now["Enabled"]),
            (&json!("PendingImport"), &json!(false))
        );
        assert!(bench.kms.materials_expired(bench.now).due.is_empty());
        assert_eq!(holds(&bench), None);
    }
    // The clock that was wrong is put right: nothing was destroyed.
    bench.now = start;
    assert_eq!(bench.decrypt(&blob, json!({})).unwrap(), b"text");
    assert_eq!(bench.state(&key), "Enabled");
}

#[test]
fn all_material_that_has_expired_goes_in_one_transaction() {
    let mut bench = Bench::new();
    let until = json!({"ValidTo": START.wall_ms / 1000 + 86_400});
    let keys = [external(&mut bench), external(&mut bench)];
    for (key, byte) in keys.iter().zip(1..) {
        import(&mut bench, key, &[byte; 32], until.clone()).unwrap();
    }
    let mut with = until;
    with["ImportType"] = json!("NEW_KEY_MATERIAL");
    import(&mut bench, &keys[0], &[9; 32], with).unwrap();
    bench.pass_days(1);
    assert_eq!(bench.kms.materials_expired(bench.now).due.len(), 3);
    expire(&mut bench);
    for key in &keys {
        assert_eq!(bench.state(key), "PendingImport");
        let id = key.parse().unwrap();
        assert_eq!(bench.kms.snapshot().materials(id).count(), 0);
    }
    assert!(bench.kms.materials_expired(bench.now).due.is_empty());
}

#[test]
fn new_material_waits_for_its_rotation_and_a_key_needs_all_of_its_materials() {
    let mut bench = Bench::new();
    let key = external(&mut bench);
    import(&mut bench, &key, &[1; 32], json!({})).unwrap();
    let old = bench.encrypt(&key, b"old", json!({}));
    let rotate = |bench: &mut Bench| bench.call("RotateKeyOnDemand", json!({"KeyId": key}));
    assert_eq!(
        rotate(&mut bench).unwrap_err(),
        format!(
            "KMSInvalidStateException: No available key material pending rotation for the key: {}.",
            arn(&key)
        )
    );
    let new = json!({"ImportType": "NEW_KEY_MATERIAL"});
    import(&mut bench, &key, &[2; 32], new.clone()).unwrap();
    let (first, second, third) = (
        id_of(&key, &[1; 32]),
        id_of(&key, &[2; 32]),
        id_of(&key, &[3; 32]),
    );
    assert_eq!(bench.material(&key), first);
    assert_eq!(
        import(&mut bench, &key, &[3; 32], new).unwrap_err(),
        format!(
            "KMSInvalidStateException: New key material (id: {third}) cannot be imported into KMS key {key}, because \
             another key material (id: {second}) is pending rotation."
        )
    );
    // What waits may be changed for another one; the key goes on.
    let body = json!({"KeyId": key, "KeyMaterialId": second});
    bench.call("DeleteImportedKeyMaterial", body).unwrap();
    assert_eq!(bench.state(&key), "Enabled");
    assert_eq!(rotations(&mut bench, &key).len(), 1);
    let ends = START.wall_ms / 1000 + 86_400;
    let with = json!({"ImportType": "NEW_KEY_MATERIAL", "ValidTo": ends, "KeyMaterialDescription": "third"});
    import(&mut bench, &key, &[3; 32], with).unwrap();
    // The same once more is no other one.
    import(
        &mut bench,
        &key,
        &[3; 32],
        json!({"ImportType": "NEW_KEY_MATERIAL", "ValidTo": ends}),
    )
    .unwrap();
    assert!(
        described(&mut bench, &key).get("ValidTo").is_none(),
        "it is not the key's for good yet"
    );
    bench.pass_days(0);
    let list = rotations(&mut bench, &key);
    assert_eq!(
        list[1],
        json!({
            "KeyId": key, "KeyMaterialId": third, "KeyMaterialState": "PENDING_ROTATION", "ImportState": "IMPORTED",
            "ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": ends, "KeyMaterialDescription": "third",
        })
    );
    assert_eq!(rotate(&mut bench).unwrap(), json!({"KeyId": arn(&key)}));
    assert_eq!(bench.material(&key), third);
    assert_eq!(described(&mut bench, &key)["ValidTo"], ends);
    let list = rotations(&mut bench, &key);
    assert_eq!(list[0]["KeyMaterialState"], "NON_CURRENT");
    assert_eq!(
        (&list[1]["KeyMaterialState"], &list[1]["RotationType"]),
        (&json!("CURRENT"), &json!("ON_DEMAND"))
    );
    assert_eq!(bench.decrypt(&old, json!({})).unwrap(), b"old");
    let young = bench.encrypt(&key, b"young", json!({}));

    // Without the older one the key cannot be used at all.
    let body = json!({"KeyId": key, "KeyMaterialId": first});
    bench.call("DeleteImportedKeyMaterial", body).unwrap();
    bench
        .call("DeleteImportedKeyMaterial", json!({"KeyId": key}))
        .unwrap();
    assert_eq!(bench.state(&key), "PendingImport");
    import(&mut bench, &key, &[3; 32], json!({})).unwrap();
    assert_eq!(bench.state(&key), "PendingImport", "one is still missing");
    import(&mut bench, &key, &[1; 32], json!({})).unwrap();
    assert_eq!(bench.state(&key), "Enabled");
    assert_eq!(bench.decrypt(&old, json!({})).unwrap(), b"old");
    assert_eq!(bench.decrypt(&young, json!({})).unwrap(), b"young");
    let list = rotations(&mut bench, &key);
    assert_eq!(
        list[1]["RotationType"], "ON_DEMAND",
        "what was rotated to stays so"
    );
}

#[test]
fn macs_and_pairs_are_imported_once_and_for_all() {
    use kms_crypto::asymmetric::KeyPair;
    let mut bench = Bench::new();
    let mac = bench.create(
        json!({"Origin": "EXTERNAL", "KeySpec": "HMAC_384", "KeyUsage": "GENERATE_VERIFY_MAC"}),
    );
    let given = parameters(&mut bench, &mac);
    let refused = given
        .import(&mut bench, &mac, &[1; 47], json!({}))
        .unwrap_err();
    assert!(
        refused.starts_with("IncorrectKeyMaterialException"),
        "{refused}"
    );
    let reply = given.import(&mut bench, &mac, &[1; 48], json!({})).unwrap();
    assert_eq!(reply, json!({"KeyId": arn(&mac)}));
    let body = json!({"KeyId": mac, "Message": "aGVsbG8=", "MacAlgorithm": "HMAC_SHA_384"});
    let made = bench.call("GenerateMac", body).unwrap();
    let expected = kms_crypto::hmac::mac(kms_crypto::hmac::HmacHash::Sha384, &[1; 48], b"hello");
    assert_eq!(made["Mac"], BASE64.encode(&expected));
    for with in [
        json!({"ImportType": "NEW_KEY_MATERIAL"}),
        json!({"KeyMaterialId": "a".repeat(64)}),
    ] {
        let refused = given.import(&mut bench, &mac, &[2; 48], with).unwrap_err();
        assert!(refused.starts_with("ValidationException"), "{refused}");
    }
    let refused = given
        .import(&mut bench, &mac, &[2; 48], json!({}))
        .unwrap_err();
    assert!(
        refused.starts_with("IncorrectKeyMaterialException"),
        "{refused}"
    );

    let body = json!({"Origin": "EXTERNAL", "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"});
    let key = bench.create(body);
    let pair = KeyPair::generate(PairSpec::P256).unwrap();
    let other = KeyPair::generate(PairSpec::P384).unwrap();
    let given = parameters_of(&mut bench, &key, "RSA_AES_KEY_WRAP_SHA_256", "RSA_2048");
    let wrong = other.to_pkcs8().unwrap();
    let refused = given
        .import(&mut bench, &key, wrong.expose(), json!({}))
        .unwrap_err();
    assert!(
        refused.starts_with("IncorrectKeyMaterialException"),
        "{refused}"
    );
    let private = pair.to_pkcs8().unwrap();
    given
        .import(&mut bench, &key, private.expose(), json!({}))
        .unwrap();
    let public = bench.call("GetPublicKey", json!({"KeyId": key})).unwrap();
    assert_eq!(public["PublicKey"], BASE64.encode(pair.public_spki()));
    bench
        .call("DeleteImportedKeyMaterial", json!({"KeyId": key}))
        .unwrap();
    assert_eq!(
        bench
            .call("GetPublicKey", json!({"KeyId": key}))
            .unwrap_err(),
        format!("KMSInvalidStateException: {} is pending import.", arn(&key))
    );
    given
        .import(&mut bench, &key, private.expose(), json!({}))
        .unwrap();
    let body = json!({"KeyId": key, "Message": "aGVsbG8=", "SigningAlgorithm": "ECDSA_SHA_256"});
    bench.call("Sign", body).unwrap();
}

#[test]
fn a_restored_store_lacks_the_material_that_was_deleted_since() {
    let mut bench = Bench::new();
    let (key, other) = (external(&mut bench), external(&mut bench));
    for key in [&key, &other] {
        import(&mut bench, key, &[1; 32], json!({})).unwrap();
    }
    let backup = bench.kms.snapshot().clone();
    bench
        .call("DeleteImportedKeyMaterial", json!({"KeyId": key}))
        .unwrap();
    let list = crate::tombstones::list(bench.kms.snapshot());
    let (count, changes) = crate::tombstones::bury(&backup, &list, 0);
    assert_eq!(count, 1);
    let mut restored = Kms::new(backup);
    restored.apply(&changes);
    let materials = |key: &str| restored.snapshot().materials(key.parse().unwrap()).count();
    assert_eq!((materials(&key), materials(&other)), (0, 1));
    bench.kms = restored;
    assert_eq!(bench.state(&key), "PendingImport");
    assert_eq!(bench.state(&other), "Enabled");
    import(&mut bench, &key, &[1; 32], json!({})).unwrap();
    assert_eq!(bench.state(&key), "Enabled");
    // What is there again is no tombstone.
    assert!(
        crate::tombstones::list(bench.kms.snapshot())
            .tombstones
            .is_empty()
    );
}

#[test]
fn a_restored_store_lacks_the_material_that_was_deleted_before_its_rotation() {
    let mut bench = Bench::new();
    let until = START.wall_ms / 1000 + 86_400;
    let keys = [external(&mut bench), external(&mut bench)];
    for key in &keys {
        import(&mut bench, key, &[1; 32], json!({})).unwrap();
        let with = json!({"ImportType": "NEW_KEY_MATERIAL", "ValidTo": until});
        import(&mut bench, key, &[2; 32], with).unwrap();
    }
    let backup = bench.kms.snapshot().clone();
    // One is deleted, the other one expires.
    let body = json!({"KeyId": keys[0], "KeyMaterialId": id_of(&keys[0], &[2; 32])});
    bench.call("DeleteImportedKeyMaterial", body).unwrap();
    bench.pass_days(2);
    expire(&mut bench);
    let list = crate::tombstones::list(bench.kms.snapshot());
    let (count, changes) = crate::tombstones::bury(&backup, &list, 0);
    assert_eq!(count, 2);
    let mut restored = Kms::new(backup);
    restored.apply(&changes);
    bench.kms = restored;
    let listed = |bench: &Bench| {
        let list = crate::tombstones::list(bench.kms.snapshot()).tombstones;
        let ids = list.into_iter().flat_map(|one| one.key_material_ids);
        ids.collect::<Vec<_>>()
    };
    for key in &keys {
        assert_eq!(bench.state(key), "Enabled");
        assert_eq!(rotations(&mut bench, key).len(), 1);
        let rotated = bench.call("RotateKeyOnDemand", json!({"KeyId": key}));
        assert!(rotated.unwrap_err().contains("No available key material"));
        assert!(listed(&bench).contains(&id_of(key, &[2; 32])));
    }
    // What is there again is no tombstone, nor is it one of a key that is gone altogether.
    let with = json!({"ImportType": "NEW_KEY_MATERIAL"});
    import(&mut bench, &keys[0], &[2; 32], with).unwrap();
    assert_eq!(listed(&bench), [id_of(&keys[1], &[2; 32])]);
    let gone = [keys[1].parse().unwrap()];
    let buried = crate::epoch::bury(bench.kms.snapshot(), &gone, 0);
    bench.apply(buried);
    assert!(listed(&bench).is_empty());
}

#[test]
fn material_that_has_expired_is_not_rotated_to() {
    let mut bench = Bench::new();
    let key = external(&mut bench);
    import(&mut bench, &key, &[1; 32], json!({})).unwrap();
    let until = START.wall_ms / 1000 + 86_400;
    let with = json!({"ImportType": "NEW_KEY_MATERIAL", "ValidTo": until});
    import(&mut bench, &key, &[2; 32], with).unwrap();
    // One of the clocks is enough, and nothing has deleted it yet.
    bench.now.elapsed_ms += 86_400_000;
    let refused = bench.call("RotateKeyOnDemand", json!({"KeyId": key}));
    assert_eq!(
        refused.unwrap_err(),
        format!(
            "KMSInvalidStateException: No available key material pending rotation for the key: {}.",
            arn(&key)
        )
    );
    bench.encrypt(&key, b"text", json!({}));
    // The same with a later end.
    let with = json!({"ImportType": "NEW_KEY_MATERIAL", "ValidTo": until + 86_400});
    import(&mut bench, &key, &[2; 32], with).unwrap();
    bench
        .call("RotateKeyOnDemand", json!({"KeyId": key}))
        .unwrap();
    bench.encrypt(&key, b"text", json!({}));
}

#[test]
fn a_key_without_its_material_that_is_kept_past_the_policies_waits_for_it() {
    use crate::kms::Measure;
    let mut bench = Bench::new();
    let key = external(&mut bench);
    import(&mut bench, &key, &[1; 32], json!({})).unwrap();
    for operation in ["ScheduleKeyDeletion", "DeleteImportedKeyMaterial"] {
        bench.call(operation, json!({"KeyId": key})).unwrap();
    }
    let measure = Measure::CancelKeyDeletion { key: key.clone() };
    let plan = bench.kms.break_glass(&measure).unwrap();
    bench.apply(plan.changes);
    assert_eq!(bench.state(&key), "PendingImport");
    import(&mut bench, &key, &[1; 32], json!({})).unwrap();
    assert_eq!(bench.state(&key), "Enabled");
}

#[test]
fn conditions_can_ask_how_material_is_imported() {
    let mut bench = Bench::new();
    let key = |bench: &mut Bench, condition: Value| {
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow", "Principal": {"AWS": "*"}, "Resource": "*",
                "Action": ["kms:GetParametersForImport", "kms:ImportKeyMaterial"], "Condition": condition,
            }],
        });
        bench.create(json!({
            "Origin": "EXTERNAL", "Policy": policy.to_string(), "BypassPolicyLockoutSafetyCheck": true,
        }))
    };
    let alice = user("alice");
    let until = START.wall_ms / 1000 + 86_400;
    let date = "2023-11-20T00:00:00Z";
    let asked = json!({"WrappingAlgorithm": OAEP, "WrappingKeySpec": "RSA_4096"});
    let brought = json!({"ImportToken": "AAAA", "EncryptedKeyMaterial": "AAAA", "ValidTo": until});
    for (operation, body, condition, allowed) in [
        (
            "GetParametersForImport",
            &asked,
            json!({"StringEquals": {"kms:WrappingAlgorithm": OAEP}}),
            true,
        ),
        (
            "GetParametersForImport",
            &asked,
            json!({"StringNotEquals": {"kms:WrappingAlgorithm": OAEP}}),
            false,
        ),
        (
            "GetParametersForImport",
            &asked,
            json!({"StringEquals": {"kms:WrappingKeySpec": "RSA_4096"}}),
            true,
        ),
        (
            "GetParametersForImport",
            &asked,
            json!({"StringEquals": {"kms:WrappingKeySpec": "RSA_2048"}}),
            false,
        ),
        (
            "ImportKeyMaterial",
            &brought,
            json!({"StringEquals": {"kms:ExpirationModel": "KEY_MATERIAL_EXPIRES"}}),
            true,
        ),
        (
            "ImportKeyMaterial",
            &brought,
            json!({"StringEquals": {"kms:ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}}),
            false,
        ),
        (
            "ImportKeyMaterial",
            &brought,
            json!({"DateLessThan": {"kms:ValidTo": date}}),
            true,
        ),
        (
            "ImportKeyMaterial",
            &brought,
            json!({"DateGreaterThan": {"kms:ValidTo": date}}),
            false,
        ),
    ] {
        let key = key(&mut bench, condition.clone());
        let mut body = body.clone();
        body["KeyId"] = json!(key);
        let request = Bench::decode(operation, &body);
        let handled = bench.world_call(|kms, world| kms.handle(&request, &alice, world));
        let found = matches!(handled.verdict, crate::Verdict::Allowed(_));
        assert_eq!(found, allowed, "{operation} {condition}");
    }
}

#[test]
fn a_row_without_import_members_reads_as_before() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let id = key.parse().unwrap();
    let row = bench.kms.snapshot().key(id).unwrap().as_ref().clone();
    let raw = Row::Key(Box::new(row)).encode().unwrap();
    let text = String::from_utf8(raw.body).unwrap();
    for member in ["pending", "absent", "discarded", "import_token"] {
        assert!(!text.contains(&format!("\"{member}\"")), "{text}");
    }
}
