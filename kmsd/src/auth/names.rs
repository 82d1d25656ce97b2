//! Names and groups of users, from the system's name service.
//!
//! The name service may be a network away, so what it said is remembered for a while, and asked again in
//! the background for those who call: when it then says something else, or one of its files changes,
//! every decision made before is void (see [`Names::refresh`]).

use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use parking_lot::Mutex;

use crate::config::identity::is_iam_name;

/// The files that the name service reads first on most hosts.
const FILES: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];
/// Most users (and groups) that are remembered.
const MAX_CACHED: usize = 4096;
/// Those who have not called for so many lifetimes are forgotten.
const FORGET_AFTER: u32 = 10;

/// The name service did not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the name service does not answer for {what}: {errno}")]
pub(crate) struct NamesError {
    what: String,
    errno: nix::errno::Errno,
}

/// A user as the name service knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserEntry {
    /// `uid-N` for a user without a name that an ARN can have.
    pub(crate) name: Arc<str>,
    /// The name as the name service has it, if it names this user and no other.
    pub(crate) login: Option<Arc<str>>,
    /// Primary and supplementary groups; `None` for a user that the name service does not know.
    pub(crate) groups: Option<Arc<[u32]>>,
}

/// An answer and its age.
#[derive(Clone, Debug)]
struct Remembered<T> {
    value: T,
    asked: Instant,
    used: Instant,
}

/// Answers of the name service.
#[derive(Debug)]
pub(crate) struct Names {
    lifetime: Duration,
    users: Mutex<HashMap<u32, Remembered<UserEntry>>>,
    groups: Mutex<HashMap<u32, Remembered<Option<Arc<str>>>>>,
    files: Mutex<Vec<Option<Version>>>,
    /// Grows whenever an answer may have become another one.
    generation: AtomicU64,
    /// The one at the last [`Names::refresh`].
    told: AtomicU64,
}

/// Tells versions of a file apart.
type Version = (u64, u64, u64, i64, i64, i64, i64);

impl Names {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            users: Mutex::default(),
            groups: Mutex::default(),
            files: Mutex::new(versions()),
            generation: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// Under this number all answers are the same.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A user, if it is remembered. Never blocks.
    pub(super) fn remembered_user(&self, uid: u32) -> Option<UserEntry> {
        recall(&self.users, uid, self.lifetime)
    }

    /// A user. May block.
    pub(super) fn user(&self, uid: u32) -> Result<UserEntry, NamesError> {
        if let Some(known) = recall(&self.users, uid, self.lifetime) {
            return Ok(known);
        }
        let entry = ask_user(uid)?;
        self.note(remember(&self.users, uid, entry.clone()));
        Ok(entry)
    }

    /// The name of a group; `None` when it has none, or one of another group. May block.
    pub(super) fn group(&self, gid: u32) -> Result<Option<Arc<str>>, NamesError> {
        if let Some(known) = recall(&self.groups, gid, self.lifetime) {
            return Ok(known);
        }
        let name = ask_group(gid)?;
        self.note(remember(&self.groups, gid, name.clone()));
        Ok(name)
    }

    /// As if the name service had said this.
    #[cfg(test)]
    pub(super) fn pretend(&self, uid: u32, entry: UserEntry) {
        self.note(remember(&self.users, uid, entry));
    }

    fn note(&self, changed: bool) {
        if changed {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Looks whether the files of the name service have changed, and asks again for those who called of
    /// late and whose answers have become old. Returns whether anything is different from what it was at
    /// the call before, also if it was a request that noticed. May block.
    pub(super) fn refresh(&self) -> bool {
        let now = versions();
        let changed = std::mem::replace(&mut *self.files.lock(), now.clone()) != now;
        if changed {
            self.users.lock().clear();
            self.groups.lock().clear();
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        for uid in due(&self.users, self.lifetime) {
            if let Ok(entry) = ask_user(uid) {
                self.note(renew(&self.users, uid, entry));
            }
        }
        for gid in due(&self.groups, self.lifetime) {
            if let Ok(name) = ask_group(gid) {
                self.note(renew(&self.groups, gid, name));
            }
        }
        let generation = self.generation();
        self.told.swap(generation, Ordering::AcqRel) != generation
    }
}

type Cache<T> = Mutex<HashMap<u32, Remembered<T>>>;

fn recall<T: Clone>(cache: &Cache<T>, id: u32, lifetime: Duration) -> Option<T> {
    let now = Instant::now();
    let mut cache = cache.lock();
    let known = cache.get_mut(&id)?;
    // Background refreshing keeps those who call young; one that it could not refresh is asked for anew.
    if now.duration_since(known.asked) >= lifetime.saturating_mul(2) {
        return None;
    }
    known.used = now;
    Some(known.value.clone())
}

/// Remembers an answer; returns whether it is another one than before.
fn remember<T: PartialEq>(cache: &Cache<T>, id: u32, value: T) -> bool {
    let now = Instant::now();
    let mut cache = cache.lock();
    if cache.len() >= MAX_CACHED && !cache.contains_key(&id) {
        // Whoever is forgotten is asked for again.
        let oldest = cache.iter().min_by_key(|(_, known)| known.used);
        if let Some(id) = oldest.map(|(id, _)| *id) {
            cache.remove(&id);
        }
    }
    let new = Remembered {
        value,
        asked: now,
        used: now,
    };
    match cache.get_mut(&id) {
        Some(known) => {
            let differs = known.value != new.value;
            *known = new;
            differs
        }
        None => {
            cache.insert(id, new);
            false
        }
    }
}

/// The same without having been used.
fn renew<T: PartialEq>(cache: &Cache<T>, id: u32, value: T) -> bool {
    let mut cache = cache.lock();
    let Some(known) = cache.get_mut(&id) else {
        return false;
    };
    let differs = known.value != value;
    known.value = value;
    known.asked = Instant::now();
    differs
}

/// Who is to be asked for again; forgets who has not been used for long.
fn due<T>(cache: &Cache<T>, lifetime: Duration) -> Vec<u32> {
    let now = Instant::now();
    let mut cache = cache.lock();
    cache.retain(|_, known| now.duration_since(known.used) < lifetime.saturating_mul(FORGET_AFTER));
    cache
        .iter()
        .filter(|(_, known)| now.duration_since(known.asked) >= lifetime)
        .map(|(id, _)| *id)
        .collect()
}

fn versions() -> Vec<Option<Version>> {
    let version = |file: &&str| {
        let meta = std::fs::metadata(file).ok()?;
        Some((
            meta.dev(),
            meta.ino(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ))
    };
    FILES.iter().map(version).collect()
}

fn ask_user(uid: u32) -> Result<UserEntry, NamesError> {
    let failed = |errno| NamesError {
        what: format!("user {uid}"),
        errno,
    };
    let found = match User::from_uid(Uid::from_raw(uid)) {
        Ok(found) => found,
        // Root is root also while the name service is down.
        Err(_) if uid == 0 => None,
        Err(errno) => return Err(failed(errno)),
    };
    let Some(user) = found else {
        return Ok(UserEntry {
            name: numbered(uid),
            login: None,
            groups: None,
        });
    };
    // The name of two users names neither.
    let is_ours = match User::from_name(&user.name) {
        Ok(same) => same.is_some_and(|same| same.uid.as_raw() == uid),
        Err(errno) => return Err(failed(errno)),
    };
    let mut groups: Vec<u32> = match CString::new(user.name.as_str()) {
        Ok(name) => getgrouplist(&name, user.gid)
            .map_err(failed)?
            .into_iter()
            .map(Gid::as_raw)
            .collect(),
        Err(_) => vec![user.gid.as_raw()],
    };
    groups.sort_unstable();
    groups.dedup();
    let login: Option<Arc<str>> = is_ours.then(|| user.name.as_str().into());
    let in_arns = |name: &&Arc<str>| is_iam_name(name) && !name.starts_with("uid-");
    let name = login.as_ref().filter(in_arns).map(Arc::clone);
    Ok(UserEntry {
        name: name.unwrap_or_else(|| numbered(uid)),
        login,
        groups: Some(groups.into()),
    })
}

fn numbered(uid: u32) -> Arc<str> {
    format!("uid-{uid}").into()
}

fn ask_group(gid: u32) -> Result<Option<Arc<str>>, NamesError> {
    let failed = |errno| NamesError {
        what: format!("group {gid}"),
        errno,
    };
    let Some(group) = Group::from_gid(Gid::from_raw(gid)).map_err(failed)? else {
        return Ok(None);
    };
    let same = Group::from_name(&group.name).map_err(failed)?;
    let is_ours = same.is_some_and(|same| same.gid.as_raw() == gid);
    Ok(is_ours.then(|| group.name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_have_names() {
        let names = Names::new(Duration::from_secs(60));
        let root = names.user(0).unwrap();
        assert_eq!(&*root.name, "root");
        assert!(root.groups.unwrap().contains(&0));
        let nobody_knows = names.user(3_999_999).unwrap();
        assert_eq!(&*nobody_knows.name, "uid-3999999");
        assert_eq!(nobody_knows.groups, None);
        assert_eq!(names.group(0).unwrap().as_deref(), Some("root"));
        assert_eq!(names.group(3_999_999).unwrap(), None);
        assert!(names.remembered_user(0).is_some());
        assert!(names.remembered_user(1).is_none());
    }

    #[test]
    fn another_answer_makes_another_generation() {
        let names = Names::new(Duration::ZERO);
        names.user(0).unwrap();
        assert!(!names.refresh());
        // As if the name service had said something else a while ago.
        let stale = UserEntry {
            name: "root".into(),
            login: Some("root".into()),
            groups: Some(Arc::new([0, 4711])),
        };
        let names = Names::new(Duration::from_millis(1));
        remember(&names.users, 0, stale);
        let before = names.generation();
        std::thread::sleep(Duration::from_millis(5));
        assert!(names.refresh());
        assert_eq!(names.generation(), before + 1);
    }

    #[test]
    fn what_a_request_noticed_is_told_at_the_next_refresh() {
        let names = Names::new(Duration::ZERO);
        let stale = UserEntry {
            name: "root".into(),
            login: Some("root".into()),
            groups: Some(Arc::new([0, 4711])),
        };
        remember(&names.users, 0, stale);
        names.user(0).unwrap();
        assert!(names.refresh());
        assert!(!names.refresh());
    }

    #[test]
    fn a_changed_file_makes_another_generation() {
        let names = Names::new(Duration::from_secs(60));
        names.user(0).unwrap();
        assert!(!names.refresh());
        names.files.lock().pop();
        assert!(names.refresh());
        assert!(names.remembered_user(0).is_none(), "asked for again");
        assert!(!names.refresh());
    }
}
