use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;

/// A context from names and values.
#[derive(Default)]
struct Facts(BTreeMap<String, Values<'static>>);

impl Context for Facts {
    fn get(&self, key: ConditionKey<'_>) -> Values<'_> {
        let found = self.0.get(key.name().as_ref()).cloned();
        found.unwrap_or(Values::Absent)
    }
}

fn facts(values: &[(&str, Values<'static>)]) -> Facts {
    Facts(
        values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
    )
}

const KEY: &str = "arn:aws:kms:local-host-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn ask<'p>(policy: &'p Policy, principal: &str, action: &str, context: &Facts) -> Decision<'p> {
    policy.evaluate(&Query {
        principals: &[Arc::from(principal)],
        possible: &[],
        account: "000000000000",
        action,
        resource: KEY,
        context,
    })
}

/// A statement with one condition, in an identity policy that allows.
fn holds(condition: &str, context: &Facts) -> bool {
    let text = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{condition}}}}}"#
    );
    let policy = Policy::parse(&text, PolicyKind::Identity).unwrap();
    matches!(
        ask(&policy, "x", "kms:Decrypt", context),
        Decision::AllowPrincipal(_)
    )
}

fn fault(text: &str, kind: PolicyKind) -> String {
    Policy::parse(text, kind).unwrap_err().to_string()
}

#[test]
fn the_default_key_policy_delegates_to_the_account() {
    let text = r#"{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":"kms:*","Resource":"*"}]}"#;
    let policy = Policy::parse(text, PolicyKind::Key).unwrap();
    let none = Facts::default();
    let root = ask(
        &policy,
        "arn:aws:iam::000000000000:root",
        "kms:Decrypt",
        &none,
    );
    assert!(
        matches!(root, Decision::AllowPrincipal(s) if s.sid == Some("Enable IAM User Permissions"))
    );
    let alice = ask(
        &policy,
        "arn:aws:iam::000000000000:user/alice",
        "kms:Decrypt",
        &none,
    );
    assert!(matches!(alice, Decision::AllowAccount(s) if s.index == 0));
    let unknown_action = ask(
        &policy,
        "arn:aws:iam::000000000000:user/alice",
        "KMS:sOmething",
        &none,
    );
    assert!(matches!(unknown_action, Decision::AllowAccount(_)));
}

#[test]
fn a_variables_value_is_never_a_wildcard() {
    let like = r#"{"StringLike":{"kms:EncryptionContext:path":"/home/${aws:username}/*"}}"#;
    let of = |user: &'static str, path: &'static str| {
        facts(&[
            ("aws:username", user.into()),
            ("kms:EncryptionContext:path", path.into()),
        ])
    };
    assert!(holds(like, &of("alice", "/home/alice/x")));
    assert!(!holds(like, &of("*", "/home/alice/x")));
    assert!(holds(like, &of("*", "/home/*/x")));
    assert!(!holds(
        like,
        &facts(&[("kms:EncryptionContext:path", "/home//x".into())])
    ));
    let default =
        r#"{"StringLike":{"kms:EncryptionContext:path":"/home/${aws:username, 'no*one'}/*"}}"#;
    assert!(holds(
        default,
        &facts(&[("kms:EncryptionContext:path", "/home/no*one/x".into())])
    ));
    assert!(!holds(
        default,
        &facts(&[("kms:EncryptionContext:path", "/home/no-one/x".into())])
    ));
}

#[test]
fn what_is_unknown_denies_and_does_not_allow() {
    let text = |effect| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"{effect}","Action":"kms:*","Resource":"*","Condition":{{"StringEquals":{{"kmsd:Exe":"/usr/bin/evil"}}}}}}}}"#
        )
    };
    let deny = Policy::parse(&text("Deny"), PolicyKind::Identity).unwrap();
    let allow = Policy::parse(&text("Allow"), PolicyKind::Identity).unwrap();
    let with = |value| facts(&[("kmsd:Exe", value)]);
    let decide = |policy, value| ask(policy, "x", "kms:Decrypt", &with(value));
    assert!(matches!(
        decide(&deny, Values::Unknown),
        Decision::Deny(s) if s.lacking == Some(ConditionKey::Exe)
    ));
    assert_eq!(decide(&allow, Values::Unknown), Decision::NoMatch);
    assert_eq!(decide(&deny, "/usr/bin/good".into()), Decision::NoMatch);
    assert!(matches!(
        decide(&deny, "/usr/bin/evil".into()),
        Decision::Deny(s) if s.lacking.is_none()
    ));
}

#[test]
fn faults_are_refused_with_their_path() {
    let identity = |statement: &str| {
        fault(
            &format!(r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#),
            PolicyKind::Identity,
        )
    };
    let condition = |condition: &str| {
        identity(&format!(
            r#"{{"Effect":"Allow","Action":"kms:*","Resource":"*","Condition":{condition}}}"#
        ))
    };
    for (got, path) in [
        (fault("{", PolicyKind::Key), "Policy: is not JSON"),
        (fault("[]", PolicyKind::Key), "Policy: is a list"),
        (fault(r#"{"Version":"2013"}"#, PolicyKind::Key), "Version: "),
        (fault(r#"{"Statement":[]}"#, PolicyKind::Key), "Statement: "),
        (fault(r#"{"Statement":[{}],"X":1}"#, PolicyKind::Key), "X: "),
        (identity("{}"), "Statement[0]: has no Effect"),
        (identity(r#"{"Effect":"allow"}"#), "Statement[0].Effect: "),
        (
            identity(r#"{"Effect":"Allow","Effect":"Deny"}"#),
            "Statement[0]: has the member",
        ),
        (
            identity(r#"{"Effect":"Allow","Principal":"*"}"#),
            "Statement[0].Principal: ",
        ),
        (
            identity(r#"{"Effect":"Allow","Action":["kms:*","Decrypt"]}"#),
            "Statement[0].Action: ",
        ),
        (
            identity(r#"{"Effect":"Allow","Action":["kms:*",7]}"#),
            "Statement[0].Action[1]: is a number",
        ),
        (
            identity(r#"{"Effect":"Allow","Action":"kms:*","NotAction":"kms:*"}"#),
            "Statement[0].NotAction: ",
        ),
        (
            identity(r#"{"Effect":"Allow","Action":"kms:*"}"#),
            "Statement[0]: has neither Resource",
        ),
        (
            condition(r#"{"DateLessThan":{"aws:CurrentTime":"soon"}}"#),
            "Statement[0].Condition.DateLessThan.aws:CurrentTime: ",
        ),
        (
            condition(r#"{"StringMatches":{"aws:username":"a"}}"#),
            "Statement[0].Condition.StringMatches: there is no",
        ),
        (
            condition(r#"{"StringEquals":{"kms:ViaServce":"a"}}"#),
            "Statement[0].Condition.StringEquals.kms:ViaServce: there is no",
        ),
        (
            condition(r#"{"StringEquals":{"s3:prefix":"a"}}"#),
            "Statement[0].Condition.StringEquals.s3:prefix: ",
        ),
        (
            condition(r#"{"StringEquals":{"aws:username":"${aws:TagKeys}"}}"#),
            "Statement[0].Condition.StringEquals.aws:username: aws:TagKeys has several",
        ),
        (
            condition(r#"{"NullIfExists":{"aws:username":"true"}}"#),
            "Statement[0].Condition.NullIfExists: ",
        ),
        (
            condition(r#"{"Bool":{"aws:SecureTransport":"yes"}}"#),
            "Statement[0].Condition.Bool.aws:SecureTransport: ",
        ),
        (
            condition(r#"{"IpAddress":{"aws:SourceIp":"10.0.0.0/33"}}"#),
            "Statement[0].Condition.IpAddress.aws:SourceIp: ",
        ),
        (
            condition(r#"{"StringEquals":{"kmsd:Uid":1000}}"#),
            "Statement[0].Condition.StringEquals.kmsd:Uid: has a number",
        ),
        (
            condition(r#"{"ForAllValues:StringEquals":{"kms:EncryptionContext:a":"b"}}"#),
            "Statement[0].Condition.ForAllValues:StringEquals.kms:EncryptionContext:a: OverlyPermissiveCondition",
        ),
    ] {
        assert!(
            got.starts_with(path),
            "{got:?} does not begin with {path:?}"
        );
    }
}

#[test]
fn deep_nesting_is_refused() {
    let deep = "[".repeat(30_000);
    assert!(fault(&deep, PolicyKind::Key).contains("not JSON"));
    let deep = format!(r#"{{"Statement":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    assert!(fault(&deep, PolicyKind::Key).contains("Statement[0]: is a list"));
}
