//! Copies of files that get another content mode, and files whose content is in one.

use std::sync::Arc;

use kms_format::FileHeader;
use kms_format::names::{self, LowerName};

use super::Check;
use super::file::At;
use super::finding::{Code, Outcome, Severity};
use super::spot::Spot;
use crate::backing::LowerFile;
use crate::errno::{Errno, FsResult};
use crate::fs::copies;

impl Check<'_> {
    /// A file whose content is in its copy. False if that cannot be had.
    pub(super) fn in_copy(&mut self, at: &At<'_>, file: &LowerFile, header: &FileHeader) -> bool {
        let number = header.copy().unwrap_or_default();
        let name = names::copy(header.id(), number);
        self.copies.insert(name.clone());
        let place = format!("{}/{name}", names::COPIES);
        let copy = match copies::open(&self.root, header.id(), number) {
            Ok(Some(copy)) => copy,
            Ok(None) => {
                self.found(Code::CopyMissing, Severity::Damage, at.spot, place);
                return false;
            }
            Err(errno) => {
                let detail = format!("{place}: {errno}");
                self.found(Code::Unreadable, Severity::Damage, at.spot, detail);
                return false;
            }
        };
        if let Err(error) = copies::check(file, &copy) {
            let detail = format!("{place}: {error}");
            self.found(Code::CopyMissing, Severity::Damage, at.spot, detail);
            return false;
        }
        let what = (Code::InCopy, Severity::Note);
        let root = Arc::clone(&self.root);
        self.mended(what, at.spot, place, Outcome::Repaired, |_| {
            copies::put_in_place(file, &copy)?;
            root.open_dir(names::COPIES)?.unlink(&name)
        });
        true
    }

    /// Copies that nothing is in. Only the whole tree tells.
    pub(super) fn orphan_copies(&mut self) {
        if !self.complete {
            return;
        }
        let copies = match self.root.open_dir(names::COPIES) {
            Ok(copies) => copies,
            Err(Errno::NOENT) => return,
            Err(errno) => {
                let spot = Spot::below(&Spot::root(), names::COPIES, None);
                let detail = errno.to_string();
                return self.found(Code::Unreadable, Severity::Damage, &spot, detail);
            }
        };
        let listed = (|| {
            let mut found = Vec::new();
            let mut listing = copies.list()?;
            while let Some(entry) = listing.peek()? {
                if entry.name != b"." && entry.name != b".." {
                    found.push(String::from_utf8_lossy(&entry.name).into_owned());
                }
                listing.advance();
            }
            FsResult::Ok(found)
        })();
        // A file whose header cannot be read may be in any of them.
        let findings = self.report.findings.iter();
        let mut severities = findings.map(|finding| finding.severity);
        let in_doubt = self.set_aside || severities.any(|one| one == Severity::Damage);
        let below = Spot::below(&Spot::root(), names::COPIES, None);
        for name in listed.unwrap_or_default() {
            if self.copies.contains(&name) {
                continue;
            }
            let spot = Spot::below(&below, &name, None);
            let unfinished = names::classify(name.as_bytes()) == LowerName::Temporary;
            if !unfinished && !names::is_copy(&name) {
                self.found(Code::Foreign, Severity::Note, &spot, "in .kmsfs.copies");
                continue;
            }
            let what = (Code::CopyOrphan, Severity::Note);
            if in_doubt && !unfinished {
                let why = "kept: a file that is damaged or set aside may need it";
                self.found(what.0, what.1, &spot, why);
                continue;
            }
            self.mended(what, &spot, "no file needs it", Outcome::Repaired, |_| {
                copies.unlink(&name)
            });
        }
    }
}
