//! The directories that a path leads through, symbolic links followed one by one: whoever opens it has to get through all of them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// Where a path leads, and through what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Road {
    /// Directories off the way to the end, whose entries are links on it, or that it leaves again by `..`.
    pub(super) detours: Vec<PathBuf>,
    /// The end, without links.
    pub(super) end: PathBuf,
    /// Nothing has the last name.
    pub(super) missing: bool,
}

impl Road {
    /// Follows a path as far as this process can look. What it cannot look into is taken to have no links.
    ///
    /// # Errors
    /// Something on the way is not there, or there are too many links.
    pub(super) fn follow(path: &Path) -> io::Result<Road> {
        let path = std::path::absolute(path)?;
        let mut left: VecDeque<OsString> = names(&path);
        let mut road = Road {
            detours: Vec::new(),
            end: PathBuf::from("/"),
            missing: false,
        };
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                road.detours.push(road.end.clone());
                road.end.pop();
                continue;
            }
            let next = road.end.join(&name);
            match next.symlink_metadata() {
                Ok(found) if found.is_symlink() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = next.read_link()?;
                    road.detours.push(road.end.clone());
                    if target.is_absolute() {
                        road.end = PathBuf::from("/");
                    }
                    for name in names(&target).into_iter().rev() {
                        left.push_front(name);
                    }
                }
                Ok(_) => road.end = next,
                Err(error) if error.kind() == io::ErrorKind::NotFound && left.is_empty() => {
                    road.missing = true;
                    road.end = next;
                }
                Err(error) if is_refusal(&error) => road.end = next,
                Err(error) => return Err(error),
            }
        }
        let end = road.end.clone();
        road.detours.retain(|detour| !end.starts_with(detour));
        road.detours.dedup();
        Ok(road)
    }
}

/// The errors of what is locked, damaged, or another user's.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [
        Errno::NOKEY,
        Errno::KEYREVOKED,
        Errno::ACCESS,
        Errno::TIMEDOUT,
        Errno::IO,
    ];
    refusals
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn names(path: &Path) -> VecDeque<OsString> {
    let components = path.components();
    components
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_and_what_they_lead_through_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        for directory in ["a/b", "c"] {
            std::fs::create_dir_all(top.join(directory)).unwrap();
        }
        std::fs::write(top.join("a/b/file"), "").unwrap();
        std::os::unix::fs::symlink("../a/b", top.join("c/link")).unwrap();
        std::os::unix::fs::symlink(top.join("c/link/file"), top.join("short")).unwrap();
        let road = Road::follow(&top.join("short")).unwrap();
        assert_eq!(road.end, top.join("a/b/file"));
        assert_eq!(road.detours, [top.join("c")]);
        assert!(!road.missing);

        let road = Road::follow(&top.join("c/../a/new")).unwrap();
        assert!(road.missing);
        assert_eq!(road.end, top.join("a/new"));
        assert_eq!(road.detours, [top.join("c")]);
        let error = Road::follow(&top.join("a/none/new")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink("loop", top.join("loop")).unwrap();
        let error = Road::follow(&top.join("loop")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }
}
