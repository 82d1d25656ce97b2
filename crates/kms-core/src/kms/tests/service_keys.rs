//! The key that kmsd manages for kmsfs.

use kms_api::{CallerRole, Via};

use super::*;

const ROOT: &str = "arn:aws:iam::000000000000:root";

fn root() -> Caller {
    Caller::new(CallerRole::Root, 0, ROOT)
}

fn user(name: &str) -> Caller {
    let mut caller = Caller::new(
        CallerRole::User,
        1000,
        format!("arn:aws:iam::000000000000:user/{name}"),
    );
    caller.process = Some(Arc::new(kms_api::ProcessFacts {
        checked: true,
        ..Default::default()
    }));
    caller
}

/// A bench with a volume, and its id.
fn bench() -> (Bench, String) {
    let mut bench = Bench::new();
    let made = bench.call_as(&root(), "CreateVolume", json!({})).unwrap();
    let volume = made["VolumeId"].as_str().unwrap().to_owned();
    (bench, volume)
}

fn protect(bench: &mut Bench, caller: &Caller, volume: &str) -> Result<Value, String> {
    let body = json!({"VolumeId": volume, "KeyId": KMSFS_ALIAS, "ContentMode": "XTS"});
    bench.call_as(caller, "CreatePolicy", body)
}

#[test]
fn it_is_made_when_it_is_first_asked_for() {
    let (mut bench, volume) = bench();
    let describe = json!({"KeyId": KMSFS_ALIAS});
    // Who may not make keys does not make this one.
    let text = protect(&mut bench, &user("eve"), &volume).unwrap_err();
    assert!(text.contains("kms:CreateKey"), "{text}");

    let first = protect(&mut bench, &root(), &volume).unwrap();
    let second = protect(&mut bench, &root(), &volume).unwrap();
    assert_eq!(first["KeyArn"], second["KeyArn"]);
    let found = bench.call_as(&root(), "DescribeKey", describe).unwrap();
    let metadata = &found["KeyMetadata"];
    assert_eq!(metadata["Arn"], first["KeyArn"]);
    assert_eq!(metadata["KeyManager"], "AWS");
    assert_eq!(metadata["KeyState"], "Enabled");
    let key = metadata["KeyId"].clone();
    let status = bench.call_as(&root(), "GetKeyRotationStatus", json!({"KeyId": key}));
    let status = status.unwrap();
    assert_eq!(status["KeyRotationEnabled"], true);
    assert_eq!(status["RotationPeriodInDays"], 365);
    bench.pass_days(366);
    assert_eq!(bench.kms.rotations_due(bench.now).due.len(), 1);
}

#[test]
fn nobody_changes_it_and_everybody_uses_it_through_kmsfs() {
    let (mut bench, volume) = bench();
    let made = protect(&mut bench, &root(), &volume).unwrap();
    let key = made["KeyArn"].as_str().unwrap().to_owned();
    let tags = json!([{"TagKey": "a", "TagValue": "b"}]);
    let policy = crate::kms::policies::default_policy(bench.kms.snapshot().home());
    for (operation, more) in [
        ("DisableKey", json!({})),
        ("EnableKey", json!({})),
        ("ScheduleKeyDeletion", json!({})),
        ("DisableKeyRotation", json!({})),
        ("RotateKeyOnDemand", json!({})),
        ("UpdateKeyDescription", json!({"Description": "mine"})),
        ("TagResource", json!({"Tags": tags})),
        ("PutKeyPolicy", json!({"Policy": policy})),
        (
            "CreateGrant",
            json!({"GranteePrincipal": ROOT, "Operations": ["Decrypt"]}),
        ),
        (
            "CreateAlias",
            json!({"AliasName": "alias/mine", "TargetKeyId": key}),
        ),
    ] {
        let mut body = more;
        body["KeyId"] = json!(key);
        let text = bench.call_as(&root(), operation, body).unwrap_err();
        assert!(
            text.starts_with("AccessDeniedException")
                && text.contains("no resource-based policy allows"),
            "{operation}: {text}"
        );
    }
    let other = bench.create_key();
    for operation in ["UpdateAlias", "DeleteAlias"] {
        let body = json!({"AliasName": KMSFS_ALIAS, "TargetKeyId": other});
        let refused = bench.call_as(&root(), operation, body).unwrap_err();
        assert_eq!(
            refused,
            "KMSInvalidStateException: arn:aws:kms:local-host-1:000000000000:alias/aws/kmsfs is reserved: it \
             cannot be moved or deleted."
        );
    }
    // There is nothing for whoever breaks the glass either.
    assert!(bench.kms.obstacles().is_empty());

    let encrypt = json!({"KeyId": key, "Plaintext": "AA=="});
    bench.call_as(&root(), "Encrypt", encrypt.clone()).unwrap();
    let eve = user("eve");
    let text = bench.call_as(&eve, "Encrypt", encrypt.clone()).unwrap_err();
    assert!(text.starts_with("AccessDeniedException"), "{text}");
    let mut through = eve;
    through.via = Some(Arc::new(Via {
        service: "kmsfs.local-host-1.amazonaws.com".into(),
        arn: "arn:aws:iam::000000000000:user/kmsfs".into(),
        uid: 990,
        pid: 1,
    }));
    bench.call_as(&through, "Encrypt", encrypt).unwrap();
}

#[test]
fn its_name_is_there_before_it_is() {
    let mut bench = Bench::new();
    let own = bench.create_key();
    for name in ["alias/a", "alias/b"] {
        let body = json!({"AliasName": name, "TargetKeyId": own});
        bench.call_as(&root(), "CreateAlias", body).unwrap();
    }
    let listed = |bench: &mut Bench, limit: u32| {
        let mut body = json!({"Limit": limit});
        let mut found = Vec::new();
        loop {
            let page = bench.call_as(&root(), "ListAliases", body.clone()).unwrap();
            found.extend(page["Aliases"].as_array().unwrap().iter().cloned());
            match page.get("NextMarker") {
                Some(marker) => body["Marker"] = marker.clone(),
                None => return found,
            }
        }
    };
    let names = |list: &[Value]| -> Vec<String> {
        let names = list.iter().map(|one| one["AliasName"].as_str().unwrap());
        names.map(str::to_owned).collect()
    };
    let all = ["alias/a", KMSFS_ALIAS, "alias/b"];
    for limit in [1, 2, 50] {
        let list = listed(&mut bench, limit);
        assert_eq!(names(&list), all);
        let arn = "arn:aws:kms:local-host-1:000000000000:alias/aws/kmsfs";
        assert_eq!(list[1], json!({"AliasName": KMSFS_ALIAS, "AliasArn": arn}));
    }
    // It is no name of any key.
    let body = json!({"KeyId": own});
    let of_key = bench.call_as(&root(), "ListAliases", body).unwrap();
    assert_eq!(of_key["Aliases"].as_array().unwrap().len(), 2);

    // Whoever may look at keys gets it by asking for it.
    let describe = json!({"KeyId": KMSFS_ALIAS});
    let refused = bench.call_as(&user("eve"), "DescribeKey", describe.clone());
    let refused = refused.unwrap_err();
    assert!(refused.starts_with("AccessDeniedException"), "{refused}");
    let arn = "arn:aws:kms:local-host-1:000000000000:alias/aws/kmsfs";
    let first = bench.call_as(&root(), "DescribeKey", json!({"KeyId": arn}));
    let first = first.unwrap();
    assert_eq!(first["KeyMetadata"]["KeyManager"], "AWS");
    assert_eq!(first["KeyMetadata"]["KeyState"], "Enabled");
    let again = bench.call_as(&root(), "DescribeKey", describe).unwrap();
    assert_eq!(again, first);
    for limit in [1, 50] {
        let list = listed(&mut bench, limit);
        assert_eq!(names(&list), all);
        assert_eq!(list[1]["TargetKeyId"], first["KeyMetadata"]["KeyId"]);
    }
}
