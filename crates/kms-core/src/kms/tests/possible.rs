//! What a caller may be without its being known: a unit, a role of a mapping rule. Only their Denies are heard.

use kms_api::{CallerRole, ProcessFacts};
use proptest::prelude::*;
use proptest::sample::select;

use super::access::user;
use super::*;
use crate::authz::{DenyBasis, Verdict};

const ROOT: &str = "arn:aws:iam::000000000000:root";
const ALICE: &str = "arn:aws:iam::000000000000:user/alice";
const UNIT: &str = "arn:aws:sts::000000000000:assumed-role/unit/web.service";
const ROLE: &str = "arn:aws:iam::000000000000:role/backup";
const SESSION: &str = "arn:aws:sts::000000000000:assumed-role/backup/alice";

/// Alice, in a unit or in none, with the role or without it.
fn is(in_unit: bool, has_role: bool) -> Caller {
    let mut caller = Caller::new(CallerRole::User, 1000, ALICE);
    let mut principals = vec![Arc::from(ALICE)];
    if in_unit {
        principals.push(UNIT.into());
    }
    if has_role {
        principals.extend([ROLE.into(), SESSION.into()]);
        caller.roles = Arc::new(["backup".into()]);
    }
    caller.principals = principals.into();
    caller.process = Some(Arc::new(ProcessFacts {
        unit: in_unit.then(|| "web.service".to_owned()),
        checked: true,
        ..ProcessFacts::default()
    }));
    caller
}

/// Alice, of whom the executable is not known, on which the role depends.
fn may_have_the_role(in_unit: bool) -> Caller {
    let mut caller = is(in_unit, false);
    caller.possible_roles = Arc::new(["backup".into()]);
    caller.possible_principals = Arc::new([ROLE.into(), SESSION.into()]);
    caller
}

/// Alice, of whose process nothing is known.
fn may_be_anything() -> Caller {
    let mut caller = may_have_the_role(false);
    caller.process = None;
    caller
}

fn document(statements: &[Value]) -> String {
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

impl Bench {
    fn key_says(&mut self, key: &str, statements: &[Value]) {
        let body = json!({"KeyId": key, "Policy": document(statements),
            "BypassPolicyLockoutSafetyCheck": true});
        self.call("PutKeyPolicy", body).unwrap();
    }

    fn identity_says(&mut self, kind: &str, identity: &str, statements: &[Value]) {
        let body = json!({"IdentityType": kind, "Identity": identity, "PolicyName": "p",
            "Document": document(statements)});
        self.call("PutIdentityPolicy", body).unwrap();
    }

    fn describes(&mut self, caller: &Caller, key: &str) -> Result<(), String> {
        let request = Self::decode("DescribeKey", &json!({"KeyId": key}));
        match self.world_call(|kms, world| kms.handle(&request, caller, world).verdict) {
            Verdict::Allowed(_) => Ok(()),
            Verdict::Denied(DenyBasis::Explicit { lacking, .. }) => {
                Err(lacking.unwrap_or_else(|| "deny".to_owned()))
            }
            other => Err(format!("{other:?}")),
        }
    }
}

fn says(effect: &str) -> Value {
    json!({"Effect": effect, "Action": "kms:*", "Resource": "*"})
}

fn says_to(effect: &str, element: &str, whom: &str) -> Value {
    let mut statement = says(effect);
    statement[element] = json!({"AWS": whom});
    statement
}

fn if_called(effect: &str, operator: &str, name: &str) -> Value {
    let mut statement = says(effect);
    statement["Condition"] = json!({operator: {"aws:PrincipalArn": name}});
    statement
}

#[test]
fn what_a_role_is_denied_whoever_may_have_it_is_denied() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let because = |fact: &str| Err(fact.to_owned());
    let (exe, unit) = (because("kmsd:Exe"), because("kmsd:Unit"));
    bench.identity_says("USER", "alice", &[says("Allow")]);
    let check = |bench: &mut Bench, without: Result<(), String>| {
        assert_eq!(bench.describes(&is(false, false), &key), without);
        assert_eq!(bench.describes(&is(false, true), &key), because("deny"));
        assert_eq!(bench.describes(&may_have_the_role(false), &key), exe);
        assert_eq!(bench.describes(&may_be_anything(), &key), unit);
    };

    bench.identity_says("ROLE", "backup", &[says("Deny")]);
    check(&mut bench, Ok(()));
    bench.identity_says("ROLE", "backup", &[if_called("Deny", "ArnLike", ROLE)]);
    check(&mut bench, Ok(()));
    bench.identity_says("ROLE", "backup", &[says("Allow")]);
    let delegates = says_to("Allow", "Principal", ROOT);
    for whom in [ROLE, SESSION] {
        bench.key_says(
            &key,
            &[delegates.clone(), says_to("Deny", "Principal", whom)],
        );
        check(&mut bench, Ok(()));
    }
    bench.key_says(&key, &[delegates]);
    for pattern in ["arn:aws:iam::*:role/back*", ROLE, "*:assumed-role/backup/*"] {
        bench.identity_says(
            "USER",
            "alice",
            &[says("Allow"), if_called("Deny", "StringLike", pattern)],
        );
        check(&mut bench, Ok(()));
    }
}

#[test]
fn what_a_role_is_allowed_nobody_is_who_merely_may_have_it() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    bench.identity_says("ROLE", "backup", &[says("Allow")]);
    let delegates = says_to("Allow", "Principal", ROOT);
    let unless = says_to("Deny", "NotPrincipal", ROLE);
    let named = says_to("Allow", "Principal", ROLE);
    let others = says_to("Allow", "NotPrincipal", ROLE);
    for (statements, with, without) in [
        (vec![delegates.clone()], true, false),
        (vec![named], true, false),
        (
            vec![says_to("Allow", "Principal", ALICE), unless],
            true,
            false,
        ),
        (vec![others], false, true),
    ] {
        bench.key_says(&key, &statements);
        assert_eq!(
            bench.describes(&is(false, true), &key).is_ok(),
            with,
            "{statements:?}"
        );
        assert_eq!(
            bench.describes(&is(false, false), &key).is_ok(),
            without,
            "{statements:?}"
        );
        for caller in [may_have_the_role(false), may_be_anything()] {
            assert!(bench.describes(&caller, &key).is_err(), "{statements:?}");
        }
    }
    bench.key_says(&key, &[delegates]);
    for (operator, with) in [("ArnLike", true), ("ArnNotLike", false)] {
        bench.identity_says(
            "ROLE",
            "backup",
            &[json!({"Effect": "Deny", "Action": "kmsd:*", "Resource": "*"})],
        );
        bench.identity_says("USER", "alice", &[if_called("Allow", operator, ROLE)]);
        assert_eq!(bench.describes(&is(false, true), &key).is_ok(), with);
        assert_eq!(bench.describes(&is(false, false), &key).is_ok(), !with);
        for caller in [may_have_the_role(false), may_be_anything()] {
            assert!(bench.describes(&caller, &key).is_err(), "{operator}");
        }
    }
}

#[test]
fn a_condition_on_the_principal_hears_of_units() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let mut unknown = user("alice");
    unknown.process = None;
    for (pattern, in_unit, known) in [
        ("arn:aws:sts::*:assumed-role/unit/web*", false, false),
        (
            "arn:aws:sts::000000000000:assumed-role/unit/*",
            false,
            false,
        ),
        (
            "arn:aws:sts::000000000000:assumed-role/*/web.service",
            false,
            false,
        ),
        ("arn:aws:iam::*:user/bob", true, true),
        ("arn:aws:iam::*:role/backup", true, true),
        (
            "arn:aws:sts::000000000000:assumed-role/other/web.service",
            true,
            true,
        ),
        (
            "arn:aws:sts::111111111111:assumed-role/unit/web.service",
            true,
            true,
        ),
    ] {
        bench.identity_says(
            "USER",
            "alice",
            &[says("Allow"), if_called("Deny", "ArnLike", pattern)],
        );
        assert_eq!(
            bench.describes(&is(false, false), &key),
            Ok(()),
            "{pattern}"
        );
        assert_eq!(
            bench.describes(&is(true, false), &key).is_ok(),
            in_unit,
            "{pattern}"
        );
        assert_eq!(bench.describes(&unknown, &key).is_ok(), known, "{pattern}");
    }
    // In variables the first name stands for the caller.
    let mut own = says("Allow");
    own["Condition"] = json!({"StringEquals": {"aws:PrincipalArn": "${aws:PrincipalArn}"}});
    bench.identity_says("USER", "alice", &[own]);
    assert_eq!(bench.describes(&is(true, true), &key), Ok(()));
}

fn condition() -> impl Strategy<Value = Option<Value>> {
    let operators = [
        "ArnLike",
        "ArnNotLike",
        "ForAnyValue:ArnLike",
        "ForAnyValue:ArnNotLike",
        "ForAllValues:ArnLike",
        "ForAllValues:ArnNotLike",
    ];
    let patterns = [
        ROLE,
        UNIT,
        ALICE,
        "arn:aws:*:*:*:*",
        "arn:aws:sts::*:assumed-role/*",
        "arn:aws:iam::*:role/*",
    ];
    proptest::option::of(
        (select(operators.to_vec()), select(patterns.to_vec()))
            .prop_map(|(operator, pattern)| json!({operator: {"aws:PrincipalArn": pattern}})),
    )
}

fn statement(in_key_policy: bool) -> impl Strategy<Value = Value> {
    let whom = (
        any::<bool>(),
        select(vec![ROOT, ALICE, UNIT, ROLE, SESSION]),
    );
    (select(vec!["Allow", "Allow", "Deny"]), whom, condition()).prop_map(
        move |(effect, (not, whom), condition)| {
            let mut statement = says(effect);
            if in_key_policy {
                let element = if not { "NotPrincipal" } else { "Principal" };
                statement[element] = json!({"AWS": whom});
            }
            if let Some(condition) = condition {
                statement["Condition"] = condition;
            }
            statement
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn not_knowing_never_helps(
        key_policy in proptest::collection::vec(statement(true), 1..4),
        identities in proptest::array::uniform3(proptest::collection::vec(statement(false), 0..3)),
    ) {
        let mut bench = Bench::new();
        let key = bench.create_key();
        let attached = [("USER", "alice"), ("UNIT", "web.service"), ("ROLE", "backup")];
        for ((kind, identity), statements) in attached.into_iter().zip(&identities) {
            if !statements.is_empty() {
                bench.identity_says(kind, identity, statements);
            }
        }
        bench.key_says(&key, &key_policy);
        if bench.describes(&may_be_anything(), &key).is_ok() {
            for (in_unit, has_role) in [(false, false), (false, true), (true, false), (true, true)] {
                prop_assert!(bench.describes(&is(in_unit, has_role), &key).is_ok(), "{in_unit} {has_role}");
            }
        }
        for in_unit in [false, true] {
            if bench.describes(&may_have_the_role(in_unit), &key).is_ok() {
                for has_role in [false, true] {
                    prop_assert!(bench.describes(&is(in_unit, has_role), &key).is_ok(), "{has_role}");
                }
            }
        }
    }
}
