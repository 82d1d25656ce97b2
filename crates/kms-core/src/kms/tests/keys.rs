//! CreateKey's parameters, lookups, lists, rotation.

use super::*;

#[test]
fn a_new_key_says_what_aws_says() {
    let mut bench = Bench::new();
    let body = json!({"Description": "for tests", "Tags": [{"TagKey": "a", "TagValue": ""}]});
    let made = bench.call("CreateKey", body).unwrap()["KeyMetadata"].clone();
    let id = made["KeyId"].as_str().unwrap().to_owned();
    let expected = json!({
        "AWSAccountId": "000000000000", "KeyId": id, "Arn": arn(&id), "CreationDate": 1_700_000_000,
        "Enabled": true, "Description": "for tests", "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": "Enabled", "Origin": "AWS_KMS", "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT", "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "MultiRegion": false,
        "CurrentKeyMaterialId": made["CurrentKeyMaterialId"],
    });
    assert_eq!(made, expected);
    assert_eq!(made["CurrentKeyMaterialId"].as_str().unwrap().len(), 64);
    for name in [id.clone(), arn(&id)] {
        let described = bench.call("DescribeKey", json!({"KeyId": name})).unwrap();
        assert_eq!(described["KeyMetadata"], made);
    }
    let external = bench.create(json!({"Origin": "EXTERNAL"}));
    let described = bench
        .call("DescribeKey", json!({"KeyId": external}))
        .unwrap();
    let described = &described["KeyMetadata"];
    assert_eq!(
        (&described["KeyState"], &described["Enabled"]),
        (&json!("PendingImport"), &json!(false))
    );
    assert!(described.get("CurrentKeyMaterialId").is_none());
}

#[test]
fn create_key_refuses_what_does_not_fit() {
    let tag = |key: &str| json!({"TagKey": key, "TagValue": "v"});
    let many: Vec<_> = (0..51).map(|n| tag(&n.to_string())).collect();
    let long = format!(r#"{{"Statement":[],"x":"{}"}}"#, "y".repeat(33_000));
    let cases = [
        (json!({"Tags": many}), "TagException: Too many tags"),
        (
            json!({"Tags": [tag("a"), tag("a")]}),
            "TagException: Duplicate tag keys",
        ),
        (
            json!({"Tags": [tag("aws:x")]}),
            "TagException: Tags beginning with aws: are reserved",
        ),
        (
            json!({"KeySpec": "RSA_2048"}),
            "ValidationException: You must specify a KeyUsage value for all KMS keys except for \
             symmetric encryption keys.",
        ),
        (
            json!({"KeySpec": "RSA_2048", "KeyUsage": "KEY_AGREEMENT"}),
            "ValidationException: KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048",
        ),
        (
            json!({"KeyUsage": "SIGN_VERIFY"}),
            "ValidationException: KeyUsage SIGN_VERIFY is not compatible with KeySpec SYMMETRIC_DEFAULT",
        ),
        (
            json!({"KeySpec": "SYMMETRIC_DEFAULT", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT"}),
            "ValidationException: You cannot specify KeySpec and CustomerMasterKeySpec in the same \
             request. CustomerMasterKeySpec is deprecated.",
        ),
        (
            json!({"Origin": "EXTERNAL_KEY_STORE"}),
            "UnsupportedOperationException",
        ),
        (
            json!({"CustomKeyStoreId": "cks-1"}),
            "UnsupportedOperationException",
        ),
        (
            json!({"Policy": "not json"}),
            "MalformedPolicyDocumentException",
        ),
        (json!({"Policy": "[]"}), "MalformedPolicyDocumentException"),
        (
            json!({"Policy": r#"{"Statement":[{"Effect":"Maybe"}]}"#}),
            "MalformedPolicyDocumentException",
        ),
        (json!({"Policy": long}), "LimitExceededException"),
    ];
    let mut bench = Bench::new();
    for (body, error) in cases {
        let found = bench.call("CreateKey", body.clone()).unwrap_err();
        assert!(found.starts_with(error), "{body}: {found}");
    }
    assert!(
        bench.call("ListKeys", json!({})).unwrap()["Keys"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let policy = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Principal":"*"}}"#;
    let id = bench.create(json!({"Policy": policy})).parse().unwrap();
    assert_eq!(bench.kms.snapshot().keys[&id].policy, policy);
    let id = bench.create_key().parse().unwrap();
    let default: Value = serde_json::from_str(&bench.kms.snapshot().keys[&id].policy).unwrap();
    assert_eq!(
        default["Statement"][0]["Principal"]["AWS"],
        "arn:aws:iam::000000000000:root"
    );
}

#[test]
fn names_of_keys_are_refused_in_the_recorded_words() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let cases = [
        (
            NOWHERE.to_owned(),
            format!("Key '{}' does not exist", arn(NOWHERE)),
        ),
        ("nonsense".into(), "Invalid keyId 'nonsense'".into()),
        (
            arn(&key).replace("local-host-1", "eu-west-1"),
            "Invalid arn eu-west-1".into(),
        ),
        (
            "alias/none".into(),
            "Alias arn:aws:kms:local-host-1:000000000000:alias/none is not found.".into(),
        ),
    ];
    for (name, text) in cases {
        let found = bench
            .call("DescribeKey", json!({"KeyId": name}))
            .unwrap_err();
        assert_eq!(found, format!("NotFoundException: {text}"));
    }
    // Management takes no alias.
    bench
        .call(
            "CreateAlias",
            json!({"AliasName": "alias/k", "TargetKeyId": key}),
        )
        .unwrap();
    let found = bench
        .call("DisableKey", json!({"KeyId": "alias/k"}))
        .unwrap_err();
    assert_eq!(found, "NotFoundException: Invalid keyId 'alias/k'");
}

#[test]
fn pages_of_keys_neither_repeat_nor_skip() {
    let mut bench = Bench::new();
    let mut made: Vec<String> = (0..7).map(|_| bench.create_key()).collect();
    made.sort();
    let mut seen = vec![];
    let mut marker = Value::Null;
    loop {
        let page = bench
            .call("ListKeys", json!({"Limit": 3, "Marker": marker}))
            .unwrap();
        let keys = page["Keys"].as_array().unwrap();
        seen.extend(keys.iter().map(|k| k["KeyId"].as_str().unwrap().to_owned()));
        assert!(
            keys.iter()
                .all(|k| k["KeyArn"] == arn(k["KeyId"].as_str().unwrap()))
        );
        if page["Truncated"] == json!(false) {
            assert!(page.get("NextMarker").is_none());
            break;
        }
        assert_eq!(keys.len(), 3);
        marker = page["NextMarker"].clone();
    }
    assert_eq!(seen, made);
    let exact = bench.call("ListKeys", json!({"Limit": 7})).unwrap();
    assert_eq!(exact["Truncated"], json!(false));
    // Markers of other lists and inventions are refused.
    for (operation, body) in [
        ("ListKeys", json!({"Marker": "invented"})),
        (
            "ListKeys",
            json!({"Marker": marker, "ResourceOwners": ["OTHER_ACCOUNTS_VIA_RAM"]}),
        ),
        ("ListAliases", json!({"Marker": marker})),
        (
            "ListKeyRotations",
            json!({"KeyId": made[0], "Marker": marker}),
        ),
    ] {
        let found = bench.call(operation, body).unwrap_err();
        assert!(
            found.starts_with("InvalidMarkerException"),
            "{operation}: {found}"
        );
    }
    let others = json!({"ResourceOwners": ["OTHER_ACCOUNTS_VIA_RAM"]});
    assert_eq!(
        bench.call("ListKeys", others).unwrap(),
        json!({"Keys": [], "Truncated": false})
    );
}

#[test]
fn deletion_takes_seven_to_thirty_days() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    for (days, limit) in [
        (6, "greater than or equal to 7"),
        (31, "less than or equal to 30"),
    ] {
        let body = json!({"KeyId": key, "PendingWindowInDays": days});
        let found = bench.call("ScheduleKeyDeletion", body).unwrap_err();
        assert!(
            found.contains(limit) && found.contains(&format!("'{days}'")),
            "{found}"
        );
    }
    let reply = bench
        .call("ScheduleKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    let expected = json!({
        "KeyId": arn(&key), "DeletionDate": 1_700_000_000 + 30 * 86_400,
        "KeyState": "PendingDeletion", "PendingWindowInDays": 30,
    });
    assert_eq!(reply, expected);
    let described = bench.call("DescribeKey", json!({"KeyId": key})).unwrap();
    assert_eq!(
        described["KeyMetadata"]["DeletionDate"],
        expected["DeletionDate"]
    );
    bench.pass_days(29);
    assert!(bench.kms.deletions_due(bench.now).due.is_empty());
    let jumped = Now {
        wall_ms: i64::MAX,
        ..bench.now
    };
    assert!(bench.kms.deletions_due(jumped).due.is_empty());
    assert_eq!(bench.kms.deletions_due(jumped).clocks_disagree.len(), 1);
    bench.pass_days(1);
    assert_eq!(
        bench.kms.deletions_due(bench.now).due,
        [key.parse().unwrap()]
    );
    bench
        .call("CancelKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    assert!(bench.kms.deletions_due(bench.now).due.is_empty());
}

#[test]
fn on_demand_rotations_end_at_twenty_five() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    for _ in 0..25 {
        bench
            .call("RotateKeyOnDemand", json!({"KeyId": key}))
            .unwrap();
    }
    assert_eq!(
        bench
            .call("RotateKeyOnDemand", json!({"KeyId": key}))
            .unwrap_err(),
        format!(
            "LimitExceededException: The on-demand rotations limit has been reached for the given \
             keyId. No more on-demand rotations can be performed for this key: {}",
            arn(&key)
        )
    );
    let only = bench
        .call("ListKeyRotations", json!({"KeyId": key, "Limit": 20}))
        .unwrap();
    assert_eq!(only["Rotations"].as_array().unwrap().len(), 20);
    let body = json!({"KeyId": key, "Limit": 20, "Marker": only["NextMarker"]});
    let rest = bench.call("ListKeyRotations", body).unwrap();
    assert_eq!(
        (
            rest["Rotations"].as_array().unwrap().len(),
            &rest["Truncated"]
        ),
        (5, &json!(false))
    );
    assert_eq!(rest["Rotations"][4]["RotationType"], "ON_DEMAND");
    assert_eq!(rest["Rotations"][3]["KeyMaterialState"], "NON_CURRENT");
    assert_eq!(rest["Rotations"][4]["KeyMaterialState"], "CURRENT");
    let body = json!({"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"});
    let all = bench.call("ListKeyRotations", body).unwrap();
    let all = all["Rotations"].as_array().unwrap();
    assert_eq!(all.len(), 26);
    assert!(all[0].get("RotationDate").is_none() && all[0]["KeyMaterialState"] == "NON_CURRENT");
    assert_eq!(all[25]["KeyMaterialState"], "CURRENT");
    assert_eq!(all[25]["KeyMaterialId"], bench.material(&key));
}

#[test]
fn automatic_rotation_follows_its_period_and_the_states() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let status = |bench: &mut Bench| {
        bench
            .call("GetKeyRotationStatus", json!({"KeyId": key}))
            .unwrap()
    };
    assert_eq!(
        status(&mut bench),
        json!({"KeyId": arn(&key), "KeyRotationEnabled": false})
    );
    let body = json!({"KeyId": key, "RotationPeriodInDays": 90});
    bench.call("EnableKeyRotation", body).unwrap();
    let on = json!({
        "KeyId": arn(&key), "KeyRotationEnabled": true, "RotationPeriodInDays": 90,
        "NextRotationDate": 1_700_000_000 + 90 * 86_400,
    });
    assert_eq!(status(&mut bench), on);
    // Without a period it is 365 days, whatever it was.
    bench
        .call("EnableKeyRotation", json!({"KeyId": key}))
        .unwrap();
    assert_eq!(status(&mut bench)["RotationPeriodInDays"], 365);
    let body = json!({"KeyId": key, "RotationPeriodInDays": 90});
    bench.call("EnableKeyRotation", body).unwrap();
    assert_eq!(status(&mut bench), on);
    let first = bench.material(&key);
    bench.pass_days(89);
    assert!(bench.kms.rotations_due(bench.now).due.is_empty());
    bench.pass_days(1);
    let conflict = bench
        .call("RotateKeyOnDemand", json!({"KeyId": key}))
        .unwrap_err();
    assert!(conflict.starts_with("ConflictException"), "{conflict}");

    // A disabled key is not rotated, and is as soon as it is enabled again.
    bench.call("DisableKey", json!({"KeyId": key})).unwrap();
    assert!(bench.kms.rotations_due(bench.now).due.is_empty());
    bench.call("EnableKey", json!({"KeyId": key})).unwrap();
    let due = bench.kms.rotations_due(bench.now).due;
    let write = bench
        .world_call(|kms, world| kms.rotate_automatically(due[0], world))
        .unwrap();
    bench.commit(write);
    assert_ne!(bench.material(&key), first);
    assert!(bench.kms.rotations_due(bench.now).due.is_empty());
    assert_eq!(
        status(&mut bench)["NextRotationDate"],
        json!(1_700_000_000 + 180 * 86_400)
    );
    let list = bench
        .call("ListKeyRotations", json!({"KeyId": key}))
        .unwrap();
    assert_eq!(list["Rotations"][0]["RotationType"], "AUTOMATIC");

    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    assert_eq!(status(&mut bench)["KeyRotationEnabled"], json!(false));
    bench
        .call("CancelKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    assert_eq!(status(&mut bench)["KeyRotationEnabled"], json!(true));
    bench.call("EnableKey", json!({"KeyId": key})).unwrap();
    bench
        .call("DisableKeyRotation", json!({"KeyId": key}))
        .unwrap();
    assert_eq!(status(&mut bench)["KeyRotationEnabled"], json!(false));
}
