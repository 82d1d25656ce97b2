//! Checking a lower tree while it is mounted.
//!
//! Twice: first while everything goes on, which takes what is just being changed for damage now and then, too. If anything
//! is suspicious changes are held, and only that is looked at again.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::finding::{Code, Counts, Finding, KEPT, Report, Severity};
use super::{Options, Pass, run};
use crate::errno::{Errno, FsResult};
use crate::fs::Fs;
use crate::volume::Keys;

/// How long changes are held at most.
const HELD: Duration = Duration::from_secs(60);

/// Checks the lower tree of a mount. `progress` says whether to go on.
///
/// # Errors
/// `EAGAIN` if looking at what was suspicious took longer than changes are held; `ECANCELED` if it was not to go on; what
/// the lower file system says.
pub(crate) fn check_mounted(
    fs: &Arc<Fs>,
    lower: &Path,
    keys: &dyn Keys,
    content: bool,
    progress: &mut dyn FnMut(&Counts) -> bool,
) -> FsResult<Report> {
    let options = Options {
        repair: false,
        content,
    };
    let mut first = run(lower, Some(keys), options, Pass::Suspecting, progress)?;
    let findings = std::mem::take(&mut first.findings);
    let all = findings.len() >= KEPT;
    let (lasting, suspicious): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .filter(|finding| !is_of_the_moment(finding.code))
        .partition(is_lasting);
    let mut report = Report {
        online: true,
        volume: first.volume,
        lower: first.lower,
        keys: first.keys,
        content: first.content,
        counts: Counts {
            damage: 0,
            ..first.counts
        },
        ..Report::default()
    };
    lasting.into_iter().for_each(|finding| report.add(finding));
    if suspicious.is_empty() {
        return Ok(report);
    }
    let only = (!all).then(|| with_all_above(&suspicious));
    let frozen = match fs.freeze(HELD) {
        Ok(number) => Some(number),
        // Somebody else holds them.
        Err(Errno::BUSY) if fs.frozen_for().is_some() => None,
        Err(errno) => return Err(errno),
    };
    let second = run(lower, Some(keys), options, Pass::Again(only), progress);
    let held = match frozen {
        Some(number) => fs.thaw(Some(number))?,
        None => fs.frozen_for().is_some(),
    };
    let second = second?;
    if !held {
        return Err(Errno::from_raw(libc::EAGAIN));
    }
    let confirmed = second.findings.into_iter();
    confirmed
        .filter(|finding| !is_lasting(finding) && !is_of_the_moment(finding.code))
        .for_each(|finding| report.add(finding));
    Ok(report)
}

/// What only a tree that nobody uses can tell.
fn is_of_the_moment(code: Code) -> bool {
    matches!(
        code,
        Code::UncleanMark
            | Code::HardLink
            | Code::DuplicateId
            | Code::SymlinkOrphan
            | Code::CopyOrphan
    )
}

/// What no running operation looks like.
fn is_lasting(finding: &Finding) -> bool {
    finding.severity == Severity::Unchecked
        || matches!(
            finding.code,
            Code::Foreign
                | Code::Reserved
                | Code::LostEntries
                | Code::XattrForeign
                | Code::OwnMode
                | Code::PolicyUnused
        )
}

/// The lower paths of these, and of the directories they are in.
fn with_all_above(findings: &[Finding]) -> HashSet<String> {
    let mut paths = HashSet::new();
    for finding in findings {
        let mut path = finding.lower_path.as_str();
        while !path.is_empty() && paths.insert(path.to_owned()) {
            path = path.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
    paths
}
