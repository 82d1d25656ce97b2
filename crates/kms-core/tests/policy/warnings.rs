//! What a second look is worth at.

use kms_core::policy::PolicyKind::{self, GuardRail, Identity, Key};
use kms_core::policy::Rule::{self, *};
use serde_json::{Value as Json, json};

use crate::request::parse;

const ROOT: &str = "arn:aws:iam::000000000000:root";
const ALICE: &str = "arn:aws:iam::000000000000:user/alice";

/// The rules and places of the warnings about some statements.
#[track_caller]
fn warns(kind: PolicyKind, statements: Json, expected: &[(Rule, &str)]) {
    let document = json!({"Version": "2012-10-17", "Statement": statements});
    let warnings = parse(&document, kind).warnings();
    let found: Vec<_> = warnings.iter().map(|w| (w.rule, w.path.as_str())).collect();
    assert_eq!(found, expected, "{warnings:#?}");
}

fn key(statement: Json) -> Json {
    json!([{"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*", "Resource": "*"}, statement])
}

fn identity(members: Json) -> Json {
    let mut statement = json!({"Effect": "Allow", "Action": "kms:DescribeKey", "Resource": "*"});
    for (name, value) in members.as_object().unwrap() {
        statement[name] = value.clone();
    }
    json!([statement])
}

#[test]
fn a_policy_that_nobody_could_change() {
    let allow = |who: Json, what: &str| json!([{"Effect": "Allow", "Principal": who, "Action": what, "Resource": "*"}]);
    warns(Key, allow(json!({"AWS": ROOT}), "kms:*"), &[]);
    warns(
        Key,
        allow(json!({"AWS": ROOT}), "kms:Decrypt"),
        &[(LockOut, "Policy")],
    );
    warns(
        Key,
        allow(json!({"AWS": ALICE}), "kms:*"),
        &[(LockOut, "Policy")],
    );
    let deny = json!({"Effect": "Deny", "Principal": "*", "Action": "kms:Put*", "Resource": "*"});
    warns(Key, key(deny), &[(LockOut, "Statement[1]")]);
}

#[test]
fn access_for_everyone() {
    let anyone = |condition: Json| {
        key(
            json!({"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", "Condition": condition}),
        )
    };
    let public = &[(PublicAccess, "Statement[1].Principal")][..];
    warns(Key, anyone(json!({})), public);
    warns(
        Key,
        anyone(json!({"StringEquals": {"kms:CallerAccount": "000000000000"}})),
        &[],
    );
    warns(
        Key,
        anyone(json!({"NumericEquals": {"kmsd:Uid": "1000"}})),
        &[],
    );
    warns(
        Key,
        anyone(json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/a"}})),
        public,
    );
    warns(
        Key,
        anyone(json!({"StringNotEquals": {"aws:username": "eve"}})),
        public,
    );
    warns(
        Key,
        anyone(json!({"StringEquals": {"aws:username": "${kms:EncryptionContext:user}"}})),
        public,
    );
    let others = json!({"Effect": "Allow", "NotPrincipal": {"AWS": ALICE}, "Action": "kms:Decrypt", "Resource": "*"});
    warns(
        Key,
        key(others),
        &[(PublicAccess, "Statement[1].NotPrincipal")],
    );
}

#[test]
fn opening_what_any_key_made() {
    let blocked = &[(BlockedActions, "Statement[0].Resource")][..];
    let open = |resource: Json| identity(json!({"Action": "kms:Decrypt", "Resource": resource}));
    warns(Identity, open(json!("*")), blocked);
    warns(Identity, open(json!("arn:aws:kms:*")), blocked);
    warns(
        Identity,
        open(json!(["arn:aws:kms:local-host-1:000000000000:key/*"])),
        blocked,
    );
    warns(
        Identity,
        open(json!("arn:aws:kms:local-host-1:000000000000:key/1234*")),
        &[],
    );
    warns(
        Identity,
        open(json!("arn:aws:kms:local-host-1:000000000000:alias/*")),
        &[],
    );
    warns(
        Identity,
        identity(json!({"Action": "kms:ReEncrypt*"})),
        blocked,
    );
    warns(Identity, identity(json!({"Action": "kms:Encrypt"})), &[]);
    warns(GuardRail, open(json!("*")), &[]);
}

#[test]
fn what_never_matches() {
    warns(
        Identity,
        identity(json!({"Action": ["kms:Decript", "kms:List*"]})),
        &[(NoEffect, "Statement[0].Action")],
    );
    let when = |condition: Json| identity(json!({"Condition": condition}));
    let at = |path: &'static str| vec![(NoEffect, path)];
    warns(
        Identity,
        when(json!({"Bool": {"aws:MultiFactorAuthPresent": "true"}})),
        &at("Statement[0].Condition.Bool.aws:MultiFactorAuthPresent"),
    );
    warns(
        Identity,
        when(json!({"DateLessThan": {"kmsd:Unit": "2026-01-01"}})),
        &at("Statement[0].Condition.DateLessThan.kmsd:Unit"),
    );
    warns(
        Identity,
        when(json!({"StringEquals": {"aws:username": "a*"}})),
        &at("Statement[0].Condition.StringEquals.aws:username"),
    );
    warns(
        Identity,
        when(json!({"StringEquals": {"aws:username": ["eve", "CORP\\eve"]}})),
        &at("Statement[0].Condition.StringEquals.aws:username"),
    );
    warns(
        Identity,
        when(json!({"StringEquals": {"aws:username": "eve", "kmsd:User": "CORP\\eve"}})),
        &[],
    );
    warns(
        Identity,
        when(
            json!({"DateLessThan": {"aws:CurrentTime": "2026-01-01"}, "NumericLessThan": {"kmsd:Uid": "9"}}),
        ),
        &[],
    );
    let statement = json!({"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:Decrypt"});
    warns(Key, key(statement), &[(NoEffect, "Statement[1]")]);
}

#[test]
fn more_than_was_meant() {
    warns(
        Identity,
        json!([{"Effect": "Allow", "NotAction": ["kms:Decrypt", "kms:ReEncryptFrom"], "Resource": "*"}]),
        &[(Broad, "Statement[0].NotAction")],
    );
    let tags = json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}});
    warns(
        Identity,
        identity(json!({"Condition": tags})),
        &[(
            Broad,
            "Statement[0].Condition.ForAllValues:StringEquals.aws:TagKeys",
        )],
    );
    let guarded = json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}, "Null": {"aws:TagKeys": "false"}});
    warns(Identity, identity(json!({"Condition": guarded})), &[]);
    let twice = json!([{"Sid": "a", "Effect": "Allow", "Action": "kms:List*", "Resource": "*"},
        {"Sid": "a", "Effect": "Deny", "Action": "kms:List*", "Resource": "*"}]);
    warns(Identity, twice, &[(SameSid, "Statement[1].Sid")]);
}
