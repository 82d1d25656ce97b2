//! What would be lost with a key: the directory trees that hang on it, and whether anybody uses it.

use std::fmt::Write as _;

use kms_api::{
    DescribeVolumeRequest, KeyMetadata, ListVolumesRequest, PolicySummary, PolicyUse, Timestamp,
    VolumeListEntry,
};
use kms_core::audit::{Filter, Record};
use kms_core::events::is_use_while_pending_deletion;
use kms_core::last_use::use_of;
use serde::Serialize;

use super::audit::source::Source;
use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Table, time};

/// A directory tree that hangs on a key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tree {
    pub(super) volume_id: String,
    pub(super) volume_label: String,
    pub(super) policy_id: String,
    pub(super) label: String,
    /// Whether the current generation hangs on it, not only an older one.
    pub(super) current: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) r#use: Option<PolicyUse>,
}

/// The last use of a key in the audit log.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct LastUse {
    pub(super) operation: String,
    pub(super) principal: String,
    pub(super) date: Timestamp,
    pub(super) event_id: String,
}

impl LastUse {
    fn of(record: &Record) -> LastUse {
        let caller = record.caller.as_ref();
        LastUse {
            operation: record.operation.clone(),
            principal: caller.map(|by| by.arn.to_string()).unwrap_or_default(),
            date: Timestamp::from_millis(record.time),
            event_id: record.event_id.clone(),
        }
    }
}

/// What would be lost with a key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Loss {
    pub(super) key_arn: String,
    pub(super) trees: Vec<Tree>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_use: Option<LastUse>,
    /// What could not be found out, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unknown: Vec<String>,
}

/// Finds it. What the caller may not see is said in the answer.
pub(super) fn of(key: &KeyMetadata, context: &Context) -> Loss {
    let mut unknown = Vec::new();
    let trees = trees(&key.arn, context).unwrap_or_else(|failure| {
        unknown.push(format!("which directories hang on it: {}", failure.message));
        Vec::new()
    });
    let last_use = last_use(&key.arn, context).unwrap_or_else(|failure| {
        unknown.push(format!("when it was used last: {}", failure.message));
        None
    });
    Loss {
        key_arn: key.arn.clone(),
        trees,
        last_use,
        unknown,
    }
}

impl Loss {
    /// For people.
    pub(super) fn human(&self) -> String {
        let mut text = format!("{}\n", self.key_arn);
        if self.trees.is_empty() {
            text.push_str("no directory of a volume hangs on it, as far as the registry knows\n");
        } else {
            let mut table = Table::new(&[
                "VOLUME",
                "DIRECTORY",
                "FILES",
                "BYTES",
                "MOUNTED AT",
                "COUNTED",
            ]);
            for tree in &self.trees {
                table.row(tree.row());
            }
            let _ = write!(text, "{table}");
            let counted = self.trees.iter().filter_map(|tree| tree.r#use.as_ref());
            let (files, bytes) = counted.fold((0_u64, 0_u64), |(files, bytes), one| {
                (
                    files.saturating_add(one.files),
                    bytes.saturating_add(one.bytes),
                )
            });
            let _ = writeln!(
                text,
                "lost with it: {} directories with {files} files, {bytes} bytes, as far as they were counted",
                self.trees.len()
            );
        }
        match &self.last_use {
            Some(used) => {
                let _ = writeln!(
                    text,
                    "last used {} for {} by {} (event {})",
                    time(used.date),
                    used.operation,
                    used.principal,
                    used.event_id
                );
            }
            None if self.unknown.is_empty() => {
                text.push_str("not used, as far as the audit log goes back\n");
            }
            None => {}
        }
        for line in &self.unknown {
            let _ = writeln!(text, "not known: {line}");
        }
        text.push_str("Ciphertexts and backups that need it are nowhere listed.\n");
        text
    }
}

impl Tree {
    fn row(&self) -> Vec<String> {
        let named = |id: &str, label: &str| match label.is_empty() {
            true => id.to_owned(),
            false => format!("{label} ({id})"),
        };
        let mut directory = named(&self.policy_id, &self.label);
        if !self.current {
            directory.push_str(", an older generation");
        }
        let (files, bytes, mountpoint, counted) = match &self.r#use {
            Some(found) => (
                found.files.to_string(),
                found.bytes.to_string(),
                found.mountpoint.clone().unwrap_or_default(),
                time(found.date),
            ),
            None => ("?".into(), "?".into(), String::new(), "never".into()),
        };
        vec![
            named(&self.volume_id, &self.volume_label),
            directory,
            files,
            bytes,
            mountpoint,
            counted,
        ]
    }
}

fn trees(arn: &str, context: &Context) -> Result<Vec<Tree>, Failure> {
    let mut trees = Vec::new();
    for volume in volumes(context)? {
        let described = context.client.send(DescribeVolumeRequest {
            volume_id: volume.volume_id,
        })?;
        let policies = described.policies.into_iter();
        let on_it = policies.filter(|policy| policy.destroyed_date.is_none() && hangs(policy, arn));
        trees.extend(on_it.map(|policy| Tree {
            volume_id: volume.volume_id.to_string(),
            volume_label: volume.label.clone(),
            policy_id: policy.policy_id.to_string(),
            label: policy.settings.label.clone(),
            current: policy.key_arn == arn,
            r#use: policy.usage,
        }));
    }
    Ok(trees)
}

fn hangs(policy: &PolicySummary, arn: &str) -> bool {
    let mut older = policy.older_generations.iter();
    policy.key_arn == arn || older.any(|old| old.key_arn == arn)
}

/// Every volume, over all pages.
fn volumes(context: &Context) -> Result<Vec<VolumeListEntry>, Failure> {
    let mut volumes = Vec::new();
    let mut marker = None;
    loop {
        let request = ListVolumesRequest {
            limit: Some(1000),
            marker,
        };
        let mut page = context.client.send(request)?;
        volumes.append(&mut page.volumes);
        marker = page.next_marker;
        if marker.is_none() {
            return Ok(volumes);
        }
    }
}

fn last_use(arn: &str, context: &Context) -> Result<Option<LastUse>, Failure> {
    let filter = Filter {
        key: Some(arn.to_owned()),
        outcome: Some("ok".to_owned()),
        ..Filter::default()
    };
    let mut found = None;
    Source::Daemon(&context.client).each(&filter, false, None, |event| {
        let record = &event.line.record;
        if use_of(&record.operation, 0).is_none() {
            return Ok(true);
        }
        found = Some(LastUse::of(record));
        Ok(false)
    })?;
    Ok(found)
}

/// Attempts to use a key since its deletion was scheduled.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attempts {
    pub(super) count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<LastUse>,
}

/// Looks them up; None where the caller may not read the log.
pub(super) fn attempts(arn: &str, context: &Context) -> Result<Option<Attempts>, Failure> {
    let filter = Filter {
        key: Some(arn.to_owned()),
        ..Filter::default()
    };
    let mut attempts = Attempts::default();
    let done = Source::Daemon(&context.client).each(&filter, false, None, |event| {
        let record = &event.line.record;
        if record.operation == "ScheduleKeyDeletion" && record.error.is_none() {
            return Ok(false);
        }
        if is_use_while_pending_deletion(record) {
            attempts.count += 1;
            attempts.last.get_or_insert_with(|| LastUse::of(record));
        }
        Ok(true)
    });
    match done {
        Ok(()) => Ok(Some(attempts)),
        Err(failure) if matches!(failure.exit, Exit::Denied | Exit::Invalid) => Ok(None),
        Err(failure) => Err(failure),
    }
}
