//! How long one decision takes: `cargo bench -p kms-core --bench authorization`.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark may stop by panicking")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use kms_core::policy::{ConditionKey, Context, Decision, Policy, PolicyKind, Query, Values};
use serde_json::{Value, json};

const ACCOUNT: &str = "000000000000";
const KEY: &str = "arn:aws:kms:local-host-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// The facts of an ordinary request.
struct Facts;

impl Context for Facts {
    fn get(&self, key: ConditionKey<'_>) -> Values<'_> {
        match key {
            ConditionKey::EncryptionContext("App") => "payroll".into(),
            ConditionKey::ViaService => "kmsfs.local-host-1.amazonaws.com".into(),
            ConditionKey::CallerAccount => ACCOUNT.into(),
            ConditionKey::UserName => "user19".into(),
            ConditionKey::Uid => 1019_u32.into(),
            ConditionKey::CurrentTime => kms_core::policy::Value::Time(1_795_639_237_000).into(),
            ConditionKey::Unit => "payroll.service".into(),
            _ => Values::Absent,
        }
    }
}

/// Twenty statements with principals, actions and conditions of every kind; the last one decides.
fn twenty() -> Policy {
    let mut statements = vec![
        json!({"Sid": "root", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
            "Action": "kms:*", "Resource": "*", "Condition": {"Bool": {"aws:SecureTransport": "true"}}}),
        json!({"Sid": "no other unit", "Effect": "Deny", "Principal": "*", "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
            "Resource": "*", "Condition": {"StringNotLike": {"kmsd:Unit": ["payroll*.service", "nginx.service"]}}}),
        json!({"Sid": "not late", "Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*",
            "Condition": {"DateGreaterThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}}),
        json!({"Sid": "no long window", "Effect": "Deny", "Principal": "*", "Action": "kms:ScheduleKeyDeletion", "Resource": "*",
            "Condition": {"NumericLessThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": "14"}}}),
    ];
    for user in 4..20 {
        statements.push(json!({
            "Sid": format!("user {user}"), "Effect": "Allow",
            "Principal": {"AWS": [format!("arn:aws:iam::000000000000:user/user{user}"), format!("arn:aws:iam::000000000000:role/team{user}")]},
            "Action": ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
            "Resource": "*",
            "Condition": {
                "StringEquals": {"kms:EncryptionContext:App": ["billing", "payroll"], "kms:CallerAccount": ACCOUNT},
                "StringLike": {"kms:ViaService": "kmsfs.*.amazonaws.com"},
            },
        }));
    }
    parse(json!({"Version": "2012-10-17", "Statement": statements}))
}

/// The same without conditions that rule anybody out before they are evaluated: every statement is for
/// everyone, so that all twenty conditions are looked at.
fn twenty_for_everyone() -> Policy {
    let statement = |at: usize| {
        json!({"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*", "Condition": {
            "StringLike": {"kms:EncryptionContext:App": format!("p*{}", if at == 19 { "roll".to_owned() } else { format!("-{at}") })},
            "StringEquals": {"kms:CallerAccount": ACCOUNT},
        }})
    };
    let statements: Vec<Value> = (0..20).map(statement).collect();
    parse(json!({"Version": "2012-10-17", "Statement": statements}))
}

fn parse(document: Value) -> Policy {
    Policy::parse(&document.to_string(), PolicyKind::Key).unwrap()
}

fn policies(criterion: &mut Criterion) {
    let principals: [Arc<str>; 3] = [
        "arn:aws:iam::000000000000:user/user19".into(),
        "arn:aws:sts::000000000000:assumed-role/unit/payroll.service".into(),
        "arn:aws:iam::000000000000:role/clerks".into(),
    ];
    let query = Query {
        principals: &principals,
        possible: &[],
        account: ACCOUNT,
        action: "kms:Decrypt",
        resource: KEY,
        context: &Facts,
    };
    let mut group = criterion.benchmark_group("policy");
    for (name, policy) in [
        ("20 statements", twenty()),
        ("20 statements, all conditions", twenty_for_everyone()),
    ] {
        let decided = policy.evaluate(&query);
        assert!(
            matches!(decided, Decision::AllowPrincipal(by) if by.index == 19),
            "{decided:?}"
        );
        group.bench_function(name, |bencher| {
            bencher.iter(|| policy.evaluate(black_box(&query)));
        });
    }
    let text = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": ACCOUNT},
        "Action": "kms:*", "Resource": "*"}]})
    .to_string();
    group.bench_function("parse and compile the default", |bencher| {
        bencher.iter(|| Policy::parse(black_box(&text), PolicyKind::Key));
    });
    group.finish();
}

criterion_group!(benches, policies);
criterion_main!(benches);
