//! Regular files: header, size, attributes and, if wanted, content.

use std::sync::Arc;

use kms_format::file::{self, Settled};
use kms_format::{ContentMode, FileHeader, FormatError, Record};

use super::Check;
use super::finding::{Code, Outcome, Severity};
use super::spot::Spot;
use super::walk::Place;
use crate::backing::xattr::Target;
use crate::backing::{Dir, LowerFile, LowerId, Stat};
use crate::errno::{Errno, FsResult};
use crate::fs::attributes::AttributeKeys;
use crate::fs::content::{self, Fault, OpenFile};
use crate::fs::xattr::{drop_unreadable, encrypted};

/// Bytes of content read at once.
const CHUNK: usize = 1 << 20;

/// A file, and where it is.
pub(super) struct At<'a> {
    dir: &'a Dir,
    name: &'a str,
    pub(super) spot: &'a Arc<Spot>,
}

impl Check<'_> {
    pub(super) fn file(
        &mut self,
        dir: &Dir,
        place: &Place,
        spot: &Arc<Spot>,
        name: &str,
        stat: &Stat,
    ) {
        let names = stat.st_nlink;
        if names > 1 {
            let entry = self
                .linked
                .entry(LowerId::of(stat))
                .or_insert_with(|| (names, 0, Arc::clone(spot)));
            entry.1 += 1;
            if entry.1 > 1 {
                return;
            }
        }
        self.report.counts.files += 1;
        let at = At { dir, name, spot };
        let opened = dir.open_file(name, self.options.repair && place.policy.is_some());
        let opened = opened.and_then(|file| {
            let size = file.stat()?.st_size.cast_unsigned();
            let mut page = [0; file::PAGE];
            let got = if size == 0 {
                0
            } else {
                file.read_at(&mut page, 0)?
            };
            Ok((file, size, page, got))
        });
        let (file, size, page, got) = match opened {
            Ok(opened) => opened,
            Err(errno) => return self.unreadable(spot, errno),
        };
        if size == 0 {
            // One that was made in mode xts, and not written to, has no header either.
            let mixed = |policy| {
                let keys = self.keys.as_ref();
                keys.is_some_and(|keys| keys.of_other_mode(policy).is_some())
            };
            let gcm = matches!(&place.policy, Some(policy) if policy.mode() == ContentMode::Gcm && !mixed(policy));
            if gcm && !self.unclean {
                let what = "the lower file is empty: it was cut".to_owned();
                return self.quarantined(Code::SizeDamaged, dir, name, spot, what);
            }
            let stale = || encrypted(&Target::File(&file)).is_ok_and(|names| !names.is_empty());
            if gcm || self.unclean && stale() {
                // Without the mark it would be damage.
                return self.blank(&at, place, file, size);
            }
            // A new file of mode xts has no header before the first write to it.
            self.xattrs(&Target::File(&file), None, spot);
            return;
        }
        if got < file::PAGE {
            let what = format!("the lower file has {size} bytes, less than a header page");
            return self.quarantined(Code::SizeDamaged, dir, name, spot, what);
        }
        match FileHeader::decode(&page) {
            Err(FormatError::Blank { .. }) => self.blank(&at, place, file, size),
            Err(error) => {
                self.quarantined(Code::FileDamaged, dir, name, spot, error.to_string());
            }
            Ok(header) => match &place.policy {
                Some(_) => self.keyed(&at, place, file, &header, size, page),
                None if header.copy().is_some() => {
                    self.in_copy(&at, &file, &header);
                }
                None => self.settled(&at, header.settle(size), |_| Err(Errno::NOKEY)),
            },
        }
    }

    fn unreadable(&mut self, spot: &Spot, errno: Errno) {
        self.found(Code::Unreadable, Severity::Damage, spot, errno.to_string());
    }

    /// A page of zeros where the header should be, or nothing in a file of mode gcm.
    fn blank(&mut self, at: &At<'_>, place: &Place, file: LowerFile, size: u64) {
        let detail = format!("the lower size is {size}");
        if !self.unclean {
            return self.quarantined(Code::HeaderBlank, at.dir, at.name, at.spot, detail);
        }
        let what = (Code::HeaderBlank, Severity::Note);
        let (keys, root) = (self.keys, Arc::clone(&self.root));
        self.mended(what, at.spot, detail, Outcome::Repaired, |_| {
            if drop_unreadable(&Target::File(&file))? {
                file.sync()?;
            }
            let (Some(policy), Some(keys)) = (&place.policy, keys) else {
                file.truncate(0)?;
                return file.sync();
            };
            let mut open = content::load(file, true, true, policy, keys, &root).map_err(errno)?;
            open.settle().map_err(errno)?;
            open.lower().sync()
        });
    }

    /// Reports what comparing sizes gave, and has it repaired. Says so if the file is lost.
    fn settled(
        &mut self,
        at: &At<'_>,
        settled: Result<Settled, FormatError>,
        mend: impl FnOnce(u64) -> FsResult<()>,
    ) {
        match settled {
            Ok(Settled::Clean(_)) => {}
            Ok(Settled::Repair { size, lower, .. }) => {
                let detail = format!("the size is {size}, so the lower size should be {lower}");
                let what = (Code::Size, self.unless_unclean());
                self.mended(what, at.spot, detail, Outcome::Repaired, |_| mend(size));
            }
            Ok(Settled::Look { size }) => {
                let detail = format!(
                    "the size is {size}, or less if the last unit was not yet whole when it was stopped"
                );
                let what = (Code::Size, self.unless_unclean());
                self.mended(what, at.spot, detail, Outcome::Repaired, |_| mend(size));
            }
            Err(error) => {
                let detail = error.to_string();
                self.quarantined(Code::SizeDamaged, at.dir, at.name, at.spot, detail);
            }
        }
    }

    fn keyed(
        &mut self,
        at: &At<'_>,
        place: &Place,
        file: LowerFile,
        header: &FileHeader,
        size: u64,
        mut page: [u8; file::PAGE],
    ) {
        let (Some(policy), Some(keys)) = (&place.policy, self.keys) else {
            return;
        };
        for wrap in header.wraps() {
            self.used(wrap.policy, wrap.generation);
        }
        let spot = at.spot;
        if header.copy().is_some() && !self.in_copy(at, &file, header) {
            return;
        }
        // In mode xts a size that does not fit is never tampering, and always repaired.
        let unclean = self.unclean || header.mode() == ContentMode::Xts;
        let loaded = content::load(file, self.options.repair, unclean, policy, keys, &self.root);
        let mut open = match loaded {
            Ok(open) => open,
            Err(Fault::Lower(errno)) if is_refusal(errno) => {
                return self.locked(policy.policy(), spot, errno);
            }
            Err(Fault::Lower(errno)) => return self.unreadable(spot, errno),
            Err(Fault::Damage(error)) => {
                let code = match &error {
                    FormatError::ForeignPolicy {
                        record: Record::FileSlot,
                        ..
                    } => Code::FileForeign,
                    FormatError::Size(_) | FormatError::Length { .. } => Code::SizeDamaged,
                    _ => Code::FileDamaged,
                };
                return self.quarantined(code, at.dir, at.name, spot, error.to_string());
            }
            Err(fault) => {
                let code = Code::SizeDamaged;
                return self.quarantined(code, at.dir, at.name, spot, fault.to_string());
            }
        };
        if header.copy().is_some() {
            return self.readable(spot, &open);
        }
        if header.has_unusable_slot() {
            let lower = Arc::clone(open.lower());
            let what = (Code::Slot, Severity::Note);
            let detail = "the file opens with the other slot";
            self.mended(what, spot, detail, Outcome::Repaired, |_| {
                header.write_slots(&mut page)?;
                lower.write_at(&page, 0)?;
                lower.sync()
            });
        }
        let settled = header.settle(size);
        let lost = settled.is_err();
        self.settled(at, settled, |_| {
            open.settle().map_err(errno)?;
            open.lower().sync()
        });
        if lost {
            return;
        }
        if open.reencrypting() {
            self.found(Code::Halfway, Severity::Note, spot, "it has two keys");
        }
        self.readable(spot, &open);
    }

    /// Attributes and, if wanted, content.
    fn readable(&mut self, spot: &Arc<Spot>, open: &OpenFile) {
        match AttributeKeys::of_file(open) {
            Ok(keys) => self.xattrs(&Target::File(open.lower()), keys.as_ref(), spot),
            Err(error) => self.found(Code::Unreadable, Severity::Damage, spot, error.to_string()),
        }
        if self.options.content {
            self.content(spot, open);
        }
    }

    /// Reads all content, but not the holes.
    fn content(&mut self, spot: &Spot, open: &OpenFile) {
        let mut buffer = zeroize::Zeroizing::new(vec![0; CHUNK]);
        let mut at = 0;
        let mut bad = Vec::new();
        while at < open.size() && !self.cancelled {
            at = match open.seek_data(at) {
                Ok(data) => data,
                Err(Fault::NoData | Fault::Lower(Errno::NXIO)) => break,
                Err(fault) => {
                    bad.push(format!("at {at}: {}", describe(&fault)));
                    break;
                }
            };
            match open.read(at, &mut buffer) {
                Ok(0) => break,
                Ok(got) => {
                    at += got as u64;
                    self.report.counts.bytes += got as u64;
                    self.step();
                }
                Err(fault) => {
                    bad.push(format!("at {at}: {}", describe(&fault)));
                    at += CHUNK as u64;
                }
            }
        }
        if !bad.is_empty() {
            self.found(Code::Content, Severity::Damage, spot, bad.join(", "));
        }
    }
}

pub(crate) fn describe(fault: &Fault) -> String {
    match fault {
        Fault::Lower(errno) => errno.to_string(),
        fault => fault.to_string(),
    }
}

/// Whether kmsd does not give out a key.
pub(crate) fn is_refusal(errno: Errno) -> bool {
    errno == Errno::NOKEY || errno == Errno::from_raw(libc::ETIMEDOUT)
}

/// Why a repair failed.
fn errno(fault: Fault) -> Errno {
    match fault {
        Fault::Lower(errno) => errno,
        Fault::Damage(error) => Errno::from(&error),
        _ => Errno::INVAL,
    }
}
