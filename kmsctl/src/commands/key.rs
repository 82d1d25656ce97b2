//! `kmsctl key …`.

pub(crate) mod create;
mod hanging;
mod life;
pub(crate) mod material;
pub(crate) mod multi_region;
pub(crate) mod public;

use std::collections::BTreeMap;

use kms_api::*;
use serde_json::json;

use super::confirm::confirm;
use super::{access, alias, describe, key_id, loss};
use crate::Context;
use crate::args::KeyCommand;
use crate::exit::Failure;
use crate::output::{Table, time};

pub(super) fn run(command: &KeyCommand, context: &Context) -> Result<(), Failure> {
    let output = context.output;
    let client = &context.client;
    match command {
        KeyCommand::Create(args) => create::create(args, context),
        KeyCommand::List => list(context),
        KeyCommand::Describe { key } => show(key, context),
        KeyCommand::Replicate(args) => multi_region::replicate(args, context),
        KeyCommand::SetPrimaryRegion { key, to } => {
            multi_region::set_primary_region(key, to, context)
        }
        KeyCommand::Enable { key } => {
            client.send(EnableKeyRequest {
                key_id: key_id(key, context)?,
            })?;
            output.done(format!("{key} is enabled."))
        }
        KeyCommand::Disable { key } => {
            client.send(DisableKeyRequest {
                key_id: key_id(key, context)?,
            })?;
            output.done(format!("{key} is disabled."))
        }
        KeyCommand::Rotate { key } => {
            let response = client.send(RotateKeyOnDemandRequest {
                key_id: key_id(key, context)?,
            })?;
            let hint = hanging::hint(&response.key_id, context);
            output.print(
                format!(
                    "{key} is rotated: what is encrypted from now on uses new key material.{hint}"
                ),
                &response,
            )
        }
        KeyCommand::Rotations { key } => rotations(key, context),
        KeyCommand::EnableRotation { key, days } => {
            client.send(EnableKeyRotationRequest {
                key_id: key_id(key, context)?,
                rotation_period_in_days: Some(*days),
            })?;
            output.done(format!("{key} is rotated every {days} days."))
        }
        KeyCommand::DisableRotation { key } => {
            client.send(DisableKeyRotationRequest {
                key_id: key_id(key, context)?,
            })?;
            output.done(format!("{key} is no longer rotated automatically."))
        }
        KeyCommand::PreviewDeletion { key } => {
            let loss = loss::of(&describe(key, context)?, context);
            output.print(loss.human(), &loss)
        }
        KeyCommand::ScheduleDeletion { key, days, yes } => {
            // Whoever may not describe the key may still delete it.
            let shown = describe(key, context).map(|key| loss::of(&key, context).human());
            match shown {
                Ok(text) if !output.is_json() => eprint!("{text}"),
                Ok(_) => {}
                Err(failure) if failure.exit == crate::exit::Exit::Denied => {
                    eprintln!(
                        "kmsctl: what would be lost is not known: {}",
                        failure.message
                    );
                }
                Err(failure) => return Err(failure),
            }
            confirm(&format!("Destroy {key} in {days} days?"), *yes)?;
            let response = client.send(ScheduleKeyDeletionRequest {
                key_id: key_id(key, context)?,
                pending_window_in_days: Some(*days),
            })?;
            let when = response
                .deletion_date
                .map_or_else(|| format!("in {days} days"), time);
            let human = format!(
                "{key} will be destroyed {when}, and with it everything it encrypted.\n\
                 Until then `kmsctl key cancel-deletion {key}` keeps it."
            );
            output.print(human, &response)
        }
        KeyCommand::SetDescription { key, text } => life::set_description(key, text, context),
        KeyCommand::LastUsage { key } => life::last_usage(key, context),
        KeyCommand::RotationStatus { key } => life::rotation_status(key, context),
        KeyCommand::Import(args) => material::import(args, context),
        KeyCommand::ImportParameters(args) => material::parameters(args, context),
        KeyCommand::ImportWrapped(args) => material::wrapped(args, context),
        KeyCommand::DeleteMaterial(args) => material::delete(args, context),
        KeyCommand::PublicKey(args) => public::run(args, context),
        KeyCommand::Policy(command) => access::key_policy(command, context),
        KeyCommand::Tag(args) => access::tag(args, context),
        KeyCommand::Untag(args) => access::untag(args, context),
        KeyCommand::Tags { key } => access::tags(key, context),
        KeyCommand::CancelDeletion { key } => {
            let response = client.send(CancelKeyDeletionRequest {
                key_id: key_id(key, context)?,
            })?;
            let human =
                format!("{key} stays. It is disabled: `kmsctl key enable {key}` makes it usable.");
            output.print(human, &response)
        }
    }
}

/// Every key, over all pages.
pub(super) fn all_keys(context: &Context) -> Result<Vec<KeyListEntry>, Failure> {
    let mut keys = Vec::new();
    let mut marker = None;
    loop {
        let request = ListKeysRequest {
            limit: Some(1000),
            marker,
            ..ListKeysRequest::default()
        };
        let mut page = context.client.send(request)?;
        keys.append(&mut page.keys);
        marker = page.next_marker;
        if marker.is_none() {
            return Ok(keys);
        }
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in alias::all(None, context)? {
        if let Some(target) = entry.target_key_id {
            names.entry(target).or_default().push(entry.alias_name);
        }
    }
    let mut table = Table::new(&["KEY ID", "STATE", "SPEC", "ALIASES", "DESCRIPTION"]);
    let mut values = Vec::new();
    for entry in all_keys(context)? {
        let metadata = match describe(&entry.key_id, context) {
            Ok(metadata) => metadata,
            // Destroyed since it was listed.
            Err(failure) if failure.exit == crate::exit::Exit::NotFound => continue,
            Err(failure) => return Err(failure),
        };
        let aliases = names.remove(&entry.key_id).unwrap_or_default();
        table.row(vec![
            entry.key_id,
            metadata.key_state.to_string(),
            metadata.key_spec.to_string(),
            aliases.join(" "),
            metadata.description.chars().take(40).collect(),
        ]);
        values.push(json!({ "KeyMetadata": metadata, "Aliases": aliases }));
    }
    context.output.print(table, &json!({ "Keys": values }))
}

fn show(key: &str, context: &Context) -> Result<(), Failure> {
    let metadata = describe(key, context)?;
    let aliases: Vec<String> = alias::all(Some(&metadata.key_id), context)?
        .into_iter()
        .map(|entry| entry.alias_name)
        .collect();
    let rotation = context
        .client
        .send(GetKeyRotationStatusRequest {
            key_id: metadata.key_id.clone(),
        })
        .ok();
    let mut lines = vec![
        ("key id", metadata.key_id.clone()),
        ("ARN", metadata.arn.clone()),
        ("state", metadata.key_state.to_string()),
        ("aliases", aliases.join(" ")),
        ("description", metadata.description.clone()),
        ("created", time(metadata.creation_date)),
        (
            "spec and usage",
            format!("{}, {}", metadata.key_spec, metadata.key_usage),
        ),
    ];
    let algorithms = algorithms(&metadata);
    if !algorithms.is_empty() {
        lines.push(("algorithms", algorithms.join(" ")));
    }
    if let Some(date) = metadata.deletion_date {
        lines.push(("destroyed", time(date)));
    }
    if let Some(id) = &metadata.current_key_material_id {
        lines.push(("key material", id.clone()));
    }
    if let Some(rotation) = &rotation {
        let text = match (
            rotation.rotation_period_in_days,
            rotation.next_rotation_date,
        ) {
            (Some(days), Some(next)) if rotation.key_rotation_enabled => {
                format!("every {days} days, next {}", time(next))
            }
            (Some(days), None) if rotation.key_rotation_enabled => format!("every {days} days"),
            (_, _) => "not automatic".into(),
        };
        lines.push(("rotation", text));
    }
    let attempts = match metadata.key_state {
        KeyState::PendingDeletion => loss::attempts(&metadata.arn, context)?,
        _ => None,
    };
    if let Some(attempts) = &attempts {
        let last = attempts.last.as_ref().map_or_else(String::new, |last| {
            let when = time(last.date);
            format!(", last {} by {} {when}", last.operation, last.principal)
        });
        lines.push(("refused uses", format!("{}{last}", attempts.count)));
    }
    let human: String = lines
        .iter()
        .map(|(name, value)| format!("{name:14}  {value}\n"))
        .collect();
    let value = json!({
        "KeyMetadata": metadata, "Aliases": aliases, "Rotation": rotation, "RefusedUses": attempts,
    });
    context.output.print(human, &value)
}

/// What a key can do, whatever it is for.
fn algorithms(metadata: &KeyMetadata) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    names.extend(metadata.encryption_algorithms.iter().map(|a| a.as_str()));
    names.extend(metadata.signing_algorithms.iter().map(|a| a.as_str()));
    names.extend(metadata.key_agreement_algorithms.iter().map(|a| a.as_str()));
    names.extend(metadata.encapsulation_algorithms.iter().map(|a| a.as_str()));
    names.extend(metadata.mac_algorithms.iter().map(|a| a.as_str()));
    names
}

fn rotations(key: &str, context: &Context) -> Result<(), Failure> {
    let key_id = key_id(key, context)?;
    let mut entries = Vec::new();
    let mut marker = None;
    loop {
        let mut page = context.client.send(ListKeyRotationsRequest {
            key_id: key_id.clone(),
            include_key_material: Some(IncludeKeyMaterial::AllKeyMaterial),
            limit: Some(1000),
            marker,
        })?;
        entries.append(&mut page.rotations);
        marker = page.next_marker;
        if marker.is_none() {
            break;
        }
    }
    let mut table = Table::new(&["KEY MATERIAL", "STATE", "SINCE", "ROTATION"]);
    for entry in &entries {
        table.row(vec![
            entry.key_material_id.clone().unwrap_or_default(),
            entry
                .key_material_state
                .map(|s| s.to_string())
                .unwrap_or_default(),
            entry.rotation_date.map_or_else(|| "creation".into(), time),
            entry
                .rotation_type
                .map(|t| t.to_string())
                .unwrap_or_default(),
        ]);
    }
    context
        .output
        .print(table, &json!({ "Rotations": entries }))
}
