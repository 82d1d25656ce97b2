//! Operations that several people must agree to.

use kms_api::CallerRole;

use super::*;
use crate::kms::ApprovalRules;

fn user(name: &str) -> String {
    format!("arn:aws:iam::000000000000:user/{name}")
}

fn who(name: &str) -> Caller {
    let (role, uid) = match name {
        "root" => (CallerRole::Root, 0),
        "alice" => (CallerRole::Admin, 1000),
        "kmsfs" => (CallerRole::Service, 990),
        _ => (CallerRole::User, 1001),
    };
    let arn = match name {
        "root" => "arn:aws:iam::000000000000:root".to_owned(),
        name => user(name),
    };
    Caller::new(role, uid, arn)
}

fn bench(required: u32, approvers: &[&str]) -> Bench {
    let mut bench = Bench::new();
    bench.host.settings.approval = ApprovalRules {
        operations: vec!["ScheduleKeyDeletion".into()],
        required,
        approvers: approvers.iter().map(|name| user(name)).collect(),
        lifetime_ms: 3_600_000,
    };
    bench
}

fn schedule(bench: &mut Bench, by: &str, key: &str) -> Result<Value, String> {
    bench.call_as(&who(by), "ScheduleKeyDeletion", json!({"KeyId": key}))
}

fn approve(bench: &mut Bench, by: &str, id: &str) -> Result<Value, String> {
    bench.call_as(&who(by), "ApproveRequest", json!({"ApprovalId": id}))
}

/// The id that the refusal names.
fn id_in(refusal: &str) -> String {
    refusal
        .split(|c: char| !c.is_ascii_hexdigit())
        .find(|word| word.len() == 32)
        .unwrap()
        .to_owned()
}

#[track_caller]
fn refused(result: Result<Value, String>, part: &str) -> String {
    let text = result.unwrap_err();
    assert!(
        text.starts_with("AccessDeniedException") && text.contains(part),
        "{text}"
    );
    text
}

#[test]
fn the_same_call_goes_through_once_enough_others_approved_it() {
    let mut bench = bench(2, &["bob", "carol", "alice"]);
    let key = bench.create_key();
    let text = refused(schedule(&mut bench, "alice", &key), "it needs 2 approvals");
    assert!(text.contains("kms:ScheduleKeyDeletion on resource: arn:aws:kms:"));
    let id = id_in(&text);
    assert_eq!(bench.state(&key), "Enabled");
    refused(schedule(&mut bench, "alice", &key), "0 of 2 approvals");
    refused(approve(&mut bench, "alice", &id), "a request of their own");
    approve(&mut bench, "bob", &id).unwrap();
    approve(&mut bench, "bob", &id).unwrap();
    refused(schedule(&mut bench, "alice", &key), "1 of 2 approvals");
    let approval = approve(&mut bench, "carol", &id).unwrap()["Approval"].clone();
    assert_eq!(approval["ApprovedBy"], json!([user("bob"), user("carol")]));
    assert_eq!(approval["Keys"], json!([arn(&key)]));
    // Nobody else's call, and no other call.
    refused(schedule(&mut bench, "root", &key), "it needs 2 approvals");
    let other = json!({"KeyId": key, "PendingWindowInDays": 8});
    let other = bench.call_as(&who("alice"), "ScheduleKeyDeletion", other);
    refused(other, "it needs 2 approvals");
    schedule(&mut bench, "alice", &key).unwrap();
    assert_eq!(bench.state(&key), "PendingDeletion");
    // Once.
    bench
        .call("CancelKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    refused(schedule(&mut bench, "alice", &key), "it needs 2 approvals");
}

#[test]
fn only_listed_approvers_count_and_no_service() {
    let mut bench = bench(1, &["bob", "kmsfs"]);
    let key = bench.create_key();
    let id = id_in(&schedule(&mut bench, "alice", &key).unwrap_err());
    let stranger = approve(&mut bench, "dave", &id).unwrap_err();
    assert!(stranger.starts_with("NotFoundException"), "{stranger}");
    refused(approve(&mut bench, "root", &id), "approval.approvers");
    refused(
        approve(&mut bench, "kmsfs", &id),
        "services approve nothing",
    );
    let mut via = who("bob");
    via.via = Some(Arc::new(kms_api::Via {
        service: "kmsfs.local-host-1.amazonaws.com".into(),
        arn: user("kmsfs").into(),
        uid: 990,
        pid: 1,
    }));
    let through = bench.call_as(&via, "ApproveRequest", json!({"ApprovalId": id}));
    refused(through, "services approve nothing");
    refused(schedule(&mut bench, "alice", &key), "0 of 1 approvals");
    let seen = |bench: &mut Bench, name: &str| {
        let list = bench.call_as(&who(name), "ListApprovals", json!({}));
        list.unwrap()["Approvals"].as_array().unwrap().len()
    };
    let counts = ["root", "alice", "bob", "dave"].map(|name| seen(&mut bench, name));
    assert_eq!(counts, [1, 1, 1, 0]);
}

#[test]
fn another_configuration_lowers_nothing_that_waits() {
    let mut bench = bench(2, &["bob", "carol", "dave"]);
    let key = bench.create_key();
    let id = id_in(&schedule(&mut bench, "alice", &key).unwrap_err());
    approve(&mut bench, "bob", &id).unwrap();
    // Fewer approvals than when it was asked for.
    bench.host.settings.approval.required = 1;
    refused(schedule(&mut bench, "alice", &key), "1 of 2 approvals");
    // More.
    bench.host.settings.approval.required = 3;
    refused(schedule(&mut bench, "alice", &key), "1 of 3 approvals");
    bench.host.settings.approval.required = 2;
    // Somebody who was no approver then, and one who is none now.
    bench.host.settings.approval.approvers = vec![user("carol"), user("erin")];
    let late = approve(&mut bench, "erin", &id).unwrap_err();
    assert!(late.starts_with("NotFoundException"), "{late}");
    refused(schedule(&mut bench, "alice", &key), "0 of 2 approvals");
    // Not listed at all any more: what waits still waits, until it is cancelled.
    bench.host.settings.approval = ApprovalRules::default();
    refused(schedule(&mut bench, "alice", &key), "0 of 2 approvals");
    bench
        .call_as(&who("alice"), "CancelApproval", json!({"ApprovalId": id}))
        .unwrap();
    schedule(&mut bench, "alice", &key).unwrap();
}

#[test]
fn what_nobody_approves_lapses_by_either_clock() {
    for only_wall in [true, false] {
        let mut bench = bench(1, &["bob"]);
        let key = bench.create_key();
        let id = id_in(&schedule(&mut bench, "alice", &key).unwrap_err());
        approve(&mut bench, "bob", &id).unwrap();
        if only_wall {
            bench.now.wall_ms += 3_600_000;
        } else {
            bench.now.elapsed_ms += 3_600_000;
        }
        let late = approve(&mut bench, "bob", &id).unwrap_err();
        assert!(late.starts_with("NotFoundException"), "{late}");
        refused(schedule(&mut bench, "alice", &key), "it needs 1 approvals");
        assert_eq!(bench.kms.approvals_lapsed(bench.now), [id]);
    }
}

#[test]
fn what_could_not_be_carried_out_does_not_wait() {
    let mut bench = bench(1, &["bob"]);
    let key = bench.create_key();
    let missing = "0987dcba-09fe-87dc-65ba-ab0987654321";
    let unknown = schedule(&mut bench, "alice", missing).unwrap_err();
    assert!(unknown.starts_with("NotFoundException"), "{unknown}");
    // Not listed: as ever. kmsd's own work: as ever.
    let disable = bench.call_as(&who("alice"), "DisableKey", json!({"KeyId": key}));
    disable.unwrap();
    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": key}))
        .unwrap();
    assert_eq!(bench.kms.snapshot().approvals.len(), 0);
}

/// Whoever wants several people to agree before a key goes wants the same for what goes without one.
#[test]
fn a_rule_for_deletions_covers_policies_that_are_destroyed() {
    let mut bench = bench(1, &["bob"]);
    let key = bench.create_key();
    let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
    let policy = bench.call("CreatePolicy", body).unwrap()["PolicyId"].clone();
    let body = json!({"VolumeId": volume, "PolicyId": policy});
    bench.call("RotatePolicy", body.clone()).unwrap();
    let mut older = body.clone();
    older["Before"] = json!(2);
    for (operation, body) in [
        ("DestroyPolicyGenerations", older),
        ("DestroyPolicy", body.clone()),
    ] {
        let text = refused(
            bench.call_as(&who("alice"), operation, body.clone()),
            "it needs 1 approval",
        );
        assert!(!bench.kms.snapshot().meta().epoch_owed, "{operation}");
        approve(&mut bench, "bob", &id_in(&text)).unwrap();
        if operation == "DestroyPolicy" {
            bench.call_as(&who("alice"), operation, body).unwrap();
            assert!(bench.kms.snapshot().meta().epoch_owed);
        }
    }
    let error = bench.call("GetPolicy", body).unwrap_err();
    assert!(error.contains("was destroyed"), "{error}");
}

#[test]
fn an_access_key_approves_nothing_and_other_accounts_see_nothing() {
    let mut bench = bench(1, &["bob"]);
    let key = bench.create_key();
    let id = id_in(&schedule(&mut bench, "alice", &key).unwrap_err());
    let network = kms_api::Network {
        address: "203.0.113.9".parse().unwrap(),
        access_key_id: "AKIAEXAMPLE".into(),
        certificate: None,
        user_agent: None,
        tls: true,
    };
    let far = Caller::remote(&user("bob"), network);
    let body = json!({"ApprovalId": id});
    refused(
        bench.call_as(&far, "ApproveRequest", body.clone()),
        "not with an access key",
    );
    refused(schedule(&mut bench, "alice", &key), "0 of 1 approvals");

    bench.kms.set_served(crate::place::Served {
        accounts: vec!["222222222222".to_owned()],
        ..Default::default()
    });
    let scope = kms_api::Scope::new("222222222222", "local-host-1").unwrap();
    let mut foreign = Caller::new(CallerRole::Root, 0, scope.root_arn());
    foreign.scope = Some(Arc::new(scope));
    let list = bench.call_as(&foreign, "ListApprovals", json!({})).unwrap();
    assert_eq!(list["Approvals"], json!([]));
    for operation in ["DescribeApproval", "ApproveRequest", "CancelApproval"] {
        let text = bench
            .call_as(&foreign, operation, body.clone())
            .unwrap_err();
        assert!(text.starts_with("NotFoundException"), "{text}");
    }
}
