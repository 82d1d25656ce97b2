//! What files contain, and what a crash may make of it.
//!
//! Every cell of 16 bytes says which write it is from and where it belongs, so that bytes of another file
//! or place are recognised wherever they turn up.

use crate::ledger::{Entry, Object, Op, Reach};
use crate::rig::Mode;

const MAGIC: [u8; 4] = *b"\xc5Kms";
const CELL: usize = 16;
/// Content up to this size is in the header page, sealed as a whole.
pub(crate) const INLINE_MAX: usize = 3712;

/// The bytes that the write `tag` puts at `offset`.
pub(crate) fn bytes(tag: u32, offset: usize, length: usize) -> Vec<u8> {
    let first = offset / CELL;
    let cells = (first..(offset + length).div_ceil(CELL)).flat_map(|number| cell(tag, number));
    cells.skip(offset - first * CELL).take(length).collect()
}

fn cell(tag: u32, number: usize) -> [u8; CELL] {
    let number = number as u32;
    let check = (tag ^ number.rotate_left(16)).wrapping_mul(0x9e37_79b1);
    let mut cell = [0; CELL];
    cell[..4].copy_from_slice(&MAGIC);
    cell[4..8].copy_from_slice(&tag.to_le_bytes());
    cell[8..12].copy_from_slice(&number.to_le_bytes());
    cell[12..].copy_from_slice(&check.to_le_bytes());
    cell
}

/// What a file held since its last fsync, that included: the first version is owed, any of the others may
/// have reached the disk in parts.
pub(crate) struct History {
    versions: Vec<Vec<u8>>,
    /// All versions since the first were sealed in the header page.
    inline: bool,
    /// Ranges that became holes since the first version: that takes several steps, each of whole cells.
    punched: Vec<(usize, usize)>,
}

impl History {
    /// Replays what a worker did to one file. Only an fsync that had returned counts.
    pub(crate) fn of(object: Object, entries: &[Entry], reach: Reach) -> History {
        let mut now: Vec<u8> = Vec::new();
        let mut units = false;
        let mut history = History {
            versions: vec![Vec::new()],
            inline: true,
            punched: Vec::new(),
        };
        for (index, entry) in entries.iter().enumerate() {
            match &entry.op {
                Op::Write {
                    object: of,
                    offset,
                    length,
                    tag,
                } if *of == object => {
                    let end = offset + length;
                    now.resize(now.len().max(end), 0);
                    now[*offset..end].copy_from_slice(&bytes(*tag, *offset, *length));
                }
                Op::Resize { object: of, size } if *of == object => now.resize(*size, 0),
                Op::Punch {
                    object: of,
                    offset,
                    length,
                } if *of == object => {
                    let end = (offset + length).min(now.len());
                    if let Some(hole) = now.get_mut(*offset..end) {
                        hole.fill(0);
                    }
                    history.punched.push((*offset, offset + length));
                }
                Op::SyncAll => {
                    history.versions.clear();
                    history.inline = true;
                    history.punched.clear();
                }
                Op::SyncFile { object: of, .. } if *of == object && index < reach.returned => {
                    history.versions.clear();
                    history.inline = true;
                    history.punched.clear();
                }
                _ => continue,
            }
            units = (units && !now.is_empty()) || now.len() > INLINE_MAX;
            history.inline &= !units;
            history.versions.push(now.clone());
        }
        history
    }

    /// Whether `found` is what may be there.
    pub(crate) fn check(&self, found: &[u8], mode: Mode) -> Result<(), String> {
        let unit = mode.unit();
        let sizes = self.versions.iter().map(Vec::len);
        let (least, most) = (sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0));
        if self.versions.len() == 1 || self.inline {
            if self.versions.iter().any(|version| version == found) {
                return Ok(());
            }
            return Err(format!(
                "{} bytes, which are none of {} versions of {least} to {most} bytes; the first: {}",
                found.len(),
                self.versions.len(),
                differs(&self.versions[0], found),
            ));
        }
        // In mode xts an unfinished change of the size may end with the last cell, whose rest is zeros.
        let cells = |version: &Vec<u8>| found.len() == version.len().next_multiple_of(CELL);
        let whole_cells = mode == Mode::Xts && self.versions.iter().any(cells);
        if !whole_cells && !(least..=most).contains(&found.len()) {
            return Err(format!(
                "{} bytes, but every version had {least} to {most}",
                found.len()
            ));
        }
        for (number, page) in found.chunks(unit).enumerate() {
            let start = number * unit;
            let whole = self
                .versions
                .iter()
                .any(|version| same(version, start, page));
            if whole {
                continue;
            }
            // The size changed within this page, it was punched, or never synced: parts of it may be old.
            let end = start + unit;
            let inside = |place: usize| place > start && place < end;
            let edge = self.versions.iter().any(|version| inside(version.len()));
            let punched = self
                .punched
                .iter()
                .any(|(from, to)| *from < end && *to > start);
            if !edge && !punched && start + page.len() <= least {
                return Err(format!(
                    "the page at {start} is none of {} versions as a whole; the first: {}",
                    self.versions.len(),
                    differs(&self.versions[0], found)
                ));
            }
            for (inner, cell) in page.chunks(CELL).enumerate() {
                self.check_cell(start + inner * CELL, cell, least, mode)?;
            }
        }
        Ok(())
    }

    fn check_cell(
        &self,
        start: usize,
        found: &[u8],
        least: usize,
        mode: Mode,
    ) -> Result<(), String> {
        let end = start + found.len();
        if self
            .versions
            .iter()
            .any(|version| same(version, start, found))
        {
            return Ok(());
        }
        // What was synced lies below `least`; behind it zeros are as good as any version.
        let owed = least.clamp(start, end) - start;
        let (synced, rest) = found.split_at(owed);
        let synced_ok = synced.is_empty()
            || self
                .versions
                .iter()
                .any(|version| same(version, start, synced));
        let zeros = rest.iter().all(|byte| *byte == 0);
        // In mode xts a cell in which some version ended is undefined behind that, and so is the next.
        let edge = mode == Mode::Xts
            && self.versions.iter().any(|version| {
                let rest = version.len() % CELL;
                rest != 0 && (start + rest == version.len() || start == version.len() - rest + CELL)
            });
        let foreign = found.starts_with(&MAGIC);
        if synced_ok && (zeros || edge && !foreign) {
            return Ok(());
        }
        Err(format!(
            "the cell at {start} is none of {} versions, synced below {least}: {found:02x?}",
            self.versions.len()
        ))
    }
}

/// Whether a version holds `found` at `start`, with zeros behind its end.
fn same(version: &[u8], start: usize, found: &[u8]) -> bool {
    let there = version.get(start..).unwrap_or_default();
    let common = there.len().min(found.len());
    there[..common] == found[..common] && found[common..].iter().all(|byte| *byte == 0)
}

fn differs(expected: &[u8], found: &[u8]) -> String {
    let place = expected.iter().zip(found).position(|(a, b)| a != b);
    format!(
        "{} bytes, differs first at {place:?} ({:02x?} expected, {:02x?} found)",
        expected.len(),
        place.map(|place| &expected[place..(place + CELL).min(expected.len())]),
        place.map(|place| &found[place..(place + CELL).min(found.len())]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(ops: Vec<Op>, returned: usize) -> History {
        let entries: Vec<_> = ops.into_iter().map(|op| Entry { op, ino: 0 }).collect();
        let begun = entries.len();
        History::of(1, &entries, Reach { returned, begun })
    }

    fn write(offset: usize, length: usize, tag: u32) -> Op {
        Op::Write {
            object: 1,
            offset,
            length,
            tag,
        }
    }

    const SYNC: Op = Op::SyncFile {
        object: 1,
        data_only: false,
    };

    #[test]
    fn synced_content_is_owed_exactly() {
        let synced = history(vec![write(0, 5_000, 7), SYNC], 2);
        let right = bytes(7, 0, 5_000);
        synced.check(&right, Mode::Xts).unwrap();
        let mut zeroed = right.clone();
        zeroed[4096..].fill(0);
        for wrong in [&right[..4_999], &zeroed, &[][..]] {
            synced.check(wrong, Mode::Xts).unwrap_err();
        }
        // An fsync that had not returned promises nothing.
        let unsynced = history(vec![write(0, 5_000, 7), SYNC], 1);
        for allowed in [&right, &zeroed, &Vec::new()] {
            unsynced.check(allowed, Mode::Xts).unwrap();
        }
        unsynced.check(&bytes(8, 0, 5_000), Mode::Xts).unwrap_err();
    }

    #[test]
    fn overwritten_pages_are_old_or_new() {
        let history = history(vec![write(0, 12_288, 1), SYNC, write(0, 12_288, 2)], 3);
        let mut mixed = bytes(1, 0, 12_288);
        mixed[4096..8192].copy_from_slice(&bytes(2, 4096, 4096));
        history.check(&mixed, Mode::Xts).unwrap();
        mixed[5000..5016].copy_from_slice(&bytes(1, 5000, 16));
        history.check(&mixed, Mode::Xts).unwrap_err();
    }

    #[test]
    fn small_files_are_old_or_new_as_a_whole() {
        let history = history(vec![write(0, 100, 1), SYNC, write(50, 100, 2)], 3);
        let old = bytes(1, 0, 100);
        let new = [bytes(1, 0, 50), bytes(2, 50, 100)].concat();
        history.check(&old, Mode::Xts).unwrap();
        history.check(&new, Mode::Xts).unwrap();
        history.check(&new[..120], Mode::Xts).unwrap_err();
    }
}
