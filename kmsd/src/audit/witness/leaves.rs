//! What a consistency proof needs of the log: leaf hashes of its lines, read from the files.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use kms_core::audit::tree::{Edge, Hash, leaf_hash};
use kms_core::audit::{MAX_LINE, split};

use super::super::files;

/// Reads on from where it was, mostly: checkpoints follow each other.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    /// Number of a record, and the place in a file where it begins.
    place: Option<(u64, PathBuf, u64)>,
}

impl Leaves {
    /// Hands `visit` the hashes of the records `from..to`.
    ///
    /// # Errors
    /// One of them is not there; the text says so.
    pub(super) fn read(
        &mut self,
        directory: &Path,
        from: u64,
        to: u64,
        mut visit: impl FnMut(Hash),
    ) -> Result<(), String> {
        let files = files::list(directory).map_err(|error| error.to_string())?;
        let mut next = from;
        while next < to {
            let file = files
                .iter()
                .rev()
                .find(|file| file.first <= next)
                .ok_or_else(|| format!("record {next} is in no file of the log any more"))?;
            // Where reading went on last time, if that is in this file and not too far.
            let (mut seq, offset) = match &self.place {
                Some((seq, path, offset)) if *path == file.path && *seq <= next => (*seq, *offset),
                _ => (file.first, 0),
            };
            let before = next;
            let io = |error: std::io::Error| format!("{}: {error}", file.path.display());
            let mut reader = File::open(&file.path).map_err(io)?;
            reader.seek(SeekFrom::Start(offset)).map_err(io)?;
            let mut reader = BufReader::with_capacity(1 << 16, reader);
            let mut offset = offset;
            let mut line = Vec::new();
            while next < to {
                line.clear();
                let limit = MAX_LINE as u64 + 1;
                let count = reader.by_ref().take(limit).read_until(b'\n', &mut line);
                let count = count.map_err(io)?;
                let Some(content) = line.strip_suffix(b"\n") else {
                    break;
                };
                let number = split(content).map(|(_, _, number)| number);
                if number != Some(seq) {
                    let path = file.path.display();
                    return Err(format!("{path} does not hold record {seq} in its place"));
                }
                if seq == next {
                    visit(leaf_hash(content));
                    next += 1;
                }
                seq += 1;
                offset += count as u64;
            }
            if next == before {
                return Err(format!("record {next} is not in {}", file.path.display()));
            }
            self.place = Some((seq, file.path.clone(), offset));
        }
        Ok(())
    }

    /// The edge of the tree over the first `size` records, from `known` on if that is of use.
    ///
    /// # Errors
    /// Records that it takes are not there.
    pub(super) fn edge(
        &mut self,
        directory: &Path,
        known: Option<&Edge>,
        size: u64,
    ) -> Result<Edge, String> {
        let kept = || {
            let files = files::list(directory).ok()?;
            let file = files.iter().rev().find(|file| {
                file.first <= size
                    && (file.first == 0 || files::load_edge(directory, file.first).is_some())
            })?;
            match file.first {
                0 => Some(Edge::new()),
                first => files::load_edge(directory, first),
            }
        };
        let known = known.filter(|edge| edge.size() <= size).cloned();
        let mut edge = match (known, kept()) {
            (Some(one), Some(other)) if other.size() > one.size() => other,
            (Some(one), _) | (None, Some(one)) => one,
            (None, None) => {
                return Err(format!(
                    "the beginning of the log is gone, and with it the tree over its first {size} records"
                ));
            }
        };
        let from = edge.size();
        self.read(directory, from, size, |leaf| edge.push(leaf))?;
        Ok(edge)
    }
}
