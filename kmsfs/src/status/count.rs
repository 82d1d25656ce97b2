//! What hangs on which generation of its policy key, counted in the lower tree. Headers say it in plain, so no key is needed; nothing
//! of it is authenticated.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use kms_format::names::{self, LowerName};
use kms_format::{DirHeader, FileHeader, PolicyId, file, size, symlink};
use serde::{Deserialize, Serialize};

use crate::init::HEADER;

/// What is under one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Directories by the generation that wraps their keys.
    pub directories: BTreeMap<u32, u64>,
    /// Files by the generation that wraps their keys. A file with several names counts once for each.
    pub files: BTreeMap<u32, u64>,
    /// Files by content mode. During a rekey to another mode there are both.
    #[serde(default)]
    pub modes: BTreeMap<String, u64>,
    /// Symlinks by the generation that their target is under.
    pub symlinks: BTreeMap<u32, u64>,
    /// Files by the policy and generation under which their key was made (lineage).
    pub lineage: BTreeMap<String, u64>,
    /// Bytes of content by that generation, of keys made under this policy.
    pub bytes: BTreeMap<u32, u64>,
    /// Bytes of content under keys that were made under another policy.
    pub foreign_bytes: u64,
    /// Files without a header yet: nothing was written to them.
    pub blank: u64,
    /// Headers that cannot be read: see `kmsctl fs check`.
    pub unreadable: u64,
}

impl Counted {
    /// Objects that a rewrap to `generation` has left to do.
    #[must_use]
    pub fn behind(&self, generation: u32) -> u64 {
        [&self.directories, &self.files, &self.symlinks]
            .into_iter()
            .flatten()
            .filter(|(found, _)| **found < generation)
            .map(|(_, count)| count)
            .sum()
    }

    /// Bytes whose keys were made before `generation`, or under another policy.
    #[must_use]
    pub fn bytes_behind(&self, generation: u32) -> u64 {
        let older = self.bytes.range(..generation).map(|(_, bytes)| bytes);
        older.sum::<u64>() + self.foreign_bytes
    }
}

/// Counts everything below `lower`, by policy.
#[must_use]
pub fn count(lower: &Path) -> HashMap<PolicyId, Counted> {
    let mut found: HashMap<PolicyId, Counted> = HashMap::new();
    let mut open = vec![lower.to_owned()];
    while let Some(directory) = open.pop() {
        let header = std::fs::read(directory.join(HEADER));
        let header = header.ok().and_then(|bytes| DirHeader::decode(&bytes).ok());
        let Some(header) = header else {
            // Not ours, or damaged: what is in it belongs to nothing that can be named.
            continue;
        };
        let policy = header.policy();
        *add(&mut found, policy)
            .directories
            .entry(header.generation())
            .or_default() += 1;
        let listed = std::fs::read_dir(&directory).into_iter().flatten();
        for entry in listed.flatten() {
            use std::os::unix::ffi::OsStrExt as _;
            let ours = names::classify(entry.file_name().as_bytes());
            if !matches!(ours, LowerName::Short | LowerName::Long) {
                continue;
            }
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_symlink() {
                count_symlink(&entry.path(), add(&mut found, policy));
            } else if kind.is_file() {
                count_file(&entry.path(), policy, add(&mut found, policy));
            }
        }
    }
    found
}

fn add(found: &mut HashMap<PolicyId, Counted>, policy: PolicyId) -> &mut Counted {
    found.entry(policy).or_default()
}

fn count_symlink(path: &Path, counted: &mut Counted) {
    use std::os::unix::ffi::OsStrExt as _;
    let target = std::fs::read_link(path).ok();
    let target =
        target.and_then(|target| symlink::StoredTarget::parse(target.as_os_str().as_bytes()).ok());
    match target {
        Some(target) => *counted.symlinks.entry(target.generation()).or_default() += 1,
        None => counted.unreadable += 1,
    }
}

fn count_file(path: &Path, policy: PolicyId, counted: &mut Counted) {
    let mut page = Vec::new();
    let read = File::open(path).and_then(|file| {
        let length = file.metadata()?.len();
        file.take(file::PAGE as u64).read_to_end(&mut page)?;
        Ok(length)
    });
    let Ok(lower) = read else {
        counted.unreadable += 1;
        return;
    };
    if page.iter().all(|byte| *byte == 0) {
        counted.blank += 1;
        return;
    }
    let header = FileHeader::decode(&page);
    let wrap = header
        .as_ref()
        .ok()
        .and_then(|header| header.wraps().find(|wrap| wrap.policy == policy));
    let (Ok(header), Some(wrap)) = (header, wrap) else {
        counted.unreadable += 1;
        return;
    };
    *counted.files.entry(wrap.generation).or_default() += 1;
    let mode = header.mode().to_string();
    *counted.modes.entry(mode).or_default() += 1;
    let (maker, generation) = header.lineage();
    let name = if maker == policy {
        generation.to_string()
    } else {
        format!("{maker}/{generation}")
    };
    *counted.lineage.entry(name).or_default() += 1;
    let bytes = match header.layout() {
        file::Layout::Inline => header.length(),
        file::Layout::Units => size::plain_size(header.mode(), lower).unwrap_or(0),
    };
    if maker == policy {
        *counted.bytes.entry(generation).or_default() += bytes;
    } else {
        counted.foreign_bytes += bytes;
    }
}
