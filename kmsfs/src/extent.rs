//! How much each policy of a volume protects, told from the encrypted directory alone: no key is needed, and no mount.
//!
//! It is what is shown before something is destroyed. A file counts for the policy of the directory it is in; hard links
//! count once.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kms_api::client::{Client, ClientError};
use kms_api::{ReportPolicyUseRequest, ResourceId};
use kms_format::file::PEEK;
use kms_format::size::plain_size;
use kms_format::volume::VolumeRecord;
use kms_format::{ContentMode, DirHeader, FileHeader, PolicyId};
use serde::{Deserialize, Serialize};

use crate::init::HEADER;

/// What a policy protects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Regular files.
    pub files: u64,
    /// Directories, the one that the policy is set on included.
    pub directories: u64,
    /// Sizes of the files together.
    pub bytes: u64,
}

/// Counts what the policies of the volume in `lower` protect. Policies without a directory are in it too, with nothing.
///
/// # Errors
/// A directory cannot be read. One that is removed meanwhile does not count.
pub fn count(lower: &Path, record: &VolumeRecord) -> io::Result<HashMap<PolicyId, Extent>> {
    // None where generations of both modes are kept: then the headers have to be asked.
    let mut modes: HashMap<PolicyId, Option<ContentMode>> = HashMap::new();
    for entry in &record.policies {
        let mode = modes
            .entry(entry.policy)
            .or_insert(Some(entry.content_mode));
        if *mode != Some(entry.content_mode) {
            *mode = None;
        }
    }
    let mut found: HashMap<PolicyId, Extent> = modes
        .keys()
        .map(|policy| (*policy, Extent::default()))
        .collect();
    let mut linked = HashSet::new();
    let mut stack: Vec<(PathBuf, Option<PolicyId>)> = vec![(lower.to_owned(), None)];
    while let Some((directory, parents)) = stack.pop() {
        // A directory whose header did not get to the disk is its parent's.
        let header = std::fs::read(directory.join(HEADER));
        let header = header.ok().and_then(|bytes| DirHeader::decode(&bytes).ok());
        let Some(policy) = header.map(|header| header.policy()).or(parents) else {
            continue;
        };
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mode = modes.get(&policy).copied();
        let mode = mode.unwrap_or(Some(ContentMode::Xts));
        let extent = found.entry(policy).or_default();
        extent.directories += 1;
        for entry in entries {
            let entry = entry?;
            if entry.file_name().as_bytes().starts_with(b".") {
                continue;
            }
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if kind.is_dir() {
                stack.push((entry.path(), Some(policy)));
            } else if kind.is_file()
                && let Ok(data) = entry.metadata()
                && (data.nlink() < 2 || linked.insert((data.dev(), data.ino())))
            {
                extent.files += 1;
                let size = match data.len() {
                    0 => 0,
                    lower => mode
                        .or_else(|| mode_of(&entry.path()))
                        .and_then(|mode| plain_size(mode, lower).ok())
                        .unwrap_or(lower),
                };
                extent.bytes = extent.bytes.saturating_add(size);
            }
        }
    }
    Ok(found)
}

/// The mode that the header of a file names.
fn mode_of(path: &Path) -> Option<ContentMode> {
    use std::io::Read as _;
    let mut start = [0; PEEK];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut start))
        .ok()?;
    FileHeader::peek(&start).map(|(mode, _)| mode)
}

/// Tells kmsd what a policy protects.
///
/// # Errors
/// kmsd does not take it.
pub fn report(
    client: &Client,
    record: &VolumeRecord,
    policy: PolicyId,
    extent: Extent,
    mountpoint: Option<&Path>,
) -> Result<(), ClientError> {
    client.send(ReportPolicyUseRequest {
        volume_id: ResourceId(record.volume.0),
        policy_id: ResourceId(policy.0),
        files: extent.files,
        directories: extent.directories,
        bytes: extent.bytes,
        mountpoint: mountpoint.map(|at| at.to_string_lossy().into_owned()),
    })?;
    Ok(())
}
