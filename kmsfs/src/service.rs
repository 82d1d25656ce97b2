//! Whom kmsfs runs as: root starts it for everybody, then it becomes a user of its own, which kmsd knows as a service.
//!
//! Root is an administrator to kmsd; a service may only ask for users, so that who takes kmsfs over does not become an
//! administrator of keys by it. What it does for its users in the lower tree needs capabilities, and it keeps these.

use std::io;
use std::sync::OnceLock;

use rustix::fs::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Who mounted, if kmsfs became somebody else since.
static MOUNTER: OnceLock<Uid> = OnceLock::new();

/// The user of a service unless chosen otherwise.
pub const DEFAULT_USER: &str = "kmsfs";

/// What a service keeps of root's capabilities.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::LINUX_IMMUTABLE)
    // Mounting and unmounting, `trusted.` attributes.
    .union(CapabilitySet::SYS_ADMIN)
    // The lower file system's reserve, which was root's to use.
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::IPC_LOCK)
    // Who holds files of the mount, and the end of it.
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::KILL);

/// What it takes to give objects to those who make them.
const FOR_OTHERS: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER);

/// Why kmsfs did not become a service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No such user.
    #[error(
        "there is no user {user} for a mount that tells users apart: make it with `systemd-sysusers kmsd.conf` or \
         `useradd --system --no-create-home {user}`, name another with -o user=NAME, or mount with -o access=mounter"
    )]
    NoUser {
        /// The name.
        user: String,
    },
    /// A service with the rights of an administrator.
    #[error(
        "a mount that tells users apart runs as a user of its own, and root is none: name another with -o user=NAME"
    )]
    Root,
    /// The kernel or the name service refuses.
    #[error("cannot become the user {user}: {what}: {source}")]
    System {
        /// The name.
        user: String,
        /// What was tried.
        what: &'static str,
        /// What was said.
        source: io::Error,
    },
}

/// Becomes the user `name` (or a number) for good and keeps the capabilities a shared mount needs. To be called while this is the
/// only thread: capabilities are a thread's own.
///
/// # Errors
/// See [`ServiceError`]. The process has to end then: what it is is not defined.
pub fn become_user(name: &str) -> Result<(), ServiceError> {
    let system = |what: &'static str| {
        let user = name.to_owned();
        move |source: io::Error| ServiceError::System { user, what, source }
    };
    let (uid, gid) = ids_of(name)?;
    if uid.is_root() {
        return Err(ServiceError::Root);
    }
    let threads = std::fs::read_dir("/proc/self/task").map_err(system("counting threads"))?;
    if threads.count() != 1 {
        let error = io::Error::other("there are other threads already");
        return Err(system("changing users")(error));
    }
    let before = rustix::process::getuid();
    // The directory of control sockets is root's, as its clients want it.
    crate::control::make_directory().map_err(system("making the directory of control sockets"))?;
    let mine = rustix::thread::capabilities(None)
        .map_err(|error| system("capabilities")(error.into()))?
        .permitted;
    let change = || -> rustix::io::Result<()> {
        rustix::thread::set_keep_capabilities(true)?;
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        let kept = KEPT & mine;
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets)?;
        rustix::thread::set_keep_capabilities(false)?;
        rustix::thread::set_no_new_privs(true)
    };
    change().map_err(|error| system("changing users")(error.into()))?;
    // The kernel takes a change of users for a reason to allow dumps, or not, as the whole system does.
    kms_crypto::harden_process()
        .map_err(|error| system("keeping keys out of core dumps")(io::Error::other(error)))?;
    let _ = MOUNTER.set(before);
    tracing::info!(
        user = name,
        uid = uid.as_raw(),
        "runs as a service from now on"
    );
    Ok(())
}

/// Who mounted: whoever started kmsfs, also after it became a service.
#[must_use]
pub fn mounter() -> Uid {
    MOUNTER
        .get()
        .copied()
        .unwrap_or_else(rustix::process::geteuid)
}

/// Whether objects can be given to other users.
#[must_use]
pub fn can_give_away() -> bool {
    has(FOR_OTHERS)
}

/// Whether this process may mount and unmount by itself.
#[must_use]
pub fn can_mount() -> bool {
    has(CapabilitySet::SYS_ADMIN)
}

fn has(wanted: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

fn ids_of(name: &str) -> Result<(Uid, Gid), ServiceError> {
    if let Ok(number) = name.parse::<u32>() {
        // -1 stands for "as it is".
        if number == u32::MAX {
            let user = name.to_owned();
            return Err(ServiceError::NoUser { user });
        }
        return Ok((Uid::from_raw(number), Gid::from_raw(number)));
    }
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok((
            Uid::from_raw(user.uid.as_raw()),
            Gid::from_raw(user.gid.as_raw()),
        )),
        Ok(None) => Err(ServiceError::NoUser {
            user: name.to_owned(),
        }),
        Err(errno) => Err(ServiceError::System {
            user: name.to_owned(),
            what: "asking the name service",
            source: io::Error::from_raw_os_error(errno as i32),
        }),
    }
}
