//! Looks at a mount after a crash, and compares it with what the ledgers owe.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::content::History;
use crate::ledger::{Entry, Ledger, Object, Op, Reach};
use crate::load::XATTR;
use crate::rig::Mode;
use crate::tree::{Kind, Names, Seen};

/// How `kmsctl fs check --repair` names objects whose name cannot be read any more.
const NAMELESS: &str = "lost+found.#";

/// A worker's folder: its name below the mount, its ledger, and how far it was when the crash came.
pub(crate) struct Owed<'a> {
    pub(crate) folder: String,
    pub(crate) ledger: &'a Ledger,
    pub(crate) reach: Reach,
}

/// What a check found, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) names: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Found {
    pub(crate) fn add(&mut self, more: Found) {
        self.names += more.names;
        self.files += more.files;
        self.bytes += more.bytes;
    }
}

/// Everything of one folder, by relative path.
type Listing = BTreeMap<String, Seen>;

/// Reads everything on the mount, and checks it against the ledgers. Gives each thing that is wrong.
pub(crate) fn mount(point: &Path, owed: &[Owed], mode: Mode) -> Result<Found, Vec<String>> {
    let mut found = Found::default();
    let mut wrong = Vec::new();
    for entry in fs::read_dir(point).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let owed = owed.iter().find(|owed| owed.folder == name);
        let mut listing = Listing::new();
        let mut contents = BTreeMap::new();
        read(
            &point.join(&name),
            "",
            &mut listing,
            &mut contents,
            &mut wrong,
        );
        found.names += listing.len() as u64;
        found.files += contents.len() as u64;
        found.bytes += contents
            .values()
            .map(|file| file.bytes.len() as u64)
            .sum::<u64>();
        if let Some(owed) = owed {
            for error in folder(owed, &listing, &contents, mode) {
                wrong.push(format!("{name}: {error}"));
            }
        }
    }
    for owed in owed {
        if !point.join(&owed.folder).is_dir() {
            wrong.push(format!("{} is gone", owed.folder));
        }
    }
    if wrong.is_empty() {
        Ok(found)
    } else {
        Err(wrong)
    }
}

struct Read {
    bytes: Vec<u8>,
    xattr: Option<u32>,
}

/// Reads a tree whole; what cannot be read is wrong.
fn read(
    at: &Path,
    path: &str,
    listing: &mut Listing,
    contents: &mut BTreeMap<String, Read>,
    wrong: &mut Vec<String>,
) {
    let entries = match fs::read_dir(at) {
        Ok(entries) => entries,
        Err(error) => {
            wrong.push(format!("listing {}: {error}", at.display()));
            return;
        }
    };
    for entry in entries {
        let name = match entry {
            Ok(entry) => entry.file_name().into_string().unwrap(),
            Err(error) => {
                wrong.push(format!("listing {}: {error}", at.display()));
                return;
            }
        };
        if name.starts_with(NAMELESS) {
            // What a repair found in a directory that was never synced; its content may be anything.
            continue;
        }
        let here = at.join(&name);
        let path = match path {
            "" => name,
            path => format!("{path}/{name}"),
        };
        let mut one = || -> std::io::Result<()> {
            let meta = fs::symlink_metadata(&here)?;
            let ino = meta.ino();
            let (kind, target) = if meta.is_dir() {
                (Kind::Dir, None)
            } else if meta.is_symlink() {
                let target = fs::read_link(&here)?.into_os_string().into_string();
                let target = target.unwrap_or_default();
                if target.len() as u64 != meta.len() {
                    wrong.push(format!("{}: st_size {}", here.display(), meta.len()));
                }
                (Kind::Symlink, Some(target))
            } else {
                let bytes = fs::read(&here)?;
                if bytes.len() as u64 != meta.len() {
                    wrong.push(format!(
                        "{}: st_size {}, but {} bytes",
                        here.display(),
                        meta.len(),
                        bytes.len()
                    ));
                }
                let xattr = xattr(&here)?;
                contents.insert(path.clone(), Read { bytes, xattr });
                (Kind::File, None)
            };
            listing.insert(path.clone(), Seen { kind, ino, target });
            if kind == Kind::Dir {
                read(&here, &path, listing, contents, wrong);
            }
            Ok(())
        };
        if let Err(error) = one() {
            wrong.push(format!("{}: {error}", here.display()));
        }
    }
}

fn xattr(path: &Path) -> std::io::Result<Option<u32>> {
    let mut value = [0; 8];
    match rustix::fs::getxattr(path, XATTR, &mut value[..]) {
        Ok(4) => Ok(Some(u32::from_le_bytes([
            value[0], value[1], value[2], value[3],
        ]))),
        Ok(length) => Err(std::io::Error::other(format!("an xattr of {length} bytes"))),
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Checks one worker's folder.
fn folder(
    owed: &Owed,
    listing: &Listing,
    contents: &BTreeMap<String, Read>,
    mode: Mode,
) -> Vec<String> {
    let entries = owed.ledger.up_to(owed.reach.begun);
    let names = Names::owed(&entries, owed.reach);
    let tree = match names.find(&entries, listing) {
        Ok((_, tree)) => tree,
        Err(error) => return vec![error],
    };
    let mut wrong = Vec::new();
    for (path, read) in contents {
        let object = tree.get(path);
        let checked = History::of(object, &entries, owed.reach)
            .check(&read.bytes, mode)
            .and_then(|()| check_xattr(object, &entries, owed.reach, read.xattr));
        if let Err(error) = checked {
            let history: Vec<String> = entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| concerns(&entry.op, object))
                .map(|(number, entry)| format!("  {number}: {:?}", entry.op))
                .collect();
            wrong.push(format!(
                "{path}: {error}\n{}\n  returned {} of {}",
                history.join("\n"),
                owed.reach.returned,
                owed.reach.begun
            ));
        }
    }
    wrong
}

fn concerns(op: &Op, wanted: Object) -> bool {
    match op {
        Op::Create { object, .. }
        | Op::Write { object, .. }
        | Op::Resize { object, .. }
        | Op::Punch { object, .. }
        | Op::SetXattr { object, .. }
        | Op::SyncFile { object, .. } => *object == wanted,
        _ => false,
    }
}

/// The value that was synced, or a later one.
fn check_xattr(
    wanted: Object,
    entries: &[Entry],
    reach: Reach,
    found: Option<u32>,
) -> Result<(), String> {
    let mut allowed = vec![None];
    for (index, entry) in entries.iter().enumerate() {
        match entry.op {
            Op::SetXattr { object, value } if object == wanted => allowed.push(Some(value)),
            Op::SyncFile {
                object,
                data_only: false,
            } if object == wanted && index < reach.returned => {
                allowed.drain(..allowed.len() - 1);
            }
            Op::SyncAll => drop(allowed.drain(..allowed.len() - 1)),
            _ => {}
        }
    }
    if allowed.contains(&found) {
        Ok(())
    } else {
        Err(format!("xattr {found:?}, expected one of {allowed:?}"))
    }
}
