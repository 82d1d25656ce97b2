//! What `kmsctl fs status` shows: the policies of a volume, as the registry, the lower tree and a mount
//! see them. Works without a mount, too.

pub mod count;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kms_api::client::{Client, ClientError};
use kms_api::{Blob, DecryptRequest, DescribeVolumeRequest, PolicySummary, ResourceId};
use kms_format::volume::{PolicyRecord, VolumeRecord};
use kms_format::{DirHeader, Nesting, PolicyId};
use serde::{Deserialize, Serialize};

use crate::init::HEADER;
use crate::jobs::Progress;
use crate::volume::kmsd::context;
use crate::volume::refusal::Reason;
use crate::volume::{RecordFile, VolumeError};

/// A volume and its policies.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Volume id.
    pub volume: String,
    /// Label given at initialisation.
    pub label: String,
    /// The lower directory.
    pub lower: PathBuf,
    /// Where it is mounted, if it is.
    pub mountpoint: Option<PathBuf>,
    /// Why kmsd was not asked or did not answer.
    pub kmsd_error: Option<String>,
    /// Seconds for which changes are still held, if they are (`kmsctl fs freeze`).
    #[serde(default)]
    pub frozen: Option<u64>,
    /// The job that runs in the mount.
    #[serde(default)]
    pub job: Option<Progress>,
    /// Its policies; the root's is first.
    pub policies: Vec<PolicyStatus>,
}

/// A policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Policy id.
    pub policy: String,
    /// The directory it protects: in the mount if there is one, otherwise in the lower tree. None if
    /// there is no such directory any more.
    pub directory: Option<PathBuf>,
    /// ARN of the KMS key.
    pub key_arn: String,
    /// State of the key, from kmsd.
    pub key_state: Option<String>,
    /// Content mode: `XTS` (not authenticated) or `GCM` (authenticated).
    pub mode: String,
    /// Generation of the policy key.
    pub generation: u32,
    /// Older generations that are kept, with the keys they hang on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<OlderStatus>,
    /// Free text of the administrator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// What the administrator chose; none if kmsd did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SettingsStatus>,
    /// What hangs on which generation, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<count::Counted>,
    /// The key material under which the data key was made.
    pub data_key_material: Option<String>,
    /// The key's current material: differs from the former after a rotation.
    pub current_material: Option<String>,
    /// Whether the mount has it unlocked.
    pub unlocked: bool,
    /// Why not, as far as known.
    pub reason: Option<String>,
}

/// An older generation of a policy key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OlderStatus {
    /// Its number.
    pub generation: u32,
    /// ARN of the KMS key it hangs on.
    pub key_arn: String,
    /// Whether the volume record has its data key: without it nothing opens under it.
    pub usable: bool,
}

/// What the administrator chose for a policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SettingsStatus {
    /// `STALE` or `KILL`.
    pub revoke: String,
    /// Seconds after which the tree is locked while kmsd cannot be asked; none if it stays open.
    pub lock_after_seconds: Option<u32>,
    /// Whether opens are recorded in the audit log.
    pub record_opens: bool,
    /// Whether new key material starts a rewrap.
    pub rewrap_after_rotation: bool,
}

/// What a mount answers about itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MountStatus {
    /// Volume id.
    pub volume: String,
    /// The lower directory.
    pub lower: PathBuf,
    /// The mount point.
    pub mountpoint: PathBuf,
    /// Process id of kmsfs.
    pub pid: u32,
    /// Unlocked policies and the key material of their data keys.
    pub unlocked: HashMap<String, Option<String>>,
    /// Policies that were refused, and why.
    pub refused: HashMap<String, String>,
    /// Seconds for which changes are still held, if they are.
    #[serde(default)]
    pub frozen: Option<u64>,
    /// The job that runs.
    #[serde(default)]
    pub job: Option<Progress>,
}

/// Collects the status of the volume in `lower`; `mount` is the answer of its mount, if there is one.
///
/// # Errors
/// There is no volume record, or it cannot be read. What kmsd does not answer is said in the status.
pub fn collect(
    client: &Client,
    lower: &Path,
    mount: Option<&MountStatus>,
) -> Result<VolumeStatus, VolumeError> {
    let record = RecordFile::in_directory(lower)?.read()?;
    let registry = client.send(DescribeVolumeRequest {
        volume_id: ResourceId(record.volume.0),
    });
    let directories = protected_directories(lower);
    let mut status = VolumeStatus {
        volume: record.volume.to_string(),
        label: record.label.clone(),
        lower: lower.to_owned(),
        mountpoint: mount.map(|mount| mount.mountpoint.clone()),
        kmsd_error: registry.as_ref().err().map(ClientError::to_string),
        frozen: mount.and_then(|mount| mount.frozen),
        job: mount.and_then(|mount| mount.job.clone()),
        policies: Vec::new(),
    };
    for entry in newest(&record) {
        let row = registry.as_ref().ok().and_then(|volume| {
            let id = ResourceId(entry.policy.0);
            volume.policies.iter().find(|row| row.policy_id == id)
        });
        // Without an answer the newest line counts; one that is newer than the registry is left from an attempt to rotate.
        let entry = row
            .and_then(|row| record.policy(entry.policy, row.generation))
            .unwrap_or(entry);
        let id = entry.policy.to_string();
        let unlocked = mount.and_then(|mount| mount.unlocked.get(&id));
        let (material, reason) = match unlocked {
            Some(Some(material)) => (Some(material.clone()), None),
            _ => match (&registry, row) {
                (Ok(_), Some(_)) => material_of(client, &record, &entry.policy, entry.generation),
                (Ok(_), None) => (None, Some("not in kmsd's registry".to_owned())),
                (Err(_), _) => (None, None),
            },
        };
        let refused = mount.and_then(|mount| mount.refused.get(&id).cloned());
        let lower_directory = directories.get(&entry.policy);
        status.policies.push(PolicyStatus {
            directory: lower_directory.map(|directory| match mount {
                Some(mount) => plain_path(lower, directory, &mount.mountpoint)
                    .unwrap_or_else(|| directory.clone()),
                None => directory.clone(),
            }),
            key_arn: row.map_or_else(|| entry.key_arn.clone(), |row| row.key_arn.clone()),
            key_state: row
                .and_then(|row| row.key_state)
                .map(|state| state.as_str().to_owned()),
            mode: entry.content_mode.to_string(),
            generation: row.map_or(entry.generation, |row| row.generation),
            older: row.map_or_else(Vec::new, |row| older(row, &record, entry.policy)),
            counted: None,
            label: row.map_or_else(String::new, |row| row.settings.label.clone()),
            settings: row.map(|row| SettingsStatus {
                revoke: row.settings.revoke_mode.as_str().to_owned(),
                lock_after_seconds: row.settings.lock_after_seconds,
                record_opens: row.settings.record_opens,
                rewrap_after_rotation: row.settings.rewrap_after_rotation,
            }),
            data_key_material: material,
            current_material: row.and_then(|row| row.current_key_material_id.clone()),
            unlocked: unlocked.is_some(),
            reason: if unlocked.is_some() {
                None
            } else {
                refused.or(reason)
            },
            policy: id,
        });
    }
    Ok(status)
}

/// The line of the newest generation of each policy, in the order of the record.
fn newest(record: &VolumeRecord) -> Vec<&PolicyRecord> {
    let mut newest: Vec<&PolicyRecord> = Vec::new();
    for entry in &record.policies {
        match newest.iter_mut().find(|known| known.policy == entry.policy) {
            Some(known) if known.generation < entry.generation => *known = entry,
            Some(_) => {}
            None => newest.push(entry),
        }
    }
    newest
}

fn older(row: &PolicySummary, record: &VolumeRecord, policy: PolicyId) -> Vec<OlderStatus> {
    let older = row.older_generations.iter().map(|old| OlderStatus {
        generation: old.generation,
        key_arn: old.key_arn.clone(),
        usable: record.policy(policy, old.generation).is_some(),
    });
    older.collect()
}

/// Opens the data key to learn which material it is under; the key itself is dropped at once.
fn material_of(
    client: &Client,
    record: &VolumeRecord,
    policy: &PolicyId,
    generation: u32,
) -> (Option<String>, Option<String>) {
    let Some(entry) = record.policy(*policy, generation) else {
        return (None, None);
    };
    let opened = client.send(DecryptRequest {
        ciphertext_blob: Some(Blob::new(entry.data_key.clone())),
        encryption_context: context(&record.volume, policy, generation),
        grant_tokens: Vec::new(),
        key_id: None,
        encryption_algorithm: None,
        dry_run: false,
        dry_run_modifiers: Vec::new(),
    });
    match opened {
        Ok(opened) => (opened.key_material_id, None),
        Err(error) => (
            None,
            Some(match Reason::from_client(&error) {
                Reason::Refused { text, .. } | Reason::Unavailable(text) => text,
                _ => error.to_string(),
            }),
        ),
    }
}

/// The lower directories with a policy of their own. Reads the headers of all directories.
fn protected_directories(lower: &Path) -> HashMap<PolicyId, PathBuf> {
    let mut found = HashMap::new();
    let mut stack = vec![lower.to_owned()];
    while let Some(directory) = stack.pop() {
        if let Ok(bytes) = std::fs::read(directory.join(HEADER))
            && let Ok(header) = DirHeader::decode(&bytes)
            && header.nesting() == Nesting::Root
        {
            found.insert(header.policy(), directory.clone());
        }
        for item in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            if item.file_type().is_ok_and(|kind| kind.is_dir()) {
                stack.push(item.path());
            }
        }
    }
    found
}

/// The name in the mount of a lower directory: both have the same inode numbers.
fn plain_path(lower: &Path, directory: &Path, mountpoint: &Path) -> Option<PathBuf> {
    let mut encrypted = lower.to_owned();
    let mut plain = mountpoint.to_owned();
    for component in directory.strip_prefix(lower).ok()?.components() {
        encrypted.push(component);
        let inode = std::fs::symlink_metadata(&encrypted).ok()?.ino();
        let item = std::fs::read_dir(&plain)
            .ok()?
            .flatten()
            .find(|item| item.metadata().is_ok_and(|data| data.ino() == inode))?;
        plain.push(item.file_name());
    }
    Some(plain)
}
