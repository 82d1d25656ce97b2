//! Directories: their header, the names in them, and what does not belong there.

use std::collections::HashSet;
use std::sync::Arc;

use kms_format::names::{self, LowerName};
use kms_format::{DirKeys, FormatError, NameError, Nesting};

use super::Check;
use super::finding::{Code, Outcome, Severity};
use super::repair::LOST;
use super::spot::{Spot, show};
use super::walk::{self, Child, Place, Refused, Visit};
use crate::backing::xattr::Target;
use crate::backing::{Dir, LowerEntry, Small, Stat};
use crate::errno::{Errno, FsResult};
use crate::fs::Kind;
use crate::fs::attributes::AttributeKeys;
use crate::fs::read_header;

/// The longest record of a long name.
const SIDECAR_MAX: usize = 512;
/// What an initialisation or a replaced volume record may leave in the root.
const LEFTOVERS: [&str; 2] = [".kmsfs.new", ".kmsfs.volume.new"];

/// What is in a directory.
#[derive(Default)]
struct Listed {
    entries: Vec<String>,
    sidecars: Vec<String>,
    temporaries: Vec<String>,
    others: Vec<LowerEntry>,
}

impl Visit for Check<'_> {
    fn enter(
        &mut self,
        dir: &Arc<Dir>,
        spot: &Arc<Spot>,
        above: Option<(&Arc<Dir>, &Arc<Place>)>,
    ) -> Option<(Arc<Place>, Vec<Child>)> {
        self.report.counts.directories += 1;
        let listed = match list(dir) {
            Ok(listed) => listed,
            Err(errno) => {
                self.refused(spot, errno);
                return None;
            }
        };
        let place = self.unlocked(dir, spot, above, &listed)?;
        if let Some(header) = &place.header {
            self.used(header.policy(), header.generation());
            let id = header.id();
            if let Some(first) = self.ids.get(&id) {
                let what = format!("the other one is {}", first.lower_path());
                self.found(Code::DuplicateId, Severity::Note, spot, what);
            } else {
                self.ids.insert(id, Arc::clone(spot));
            }
            if header.reencrypting() {
                let what = "it has two keys";
                self.found(Code::Halfway, Severity::Note, spot, what);
            }
            self.own_mode(dir, spot);
        }
        let keys = place.keys.as_ref().map(AttributeKeys::of_directory);
        match keys.transpose() {
            Ok(keys) => self.xattrs(&Target::Dir(dir), keys.as_ref(), spot),
            Err(error) => {
                self.found(Code::Unreadable, Severity::Damage, spot, error.to_string());
            }
        }
        let children = self.inside(dir, &place, listed, above.is_none());
        self.step();
        Some((Arc::new(place), children))
    }

    fn goes_on(&self) -> bool {
        !self.cancelled
    }

    fn refused(&mut self, spot: &Arc<Spot>, errno: Errno) {
        self.complete = false;
        self.found(Code::Unreadable, Severity::Damage, spot, errno.to_string());
    }
}

impl Check<'_> {
    /// Unlocks a directory, or does what is to be done about one that does not open. None if it is not to be entered.
    fn unlocked(
        &mut self,
        dir: &Arc<Dir>,
        spot: &Arc<Spot>,
        above: Option<(&Arc<Dir>, &Arc<Place>)>,
        listed: &Listed,
    ) -> Option<Place> {
        let parent = above.map(|(_, place)| &**place);
        let refused = match walk::unlock(dir, spot, parent, self.volume, self.keys) {
            Ok(place) => return Some(place),
            Err(refused) => refused,
        };
        // Its names cannot be read, but what is in it can, where the policy is known.
        let nameless = |policy| Place {
            spot: Arc::clone(spot),
            header: None,
            keys: None,
            policy,
        };
        let Some((outer, parent)) = above else {
            let detail = match refused {
                Refused::Locked(header, errno) => {
                    self.locked(header.policy(), spot, errno);
                    return Some(nameless(None));
                }
                Refused::Io(errno) => errno.to_string(),
                Refused::Missing => "it is missing or was never written".to_owned(),
                Refused::Damaged(error) | Refused::Foreign(error) => error.to_string(),
            };
            self.found(Code::RootHeader, Severity::Damage, spot, detail);
            return Some(nameless(None));
        };
        match refused {
            Refused::Io(errno) => {
                self.refused(spot, errno);
                Some(nameless(None))
            }
            Refused::Locked(header, errno) => {
                self.used(header.policy(), header.generation());
                self.locked(header.policy(), spot, errno);
                let place = nameless(None);
                Some(Place {
                    header: Some(*header),
                    ..place
                })
            }
            Refused::Missing => {
                let entries = listed.entries.len();
                let severity = if entries == 0 {
                    Severity::Note
                } else {
                    Severity::Damage
                };
                let detail = format!("it holds {entries} entries");
                let what = (Code::HeaderMissing, severity);
                Some(self.new_header(what, dir, spot, parent, detail, listed))
            }
            Refused::Damaged(error) => {
                let what = (Code::HeaderDamaged, Severity::Damage);
                Some(self.new_header(what, dir, spot, parent, error.to_string(), listed))
            }
            Refused::Foreign(error) => {
                let name = spot.lower_name();
                self.quarantined(Code::HeaderForeign, outer, name, spot, error.to_string());
                // Links in it may refer to records.
                if self.sweep(dir).is_err() {
                    self.complete = false;
                }
                None
            }
        }
    }

    fn new_header(
        &mut self,
        what: (Code, Severity),
        dir: &Dir,
        spot: &Arc<Spot>,
        parent: &Place,
        mut detail: String,
        listed: &Listed,
    ) -> Place {
        let policy = parent.policy.clone();
        // A new header would not admit them, and what is in them could not be read any more.
        let admits = listed.entries.iter().any(|name| is_policy_root(dir, name));
        if admits {
            detail.push_str(
                "; it is not replaced, because it admits directories in it with a policy of their own: restore it from a backup, \
                 or save everything with `kmsctl fs extract`",
            );
        }
        let made = match &policy {
            Some(policy) if !admits => {
                self.mended(what, spot, detail, Outcome::Repaired, |mender| {
                    mender.new_header(what.0, dir, spot, policy)
                })
            }
            _ => {
                self.found(what.0, what.1, spot, detail);
                None
            }
        };
        let (header, keys) = made.unzip();
        Place {
            spot: Arc::clone(spot),
            header,
            keys,
            policy,
        }
    }

    fn own_mode(&mut self, dir: &Dir, spot: &Arc<Spot>) {
        let Ok(stat) = dir.stat_at(names::DIR_HEADER) else {
            return;
        };
        let excess = stat.st_mode & 0o022;
        if excess != 0 && Kind::from_mode(stat.st_mode) == Some(Kind::File) {
            let what = (Code::OwnMode, Severity::Note);
            let detail = format!("{} has mode {:o}", names::DIR_HEADER, stat.st_mode & 0o7777);
            self.mended(what, spot, detail, Outcome::Repaired, |_| {
                dir.set_mode_at(names::DIR_HEADER, 0o600)
            });
        }
    }

    /// Everything in a directory but the directories.
    fn inside(
        &mut self,
        dir: &Arc<Dir>,
        place: &Place,
        listed: Listed,
        is_root: bool,
    ) -> Vec<Child> {
        for entry in &listed.others {
            self.other(place, entry, is_root);
        }
        for name in &listed.temporaries {
            let spot = Spot::below(&place.spot, name, None);
            let what = (Code::Temporary, Severity::Note);
            self.mended(what, &spot, "left by a crash", Outcome::Repaired, |_| {
                dir.unlink(name)
            });
        }
        let present: HashSet<&str> = listed.entries.iter().map(String::as_str).collect();
        for name in &listed.sidecars {
            let entry = names::sidecar_entry(name.as_bytes());
            if entry.is_some_and(|entry| present.contains(entry.as_str())) {
                continue;
            }
            let spot = Spot::below(&place.spot, name, None);
            let what = (Code::SidecarOrphan, Severity::Note);
            self.mended(
                what,
                &spot,
                "there is no such entry",
                Outcome::Repaired,
                |_| dir.unlink(name),
            );
        }
        let mut children = Vec::new();
        for lower in &listed.entries {
            if let Some(child) = self.entry(dir, place, lower) {
                children.push(child);
            }
        }
        children
    }

    fn other(&mut self, place: &Place, entry: &LowerEntry, is_root: bool) {
        let name = String::from_utf8_lossy(&entry.name);
        let spot = Spot::below(&place.spot, &show(&entry.name), None);
        match names::classify(&entry.name) {
            LowerName::Reserved => {
                let known = [
                    names::VOLUME,
                    names::UNCLEAN,
                    names::LINKS,
                    names::COPIES,
                    names::JOB,
                    LOST,
                ];
                if is_root && known.contains(&&*name) {
                    return;
                }
                if is_root && LEFTOVERS.contains(&&*name) {
                    self.found(Code::Temporary, Severity::Note, &spot, "left by a crash");
                    return;
                }
                self.found(
                    Code::Reserved,
                    Severity::Note,
                    &spot,
                    "it has no meaning here",
                );
            }
            // Every new ext4 has one.
            _ if is_root && name == "lost+found" => {}
            _ => self.found(
                Code::Foreign,
                Severity::Note,
                &spot,
                "not shown in the mount",
            ),
        }
    }

    /// An entry; gives it back if it is a directory.
    fn entry(&mut self, dir: &Arc<Dir>, place: &Place, lower: &str) -> Option<Child> {
        let spot = Spot::below(&place.spot, lower, None);
        if let Some(only) = &self.only
            && !only.contains(&spot.lower_path())
        {
            return None;
        }
        let stat = match dir.stat_at(lower) {
            Ok(stat) => stat,
            Err(errno) => {
                self.complete = false;
                self.found(Code::Unreadable, Severity::Damage, &spot, errno.to_string());
                return None;
            }
        };
        let (lower, plain) = self.name(dir, place, lower, &spot);
        let spot = Spot::below(&place.spot, &lower, plain.as_deref());
        self.object(dir, place, &spot, &lower, plain, &stat)
    }

    fn object(
        &mut self,
        dir: &Arc<Dir>,
        place: &Place,
        spot: &Arc<Spot>,
        lower: &str,
        plain: Option<Vec<u8>>,
        stat: &Stat,
    ) -> Option<Child> {
        match Kind::from_mode(stat.st_mode) {
            Some(Kind::Directory) => {
                return Some(Child {
                    lower: lower.to_owned(),
                    plain,
                });
            }
            Some(Kind::File) => self.file(dir, place, spot, lower, stat),
            Some(Kind::Symlink) => self.symlink(dir, place, spot, lower),
            _ => self.report.counts.others += 1,
        }
        None
    }

    /// Reads a name, and mends it. Gives the lower name it has now, and the plain one if there is one.
    fn name(
        &mut self,
        dir: &Dir,
        place: &Place,
        lower: &str,
        spot: &Spot,
    ) -> (String, Option<Vec<u8>>) {
        let sidecar = match names::sidecar_name(lower.as_bytes()) {
            None => None,
            Some(name) => match dir.read_small(&name, SIDECAR_MAX) {
                Ok(Small::Bytes(record)) => Some(record),
                Ok(Small::Missing) => None,
                Ok(Small::NotAFile) => {
                    let what = format!("{name} is not a file");
                    self.found(Code::Unreadable, Severity::Damage, spot, what);
                    return (lower.to_owned(), None);
                }
                Err(errno) => {
                    let what = format!("{name}: {errno}");
                    self.found(Code::Unreadable, Severity::Damage, spot, what);
                    return (lower.to_owned(), None);
                }
            },
        };
        let Some(keys) = &place.keys else {
            // The record of a long name is under no key: it can be looked at.
            if let Err(error) = names::check_sidecar(lower.as_bytes(), sidecar.as_deref()) {
                self.found(
                    sidecar_code(&error),
                    Severity::Damage,
                    spot,
                    error.to_string(),
                );
            }
            return (lower.to_owned(), None);
        };
        let (code, wanted, detail) =
            match names::decrypt(keys, lower.as_bytes(), sidecar.as_deref()) {
                Ok(plain) => {
                    let right = |keys: &DirKeys| {
                        names::encrypt(keys, &plain, names::LOWER_MAX)
                            .is_ok_and(|right| right.stored() == lower)
                    };
                    if right(keys) || keys.former().is_some_and(right) {
                        return (lower.to_owned(), Some(plain));
                    }
                    let detail = format!("it reads {}", show(&plain));
                    (Code::NameForm, Some(plain), detail)
                }
                Err(error) => (name_code(&error), None, error.to_string()),
            };
        let what = (code, Severity::Damage);
        let renamed = self.mended(what, spot, detail, Outcome::Repaired, |mender| {
            mender.rename(code, dir, keys, lower, spot, wanted.as_deref())
        });
        match renamed {
            Some((plain, lower)) => (lower, Some(plain)),
            None => (lower.to_owned(), wanted),
        }
    }
}

/// Whether it is a directory with a policy of its own, or perhaps one.
fn is_policy_root(dir: &Dir, name: &str) -> bool {
    let is_directory = dir.stat_at(name).map(|stat| Kind::from_mode(stat.st_mode));
    if is_directory != Ok(Some(Kind::Directory)) {
        return false;
    }
    let header = dir.open_dir(name).and_then(|inside| read_header(&inside));
    match header {
        Ok(Ok(header)) => header.nesting() == Nesting::Root,
        // It has to be given a new one itself.
        Ok(Err(_)) => false,
        Err(_) => true,
    }
}

fn sidecar_code(error: &FormatError) -> Code {
    match error {
        FormatError::Name(NameError::SidecarMissing) => Code::SidecarMissing,
        _ => Code::SidecarDamaged,
    }
}

fn name_code(error: &FormatError) -> Code {
    match error {
        FormatError::TagMismatch { .. }
        | FormatError::Name(NameError::Padding | NameError::Foreign) => Code::Name,
        error => sidecar_code(error),
    }
}

fn list(dir: &Dir) -> FsResult<Listed> {
    let mut listed = Listed::default();
    let mut listing = dir.list()?;
    while let Some(entry) = listing.peek()? {
        let name = || String::from_utf8_lossy(&entry.name).into_owned();
        match names::classify(&entry.name) {
            LowerName::Short | LowerName::Long => listed.entries.push(name()),
            LowerName::DirHeader => {}
            LowerName::Sidecar => listed.sidecars.push(name()),
            LowerName::Temporary => listed.temporaries.push(name()),
            _ if entry.name == b"." || entry.name == b".." => {}
            LowerName::Reserved | LowerName::Foreign => listed.others.push(entry.clone()),
        }
        listing.advance();
    }
    // An order of its own: reports can be compared.
    listed.entries.sort_unstable();
    Ok(listed)
}
