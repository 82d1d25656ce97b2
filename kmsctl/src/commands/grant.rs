//! `kmsctl grant …`: allowances on one key for one principal.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use kms_api::*;
use serde_json::json;

use super::{dry, key_id};
use crate::Context;
use crate::args::pair;
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::output::{Table, time};
use crate::principal::{self, FORMS};

/// Shortest start of a grant's id that is taken for the whole.
const MIN_PREFIX: usize = 8;
/// How much of an id the tables show.
const SHOWN: usize = 12;

/// Arguments of `kmsctl grant`.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: GrantCommand,
}

/// The commands of `kmsctl grant`. KEY is a key id, key ARN, alias name (`alias/NAME`) or alias ARN, GRANT the id of a
/// grant or the first eight digits or more of it.
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// Let a principal use a key, and print the grant's id.
    Create(CreateArgs),
    /// List the grants on a key, or on every key.
    List {
        /// The key; every key without it.
        key: Option<String>,
        /// Only grants to this principal.
        #[arg(long, value_name = "PRINCIPAL")]
        to: Option<String>,
    },
    /// Take a grant away. When the command ends, nobody uses it any more.
    Revoke {
        /// The key.
        key: String,
        /// The grant.
        grant: String,
        /// Also take away the grants that were made with its CreateGrant permission, and theirs.
        #[arg(long)]
        cascade: bool,
        /// Only say whether it could be done.
        #[arg(long, conflicts_with = "cascade")]
        dry_run: bool,
    },
    /// Give up a grant that names you as the one who may, or that is yours and lists RetireGrant.
    Retire {
        /// The key.
        #[arg(required_unless_present = "token")]
        key: Option<String>,
        /// The grant.
        #[arg(required_unless_present = "token")]
        grant: Option<String>,
        /// A token of the grant, instead of key and id.
        #[arg(long, conflicts_with_all = ["key", "grant"])]
        token: Option<String>,
        /// Only say whether it could be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// List the grants, on any key, that a principal may retire because they name it.
    Retirable {
        /// The principal; you without it.
        #[arg(long, value_name = "PRINCIPAL")]
        by: Option<String>,
    },
}

/// `kmsctl grant create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The key.
    pub key: String,
    /// Who gets it.
    #[arg(long, value_name = "PRINCIPAL", help = format!("Who gets it: {FORMS}; or service:kmsfs with --source-arn and --retiring"))]
    pub to: String,
    /// What it allows, for example `Decrypt,DescribeKey`.
    #[arg(long, value_name = "OPERATION", value_delimiter = ',', required = true, value_parser = operation)]
    pub operations: Vec<GrantOperation>,
    /// Only for requests whose encryption context has this pair; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub context: Vec<(String, String)>,
    /// Only for requests whose encryption context is exactly these pairs.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, conflicts_with = "context")]
    pub context_equals: Vec<(String, String)>,
    /// Only for requests made on behalf of this resource.
    #[arg(long, value_name = "ARN")]
    pub source_arn: Option<String>,
    /// It ends by itself after so long, for example 90m, 8h or 2d.
    #[arg(long = "for", value_name = "SPAN", value_parser = duration::seconds)]
    pub life: Option<u32>,
    /// Who may retire it besides those who may revoke it.
    #[arg(long, value_name = "PRINCIPAL")]
    pub retiring: Option<String>,
    /// A name; repeating the command with the same name makes no second grant.
    #[arg(long)]
    pub name: Option<String>,
    /// Only say whether it could be done.
    #[arg(long)]
    pub dry_run: bool,
}

pub(super) fn run(args: &GrantArgs, context: &Context) -> Result<(), Failure> {
    match &args.command {
        GrantCommand::Create(args) => create(args, context),
        GrantCommand::List { key, to } => list(key.as_deref(), to.as_deref(), context),
        GrantCommand::Revoke {
            key,
            grant,
            cascade,
            dry_run,
        } => revoke(key, grant, *cascade, *dry_run, context),
        GrantCommand::Retire {
            key,
            grant,
            token,
            dry_run,
        } => {
            let mut request = RetireGrantRequest {
                grant_token: token.clone(),
                dry_run: *dry_run,
                ..RetireGrantRequest::default()
            };
            if let (Some(key), Some(grant)) = (key, grant) {
                let key = key_id(key, context)?;
                request.grant_id = Some(grant_id(&key, grant, context)?);
                request.key_id = Some(key);
            }
            let done = context.client.send(request);
            finished(done, "The grant is retired.", context)
        }
        GrantCommand::Retirable { by } => retirable(by.as_deref(), context),
    }
}

fn create(args: &CreateArgs, context: &Context) -> Result<(), Failure> {
    let account = account(context)?;
    let pairs = |pairs: &[(String, String)]| -> Option<BTreeMap<String, String>> {
        (!pairs.is_empty()).then(|| pairs.iter().cloned().collect())
    };
    let constraints = GrantConstraints {
        encryption_context_subset: pairs(&args.context),
        encryption_context_equals: pairs(&args.context_equals),
        source_arn: args.source_arn.clone(),
    };
    let arn = |text: Option<&str>| -> Result<Option<String>, Failure> {
        text.filter(|text| service(text).is_none())
            .map(|text| principal::arn(text, &account))
            .transpose()
    };
    let (to, retiring) = (Some(args.to.as_str()), args.retiring.as_deref());
    let grant = CreateGrantRequest {
        key_id: key_id(&args.key, context)?,
        grantee_principal: arn(to)?,
        grantee_service_principal: to.and_then(service),
        retiring_principal: arn(retiring)?,
        retiring_service_principal: retiring.and_then(service),
        operations: args.operations.clone(),
        constraints: (!constraints.is_empty()).then_some(constraints),
        name: args.name.clone(),
        dry_run: args.dry_run,
        ..CreateGrantRequest::default()
    };
    match args.life {
        None => match context.client.send(grant) {
            Ok(made) => context.output.print(&made.grant_id, &made),
            Err(error) => dry::said(error.into(), context),
        },
        Some(expires_in_seconds) => {
            let request = CreateTemporaryGrantRequest {
                grant,
                expires_in_seconds,
            };
            match context.client.send(request) {
                Ok(made) => context.output.print(&made.grant_id, &made),
                Err(error) => dry::said(error.into(), context),
            }
        }
    }
}

fn list(key: Option<&str>, to: Option<&str>, context: &Context) -> Result<(), Failure> {
    let grantee = match to {
        Some(text) => Some(principal::arn(text, &account(context)?)?),
        None => None,
    };
    let mut grants = Vec::new();
    match key {
        Some(key) => grants = of_key(&key_id(key, context)?, grantee.as_deref(), context)?,
        None => {
            for key in super::key::all_keys(context)? {
                grants.append(&mut of_key(&key.key_id, grantee.as_deref(), context)?);
            }
        }
    }
    let mut table = Table::new(&[
        "GRANT",
        "KEY ID",
        "TO",
        "OPERATIONS",
        "ONLY IF",
        "ENDS",
        "NAME",
    ]);
    for grant in &grants {
        let entry = &grant.entry;
        table.row(vec![
            shown(&entry.grant_id),
            last(&entry.key_id),
            principal::short(&entry.grantee_principal),
            operations(&entry.operations),
            conditions(entry.constraints.as_ref()),
            grant.end_date.map(time).unwrap_or_default(),
            entry.name.clone(),
        ]);
    }
    context.output.print(table, &json!({ "Grants": grants }))
}

fn retirable(by: Option<&str>, context: &Context) -> Result<(), Failure> {
    let identity = context.client.send(GetCallerIdentityRequest {})?;
    let principal = match by {
        Some(text) => principal::arn(text, &identity.account)?,
        None => identity.arn,
    };
    let mut grants = Vec::new();
    let mut marker = None;
    loop {
        let mut page = context.client.send(ListRetirableGrantsRequest {
            limit: Some(100),
            marker,
            retiring_principal: Some(principal.clone()),
            retiring_service_principal: None,
        })?;
        grants.append(&mut page.grants);
        marker = page.next_marker;
        if marker.is_none() {
            break;
        }
    }
    let mut table = Table::new(&["GRANT", "KEY ID", "TO", "OPERATIONS", "NAME"]);
    for entry in &grants {
        table.row(vec![
            shown(&entry.grant_id),
            last(&entry.key_id),
            principal::short(&entry.grantee_principal),
            operations(&entry.operations),
            entry.name.clone(),
        ]);
    }
    context.output.print(table, &json!({ "Grants": grants }))
}

fn revoke(
    key: &str,
    grant: &str,
    cascade: bool,
    dry_run: bool,
    context: &Context,
) -> Result<(), Failure> {
    let key = key_id(key, context)?;
    let grant = grant_id(&key, grant, context)?;
    let send = |grant: &str| {
        context.client.send(RevokeGrantRequest {
            key_id: key.clone(),
            grant_id: grant.to_owned(),
            dry_run,
        })
    };
    let done = send(&grant);
    if done.is_err() || !cascade {
        return finished(done, "The grant is revoked.", context);
    }
    // Parents go first, so that no child can be made of what is about to go.
    let mut gone = vec![grant];
    loop {
        let children: Vec<String> = of_key(&key, None, context)?
            .into_iter()
            .filter(|grant| {
                let parent = grant.parent_grant_id.as_ref();
                parent.is_some_and(|parent| gone.contains(parent))
            })
            .map(|grant| grant.entry.grant_id)
            .collect();
        if children.is_empty() {
            break;
        }
        for child in children {
            match send(&child) {
                Ok(_) => gone.push(child),
                // Somebody else was faster, but it may have had children.
                Err(client::ClientError::Api(error)) if error.code == ErrorCode::NotFound => {
                    gone.push(child);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    let human = match gone.len() {
        1 => "The grant is revoked; no grant was made of it.".to_owned(),
        count => format!("{count} grants are revoked."),
    };
    context.output.print(human, &json!({ "Revoked": gone }))
}

/// A confirmation, for dry runs too.
fn finished(
    done: Result<EmptyResponse, client::ClientError>,
    human: &str,
    context: &Context,
) -> Result<(), Failure> {
    match done {
        Ok(_) => context.output.done(human),
        Err(error) => dry::said(error.into(), context),
    }
}

/// Every grant on a key, over all pages.
fn of_key(
    key: &str,
    grantee: Option<&str>,
    context: &Context,
) -> Result<Vec<GrantDescription>, Failure> {
    let mut grants = Vec::new();
    let mut marker = None;
    loop {
        let mut page = context.client.send(DescribeGrantsRequest {
            key_id: key.to_owned(),
            limit: Some(100),
            marker,
            grant_id: None,
            grantee_principal: grantee.map(str::to_owned),
        })?;
        grants.append(&mut page.grants);
        marker = page.next_marker;
        if marker.is_none() {
            return Ok(grants);
        }
    }
}

/// The whole id of a grant that is named by its beginning.
fn grant_id(key: &str, text: &str, context: &Context) -> Result<String, Failure> {
    if text.len() >= 64 {
        return Ok(text.to_owned());
    }
    let refuse = |reason: String| Err(Failure::new(Exit::Invalid, reason));
    if text.len() < MIN_PREFIX {
        return refuse(format!(
            "`{text}` is no grant: give its id, or {MIN_PREFIX} digits of it or more"
        ));
    }
    let mut found: Vec<String> = of_key(key, None, context)?
        .into_iter()
        .map(|grant| grant.entry.grant_id)
        .filter(|id| id.starts_with(text))
        .collect();
    match (found.pop(), found.len()) {
        (Some(id), 0) => Ok(id),
        (Some(_), more) => refuse(format!("{} grants begin with `{text}`", more + 1)),
        (None, _) => Err(Failure::new(
            Exit::NotFound,
            format!("no grant on this key begins with `{text}`"),
        )),
    }
}

/// The name of a service that is written as `service:kmsfs` or in full.
fn service(text: &str) -> Option<String> {
    match text.strip_prefix("service:") {
        Some(name) if name.contains('.') => Some(name.to_owned()),
        Some(name) => Some(format!("{name}.amazonaws.com")),
        None if text.ends_with(".amazonaws.com") => Some(text.to_owned()),
        None => None,
    }
}

fn account(context: &Context) -> Result<String, Failure> {
    Ok(context.client.send(GetCallerIdentityRequest {})?.account)
}

fn operation(text: &str) -> Result<GrantOperation, String> {
    GrantOperation::WIRE
        .iter()
        .find(|name| name.eq_ignore_ascii_case(text))
        .and_then(|name| GrantOperation::from_wire(name))
        .ok_or_else(|| format!("one of {}", GrantOperation::WIRE.join(", ")))
}

fn operations(list: &[GrantOperation]) -> String {
    let names: Vec<&str> = list.iter().map(|operation| operation.as_str()).collect();
    names.join(",")
}

fn conditions(constraints: Option<&GrantConstraints>) -> String {
    let Some(constraints) = constraints else {
        return String::new();
    };
    let pairs = |pairs: &BTreeMap<String, String>| {
        let list: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        list.join(",")
    };
    let mut parts = Vec::new();
    if let Some(all) = &constraints.encryption_context_equals {
        parts.push(format!("context is {{{}}}", pairs(all)));
    }
    if let Some(some) = &constraints.encryption_context_subset {
        parts.push(format!("context has {{{}}}", pairs(some)));
    }
    if let Some(source) = &constraints.source_arn {
        parts.push(format!("for {source}"));
    }
    parts.join(" and ")
}

fn shown(id: &str) -> String {
    id.chars().take(SHOWN).collect()
}

/// The key id of a key ARN.
fn last(arn: &str) -> String {
    arn.rsplit('/').next().unwrap_or_default().to_owned()
}
