//! `kmsctl lint` finds what it says it finds, and nothing in a well-kept store.

use kms_tests::require;
use kms_tests::world::World;
use serde_json::{Value, json};

/// The rules found, each with the last part of its resource; the exit code says whether there are any.
fn found(world: &World, arguments: &[&str]) -> Vec<(String, String)> {
    let command = [&["--json", "lint"], arguments].concat();
    let said = world.kmsctl(&command);
    let report: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let findings = report["Findings"].as_array().unwrap();
    assert_eq!(
        said.code,
        if findings.is_empty() { 0 } else { 17 },
        "{said:?}"
    );
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    findings
        .iter()
        .map(|finding| {
            assert!(!text(&finding["Text"]).is_empty() && !text(&finding["NextStep"]).is_empty());
            let resource = text(&finding["Resource"]);
            let last = resource.rsplit('/').next().unwrap().to_owned();
            (text(&finding["Rule"]), last)
        })
        .collect()
}

#[test]
fn lint_finds_what_security_hub_would() {
    if !require::tpm() {
        return;
    }
    let world = World::start();
    assert_eq!(found(&world, &[]), []);

    let key = world.key("alias/hr");
    let rule = |rule: &str| (rule.to_owned(), key.clone());
    assert_eq!(found(&world, &[]), [rule("KMS.4")]);
    assert_eq!(found(&world, &["--ignore", "kms.4"]), []);
    world.call("EnableKeyRotation", &json!({"KeyId": key}));
    assert_eq!(found(&world, &[]), []);

    let everyone = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "kms:*", "Resource": "*"},
        {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"},
    ]});
    world.call(
        "PutKeyPolicy",
        &json!({"KeyId": key, "Policy": everyone.to_string()}),
    );
    world.call(
        "CreateGrant",
        &json!({"KeyId": key, "GranteePrincipal": "arn:aws:iam::000000000000:user/alice", "Operations": ["CreateGrant"]}),
    );
    assert_eq!(found(&world, &[]), [rule("KMS.5"), rule("broad-grant")]);
    world.call(
        "ScheduleKeyDeletion",
        &json!({"KeyId": key, "PendingWindowInDays": 7}),
    );
    assert_eq!(
        found(&world, &[]),
        [rule("KMS.3"), rule("KMS.5"), rule("broad-grant")]
    );
    let shown = world.kmsctl(&["lint"]);
    for text in [
        "CRITICAL",
        "KMS.3",
        "cancel-deletion",
        "1 keys, 3 findings.",
    ] {
        assert!(shown.stdout.contains(text), "{}", shown.stdout);
    }

    let all = json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}});
    world.call_local(
        "PutIdentityPolicy",
        &json!({"IdentityType": "GROUP", "Identity": "staff", "PolicyName": "all", "Document": all.to_string()}),
    );
    let findings = found(
        &world,
        &[
            "--ignore",
            "KMS.3",
            "--ignore",
            "KMS.5",
            "--ignore",
            "broad-grant",
        ],
    );
    assert_eq!(findings, [("KMS.2".to_owned(), "all".to_owned())]);
}
