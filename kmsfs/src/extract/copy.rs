//! Content and attributes of one object.

use std::sync::Arc;

use kms_format::{ContentMode, gcm, xattr};
use zeroize::Zeroizing;

use super::Extract;
use super::target::Own;
use crate::backing::xattr::Target as Attributes;
use crate::backing::{Dir, Stat};
use crate::check::spot::{Spot, show};
use crate::check::walk::Place;
use crate::errno::{Errno, FsResult};
use crate::fs::Kind;
use crate::fs::attributes::AttributeKeys;
use crate::fs::content::{self, Fault, OpenFile};

/// Bytes of content handled at once.
const CHUNK: usize = 1 << 20;
/// Bytes compared, and written if they differ, at once.
const BLOCK: usize = 64 * 1024;
/// More damaged places of one file than this are counted, not named.
const NAMED: usize = 100;

impl Extract<'_> {
    pub(super) fn file(
        &mut self,
        dir: &Dir,
        place: &Place,
        spot: &Arc<Spot>,
        (lower, name): (&str, &[u8]),
    ) -> Result<(), String> {
        self.result.counts.files += 1;
        let policy = place.policy.as_ref().ok_or("its policy is not known")?;
        let text = |errno: Errno| errno.to_string();
        let file = dir.open_file(lower, false).map_err(text)?;
        let stat = file.stat().map_err(text)?;
        // The tree may be from the middle of things: sizes as after an unclean stop.
        let open = content::load(file, false, true, policy, self.keys, &self.root);
        let open = open.map_err(|fault| describe(&fault))?;
        let size = open.size();
        let own = self.target.here().map_err(text)?;
        let (out, made) = own.file(name, stat.st_nlink).map_err(text)?;
        let unit = match open.mode() {
            ContentMode::Xts => 4096,
            ContentMode::Gcm => gcm::CONTENT as u64,
        };
        match self.content(&open, size, &out, unit) {
            Ok(bad) if bad.is_empty() => {}
            Ok(bad) if self.options.salvage => {
                let count = bad.len();
                let mut reason = bad.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
                if count > NAMED {
                    reason.push_str(&format!(" and {} more places", count - NAMED));
                }
                self.lost(spot, "content", format!("zeros instead of: {reason}"));
            }
            failed => {
                drop(out);
                if made {
                    own.clear(name).map_err(text)?;
                }
                return Err(match failed {
                    Ok(bad) => format!(
                        "{}; with --salvage the rest of it is written",
                        bad.first().map_or("", String::as_str)
                    ),
                    Err(errno) => errno.to_string(),
                });
            }
        }
        let keys = AttributeKeys::of_file(&open);
        let keys = keys.map_err(|error| error.to_string())?;
        let losses = dress(&Attributes::File(open.lower()), &stat, keys.as_ref(), &out);
        self.attributes_lost(spot, losses);
        Ok(())
    }

    /// Makes the content of `out` that of `open`, writing only what differs. Gives the places that cannot be read, which
    /// are zeros then; without salvage it stops at the first.
    fn content(
        &mut self,
        open: &OpenFile,
        size: u64,
        out: &Own,
        unit: u64,
    ) -> FsResult<Vec<String>> {
        if out.size()? > size {
            out.set_size(size)?;
        }
        let mut bad = Vec::new();
        let mut buffer = Zeroizing::new(vec![0; CHUNK]);
        // A whole number of units, so that a damaged one is not read twice.
        let chunk = CHUNK - CHUNK % usize::try_from(unit).unwrap_or(CHUNK);
        let mut at = 0;
        while at < size {
            let data = match open.seek_data(at) {
                Ok(data) => data.min(size),
                Err(Fault::NoData | Fault::Lower(Errno::NXIO)) => size,
                Err(fault) => {
                    bad.push(format!("bytes {at} and on ({})", describe(&fault)));
                    size
                }
            };
            self.zeros(out, at, data)?;
            if data >= size {
                break;
            }
            // Up to the next border of a chunk.
            let border = data - data % chunk as u64 + chunk as u64;
            let hole = open.seek_hole(data).unwrap_or(size).max(data + 1);
            let end = border.min(size).min(hole);
            at = data;
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(chunk).min(chunk);
                let part = buffer.get_mut(..want).unwrap_or_default();
                match open.read(at, part) {
                    Ok(0) => return Err(Errno::IO),
                    Ok(got) => {
                        self.same(out, part.get(..got).unwrap_or_default(), at)?;
                        at += got as u64;
                    }
                    Err(_) if want as u64 > unit - at % unit => {
                        at = self.piecewise(open, out, (at, end), unit, &mut bad)?;
                    }
                    Err(fault) => {
                        bad.push(format!("bytes {at} to {end} ({})", describe(&fault)));
                        self.zeros(out, at, end)?;
                        at = end;
                    }
                }
                if !bad.is_empty() && !self.options.salvage {
                    return Ok(bad);
                }
            }
            (self.progress)(&self.result.counts);
        }
        out.set_size(size)?;
        Ok(bad)
    }

    /// Unit by unit where a larger piece cannot be read. Gives where it ended.
    fn piecewise(
        &mut self,
        open: &OpenFile,
        out: &Own,
        (start, end): (u64, u64),
        unit: u64,
        bad: &mut Vec<String>,
    ) -> FsResult<u64> {
        let mut buffer = Zeroizing::new([0; 4096]);
        let mut at = start;
        while at < end {
            let next = (at - at % unit + unit).min(end);
            let want = usize::try_from(next - at).unwrap_or(0);
            let part = buffer.get_mut(..want).unwrap_or_default();
            match open.read(at, part) {
                Ok(got) if got == want => self.same(out, part, at)?,
                read => {
                    let why = read.map_or_else(|fault| describe(&fault), |_| "cut".to_owned());
                    bad.push(format!("bytes {at} to {next} ({why})"));
                    self.zeros(out, at, next)?;
                    if !self.options.salvage {
                        return Ok(end);
                    }
                }
            }
            at = next;
        }
        Ok(end)
    }

    /// Writes bytes, unless they are there.
    fn same(&mut self, out: &Own, bytes: &[u8], at: u64) -> FsResult<()> {
        self.result.counts.bytes += bytes.len() as u64;
        let mut there = Zeroizing::new(vec![0; BLOCK]);
        let mut at = at;
        for block in bytes.chunks(BLOCK) {
            there.fill(0);
            let there = there.get_mut(..block.len()).unwrap_or_default();
            // Behind the end there are zeros, too, once the size is set.
            out.read_at(there, at)?;
            if there != block {
                self.result.written += block.len() as u64;
                out.write_at(block, at)?;
            }
            at += block.len() as u64;
        }
        Ok(())
    }

    /// Makes a range zeros, without taking up space where there is none taken up yet.
    fn zeros(&mut self, out: &Own, start: u64, end: u64) -> FsResult<()> {
        let mut at = start;
        while at < end {
            at = match out.data(at)? {
                Some(data) if data < end => data,
                _ => break,
            };
            let want = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK);
            let mut there = vec![0; want];
            let got = out.read_at(&mut there, at)?;
            if there.iter().any(|byte| *byte != 0) {
                there.fill(0);
                out.write_at(there.get(..got).unwrap_or_default(), at)?;
                self.result.written += got as u64;
            }
            at += want as u64;
        }
        Ok(())
    }
}

fn describe(fault: &Fault) -> String {
    crate::check::describe(fault)
}

/// Attributes of a directory, when everything in it has been written.
pub(super) fn dress_directory(
    dir: &Dir,
    keys: Option<&AttributeKeys>,
    own: &Own,
) -> FsResult<Vec<String>> {
    let stat = dir.stat()?;
    Ok(dress(&Attributes::Dir(dir), &stat, keys, own))
}

/// Owner, extended attributes, mode and times, in this order: each may change the ones before. Gives what did not work.
fn dress(
    from: &Attributes<'_>,
    stat: &Stat,
    keys: Option<&AttributeKeys>,
    own: &Own,
) -> Vec<String> {
    let mut losses = Vec::new();
    let mut note = |what: &str, done: FsResult<()>| {
        if let Err(errno) = done {
            losses.push(format!("{what}: {errno}"));
        }
    };
    if is_root() {
        note("owner", own.set_owner(stat));
    }
    let names = match from.list() {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(errno) => {
            note("extended attributes", Err(errno));
            Vec::new()
        }
    };
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let value = match from.get(name) {
            Ok(value) => value,
            Err(errno) => {
                note(&show(name), Err(errno));
                continue;
            }
        };
        if !xattr::is_encrypted(name) {
            note(&show(name), own.set_xattr(name, &value));
            continue;
        }
        let Some(keys) = keys.filter(|_| name.starts_with(xattr::PREFIX.as_bytes())) else {
            continue;
        };
        match keys.open(name, &value) {
            Ok(_) if keys.is_stale(from, name).unwrap_or(false) => {}
            Ok((plain, value)) => note(&show(&plain), own.set_xattr(&plain, &value)),
            Err(error) => {
                note(&format!("{}: {error}", show(name)), Err(Errno::IO));
            }
        }
    }
    note("mode", own.set_mode(stat));
    note("times", own.set_times(stat));
    losses
}

/// The same for what cannot be opened.
pub(super) fn dress_at(dir: &Dir, lower: &str, stat: &Stat, own: &Own, name: &[u8]) -> Vec<String> {
    let mut losses = Vec::new();
    let mut note = |what: &str, done: FsResult<()>| {
        if let Err(errno) = done {
            losses.push(format!("{what}: {errno}"));
        }
    };
    if is_root() {
        note("owner", own.set_owner_at(name, stat));
    }
    let others = Attributes::Named(dir, lower).list().unwrap_or_default();
    for other in others
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        // Security labels and the like; there is no call to set them where one does not open the object.
        note(&show(other), Err(Errno::OPNOTSUPP));
    }
    if Kind::from_mode(stat.st_mode) != Some(Kind::Symlink) {
        note("mode", own.set_mode_at(name, stat));
    }
    note("times", own.set_times_at(name, stat));
    losses
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
