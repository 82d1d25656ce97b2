//! Markers: opaque, bound to one list and its filters, and nothing that somebody makes up gets further than a refusal.

use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;

/// Lists with more than a page, each with what asks for it.
fn lists(bench: &mut Bench) -> Vec<(&'static str, Value)> {
    let (key, other) = (bench.create_key(), bench.create_key());
    for n in 0..3 {
        let body = json!({"AliasName": format!("alias/{n}"), "TargetKeyId": key});
        bench.call("CreateAlias", body).unwrap();
        bench
            .call("RotateKeyOnDemand", json!({"KeyId": key}))
            .unwrap();
        let tags = json!([{"TagKey": format!("tag{n}"), "TagValue": "v"}]);
        bench
            .call("TagResource", json!({"KeyId": key, "Tags": tags}))
            .unwrap();
        let root = "arn:aws:iam::000000000000:root";
        let body = json!({
            "KeyId": key, "GranteePrincipal": root, "RetiringPrincipal": root, "Operations": ["Decrypt"],
            "Name": format!("grant{n}"),
        });
        bench.call("CreateGrant", body).unwrap();
    }
    let root = "arn:aws:iam::000000000000:root";
    vec![
        ("ListKeys", json!({})),
        ("ListAliases", json!({})),
        ("ListAliases", json!({"KeyId": key})),
        ("ListKeyRotations", json!({"KeyId": key})),
        (
            "ListKeyRotations",
            json!({"KeyId": key, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"}),
        ),
        ("ListGrants", json!({"KeyId": key})),
        ("ListRetirableGrants", json!({"RetiringPrincipal": root})),
        ("ListResourceTags", json!({"KeyId": key})),
        // Lists of nothing have no marker, and take none.
        ("ListKeyRotations", json!({"KeyId": other})),
        ("ListKeyPolicies", json!({"KeyId": key})),
    ]
}

fn with(body: &Value, marker: &str) -> Value {
    let mut body = body.clone();
    body["Limit"] = json!(1);
    body["Marker"] = json!(marker);
    body
}

#[test]
fn a_marker_is_good_for_its_list_only() {
    let mut bench = Bench::new();
    let lists = lists(&mut bench);
    let mut markers = Vec::new();
    for (n, (operation, body)) in lists.iter().enumerate() {
        let mut body = body.clone();
        body["Limit"] = json!(1);
        let page = bench.call(operation, body).unwrap();
        if let Some(marker) = page["NextMarker"].as_str() {
            assert_eq!(page["Truncated"], true);
            markers.push((n, marker.to_owned()));
        } else {
            assert_eq!(page["Truncated"], false, "{operation}");
        }
    }
    assert_eq!(markers.len(), 8);
    for (from, marker) in &markers {
        for (n, (operation, body)) in lists.iter().enumerate() {
            let found = bench.call(operation, with(body, marker));
            match n == *from {
                true => assert!(found.is_ok(), "{operation}: {found:?}"),
                false => {
                    let refused = found.unwrap_err();
                    assert!(
                        refused.starts_with("InvalidMarkerException"),
                        "{operation}: {refused}"
                    );
                }
            }
        }
    }
}

#[test]
fn no_marker_that_somebody_makes_up_does_harm() {
    let mut bench = Bench::new();
    let lists = lists(&mut bench);
    let mut good = Vec::new();
    for (operation, body) in &lists {
        let mut body = body.clone();
        body["Limit"] = json!(1);
        let page = bench.call(operation, body).unwrap();
        good.extend(page["NextMarker"].as_str().map(str::to_owned));
    }
    // Always the same ones.
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[5; 32]);
    let mut runner = TestRunner::new_with_rng(Config::with_cases(2_000), rng);
    let altered = (
        proptest::sample::select(good),
        any::<(usize, u8)>(),
        any::<bool>(),
    )
        .prop_map(|(marker, (at, byte), inside)| {
            let mut bytes = match inside {
                true => BASE64URL_NOPAD.decode(marker.as_bytes()).unwrap(),
                false => marker.into_bytes(),
            };
            let at = at % bytes.len();
            bytes[at] = byte;
            match inside {
                true => BASE64URL_NOPAD.encode(&bytes),
                false => String::from_utf8_lossy(&bytes).into_owned(),
            }
        });
    let anything = proptest::collection::vec(any::<u8>(), 1..200)
        .prop_map(|bytes| BASE64URL_NOPAD.encode(&bytes));
    let strategy = (
        prop_oneof![3 => altered, 1 => anything, 1 => ".{1,60}"],
        0..lists.len(),
    );
    let bench = std::cell::RefCell::new(bench);
    runner
        .run(&strategy, |(marker, n)| {
            let (operation, body) = &lists[n];
            if let Err(refused) = bench.borrow_mut().call(operation, with(body, &marker)) {
                let known = ["InvalidMarkerException", "ValidationException"];
                prop_assert!(
                    known.iter().any(|code| refused.starts_with(code)),
                    "{operation} {marker}: {refused}"
                );
            }
            Ok(())
        })
        .unwrap();
}
