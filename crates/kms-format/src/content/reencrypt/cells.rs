//! Units of mode xts.

use super::{Fault, Faulty, File, Lower, NONE};
use crate::bytes::is_zero;
use crate::file::Digest;
use crate::{FormatError, size, xts};

const UNIT: u64 = xts::UNIT as u64;

impl<L: Lower> File<L> {
    /// The cipher for the byte at a plain offset, and where the next one begins that may be under another key.
    pub(in super::super) fn cipher_at(
        &self,
        offset: u64,
    ) -> Faulty<(&xts::Content, u64), L::Error> {
        let Some((border, former)) = self.border() else {
            return Ok((self.cipher()?, u64::MAX));
        };
        let unit = offset / UNIT;
        if unit < border {
            return Ok((self.cipher()?, border * UNIT));
        }
        let old = former.cells.as_ref().ok_or(NONE)?;
        match former.window.get(small(unit - border)) {
            None => Ok((old, u64::MAX)),
            Some(digest) => {
                let cells = self.cells_of(unit, 1)?;
                let new = digest_of(&cells) == *digest;
                let cipher = if new { self.cipher()? } else { old };
                Ok((cipher, (unit + 1) * UNIT))
            }
        }
    }

    /// The plain offset at which the key changes, when no window is open.
    pub(in super::super) fn border_of_cells(&self) -> u64 {
        self.border()
            .map_or(u64::MAX, |(border, _)| border.saturating_mul(UNIT))
    }

    /// Does the next units that are not holes. Gives the bytes written.
    pub(super) fn step_cells(&mut self, units: usize) -> Faulty<u64, L::Error> {
        if self.window_is_open() {
            self.finish_window()?;
        }
        let from = self.reencrypted()?;
        let end = self.size.div_ceil(UNIT);
        let data = self.lower.seek_data(size::HEADER + from * UNIT);
        let data = data.map_err(Fault::Lower)?;
        let data = data.map_or(end, |at| at.saturating_sub(size::HEADER) / UNIT);
        // A file may have been cut below the watermark.
        let data = data.clamp(from, end.max(from));
        if data > from {
            // Units that are holes are under either key, once they are so for good.
            self.sync_lower()?;
            self.sealed()?.0.set_reencrypted(data)?;
            self.owe();
        }
        if data >= end {
            return Ok(0);
        }
        let count = units.min(small(end - data));
        let mut cells = self.cells_of(data, count)?;
        let old = self.border().and_then(|(_, former)| former.cells.as_ref());
        turn(old.ok_or(NONE)?, self.cipher()?, data, &mut cells)?;
        let window = cells.chunks(xts::UNIT).map(digest_of).collect();
        self.open_window(window)?;
        self.write_units_anew(data, &cells)?;
        self.close_window()?;
        Ok(cells.len() as u64)
    }

    /// Finishes units that were being written anew when somebody was stopped.
    pub(super) fn finish_window(&mut self) -> Faulty<(), L::Error> {
        // The header that has the digests may not be durable.
        self.publish()?;
        let (border, former) = self.border().ok_or(NONE)?;
        let window = former.window.clone();
        let mut cells = self.cells_of(border, window.len())?;
        let old = former.cells.as_ref().ok_or(NONE)?;
        let new = self.cipher()?;
        for ((unit, cells), digest) in (border..).zip(cells.chunks_mut(xts::UNIT)).zip(&window) {
            if digest_of(cells) != *digest {
                turn(old, new, unit, cells)?;
            }
        }
        self.write_units_anew(border, &cells)?;
        self.close_window()
    }

    /// Units from the watermark on are about to be written anew: says so, durably. What they were before is durable, too,
    /// then.
    fn open_window(&mut self, window: Vec<Digest>) -> Faulty<(), L::Error> {
        if let Some(former) = &mut self.former {
            former.window = window;
        }
        let written = self.write_header().and_then(|()| self.sync_lower());
        if written.is_err()
            && let Some(former) = &mut self.former
        {
            // It may be there: no unit is as it says.
            former.window.clear();
            former.owed = true;
        }
        if written.is_ok() {
            self.published();
        }
        written
    }

    /// The units of the window are durable.
    fn close_window(&mut self) -> Faulty<(), L::Error> {
        let border = self.reencrypted()?;
        let former = self.former.as_mut().ok_or(NONE)?;
        let count = former.window.len() as u64;
        former.window.clear();
        former.owed = true;
        self.sealed()?.0.set_reencrypted(border + count)?;
        // For whoever is killed; the next step makes it durable.
        self.write_header()
    }

    /// Writes new cells where there are any; holes stay.
    fn write_units_anew(&self, first: u64, cells: &[u8]) -> Faulty<(), L::Error> {
        let mut at = size::HEADER + first * UNIT;
        for run in cells
            .chunks(xts::UNIT)
            .collect::<Vec<_>>()
            .chunk_by(|a, b| is_zero(a) == is_zero(b))
        {
            let length: usize = run.iter().map(|unit| unit.len()).sum();
            if run.first().is_some_and(|unit| !is_zero(unit)) {
                let start = small(at - size::HEADER - first * UNIT);
                let bytes = cells.get(start..start + length).unwrap_or_default();
                self.write_lower(bytes, at)?;
            }
            at += length as u64;
        }
        self.sync_lower()
    }

    /// The lower cells of some units; zeros where the lower file is shorter.
    fn cells_of(&self, first: u64, count: usize) -> Faulty<Vec<u8>, L::Error> {
        let cells = self.size.next_multiple_of(xts::CELL as u64);
        let length = cells.saturating_sub(first * UNIT);
        let mut bytes = vec![0; small(length).min(count * xts::UNIT)];
        let got = self.lower.read_at(&mut bytes, size::HEADER + first * UNIT);
        if let Some(missing) = bytes.get_mut(got.map_err(Fault::Lower)?..) {
            missing.fill(0);
        }
        Ok(bytes)
    }
}

/// From one key to the other; what is a hole stays one.
fn turn(
    old: &xts::Content,
    new: &xts::Content,
    first: u64,
    cells: &mut [u8],
) -> Result<(), FormatError> {
    let holes: Vec<bool> = cells.chunks(xts::CELL).map(is_zero).collect();
    old.decrypt_units(first, cells)?;
    new.encrypt_units(first, cells)?;
    for (cell, hole) in cells.chunks_mut(xts::CELL).zip(holes) {
        if hole {
            cell.fill(0);
        }
    }
    Ok(())
}

fn digest_of(cells: &[u8]) -> Digest {
    let mut digest = Digest::default();
    let hash = kms_crypto::sha256(&[cells]);
    digest
        .iter_mut()
        .zip(hash)
        .for_each(|(to, from)| *to = from);
    digest
}

fn small(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
