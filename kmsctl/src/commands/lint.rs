//! `kmsctl lint`: what AWS Config and Security Hub would say about the keys of this host.

mod grants;
mod unused;

use std::collections::BTreeSet;

use clap::Args;
use kms_api::*;
use kms_core::policy::{Policy, PolicyKind, Rule};
use serde::Serialize;
use serde_json::json;

use crate::Context;
use crate::exit::{Exit, Failure};

/// Arguments of `kmsctl lint`.
#[derive(Debug, Args)]
pub struct LintArgs {
    /// Leave a rule out, for example KMS.4; may be given several times.
    #[arg(long, value_name = "RULE", value_parser = rule_id)]
    pub ignore: Vec<String>,
    /// Days without use after which a key is found unused; 0 does not look.
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(0..=3650))]
    pub unused_days: u32,
}

/// How bad a finding is, in the words of Security Hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Severity {
    Critical,
    High,
    Medium,
    Low,
}

/// A rule: its id, AWS Config's name of it where there is one, and how bad it is.
#[derive(Debug)]
struct LintRule {
    id: &'static str,
    config: Option<&'static str>,
    severity: Severity,
}

const KMS1: LintRule = LintRule {
    id: "KMS.1",
    config: Some("iam-customer-policy-blocked-kms-actions"),
    severity: Severity::Medium,
};
const KMS2: LintRule = LintRule {
    id: "KMS.2",
    config: Some("iam-inline-policy-blocked-kms-actions"),
    severity: Severity::Medium,
};
const KMS3: LintRule = LintRule {
    id: "KMS.3",
    config: Some("kms-cmk-not-scheduled-for-deletion"),
    severity: Severity::Critical,
};
const KMS4: LintRule = LintRule {
    id: "KMS.4",
    config: Some("cmk-backing-key-rotation-enabled"),
    severity: Severity::Medium,
};
const KMS5: LintRule = LintRule {
    id: "KMS.5",
    config: Some("kms-key-policy-no-public-access"),
    severity: Severity::Critical,
};
const LOCK_OUT: LintRule = LintRule {
    id: "lock-out",
    config: None,
    severity: Severity::High,
};
const BROAD_GRANT: LintRule = LintRule {
    id: "broad-grant",
    config: None,
    severity: Severity::Medium,
};
const UNUSED_KEY: LintRule = LintRule {
    id: "unused-key",
    config: None,
    severity: Severity::Low,
};
const POLICY: LintRule = LintRule {
    id: "policy",
    config: None,
    severity: Severity::Low,
};
const NOT_CHECKED: LintRule = LintRule {
    id: "not-checked",
    config: None,
    severity: Severity::High,
};

const RULES: [&LintRule; 10] = [
    &KMS1,
    &KMS2,
    &KMS3,
    &KMS4,
    &KMS5,
    &LOCK_OUT,
    &BROAD_GRANT,
    &UNUSED_KEY,
    &POLICY,
    &NOT_CHECKED,
];

fn rule_id(text: &str) -> Result<String, String> {
    let found = RULES.iter().find(|rule| rule.id.eq_ignore_ascii_case(text));
    found.map(|rule| rule.id.to_owned()).ok_or_else(|| {
        let ids: Vec<_> = RULES.iter().map(|rule| rule.id).collect();
        format!("one of {}", ids.join(", "))
    })
}

/// Something to look at.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Finding {
    severity: Severity,
    rule: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_rule: Option<&'static str>,
    /// ARN of the key, or which policy.
    resource: String,
    text: String,
    next_step: String,
}

/// What was found so far.
#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn add(
        &mut self,
        rule: &LintRule,
        resource: &str,
        text: impl Into<String>,
        next: impl Into<String>,
    ) {
        self.list.push(Finding {
            severity: rule.severity,
            rule: rule.id,
            config_rule: rule.config,
            resource: resource.to_owned(),
            text: text.into(),
            next_step: next.into(),
        });
    }

    /// What was asked for; nothing where the caller may not ask for it, or it is gone by now. That is not silence, or a
    /// caller without rights would find all well.
    fn asked<T>(
        &mut self,
        resource: &str,
        what: &str,
        answer: Result<T, impl Into<Failure>>,
    ) -> Result<Option<T>, Failure> {
        let failure = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error.into(),
        };
        if !matches!(failure.exit, Exit::Denied | Exit::NotFound) {
            return Err(failure);
        }
        self.add(
            &NOT_CHECKED,
            resource,
            format!("{what} could not be read: {}", failure.message),
            "Run it as somebody who may, for example with the policy of `kmsctl policy templates auditor`.",
        );
        Ok(None)
    }
}

pub(super) fn run(args: &LintArgs, context: &Context) -> Result<Exit, Failure> {
    let mut findings = Findings::default();
    let mut keys = Vec::new();
    for key in super::key::all_keys(context)? {
        let described = super::describe(&key.key_id, context);
        keys.extend(findings.asked(&key.key_arn, "The key", described)?);
    }
    for key in &keys {
        state(key, context, &mut findings)?;
        key_policy(key, context, &mut findings)?;
        grants::check(key, context, &mut findings)?;
    }
    identity_policies(context, &mut findings)?;
    if args.unused_days > 0 {
        unused::check(&keys, args.unused_days, context, &mut findings)?;
    }
    let ignored: BTreeSet<&str> = args.ignore.iter().map(String::as_str).collect();
    let mut list = findings.list;
    list.retain(|finding| !ignored.contains(finding.rule));
    list.sort_by(|a, b| (a.severity, a.rule, &a.resource).cmp(&(b.severity, b.rule, &b.resource)));
    print(keys.len(), &list, context)?;
    Ok(if list.is_empty() {
        Exit::Success
    } else {
        Exit::Findings
    })
}

fn print(keys: usize, list: &[Finding], context: &Context) -> Result<(), Failure> {
    let mut human = String::new();
    for finding in list {
        let severity = format!("{:?}", finding.severity).to_uppercase();
        human.push_str(&format!(
            "{severity:<8} {:<12} {}\n    {}\n    {}\n",
            finding.rule, finding.resource, finding.text, finding.next_step
        ));
    }
    human.push_str(&format!("{keys} keys, {} findings.", list.len()));
    context
        .output
        .print(human, &json!({"Keys": keys, "Findings": list}))
}

/// Deletion and rotation.
fn state(key: &KeyMetadata, context: &Context, findings: &mut Findings) -> Result<(), Failure> {
    if key.key_state == KeyState::PendingDeletion {
        findings.add(
            &KMS3,
            &key.arn,
            "The key is scheduled for deletion; everything it encrypted will be lost.",
            format!(
                "If that is not meant: `kmsctl key cancel-deletion {}`.",
                key.key_id
            ),
        );
    }
    let rotates = key.key_spec == KeySpec::SymmetricDefault && key.origin == Origin::AwsKms;
    if !rotates || key.key_state != KeyState::Enabled {
        return Ok(());
    }
    let status = context.client.send(GetKeyRotationStatusRequest {
        key_id: key.key_id.clone(),
    });
    let status = findings.asked(&key.arn, "Its rotation", status)?;
    if status.is_some_and(|status| !status.key_rotation_enabled) {
        findings.add(
            &KMS4,
            &key.arn,
            "Automatic rotation is off.",
            format!("`kmsctl key enable-rotation {}`.", key.key_id),
        );
    }
    Ok(())
}

fn key_policy(
    key: &KeyMetadata,
    context: &Context,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let request = GetKeyPolicyRequest {
        key_id: key.key_id.clone(),
        policy_name: None,
    };
    let got = findings.asked(&key.arn, "Its policy", context.client.send(request))?;
    if let Some(got) = got {
        document(&key.arn, &got.policy, Kind::Key, findings);
    }
    Ok(())
}

fn identity_policies(context: &Context, findings: &mut Findings) -> Result<(), Failure> {
    let mut marker = None;
    loop {
        let request = ListIdentityPoliciesRequest {
            marker,
            ..ListIdentityPoliciesRequest::default()
        };
        let page = context.client.send(request);
        let Some(page) = findings.asked("identity policies", "Their list", page)? else {
            return Ok(());
        };
        for entry in page.policies {
            let name = format!(
                "identity-policy/{}/{}/{}",
                entry.identity_type.as_str().to_lowercase(),
                entry.identity,
                entry.policy_name
            );
            let request = GetIdentityPolicyRequest {
                identity_type: entry.identity_type,
                identity: entry.identity,
                policy_name: entry.policy_name,
            };
            let got = findings.asked(&name, "It", context.client.send(request))?;
            if let Some(got) = got {
                document(&name, &got.document, Kind::Identity(got.source), findings);
            }
        }
        marker = page.next_marker;
        if marker.is_none() {
            return Ok(());
        }
    }
}

/// What a policy is for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Key,
    Identity(PolicySource),
}

/// What a policy's own warnings come to.
fn document(name: &str, text: &str, kind: Kind, findings: &mut Findings) {
    let parsed = match kind {
        Kind::Key => PolicyKind::Key,
        Kind::Identity(_) => PolicyKind::Identity,
    };
    let policy = match Policy::parse(text, parsed) {
        Ok(policy) => policy,
        Err(fault) => {
            let text = format!("The policy cannot be read, so it denies everything: {fault}.");
            findings.add(&NOT_CHECKED, name, text, "Put another one.");
            return;
        }
    };
    for warning in policy.warnings() {
        let (rule, next) = match (warning.rule, kind) {
            (Rule::PublicAccess, _) => (&KMS5, "Name the principals that need the key."),
            (Rule::LockOut, _) => (
                &LOCK_OUT,
                "Let the account's root principal put the policy: `kmsctl policy templates`.",
            ),
            // One that was put for an identity is what AWS calls inline; a file is managed apart from those it is for.
            (Rule::BlockedActions, Kind::Identity(PolicySource::Catalogue)) => {
                (&KMS2, "Name the keys in Resource.")
            }
            (Rule::BlockedActions, _) => (&KMS1, "Name the keys in Resource."),
            (Rule::NoEffect | Rule::Broad | Rule::SameSid, _) => {
                (&POLICY, "Check the document with `kmsctl policy check`.")
            }
        };
        findings.add(
            rule,
            name,
            format!("{}: {}.", warning.path, warning.text),
            next,
        );
    }
}
