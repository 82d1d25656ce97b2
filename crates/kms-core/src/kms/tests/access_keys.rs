//! Access keys: for whom, their secrets, and what callers that signed with one are to policies.

use kms_api::{CallerRole, Network};

use super::*;
use crate::rows::Table;

const ALICE: &str = "arn:aws:iam::000000000000:user/alice";
const BACKUP: &str = "arn:aws:iam::000000000000:role/backup";
const ROOT: &str = "arn:aws:iam::000000000000:root";

fn network(address: &str, tls: bool) -> Network {
    Network {
        address: address.parse().unwrap(),
        access_key_id: "AKIAEXAMPLE".into(),
        certificate: None,
        user_agent: None,
        tls,
    }
}

fn make(bench: &mut Bench, principal: &str) -> (String, String) {
    let made = bench
        .call("CreateAccessKey", json!({"PrincipalArn": principal}))
        .unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("AccessKeyId"), text("SecretAccessKey"))
}

fn stored(bench: &Bench, id: &str) -> String {
    let row = bench.kms.snapshot().access_key(id).unwrap();
    row.open(&bench.domain.read()).unwrap().to_string()
}

#[test]
fn a_secret_is_shown_once_and_outlives_a_deletion_epoch() {
    let mut bench = Bench::new();
    let (id, secret) = make(&mut bench, ALICE);
    assert_eq!((id.len(), secret.len()), (20, 40));
    assert!(id.starts_with("AKIA"));
    assert_eq!(stored(&bench, &id), secret);
    let raw = Row::AccessKey(Box::new(
        (**bench.kms.snapshot().access_key(&id).unwrap()).clone(),
    ));
    let raw = String::from_utf8(raw.encode().unwrap().body).unwrap();
    assert!(!raw.contains(&secret), "it is stored wrapped");
    let listed = bench.call("ListAccessKeys", json!({})).unwrap();
    assert!(!listed.to_string().contains(&secret));
    assert_eq!(listed["AccessKeys"][0]["PrincipalArn"], ALICE);

    let key = bench.create_key();
    bench.destroy(&key);
    assert_eq!(stored(&bench, &id), secret);
    // A wrap belongs to its row: it is no other principal's.
    let mut row = (**bench.kms.snapshot().access_key(&id).unwrap()).clone();
    row.principal = ROOT.into();
    assert!(row.open(&bench.domain.read()).is_err());
    let checked = crate::backup::check_secrets(bench.kms.snapshot(), &bench.domain.read());
    assert!(checked.is_ok());
}

#[test]
fn disabling_and_deleting_tighten_and_enabling_does_not() {
    let mut bench = Bench::new();
    let (id, _) = make(&mut bench, BACKUP);
    let status = |status: &str| json!({"AccessKeyId": id, "Status": status});
    assert_eq!(bench.tightenings, 0);
    bench.call("UpdateAccessKey", status("Inactive")).unwrap();
    assert!(!bench.kms.snapshot().access_key(&id).unwrap().enabled);
    bench.call("UpdateAccessKey", status("Inactive")).unwrap();
    bench.call("UpdateAccessKey", status("Active")).unwrap();
    assert_eq!(bench.tightenings, 1);
    bench
        .call("DeleteAccessKey", json!({"AccessKeyId": id}))
        .unwrap();
    assert_eq!(bench.tightenings, 2);
    for (operation, body) in [
        ("DeleteAccessKey", json!({"AccessKeyId": id})),
        ("UpdateAccessKey", status("Active")),
    ] {
        assert_eq!(
            bench.call(operation, body).unwrap_err(),
            format!("NotFoundException: The Access Key with id {id} cannot be found.")
        );
    }
    let before = bench.kms.snapshot().clone();
    let gone = [Change::Remove(Table::AccessKey, id)];
    assert!(crate::relevance::relevant(&before, &gone).tightens());
}

#[test]
fn access_keys_are_for_users_and_roles_of_the_account_and_for_others_only_by_root() {
    let mut bench = Bench::new();
    for bad in [
        "arn:aws:iam::999999999999:user/alice",
        "arn:aws:iam::000000000000:role/unit/nginx.service",
        "arn:aws:iam::000000000000:role/unit",
        "arn:aws:iam::000000000000:group/staff",
        "arn:aws:iam::000000000000:user/",
        "arn:aws:iam::000000000000:user/a b",
        "arn:aws:sts::000000000000:assumed-role/a/b",
        "somebody-with-a-long-name",
    ] {
        let error = bench
            .call("CreateAccessKey", json!({"PrincipalArn": bad}))
            .unwrap_err();
        assert!(error.starts_with("ValidationException"), "{bad}: {error}");
    }
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "kmsd:CreateAccessKey", "Resource": "*"}]});
    bench
        .call(
            "PutIdentityPolicy",
            json!({"IdentityType": "USER", "Identity": "alice", "PolicyName": "p", "Document": policy.to_string()}),
        )
        .unwrap();
    let alice = Caller::new(CallerRole::User, 1000, ALICE);
    let admin = Caller::new(CallerRole::Admin, 1000, ALICE);
    let mut mapped = alice.clone();
    mapped.principals = Arc::new([ALICE.into(), BACKUP.into()]);
    let bob = "arn:aws:iam::000000000000:user/bob";
    for other in [ROOT, BACKUP, bob] {
        for caller in [&alice, &admin, &mapped] {
            let error = bench
                .call_as(caller, "CreateAccessKey", json!({"PrincipalArn": other}))
                .unwrap_err();
            assert!(error.starts_with("AccessDeniedException"), "{error}");
        }
    }
    let own = json!({"PrincipalArn": ALICE});
    bench.call_as(&alice, "CreateAccessKey", own).unwrap();
    let root = Caller::new(CallerRole::Root, 0, ROOT);
    for any in [ROOT, BACKUP, bob] {
        let body = json!({"PrincipalArn": any});
        bench.call_as(&root, "CreateAccessKey", body).unwrap();
    }
    for _ in 1..10 {
        make(&mut bench, ALICE);
    }
    let error = bench
        .call("CreateAccessKey", json!({"PrincipalArn": ALICE}))
        .unwrap_err();
    assert!(error.starts_with("LimitExceededException"), "{error}");
}

#[test]
fn the_last_use_is_listed_and_written_down_once_an_hour() {
    let mut bench = Bench::new();
    let (id, _) = make(&mut bench, ALICE);
    let last = |bench: &mut Bench| {
        let listed = bench.call("ListAccessKeys", json!({})).unwrap();
        listed["AccessKeys"][0]["LastUsedDate"].as_f64()
    };
    assert_eq!(last(&mut bench), None);
    bench.kms.access_key_uses().note(&id, 5_000_000);
    assert_eq!(last(&mut bench), Some(5_000.0));
    let changes = bench.kms.used_access_keys();
    assert_eq!(changes.len(), 1);
    let relevance = crate::relevance::relevant(bench.kms.snapshot(), &changes);
    assert_eq!(relevance, crate::relevance::Relevance::None);
    bench.apply(changes);
    bench.kms.access_key_uses().note(&id, 5_000_000 + 3_599_000);
    assert!(bench.kms.used_access_keys().is_empty());
    bench.kms.access_key_uses().note(&id, 5_000_000 + 3_600_000);
    assert_eq!(bench.kms.used_access_keys().len(), 1);
}

/// What one document decides about a caller.
fn allowed(bench: &mut Bench, caller: &Caller, condition: Value) -> bool {
    let document = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "kms:GenerateRandom", "Resource": "*", "Condition": condition}]});
    for (kind, identity) in [("USER", "alice"), ("ROLE", "backup")] {
        let body = json!({"IdentityType": kind, "Identity": identity, "PolicyName": "p", "Document": document.to_string()});
        bench.call("PutIdentityPolicy", body).unwrap();
    }
    bench
        .call_as(caller, "GenerateRandom", json!({"NumberOfBytes": 1}))
        .is_ok()
}

#[test]
fn conditions_see_the_network_and_nothing_of_this_host() {
    let mut bench = Bench::new();
    let far = Caller::remote(ALICE, network("203.0.113.9", true));
    let plain = Caller::remote(ALICE, network("127.0.0.1", false));
    let near = Caller::new(CallerRole::User, 1000, ALICE);
    let from = json!({"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}});
    let tls = json!({"Bool": {"aws:SecureTransport": "true"}});
    let no_uid = json!({"Null": {"kmsd:Uid": "true"}});
    let no_unit = json!({"Null": {"kmsd:Unit": "true", "kmsd:Exe": "true"}});
    let id = json!({"StringEquals": {"aws:userid": "AKIAEXAMPLE"}});
    for (condition, expected) in [
        (from, [true, false, false]),
        (tls, [true, false, true]),
        (no_uid, [true, true, false]),
        (no_unit, [true, true, false]),
        (id, [true, true, false]),
    ] {
        let found =
            [&far, &plain, &near].map(|caller| allowed(&mut bench, caller, condition.clone()));
        assert_eq!(found, expected, "{condition}");
    }
}

#[test]
fn a_role_is_acted_as_in_a_session_named_after_the_access_key() {
    let mut bench = Bench::new();
    let session = Caller::remote(BACKUP, network("203.0.113.9", true));
    let arn = "arn:aws:sts::000000000000:assumed-role/backup/AKIAEXAMPLE";
    assert_eq!((&*session.arn, session.role), (arn, CallerRole::User));
    let both = json!({"ArnEquals": {"aws:PrincipalArn": BACKUP},
        "StringEquals": {"aws:PrincipalType": "AssumedRole"}, "Null": {"aws:username": "true"}});
    assert!(allowed(&mut bench, &session, both));
    let root = Caller::remote(ROOT, network("203.0.113.9", true));
    assert_eq!(root.role, CallerRole::Root);
    assert!(bench.call_as(&root, "GetStatus", json!({})).is_ok());
    let alice = Caller::remote(ALICE, network("203.0.113.9", true));
    assert!(bench.call_as(&alice, "GetStatus", json!({})).is_err());
    // It holds no lease, whatever its number.
    let error = bench.call_as(&alice, "AcquireLease", json!({"Label": "x"}));
    assert!(error.unwrap_err().starts_with("AccessDenied"));
}
