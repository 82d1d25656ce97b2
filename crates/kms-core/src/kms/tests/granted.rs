//! What grants let real callers do, and that nobody gets more by them than was given.

use std::collections::BTreeMap;

use kms_api::CallerRole;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::access::user;
use super::*;
use crate::authz::{Basis, Verdict};

const ALICE: &str = "arn:aws:iam::000000000000:user/alice";
const BOB: &str = "arn:aws:iam::000000000000:user/bob";
const CAROL: &str = "arn:aws:iam::000000000000:user/carol";

impl Bench {
    /// Makes a grant as the daemon itself, whom nothing limits.
    fn give(&mut self, key: &str, to: &str, operations: &[&str], more: Value) -> String {
        let mut body = json!({"KeyId": key, "GranteePrincipal": to, "Operations": operations});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        self.call("CreateGrant", body).unwrap()["GrantId"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn as_user(&mut self, name: &str, operation: &str, body: Value) -> Result<Value, String> {
        self.call_as(&user(name), operation, body)
    }

    fn encrypts(&mut self, name: &str, key: &str, context: Value) -> Result<Value, String> {
        let body = json!({"KeyId": key, "Plaintext": "eA==", "EncryptionContext": context});
        self.as_user(name, "Encrypt", body)
    }
}

fn denied(result: Result<Value, String>) {
    let error = result.unwrap_err();
    assert!(error.starts_with("AccessDeniedException"), "{error}");
}

#[test]
fn a_grant_lets_its_grantee_do_what_it_lists_and_nothing_else() {
    let mut bench = Bench::new();
    let (key, other) = (bench.create_key(), bench.create_key());
    denied(bench.encrypts("alice", &key, json!({})));
    let id = bench.give(&key, ALICE, &["Encrypt", "DescribeKey"], json!({}));
    bench.encrypts("alice", &key, json!({})).unwrap();
    bench
        .as_user("alice", "DescribeKey", json!({"KeyId": key}))
        .unwrap();
    let request = Request::decode(
        "TrentService.DescribeKey",
        json!({"KeyId": key}).to_string().as_bytes(),
    )
    .unwrap();
    let verdict =
        bench.world_call(|kms, world| kms.handle(&request, &user("alice"), world).verdict);
    assert_eq!(verdict, Verdict::Allowed(Basis::Grant { id: id.clone() }));

    let blob = bench.encrypt(&key, b"x", json!({}));
    denied(bench.as_user("alice", "Decrypt", json!({"CiphertextBlob": blob})));
    for operation in [
        "DisableKey",
        "ListGrants",
        "RotateKeyOnDemand",
        "ScheduleKeyDeletion",
    ] {
        denied(bench.as_user("alice", operation, json!({"KeyId": key})));
    }
    let child = json!({"KeyId": key, "GranteePrincipal": BOB, "Operations": ["Encrypt"]});
    denied(bench.as_user("alice", "CreateGrant", child));
    denied(bench.as_user("alice", "RevokeGrant", json!({"KeyId": key, "GrantId": id})));
    denied(bench.as_user("alice", "RetireGrant", json!({"KeyId": key, "GrantId": id})));
    denied(bench.encrypts("alice", &other, json!({})));
    denied(bench.encrypts("bob", &key, json!({})));

    bench
        .call("RevokeGrant", json!({"KeyId": key, "GrantId": id}))
        .unwrap();
    denied(bench.encrypts("alice", &key, json!({})));
}

#[test]
fn a_token_gives_nothing_to_whom_the_grant_does_not_name() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let body = json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": ["Encrypt"]});
    let token = bench.call("CreateGrant", body).unwrap()["GrantToken"].clone();
    let body = |token: &Value| json!({"KeyId": key, "Plaintext": "eA==", "GrantTokens": [token]});
    bench.as_user("alice", "Encrypt", body(&token)).unwrap();
    denied(bench.as_user("bob", "Encrypt", body(&token)));
    denied(bench.as_user("bob", "RetireGrant", json!({"GrantToken": token})));
}

#[test]
fn constraints_hold_for_uses_and_not_for_looking() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    bench.give(
        &key,
        ALICE,
        &["Encrypt", "DescribeKey"],
        json!({"Constraints": {"EncryptionContextSubset": {"Dept": "IT"}}}),
    );
    bench.give(
        &key,
        BOB,
        &["Encrypt", "DescribeKey"],
        json!({"Constraints": {"EncryptionContextEquals": {"Dept": "IT"}}}),
    );
    let wider = json!({"Dept": "IT", "Purpose": "Test"});
    bench
        .encrypts("alice", &key, json!({"Dept": "IT"}))
        .unwrap();
    bench.encrypts("alice", &key, wider.clone()).unwrap();
    bench.encrypts("bob", &key, json!({"Dept": "IT"})).unwrap();
    denied(bench.encrypts("bob", &key, wider));
    for name in ["alice", "bob"] {
        for context in [
            json!({}),
            json!({"Dept": "it"}),
            json!({"dept": "IT"}),
            json!({"Dept": "HR"}),
        ] {
            denied(bench.encrypts(name, &key, context));
        }
        bench
            .as_user(name, "DescribeKey", json!({"KeyId": key}))
            .unwrap();
    }
}

#[test]
fn a_deny_beats_a_grant() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    bench.give(&key, ALICE, &["Encrypt"], json!({}));
    bench.encrypts("alice", &key, json!({})).unwrap();
    let statement = |principal: Value| {
        let mut deny = json!({"Effect": "Deny", "Action": "kms:Encrypt", "Resource": "*"});
        if !principal.is_null() {
            deny["Principal"] = principal;
        }
        json!({"Version": "2012-10-17", "Statement": [deny]}).to_string()
    };
    let guard = statement(Value::Null);
    bench
        .call(
            "PutGuardRail",
            json!({"GuardRailName": "g", "Document": guard}),
        )
        .unwrap();
    denied(bench.encrypts("alice", &key, json!({})));
    bench
        .call("DeleteGuardRail", json!({"GuardRailName": "g"}))
        .unwrap();
    bench.encrypts("alice", &key, json!({})).unwrap();
    let policy = statement(json!({"AWS": ALICE}));
    bench
        .call(
            "PutKeyPolicy",
            json!({"KeyId": key, "Policy": policy, "BypassPolicyLockoutSafetyCheck": true}),
        )
        .unwrap();
    denied(bench.encrypts("alice", &key, json!({})));
}

#[test]
fn a_temporary_grant_gives_nothing_after_its_end_whatever_clock_says_so() {
    for (wall, elapsed) in [(3_600_000, 0), (0, 3_600_000), (3_600_000, 3_600_000)] {
        let mut bench = Bench::new();
        let key = bench.create_key();
        let body = json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": ["Encrypt"],
            "ExpiresInSeconds": 3600});
        bench.call("CreateTemporaryGrant", body).unwrap();
        bench.now.wall_ms += wall - 1;
        bench.now.elapsed_ms += u64::try_from(elapsed).unwrap().saturating_sub(1);
        bench.encrypts("alice", &key, json!({})).unwrap();
        bench.now.wall_ms += 1;
        bench.now.elapsed_ms += 1;
        denied(bench.encrypts("alice", &key, json!({})));
        // Nothing has removed it yet.
        assert_eq!(bench.kms.snapshot().grants().iter().count(), 1);
    }
}

#[test]
fn who_was_given_create_grant_passes_on_no_more_than_that() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let constraint = json!({"EncryptionContextSubset": {"Dept": "IT"}});
    let parent = bench.give(
        &key,
        ALICE,
        &["Encrypt", "CreateGrant"],
        json!({"Constraints": constraint}),
    );
    let mut pass_on = |operations: Value, constraints: Value| {
        let mut body = json!({"KeyId": key, "GranteePrincipal": BOB, "Operations": operations});
        if !constraints.is_null() {
            body["Constraints"] = constraints;
        }
        bench.as_user("alice", "CreateGrant", body)
    };
    denied(pass_on(json!(["Encrypt"]), Value::Null));
    denied(pass_on(
        json!(["Encrypt"]),
        json!({"EncryptionContextSubset": {}}),
    ));
    denied(pass_on(
        json!(["Encrypt"]),
        json!({"EncryptionContextSubset": {"Dept": "HR"}}),
    ));
    denied(pass_on(json!(["Encrypt", "Decrypt"]), constraint.clone()));
    denied(pass_on(
        json!(["Encrypt", "RetireGrant"]),
        constraint.clone(),
    ));
    for narrower in [
        constraint.clone(),
        json!({"EncryptionContextSubset": {"Dept": "IT", "a": "b"}}),
        json!({"EncryptionContextEquals": {"Dept": "IT"}}),
    ] {
        pass_on(json!(["Encrypt"]), narrower).unwrap();
    }
    let exact = pass_on(
        json!(["Encrypt", "CreateGrant"]),
        json!({"EncryptionContextEquals": {"Dept": "IT"}}),
    )
    .unwrap()["GrantId"]
        .clone();
    // Equals never becomes Subset again.
    let mut further = |constraints: Value| {
        let body = json!({"KeyId": key, "GranteePrincipal": CAROL, "Operations": ["Encrypt"],
            "Constraints": constraints});
        bench.as_user("bob", "CreateGrant", body)
    };
    denied(further(constraint));
    denied(further(
        json!({"EncryptionContextEquals": {"Dept": "IT", "a": "b"}}),
    ));
    let last =
        further(json!({"EncryptionContextEquals": {"Dept": "IT"}})).unwrap()["GrantId"].clone();

    let list = bench.call("DescribeGrants", json!({"KeyId": key})).unwrap();
    let parent_of = |id: &Value| {
        let grants = list["Grants"].as_array().unwrap();
        let grant = grants.iter().find(|grant| grant["GrantId"] == *id).unwrap();
        grant["ParentGrantId"].clone()
    };
    assert_eq!(parent_of(&exact), json!(parent));
    assert_eq!(parent_of(&last), exact);
    // As on AWS, children outlive their parent.
    bench
        .call("RevokeGrant", json!({"KeyId": key, "GrantId": parent}))
        .unwrap();
    denied(bench.encrypts("alice", &key, json!({"Dept": "IT"})));
    bench
        .encrypts("carol", &key, json!({"Dept": "IT"}))
        .unwrap();
}

#[test]
fn a_child_ends_with_its_parent_at_the_latest() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let made = |bench: &mut Bench,
                who: &str,
                to: &str,
                seconds: Option<u32>,
                name: Option<&str>| {
        let mut body =
            json!({"KeyId": key, "GranteePrincipal": to, "Operations": ["Encrypt", "CreateGrant"]});
        if let Some(name) = name {
            body["Name"] = json!(name);
        }
        let operation = match seconds {
            Some(seconds) => {
                body["ExpiresInSeconds"] = json!(seconds);
                "CreateTemporaryGrant"
            }
            None => "CreateGrant",
        };
        bench.call_as(&user(who), operation, body).unwrap()["GrantId"].clone()
    };
    bench
        .call(
            "CreateTemporaryGrant",
            json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": ["Encrypt", "CreateGrant"],
                "ExpiresInSeconds": 600}),
        )
        .unwrap();
    let endless = made(&mut bench, "alice", BOB, None, Some("n"));
    let longer = made(&mut bench, "alice", BOB, Some(9_000), None);
    let shorter = made(&mut bench, "alice", BOB, Some(60), None);
    let list = bench.call("DescribeGrants", json!({"KeyId": key})).unwrap();
    for (id, end) in [(&endless, 600), (&longer, 600), (&shorter, 60)] {
        let grants = list["Grants"].as_array().unwrap();
        let grant = grants.iter().find(|grant| grant["GrantId"] == *id).unwrap();
        assert_eq!(grant["EndDate"], json!(1_700_000_000 + end));
    }
    bench.now.wall_ms += 5_000;
    bench.now.elapsed_ms += 5_000;
    assert_eq!(made(&mut bench, "alice", BOB, None, Some("n")), endless);
    bench.encrypts("bob", &key, json!({})).unwrap();
    bench.now.elapsed_ms += 595_000;
    denied(bench.encrypts("bob", &key, json!({})));
}

#[test]
fn grants_are_retired_by_their_parties_by_root_and_by_identity_policies() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let retire = |bench: &mut Bench, caller: &Caller, id: &str| {
        bench.call_as(
            caller,
            "RetireGrant",
            json!({"KeyId": arn(&key), "GrantId": id}),
        )
    };
    let retiring = json!({"RetiringPrincipal": BOB});
    let one = bench.give(&key, ALICE, &["Encrypt"], retiring.clone());
    denied(retire(&mut bench, &user("alice"), &one));
    denied(retire(&mut bench, &user("carol"), &one));
    retire(&mut bench, &user("bob"), &one).unwrap();

    let own = bench.give(&key, ALICE, &["Encrypt", "RetireGrant"], json!({}));
    denied(retire(&mut bench, &user("bob"), &own));
    // The constraint is none on retiring.
    let constrained = bench.give(
        &key,
        ALICE,
        &["Encrypt", "RetireGrant"],
        json!({"Constraints": {"EncryptionContextEquals": {"a": "b"}}}),
    );
    retire(&mut bench, &user("alice"), &own).unwrap();
    retire(&mut bench, &user("alice"), &constrained).unwrap();

    let root = Caller::new(CallerRole::Root, 0, "arn:aws:iam::000000000000:root");
    let other = bench.give(&key, ALICE, &["Encrypt"], json!({}));
    retire(&mut bench, &root, &other).unwrap();
    let other = bench.give(&key, ALICE, &["Encrypt"], json!({}));
    let document = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "kms:RetireGrant", "Resource": arn(&key)}]});
    let body = json!({"IdentityType": "USER", "Identity": "carol", "PolicyName": "p",
        "Document": document.to_string()});
    bench.call("PutIdentityPolicy", body).unwrap();
    retire(&mut bench, &user("carol"), &other).unwrap();

    // The retiring principal may be denied it like anything else.
    let denying = bench.give(&key, ALICE, &["Encrypt"], retiring);
    let document = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Action": "kms:RetireGrant", "Resource": "*"}]});
    let body = json!({"GuardRailName": "g", "Document": document.to_string()});
    bench.call("PutGuardRail", body).unwrap();
    denied(retire(&mut bench, &user("bob"), &denying));
}

#[test]
fn a_service_uses_its_grant_for_the_one_volume() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let volume = "00112233445566778899aabbccddeeff";
    let source = format!("arn:aws:kmsd:local-host-1:000000000000:volume/{volume}");
    bench
        .call(
            "CreateGrant",
            json!({"KeyId": key, "GranteeServicePrincipal": "kmsfs.amazonaws.com", "Operations": ["Encrypt"],
                "RetiringServicePrincipal": "kmsfs.amazonaws.com", "Constraints": {"SourceArn": source}}),
        )
        .unwrap();
    let as_role = |role: CallerRole| {
        let mut caller = Caller::new(role, 990, "arn:aws:iam::000000000000:user/kmsfs");
        caller.principals = Arc::new([Arc::clone(&caller.arn), "kmsfs.amazonaws.com".into()]);
        caller
    };
    let mut encrypts = |role: CallerRole, volume: &str| {
        let body = json!({"KeyId": key, "Plaintext": "eA==", "EncryptionContext": {"kmsfs:volume": volume}});
        bench.call_as(&as_role(role), "Encrypt", body)
    };
    encrypts(CallerRole::Service, volume).unwrap();
    denied(encrypts(
        CallerRole::Service,
        "ffffffffffffffffffffffffffffffff",
    ));
    // Only a service is believed to act for something.
    denied(encrypts(CallerRole::User, volume));
    denied(bench.encrypts("alice", &key, json!({"kmsfs:volume": volume})));
}

const PEOPLE: [&str; 3] = ["alice", "bob", "carol"];
const OPERATIONS: [&str; 3] = ["Encrypt", "Decrypt", "CreateGrant"];

/// One step of a random life of grants.
#[derive(Clone, Debug)]
struct Step {
    by: &'static str,
    to: &'static str,
    operations: Vec<&'static str>,
    constraint: Option<(bool, BTreeMap<String, String>)>,
}

fn contexts() -> Vec<BTreeMap<String, String>> {
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    vec![
        BTreeMap::new(),
        [pair("a", "1")].into(),
        [pair("a", "2")].into(),
        [pair("a", "1"), pair("b", "1")].into(),
        [pair("b", "1")].into(),
    ]
}

prop_compose! {
    fn step()(
        by in select(PEOPLE.to_vec()),
        to in select(PEOPLE.to_vec()),
        operations in subsequence(OPERATIONS.to_vec(), 1..=3),
        constraint in proptest::option::weighted(0.7, (any::<bool>(), select(contexts()))),
    ) -> Step {
        Step { by, to, operations, constraint }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Alice is given something; from then on people only pass on what they have. Whatever they make of it, nobody can
    /// do anything in the end that the first grant did not let alice do.
    #[test]
    fn what_is_passed_on_never_grows(
        first in step(),
        steps in vec(step(), 1..40),
    ) {
        let mut bench = Bench::new();
        let key = bench.create_key();
        let body = |step: &Step| {
            let arn = format!("arn:aws:iam::000000000000:user/{}", step.to);
            let mut body = json!({"KeyId": key, "GranteePrincipal": arn, "Operations": step.operations});
            if let Some((equals, pairs)) = &step.constraint {
                let name = if *equals { "EncryptionContextEquals" } else { "EncryptionContextSubset" };
                body["Constraints"] = json!({name: pairs});
            }
            body
        };
        let mut first = Step { to: "alice", ..first };
        if !first.operations.contains(&"CreateGrant") {
            first.operations.push("CreateGrant");
        }
        bench.call("CreateGrant", body(&first)).unwrap();
        let given = |operation: &str, context: &BTreeMap<String, String>| {
            first.operations.contains(&operation)
                && match &first.constraint {
                    None => true,
                    Some((true, pairs)) => pairs == context,
                    Some((false, pairs)) => pairs.iter().all(|(k, v)| context.get(k) == Some(v)),
                }
        };
        let mut made = 0;
        for step in &steps {
            if bench.call_as(&user(step.by), "CreateGrant", body(step)).is_ok() {
                made += 1;
                prop_assert!(step.operations.iter().all(|o| first.operations.contains(o)));
            }
        }
        for context in contexts() {
            let blob = bench.encrypt(&key, b"x", json!(context));
            for name in PEOPLE {
                let can = bench.encrypts(name, &key, json!(context)).is_ok();
                prop_assert!(!can || given("Encrypt", &context), "{name} encrypts {context:?}, {made} made");
                let body = json!({"CiphertextBlob": blob, "EncryptionContext": context});
                let can = bench.as_user(name, "Decrypt", body).is_ok();
                prop_assert!(!can || given("Decrypt", &context), "{name} decrypts {context:?}, {made} made");
            }
            // And alice has all that she was given.
            prop_assert_eq!(bench.encrypts("alice", &key, json!(context)).is_ok(), given("Encrypt", &context));
        }
    }
}

#[test]
fn a_key_policy_may_deny_to_retire() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let own = bench.give(&key, ALICE, &["Encrypt", "RetireGrant"], json!({}));
    let other = bench.give(&key, ALICE, &["Encrypt", "RetireGrant"], json!({}));
    let mut retire = |policy: Value, id: &str| {
        let policy = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}, policy]});
        let body = json!({"KeyId": key, "Policy": policy.to_string()});
        bench.call("PutKeyPolicy", body).unwrap();
        let body = json!({"KeyId": key, "GrantId": id});
        (
            bench.as_user("bob", "RetireGrant", body.clone()),
            bench.as_user("alice", "RetireGrant", body),
        )
    };
    let statement = |action: &str| json!({"Effect": "Deny", "Principal": {"AWS": ALICE}, "Action": action, "Resource": "*"});
    let (bob, alice) = retire(statement("kms:RetireGrant"), &own);
    denied(bob);
    denied(alice);
    // It allows nobody what only a party may.
    let (bob, alice) = retire(statement("kms:RevokeGrant"), &other);
    denied(bob);
    alice.unwrap();
}
