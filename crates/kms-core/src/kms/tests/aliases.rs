//! Aliases: names, limits, lists.

use super::*;

fn create(bench: &mut Bench, name: &str, key: &str) -> Result<Value, String> {
    bench.call(
        "CreateAlias",
        json!({"AliasName": name, "TargetKeyId": key}),
    )
}

#[test]
fn names_are_checked_in_the_recorded_words() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let found = create(&mut bench, "noprefix", &key).unwrap_err();
    assert_eq!(
        found,
        "ValidationException: Alias must start with the prefix \"alias/\". Please see \
         https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
    );
    let found = create(&mut bench, "alias/aws/ebs", &key).unwrap_err();
    assert!(found.starts_with("InvalidAliasNameException"), "{found}");
    assert!(
        create(&mut bench, "alias/with space", &key)
            .unwrap_err()
            .starts_with("Validation")
    );
    assert_eq!(create(&mut bench, "alias/a", &key).unwrap(), json!({}));
    let found = create(&mut bench, "alias/a", &key).unwrap_err();
    assert_eq!(
        found,
        "AlreadyExistsException: An alias with the name \
         arn:aws:kms:local-host-1:000000000000:alias/a already exists"
    );
    let found = create(&mut bench, "alias/b", "alias/a").unwrap_err();
    assert_eq!(
        found,
        "ValidationException: Aliases must refer to keys. Not aliases"
    );
    for operation in ["UpdateAlias", "DeleteAlias"] {
        let body = json!({"AliasName": "alias/none", "TargetKeyId": key});
        assert_eq!(
            bench.call(operation, body).unwrap_err(),
            "NotFoundException: Alias arn:aws:kms:local-host-1:000000000000:alias/none is not found."
        );
        // Neither declares InvalidAliasNameException.
        let body = json!({"AliasName": "alias/aws/ebs", "TargetKeyId": key});
        assert_eq!(
            bench.call(operation, body).unwrap_err(),
            "NotFoundException: Alias arn:aws:kms:local-host-1:000000000000:alias/aws/ebs is not found."
        );
    }
}

#[test]
fn fifty_aliases_per_key_and_no_more() {
    let mut bench = Bench::new();
    let (key, other) = (bench.create_key(), bench.create_key());
    for n in 0..50 {
        create(&mut bench, &format!("alias/{n:02}"), &key).unwrap();
    }
    assert!(
        create(&mut bench, "alias/50", &key)
            .unwrap_err()
            .starts_with("LimitExceeded")
    );
    create(&mut bench, "alias/50", &other).unwrap();
    let move_here = json!({"AliasName": "alias/50", "TargetKeyId": key});
    assert!(
        bench
            .call("UpdateAlias", move_here.clone())
            .unwrap_err()
            .starts_with("LimitExceeded")
    );
    bench
        .call("DeleteAlias", json!({"AliasName": "alias/00"}))
        .unwrap();
    bench.call("UpdateAlias", move_here).unwrap();
    assert_eq!(
        bench.tightenings, 2,
        "removing a name and moving one take something away"
    );

    let mut names = vec![];
    let mut marker = Value::Null;
    loop {
        let body = json!({"KeyId": key, "Limit": 9, "Marker": marker});
        let page = bench.call("ListAliases", body).unwrap();
        for entry in page["Aliases"].as_array().unwrap() {
            assert_eq!(entry["TargetKeyId"], key);
            names.push(entry["AliasName"].as_str().unwrap().to_owned());
        }
        marker = page["NextMarker"].clone();
        if page["Truncated"] == json!(false) {
            break;
        }
    }
    let expected: Vec<_> = (1..=50).map(|n| format!("alias/{n:02}")).collect();
    assert_eq!(names, expected);
    let all = bench.call("ListAliases", json!({"Limit": 100})).unwrap();
    // And the name of kmsfs's key.
    assert_eq!(all["Aliases"].as_array().unwrap().len(), 51);
    assert!(
        bench
            .call("ListAliases", json!({"KeyId": NOWHERE}))
            .is_err()
    );
    let none = bench.call("ListAliases", json!({"KeyId": other})).unwrap();
    assert_eq!(none, json!({"Aliases": [], "Truncated": false}));
}

#[test]
fn a_moved_alias_encrypts_under_the_new_key() {
    let mut bench = Bench::new();
    let (key, other) = (bench.create_key(), bench.create_key());
    create(&mut bench, "alias/a", &key).unwrap();
    let before = bench.encrypt("alias/a", b"x", json!({}));
    bench.now.wall_ms += 1000;
    bench
        .call(
            "UpdateAlias",
            json!({"AliasName": "alias/a", "TargetKeyId": arn(&other)}),
        )
        .unwrap();
    let made = bench
        .call("Encrypt", json!({"KeyId": "alias/a", "Plaintext": "AAAA"}))
        .unwrap();
    assert_eq!(made["KeyId"], arn(&other));
    assert_eq!(bench.decrypt(&before, json!({})).unwrap(), b"x");
    let entry = bench.call("ListAliases", json!({})).unwrap()["Aliases"][0].clone();
    assert_eq!(entry["CreationDate"], 1_700_000_000);
    assert_eq!(entry["LastUpdatedDate"], 1_700_000_001);
    assert_eq!(
        entry["AliasArn"],
        "arn:aws:kms:local-host-1:000000000000:alias/a"
    );
}
