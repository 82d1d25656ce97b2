//! `kmsctl policy …`: policy documents, before they are given to anybody.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use kms_core::policy::templates::Role;
use kms_core::policy::{MAX_POLICY_BYTES, Policy, PolicyKind, Warning};
use serde_json::{Value, json};

use super::simulate::{self, SimulateArgs};
use crate::Context;
use crate::exit::{Exit, Failure};
use crate::principal::{self, FORMS};

/// Arguments of `kmsctl policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// The commands of `kmsctl policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a document without giving it to anybody: its faults, with their places, and what is worth a second
    /// look. Needs no kmsd.
    Check(CheckArgs),
    /// Print a policy to begin with, or the names of those there are. Needs no kmsd.
    Templates(TemplateArgs),
    /// Ask what kmsd would decide about a request, and which statement would decide it. Exit code 19 when it would be
    /// denied.
    Simulate(SimulateArgs),
}

/// `kmsctl policy check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The document; `-` reads standard input.
    pub file: PathBuf,
    /// What it is to be.
    #[arg(long, value_enum, default_value_t = Kind::Key)]
    pub kind: Kind,
    /// End with exit code 17 when there is a warning.
    #[arg(long)]
    pub strict: bool,
}

/// `kmsctl policy templates`.
#[derive(Debug, Args)]
pub struct TemplateArgs {
    /// The template.
    #[arg(value_enum)]
    pub name: Option<Name>,
    /// For whom the key policy is; may be given several times.
    #[arg(long, value_name = "PRINCIPAL", help = format!("For whom the key policy is (may be given several times): {FORMS}"))]
    pub principal: Vec<String>,
    /// A policy for an identity instead of a key policy.
    #[arg(long, conflicts_with = "principal")]
    pub identity: bool,
    /// The keys that a policy for an identity is about, by ARN; every key of the account without it.
    #[arg(long, value_name = "ARN", requires = "identity")]
    pub key: Vec<String>,
    /// The account.
    #[arg(long, default_value = "000000000000", value_name = "ID")]
    pub account: String,
}

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The policy of a key.
    Key,
    /// A policy of a user, group, unit or role.
    Identity,
    /// A policy that limits everyone.
    GuardRail,
}

/// A template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Manages keys, their policies and their deletion.
    Administrator,
    /// Encrypts, decrypts and makes data keys.
    User,
    /// Makes data keys and opens them, nothing else.
    Service,
    /// Sees everything about keys; changes and uses nothing.
    Auditor,
    /// A guard rail: nobody deletes keys.
    NoDeletion,
}

impl From<Kind> for PolicyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Key => Self::Key,
            Kind::Identity => Self::Identity,
            Kind::GuardRail => Self::GuardRail,
        }
    }
}

pub(super) fn run(args: &PolicyArgs, context: &Context) -> Result<Exit, Failure> {
    match &args.command {
        PolicyCommand::Check(args) => check(args, context),
        PolicyCommand::Templates(args) => templates(args, context),
        PolicyCommand::Simulate(args) => simulate::run(args, context),
    }
}

fn check(args: &CheckArgs, context: &Context) -> Result<Exit, Failure> {
    let text = read(&args.file)?;
    let policy = Policy::parse(&text, args.kind.into()).map_err(|fault| {
        let message = format!("{}: {fault}", args.file.display());
        Failure {
            code: Some("MalformedPolicyDocumentException"),
            ..Failure::new(Exit::Invalid, message)
        }
    })?;
    let warnings = policy.warnings();
    let human = match warnings.as_slice() {
        [] => format!("{}: no fault, nothing to remark.", args.file.display()),
        warnings => warnings
            .iter()
            .map(|warning| format!("{}: {warning}", args.file.display()))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    let found: Vec<Value> = warnings.iter().map(as_json).collect();
    let value = json!({"Statements": policy.statements().count(), "Warnings": found});
    context.output.print(human, &value)?;
    Ok(if args.strict && !warnings.is_empty() {
        Exit::Findings
    } else {
        Exit::Success
    })
}

fn as_json(warning: &Warning) -> Value {
    json!({"Rule": warning.rule.as_str(), "Path": warning.path, "Text": warning.text})
}

/// Reads a document, and not much more than one may have.
fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let limit = MAX_POLICY_BYTES as u64 + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::local(path.display(), &error))?;
    Ok(text)
}

fn templates(args: &TemplateArgs, context: &Context) -> Result<Exit, Failure> {
    let Some(name) = args.name else {
        let mut names: Vec<(&str, &str)> = Role::ALL
            .iter()
            .map(|role| (role.as_str(), role.description()))
            .collect();
        names.push(("no-deletion", "a guard rail: nobody deletes keys"));
        let lines = names
            .iter()
            .map(|(name, what)| format!("{name:<14} {what}"));
        let human = lines.collect::<Vec<_>>().join("\n");
        let value = names
            .iter()
            .map(|(name, what)| json!({"Name": name, "Description": what}));
        context
            .output
            .print(human, &json!({"Templates": value.collect::<Vec<_>>()}))?;
        return Ok(Exit::Success);
    };
    let role = match name {
        Name::Administrator => Role::Administrator,
        Name::User => Role::User,
        Name::Service => Role::Service,
        Name::Auditor => Role::Auditor,
        Name::NoDeletion => return document(&kms_core::policy::templates::no_deletion(), context),
    };
    if args.identity {
        let keys = match args.key.as_slice() {
            [] => vec![format!("arn:aws:kms:*:{}:key/*", args.account)],
            keys => keys.to_vec(),
        };
        return document(&role.identity_policy(&keys), context);
    }
    if args.principal.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "a key policy is for somebody: give --principal, or --identity for a policy to attach to an identity",
        ));
    }
    let principals = args
        .principal
        .iter()
        .map(|text| principal::arn(text, &args.account))
        .collect::<Result<Vec<_>, _>>()?;
    document(&role.key_policy(&args.account, &principals), context)
}

/// Prints a policy document: it is JSON either way.
fn document(policy: &Value, context: &Context) -> Result<Exit, Failure> {
    let text = serde_json::to_string_pretty(policy)
        .map_err(|error| Failure::new(Exit::Local, error.to_string()))?;
    context.output.print(text, policy)?;
    Ok(Exit::Success)
}
