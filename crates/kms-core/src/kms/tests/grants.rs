//! Grants through the wire's JSON: members, texts, idempotency, pages, ends, tokens.

use super::*;

const ALICE: &str = "arn:aws:iam::000000000000:user/alice";
const BOB: &str = "arn:aws:iam::000000000000:user/bob";
const ROOT: &str = "arn:aws:iam::000000000000:root";

impl Bench {
    fn grant(&mut self, key: &str, more: Value) -> (String, String) {
        let mut body = json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": ["Decrypt"]});
        merge(&mut body, more);
        let made = self.call("CreateGrant", body).unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("GrantId"), text("GrantToken"))
    }

    fn grant_error(&mut self, key: &str, more: Value) -> String {
        let mut body = json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": ["Decrypt"]});
        merge(&mut body, more);
        self.call("CreateGrant", body).unwrap_err()
    }

    fn ids(&mut self, key: &str) -> Vec<String> {
        let list = self.call("ListGrants", json!({"KeyId": key})).unwrap();
        let grants = list["Grants"].as_array().unwrap();
        grants
            .iter()
            .map(|grant| grant["GrantId"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// Null takes a member away.
fn merge(body: &mut Value, more: Value) {
    let members = body.as_object_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
}

#[test]
fn a_grant_is_listed_as_it_was_made() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let (id, _) = bench.grant(
        &arn(&key),
        json!({
            "Operations": ["Decrypt", "DescribeKey", "Decrypt"],
            "RetiringPrincipal": BOB,
            "Name": "for/alice:1",
            "Constraints": {"EncryptionContextSubset": {"Dept": "IT"}},
        }),
    );
    let list = bench.call("ListGrants", json!({"KeyId": key})).unwrap();
    assert_eq!(
        list,
        json!({
            "Grants": [{
                "KeyId": arn(&key),
                "GrantId": id,
                "Name": "for/alice:1",
                "CreationDate": 1_700_000_000,
                "GranteePrincipal": ALICE,
                "RetiringPrincipal": BOB,
                "IssuingAccount": ROOT,
                "Operations": ["Decrypt", "DescribeKey"],
                "Constraints": {"EncryptionContextSubset": {"Dept": "IT"}},
            }],
            "Truncated": false,
        })
    );
    assert_eq!(id.len(), 64);

    let other = bench.create_key();
    let (bare, _) = bench.grant(&other, json!({}));
    let list = bench.call("ListGrants", json!({"KeyId": other})).unwrap();
    assert_eq!(
        list["Grants"][0],
        json!({
            "KeyId": arn(&other),
            "GrantId": bare,
            "Name": "",
            "CreationDate": 1_700_000_000,
            "GranteePrincipal": ALICE,
            "IssuingAccount": ROOT,
            "Operations": ["Decrypt"],
        })
    );
    assert_eq!(
        bench
            .call("ListRetirableGrants", json!({"RetiringPrincipal": BOB}))
            .unwrap()["Grants"][0]["GrantId"],
        json!(id)
    );
}

#[test]
fn services_get_grants_for_one_resource() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let source = "arn:aws:kmsd:local-host-1:000000000000:volume/0123";
    let service = json!({
        "GranteePrincipal": null,
        "GranteeServicePrincipal": "kmsfs.amazonaws.com",
        "RetiringServicePrincipal": "kmsfs.amazonaws.com",
        "Constraints": {"SourceArn": source},
    });
    let (id, _) = bench.grant(&key, service.clone());
    let list = bench.call("ListGrants", json!({"KeyId": key})).unwrap();
    let entry = &list["Grants"][0];
    assert_eq!(entry["GrantId"], json!(id));
    assert_eq!(entry["GranteePrincipal"], "kmsfs.amazonaws.com");
    assert_eq!(entry["GranteeServicePrincipal"], "kmsfs.amazonaws.com");
    assert_eq!(entry["RetiringServicePrincipal"], "kmsfs.amazonaws.com");
    assert_eq!(entry.get("RetiringPrincipal"), None);
    assert_eq!(entry["Constraints"], json!({"SourceArn": source}));
    let found = bench
        .call(
            "ListRetirableGrants",
            json!({"RetiringServicePrincipal": "kmsfs.amazonaws.com"}),
        )
        .unwrap();
    assert_eq!(found["Grants"].as_array().unwrap().len(), 1);

    let mut without_source = service.clone();
    merge(&mut without_source, json!({"Constraints": null}));
    let mut without_retiring = service;
    merge(
        &mut without_retiring,
        json!({"RetiringServicePrincipal": null}),
    );
    for (body, text) in [
        (
            without_source,
            "You must specify a SourceArn grant constraint with GranteeServicePrincipal.",
        ),
        (
            without_retiring,
            "You must specify either RetiringPrincipal or RetiringServicePrincipal with \
             GranteeServicePrincipal.",
        ),
    ] {
        // `merge` of the helper would put the members back, so the body is complete here.
        let mut full = json!({"KeyId": key, "Operations": ["Decrypt"]});
        for (name, value) in body.as_object().unwrap() {
            if !value.is_null() {
                full[name] = value.clone();
            }
        }
        assert_eq!(
            bench.call("CreateGrant", full).unwrap_err(),
            format!("ValidationException: {text}")
        );
    }
}

#[test]
fn what_is_wrong_with_a_grant_is_told() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let pairs: serde_json::Map<String, Value> =
        (0..9).map(|n| (format!("k{n}"), json!("v"))).collect();
    let one = "ValidationException: 1 validation error detected: ";
    let cases = [
        (
            json!({"Operations": null}),
            format!("{one}Value null at 'operations' failed to satisfy constraint: Member must not be null"),
        ),
        (
            json!({"Operations": []}),
            format!("{one}Value '[]' at 'operations' failed to satisfy constraint: Member must have length greater than or equal to 1"),
        ),
        (
            json!({"Operations": ["Encrypt", "Sign", "GenerateMac"]}),
            "ValidationException: Grant operations [Sign, GenerateMac] are not supported for KMS keys with key spec \
             SYMMETRIC_DEFAULT and key usage ENCRYPT_DECRYPT."
                .to_owned(),
        ),
        (
            json!({"GranteePrincipal": null}),
            "ValidationException: You must specify either GranteePrincipal or GranteeServicePrincipal.".to_owned(),
        ),
        (
            json!({"GranteeServicePrincipal": "kmsfs.amazonaws.com"}),
            "ValidationException: You can specify either GranteePrincipal or GranteeServicePrincipal, but not both."
                .to_owned(),
        ),
        (
            json!({"RetiringPrincipal": BOB, "RetiringServicePrincipal": "kmsfs.amazonaws.com"}),
            "ValidationException: You can specify either RetiringPrincipal or RetiringServicePrincipal, but not both."
                .to_owned(),
        ),
        (
            json!({"RetiringServicePrincipal": "kmsfs"}),
            format!("{one}Value 'kmsfs' at 'retiringServicePrincipal' failed to satisfy constraint: Member must satisfy regular expression pattern: ^([A-Za-z0-9\\-]+)\\.([A-Za-z0-9\\-]+)(\\.[A-Za-z0-9\\-]+)+$"),
        ),
        (
            json!({"Name": "two words"}),
            format!("{one}Value 'two words' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"),
        ),
        (
            json!({"GranteePrincipal": "a b"}),
            format!("{one}Value 'a b' at 'granteePrincipal' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[\\w+=,.@:/-]+$"),
        ),
        (
            json!({"GranteePrincipal": "alice"}),
            "InvalidArnException: Principal alice is not valid: it is no ARN of a user, a role, a session or an \
             account's root."
                .to_owned(),
        ),
        (
            json!({"RetiringPrincipal": "arn:aws:iam::000000000000:group/staff"}),
            "InvalidArnException: Principal arn:aws:iam::000000000000:group/staff is not valid: groups are no \
             principals; name users, roles or sessions."
                .to_owned(),
        ),
        (
            json!({"Constraints": {"EncryptionContextEquals": pairs}}),
            format!("{one}Value at 'constraints.encryptionContextEquals' failed to satisfy constraint: Member must have length less than or equal to 8"),
        ),
        (
            json!({"Constraints": {"EncryptionContextSubset": {"k": "v".repeat(385)}}}),
            format!("{one}Value at 'constraints.encryptionContextSubset' failed to satisfy constraint: Map value must satisfy constraint: [Member must have length less than or equal to 384]"),
        ),
        (
            json!({"Constraints": {"SourceArn": "arn:aws:s3:::my-bucket-name"}}),
            format!("{one}Value 'arn:aws:s3:::my-bucket-name' at 'constraints.sourceArn' failed to satisfy constraint: Member must satisfy regular expression pattern: ^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{{12}}:.+$"),
        ),
        (
            json!({"KeyId": NOWHERE}),
            format!("NotFoundException: Key '{}' does not exist", arn(NOWHERE)),
        ),
        (
            json!({"KeyId": "alias/x"}),
            "NotFoundException: Invalid keyId 'alias/x'".to_owned(),
        ),
        (
            json!({"DryRun": true}),
            "DryRunOperationException: The request would have succeeded, but the DryRun option is set.".to_owned(),
        ),
    ];
    for (more, text) in cases {
        assert_eq!(bench.grant_error(&key, more.clone()), text, "{more}");
    }
    for text in ["Sign", "EncryptX"] {
        let body = json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": [text]});
        assert!(bench.call("CreateGrant", body).is_err());
    }
    assert_eq!(bench.ids(&key), Vec::<String>::new());
}

#[test]
fn states_limit_what_is_made_but_not_what_is_ended() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let (first, _) = bench.grant(&key, json!({}));
    let (second, token) = bench.grant(&key, json!({}));
    bench.call("DisableKey", json!({"KeyId": key})).unwrap();
    assert_eq!(
        bench.grant_error(&key, json!({})),
        format!("DisabledException: {} is disabled.", arn(&key))
    );
    bench
        .call("RevokeGrant", json!({"KeyId": key, "GrantId": first}))
        .unwrap();
    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    assert_eq!(
        bench.grant_error(&key, json!({})),
        format!(
            "KMSInvalidStateException: {} is pending deletion.",
            arn(&key)
        )
    );
    assert_eq!(bench.ids(&key), [second]);
    bench
        .call("RetireGrant", json!({"GrantToken": token}))
        .unwrap();
    let pending = bench.create(json!({"Origin": "EXTERNAL"}));
    assert_eq!(
        bench.grant_error(&pending, json!({})),
        format!(
            "KMSInvalidStateException: {} is pending import.",
            arn(&pending)
        )
    );
}

#[test]
fn a_repeated_name_finds_the_same_grant_and_other_members_make_another() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let constrained = json!({"Name": "n", "Constraints": {"EncryptionContextEquals": {"a": "1"}}});
    let (first, token) = bench.grant(&key, json!({"Name": "n"}));
    let (again, other_token) = bench.grant(&key, json!({"Name": "n"}));
    assert_eq!(first, again);
    assert_ne!(token, other_token);
    let (second, _) = bench.grant(&key, constrained.clone());
    assert_ne!(first, second);
    assert_eq!(bench.grant(&key, constrained).0, second);
    let (unnamed, _) = bench.grant(&key, json!({}));
    assert_ne!(bench.grant(&key, json!({})).0, unnamed);
    assert_eq!(bench.ids(&key).len(), 4);
    // Either token names the grant; it is gone after the first.
    bench
        .call("RetireGrant", json!({"GrantToken": other_token}))
        .unwrap();
    let error = bench
        .call("RetireGrant", json!({"GrantToken": token}))
        .unwrap_err();
    assert!(error.starts_with("InvalidGrantTokenException"), "{error}");
    assert_ne!(bench.grant(&key, json!({"Name": "n"})).0, first);
}

#[test]
fn temporary_grants_end_by_either_clock_and_are_removed() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let body = |seconds: u32| {
        json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": ["Decrypt"], "Name": "t",
               "RetiringPrincipal": BOB, "ExpiresInSeconds": seconds})
    };
    let made = bench.call("CreateTemporaryGrant", body(3600)).unwrap();
    assert_eq!(made["EndDate"], json!(1_700_003_600));
    bench.now.wall_ms += 1_000;
    bench.now.elapsed_ms += 1_000;
    let again = bench.call("CreateTemporaryGrant", body(3600)).unwrap();
    assert_eq!(again["GrantId"], made["GrantId"]);
    assert_eq!(again["EndDate"], made["EndDate"]);
    let shorter = bench.call("CreateTemporaryGrant", body(60)).unwrap();
    assert_ne!(shorter["GrantId"], made["GrantId"]);
    let described = bench.call("DescribeGrants", json!({"KeyId": key})).unwrap();
    assert_eq!(described["Grants"].as_array().unwrap().len(), 2);

    // The wall clock stands still, or was set back: the other one ends it all the same.
    bench.now.elapsed_ms += 3_599_000;
    for operation in ["ListGrants", "DescribeGrants"] {
        let list = bench.call(operation, json!({"KeyId": key})).unwrap();
        assert_eq!(list["Grants"], json!([]), "{operation}");
    }
    let list = bench
        .call("ListRetirableGrants", json!({"RetiringPrincipal": BOB}))
        .unwrap();
    assert_eq!(list["Grants"], json!([]));
    for (operation, body) in [
        ("RetireGrant", json!({"GrantToken": made["GrantToken"]})),
        (
            "RetireGrant",
            json!({"KeyId": arn(&key), "GrantId": made["GrantId"]}),
        ),
        (
            "RevokeGrant",
            json!({"KeyId": key, "GrantId": made["GrantId"]}),
        ),
    ] {
        assert!(bench.call(operation, body).is_err(), "{operation}");
    }
    let ended = bench.kms.grants_ended(bench.now);
    assert_eq!(ended.len(), 2);
    let write = bench.kms.retire_ended(&ended);
    bench.commit(write);
    assert_eq!(bench.kms.snapshot().grants().iter().count(), 0);
    // The name is free again.
    bench.call("CreateTemporaryGrant", body(3600)).unwrap();

    let error = bench
        .call(
            "CreateTemporaryGrant",
            json!({"KeyId": key, "ExpiresInSeconds": 0}),
        )
        .unwrap_err();
    assert!(
        error.starts_with("ValidationException: 2 validation errors"),
        "{error}"
    );
}

#[test]
fn pages_go_on_where_they_ended_and_markers_fit_one_list() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let other = bench.create_key();
    for number in 0..7 {
        let who = if number % 2 == 0 { ALICE } else { BOB };
        bench.grant(
            &key,
            json!({"GranteePrincipal": who, "RetiringPrincipal": BOB}),
        );
    }
    bench.grant(&other, json!({"RetiringPrincipal": BOB}));
    let mut walk = |operation: &str, body: Value| {
        let mut seen = Vec::new();
        let mut marker = Value::Null;
        loop {
            let mut body = body.clone();
            body["Limit"] = json!(3);
            if !marker.is_null() {
                body["Marker"] = marker;
            }
            let page = bench.call(operation, body).unwrap();
            for grant in page["Grants"].as_array().unwrap() {
                seen.push(grant["GrantId"].as_str().unwrap().to_owned());
            }
            if page["Truncated"] == json!(false) {
                assert_eq!(page.get("NextMarker"), None);
                break;
            }
            marker = page["NextMarker"].clone();
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len());
        seen.len()
    };
    assert_eq!(walk("ListGrants", json!({"KeyId": key})), 7);
    assert_eq!(walk("DescribeGrants", json!({"KeyId": key})), 7);
    assert_eq!(
        walk(
            "ListGrants",
            json!({"KeyId": key, "GranteePrincipal": ALICE})
        ),
        4
    );
    assert_eq!(
        walk("ListRetirableGrants", json!({"RetiringPrincipal": BOB})),
        8
    );

    let page = bench
        .call("ListGrants", json!({"KeyId": key, "Limit": 2}))
        .unwrap();
    let marker = &page["NextMarker"];
    for (operation, body) in [
        ("ListGrants", json!({"KeyId": other, "Marker": marker})),
        (
            "ListGrants",
            json!({"KeyId": key, "GranteePrincipal": BOB, "Marker": marker}),
        ),
        (
            "ListRetirableGrants",
            json!({"RetiringPrincipal": BOB, "Marker": marker}),
        ),
        ("ListGrants", json!({"KeyId": key, "Marker": "nonsense"})),
    ] {
        let error = bench.call(operation, body).unwrap_err();
        assert!(error.starts_with("InvalidMarkerException"), "{error}");
    }
}

#[test]
fn ids_and_tokens_that_are_none_are_told() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let other = bench.create_key();
    let (id, token) = bench.grant(&key, json!({"Operations": ["Encrypt"]}));
    for operation in ["RevokeGrant", "RetireGrant", "ListGrants"] {
        for bad in ["x", &id[..63], &id.to_uppercase()] {
            if bad == id {
                continue;
            }
            let error = bench
                .call(operation, json!({"KeyId": key, "GrantId": bad}))
                .unwrap_err();
            assert_eq!(
                error,
                format!("InvalidGrantIdException: Grant ID {bad} is not valid.")
            );
        }
    }
    for operation in ["RevokeGrant", "RetireGrant"] {
        let error = bench
            .call(operation, json!({"KeyId": other, "GrantId": id}))
            .unwrap_err();
        assert_eq!(error, format!("NotFoundException: Grant ID {id} not found"));
        let error = bench
            .call(
                operation,
                json!({"KeyId": key, "GrantId": id, "DryRun": true}),
            )
            .unwrap_err();
        assert!(error.starts_with("DryRunOperationException"), "{error}");
    }
    let list = bench
        .call("ListGrants", json!({"KeyId": other, "GrantId": id}))
        .unwrap();
    assert_eq!(list["Grants"], json!([]));
    for body in [
        json!({}),
        json!({"KeyId": key}),
        json!({"GrantId": id}),
        json!({"GrantToken": token, "KeyId": key, "GrantId": id}),
    ] {
        let error = bench.call("RetireGrant", body).unwrap_err();
        assert_eq!(
            error,
            "ValidationException: You must specify either a grant token, or both a key ARN and a grant ID."
        );
    }

    let mut elsewhere = Bench::new();
    let foreign_key = elsewhere.create_key();
    let (_, foreign) = elsewhere.grant(&foreign_key, json!({}));
    let mut forged = token.clone().into_bytes();
    let last = forged.len() - 2;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let encrypt =
        |key: &str, token: &str| json!({"KeyId": key, "Plaintext": "eA==", "GrantTokens": [token]});
    bench.call("Encrypt", encrypt(&key, &token)).unwrap();
    for (key, token) in [
        (&key, &forged),
        (&key, &foreign),
        (&key, &"x".to_owned()),
        (&other, &token),
    ] {
        let error = bench.call("Encrypt", encrypt(key, token)).unwrap_err();
        assert!(error.starts_with("InvalidGrantTokenException"), "{error}");
    }
    // Of two keys, either may be the token's.
    let blob = bench.encrypt(&key, b"x", json!({}));
    let body = json!({"CiphertextBlob": blob, "DestinationKeyId": other, "GrantTokens": [token]});
    bench.call("ReEncrypt", body).unwrap();
    for flipped in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[flipped] = if bytes[flipped] == b'A' { b'C' } else { b'A' };
        let bad = String::from_utf8(bytes).unwrap();
        if bad != token {
            assert!(
                bench
                    .call("RetireGrant", json!({"GrantToken": bad}))
                    .is_err()
            );
        }
    }
    bench
        .call("RevokeGrant", json!({"KeyId": key, "GrantId": id}))
        .unwrap();
    let error = bench.call("Encrypt", encrypt(&key, &token)).unwrap_err();
    assert!(error.starts_with("InvalidGrantTokenException"), "{error}");
}

#[test]
fn ending_a_grant_is_tightening_and_making_one_is_not() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let (one, token) = bench.grant(&key, json!({}));
    let (two, _) = bench.grant(&key, json!({}));
    assert_eq!(bench.tightenings, 0);
    bench
        .call("RetireGrant", json!({"GrantToken": token}))
        .unwrap();
    bench
        .call("RevokeGrant", json!({"KeyId": arn(&key), "GrantId": two}))
        .unwrap();
    assert_eq!(bench.tightenings, 2);
    let error = bench
        .call("RevokeGrant", json!({"KeyId": key, "GrantId": one}))
        .unwrap_err();
    assert_eq!(
        error,
        format!("NotFoundException: Grant ID {one} not found")
    );
}

#[test]
fn fifty_thousand_grants_are_the_limit_of_a_key() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let (_, _) = bench.grant(&key, json!({"Name": "first"}));
    let row = bench.kms.snapshot().grants().iter().next().unwrap().clone();
    let more: Vec<Change> = (1..50_000)
        .map(|number| {
            let row = crate::rows::GrantRow {
                id: format!("{number:064x}"),
                name: None,
                ..crate::rows::GrantRow::clone(&row)
            };
            Change::Put(Row::Grant(Box::new(row)))
        })
        .collect();
    bench.kms.apply(&more);
    assert_eq!(
        bench.grant_error(&key, json!({})),
        format!(
            "LimitExceededException: The limit of 50000 grants is reached for key {}",
            arn(&key)
        )
    );
    // A retry still finds its grant, and another key has room.
    bench.grant(&key, json!({"Name": "first"}));
    let other = bench.create_key();
    bench.grant(&other, json!({}));
}

#[test]
fn a_destroyed_key_takes_its_grants_along() {
    let mut bench = Bench::new();
    let (doomed, kept) = (bench.create_key(), bench.create_key());
    let (_, token) = bench.grant(&doomed, json!({"RetiringPrincipal": BOB}));
    let (stays, kept_token) = bench.grant(&kept, json!({"RetiringPrincipal": BOB}));
    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": doomed}))
        .unwrap();
    bench.destroy(&doomed);
    let left: Vec<_> = bench
        .kms
        .snapshot()
        .grants()
        .iter()
        .map(|row| row.id.clone())
        .collect();
    assert_eq!(left, [stays]);
    assert!(
        bench
            .call("RetireGrant", json!({"GrantToken": token}))
            .is_err()
    );
    // Tokens are not made under keys that a deletion epoch replaces.
    bench
        .call("RetireGrant", json!({"GrantToken": kept_token}))
        .unwrap();
}
