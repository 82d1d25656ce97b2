//! Looks for damage in a lower tree, with keys or without, and repairs what has a safe repair.
//!
//! The lower tree must not change meanwhile: the caller holds the lock of the lower directory, or has frozen the mount.
//! `walk` goes through the directories, `directory`, `file`, `symlink` and `xattr` know what can be wrong with one
//! object, `repair` is the only one that changes anything.

mod copy;
mod directory;
mod file;
mod finding;
mod online;
mod repair;
pub(crate) mod spot;
mod symlink;
pub(crate) mod walk;
mod xattr;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use kms_format::names;
use kms_format::{DirId, PolicyId, VolumeId};

pub(crate) use self::file::describe;
pub use self::finding::{Code, Counts, Finding, KEPT, Outcome, Report, Severity};
pub(crate) use self::online::check_mounted;
use self::repair::{LOST, Mender};
use self::spot::Spot;
use crate::backing::{Dir, LowerId};
use crate::errno::{Errno, FsResult};
use crate::volume::{Keys, RecordFile, VolumeError};

/// What to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Repair what has a safe repair, and move the rest into `.kmsfs.lost`.
    pub repair: bool,
    /// Read all content: finds damaged units of mode gcm, and what the medium does not give back.
    pub content: bool,
}

/// Checks the lower tree at `lower`. Without keys only its structure. `progress` is called again and again.
///
/// # Errors
/// `lower` cannot be opened. Everything else is a finding.
pub fn check(
    lower: &Path,
    keys: Option<&dyn Keys>,
    options: Options,
    progress: &mut dyn FnMut(&Counts),
) -> FsResult<Report> {
    run(lower, keys, options, Pass::Whole, &mut |counts| {
        progress(counts);
        true
    })
}

/// Looks at a tree without a volume record, such as a simulated one. Reads all content, repairs nothing.
#[cfg(test)]
pub(crate) fn check_open(root: Dir, keys: &dyn Keys) -> FsResult<Report> {
    check_with(root, keys, false)
}

/// The same with or without repairs.
#[cfg(test)]
pub(crate) fn check_with(root: Dir, keys: &dyn Keys, repair: bool) -> FsResult<Report> {
    let (root, options) = (
        Arc::new(root),
        Options {
            repair,
            content: true,
        },
    );
    let lower = Path::new("simulated");
    let mut go_on = |_: &Counts| true;
    let mut check = Check::new(lower, Arc::clone(&root), Some(keys), options, &mut go_on)?;
    check.prepare();
    walk::walk(root, &mut check);
    check.finish();
    Ok(check.report)
}

/// Which of several looks at a tree it is.
enum Pass {
    /// The only one.
    Whole,
    /// At a tree that is in use: nothing is put down to an earlier crash.
    Suspecting,
    /// Only at these lower paths, if any are named.
    Again(Option<HashSet<String>>),
}

fn run(
    lower: &Path,
    keys: Option<&dyn Keys>,
    options: Options,
    pass: Pass,
    progress: &mut dyn FnMut(&Counts) -> bool,
) -> FsResult<Report> {
    let root = Arc::new(Dir::open_root(lower)?);
    let mut check = Check::new(lower, Arc::clone(&root), keys, options, progress)?;
    match pass {
        Pass::Whole => {}
        Pass::Suspecting => check.unclean = false,
        Pass::Again(only) => {
            check.complete &= only.is_none();
            check.only = only;
        }
    }
    check.record(lower);
    check.prepare();
    walk::walk(root, &mut check);
    if check.cancelled {
        return Err(Errno::from_raw(libc::ECANCELED));
    }
    check.finish();
    Ok(check.report)
}

struct Check<'a> {
    root: Arc<Dir>,
    keys: Option<&'a dyn Keys>,
    options: Options,
    progress: &'a mut dyn FnMut(&Counts) -> bool,
    cancelled: bool,
    /// Lower paths to look at, if not at all.
    only: Option<HashSet<String>>,
    report: Report,
    mender: Mender,
    /// The last stop was not clean: leftovers are legal.
    unclean: bool,
    volume: Option<VolumeId>,
    /// Policies and generations of the record, and whether something uses them.
    policies: HashMap<(PolicyId, u32), bool>,
    /// Records of long symlink targets, and whether a link refers to them.
    records: HashMap<String, bool>,
    links: Option<Dir>,
    /// Copies of files that the content of one is in.
    copies: HashSet<String>,
    /// Files lie where their headers are not looked at, and may be in a copy.
    set_aside: bool,
    /// Every directory was read, so that what nobody refers to is garbage.
    complete: bool,
    ids: HashMap<DirId, Arc<Spot>>,
    /// Files with several names: how many there are, how many were found.
    linked: HashMap<LowerId, (u64, u64, Arc<Spot>)>,
    /// Policies whose refusal was reported.
    refused: HashSet<PolicyId>,
}

impl<'a> Check<'a> {
    fn new(
        lower: &Path,
        root: Arc<Dir>,
        keys: Option<&'a dyn Keys>,
        options: Options,
        progress: &'a mut dyn FnMut(&Counts) -> bool,
    ) -> FsResult<Check<'a>> {
        let unclean = root.stat_at(names::UNCLEAN).is_ok();
        let links = match root.open_dir(names::LINKS) {
            Ok(links) => Some(links),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        Ok(Check {
            report: Report {
                lower: lower.to_owned(),
                keys: keys.is_some(),
                content: options.content && keys.is_some(),
                repair: options.repair,
                ..Report::default()
            },
            mender: Mender::new(Arc::clone(&root)),
            root,
            keys,
            options,
            progress,
            cancelled: false,
            only: None,
            unclean,
            volume: None,
            policies: HashMap::new(),
            records: HashMap::new(),
            links,
            copies: HashSet::new(),
            set_aside: false,
            complete: true,
            ids: HashMap::new(),
            linked: HashMap::new(),
            refused: HashSet::new(),
        })
    }

    fn record(&mut self, lower: &Path) {
        let spot = Spot::root();
        match RecordFile::in_directory(lower).and_then(|record| record.read()) {
            Ok(record) => {
                self.volume = Some(record.volume);
                self.report.volume = Some(record.volume.to_string());
                let ids = record.policies.iter();
                let ids = ids.map(|entry| ((entry.policy, entry.generation), false));
                self.policies = ids.collect();
            }
            Err(VolumeError::NotAVolume { .. }) => {
                let what = "it is missing".to_owned();
                self.found(Code::VolumeRecord, Severity::Damage, &spot, what);
            }
            Err(error) => self.found(
                Code::VolumeRecord,
                Severity::Damage,
                &spot,
                error.to_string(),
            ),
        }
    }

    fn prepare(&mut self) {
        if self.unclean {
            let spot = Spot::root();
            let what = "leftovers of a crash are reported as notes".to_owned();
            self.found(Code::UncleanMark, Severity::Note, &spot, what);
        }
        self.load_links();
        self.look_at_lost();
    }

    /// Damage, unless a crash may leave it.
    fn unless_unclean(&self) -> Severity {
        if self.unclean {
            Severity::Note
        } else {
            Severity::Damage
        }
    }

    fn found(&mut self, code: Code, severity: Severity, spot: &Spot, detail: impl Into<String>) {
        self.ended(code, severity, spot, detail, Outcome::Left);
    }

    fn ended(
        &mut self,
        code: Code,
        severity: Severity,
        spot: &Spot,
        detail: impl Into<String>,
        outcome: Outcome,
    ) {
        self.report.add(Finding {
            code,
            severity,
            plain_path: spot.plain_path(),
            lower_path: spot.lower_path(),
            detail: detail.into(),
            outcome,
        });
    }

    /// Reports a finding, repaired first by `mend` if that is wanted. Says whether it was.
    fn mended<T>(
        &mut self,
        (code, severity): (Code, Severity),
        spot: &Spot,
        detail: impl Into<String>,
        good: Outcome,
        mend: impl FnOnce(&mut Mender) -> FsResult<T>,
    ) -> Option<T> {
        let mut detail = detail.into();
        if !self.options.repair {
            self.found(code, severity, spot, detail);
            return None;
        }
        let (outcome, done) = match mend(&mut self.mender) {
            Ok(done) => (good, Some(done)),
            Err(errno) => {
                detail.push_str(&format!("; the repair failed: {errno}"));
                (Outcome::Failed, None)
            }
        };
        self.ended(code, severity, spot, detail, outcome);
        done
    }

    /// A finding whose only remedy is `.kmsfs.lost`.
    fn quarantined(
        &mut self,
        code: Code,
        dir: &Dir,
        name: &str,
        spot: &Spot,
        detail: impl Into<String>,
    ) {
        let what = (code, Severity::Damage);
        self.mended(what, spot, detail, Outcome::Quarantined, |mender| {
            mender.quarantine(code, dir, name, spot).map(drop)
        });
    }

    fn locked(&mut self, policy: PolicyId, spot: &Spot, errno: Errno) {
        if self.refused.insert(policy) {
            let why = self
                .keys
                .and_then(|keys| keys.refusal_text(&policy))
                .unwrap_or_else(|| format!("policy {policy}: {errno}"));
            self.found(Code::Locked, Severity::Unchecked, spot, why);
        }
    }

    fn used(&mut self, policy: PolicyId, generation: u32) {
        if let Some(used) = self.policies.get_mut(&(policy, generation)) {
            *used = true;
        }
    }

    fn step(&mut self) {
        self.cancelled |= !(self.progress)(&self.report.counts);
    }

    /// What only the whole tree can tell.
    fn finish(&mut self) {
        let root = Spot::root();
        self.orphan_records();
        self.orphan_copies();
        let elsewhere: Vec<_> = self
            .linked
            .values()
            .filter(|(names, found, _)| found < names)
            .map(|(names, found, spot)| (Arc::clone(spot), format!("{found} of {names} names")))
            .collect();
        for (spot, detail) in elsewhere {
            self.found(Code::HardLink, Severity::Note, &spot, detail);
        }
        if self.complete {
            let unused: Vec<_> = self
                .policies
                .iter()
                .filter(|(_, used)| !**used)
                .map(|((policy, generation), _)| {
                    format!("policy {policy}, generation {generation}")
                })
                .collect();
            for detail in unused {
                self.found(Code::PolicyUnused, Severity::Note, &root, detail);
            }
        }
        let settled = self.complete && self.report.is_clean() && self.keys.is_some();
        if self.options.repair && self.unclean && settled {
            let removed = self
                .root
                .sync_file_system()
                .and_then(|()| self.root.unlink(names::UNCLEAN))
                .and_then(|()| self.root.sync());
            if removed.is_ok()
                && let Some(mark) = self
                    .report
                    .findings
                    .iter_mut()
                    .find(|finding| finding.code == Code::UncleanMark)
            {
                mark.outcome = Outcome::Repaired;
            }
        }
        self.step();
    }

    fn look_at_lost(&mut self) {
        let Ok(lost) = self.root.open_dir(LOST) else {
            return;
        };
        let spot = Spot::below(&Spot::root(), LOST, None);
        match self.sweep(&Arc::new(lost)) {
            Ok(0) => {}
            Ok(count) => {
                let what = format!("{count} objects");
                self.found(Code::LostEntries, Severity::Note, &spot, what);
            }
            Err(errno) => {
                self.complete = false;
                self.found(Code::Unreadable, Severity::Damage, &spot, errno.to_string());
            }
        }
    }
}
