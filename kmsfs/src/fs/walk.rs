//! A walk over a lower tree, however deep, with a bounded number of descriptors.
//!
//! Only the directories nearest to the present one are held open. On the way back up, one that was closed is opened again
//! as `..` of the one below it, and must be the same directory; if it is not, because something was moved, the walk
//! goes down to it anew from the root, checking each step.

use std::sync::Arc;

use super::{FsResult, Kind};
use crate::backing::{Dir, LowerEntry, LowerId};
use crate::errno::Errno;

/// How many directories are held open.
const OPEN: usize = 16;

/// A directory on the way.
pub(crate) struct Here<'a> {
    /// It.
    pub(crate) dir: &'a Arc<Dir>,
    /// Its lower names from the root of the walk down; empty for the root itself.
    pub(crate) path: &'a [Box<str>],
}

/// What is done at each step of a walk. An error ends it.
pub(crate) trait Visit {
    /// An entry of `here`, every lower name but `.` and `..`, in the order of the lower directory. For a directory: whether
    /// to go into it, which happens once all entries of `here` have been seen.
    ///
    /// # Errors
    /// Ends the walk.
    fn entry(&mut self, here: &Here<'_>, entry: &LowerEntry, kind: Kind) -> FsResult<bool>;

    /// All below `here`, and all in it, has been seen. A directory is gone from the walk after this: it may be removed.
    ///
    /// # Errors
    /// Ends the walk.
    fn left(&mut self, here: &Here<'_>) -> FsResult<()> {
        let _ = here;
        Ok(())
    }

    /// The directory `name` in `here` cannot be opened or read.
    ///
    /// # Errors
    /// Ends the walk; `Ok` goes on with the next.
    fn unreadable(&mut self, here: &Here<'_>, name: &str, errno: Errno) -> FsResult<()>;
}

/// A directory that has been listed, with what is still to be done in it.
struct Level {
    id: LowerId,
    dir: Option<Arc<Dir>>,
    below: Vec<Box<str>>,
}

/// Walks over everything below `root`, each directory before what is in it.
///
/// # Errors
/// What `visit` says; `ESTALE` if the tree was changed so that the walk lost its way.
pub(crate) fn walk(root: &Arc<Dir>, visit: &mut dyn Visit) -> FsResult<()> {
    let mut path: Vec<Box<str>> = Vec::new();
    let mut levels = vec![list(root, &path, visit)?];
    loop {
        let Some(level) = levels.last_mut() else {
            return Ok(());
        };
        let Some(name) = level.below.pop() else {
            let done = here(root, &mut levels, &path)?;
            visit.left(&Here {
                dir: &done,
                path: &path,
            })?;
            climb(&mut levels, &done);
            path.pop();
            continue;
        };
        let parent = here(root, &mut levels, &path)?;
        let opened = parent.open_dir(&name).map(Arc::new);
        path.push(name);
        match opened.and_then(|dir| list(&dir, &path, visit)) {
            Ok(level) => {
                levels.push(level);
                if let Some(far) = levels.len().checked_sub(OPEN + 1)
                    && let Some(level) = levels.get_mut(far)
                {
                    level.dir = None;
                }
            }
            Err(errno) => {
                let name = path.pop().unwrap_or_default();
                let at = Here {
                    dir: &parent,
                    path: &path,
                };
                visit.unreadable(&at, &name, errno)?;
            }
        }
    }
}

/// Shows all entries of a directory.
fn list(dir: &Arc<Dir>, path: &[Box<str>], visit: &mut dyn Visit) -> FsResult<Level> {
    let id = LowerId::of(&dir.stat()?);
    let mut below = Vec::new();
    let mut listing = dir.list()?;
    while let Some(entry) = listing.peek()? {
        if entry.name != b"." && entry.name != b".." {
            let name = String::from_utf8_lossy(&entry.name);
            let kind = match Kind::from_mode(entry.mode) {
                Some(kind) => Some(kind),
                None => match dir.stat_at(&name) {
                    Ok(stat) => Kind::from_mode(stat.st_mode),
                    // Removed since it was read.
                    Err(Errno::NOENT) => None,
                    Err(errno) => return Err(errno),
                },
            };
            if let Some(kind) = kind
                && visit.entry(&Here { dir, path }, entry, kind)?
                && kind == Kind::Directory
            {
                below.push(name.into());
            }
        }
        listing.advance();
    }
    // Taken from the end.
    below.reverse();
    Ok(Level {
        id,
        dir: Some(Arc::clone(dir)),
        below,
    })
}

/// Leaves the last directory, and opens the one above it if that is closed.
fn climb(levels: &mut Vec<Level>, from: &Dir) {
    levels.pop();
    if let Some(above) = levels.last_mut()
        && above.dir.is_none()
        && let Ok(dir) = from.open_dir("..")
        && dir.stat().is_ok_and(|stat| LowerId::of(&stat) == above.id)
    {
        above.dir = Some(Arc::new(dir));
    }
}

/// The last directory, opened again from the root if it could not be reached otherwise.
fn here(root: &Arc<Dir>, levels: &mut [Level], path: &[Box<str>]) -> FsResult<Arc<Dir>> {
    if let Some(Level { dir: Some(dir), .. }) = levels.last() {
        return Ok(Arc::clone(dir));
    }
    let mut dir = Arc::clone(root);
    for (name, level) in path.iter().zip(levels.iter().skip(1)) {
        let next = dir.open_dir(name).map_err(|_| Errno::STALE)?;
        if LowerId::of(&next.stat()?) != level.id {
            return Err(Errno::STALE);
        }
        dir = Arc::new(next);
    }
    if let Some(level) = levels.last_mut() {
        level.dir = Some(Arc::clone(&dir));
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[derive(Default)]
    struct Everything {
        seen: BTreeSet<String>,
        left: Vec<usize>,
        refused: Vec<String>,
        /// Moved away when this depth is reached.
        stray: Option<(usize, std::path::PathBuf, std::path::PathBuf)>,
    }

    impl Visit for Everything {
        fn entry(&mut self, here: &Here<'_>, entry: &LowerEntry, _: Kind) -> FsResult<bool> {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            if let Some((_, from, to)) = self
                .stray
                .take_if(|(depth, _, _)| here.path.len() == *depth)
            {
                fs::rename(from, to).unwrap();
            }
            let mut path = here.path.join("/");
            path.push('/');
            path.push_str(&name);
            self.seen.insert(path);
            Ok(true)
        }

        fn left(&mut self, here: &Here<'_>) -> FsResult<()> {
            self.left.push(here.path.len());
            Ok(())
        }

        fn unreadable(&mut self, _: &Here<'_>, name: &str, _: Errno) -> FsResult<()> {
            self.refused.push(name.to_owned());
            Ok(())
        }
    }

    fn opened(path: &Path) -> Arc<Dir> {
        Arc::new(Dir::open_root(path).unwrap())
    }

    #[test]
    fn everything_is_seen_and_left_from_below() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["a/b/c", "a/d", "e"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        fs::write(folder.path().join("a/b/file"), "").unwrap();
        let mut all = Everything::default();
        walk(&opened(folder.path()), &mut all).unwrap();
        let expected = ["/a", "/e", "a/b", "a/d", "a/b/c", "a/b/file"];
        assert_eq!(all.seen, expected.map(str::to_owned).into());
        assert_eq!(all.left.len(), 6);
        assert_eq!(all.left.last(), Some(&0));
    }

    #[test]
    fn four_thousand_levels_need_few_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let root = opened(folder.path());
        let mut here = Arc::clone(&root);
        for _ in 0..4000 {
            here.make_dir("d", 0o700).unwrap();
            here.make_dir("e", 0o700).unwrap();
            here = Arc::new(here.open_dir("d").unwrap());
        }
        drop(here);
        let before = fs::read_dir("/proc/self/fd").unwrap().count();
        struct Counting(usize, usize);
        impl Visit for Counting {
            fn entry(&mut self, here: &Here<'_>, _: &LowerEntry, _: Kind) -> FsResult<bool> {
                self.0 += 1;
                if here.path.len().is_multiple_of(500) {
                    self.1 = self.1.max(fs::read_dir("/proc/self/fd").unwrap().count());
                }
                Ok(true)
            }
            fn unreadable(&mut self, _: &Here<'_>, name: &str, errno: Errno) -> FsResult<()> {
                panic!("{name}: {errno}");
            }
        }
        let mut counting = Counting(0, 0);
        walk(&root, &mut counting).unwrap();
        assert_eq!(counting.0, 8000);
        // Other tests of this process open some, too: 4000 it would be without the bound.
        assert!(counting.1 < before + 1000, "{} {before}", counting.1);
        remove_deep(&root);
    }

    #[test]
    fn what_is_moved_away_meanwhile_ends_the_walk_or_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut deep = folder.path().join("a");
        for _ in 0..60 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::create_dir(folder.path().join("aside")).unwrap();
        let from = folder.path().join("a/d/d/d");
        let to = folder.path().join("aside/d");
        let mut all = Everything {
            stray: Some((50, from, to)),
            ..Everything::default()
        };
        // On the way up the place above the moved directory is another one.
        let walked = walk(&opened(folder.path()), &mut all);
        assert!(matches!(walked, Ok(()) | Err(Errno::STALE)), "{walked:?}");
        assert!(all.seen.len() > 60);
    }

    /// `remove_dir_all` of the standard library opens every level at once.
    fn remove_deep(root: &Arc<Dir>) {
        struct Removing;
        impl Visit for Removing {
            fn entry(&mut self, _: &Here<'_>, _: &LowerEntry, _: Kind) -> FsResult<bool> {
                Ok(true)
            }
            fn left(&mut self, here: &Here<'_>) -> FsResult<()> {
                match here.path.last() {
                    Some(name) => here.dir.open_dir("..")?.remove_dir(name),
                    None => Ok(()),
                }
            }
            fn unreadable(&mut self, _: &Here<'_>, _: &str, errno: Errno) -> FsResult<()> {
                Err(errno)
            }
        }
        walk(root, &mut Removing).unwrap();
        assert_eq!(root.stat().unwrap().st_nlink, 2);
    }
}
