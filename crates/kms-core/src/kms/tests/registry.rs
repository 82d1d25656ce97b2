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
        "KeyState": "Enabled", "CurrentKeyMaterialId": material,
    }]);
    assert_eq!(described["Policies"], expected);
    let secret = policy["PolicySecret"].as_str().unwrap();
    for row in bench.kms.snapshot().policies() {
        let stored = Row::Policy((**row).clone()).encode().unwrap().body;
        assert!(!String::from_utf8(stored).unwrap().contains(secret));
    }
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
