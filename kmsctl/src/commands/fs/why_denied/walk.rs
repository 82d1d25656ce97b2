//! The way to a path, from the root of the host down, and everything on it that denies it, in the order in which it is met.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use kmsfs::control::client;
use kmsfs::control::protocol::{Answer, Command};
use kmsfs::control::way::{Asker, OnTheWay, Step, Way};
use kmsfs::mount::table::{self, FS_TYPE, MountEntry};

use super::kmsd::Decisions;
use super::permission::{Object, Want};
use super::person::Person;
use super::{Access, Reason, quoted, shown};
use crate::Context;
use crate::commands::fs::protect::{components, socket, unreachable_mount};
use crate::exit::{Exit, Failure};

/// The mount asks kmsd.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) struct Walk<'a> {
    person: &'a Person,
    access: Access,
    control: Option<&'a Path>,
    decisions: Decisions<'a>,
    mounts: Option<Vec<MountEntry>>,
    reasons: Vec<Reason>,
    notes: Vec<String>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        person: &'a Person,
        access: Access,
        control: Option<&'a Path>,
        context: &'a Context,
    ) -> Walk<'a> {
        Walk {
            person,
            access,
            control,
            decisions: Decisions::new(person, context),
            mounts: None,
            reasons: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn found(self) -> (Vec<Reason>, Vec<String>) {
        (self.reasons, self.notes)
    }

    pub(super) fn is_mounted(&mut self, path: &Path) -> Result<bool, Failure> {
        Ok(self.mount_of(path)?.is_some())
    }

    /// The kmsfs mount that shows a path.
    fn mount_of(&mut self, path: &Path) -> Result<Option<MountEntry>, Failure> {
        if self.mounts.is_none() {
            let mounts = table::mounts().map_err(|error| Failure::local("/proc", &error))?;
            self.mounts = Some(mounts);
        }
        let mounts = self.mounts.iter().flatten();
        let covering = mounts
            .filter(|mount| path.starts_with(&mount.mountpoint))
            // The longest mount point covers the path; of equal ones the last is on top.
            .max_by_key(|mount| mount.mountpoint.components().count());
        Ok(covering.filter(|mount| mount.fs_type == FS_TYPE).cloned())
    }

    /// Goes from the root of the host to `path`, which is wanted in these ways.
    pub(super) fn go(&mut self, path: &Path, wants: &[Want]) -> Result<(), Failure> {
        let mount = self.mount_of(path)?;
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        above.reverse();
        for directory in above {
            let inside = mount.as_ref();
            if inside.is_some_and(|mount| directory.starts_with(&mount.mountpoint)) {
                break;
            }
            self.look(directory, &[Want::Execute]);
        }
        match mount {
            Some(mount) => self.enter(&mount, path, wants),
            None => {
                self.look(path, wants);
                Ok(())
            }
        }
    }

    /// Something outside of the mount.
    fn look(&mut self, path: &Path, wants: &[Want]) {
        match path.metadata() {
            Ok(found) => {
                let acl = acl_of(path);
                let object = Object {
                    mode: found.mode(),
                    uid: found.uid(),
                    gid: found.gid(),
                    acl,
                };
                self.permit(&object, path, wants);
            }
            Err(error) => self.note(format!(
                "{}: this process cannot look at it, so its permissions are not considered: {error}",
                path.display()
            )),
        }
    }

    fn permit(&mut self, object: &Object, path: &Path, wants: &[Want]) {
        for want in wants {
            let Some(class) = object.refuses(self.person, *want) else {
                continue;
            };
            let path = shown(path);
            let (message, next_step) = object.explain(class, self.person, *want, &path);
            self.deny(Reason {
                reason: "permission",
                path,
                error: "EACCES".to_owned(),
                message,
                next_step,
                ..Reason::default()
            });
        }
    }

    /// The part of the way that is in a mount.
    fn enter(&mut self, mount: &MountEntry, path: &Path, wants: &[Want]) -> Result<(), Failure> {
        self.gate(mount);
        let names = components(&mount.root, &mount.mountpoint, path);
        let way = self.ask(mount, &names)?;
        // A bind mount shows only what is below its root.
        let hidden = mount.root.components().count().saturating_sub(1);
        let paths: Vec<PathBuf> = visible(&mount.mountpoint, path);
        for (index, step) in way.steps.iter().enumerate() {
            let policies = way.policies.iter();
            let begins: Vec<&OnTheWay> = policies
                .filter(|policy| policy.at.max(hidden) == index)
                .collect();
            let Some(path) = index.checked_sub(hidden).and_then(|depth| paths.get(depth)) else {
                continue;
            };
            // Of those that begin above what a bind mount shows the last one counts.
            if let Some(policy) = begins.last() {
                let found = self.decisions.reasons(policy, &way, &shown(path));
                for reason in found {
                    self.deny(reason);
                }
            }
            let object = object(step);
            match index == names.len() {
                false => self.permit(&object, path, &[Want::Execute]),
                true => self.end(mount, &object, path, wants),
            }
        }
        self.leave(mount, &way, &paths);
        Ok(())
    }

    /// Whether the kernel lets processes of the user into the mount at all.
    fn gate(&mut self, mount: &MountEntry) {
        let owner = mount.user();
        if mount.has("allow_other") || owner == Some(self.person.uid) {
            return;
        }
        let path = shown(&mount.mountpoint);
        let owner = super::person::name_of(owner.unwrap_or(0));
        self.deny(Reason {
            reason: "private_mount",
            error: "EACCES".to_owned(),
            message: format!(
                "it is mounted without allow_other, so that the kernel lets nobody in but {owner}, who mounted it"
            ),
            next_step: format!(
                "unmount {0}, and mount it with -o allow_other (with access=users each user needs a grant, with access=mounter \
                 everybody counts as {owner})",
                quoted(&path)
            ),
            path,
            ..Reason::default()
        });
    }

    /// The object at the end of the path.
    fn end(&mut self, mount: &MountEntry, object: &Object, path: &Path, wants: &[Want]) {
        if wants.contains(&Want::Write) && mount.has("ro") {
            let point = shown(&mount.mountpoint);
            self.deny(Reason {
                reason: "read_only",
                path: point.clone(),
                error: "EROFS".to_owned(),
                message: "it is mounted read-only".to_owned(),
                next_step: format!("kmsfs remount -o rw {}", quoted(&point)),
                ..Reason::default()
            });
        }
        self.permit(object, path, wants);
        if self.access == Access::Execute && mount.has("noexec") && !object.is_directory() {
            let point = shown(&mount.mountpoint);
            self.deny(Reason {
                reason: "noexec",
                path: point.clone(),
                error: "EACCES".to_owned(),
                message: "it is mounted noexec: no program in it can be run".to_owned(),
                next_step: format!("kmsfs remount -o exec {}", quoted(&point)),
                ..Reason::default()
            });
        }
    }

    /// Where the mount could not go on, and what else it said.
    fn leave(&mut self, mount: &MountEntry, way: &Way, paths: &[PathBuf]) {
        let hidden = mount.root.components().count().saturating_sub(1);
        let depth = way.steps.len().saturating_sub(1).saturating_sub(hidden);
        let last = paths.get(depth).unwrap_or(&mount.mountpoint);
        if paths.len() > depth + 1 && way.ended.is_some() {
            self.note(format!(
                "what is below {} cannot be looked at, and may deny it as well",
                last.display()
            ));
        }
        if self.access == Access::Write
            && let Some(seconds) = way.frozen
        {
            self.note(format!(
                "changes in this mount are held for up to {seconds} s: who writes waits until `kmsctl fs thaw {}`",
                quoted(&shown(&mount.mountpoint))
            ));
        }
        if !way.cut_off.is_empty() {
            let processes: Vec<_> = way.cut_off.iter().map(u32::to_string).collect();
            self.note(format!(
                "{} has it open since before access was ended, and what is open stays revoked: processes {} have to open it again",
                self.person.name(),
                processes.join(", ")
            ));
        }
        let Some(ended) = &way.ended else { return };
        let path = shown(last);
        let explained = |reason: &Reason| {
            matches!(
                reason.reason,
                "locked" | "key_unusable" | "kmsd_away" | "kmsd_refuses"
            )
        };
        match ended.error.as_str() {
            // The policy says the same.
            "ENOKEY" | "ETIMEDOUT" if self.reasons.iter().any(explained) => {}
            "ENOKEY" | "ETIMEDOUT" => {
                let message = ended.refusal.clone();
                let message = message
                    .unwrap_or_else(|| "kmsd does not give its keys to the mount".to_owned());
                let next_step = match message.split_once("; ") {
                    Some((_, next)) => next.to_owned(),
                    None => format!("kmsctl fs status {}", quoted(&shown(&mount.mountpoint))),
                };
                self.deny(Reason {
                    reason: "no_key",
                    path,
                    error: ended.error.clone(),
                    message,
                    next_step,
                    ..Reason::default()
                });
            }
            "EIO" => {
                let next_step = format!("kmsctl fs check {}", quoted(&path));
                self.deny(Reason {
                    reason: "damaged",
                    path,
                    error: ended.error.clone(),
                    message:
                        "it is damaged in the lower tree: the log of the mount says what and where"
                            .to_owned(),
                    next_step,
                    ..Reason::default()
                });
            }
            other => {
                let error = other.to_owned();
                self.deny(Reason {
                    reason: "error",
                    path,
                    error,
                    message: format!("the mount cannot go on from here: {other}"),
                    next_step: "see the log of the mount".to_owned(),
                    ..Reason::default()
                });
            }
        }
    }

    fn ask(&self, mount: &MountEntry, names: &[String]) -> Result<Way, Failure> {
        let denied = || {
            Failure::new(
                Exit::Denied,
                "only root and the user who mounted may ask why somebody is denied",
            )
            .next("Ask one of them to run this command.")
        };
        let me = rustix::process::geteuid().as_raw();
        let socket = match socket(self.control, mount) {
            // Who may not use it does not find it either.
            Err(_) if me != 0 && mount.user() != Some(me) => return Err(denied()),
            socket => socket?,
        };
        let command = Command::WhyDenied {
            path: names.to_vec(),
            who: Asker {
                uid: self.person.uid,
                gid: self.person.gid,
            },
        };
        match client::ask(&socket, &command, TIMEOUT) {
            Ok(Answer::Way(way)) => Ok(*way),
            Ok(Answer::Failed(failed)) => {
                Err(Failure::new(Exit::FileSystem, failed.message).next(failed.next_step))
            }
            Ok(_) => Err(Failure::new(
                Exit::Protocol,
                "the mount gave another answer than asked for",
            )),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(denied()),
            Err(error) => Err(unreachable_mount(&socket, &error)),
        }
    }

    /// The same reason is met again where two ways have directories in common.
    fn deny(&mut self, reason: Reason) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// The mount point and everything below it on the way to a path.
fn visible(mountpoint: &Path, path: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = path
        .ancestors()
        .take_while(|above| above.starts_with(mountpoint))
        .map(Path::to_owned)
        .collect();
    paths.reverse();
    paths
}

fn object(step: &Step) -> Object {
    let acl = step.acl.as_ref();
    Object {
        mode: step.mode,
        uid: step.uid,
        gid: step.gid,
        acl: acl.and_then(|acl| BASE64.decode(acl.as_bytes()).ok()),
    }
}

/// The ACL of something outside of mounts.
fn acl_of(path: &Path) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let length = rustix::fs::getxattr(path, "system.posix_acl_access", &mut buffer).ok()?;
    buffer.truncate(length);
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_in_a_mount_begins_at_its_point() {
        let paths = visible(Path::new("/mnt/x"), Path::new("/mnt/x/a/b"));
        let wanted = ["/mnt/x", "/mnt/x/a", "/mnt/x/a/b"].map(PathBuf::from);
        assert_eq!(paths, wanted);
        assert_eq!(visible(Path::new("/mnt"), Path::new("/mnt")).len(), 1);
    }
}
