//! `kmsctl access-key …`: what signs requests that come over the network.

use clap::{Args, Subcommand};
use kms_api::{
    AccessKeyListEntry, AccessKeyStatus, CreateAccessKeyRequest, DeleteAccessKeyRequest,
    GetCallerIdentityRequest, ListAccessKeysRequest, UpdateAccessKeyRequest,
};
use serde_json::json;

use crate::Context;
use crate::exit::Failure;
use crate::output::{Table, time};
use crate::principal;

/// Arguments of `kmsctl access-key`.
#[derive(Debug, Args)]
pub struct AccessKeyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AccessKeyCommand,
}

/// The commands of `kmsctl access-key`.
#[derive(Debug, Subcommand)]
pub enum AccessKeyCommand {
    /// Make an access key, and print its secret: this is the only time that anybody sees it.
    Create {
        /// As whom its requests act: user:NAME, role:NAME, root, or the ARN of one of these.
        #[arg(long, value_name = "PRINCIPAL")]
        principal: String,
        /// The account of the principal, where it is not the caller's.
        #[arg(long, value_name = "ID")]
        account: Option<String>,
        /// What it is for.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Print lines for the file ~/.aws/credentials, with this name for the profile.
        #[arg(long, value_name = "NAME")]
        profile: Option<String>,
    },
    /// List access keys: whose, whether they are accepted, and when they were used last.
    List {
        /// Only those of this principal.
        #[arg(long, value_name = "PRINCIPAL")]
        principal: Option<String>,
    },
    /// Refuse what an access key signs from now on, also on connections that are open.
    Disable {
        /// Its id.
        access_key: String,
    },
    /// Accept what an access key signs again.
    Enable {
        /// Its id.
        access_key: String,
    },
    /// Delete an access key for good.
    Delete {
        /// Its id.
        access_key: String,
    },
}

pub(super) fn run(args: &AccessKeyArgs, context: &Context) -> Result<(), Failure> {
    match &args.command {
        AccessKeyCommand::Create {
            principal,
            account,
            description,
            profile,
        } => {
            let principal_arn = arn(principal, account.as_deref(), context)?;
            let made = context.client.send(CreateAccessKeyRequest {
                principal_arn,
                description: description.clone(),
            })?;
            let (id, secret) = (&made.access_key_id, made.secret_access_key.expose());
            let human = match profile {
                Some(profile) => format!(
                    "[{profile}]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"
                ),
                None => format!(
                    "principal          {}\naccess key id      {id}\nsecret access key  {secret}\n\
                     Keep the secret now: kmsd shows it to nobody again.\n",
                    principal::short(&made.principal_arn)
                ),
            };
            context.output.print(human, &made)
        }
        AccessKeyCommand::List { principal } => list(principal.as_deref(), context),
        AccessKeyCommand::Disable { access_key } => {
            update(access_key, AccessKeyStatus::Inactive, context)
        }
        AccessKeyCommand::Enable { access_key } => {
            update(access_key, AccessKeyStatus::Active, context)
        }
        AccessKeyCommand::Delete { access_key } => {
            context.client.send(DeleteAccessKeyRequest {
                access_key_id: access_key.clone(),
            })?;
            let json = json!({"AccessKeyId": access_key, "Deleted": true});
            context
                .output
                .print(format!("{access_key} is deleted.\n"), &json)
        }
    }
}

pub(super) fn arn(text: &str, account: Option<&str>, context: &Context) -> Result<String, Failure> {
    if text.starts_with("arn:") {
        return Ok(text.to_owned());
    }
    match account {
        Some(account) => principal::arn(text, account),
        None => {
            let caller = context.client.send(GetCallerIdentityRequest {})?;
            principal::arn(text, &caller.account)
        }
    }
}

fn update(id: &str, status: AccessKeyStatus, context: &Context) -> Result<(), Failure> {
    context.client.send(UpdateAccessKeyRequest {
        access_key_id: id.to_owned(),
        status,
    })?;
    let word = match status {
        AccessKeyStatus::Active => "enabled",
        AccessKeyStatus::Inactive => "disabled",
    };
    let json = json!({"AccessKeyId": id, "Status": status});
    context.output.print(format!("{id} is {word}.\n"), &json)
}

fn list(principal: Option<&str>, context: &Context) -> Result<(), Failure> {
    let principal_arn = principal.map(|text| arn(text, None, context)).transpose()?;
    let mut keys: Vec<AccessKeyListEntry> = Vec::new();
    let mut marker = None;
    loop {
        let page = context.client.send(ListAccessKeysRequest {
            principal_arn: principal_arn.clone(),
            limit: Some(1000),
            marker,
        })?;
        keys.extend(page.access_keys);
        marker = page.next_marker;
        if marker.is_none() {
            break;
        }
    }
    let mut table = Table::new(&[
        "ACCESS KEY",
        "PRINCIPAL",
        "STATUS",
        "CREATED",
        "LAST USED",
        "FOR",
    ]);
    for key in &keys {
        table.row(vec![
            key.access_key_id.clone(),
            principal::short(&key.principal_arn),
            key.status.to_string(),
            time(key.create_date),
            key.last_used_date.map_or_else(|| "never".to_owned(), time),
            key.description.clone().unwrap_or_default(),
        ]);
    }
    context.output.print(table, &json!({"AccessKeys": keys}))
}
