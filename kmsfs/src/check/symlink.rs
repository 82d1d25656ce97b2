//! Symbolic links and the records of long targets.

use std::sync::Arc;

use kms_format::names;
use kms_format::symlink::{StoredTarget, TARGET_MAX};

use super::Check;
use super::finding::{Code, Outcome, Severity};
use super::spot::Spot;
use super::walk::Place;
use crate::backing::{Dir, LowerEntry, Small};
use crate::errno::{Errno, FsResult};
use crate::fs::Kind;
use crate::fs::walk::{Here, Visit, walk};

/// Longest record.
const RECORD_MAX: usize = TARGET_MAX + 128;

impl Check<'_> {
    pub(super) fn load_links(&mut self) {
        let Some(links) = &self.links else { return };
        let listed = (|| {
            let mut found = Vec::new();
            let mut listing = links.list()?;
            while let Some(entry) = listing.peek()? {
                if entry.name != b"." && entry.name != b".." {
                    found.push(String::from_utf8_lossy(&entry.name).into_owned());
                }
                listing.advance();
            }
            Ok(found)
        })();
        match listed {
            Ok(found) => self.records = found.into_iter().map(|name| (name, false)).collect(),
            Err(errno) => {
                self.complete = false;
                let spot = Spot::below(&Spot::root(), names::LINKS, None);
                let errno: Errno = errno;
                self.found(Code::Unreadable, Severity::Damage, &spot, errno.to_string());
            }
        }
    }

    /// Records that quarantined links refer to are no garbage. Gives the number of objects directly in `dir`.
    pub(super) fn sweep(&mut self, dir: &Arc<Dir>) -> FsResult<u64> {
        let mut sweep = Sweep {
            check: self,
            count: 0,
        };
        walk(dir, &mut sweep)?;
        Ok(sweep.count)
    }

    /// Marks the record of a link, whatever else is wrong with it, as used.
    pub(super) fn refers(&mut self, dir: &Dir, name: &str) {
        let stored = dir.read_link(name);
        let target = stored
            .ok()
            .and_then(|stored| StoredTarget::parse(&stored).ok());
        if let Some(record) = target.and_then(|target| target.record_name())
            && let Some(used) = self.records.get_mut(&record)
        {
            *used = true;
        }
    }

    pub(super) fn symlink(&mut self, dir: &Dir, place: &Place, spot: &Arc<Spot>, name: &str) {
        self.report.counts.symlinks += 1;
        let stored = match dir.read_link(name) {
            Ok(stored) => stored,
            Err(errno) => {
                self.found(Code::Unreadable, Severity::Damage, spot, errno.to_string());
                return;
            }
        };
        let target = match StoredTarget::parse(&stored) {
            Ok(target) => target,
            Err(error) => {
                self.quarantined(Code::Symlink, dir, name, spot, error.to_string());
                return;
            }
        };
        let mut record = None;
        if let Some(file) = target.record_name() {
            let read = match &self.links {
                Some(links) => links.read_small(&file, RECORD_MAX),
                None => Ok(Small::Missing),
            };
            match read {
                Ok(Small::Bytes(bytes)) => record = Some(bytes),
                Ok(gone) => {
                    let how = match gone {
                        Small::NotAFile => "not a file",
                        _ => "missing",
                    };
                    let what = format!("{}/{file} is {how}", names::LINKS);
                    self.quarantined(Code::SymlinkRecord, dir, name, spot, what);
                    return;
                }
                Err(errno) => {
                    let what = format!("{}/{file}: {errno}", names::LINKS);
                    self.found(Code::Unreadable, Severity::Damage, spot, what);
                    return;
                }
            }
            if let Some(used) = self.records.get_mut(&file) {
                *used = true;
            }
        }
        let (Some(policy), Some(keys)) = (&place.policy, self.keys) else {
            return;
        };
        self.used(policy.policy(), target.generation());
        let key = if target.generation() == policy.generation() {
            Ok(Arc::clone(policy))
        } else {
            keys.policy_key(&policy.volume(), &policy.policy(), target.generation())
        };
        match key {
            Err(errno) => self.locked(policy.policy(), spot, errno),
            Ok(key) => {
                if let Err(error) = target.open(&key, record.as_deref()) {
                    let code = if record.is_some() {
                        Code::SymlinkRecord
                    } else {
                        Code::Symlink
                    };
                    self.quarantined(code, dir, name, spot, error.to_string());
                }
            }
        }
    }

    /// Records that no link refers to. Only the whole tree tells.
    pub(super) fn orphan_records(&mut self) {
        if !self.complete {
            return;
        }
        let below = Spot::below(&Spot::root(), names::LINKS, None);
        let orphans: Vec<_> = self
            .records
            .iter()
            .filter(|(_, used)| !**used)
            .map(|(name, _)| name.clone())
            .collect();
        let Some(links) = self.links.take() else {
            return;
        };
        for name in orphans {
            let spot = Spot::below(&below, &name, None);
            let is_record = name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_record {
                self.found(Code::Foreign, Severity::Note, &spot, "in .kmsfs.links");
                continue;
            }
            let what = (Code::SymlinkOrphan, Severity::Note);
            self.mended(
                what,
                &spot,
                "no link refers to it",
                Outcome::Repaired,
                |_| links.unlink(&name),
            );
        }
    }
}

/// Looks for links, at any depth.
struct Sweep<'a, 'b> {
    check: &'a mut Check<'b>,
    count: u64,
}

impl Visit for Sweep<'_, '_> {
    fn entry(&mut self, here: &Here<'_>, entry: &LowerEntry, kind: Kind) -> FsResult<bool> {
        if here.path.is_empty() && entry.name != super::repair::JOURNAL.as_bytes() {
            self.count += 1;
        }
        self.check.set_aside |= kind == Kind::File;
        if kind == Kind::Symlink {
            let name = String::from_utf8_lossy(&entry.name);
            self.check.refers(here.dir, &name);
        }
        Ok(true)
    }

    fn unreadable(&mut self, _: &Here<'_>, _: &str, errno: Errno) -> FsResult<()> {
        Err(errno)
    }
}
