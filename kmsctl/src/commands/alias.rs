//! `kmsctl alias …`.

use kms_api::*;
use serde_json::json;

use super::key_id;
use crate::Context;
use crate::args::AliasCommand;
use crate::exit::Failure;
use crate::output::{Table, time};

pub(super) fn run(command: &AliasCommand, context: &Context) -> Result<(), Failure> {
    let client = &context.client;
    match command {
        AliasCommand::Create { alias, key } => {
            client.send(CreateAliasRequest {
                alias_name: alias.clone(),
                target_key_id: key_id(key, context)?,
            })?;
            context.output.done(format!("{alias} names {key}."))
        }
        AliasCommand::Update { alias, key } => {
            client.send(UpdateAliasRequest {
                alias_name: alias.clone(),
                target_key_id: key_id(key, context)?,
            })?;
            context.output.done(format!("{alias} now names {key}."))
        }
        AliasCommand::Delete { alias } => {
            client.send(DeleteAliasRequest {
                alias_name: alias.clone(),
            })?;
            context
                .output
                .done(format!("{alias} is removed; its key stays."))
        }
        AliasCommand::List { key } => {
            let key = key.as_deref().map(|key| key_id(key, context)).transpose()?;
            list(key.as_deref(), context)
        }
    }
}

/// Every alias (of one key), over all pages.
pub(super) fn all(key: Option<&str>, context: &Context) -> Result<Vec<AliasListEntry>, Failure> {
    let mut aliases = Vec::new();
    let mut marker = None;
    loop {
        let mut page = context.client.send(ListAliasesRequest {
            key_id: key.map(str::to_owned),
            limit: Some(100),
            marker,
        })?;
        aliases.append(&mut page.aliases);
        marker = page.next_marker;
        if marker.is_none() {
            return Ok(aliases);
        }
    }
}

fn list(key: Option<&str>, context: &Context) -> Result<(), Failure> {
    let aliases = all(key, context)?;
    let mut table = Table::new(&["ALIAS", "KEY ID", "SINCE"]);
    for entry in &aliases {
        table.row(vec![
            entry.alias_name.clone(),
            entry.target_key_id.clone().unwrap_or_default(),
            entry
                .last_updated_date
                .or(entry.creation_date)
                .map(time)
                .unwrap_or_default(),
        ]);
    }
    context.output.print(table, &json!({ "Aliases": aliases }))
}
