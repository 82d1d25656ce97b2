//! Quotas are those of the configuration.

use super::*;

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.host.settings.quotas = Quotas {
        keys: 3,
        aliases_per_key: 2,
        tags_per_key: 2,
        grants_per_key: 2,
    };
    bench
}

#[test]
fn keys_are_counted_without_those_that_are_destroyed() {
    let mut bench = bench();
    let first = bench.create_key();
    bench.create_key();
    bench.create_key();
    let quotas = bench.host.settings.quotas;
    assert_eq!(bench.kms.keys_left(&quotas, Place::HOME), 0);
    let refused = bench.call("CreateKey", json!({})).unwrap_err();
    assert!(
        refused.starts_with("LimitExceededException: The limit of 3 keys"),
        "{refused}"
    );
    // A tombstone is no key.
    let id = first.parse().unwrap();
    let row = KeyRow {
        state: State::Destroyed,
        ..KeyRow::clone(bench.kms.key_by_id(id).unwrap())
    };
    bench.apply(vec![Change::Put(Row::Key(Box::new(row)))]);
    assert_eq!(bench.kms.keys_left(&quotas, Place::HOME), 1);
    bench.create_key();
    assert!(bench.call("CreateKey", json!({})).is_err());
}

#[test]
fn aliases_tags_and_grants_of_a_key_are_counted() {
    let mut bench = bench();
    let key = bench.create_key();
    let other = bench.create_key();
    let mut alias = |name: &str, key: &str| {
        let body = json!({"AliasName": format!("alias/{name}"), "TargetKeyId": key});
        bench.call("CreateAlias", body)
    };
    alias("a", &key).unwrap();
    alias("b", &key).unwrap();
    let refused = alias("c", &key).unwrap_err();
    assert!(
        refused.starts_with("LimitExceededException: The limit of 2 aliases"),
        "{refused}"
    );
    alias("c", &other).unwrap();

    let tag = |n: u32| json!({"TagKey": format!("k{n}"), "TagValue": "v"});
    let body = json!({"KeyId": key, "Tags": [tag(1), tag(2)]});
    bench.call("TagResource", body).unwrap();
    let more = json!({"KeyId": key, "Tags": [tag(3)]});
    let refused = bench.call("TagResource", more).unwrap_err();
    assert_eq!(refused, "TagException: Too many tags");
    let body = json!({"Tags": [tag(1), tag(2), tag(3)]});
    let refused = bench.call("CreateKey", body).unwrap_err();
    assert_eq!(refused, "TagException: Too many tags");

    let grant = json!({
        "KeyId": key, "Operations": ["Decrypt"],
        "GranteePrincipal": "arn:aws:iam::000000000000:user/eve",
    });
    bench.call("CreateGrant", grant.clone()).unwrap();
    bench.call("CreateGrant", grant.clone()).unwrap();
    let refused = bench.call("CreateGrant", grant).unwrap_err();
    assert!(
        refused.starts_with("LimitExceededException: The limit of 2 grants"),
        "{refused}"
    );
}
