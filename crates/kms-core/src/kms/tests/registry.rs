//! Volumes, policies, status.

use super::*;

#[test]
fn a_policy_secret_is_given_out_again_and_nowhere_else() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let made = bench
        .call("CreateVolume", json!({"Label": "home"}))
        .unwrap();
    let volume = made["VolumeId"].as_str().unwrap().to_owned();
    assert_eq!(volume.len(), 32);
    let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "GCM"});
    let policy = bench.call("CreatePolicy", body).unwrap();
    assert_eq!(
        (&policy["Generation"], &policy["KeyArn"]),
        (&json!(1), &json!(arn(&key)))
    );
    let get = json!({"VolumeId": volume, "PolicyId": policy["PolicyId"]});
    let got = bench.call("GetPolicy", get).unwrap();
    assert_eq!(got["PolicySecret"], policy["PolicySecret"]);
    assert_eq!(
        (&got["KeyState"], &got["ContentMode"]),
        (&json!("Enabled"), &json!("GCM"))
    );

    bench
        .call("RotateKeyOnDemand", json!({"KeyId": key}))
        .unwrap();
    let material = bench.material(&key);
    let described = bench
        .call("DescribeVolume", json!({"VolumeId": volume}))
        .unwrap();
    assert_eq!(described["Label"], "home");
    let expected = json!([{
        "PolicyId": policy["PolicyId"], "KeyArn": arn(&key), "ContentMode": "GCM", "Generation": 1,
        "KeyState": "Enabled", "CurrentKeyMaterialId": material, "CreationDate": described["CreationDate"],
        "RevokeMode": "STALE", "LockAfterSeconds": 0, "RecordOpens": false, "RewrapAfterRotation": false,
    }]);
    assert_eq!(described["Policies"], expected);
    let secret = policy["PolicySecret"].as_str().unwrap();
    for row in bench.kms.snapshot().policies() {
        let stored = Row::Policy((**row).clone()).encode().unwrap().body;
        assert!(!String::from_utf8(stored).unwrap().contains(secret));
    }
}

/// A volume with one policy: both ids.
fn tree(bench: &mut Bench, key: &str) -> (String, String) {
    let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
    let policy = bench.call("CreatePolicy", body).unwrap()["PolicyId"].clone();
    let text = |id: &Value| id.as_str().unwrap().to_owned();
    (text(&volume), text(&policy))
}

#[test]
fn every_kept_generation_gives_its_own_secret_key_and_mode() {
    let mut bench = Bench::new();
    let (first, second) = (bench.create_key(), bench.create_key());
    let (volume, policy) = tree(&mut bench, &first);
    let get = |generation: Option<u32>| {
        let mut body = json!({"VolumeId": volume, "PolicyId": policy});
        if let Some(generation) = generation {
            body["Generation"] = json!(generation);
        }
        body
    };
    let one = bench.call("GetPolicy", get(None)).unwrap();
    let rotate = json!({"VolumeId": volume, "PolicyId": policy, "Generation": 2});
    let two = bench.call("RotatePolicy", rotate.clone()).unwrap();
    assert_eq!(
        (&two["Generation"], &two["KeyArn"], &two["ContentMode"]),
        (&json!(2), &json!(arn(&first)), &json!("XTS"))
    );
    // A repeated request does not rotate again.
    assert_eq!(
        bench.call("RotatePolicy", rotate).unwrap_err(),
        format!(
            "ValidationException: Generation 2 is not the next one: the current generation of policy \
             '{policy}' is 2."
        )
    );
    let body =
        json!({"VolumeId": volume, "PolicyId": policy, "KeyId": second, "ContentMode": "GCM"});
    let three = bench.call("RotatePolicy", body).unwrap();
    assert_eq!(
        (
            &three["Generation"],
            &three["KeyArn"],
            &three["ContentMode"]
        ),
        (&json!(3), &json!(arn(&second)), &json!("GCM"))
    );

    let secrets = [&one, &two, &three].map(|made| made["PolicySecret"].clone());
    assert!(secrets[0] != secrets[1] && secrets[1] != secrets[2] && secrets[0] != secrets[2]);
    let keys = [&first, &first, &second];
    for (generation, (secret, key)) in (1..).zip(secrets.iter().zip(keys)) {
        let got = bench.call("GetPolicy", get(Some(generation))).unwrap();
        assert_eq!(got["PolicySecret"], *secret);
        assert_eq!(got["KeyArn"], arn(key));
        assert_eq!(got["Generation"], generation);
        assert_eq!(got["CurrentGeneration"], 3);
        assert_eq!(got["OlderGenerations"], json!([1, 2]));
    }
    assert_eq!(
        bench.call("GetPolicy", get(None)).unwrap()["PolicySecret"],
        secrets[2]
    );
    assert_eq!(
        bench.call("GetPolicy", get(Some(4))).unwrap_err(),
        format!(
            "NotFoundException: Generation 4 of policy '{policy}' of volume '{volume}' never was: the \
             current one is 3, kept are also 1, 2"
        )
    );
    let described = bench
        .call("DescribeVolume", json!({"VolumeId": volume}))
        .unwrap();
    let row = &described["Policies"][0];
    assert_eq!(
        (&row["Generation"], &row["ContentMode"]),
        (&json!(3), &json!("GCM"))
    );
    let older: Vec<_> = row["OlderGenerations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|old| {
            (
                old["Generation"].clone(),
                old["KeyArn"].clone(),
                old["KeyState"].clone(),
            )
        })
        .collect();
    assert_eq!(
        older,
        [1, 2].map(|n| (json!(n), json!(arn(&first)), json!("Enabled")))
    );

    // Each generation hangs on its own key: its state, and its destruction.
    bench.call("DisableKey", json!({"KeyId": first})).unwrap();
    assert!(
        bench
            .call("GetPolicy", get(Some(2)))
            .unwrap_err()
            .starts_with("DisabledException")
    );
    bench.call("GetPolicy", get(None)).unwrap();
    bench.destroy(&first);
    let error = bench.call("GetPolicy", get(Some(2))).unwrap_err();
    assert!(
        error.contains("Generation 2") && error.contains("was destroyed"),
        "{error}"
    );
    // The survivor moved to the new domain key.
    assert_eq!(
        bench.call("GetPolicy", get(None)).unwrap()["PolicySecret"],
        secrets[2]
    );
}

#[test]
fn the_older_generations_of_a_survivor_outlive_a_deletion_epoch() {
    let mut bench = Bench::new();
    let (key, doomed) = (bench.create_key(), bench.create_key());
    let (volume, policy) = tree(&mut bench, &key);
    let get = json!({"VolumeId": volume, "PolicyId": policy, "Generation": 1});
    let before = bench.call("GetPolicy", get.clone()).unwrap();
    let rotate = json!({"VolumeId": volume, "PolicyId": policy});
    bench.call("RotatePolicy", rotate).unwrap();
    bench.destroy(&doomed);
    let after = bench.call("GetPolicy", get).unwrap();
    assert_eq!(after["PolicySecret"], before["PolicySecret"]);
    let rows: Vec<_> = bench.kms.snapshot().policies().cloned().collect();
    let domains = rows
        .iter()
        .flat_map(|row| row.older.iter().map(|old| old.secret.domain));
    assert_eq!(domains.collect::<Vec<_>>(), [2]);
}

#[test]
fn generations_are_limited() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let (volume, policy) = tree(&mut bench, &key);
    let rotate = json!({"VolumeId": volume, "PolicyId": policy});
    for _ in 0..32 {
        bench.call("RotatePolicy", rotate.clone()).unwrap();
    }
    let error = bench.call("RotatePolicy", rotate).unwrap_err();
    assert!(error.starts_with("LimitExceededException"), "{error}");
    assert!(error.contains("--destroy-old"), "{error}");
}

#[test]
fn settings_change_one_by_one() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let (volume, policy) = tree(&mut bench, &key);
    let set = |members: Value| {
        let mut body = json!({"VolumeId": volume, "PolicyId": policy});
        let members = members.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(members);
        body
    };
    let before = bench.kms.snapshot().meta().revision;
    let got = bench
        .call("UpdatePolicy", set(json!({"RecordOpens": true})))
        .unwrap();
    assert_eq!(
        got,
        json!({"PolicyId": policy, "RevokeMode": "STALE", "LockAfterSeconds": 0, "RecordOpens": true,
            "RewrapAfterRotation": false})
    );
    let got = bench
        .call(
            "UpdatePolicy",
            set(json!({"RevokeMode": "KILL", "OnKmsdLoss": "KEEP_OPEN", "Label": "hr"})),
        )
        .unwrap();
    assert_eq!(
        got,
        json!({"PolicyId": policy, "Label": "hr", "RevokeMode": "KILL", "RecordOpens": true,
            "RewrapAfterRotation": false})
    );
    let body = json!({"LockAfterSeconds": 60, "RecordOpens": false, "RewrapAfterRotation": true});
    bench.call("UpdatePolicy", set(body)).unwrap();
    let revision = bench.kms.snapshot().meta().revision;
    assert!(revision >= before);
    // Nothing to change is nothing written.
    bench
        .call(
            "UpdatePolicy",
            set(json!({"LockAfterSeconds": 60, "OnKmsdLoss": "LOCK_AFTER"})),
        )
        .unwrap();
    assert_eq!(bench.kms.snapshot().meta().revision, revision);
    let get = json!({"VolumeId": volume, "PolicyId": policy});
    let got = bench.call("GetPolicy", get).unwrap();
    assert_eq!(
        [
            &got["Label"],
            &got["RevokeMode"],
            &got["LockAfterSeconds"],
            &got["RewrapAfterRotation"]
        ],
        [&json!("hr"), &json!("KILL"), &json!(60), &json!(true)]
    );
    for wrong in [
        json!({"OnKmsdLoss": "KEEP_OPEN", "LockAfterSeconds": 1}),
        json!({"OnKmsdLoss": "LOCK_AFTER"}),
        json!({"LockAfterSeconds": 604_801}),
    ] {
        let error = bench.call("UpdatePolicy", set(wrong)).unwrap_err();
        assert!(error.starts_with("ValidationException"), "{error}");
    }
}

#[test]
fn rows_of_older_catalogues_open_and_stay_as_they_are() {
    let body = r#"{"volume":"v","id":"p","key":"1234abcd-12ab-34cd-56ef-1234567890ab","mode":"XTS","generation":1,"created_ms":7,"secret":null}"#;
    let raw = crate::rows::RawRow {
        table: crate::rows::Table::Policy,
        id: "v/p".into(),
        body: body.as_bytes().to_vec(),
    };
    let row = Row::decode(&raw).unwrap();
    let Row::Policy(policy) = &row else { panic!() };
    assert_eq!(policy.settings, crate::rows::PolicySettings::default());
    assert_eq!(String::from_utf8(row.encode().unwrap().body).unwrap(), body);
}

#[test]
fn volumes_and_policies_that_are_not_there_are_named() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let nothing = "0".repeat(32);
    let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let volume = volume.as_str().unwrap().to_owned();
    for (operation, body, text) in [
        (
            "DescribeVolume",
            json!({"VolumeId": nothing}),
            format!("Volume '{nothing}' does not exist"),
        ),
        (
            "CreatePolicy",
            json!({"VolumeId": nothing, "KeyId": key, "ContentMode": "XTS"}),
            format!("Volume '{nothing}' does not exist"),
        ),
        (
            "GetPolicy",
            json!({"VolumeId": volume, "PolicyId": nothing}),
            format!("Policy '{nothing}' of volume '{volume}' does not exist"),
        ),
    ] {
        let found = bench.call(operation, body).unwrap_err();
        assert_eq!(found, format!("NotFoundException: {text}"));
    }
}

#[test]
fn volumes_are_listed_with_their_policies_counted() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    for n in 0..3u64 {
        let body = json!({"Label": n.to_string()});
        let volume = bench.call("CreateVolume", body).unwrap()["VolumeId"].clone();
        for _ in 0..n {
            let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
            bench.call("CreatePolicy", body).unwrap();
        }
    }
    let first = bench.call("ListVolumes", json!({"Limit": 2})).unwrap();
    assert_eq!(first["Truncated"], json!(true));
    let second = bench
        .call("ListVolumes", json!({"Marker": first["NextMarker"]}))
        .unwrap();
    let both = [&first, &second]
        .map(|page| page["Volumes"].as_array().unwrap().clone())
        .concat();
    assert_eq!(both.len(), 3);
    for volume in both {
        assert_eq!(
            volume["PolicyCount"].to_string(),
            volume["Label"].as_str().unwrap()
        );
    }
    assert_eq!(
        bench.call("GetStatus", json!({})).unwrap()["Policies"],
        json!(3)
    );
}

#[test]
fn the_status_counts_and_warns() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    bench.create_key();
    bench
        .call(
            "ScheduleKeyDeletion",
            json!({"KeyId": key, "PendingWindowInDays": 7}),
        )
        .unwrap();
    let status = bench.call("GetStatus", json!({})).unwrap();
    assert_eq!(status["Keys"], json!({"Enabled": 1, "PendingDeletion": 1}));
    assert!(status.get("Warnings").is_none());
    bench.now.wall_ms += 8 * 86_400_000;
    let status = bench.call("GetStatus", json!({})).unwrap();
    assert!(
        status["Warnings"][0].as_str().unwrap().contains("clock"),
        "{status}"
    );
    bench.now.elapsed_ms += 8 * 86_400_000;
    bench.destroy(&key);
    let status = bench.call("GetStatus", json!({})).unwrap();
    assert_eq!(
        (&status["Keys"], &status["DeletionEpoch"]),
        (&json!({"Enabled": 1}), &json!(1))
    );
}

#[test]
fn what_a_policy_holds_is_shown_as_last_reported() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
    let policy = bench.call("CreatePolicy", body).unwrap()["PolicyId"].clone();
    let shown = |bench: &mut Bench| {
        let described = bench.call("DescribeVolume", json!({"VolumeId": volume}));
        described.unwrap()["Policies"][0]["Use"].clone()
    };
    assert_eq!(shown(&mut bench), json!(null));
    let mut report =
        json!({"VolumeId": volume, "PolicyId": policy, "Files": 1, "Directories": 1, "Bytes": 5});
    bench.call("ReportPolicyUse", report.clone()).unwrap();
    report["Files"] = json!(7);
    report["Mountpoint"] = json!("/srv/hr");
    bench.call("ReportPolicyUse", report.clone()).unwrap();
    let found = shown(&mut bench);
    assert_eq!(
        (&found["Files"], &found["Bytes"], &found["Mountpoint"]),
        (&json!(7), &json!(5), &json!("/srv/hr"))
    );
    // It makes no policy known.
    report["PolicyId"] = json!("0".repeat(32));
    let refused = bench.call("ReportPolicyUse", report).unwrap_err();
    assert!(refused.starts_with("NotFoundException"), "{refused}");
}
