//! Multi-Region keys in two Regions of one account.

use kms_api::CallerRole;

use super::*;

mod imports;

const ACCOUNT: &str = "000000000000";
const HOME: &str = "local-host-1";
const WEST: &str = "us-west-2";

/// The account's root principal, asking in a Region.
fn root(region: &str) -> Caller {
    let scope = Scope::new(ACCOUNT, region).unwrap();
    let mut caller = Caller::new(CallerRole::Root, 0, scope.root_arn());
    caller.scope = Some(Arc::new(scope));
    caller
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.kms.set_served(Served {
        accounts: Vec::new(),
        regions: vec![WEST.to_owned(), "eu-west-1".to_owned()],
        any_region: false,
    });
    bench
}

impl Bench {
    fn at(&mut self, region: &str, operation: &str, body: Value) -> Result<Value, String> {
        self.call_as(&root(region), operation, body)
    }

    /// A primary key at home with a replica in the west: its id.
    fn pair(&mut self, body: Value) -> String {
        let mut body = body;
        body["MultiRegion"] = json!(true);
        let made = self.at(HOME, "CreateKey", body).unwrap();
        let id = made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
        let replicate = json!({"KeyId": id, "ReplicaRegion": WEST});
        self.at(HOME, "ReplicateKey", replicate).unwrap();
        id
    }

    fn described(&mut self, region: &str, key: &str) -> Value {
        let found = self.at(region, "DescribeKey", json!({"KeyId": key}));
        found.unwrap()["KeyMetadata"].clone()
    }
}

fn arn_in(region: &str, id: &str) -> String {
    format!("arn:aws:kms:{region}:{ACCOUNT}:key/{id}")
}

#[test]
fn a_replica_has_id_and_material_of_its_primary_key_and_the_rest_of_its_own() {
    let mut bench = bench();
    let made = bench
        .at(
            HOME,
            "CreateKey",
            json!({"MultiRegion": true, "Description": "one"}),
        )
        .unwrap();
    let metadata = &made["KeyMetadata"];
    let id = metadata["KeyId"].as_str().unwrap().to_owned();
    assert!(id.starts_with("mrk-") && id.len() == 36, "{id}");
    let key = |region: &str| json!({"Arn": arn_in(region, &id), "Region": region});
    assert_eq!(
        metadata["MultiRegionConfiguration"],
        json!({"MultiRegionKeyType": "PRIMARY", "PrimaryKey": key(HOME), "ReplicaKeys": []})
    );
    let body = json!({"KeyId": id, "ReplicaRegion": WEST, "Description": "two",
        "Tags": [{"TagKey": "a", "TagValue": "b"}]});
    let replica = bench.at(HOME, "ReplicateKey", body).unwrap();
    assert_eq!(
        replica["ReplicaTags"],
        json!([{"TagKey": "a", "TagValue": "b"}])
    );
    assert!(
        replica["ReplicaPolicy"]
            .as_str()
            .unwrap()
            .contains("key-default-1")
    );
    let (here, there) = (bench.described(HOME, &id), bench.described(WEST, &id));
    assert_eq!(replica["ReplicaKeyMetadata"], there);
    assert_eq!(there["Arn"], arn_in(WEST, &id));
    assert_eq!(there["KeyId"], id);
    assert_eq!(there["KeyState"], "Enabled");
    assert_eq!(there["Description"], "two");
    assert_eq!(here["Description"], "one");
    assert_eq!(there["CurrentKeyMaterialId"], here["CurrentKeyMaterialId"]);
    let both = json!([key(WEST)]);
    for (metadata, kind) in [(&here, "PRIMARY"), (&there, "REPLICA")] {
        let configuration = &metadata["MultiRegionConfiguration"];
        assert_eq!(configuration["MultiRegionKeyType"], kind);
        assert_eq!(configuration["PrimaryKey"], key(HOME));
        assert_eq!(configuration["ReplicaKeys"], both);
        assert_eq!(metadata["MultiRegion"], true);
    }

    // A ciphertext of one opens under the other, which says so; states are their own.
    let body = json!({"KeyId": id, "Plaintext": "AA=="});
    let sealed = bench.at(HOME, "Encrypt", body).unwrap();
    let blob = json!({"CiphertextBlob": sealed["CiphertextBlob"]});
    let opened = bench.at(WEST, "Decrypt", blob.clone()).unwrap();
    assert_eq!(opened["Plaintext"], "AA==");
    assert_eq!(opened["KeyId"], arn_in(WEST, &id));
    bench.at(HOME, "DisableKey", json!({"KeyId": id})).unwrap();
    assert!(bench.at(HOME, "Decrypt", blob.clone()).is_err());
    assert_eq!(
        bench.at(WEST, "Decrypt", blob.clone()).unwrap()["Plaintext"],
        "AA=="
    );
    let elsewhere = bench.at("eu-west-1", "Decrypt", blob).unwrap_err();
    assert!(
        elsewhere.starts_with("AccessDeniedException: The ciphertext"),
        "{elsewhere}"
    );
}

#[test]
fn what_cannot_be_replicated_is_refused_with_awss_errors() {
    let mut bench = bench();
    let single = bench.create_key();
    let body = json!({"KeyId": single, "ReplicaRegion": WEST});
    assert_eq!(
        bench.at(HOME, "ReplicateKey", body),
        Err(format!(
            "UnsupportedOperationException: {} is not a multi-region primary key.",
            arn(&single)
        ))
    );
    let id = bench.pair(json!({}));
    let again = json!({"KeyId": id, "ReplicaRegion": WEST});
    let text = bench.at(HOME, "ReplicateKey", again).unwrap_err();
    assert!(text.starts_with("AlreadyExistsException"), "{text}");
    let from_replica = json!({"KeyId": id, "ReplicaRegion": "eu-west-1"});
    assert_eq!(
        bench.at(WEST, "ReplicateKey", from_replica),
        Err(format!(
            "UnsupportedOperationException: {} is not a multi-region primary key.",
            arn_in(WEST, &id)
        ))
    );
    for (region, reason) in [
        ("ap-east-1", "is not served by this kmsd"),
        ("mars", "Member must satisfy regular expression pattern"),
    ] {
        let body = json!({"KeyId": id, "ReplicaRegion": region});
        let text = bench.at(HOME, "ReplicateKey", body).unwrap_err();
        assert!(text.starts_with("ValidationException"), "{text}");
        assert!(text.contains(reason), "{text}");
    }
    bench.at(HOME, "DisableKey", json!({"KeyId": id})).unwrap();
    let body = json!({"KeyId": id, "ReplicaRegion": "eu-west-1"});
    assert_eq!(
        bench.at(HOME, "ReplicateKey", body),
        Err(format!(
            "DisabledException: {} is disabled.",
            arn_in(HOME, &id)
        ))
    );
}

#[test]
fn rotation_is_the_primary_keys_and_reaches_every_replica() {
    let mut bench = bench();
    let id = bench.pair(json!({}));
    let key = json!({"KeyId": id});
    let old = bench.described(WEST, &id)["CurrentKeyMaterialId"].clone();
    let body = json!({"KeyId": id, "Plaintext": "AA=="});
    let sealed = bench.at(WEST, "Encrypt", body).unwrap();
    for operation in [
        "EnableKeyRotation",
        "DisableKeyRotation",
        "RotateKeyOnDemand",
    ] {
        assert_eq!(
            bench.at(WEST, operation, key.clone()),
            Err(format!(
                "UnsupportedOperationException: {} is not a multi-region primary key.",
                arn_in(WEST, &id)
            ))
        );
    }
    bench.at(HOME, "EnableKeyRotation", key.clone()).unwrap();
    let status = bench.at(WEST, "GetKeyRotationStatus", key.clone()).unwrap();
    assert_eq!(status["KeyRotationEnabled"], true);
    assert_eq!(status["KeyId"], arn_in(WEST, &id));
    bench.at(HOME, "RotateKeyOnDemand", key.clone()).unwrap();
    let (here, there) = (bench.described(HOME, &id), bench.described(WEST, &id));
    assert_ne!(there["CurrentKeyMaterialId"], old);
    assert_eq!(there["CurrentKeyMaterialId"], here["CurrentKeyMaterialId"]);
    for region in [HOME, WEST] {
        let list = bench.at(region, "ListKeyRotations", key.clone()).unwrap();
        assert_eq!(list["Rotations"].as_array().unwrap().len(), 1, "{region}");
    }
    // By schedule as well; and what was sealed before opens everywhere.
    bench.pass_days(400);
    let due = bench.kms.rotations_due(bench.now).due;
    assert_eq!(due.len(), 1);
    let write = bench.world_call(|kms, world| kms.rotate_automatically(due[0], world));
    bench.commit(write.unwrap());
    let (here, there) = (bench.described(HOME, &id), bench.described(WEST, &id));
    assert_eq!(there["CurrentKeyMaterialId"], here["CurrentKeyMaterialId"]);
    let blob = json!({"CiphertextBlob": sealed["CiphertextBlob"]});
    assert!(bench.at(HOME, "Decrypt", blob).is_ok());
    // A replica that is made later has all of it.
    let body = json!({"KeyId": id, "ReplicaRegion": "eu-west-1"});
    bench.at(HOME, "ReplicateKey", body).unwrap();
    let blob = json!({"CiphertextBlob": sealed["CiphertextBlob"]});
    assert!(bench.at("eu-west-1", "Decrypt", blob).is_ok());
}

#[test]
fn primary_and_replica_change_places() {
    let mut bench = bench();
    let id = bench.pair(json!({}));
    bench
        .at(HOME, "EnableKeyRotation", json!({"KeyId": id}))
        .unwrap();
    let to = |region: &str| json!({"KeyId": id, "PrimaryRegion": region});
    assert_eq!(
        bench.at(HOME, "UpdatePrimaryRegion", to("eu-west-1")),
        Err(format!(
            "NotFoundException: Key '{}' does not exist",
            arn_in("eu-west-1", &id)
        ))
    );
    assert_eq!(
        bench.at(WEST, "UpdatePrimaryRegion", to(WEST)),
        Err(format!(
            "UnsupportedOperationException: {} is not a multi-region primary key.",
            arn_in(WEST, &id)
        ))
    );
    bench.at(HOME, "UpdatePrimaryRegion", to(WEST)).unwrap();
    for (region, kind) in [(HOME, "REPLICA"), (WEST, "PRIMARY")] {
        let configuration = bench.described(region, &id)["MultiRegionConfiguration"].clone();
        assert_eq!(configuration["MultiRegionKeyType"], kind);
        assert_eq!(configuration["PrimaryKey"]["Region"], WEST);
        assert_eq!(configuration["ReplicaKeys"][0]["Region"], HOME);
        let status = bench.at(region, "GetKeyRotationStatus", json!({"KeyId": id}));
        assert_eq!(status.unwrap()["KeyRotationEnabled"], true, "{region}");
    }
    bench.pass_days(400);
    let due = bench.kms.rotations_due(bench.now).due;
    assert_eq!(bench.kms.snapshot().arn(due[0]), arn_in(WEST, &id));
    bench
        .at(WEST, "RotateKeyOnDemand", json!({"KeyId": id}))
        .unwrap_err();
    bench.at(HOME, "DisableKey", json!({"KeyId": id})).unwrap();
    assert_eq!(
        bench.at(WEST, "UpdatePrimaryRegion", to(HOME)),
        Err(format!(
            "DisabledException: {} is disabled.",
            arn_in(HOME, &id)
        ))
    );
}

#[test]
fn a_primary_key_waits_for_the_end_of_its_last_replica() {
    let mut bench = bench();
    let id = bench.pair(json!({}));
    let key = json!({"KeyId": id});
    let sealed = bench
        .at(HOME, "Encrypt", json!({"KeyId": id, "Plaintext": "AA=="}))
        .unwrap();
    let schedule = json!({"KeyId": id, "PendingWindowInDays": 7});
    let answer = bench
        .at(HOME, "ScheduleKeyDeletion", schedule.clone())
        .unwrap();
    assert_eq!(answer["KeyState"], "PendingReplicaDeletion");
    assert_eq!(answer.get("DeletionDate"), None);
    assert_eq!(answer["PendingWindowInDays"], 7);
    let metadata = bench.described(HOME, &id);
    assert_eq!(metadata["KeyState"], "PendingReplicaDeletion");
    assert_eq!(metadata["PendingDeletionWindowInDays"], 7);
    assert_eq!(
        bench.at(HOME, "EnableKey", key.clone()),
        Err(format!(
            "KMSInvalidStateException: {} is pending deletion (or pending replica deletion).",
            arn_in(HOME, &id)
        ))
    );
    bench.at(HOME, "CancelKeyDeletion", key.clone()).unwrap();
    let metadata = bench.described(HOME, &id);
    assert_eq!(metadata["KeyState"], "Disabled");
    assert_eq!(metadata.get("PendingDeletionWindowInDays"), None);
    bench
        .at(HOME, "ScheduleKeyDeletion", schedule.clone())
        .unwrap();
    // However long that takes.
    bench.pass_days(365);
    assert_eq!(bench.kms.deletions_due(bench.now).due, []);
    assert_eq!(bench.kms.waits_to_begin(), []);

    let answer = bench.at(WEST, "ScheduleKeyDeletion", schedule).unwrap();
    assert_eq!(answer["KeyState"], "PendingDeletion");
    bench.pass_days(8);
    let due = bench.kms.deletions_due(bench.now).due;
    assert_eq!(due.len(), 1);
    let buried = crate::epoch::bury(bench.kms.snapshot(), &due, bench.now.wall_ms);
    bench.apply(buried);
    assert!(bench.at(WEST, "DescribeKey", key.clone()).is_err());
    // The primary key has lost nothing, and its waiting period begins only now.
    let waits = bench.kms.waits_to_begin();
    assert_eq!(waits.len(), 1);
    let write = bench.world_call(|kms, world| kms.begin_wait(waits[0], world));
    bench.commit(write.unwrap());
    assert_eq!(bench.kms.waits_to_begin(), []);
    assert_eq!(bench.described(HOME, &id)["KeyState"], "PendingDeletion");
    assert_eq!(bench.kms.deletions_due(bench.now).due, []);
    bench.at(HOME, "CancelKeyDeletion", key.clone()).unwrap();
    bench.at(HOME, "EnableKey", key).unwrap();
    let blob = json!({"CiphertextBlob": sealed["CiphertextBlob"]});
    assert_eq!(
        bench.at(HOME, "Decrypt", blob.clone()).unwrap()["Plaintext"],
        "AA=="
    );
    // A replica may be made where one was destroyed.
    let body = json!({"KeyId": id, "ReplicaRegion": WEST});
    bench.at(HOME, "ReplicateKey", body).unwrap();
    assert_eq!(
        bench.at(WEST, "Decrypt", blob).unwrap()["Plaintext"],
        "AA=="
    );
}

#[test]
fn keys_of_other_kinds_are_replicated_too() {
    let mut bench = bench();
    let id = bench.pair(json!({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}));
    let body = json!({"KeyId": id, "Message": "aGVsbG8=", "MacAlgorithm": "HMAC_SHA_256"});
    let here = bench.at(HOME, "GenerateMac", body.clone()).unwrap();
    let there = bench.at(WEST, "GenerateMac", body).unwrap();
    assert_eq!(here["Mac"], there["Mac"]);
    // Imported material is imported in each Region.
    let id = bench.pair_of_external();
    assert_eq!(bench.described(WEST, &id)["KeyState"], "PendingImport");
}

impl Bench {
    /// The same with a primary key whose material is there and was imported.
    fn pair_of_external(&mut self) -> String {
        let body = json!({"MultiRegion": true});
        let made = self.at(HOME, "CreateKey", body).unwrap();
        let id = made["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
        let row = self.kms.snapshot().key(id.parse().unwrap()).unwrap();
        let row = KeyRow {
            origin: crate::rows::Origin::External,
            ..KeyRow::clone(row)
        };
        self.apply(vec![Change::Put(Row::Key(Box::new(row)))]);
        let replicate = json!({"KeyId": id, "ReplicaRegion": WEST});
        self.at(HOME, "ReplicateKey", replicate).unwrap();
        id
    }
}

#[test]
fn conditions_see_regions_and_types() {
    let mut bench = bench();
    let id = bench.pair(json!({}));
    let cases = [
        (
            json!({"StringEquals": {"kms:ReplicaRegion": "eu-west-1"}}),
            true,
        ),
        (
            json!({"StringEquals": {"kms:ReplicaRegion": "us-west-2"}}),
            false,
        ),
        (
            json!({"StringEquals": {"kms:MultiRegionKeyType": "PRIMARY"}}),
            true,
        ),
        (
            json!({"StringEquals": {"kms:MultiRegionKeyType": "REPLICA"}}),
            false,
        ),
        (json!({"Bool": {"kms:MultiRegion": "true"}}), true),
    ];
    for (condition, holds) in cases {
        let policy = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
             "Action": "kms:*", "Resource": "*"},
            {"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "kms:ReplicateKey",
             "Resource": "*", "Condition": condition},
        ]});
        let put = json!({"KeyId": id, "Policy": policy.to_string()});
        bench.at(HOME, "PutKeyPolicy", put).unwrap();
        let body = json!({"KeyId": id, "ReplicaRegion": "eu-west-1"});
        let request = Bench::decode("ReplicateKey", &body);
        let denied = bench.world_call(|kms, world| {
            let handled = kms.handle(&request, &root(HOME), world);
            handled.outcome.is_err()
        });
        assert_eq!(denied, holds, "{condition}");
    }
    // The key is made in the other Region: a guard rail against that Region denies it.
    let rail = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Action": "kms:CreateKey", "Resource": "*",
         "Condition": {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}}
    ]});
    let put = json!({"GuardRailName": "g", "Document": rail.to_string()});
    bench.at(HOME, "PutGuardRail", put).unwrap();
    let open = json!({"KeyId": id, "Policy": crate::kms::policies::default_policy(&Scope::new(ACCOUNT, HOME).unwrap())});
    bench.at(HOME, "PutKeyPolicy", open).unwrap();
    let body = json!({"KeyId": id, "ReplicaRegion": "eu-west-1"});
    let text = bench.at(HOME, "ReplicateKey", body).unwrap_err();
    assert!(text.contains("kms:CreateKey"), "{text}");
}
