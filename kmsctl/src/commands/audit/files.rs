//! The files of a log, read without kmsd.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use kms_core::audit::MAX_LINE;
use kms_core::audit::keys::Keys;

use crate::exit::{Exit, Failure};

/// Notes of kmsd, one after the other.
pub(super) const CHECKPOINTS: &str = "checkpoints";
/// Its file of checkpoints that witnesses have cosigned.
pub(super) const COSIGNED: &str = "cosigned";
const KEYS: &str = "keys.json";

/// A file of the log.
pub(super) struct LogFile {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Number of its first record, by its name.
    pub(super) first: u64,
}

/// What a line is.
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// The last one, without its newline.
    Partial(u64),
}

/// The files of a log, in order.
pub(super) fn list(directory: &Path) -> Result<Vec<LogFile>, Failure> {
    let failed = |error| Failure::local(directory.display(), &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        let digits = name
            .strip_prefix("log-")
            .and_then(|name| name.strip_suffix(".jsonl"))
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(first) = digits.and_then(|digits| digits.parse().ok()) {
            files.push(LogFile {
                path: entry.path(),
                name,
                first,
            });
        }
    }
    files.sort_by_key(|file| file.first);
    Ok(files)
}

/// Gives the lines of a file one by one. A line that is longer than any record is given in parts.
pub(super) fn lines(path: &Path, mut take: impl FnMut(Line<'_>)) -> Result<(), Failure> {
    let failed = |error| Failure::local(path.display(), &error);
    let file = File::open(path).map_err(failed)?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::with_capacity(4096);
    loop {
        line.clear();
        let most = (MAX_LINE as u64).saturating_add(2);
        let mut limited = std::io::Read::take(&mut reader, most);
        limited.read_until(b'\n', &mut line).map_err(failed)?;
        match line.split_last() {
            None => return Ok(()),
            Some((b'\n', whole)) => take(Line::Whole(whole)),
            Some(_) if line.len() as u64 == most => take(Line::Whole(&line)),
            Some(_) => take(Line::Partial(line.len() as u64)),
        }
    }
}

/// A whole small file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::local(path.display(), &error))
}

/// The public keys: those that were given, else those beside the log.
pub(super) fn keys(given: Option<&Path>, directory: &Path) -> Result<Keys, Failure> {
    let beside = directory.join(KEYS);
    let path = given.unwrap_or(&beside);
    Keys::parse(&read(path)?).map_err(|error| {
        Failure::new(Exit::Local, format!("{}: {error}", path.display())).next(
            "Give a copy of the log's keys.json that was made when the host was trusted with --keys.",
        )
    })
}
