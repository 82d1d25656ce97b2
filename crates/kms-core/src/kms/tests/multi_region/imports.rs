//! Imported material in several Regions: each imports it for itself, and rotates with the primary key.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use kms_crypto::asymmetric::{EncryptionScheme, PairSpec, PublicKey};

use super::*;

const EAST: &str = "eu-west-1";

/// A primary key of imported material at home.
fn external(bench: &mut Bench) -> String {
    let body = json!({"MultiRegion": true, "Origin": "EXTERNAL"});
    let made = bench.at(HOME, "CreateKey", body).unwrap();
    made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
}

fn replicate(bench: &mut Bench, key: &str, region: &str) {
    let body = json!({"KeyId": key, "ReplicaRegion": region});
    bench.at(HOME, "ReplicateKey", body).unwrap();
}

/// Imports 32 bytes of `material`; members of `with` are added.
fn import(
    bench: &mut Bench,
    region: &str,
    key: &str,
    material: u8,
    with: Value,
) -> Result<String, String> {
    let body = json!({
        "KeyId": key, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
    });
    let given = bench.at(region, "GetParametersForImport", body).unwrap();
    let spki = BASE64.decode(given["PublicKey"].as_str().unwrap().as_bytes());
    let public = PublicKey::from_spki(PairSpec::Rsa2048, &spki.unwrap()).unwrap();
    let wrapped = public.encrypt(EncryptionScheme::RsaOaepSha256, &[material; 32]);
    let mut body = json!({
        "KeyId": key, "ImportToken": given["ImportToken"],
        "EncryptedKeyMaterial": BASE64.encode(&wrapped.unwrap()),
    });
    for (name, value) in with.as_object().unwrap() {
        body[name] = value.clone();
    }
    if body.get("ValidTo").is_none() {
        body["ExpirationModel"] = json!("KEY_MATERIAL_DOES_NOT_EXPIRE");
    }
    let reply = bench.at(region, "ImportKeyMaterial", body)?;
    Ok(reply["KeyMaterialId"].as_str().unwrap().to_owned())
}

fn new() -> Value {
    json!({"ImportType": "NEW_KEY_MATERIAL"})
}

/// The states of a key's materials by their ids, as ListKeyRotations says them.
fn states(bench: &mut Bench, region: &str, key: &str) -> BTreeMap<String, (String, String)> {
    let body = json!({"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"});
    let list = bench.at(region, "ListKeyRotations", body).unwrap();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let entries = list["Rotations"].as_array().unwrap().iter();
    entries
        .map(|entry| {
            let both = (text(entry, "KeyMaterialState"), text(entry, "ImportState"));
            (text(entry, "KeyMaterialId"), both)
        })
        .collect()
}

fn state_of(bench: &mut Bench, region: &str, key: &str, material: &str) -> String {
    let all = states(bench, region, key);
    all.get(material)
        .map(|(state, _)| state.clone())
        .unwrap_or_default()
}

fn rotate(bench: &mut Bench, key: &str) -> Result<Value, String> {
    bench.at(HOME, "RotateKeyOnDemand", json!({"KeyId": key}))
}

/// A key with two replicas, all with material 1: its id, and the material's.
fn family(bench: &mut Bench) -> (String, String) {
    let key = external(bench);
    let first = import(bench, HOME, &key, 1, json!({})).unwrap();
    for region in [WEST, EAST] {
        replicate(bench, &key, region);
        assert_eq!(import(bench, region, &key, 1, json!({})).unwrap(), first);
    }
    (key, first)
}

#[test]
fn a_replica_waits_for_the_material_of_its_primary_key() {
    let mut bench = bench();
    let key = external(&mut bench);
    let first = import(&mut bench, HOME, &key, 1, new()).unwrap();
    replicate(&mut bench, &key, WEST);
    let metadata = bench.described(WEST, &key);
    assert_eq!(metadata["KeyState"], "PendingImport");
    // There is no material yet, so that none is current; which one is to be is told.
    assert!(metadata.get("CurrentKeyMaterialId").is_none(), "{metadata}");
    assert!(metadata.get("ExpirationModel").is_none(), "{metadata}");
    let missing = ("CURRENT".to_owned(), "PENDING_IMPORT".to_owned());
    assert_eq!(
        states(&mut bench, WEST, &key),
        BTreeMap::from([(first.clone(), missing)])
    );
    let gone = bench.at(WEST, "DeleteImportedKeyMaterial", json!({"KeyId": key}));
    assert!(gone.unwrap().get("KeyMaterialId").is_none());
    for with in [json!({}), new()] {
        let refused = import(&mut bench, WEST, &key, 2, with).unwrap_err();
        assert!(
            refused.starts_with("IncorrectKeyMaterialException"),
            "{refused}"
        );
    }
    let same = import(&mut bench, WEST, &key, 1, json!({})).unwrap();
    assert_eq!(same, first);
    let metadata = bench.described(WEST, &key);
    assert_eq!(metadata["KeyState"], "Enabled");
    assert_eq!(metadata["CurrentKeyMaterialId"], first);
    // What one Region closes the other one opens.
    let body = json!({"KeyId": key, "Plaintext": "aGVsbG8="});
    let closed = bench.at(HOME, "Encrypt", body).unwrap();
    let body = json!({"CiphertextBlob": closed["CiphertextBlob"], "KeyId": key});
    let opened = bench.at(WEST, "Decrypt", body).unwrap();
    assert_eq!(opened["Plaintext"], "aGVsbG8=");
    // Each has its own, and says which it was when it is gone.
    let body = json!({"KeyId": key});
    bench.at(WEST, "DeleteImportedKeyMaterial", body).unwrap();
    let metadata = bench.described(WEST, &key);
    assert_eq!(metadata["KeyState"], "PendingImport");
    assert_eq!(metadata["CurrentKeyMaterialId"], first);
    assert_eq!(bench.described(HOME, &key)["KeyState"], "Enabled");
}

#[test]
fn the_first_material_of_a_replica_may_be_called_new() {
    let mut bench = bench();
    let key = external(&mut bench);
    import(&mut bench, HOME, &key, 1, json!({})).unwrap();
    replicate(&mut bench, &key, WEST);
    import(&mut bench, WEST, &key, 1, new()).unwrap();
    assert_eq!(bench.described(WEST, &key)["KeyState"], "Enabled");
    let refused = import(&mut bench, WEST, &key, 1, new()).unwrap_err();
    assert!(refused.contains("associated with"), "{refused}");
}

#[test]
fn new_material_is_rotated_to_when_every_region_has_it() {
    let mut bench = bench();
    let (key, first) = family(&mut bench);
    let body = json!({"KeyId": key, "Plaintext": "aGVsbG8="});
    let old = bench.at(HOME, "Encrypt", body.clone()).unwrap();

    // Not into a replica first.
    for with in [json!({}), new()] {
        let refused = import(&mut bench, WEST, &key, 2, with).unwrap_err();
        assert!(
            refused.starts_with("IncorrectKeyMaterialException"),
            "{refused}"
        );
    }
    let second = import(&mut bench, HOME, &key, 2, new()).unwrap();
    let waits = "PENDING_MULTI_REGION_IMPORT_AND_ROTATION";
    assert_eq!(state_of(&mut bench, HOME, &key, &second), waits);
    assert_eq!(state_of(&mut bench, WEST, &key, &second), "");
    let arn = arn_in(HOME, &key);
    let none = format!(
        "KMSInvalidStateException: No available key material pending rotation for the key: {arn}."
    );
    let refused = rotate(&mut bench, &key).unwrap_err();
    assert!(refused.starts_with(&none), "{refused}");
    for region in [WEST, EAST] {
        assert!(refused.contains(&arn_in(region, &key)), "{refused}");
    }
    // One at a time, here as everywhere.
    let refused = import(&mut bench, HOME, &key, 3, new()).unwrap_err();
    assert!(refused.contains("is pending rotation"), "{refused}");
    // It comes into a replica as what its primary key has already.
    let refused = import(&mut bench, WEST, &key, 2, new()).unwrap_err();
    assert!(refused.contains("EXISTING_KEY_MATERIAL"), "{refused}");
    let existing = json!({"ImportType": "EXISTING_KEY_MATERIAL", "KeyMaterialId": second});
    import(&mut bench, WEST, &key, 2, existing).unwrap();
    for region in [HOME, WEST] {
        assert_eq!(state_of(&mut bench, region, &key, &second), waits);
    }
    assert!(rotate(&mut bench, &key).is_err());
    import(&mut bench, EAST, &key, 2, json!({})).unwrap();
    for region in [HOME, WEST, EAST] {
        assert_eq!(
            state_of(&mut bench, region, &key, &second),
            "PENDING_ROTATION"
        );
        assert_eq!(bench.described(region, &key)["CurrentKeyMaterialId"], first);
    }
    let refused = bench.at(WEST, "RotateKeyOnDemand", json!({"KeyId": key}));
    assert!(
        refused
            .unwrap_err()
            .contains("is not a multi-region primary key")
    );
    assert_eq!(rotate(&mut bench, &key).unwrap(), json!({"KeyId": arn}));
    for region in [HOME, WEST, EAST] {
        assert_eq!(state_of(&mut bench, region, &key, &second), "CURRENT");
        assert_eq!(state_of(&mut bench, region, &key, &first), "NON_CURRENT");
        let metadata = bench.described(region, &key);
        assert_eq!(metadata["CurrentKeyMaterialId"], second);
        assert_eq!(metadata["KeyState"], "Enabled");
    }
    let young = bench.at(EAST, "Encrypt", body).unwrap();
    for sealed in [old, young] {
        let body = json!({"CiphertextBlob": sealed["CiphertextBlob"], "KeyId": key});
        let opened = bench.at(WEST, "Decrypt", body).unwrap();
        assert_eq!(opened["Plaintext"], "aGVsbG8=");
    }
    assert!(rotate(&mut bench, &key).unwrap_err().starts_with(&none));
}

#[test]
fn a_region_that_joins_or_leaves_decides_too() {
    let mut bench = bench();
    let key = external(&mut bench);
    let first = import(&mut bench, HOME, &key, 1, json!({})).unwrap();
    // Without replicas it is as for any key.
    let second = import(&mut bench, HOME, &key, 2, new()).unwrap();
    assert_eq!(
        state_of(&mut bench, HOME, &key, &second),
        "PENDING_ROTATION"
    );
    replicate(&mut bench, &key, WEST);
    assert!(rotate(&mut bench, &key).is_err());
    // What waits may come before what is current.
    import(&mut bench, WEST, &key, 2, json!({})).unwrap();
    assert_eq!(bench.described(WEST, &key)["KeyState"], "PendingImport");
    rotate(&mut bench, &key).unwrap();
    let metadata = bench.described(WEST, &key);
    assert_eq!(metadata["KeyState"], "PendingImport");
    assert_eq!(metadata["CurrentKeyMaterialId"], second);
    import(&mut bench, WEST, &key, 1, json!({})).unwrap();
    let metadata = bench.described(WEST, &key);
    assert_eq!(metadata["KeyState"], "Enabled");
    assert_eq!(metadata["CurrentKeyMaterialId"], second);
    assert_eq!(state_of(&mut bench, WEST, &key, &first), "NON_CURRENT");

    let third = import(&mut bench, HOME, &key, 3, new()).unwrap();
    assert!(rotate(&mut bench, &key).is_err());
    let gone = [bench.kms.snapshot().family(key.parse().unwrap())]
        .into_iter()
        .flatten()
        .filter(|row| !row.id.place().is_home())
        .map(|row| row.id)
        .collect::<Vec<_>>();
    let buried = crate::epoch::bury(bench.kms.snapshot(), &gone, 0);
    bench.apply(buried);
    rotate(&mut bench, &key).unwrap();
    assert_eq!(state_of(&mut bench, HOME, &key, &third), "CURRENT");
}

#[test]
fn what_waits_goes_from_every_region_with_the_primary_key() {
    let mut bench = bench();
    let (key, _) = family(&mut bench);
    let second = import(&mut bench, HOME, &key, 2, new()).unwrap();
    for region in [WEST, EAST] {
        import(&mut bench, region, &key, 2, json!({})).unwrap();
    }
    let body = json!({"KeyId": key, "KeyMaterialId": second});
    // Of a replica it is its own.
    let deleted = bench.at(WEST, "DeleteImportedKeyMaterial", body.clone());
    deleted.unwrap();
    assert_eq!(state_of(&mut bench, WEST, &key, &second), "");
    for region in [HOME, EAST] {
        assert_eq!(
            state_of(&mut bench, region, &key, &second),
            "PENDING_MULTI_REGION_IMPORT_AND_ROTATION"
        );
    }
    bench.at(HOME, "DeleteImportedKeyMaterial", body).unwrap();
    for region in [HOME, WEST, EAST] {
        assert_eq!(state_of(&mut bench, region, &key, &second), "");
        assert_eq!(bench.described(region, &key)["KeyState"], "Enabled");
    }
    // Another one takes its place; when the primary key's has expired, those of the replicas go with it.
    let until = bench.now.wall_ms / 1000 + 86_400;
    let mut with = new();
    with["ValidTo"] = json!(until);
    let third = import(&mut bench, HOME, &key, 3, with).unwrap();
    import(&mut bench, WEST, &key, 3, json!({})).unwrap();
    bench.pass_days(1);
    let Outcome::Write(write) = bench.kms.expire(bench.now) else {
        panic!("nothing expired");
    };
    bench.commit(*write);
    for region in [HOME, WEST] {
        assert_eq!(state_of(&mut bench, region, &key, &third), "");
    }
    // Every key remembers what was taken from it.
    let list = crate::tombstones::list(bench.kms.snapshot());
    assert_eq!(list.tombstones.len(), 3);
}

#[test]
fn expired_material_of_a_replica_is_not_rotated_to() {
    let mut bench = bench();
    let key = external(&mut bench);
    import(&mut bench, HOME, &key, 1, json!({})).unwrap();
    replicate(&mut bench, &key, WEST);
    import(&mut bench, WEST, &key, 1, json!({})).unwrap();
    import(&mut bench, HOME, &key, 2, new()).unwrap();
    let until = bench.now.wall_ms / 1000 + 86_400;
    import(&mut bench, WEST, &key, 2, json!({"ValidTo": until})).unwrap();
    bench.now.wall_ms += 86_400_000;
    let refused = rotate(&mut bench, &key).unwrap_err();
    assert!(refused.contains(&arn_in(WEST, &key)), "{refused}");
    import(
        &mut bench,
        WEST,
        &key,
        2,
        json!({"ValidTo": until + 86_400}),
    )
    .unwrap();
    rotate(&mut bench, &key).unwrap();
}

#[test]
fn another_primary_key_goes_on_with_what_waits() {
    let mut bench = bench();
    let (key, _) = family(&mut bench);
    let second = import(&mut bench, HOME, &key, 2, new()).unwrap();
    import(&mut bench, EAST, &key, 2, json!({})).unwrap();
    let body = json!({"KeyId": key, "PrimaryRegion": WEST});
    bench.at(HOME, "UpdatePrimaryRegion", body).unwrap();
    let rotate = |bench: &mut Bench| bench.at(WEST, "RotateKeyOnDemand", json!({"KeyId": key}));
    assert!(rotate(&mut bench).is_err());
    let refused = import(&mut bench, WEST, &key, 3, new()).unwrap_err();
    assert!(refused.contains("is pending rotation"), "{refused}");
    import(&mut bench, WEST, &key, 2, new()).unwrap();
    rotate(&mut bench).unwrap();
    for region in [HOME, WEST, EAST] {
        assert_eq!(state_of(&mut bench, region, &key, &second), "CURRENT");
    }
}
