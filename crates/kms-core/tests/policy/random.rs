//! Random policies and requests. Both come from small pools, so that they meet often.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value as Json, json};

use crate::request::{Fact, Request, Typed};

pub(crate) const KEY: &str =
    "arn:aws:kms:local-host-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const ALIAS: &str = "arn:aws:kms:local-host-1:000000000000:alias/hr";
const ALICE: &str = "arn:aws:iam::000000000000:user/alice";
const BOB: &str = "arn:aws:iam::000000000000:user/bob";
const ROOT: &str = "arn:aws:iam::000000000000:root";
const UNIT: &str = "arn:aws:sts::000000000000:assumed-role/unit/nginx.service";
const ROLE: &str = "arn:aws:iam::000000000000:role/ops";
const FOREIGN: &str = "arn:aws:iam::111122223333:user/eve";
const SERVICE: &str = "kmsfs.local-host-1.amazonaws.com";

fn one_or_many(of: &'static [&'static str], most: usize) -> impl Strategy<Value = Json> {
    proptest::collection::vec(select(of), 1..=most).prop_map(|mut texts| match texts.as_slice() {
        [one] if one.len() % 2 == 0 => json!(one),
        _ => json!(std::mem::take(&mut texts)),
    })
}

fn principal() -> impl Strategy<Value = Json> {
    let names = one_or_many(
        &[
            ALICE,
            BOB,
            ROOT,
            UNIT,
            ROLE,
            FOREIGN,
            "000000000000",
            "111122223333",
        ],
        3,
    );
    prop_oneof![
        1 => Just(json!("*")),
        1 => Just(json!({"AWS": "*"})),
        1 => Just(json!({"Service": SERVICE})),
        6 => names.prop_map(|names| json!({"AWS": names})),
    ]
}

fn actions() -> impl Strategy<Value = Json> {
    one_or_many(
        &[
            "*",
            "kms:*",
            "kms:Decrypt",
            "KMS:decrypt",
            "kms:?ncrypt",
            "kms:GenerateDataKey*",
            "kms:*Key*",
            "kmsd:*",
            "s3:GetObject",
            "kms:Get*",
            "kms:ReEncrypt*",
        ],
        3,
    )
}

fn resources() -> impl Strategy<Value = Json> {
    prop_oneof![
        3 => Just(json!("*")),
        2 => one_or_many(
            &[
                KEY, ALIAS, "arn:aws:kms:*:000000000000:key/*", "arn:aws:kms:*:*:alias/h?",
                "arn:*", "arn:aws:kms:local-host-1:000000000000:key/1234????-*-1234567890ab",
                "arn:aws:kms:local-host-1:000000000000:alias/${aws:username}",
                "arn:aws:kms:local-host-1:000000000000:alias/${kmsd:Unit, 'hr'}",
                "arn:aws:kms:local-host-1:${aws:PrincipalAccount}:${*}",
            ],
            3,
        ),
    ]
}

const TEXTS: &[&str] = &[
    "alice",
    "ALICE",
    "a*",
    "*",
    "?lice",
    "${aws:username}",
    "x${aws:username}*",
    "hr",
    "HR",
    "${kmsd:Unit, 'hr'}",
    "${*}",
    "a${?}b",
    "${$}{",
    "true",
    "1000",
    "2026-*",
    "",
    "ä",
    "Ä",
    "nginx.service",
    "${kms:ViaService}",
    "${kmsd:Uid}",
    "10.*",
    "arn:aws:iam::000000000000:user/alice",
];
const ARNS: &[&str] = &[
    ALICE,
    "arn:aws:iam::000000000000:user/*",
    "arn:aws:iam::*:user/alice",
    "*",
    "arn:*:*:*:*:*",
    "arn:aws:iam::000000000000:${aws:username}",
    "arn:aws:iam::000000000000:user/${aws:username}",
    "${aws:PrincipalArn}",
    "arn:aws:i?m::000000000000:user/al*e",
    "arn:aws:*:user/alice:*:*:*",
];
const NUMBERS: &[&str] = &[
    "1000",
    "999.5",
    "0",
    "-1",
    "1000.000001",
    "365",
    "1795000000",
];
const TIMES: &[&str] = &[
    "2026-11-25",
    "2026-11-25T20:40:37Z",
    "1795000000",
    "2000-02-29",
];
const NETWORKS: &[&str] = &[
    "10.0.0.0/8",
    "10.1.2.3",
    "10.1.2.0/31",
    "0.0.0.0/0",
    "2001:db8::/32",
    "::/0",
    "2001:db8::1",
];
const BINARIES: &[&str] = &["aGk=", "", "true", "AAAA"];
const BOOLS: &[&str] = &["true", "false", "TRUE"];

/// Condition keys, and whether requests have several values of them.
const KEYS: &[(&str, bool)] = &[
    ("kms:EncryptionContext:App", false),
    ("kms:EncryptionContextKeys", true),
    ("kms:ViaService", false),
    ("kms:GrantOperations", true),
    ("kms:RotationPeriodInDays", false),
    ("aws:PrincipalArn", false),
    ("aws:PrincipalAccount", false),
    ("aws:username", false),
    ("aws:SourceIp", false),
    ("aws:CurrentTime", false),
    ("aws:EpochTime", false),
    ("aws:SecureTransport", false),
    ("aws:ResourceTag/team", false),
    ("aws:TagKeys", true),
    ("kmsd:Uid", false),
    ("kmsd:Unit", false),
    ("kmsd:Groups", true),
    ("kmsd:GroupIds", true),
];

const OPERATORS: &[(&str, &[&str])] = &[
    ("StringEquals", TEXTS),
    ("StringNotEquals", TEXTS),
    ("StringEqualsIgnoreCase", TEXTS),
    ("StringNotEqualsIgnoreCase", TEXTS),
    ("StringLike", TEXTS),
    ("StringNotLike", TEXTS),
    ("NumericEquals", NUMBERS),
    ("NumericNotEquals", NUMBERS),
    ("NumericLessThan", NUMBERS),
    ("NumericLessThanEquals", NUMBERS),
    ("NumericGreaterThan", NUMBERS),
    ("NumericGreaterThanEquals", NUMBERS),
    ("DateEquals", TIMES),
    ("DateNotEquals", TIMES),
    ("DateLessThan", TIMES),
    ("DateLessThanEquals", TIMES),
    ("DateGreaterThan", TIMES),
    ("DateGreaterThanEquals", TIMES),
    ("Bool", BOOLS),
    ("BinaryEquals", BINARIES),
    ("IpAddress", NETWORKS),
    ("NotIpAddress", NETWORKS),
    ("ArnEquals", ARNS),
    ("ArnLike", ARNS),
    ("ArnNotEquals", ARNS),
    ("ArnNotLike", ARNS),
    ("Null", &["true", "false"]),
];

/// One operator with its keys and values.
fn condition() -> impl Strategy<Value = (String, Json)> {
    let choice = (select(OPERATORS), select(KEYS), 0..3u8, any::<bool>());
    choice.prop_flat_map(|((operator, values), (key, _), quantifier, if_exists)| {
        let overly_permissive = key.starts_with("kms:EncryptionContext:");
        let name = match (operator, quantifier) {
            ("Null", _) => operator.to_owned(),
            (_, 1) if !overly_permissive => format!("ForAllValues:{operator}"),
            (_, 2) => format!("ForAnyValue:{operator}"),
            _ => operator.to_owned(),
        };
        let if_exists = if_exists && operator != "Null";
        let name = if if_exists { name + "IfExists" } else { name };
        (Just(name), Just(key), one_or_many(values, 3), any::<bool>()).prop_map(
            |(name, key, values, lower)| {
                let key = if lower {
                    key.to_lowercase()
                } else {
                    key.to_owned()
                };
                (name, json!({ key: values }))
            },
        )
    })
}

/// A statement; with a principal if it is to be one of a key policy.
pub(crate) fn statement(key_policy: bool) -> impl Strategy<Value = Json> {
    (
        any::<bool>(),
        principal(),
        prop::bool::weighted(0.15),
        actions(),
        prop::bool::weighted(0.15),
        resources(),
        prop::bool::weighted(0.15),
        proptest::collection::vec(condition(), 0..3),
    )
        .prop_map(
            move |(allow, whom, not_whom, what, not_what, on, not_on, conditions)| {
                let mut statement = Map::new();
                let effect = if allow { "Allow" } else { "Deny" };
                statement.insert("Effect".into(), effect.into());
                let named = |name: &str, not: bool| {
                    if not {
                        format!("Not{name}")
                    } else {
                        name.into()
                    }
                };
                if key_policy {
                    statement.insert(named("Principal", not_whom), whom);
                }
                statement.insert(named("Action", not_what), what);
                statement.insert(named("Resource", not_on), on);
                let conditions: Map<_, _> = conditions.into_iter().collect();
                if !conditions.is_empty() {
                    statement.insert("Condition".into(), conditions.into());
                }
                statement.into()
            },
        )
}

/// A document of a few statements.
pub(crate) fn policy(key_policy: bool) -> impl Strategy<Value = Json> {
    let statements = proptest::collection::vec(statement(key_policy), 1..6);
    (statements, prop::bool::weighted(0.8)).prop_map(|(statements, new)| {
        let version = if new { "2012-10-17" } else { "2008-10-17" };
        let document = json!({"Version": version, "Statement": statements});
        if new {
            return document;
        }
        // Without variables that would not be an ARN, and refused.
        let text = document.to_string().replace("${aws:PrincipalArn}", ALICE);
        serde_json::from_str(&text).unwrap()
    })
}

pub(crate) fn typed() -> impl Strategy<Value = Typed> {
    prop_oneof![
        4 => select(&[
            "alice", "ALICE", "*", "xalice-2", "hr", "HR", "true", "1000", "365", "a?b", "aab", "", "ä",
            "nginx.service", "aGk=", "2026-11-25T20:40:37Z", "10.1.2.3", "2001:db8::1", ALICE, BOB, "${",
        ]).prop_map(|text| Typed::Text(text.to_owned())),
        1 => select(&[1000, 0, -1, 365, 1_795_000_000]).prop_map(Typed::Number),
        1 => any::<bool>().prop_map(Typed::Bool),
        1 => select(&[1_795_000_000_000, 951_782_400_000, 1_795_639_237_000]).prop_map(Typed::Time),
        1 => select(&["10.1.2.3", "10.1.2.1", "192.0.2.1", "2001:db8::1"])
            .prop_map(|ip| Typed::Ip(ip.parse().unwrap())),
    ]
}

/// The name of a key and what a request has there; nothing for absent.
pub(crate) fn fact() -> impl Strategy<Value = (String, Option<Fact>)> {
    select(KEYS).prop_flat_map(|(key, several)| {
        let value = if several {
            proptest::collection::vec(typed(), 0..4)
                .prop_map(|values| Some(Fact::Many(values)))
                .boxed()
        } else {
            typed().prop_map(|value| Some(Fact::One(value))).boxed()
        };
        let fact = prop_oneof![8 => value, 1 => Just(Some(Fact::Unknown)), 1 => Just(None)];
        (Just(key.to_owned()), fact)
    })
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let callers: &[(&[&str], &str)] = &[
        (&[ALICE], "000000000000"),
        (&[BOB, UNIT, ROLE], "000000000000"),
        (&[ROOT], "000000000000"),
        (&[FOREIGN], "111122223333"),
        (&[UNIT, SERVICE], "000000000000"),
    ];
    let actions: &[&str] = &[
        "kms:Decrypt",
        "kms:Encrypt",
        "kms:GenerateDataKey",
        "kms:ReEncryptFrom",
        "kms:GetKeyPolicy",
        "kms:CreateKey",
        "kmsd:GetStatus",
        "kms:NoSuchAction",
        "KMS:DECRYPT",
    ];
    (
        select(callers.to_vec()),
        select(actions.to_vec()),
        select(&[KEY, ALIAS, "*"][..]),
        proptest::collection::vec(fact(), 0..12),
    )
        .prop_map(|((principals, account), action, resource, facts)| Request {
            principals: principals.iter().map(|p| (*p).to_owned()).collect(),
            account: account.to_owned(),
            action: action.to_owned(),
            resource: resource.to_owned(),
            facts: facts
                .into_iter()
                .filter_map(|(key, fact)| Some((key, fact?)))
                .collect(),
        })
}
