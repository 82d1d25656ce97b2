//! Blobs: what opens them, what does not, and in which words.

use data_encoding::BASE64;
use proptest::prelude::*;

use super::*;

const UNKNOWN_KEY: &str = "AccessDeniedException: The ciphertext refers to a customer master key that \
                           does not exist, does not exist in this region, or you are not allowed to access.";
const DRY_RUN: &str =
    "DryRunOperationException: The request would have succeeded, but the DryRun option is set.";

#[test]
fn the_largest_and_the_smallest_plaintext_come_back() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    for length in [1, 15, 16, 4095, 4096] {
        let text = vec![0x5a; length];
        let blob = bench.encrypt(&key, &text, json!({}));
        assert!(BASE64.decode(blob.as_bytes()).unwrap().len() <= 6144);
        assert_eq!(bench.decrypt(&blob, json!({})).unwrap(), text);
    }
}

#[test]
fn replies_name_key_and_material() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let material = bench.material(&key);
    let made = bench
        .call("Encrypt", json!({"KeyId": key, "Plaintext": "AAAA"}))
        .unwrap();
    let names: Vec<_> = made.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(made["KeyId"], arn(&key));
    assert_eq!(made["EncryptionAlgorithm"], "SYMMETRIC_DEFAULT");
    let opened = bench
        .call("Decrypt", json!({"CiphertextBlob": made["CiphertextBlob"]}))
        .unwrap();
    assert_eq!(opened["KeyId"], arn(&key));
    assert_eq!(opened["KeyMaterialId"], material);
    let data = bench
        .call(
            "GenerateDataKey",
            json!({"KeyId": key, "KeySpec": "AES_128"}),
        )
        .unwrap();
    assert_eq!(data["KeyMaterialId"], material);
    assert_eq!(
        BASE64
            .decode(data["Plaintext"].as_str().unwrap().as_bytes())
            .unwrap()
            .len(),
        16
    );
    let opened = bench
        .call("Decrypt", json!({"CiphertextBlob": data["CiphertextBlob"]}))
        .unwrap();
    assert_eq!(opened["Plaintext"], data["Plaintext"]);
    let body = json!({"KeyId": key, "NumberOfBytes": 1024});
    let data = bench.call("GenerateDataKeyWithoutPlaintext", body).unwrap();
    assert!(data.get("Plaintext").is_none());
    let opened = bench
        .call("Decrypt", json!({"CiphertextBlob": data["CiphertextBlob"]}))
        .unwrap();
    assert_eq!(
        BASE64
            .decode(opened["Plaintext"].as_str().unwrap().as_bytes())
            .unwrap()
            .len(),
        1024
    );
}

#[test]
fn any_change_of_blob_or_context_is_refused_without_a_word() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let context = json!({"purpose": "test", "b": "2", "a": "1"});
    let blob = bench.encrypt(&key, b"attack at dawn", context.clone());
    let bytes = BASE64.decode(blob.as_bytes()).unwrap();
    let refused = Err("InvalidCiphertextException".to_owned());
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            bench.decrypt(&BASE64.encode(&changed), context.clone()),
            refused,
            "bit {bit}"
        );
    }
    for length in 1..bytes.len() {
        assert_eq!(
            bench.decrypt(&BASE64.encode(&bytes[..length]), context.clone()),
            refused
        );
    }
    let mut longer = bytes;
    longer.push(0);
    assert_eq!(bench.decrypt(&BASE64.encode(&longer), context), refused);
    for other in [
        json!({}),
        json!({"purpose": "test", "b": "2"}),
        json!({"purpose": "test", "b": "2", "a": "1", "c": ""}),
        json!({"purpose": "Test", "b": "2", "a": "1"}),
        json!({"purpose": "test", "b": "1", "a": "2"}),
        json!({"purpose": "test", "B": "2", "a": "1"}),
    ] {
        assert_eq!(bench.decrypt(&blob, other.clone()), refused, "{other}");
    }
    let reordered = json!({"a": "1", "b": "2", "purpose": "test"});
    assert_eq!(bench.decrypt(&blob, reordered).unwrap(), b"attack at dawn");
}

#[test]
fn a_whole_header_of_an_unknown_key_is_access_denied() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let mut other = Bench::new();
    let foreign_key = other.create_key();
    let foreign = other.encrypt(&foreign_key, b"x", json!({}));
    assert_eq!(bench.decrypt(&foreign, json!({})), Err(UNKNOWN_KEY.into()));
    let mut region = Bench::of("000000000000", "local-host-2");
    let there = region.create_key();
    let blob = region.encrypt(&there, b"x", json!({}));
    assert_eq!(bench.decrypt(&blob, json!({})), Err(UNKNOWN_KEY.into()));
    // A version that the key never had.
    let header = crate::blob::Header {
        scope: Scope::new("000000000000", "local-host-1").unwrap(),
        key: key.parse().unwrap(),
        material: crate::MaterialId([1; 32]),
    };
    let mut blob = header.encode();
    blob.extend_from_slice(&[0; 80]);
    assert_eq!(
        bench.decrypt(&BASE64.encode(&blob), json!({})),
        Err("InvalidCiphertextException".into())
    );
}

#[test]
fn the_named_key_must_be_the_blobs_key() {
    let mut bench = Bench::new();
    let (key, other) = (bench.create_key(), bench.create_key());
    bench
        .call(
            "CreateAlias",
            json!({"AliasName": "alias/k", "TargetKeyId": key}),
        )
        .unwrap();
    let blob = bench.encrypt("alias/k", b"x", json!({}));
    for name in [
        key.clone(),
        arn(&key),
        "alias/k".into(),
        arn("x").replace("key/x", "alias/k"),
    ] {
        let body = json!({"CiphertextBlob": blob, "KeyId": name});
        assert!(bench.call("Decrypt", body).is_ok(), "{name}");
    }
    let body = json!({"CiphertextBlob": blob, "KeyId": other});
    assert_eq!(
        bench.call("Decrypt", body).unwrap_err(),
        "IncorrectKeyException: The key ID in the request does not identify a CMK that can perform \
         this operation."
    );
    let body = json!({"CiphertextBlob": blob, "KeyId": NOWHERE});
    assert_eq!(
        bench.call("Decrypt", body).unwrap_err(),
        format!("NotFoundException: Key '{}' does not exist", arn(NOWHERE))
    );
}

#[test]
fn old_versions_open_what_they_made_and_new_blobs_use_the_new_one() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let mut made = vec![];
    for version in 0..4u8 {
        if version > 0 {
            let reply = bench
                .call("RotateKeyOnDemand", json!({"KeyId": key}))
                .unwrap();
            assert_eq!(reply["KeyId"], arn(&key));
        }
        made.push((
            bench.material(&key),
            bench.encrypt(&key, &[version], json!({})),
        ));
    }
    for (version, (material, blob)) in made.iter().enumerate() {
        let opened = bench
            .call("Decrypt", json!({"CiphertextBlob": blob}))
            .unwrap();
        assert_eq!(opened["KeyMaterialId"], *material);
        assert_eq!(opened["Plaintext"], BASE64.encode(&[version as u8]));
    }
}

#[test]
fn reencrypt_moves_between_keys_and_contexts() {
    let mut bench = Bench::new();
    let (from, to) = (bench.create_key(), bench.create_key());
    let blob = bench.encrypt(&from, b"payload", json!({"old": "1"}));
    let body = json!({
        "CiphertextBlob": blob, "SourceEncryptionContext": {"old": "1"}, "DestinationKeyId": to,
        "DestinationEncryptionContext": {"new": "2"},
    });
    let moved = bench.call("ReEncrypt", body).unwrap();
    assert_eq!(
        (&moved["SourceKeyId"], &moved["KeyId"]),
        (&json!(arn(&from)), &json!(arn(&to)))
    );
    assert_eq!(moved["SourceKeyMaterialId"], bench.material(&from));
    assert_eq!(moved["DestinationKeyMaterialId"], bench.material(&to));
    let blob = moved["CiphertextBlob"].as_str().unwrap().to_owned();
    assert_eq!(
        bench.decrypt(&blob, json!({"new": "2"})).unwrap(),
        b"payload"
    );
    let wrong = json!({"CiphertextBlob": blob, "DestinationKeyId": from});
    assert_eq!(
        bench.call("ReEncrypt", wrong).unwrap_err(),
        "InvalidCiphertextException"
    );
}

#[test]
fn a_dry_run_tells_the_real_error_or_that_it_was_one() {
    let mut bench = Bench::new();
    let (key, disabled) = (bench.create_key(), bench.create_key());
    let blob = bench.encrypt(&key, b"x", json!({}));
    bench
        .call("DisableKey", json!({"KeyId": disabled}))
        .unwrap();
    let refused = format!("DisabledException: {} is disabled.", arn(&disabled));
    let cases = [
        (
            "Encrypt",
            json!({"KeyId": key, "Plaintext": "AAAA"}),
            DRY_RUN,
        ),
        (
            "Encrypt",
            json!({"KeyId": disabled, "Plaintext": "AAAA"}),
            &refused,
        ),
        (
            "GenerateDataKey",
            json!({"KeyId": key, "KeySpec": "AES_256"}),
            DRY_RUN,
        ),
        (
            "GenerateDataKeyWithoutPlaintext",
            json!({"KeyId": key, "KeySpec": "AES_256"}),
            DRY_RUN,
        ),
        ("Decrypt", json!({"CiphertextBlob": blob}), DRY_RUN),
        (
            "Decrypt",
            json!({"CiphertextBlob": "AAAA"}),
            "InvalidCiphertextException",
        ),
        (
            "Decrypt",
            json!({"KeyId": key, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}),
            DRY_RUN,
        ),
        (
            "Decrypt",
            json!({"KeyId": key, "CiphertextBlob": "AAAA", "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}),
            DRY_RUN,
        ),
        (
            "Decrypt",
            json!({"KeyId": disabled, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}),
            &refused,
        ),
        (
            "ReEncrypt",
            json!({"CiphertextBlob": blob, "DestinationKeyId": key}),
            DRY_RUN,
        ),
        (
            "ReEncrypt",
            json!({"CiphertextBlob": blob, "DestinationKeyId": disabled}),
            &refused,
        ),
    ];
    for (operation, mut body, error) in cases {
        body["DryRun"] = json!(true);
        assert_eq!(
            bench.call(operation, body.clone()).unwrap_err(),
            error,
            "{operation} {body}"
        );
    }
    let body = json!({"DryRun": true, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]});
    assert!(bench.call("Decrypt", body).unwrap_err().contains("'keyId'"));
}

#[test]
fn algorithms_of_other_keys_do_not_fit_and_usage_comes_before_state() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    bench.call("DisableKey", json!({"KeyId": key})).unwrap();
    let body =
        json!({"KeyId": key, "Plaintext": "AAAA", "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"});
    assert_eq!(
        bench.call("Encrypt", body).unwrap_err(),
        "InvalidKeyUsageException: Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec \
         SYMMETRIC_DEFAULT."
    );
}

#[test]
fn disabling_wipes_what_is_cached() {
    let mut bench = Bench::new();
    let (key, other) = (bench.create_key(), bench.create_key());
    bench.encrypt(&key, b"x", json!({}));
    bench.encrypt(&other, b"x", json!({}));
    assert_eq!(bench.provider.cached(), 2);
    bench.call("DisableKey", json!({"KeyId": key})).unwrap();
    assert_eq!(bench.provider.cached(), 1);
    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": other}))
        .unwrap();
    assert_eq!(bench.provider.cached(), 0);
}

#[test]
fn random_bytes_have_the_length_asked_for() {
    let mut bench = Bench::new();
    let reply = bench
        .call("GenerateRandom", json!({"NumberOfBytes": 1024}))
        .unwrap();
    let bytes = BASE64
        .decode(reply["Plaintext"].as_str().unwrap().as_bytes())
        .unwrap();
    assert_eq!(bytes.len(), 1024);
    assert!(bytes.iter().any(|b| *b != 0));
    let again = bench
        .call("GenerateRandom", json!({"NumberOfBytes": 1024}))
        .unwrap();
    assert_ne!(reply, again);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_sent_as_a_blob_is_answered(bytes in proptest::collection::vec(any::<u8>(), 1..400)) {
        let mut bench = Bench::new();
        let error = bench.decrypt(&BASE64.encode(&bytes), json!({})).unwrap_err();
        prop_assert_eq!(error, "InvalidCiphertextException");
    }
}
