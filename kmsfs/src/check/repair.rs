//! Repairs. Nothing of a user's is ever deleted: what cannot be repaired goes into `.kmsfs.lost`, and every move is in
//! its journal, durable before the move.

use std::sync::Arc;

use data_encoding::BASE64;
use kms_format::names::{self, EncryptedName};
use kms_format::{DirHeader, DirKeys, UnlockedPolicy};
use rustix::fs::RenameFlags;
use serde::Serialize;

use super::finding::Code;
use super::spot::Spot;
use crate::backing::{Dir, LowerFile, Small};
use crate::errno::{Errno, FsResult};

/// Where it goes, in the root of the lower directory.
pub(crate) const LOST: &str = ".kmsfs.lost";
/// What was moved, from where, and why: one JSON object a line.
pub(crate) const JOURNAL: &str = "journal";
/// Plain names of objects whose own name was lost, followed by the inode number.
pub(crate) const FOUND: &str = "lost+found.#";

/// A line of the journal.
#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    time: u64,
    code: Code,
    /// Lower path before.
    was: &'a str,
    /// Lower path afterwards, if it is still somewhere.
    now: Option<&'a str>,
    /// An attribute that was removed: its lower name, and its value in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    xattr: Option<(String, String)>,
}

/// Makes the repairs.
pub(super) struct Mender {
    root: Arc<Dir>,
    lost: Option<(Dir, LowerFile)>,
}

impl Mender {
    pub(super) fn new(root: Arc<Dir>) -> Mender {
        Mender { root, lost: None }
    }

    fn lost(&mut self) -> FsResult<&(Dir, LowerFile)> {
        if self.lost.is_none() {
            match self.root.make_dir(LOST, 0o700) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            let dir = self.root.open_dir(LOST)?;
            let journal = match dir.create_file(JOURNAL, 0o600) {
                Err(Errno::EXIST) => dir.open_file(JOURNAL, true)?,
                made => made?,
            };
            dir.sync()?;
            self.root.sync()?;
            self.lost = Some((dir, journal));
        }
        self.lost.as_ref().ok_or(Errno::IO)
    }

    fn log(
        &mut self,
        code: Code,
        was: &str,
        now: Option<&str>,
        xattr: Option<(&[u8], &[u8])>,
    ) -> FsResult<()> {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let line = Line {
            time: time.map_or(0, |time| time.as_secs()),
            code,
            was,
            now,
            xattr: xattr.map(|(name, value)| {
                (
                    String::from_utf8_lossy(name).into_owned(),
                    BASE64.encode(value),
                )
            }),
        };
        let mut text = serde_json::to_vec(&line).map_err(|_| Errno::IO)?;
        text.push(b'\n');
        let (_, journal) = self.lost()?;
        let end = journal.stat()?.st_size.cast_unsigned();
        journal.write_at(&text, end)?;
        journal.sync_data()
    }

    /// Moves an entry into `.kmsfs.lost`; gives its name there.
    pub(super) fn quarantine(
        &mut self,
        code: Code,
        dir: &Dir,
        name: &str,
        spot: &Spot,
    ) -> FsResult<String> {
        let new = fresh()?;
        let now = format!("{LOST}/{new}");
        self.log(code, &spot.lower_path(), Some(&now), None)?;
        let (lost, _) = self.lost()?;
        dir.rename(name, lost, &new, RenameFlags::NOREPLACE)?;
        lost.sync()?;
        dir.sync()?;
        if let Some(sidecar) = names::sidecar_name(name.as_bytes()) {
            self.set_aside(code, dir, &sidecar, spot)?;
        }
        Ok(now)
    }

    /// Moves a file of ours into `.kmsfs.lost`, if it is there.
    pub(super) fn set_aside(
        &mut self,
        code: Code,
        dir: &Dir,
        name: &str,
        spot: &Spot,
    ) -> FsResult<()> {
        if is_free(dir, name)? {
            return Ok(());
        }
        let new = fresh()?;
        let was = format!("{} ({name})", spot.lower_path());
        self.log(code, &was, Some(&format!("{LOST}/{new}")), None)?;
        let (lost, _) = self.lost()?;
        dir.rename(name, lost, &new, RenameFlags::NOREPLACE)?;
        lost.sync()?;
        dir.sync()
    }

    /// Keeps an attribute in the journal.
    pub(super) fn keep_xattr(&mut self, spot: &Spot, name: &[u8], value: &[u8]) -> FsResult<()> {
        self.log(Code::Xattr, &spot.lower_path(), None, Some((name, value)))
    }

    /// Gives an entry the plain name `wanted`, or one made of its inode number; gives its plain and lower name now.
    pub(super) fn rename(
        &mut self,
        code: Code,
        dir: &Dir,
        keys: &DirKeys,
        name: &str,
        spot: &Spot,
        wanted: Option<&[u8]>,
    ) -> FsResult<(Vec<u8>, String)> {
        let ino = dir.stat_at(name)?.st_ino;
        let numbered = (0..).map(|number: u32| match number {
            0 => format!("{FOUND}{ino}").into_bytes(),
            _ => format!("{FOUND}{ino}.{number}").into_bytes(),
        });
        for plain in wanted.map(<[u8]>::to_vec).into_iter().chain(numbered) {
            let encrypted = names::encrypt(keys, &plain, names::LOWER_MAX)?;
            let stored = encrypted.stored();
            if !is_free(dir, stored)? {
                continue;
            }
            if let EncryptedName::Long {
                sidecar, record, ..
            } = &encrypted
            {
                match dir.unlink(sidecar) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
                dir.write_small(sidecar, record)?.sync()?;
            }
            let now = format!("{} (now {stored})", spot.lower_path());
            self.log(code, &spot.lower_path(), Some(&now), None)?;
            match dir.rename(name, dir, stored, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => continue,
                renamed => renamed?,
            }
            dir.sync()?;
            if let Some(sidecar) = names::sidecar_name(name.as_bytes()) {
                self.set_aside(code, dir, &sidecar, spot)?;
            }
            return Ok((plain, stored.to_owned()));
        }
        Err(Errno::EXIST)
    }

    /// Gives a directory a new header under `policy`. A header that is there is kept in `.kmsfs.lost`.
    pub(super) fn new_header(
        &mut self,
        code: Code,
        dir: &Dir,
        spot: &Spot,
        policy: &UnlockedPolicy,
    ) -> FsResult<(DirHeader, DirKeys)> {
        let (header, keys) = DirHeader::create(policy)?;
        let old = dir.read_small(names::DIR_HEADER, 4096)?;
        let blank = match &old {
            Small::Missing => true,
            Small::NotAFile => false,
            Small::Bytes(old) => old.iter().all(|byte| *byte == 0),
        };
        if !blank {
            let new = fresh()?;
            let was = format!("{}/{}", spot.lower_path(), names::DIR_HEADER);
            let (lost, _) = self.lost()?;
            match &old {
                Small::Bytes(old) => lost.write_small(&new, old)?.sync()?,
                // Whatever it is, it keeps its form.
                _ => dir.rename(names::DIR_HEADER, lost, &new, RenameFlags::NOREPLACE)?,
            }
            lost.sync()?;
            self.log(code, &was, Some(&format!("{LOST}/{new}")), None)?;
        }
        let temporary = names::temporary()?;
        dir.write_small(&temporary, &header.encode()?)?.sync()?;
        dir.rename(&temporary, dir, names::DIR_HEADER, RenameFlags::empty())?;
        dir.sync()?;
        Ok((header, keys))
    }
}

fn is_free(dir: &Dir, name: &str) -> FsResult<bool> {
    match dir.stat_at(name) {
        Ok(_) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        Err(errno) => Err(errno),
    }
}

fn fresh() -> FsResult<String> {
    let name = names::temporary()?;
    // Not to be taken for a temporary file.
    Ok(format!("q{}", name.trim_start_matches(names::RESERVED)))
}
