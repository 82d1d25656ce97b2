//! Rescue: reads a lower tree without mounting it and writes what can be read to an ordinary directory.
//!
//! Damage never stops it: what is lost is listed, by plain and by lower path. It can be run again on the same
//! destination; what is there and the same is not written again.

mod copy;
mod target;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_format::names;
use kms_format::volume::VolumeRecord;
use kms_format::{Record, UnlockedPolicy, symlink};
use serde::{Deserialize, Serialize};

use self::target::Target;
use crate::backing::{Dir, LowerId, Stat};
use crate::check::Counts;
use crate::check::spot::{Spot, show};
use crate::check::walk::{self, Child, Place, Refused, Visit};
use crate::errno::{Errno, FsResult};
use crate::fs::Kind;
use crate::fs::attributes::AttributeKeys;
use crate::volume::Keys;

/// The longest record of a long name.
const SIDECAR_MAX: usize = 512;
/// Names for what has lost its own, followed by the inode number.
const FOUND: &str = "lost+found.#";

/// What to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Write zeros for content that cannot be read, and keep the rest of the file.
    pub salvage: bool,
}

/// Something that could not be read, or not be written as it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Loss {
    /// The name in the mount; `?` for one that cannot be read.
    pub plain_path: String,
    /// The name below the lower directory.
    pub lower_path: String,
    /// What is lost: `object`, `directory`, `content`, `name`, `attributes`.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// What an extraction ends with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Extracted {
    /// The volume.
    pub volume: String,
    /// The lower directory.
    pub lower: PathBuf,
    /// Where it went.
    pub destination: PathBuf,
    /// How much there was. `bytes` are those of content.
    pub counts: Counts,
    /// Bytes that had to be written; the others were there already.
    pub written: u64,
    /// What is lost.
    pub losses: Vec<Loss>,
}

/// Writes what is in the lower tree at `lower` to the directory `destination`, which is made if need be.
///
/// # Errors
/// `lower` or `destination` cannot be opened. Everything else is a loss.
pub fn extract(
    lower: &Path,
    destination: &Path,
    keys: &dyn Keys,
    record: &VolumeRecord,
    options: Options,
    progress: &mut dyn FnMut(&Counts),
) -> std::io::Result<Extracted> {
    let io = |errno: Errno| std::io::Error::from_raw_os_error(errno.raw());
    let root = Arc::new(Dir::open_root(lower).map_err(io)?);
    let links = match root.open_dir(names::LINKS) {
        Ok(links) => Some(links),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(io(errno)),
    };
    std::fs::create_dir_all(destination)?;
    let mut extract = Extract {
        root: Arc::clone(&root),
        keys,
        record,
        options,
        progress,
        links,
        target: Target::open(destination)?,
        linked: HashMap::new(),
        result: Extracted {
            volume: record.volume.to_string(),
            lower: lower.to_owned(),
            destination: destination.to_owned(),
            ..Extracted::default()
        },
    };
    walk::walk(root, &mut extract);
    (extract.progress)(&extract.result.counts);
    Ok(extract.result)
}

struct Extract<'a> {
    root: Arc<Dir>,
    keys: &'a dyn Keys,
    record: &'a VolumeRecord,
    options: Options,
    progress: &'a mut dyn FnMut(&Counts),
    links: Option<Dir>,
    target: Target,
    /// Objects with several names that have been written, and where.
    linked: HashMap<LowerId, Vec<Vec<u8>>>,
    result: Extracted,
}

impl Visit for Extract<'_> {
    fn enter(
        &mut self,
        dir: &Arc<Dir>,
        spot: &Arc<Spot>,
        above: Option<(&Arc<Dir>, &Arc<Place>)>,
    ) -> Option<(Arc<Place>, Vec<Child>)> {
        self.result.counts.directories += 1;
        let place = self.unlocked(dir, spot, above.map(|(_, place)| &**place))?;
        if above.is_some()
            && let Err(errno) = self.target.enter(&self.plain_of(dir, spot))
        {
            self.lost(spot, "directory", format!("cannot be made: {errno}"));
            return None;
        }
        let mut children = Vec::new();
        match entries(dir) {
            Ok(entries) => {
                for lower in entries {
                    children.extend(self.entry(dir, &place, &lower));
                }
            }
            Err(errno) => self.lost(spot, "directory", errno.to_string()),
        }
        (self.progress)(&self.result.counts);
        Some((Arc::new(place), children))
    }

    fn leave(&mut self, dir: &Arc<Dir>, place: &Arc<Place>) {
        let keys = place.keys.as_ref().map(AttributeKeys::of_directory);
        let keys = keys.transpose();
        let dressed = self.target.here().and_then(|own| {
            let keys = keys.unwrap_or_default();
            copy::dress_directory(dir, keys.as_ref(), &own)
        });
        match dressed {
            Ok(losses) => self.attributes_lost(&place.spot, losses),
            Err(errno) => self.lost(&place.spot, "attributes", errno.to_string()),
        }
        self.target.leave();
    }

    fn refused(&mut self, spot: &Arc<Spot>, errno: Errno) {
        self.lost(spot, "directory", errno.to_string());
    }
}

impl Extract<'_> {
    fn lost(&mut self, spot: &Spot, what: &str, reason: String) {
        self.result.counts.damage += 1;
        self.result.losses.push(Loss {
            plain_path: spot.plain_path(),
            lower_path: spot.lower_path(),
            what: what.to_owned(),
            reason,
        });
    }

    fn attributes_lost(&mut self, spot: &Spot, losses: Vec<String>) {
        for reason in losses {
            self.lost(spot, "attributes", reason);
        }
    }

    /// Unlocks a directory as far as possible. None if nothing in it can be read.
    fn unlocked(&mut self, dir: &Dir, spot: &Arc<Spot>, above: Option<&Place>) -> Option<Place> {
        let volume = Some(self.record.volume);
        let (reason, policy) = match walk::unlock(dir, spot, above, volume, Some(self.keys)) {
            Ok(place) => return Some(place),
            Err(Refused::Locked(header, errno)) => {
                let policy = header.policy();
                let why = self.keys.refusal_text(&policy);
                let why = why.unwrap_or_else(|| format!("policy {policy}: {errno}"));
                self.lost(spot, "directory", why);
                return None;
            }
            Err(Refused::Foreign(error)) => {
                self.lost(spot, "directory", error.to_string());
                return None;
            }
            Err(Refused::Io(errno)) => (format!("the header: {errno}"), None),
            Err(Refused::Missing) => ("it has no header".to_owned(), None),
            Err(Refused::Damaged(error)) => (error.to_string(), None::<Arc<UnlockedPolicy>>),
        };
        self.lost(
            spot,
            "name",
            format!("{reason}: the names in it are lost, what is in it is not"),
        );
        let policy = policy.or_else(|| match above {
            Some(above) => above.policy.clone(),
            // The root's comes first.
            None => self.record.policies.iter().find_map(|entry| {
                let volume = &self.record.volume;
                let key = self
                    .keys
                    .policy_key(volume, &entry.policy, entry.generation);
                key.ok()
            }),
        });
        Some(Place {
            spot: Arc::clone(spot),
            header: None,
            keys: None,
            policy,
        })
    }

    /// The name in the destination.
    fn plain_of(&self, dir: &Dir, spot: &Spot) -> Vec<u8> {
        spot.plain_name().map_or_else(
            || {
                let ino = dir.stat().map_or(0, |stat| stat.st_ino);
                format!("{FOUND}{ino}").into_bytes()
            },
            <[u8]>::to_vec,
        )
    }

    /// An entry; gives it back if it is a directory.
    fn entry(&mut self, dir: &Arc<Dir>, place: &Place, lower: &str) -> Option<Child> {
        let nameless = Spot::below(&place.spot, lower, None);
        let stat = match dir.stat_at(lower) {
            Ok(stat) => stat,
            Err(errno) => {
                self.lost(&nameless, "object", errno.to_string());
                return None;
            }
        };
        let mut plain = None;
        if let Some(keys) = &place.keys {
            let sidecar = names::sidecar_name(lower.as_bytes());
            let record = sidecar.and_then(|name| {
                let found = dir.read_small(&name, SIDECAR_MAX).ok()?;
                found.of(Record::Sidecar).ok()?
            });
            match names::decrypt(keys, lower.as_bytes(), record.as_deref()) {
                Ok(name) => plain = Some(name),
                Err(error) => self.lost(&nameless, "name", error.to_string()),
            }
        }
        let spot = Spot::below(&place.spot, lower, plain.as_deref());
        let kind = Kind::from_mode(stat.st_mode);
        if kind == Some(Kind::Directory) {
            return Some(Child {
                lower: lower.to_owned(),
                plain,
            });
        }
        let name = plain.unwrap_or_else(|| format!("{FOUND}{}", stat.st_ino).into_bytes());
        if let Err(reason) = self.object(dir, place, &spot, (lower, &name), &stat, kind) {
            self.lost(&spot, "object", reason);
        }
        None
    }

    fn object(
        &mut self,
        dir: &Dir,
        place: &Place,
        spot: &Arc<Spot>,
        (lower, name): (&str, &[u8]),
        stat: &Stat,
        kind: Option<Kind>,
    ) -> Result<(), String> {
        let text = |errno: Errno| errno.to_string();
        let id = LowerId::of(stat);
        if stat.st_nlink > 1
            && let Some(first) = self.linked.get(&id)
        {
            return self.target.link(first, name).map_err(text);
        }
        match kind {
            Some(Kind::File) => self.file(dir, place, spot, (lower, name))?,
            Some(Kind::Symlink) => {
                self.result.counts.symlinks += 1;
                let target = self.link_target(dir, place, lower)?;
                let own = self.target.here().map_err(text)?;
                own.symlink(name, &target).map_err(text)?;
                let losses = copy::dress_at(dir, lower, stat, &own, name);
                self.attributes_lost(spot, losses);
            }
            _ => {
                self.result.counts.others += 1;
                let own = self.target.here().map_err(text)?;
                own.node(name, stat.st_mode, stat.st_rdev).map_err(text)?;
                let losses = copy::dress_at(dir, lower, stat, &own, name);
                self.attributes_lost(spot, losses);
            }
        }
        if stat.st_nlink > 1 {
            self.linked.insert(id, self.target.path_of(name));
        }
        Ok(())
    }

    fn link_target(&self, dir: &Dir, place: &Place, lower: &str) -> Result<Vec<u8>, String> {
        let policy = place.policy.as_ref().ok_or("its policy is not known")?;
        let stored = dir.read_link(lower).map_err(|errno| errno.to_string())?;
        let target = symlink::StoredTarget::parse(&stored).map_err(|error| error.to_string())?;
        let record = match (target.record_name(), &self.links) {
            (Some(name), Some(links)) => links
                .read_small(&name, symlink::TARGET_MAX + 128)
                .map_err(|errno| errno.to_string())?
                .of(Record::SymlinkRecord)
                .map_err(|error| error.to_string())?,
            _ => None,
        };
        let key = self
            .keys
            .policy_key(&policy.volume(), &policy.policy(), target.generation())
            .map_err(|errno| errno.to_string())?;
        let opened = target.open(&key, record.as_deref());
        opened.map_err(|error| error.to_string())
    }
}

fn entries(dir: &Dir) -> FsResult<Vec<String>> {
    let mut found = Vec::new();
    let mut listing = dir.list()?;
    while let Some(entry) = listing.peek()? {
        if matches!(
            names::classify(&entry.name),
            names::LowerName::Short | names::LowerName::Long
        ) {
            found.push(String::from_utf8_lossy(&entry.name).into_owned());
        }
        listing.advance();
    }
    found.sort_unstable();
    Ok(found)
}

/// A path in the destination, for messages.
impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({}): {}: {}",
            self.plain_path,
            show(self.lower_path.as_bytes()),
            self.what,
            self.reason
        )
    }
}
