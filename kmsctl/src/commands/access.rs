//! `kmsctl key policy`, `kmsctl key tag`, `kmsctl guard-rail`, `kmsctl who-can`: who may do what.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use kms_api::*;
use serde_json::json;

use super::key_id;
use crate::Context;
use crate::args::pair;
use crate::exit::{Exit, Failure};
use crate::output::{Table, time};
use crate::principal;

/// Most of a policy file that is read; kmsd refuses what is longer than 32,768 bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// `kmsctl key policy …`.
#[derive(Debug, Subcommand)]
pub enum KeyPolicyCommand {
    /// Print the policy of a key.
    Get {
        /// The key.
        key: String,
    },
    /// Replace the policy of a key. When the command ends, nobody relies on the old one.
    Put {
        /// The key.
        key: String,
        /// The policy document; `-` reads standard input.
        file: PathBuf,
        /// Put it even if you could not change it again.
        #[arg(long)]
        bypass_lockout_check: bool,
    },
    /// List the names of a key's policies.
    List {
        /// The key.
        key: String,
    },
}

/// Arguments of `kmsctl guard-rail`.
#[derive(Debug, Args)]
pub struct GuardRailArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: GuardRailCommand,
}

/// The commands of `kmsctl guard-rail`.
#[derive(Debug, Subcommand)]
pub enum GuardRailCommand {
    /// Set a guard rail: what it denies, nobody may; if it allows anything, nobody may do anything else.
    Put {
        /// Its name.
        name: String,
        /// The policy document (without Principal); `-` reads standard input.
        file: PathBuf,
    },
    /// Print a guard rail.
    Get {
        /// Its name.
        name: String,
    },
    /// List the guard rails.
    List,
    /// Remove a guard rail.
    Delete {
        /// Its name.
        name: String,
    },
}

/// Arguments of `kmsctl key tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// The key.
    pub key: String,
    /// The tags.
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = pair)]
    pub tags: Vec<(String, String)>,
}

/// Arguments of `kmsctl key untag`.
#[derive(Debug, Args)]
pub struct UntagArgs {
    /// The key.
    pub key: String,
    /// Names of the tags.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// Arguments of `kmsctl who-can`.
#[derive(Debug, Args)]
pub struct WhoCanArgs {
    /// What: an action such as `decrypt` or `kms:Decrypt`.
    pub action: String,
    /// The key.
    pub key: String,
}

pub(super) fn key_policy(command: &KeyPolicyCommand, context: &Context) -> Result<(), Failure> {
    match command {
        KeyPolicyCommand::Get { key } => {
            let response = context.client.send(GetKeyPolicyRequest {
                key_id: key_id(key, context)?,
                policy_name: None,
            })?;
            context.output.print(pretty(&response.policy), &response)
        }
        KeyPolicyCommand::Put {
            key,
            file,
            bypass_lockout_check,
        } => {
            let request = PutKeyPolicyRequest {
                key_id: key_id(key, context)?,
                policy_name: None,
                policy: document(file)?,
                bypass_policy_lockout_safety_check: *bypass_lockout_check,
            };
            context.client.send(request)?;
            context
                .output
                .done(format!("The policy of {key} is in force."))
        }
        KeyPolicyCommand::List { key } => {
            let response = context.client.send(ListKeyPoliciesRequest {
                key_id: key_id(key, context)?,
                limit: None,
                marker: None,
            })?;
            context
                .output
                .print(response.policy_names.join("\n"), &response)
        }
    }
}

pub(super) fn guard_rail(args: &GuardRailArgs, context: &Context) -> Result<(), Failure> {
    let (client, output) = (&context.client, context.output);
    match &args.command {
        GuardRailCommand::Put { name, file } => {
            let response = client.send(PutGuardRailRequest {
                guard_rail_name: name.clone(),
                document: document(file)?,
            })?;
            let mut human = format!("The guard rail {name} is in force.\n");
            for warning in &response.warnings {
                human.push_str(&format!("warning: {warning}\n"));
            }
            output.print(human, &response)
        }
        GuardRailCommand::Get { name } => {
            let response = client.send(GetGuardRailRequest {
                guard_rail_name: name.clone(),
            })?;
            output.print(pretty(&response.document), &response)
        }
        GuardRailCommand::List => {
            let mut rails = Vec::new();
            let mut marker = None;
            loop {
                let mut page = client.send(ListGuardRailsRequest {
                    limit: Some(1000),
                    marker,
                })?;
                rails.append(&mut page.guard_rails);
                marker = page.next_marker;
                if marker.is_none() {
                    break;
                }
            }
            let mut table = Table::new(&["GUARD RAIL", "FROM", "SINCE"]);
            for rail in &rails {
                table.row(vec![
                    rail.guard_rail_name.clone(),
                    rail.source.to_string().to_lowercase(),
                    rail.last_updated_date.map(time).unwrap_or_default(),
                ]);
            }
            output.print(table, &json!({ "GuardRails": rails }))
        }
        GuardRailCommand::Delete { name } => {
            client.send(DeleteGuardRailRequest {
                guard_rail_name: name.clone(),
            })?;
            output.done(format!("The guard rail {name} is gone."))
        }
    }
}

pub(super) fn tag(args: &TagArgs, context: &Context) -> Result<(), Failure> {
    let tags = args.tags.iter().map(|(name, value)| Tag {
        tag_key: name.clone(),
        tag_value: value.clone(),
    });
    context.client.send(TagResourceRequest {
        key_id: key_id(&args.key, context)?,
        tags: tags.collect(),
    })?;
    context.output.done(format!("{} is tagged.", args.key))
}

pub(super) fn untag(args: &UntagArgs, context: &Context) -> Result<(), Failure> {
    context.client.send(UntagResourceRequest {
        key_id: key_id(&args.key, context)?,
        tag_keys: args.names.clone(),
    })?;
    let key = &args.key;
    context
        .output
        .done(format!("{key} does not have these tags."))
}

pub(super) fn tags(key: &str, context: &Context) -> Result<(), Failure> {
    let response = context.client.send(ListResourceTagsRequest {
        key_id: key_id(key, context)?,
        limit: None,
        marker: None,
    })?;
    let mut table = Table::new(&["TAG", "VALUE"]);
    for tag in &response.tags {
        table.row(vec![tag.tag_key.clone(), tag.tag_value.clone()]);
    }
    context.output.print(table, &response)
}

pub(super) fn who_can(args: &WhoCanArgs, context: &Context) -> Result<(), Failure> {
    let response = context.client.send(WhoCanRequest {
        action: args.action.clone(),
        key_id: args.key.clone(),
    })?;
    let mut human = format!("{} on {}\n\n", response.action, response.resource);
    human.push_str(&entries("MAY", &response.allowed));
    if !response.denied.is_empty() {
        human.push('\n');
        human.push_str(&entries("MAY NOT", &response.denied));
    }
    human.push('\n');
    for note in &response.notes {
        human.push_str(note);
        human.push('\n');
    }
    context.output.print(human, &response)
}

fn entries(heading: &str, entries: &[WhoCanEntry]) -> String {
    let mut table = Table::new(&[heading, "BECAUSE OF", "IF"]);
    for entry in entries {
        let statement = match entry.statement.is_empty() {
            true => entry.document.clone(),
            false => format!("{}, statement {}", entry.document, entry.statement),
        };
        table.row(vec![
            match entry.principal.as_str() {
                "*" => "everybody".to_owned(),
                arn => principal::short(arn),
            },
            statement,
            entry.conditions.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

/// A policy document, from a file or standard input.
pub(super) fn document(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().take(MAX_FILE).read_to_string(&mut text),
        false => {
            fs::File::open(file).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
        }
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::new(
            Exit::Local,
            format!("{}: {error}", file.display()),
        )),
    }
}

/// A document with one member a line.
fn pretty(document: &str) -> String {
    let value: Option<serde_json::Value> = serde_json::from_str(document).ok();
    value
        .and_then(|value| serde_json::to_string_pretty(&value).ok())
        .unwrap_or_else(|| document.to_owned())
}
