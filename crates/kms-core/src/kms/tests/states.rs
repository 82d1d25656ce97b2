//! Every operation on a key in every state that a key can get into here.

use super::*;

/// Answers by state: Enabled, Disabled, PendingDeletion, PendingImport, destroyed.
/// `.` is success; `D` disabled, `P` pending deletion, `I` pending import, `N` not pending deletion,
/// `X` wrong origin, `?` not found.
const TABLE: &[(&str, &str)] = &[
    ("Encrypt", ".DPI?"),
    ("ReEncrypt", ".DPI?"),
    ("GenerateDataKey", ".DPI?"),
    ("GenerateDataKeyWithoutPlaintext", ".DPI?"),
    ("DescribeKey", "....?"),
    ("ListAliases", "....?"),
    ("GetKeyLastUsage", "....?"),
    ("UpdateKeyDescription", "..P.?"),
    ("CreateAlias", "..P.?"),
    ("UpdateAlias", "..P.?"),
    ("EnableKey", "..PI?"),
    ("DisableKey", "..PI?"),
    ("EnableKeyRotation", ".DPX?"),
    ("DisableKeyRotation", ".DPX?"),
    ("GetKeyRotationStatus", "...X?"),
    ("RotateKeyOnDemand", ".DPI?"),
    ("ListKeyRotations", "....?"),
    ("ScheduleKeyDeletion", "..P.?"),
    ("CancelKeyDeletion", "NN.N?"),
    ("CreatePolicy", ".DPI?"),
];

fn key_in(bench: &mut Bench, state: usize) -> String {
    if state == 3 {
        return bench.create(json!({"Origin": "EXTERNAL"}));
    }
    let key = bench.create_key();
    match state {
        1 => drop(bench.call("DisableKey", json!({"KeyId": key})).unwrap()),
        2 | 4 => {
            bench
                .call(
                    "ScheduleKeyDeletion",
                    json!({"KeyId": key, "PendingWindowInDays": 7}),
                )
                .unwrap();
        }
        _ => {}
    }
    if state == 4 {
        bench.destroy(&key);
    }
    key
}

fn expected(mark: char, key: &str) -> Option<String> {
    let arn = arn(key);
    Some(match mark {
        '.' => return None,
        'D' => format!("DisabledException: {arn} is disabled."),
        'P' => format!("KMSInvalidStateException: {arn} is pending deletion."),
        'I' => format!("KMSInvalidStateException: {arn} is pending import."),
        'N' => format!(
            "KMSInvalidStateException: {arn} is not pending deletion (or pending replica deletion)."
        ),
        'X' => format!(
            "UnsupportedOperationException: {arn} origin is EXTERNAL which is not valid for this operation."
        ),
        '?' => format!("NotFoundException: Key '{arn}' does not exist"),
        _ => unreachable!(),
    })
}

#[test]
fn every_operation_in_every_state() {
    for (operation, marks) in TABLE {
        for (state, mark) in marks.chars().enumerate() {
            let mut bench = Bench::new();
            let other = bench.create_key();
            bench
                .call(
                    "CreateAlias",
                    json!({"AliasName": "alias/other", "TargetKeyId": other}),
                )
                .unwrap();
            let blob = bench.encrypt(&other, b"text", json!({}));
            let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
            let key = key_in(&mut bench, state);
            let body = match *operation {
                "Encrypt" => json!({"KeyId": key, "Plaintext": "AAAA"}),
                "ReEncrypt" => json!({"CiphertextBlob": blob, "DestinationKeyId": key}),
                "GenerateDataKey" | "GenerateDataKeyWithoutPlaintext" => {
                    json!({"KeyId": key, "KeySpec": "AES_256"})
                }
                "CreateAlias" => json!({"AliasName": "alias/new", "TargetKeyId": key}),
                "UpdateAlias" => json!({"AliasName": "alias/other", "TargetKeyId": key}),
                "UpdateKeyDescription" => json!({"KeyId": key, "Description": "new"}),
                "CreatePolicy" => json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"}),
                _ => json!({"KeyId": key}),
            };
            let found = bench.call(operation, body).err();
            assert_eq!(found, expected(mark, &key), "{operation} in state {state}");
        }
    }
}

#[test]
fn what_was_made_before_is_refused_in_the_same_words() {
    for (state, mark) in "DP?".chars().enumerate() {
        let mut bench = Bench::new();
        let key = bench.create_key();
        let blob = bench.encrypt(&key, b"text", json!({}));
        let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
        let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "GCM"});
        let policy = bench.call("CreatePolicy", body).unwrap()["PolicyId"].clone();
        let get = json!({"VolumeId": volume, "PolicyId": policy});
        assert!(bench.call("GetPolicy", get.clone()).is_ok());
        match state {
            0 => drop(bench.call("DisableKey", json!({"KeyId": key})).unwrap()),
            _ => drop(
                bench
                    .call("ScheduleKeyDeletion", json!({"KeyId": key}))
                    .unwrap(),
            ),
        }
        if state == 2 {
            bench.destroy(&key);
        }
        assert_eq!(bench.call("GetPolicy", get).err(), expected(mark, &key));
        let refused = match state {
            2 => Some(
                "AccessDeniedException: The ciphertext refers to a customer master key that does \
                 not exist, does not exist in this region, or you are not allowed to access."
                    .into(),
            ),
            _ => expected(mark, &key),
        };
        assert_eq!(bench.decrypt(&blob, json!({})).err(), refused);
    }
}

#[test]
fn transitions_lead_where_aws_says() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let step = |bench: &mut Bench, operation: &str, state: &str| {
        bench.call(operation, json!({"KeyId": key})).unwrap();
        assert_eq!(bench.state(&key), state, "{operation}");
    };
    assert_eq!(bench.state(&key), "Enabled");
    step(&mut bench, "EnableKey", "Enabled");
    step(&mut bench, "DisableKey", "Disabled");
    step(&mut bench, "EnableKey", "Enabled");
    step(&mut bench, "ScheduleKeyDeletion", "PendingDeletion");
    step(&mut bench, "CancelKeyDeletion", "Disabled");
    step(&mut bench, "EnableKey", "Enabled");
    assert_eq!(
        bench.tightenings, 2,
        "one DisableKey, one ScheduleKeyDeletion"
    );

    let imported = bench.create(json!({"Origin": "EXTERNAL"}));
    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": imported}))
        .unwrap();
    bench
        .call("CancelKeyDeletion", json!({"KeyId": imported}))
        .unwrap();
    assert_eq!(bench.state(&imported), "PendingImport");
}
