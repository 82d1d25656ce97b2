//! The systemd unit of a process, from its cgroup.
//!
//! A unit is the first directory below the slices. What lies below a unit is the unit's own affair
//! (a container, a user's manager, a service with `Delegate=`): names there are chosen by whoever runs
//! in the unit and say nothing. What lies below `user.slice` are users' sessions, not services of the
//! system.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// A place in a hierarchy of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cgroup {
    /// The path that /proc shows.
    path: String,
    /// Whether that is its path: bytes of it that are not UTF-8 are replaced.
    exact: bool,
    /// Where its hierarchy may be mounted, below [`ROOT`].
    mounts: &'static [&'static str],
}

impl Cgroup {
    /// The cgroup that systemd put the process into: of its own hierarchy on a host with cgroups of
    /// version 1, else of the unified one.
    ///
    /// Names below a unit are those of its own processes, which may choose any bytes: that the rest of the
    /// path is not UTF-8 must not hide the unit.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let find = |name: &str| {
            text.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                (controllers == name && path.starts_with('/')).then(|| path.to_owned())
            })
        };
        match (find("name=systemd"), find("")) {
            (Some(path), _) => Some(Self {
                exact: !path.contains(char::REPLACEMENT_CHARACTER),
                path,
                mounts: &["systemd"],
            }),
            (None, Some(path)) => Some(Self {
                exact: !path.contains(char::REPLACEMENT_CHARACTER),
                path,
                mounts: &["", "unified"],
            }),
            (None, None) => None,
        }
    }

    /// The path, if it can be written.
    pub(super) fn text(&self) -> Option<String> {
        self.exact.then(|| self.path.clone())
    }

    /// The unit, if all directories down to it belong to root and nobody else may make more of them; none
    /// inside for a path that names none. `None` for a unit that nobody vouches for: it is not known.
    pub(super) fn unit(&self) -> Option<Option<String>> {
        let Some((unit, parents)) = unit_of(&self.path) else {
            return Some(None);
        };
        let is_roots = |path: &Path| {
            path.symlink_metadata()
                .is_ok_and(|meta| meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o022 == 0)
        };
        let vouched = self.mounts.iter().any(|mount| {
            let mut place = PathBuf::from(ROOT);
            place.push(mount);
            let mut all = vec![place.clone()];
            for parent in &parents {
                place.push(parent);
                all.push(place.clone());
            }
            all.iter().all(|place| is_roots(place))
        });
        vouched.then(|| Some(unit.to_owned()))
    }
}

/// The unit of a path, and the slices above it.
fn unit_of(path: &str) -> Option<(&str, Vec<&str>)> {
    let mut slices = Vec::new();
    for part in path.strip_prefix('/')?.split('/') {
        if part == "user.slice" {
            return None;
        }
        if part.ends_with(".slice") {
            slices.push(part);
            continue;
        }
        let known = [".service", ".scope"];
        let (name, _) = part.rsplit_once('.')?;
        let is_unit = !name.is_empty() && known.iter().any(|suffix| part.ends_with(suffix));
        // systemd escapes names that could be taken for the kernel's own files.
        let part = part.strip_prefix('_').unwrap_or(part);
        return is_unit.then_some((part, slices));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> Option<&str> {
        unit_of(path).map(|(unit, _)| unit)
    }

    #[test]
    fn a_unit_is_the_first_directory_below_the_slices() {
        assert_eq!(unit("/system.slice/nginx.service"), Some("nginx.service"));
        assert_eq!(
            unit_of("/system.slice/system-getty.slice/getty@tty1.service"),
            Some((
                "getty@tty1.service",
                vec!["system.slice", "system-getty.slice"]
            ))
        );
        assert_eq!(unit("/init.scope"), Some("init.scope"));
        assert_eq!(
            unit("/machine.slice/machine-web.scope/payload/system.slice/nginx.service"),
            Some("machine-web.scope"),
            "what runs in a container is the container's"
        );
    }

    #[test]
    fn names_below_a_unit_are_worth_nothing() {
        assert_eq!(
            unit("/system.slice/run.service/system.slice/nginx.service"),
            Some("run.service")
        );
        let user = "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service";
        assert_eq!(unit(user), None, "units of users are not the system's");
        assert_eq!(unit("/user.slice/user-1000.slice/session-2.scope"), None);
        assert_eq!(unit("/system.slice"), None);
        assert_eq!(unit("/"), None);
        assert_eq!(unit("/docker/4711/nginx.service"), None);
        assert_eq!(unit("/../nginx.service"), None, "outside of our namespace");
        assert_eq!(unit("/system.slice/.service"), None);
        assert_eq!(unit("system.slice/x.service"), None);
    }

    #[test]
    fn the_hierarchy_of_systemd_is_found() {
        let unified = Cgroup::parse(b"0::/system.slice/a.service\n").unwrap();
        assert_eq!(unified.path, "/system.slice/a.service");
        let hybrid =
            "3:cpu:/x\n1:name=systemd:/system.slice/b.service\n0::/system.slice/c.service\n";
        assert_eq!(
            Cgroup::parse(hybrid.as_bytes()).unwrap().path,
            "/system.slice/b.service"
        );
        assert_eq!(Cgroup::parse(b"3:cpu:/system.slice/b.service\n"), None);
        assert_eq!(Cgroup::parse(b""), None);
    }

    #[test]
    fn slices_that_are_not_there_vouch_for_nothing() {
        let path = "/no-such-thing.slice/nginx.service";
        let cgroup = Cgroup::parse(format!("0::{path}\n").as_bytes()).unwrap();
        assert!(unit(path).is_some());
        assert_eq!(cgroup.unit(), None, "not known, instead of none");
        let outside = Cgroup::parse(b"0::/\n").unwrap();
        assert_eq!(outside.unit(), Some(None));
    }

    #[test]
    fn bytes_that_are_not_text_hide_no_unit() {
        let cgroup = Cgroup::parse(b"0::/system.slice/a.service/\xff\n").unwrap();
        assert_eq!(unit(&cgroup.path), Some("a.service"));
        assert_eq!(cgroup.text(), None);
    }
}
