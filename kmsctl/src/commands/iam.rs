//! `kmsctl iam …`: policies of identities, and the policy files.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kms_api::*;
use serde_json::json;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Table, time};

/// Arguments of `kmsctl iam`.
#[derive(Debug, Args)]
pub struct IamArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: IamCommand,
}

/// The commands of `kmsctl iam`. NAME is the name of the policy.
#[derive(Debug, Subcommand)]
pub enum IamCommand {
    /// Attach a policy to an identity; one of the same name is replaced.
    Put {
        #[command(flatten)]
        target: Target,
        /// Name of the policy.
        name: String,
        /// The policy document, JSON; `-` reads standard input.
        file: PathBuf,
    },
    /// Print a policy document.
    Get {
        #[command(flatten)]
        target: Target,
        /// Name of the policy.
        name: String,
    },
    /// List the policies of all identities and the guard rails, or those of one identity.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Remove a policy. When the command ends, nobody acts by it any more.
    Delete {
        #[command(flatten)]
        target: Target,
        /// Name of the policy.
        name: String,
    },
    /// Have kmsd read the policy files again. When the command ends, they are in force, or nothing has changed.
    Reload,
}

/// Whom a policy is for.
#[derive(Clone, Debug, Args)]
#[group(multiple = false)]
pub struct Target {
    /// A user, by name.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// A group, by name.
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// A systemd unit, for example nginx.service.
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// A role of the mapping rules.
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
}

impl Target {
    /// Refuses a command that does not say whom it is about.
    fn required(&self) -> Result<Identity<'_>, Failure> {
        let text = "For whom: give --user, --group, --unit or --role. Limits for everyone: kmsctl guard-rail.";
        self.identity()
            .ok_or_else(|| Failure::new(Exit::Usage, text))
    }

    /// Kind and name of the identity, if it names one.
    fn identity(&self) -> Option<Identity<'_>> {
        let kinds = [
            (IdentityType::User, &self.user),
            (IdentityType::Group, &self.group),
            (IdentityType::Unit, &self.unit),
            (IdentityType::Role, &self.role),
        ];
        kinds
            .into_iter()
            .find_map(|(kind, name)| Some((kind, name.as_deref()?)))
    }
}

pub(super) fn run(args: &IamArgs, context: &Context) -> Result<(), Failure> {
    match &args.command {
        IamCommand::Put { target, name, file } => put(target.required()?, name, file, context),
        IamCommand::Get { target, name } => get(target.required()?, name, context),
        IamCommand::List { target } => list(target.identity(), context),
        IamCommand::Delete { target, name } => delete(target.required()?, name, context),
        IamCommand::Reload => {
            let done = context.client.send(ReloadPoliciesRequest {})?;
            let text = format!(
                "{}: {} identity policies and {} guard rails from files",
                match done.changed {
                    true => "In force now",
                    false => "Nothing has changed",
                },
                done.identity_policies,
                done.guard_rails
            );
            context.output.print(text, &done)
        }
    }
}

/// Kind and name of an identity.
type Identity<'a> = (IdentityType, &'a str);

fn put(
    (identity_type, identity): Identity<'_>,
    name: &str,
    file: &Path,
    context: &Context,
) -> Result<(), Failure> {
    let done = context.client.send(PutIdentityPolicyRequest {
        identity_type,
        identity: identity.to_owned(),
        policy_name: name.to_owned(),
        document: read(file)?,
    })?;
    let lines: Vec<String> = done
        .warnings
        .iter()
        .map(|warning| format!("warning: {warning}"))
        .collect();
    context.output.print(lines.join("\n"), &done)
}

fn get(
    (identity_type, identity): Identity<'_>,
    name: &str,
    context: &Context,
) -> Result<(), Failure> {
    let policy = context.client.send(GetIdentityPolicyRequest {
        identity_type,
        identity: identity.to_owned(),
        policy_name: name.to_owned(),
    })?;
    context.output.print(policy.document.clone(), &policy)
}

fn delete(
    (identity_type, identity): Identity<'_>,
    name: &str,
    context: &Context,
) -> Result<(), Failure> {
    context.client.send(DeleteIdentityPolicyRequest {
        identity_type,
        identity: identity.to_owned(),
        policy_name: name.to_owned(),
    })?;
    context.output.done("")
}

fn list(identity: Option<Identity<'_>>, context: &Context) -> Result<(), Failure> {
    let policies = identity_policies(identity, context)?;
    let rails = match identity {
        Some(_) => Vec::new(),
        None => guard_rails(context)?,
    };
    let mut table = Table::new(&["FOR", "POLICY", "FROM", "PUT"]);
    let when = |at: Option<Timestamp>| at.map(time).unwrap_or_default();
    for policy in &policies {
        let kind = policy.identity_type.as_str().to_lowercase();
        table.row(vec![
            format!("{kind} {}", policy.identity),
            policy.policy_name.clone(),
            from(policy.source),
            when(policy.last_updated_date),
        ]);
    }
    for rail in &rails {
        table.row(vec![
            "everyone (guard rail)".to_owned(),
            rail.guard_rail_name.clone(),
            from(rail.source),
            when(rail.last_updated_date),
        ]);
    }
    let value = json!({ "Policies": policies, "GuardRails": rails });
    context.output.print(table, &value)
}

fn from(source: PolicySource) -> String {
    source.as_str().to_lowercase()
}

fn identity_policies(
    identity: Option<Identity<'_>>,
    context: &Context,
) -> Result<Vec<IdentityPolicyListEntry>, Failure> {
    let mut all = Vec::new();
    let mut marker = None;
    loop {
        let page = context.client.send(ListIdentityPoliciesRequest {
            identity_type: identity.map(|(kind, _)| kind),
            identity: identity.map(|(_, name)| name.to_owned()),
            limit: Some(1000),
            marker,
        })?;
        all.extend(page.policies);
        marker = page.next_marker;
        if marker.is_none() {
            return Ok(all);
        }
    }
}

fn guard_rails(context: &Context) -> Result<Vec<GuardRailListEntry>, Failure> {
    let mut all = Vec::new();
    let mut marker = None;
    loop {
        let page = context.client.send(ListGuardRailsRequest {
            limit: Some(1000),
            marker,
        })?;
        all.extend(page.guard_rails);
        marker = page.next_marker;
        if marker.is_none() {
            return Ok(all);
        }
    }
}

/// The text of a document.
fn read(file: &Path) -> Result<String, Failure> {
    /// More than kmsd takes.
    const MOST: u64 = 1 << 20;
    let mut text = String::new();
    let result = if file.as_os_str() == "-" {
        io::stdin().lock().take(MOST).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(MOST).read_to_string(&mut text))
    };
    match result {
        Ok(_) if text.trim().is_empty() => Err(Failure::new(
            Exit::Invalid,
            format!("{} is empty", file.display()),
        )),
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::local(file.display(), &error)),
    }
}
