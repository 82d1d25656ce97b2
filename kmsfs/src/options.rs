//! The command line: `kmsfs mount LOWER MOUNTPOINT [-o options]`, and the form `mount(8)` uses,
//! `mount.kmsfs LOWER MOUNTPOINT [-sfnv] [-o options]`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::access::AccessMode;
use crate::errno::Errno;
use crate::fs::AccessTimes;
use crate::service::DEFAULT_USER;

/// Where kmsd listens unless told otherwise.
pub const DEFAULT_KMSD_SOCKET: &str = "/run/kmsd/kmsd.sock";

/// A FUSE file system that encrypts each protected directory under its own KMS key.
#[derive(Debug, Parser)]
#[command(name = "kmsfs", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount an encrypted directory.
    ///
    /// Without --foreground the command returns as soon as the mount can be used, with status 0,
    /// or with another status and the reason on standard error.
    Mount(MountArgs),
    /// Change a mount that is there, as `mount -o remount` does: ro, rw, nosuid, nodev, noexec and the like.
    Remount(RemountArgs),
}

/// Arguments of `kmsfs remount`.
#[derive(Clone, Debug, Args)]
pub struct RemountArgs {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Options that change, separated by commas; what is not named stays.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// The options are all that hold from now on: `mount(8)` has added those of before.
    #[arg(long, hide = true)]
    pub all: bool,
}

/// Arguments of `kmsfs mount`.
#[derive(Clone, Debug, Args)]
pub struct MountArgs {
    /// The encrypted directory, made by `kmsctl fs init`.
    pub lower: PathBuf,
    /// Where the plain text appears.
    pub mountpoint: PathBuf,
    /// Mount options, separated by commas: ro, allow_other, nosuid, suid, nodev, dev, noexec,
    /// noatime, relatime, strictatime, sync, dirsync, readahead=KIB, threads=N, key_wait=SECONDS,
    /// access=users|mounter, user=NAME, denied=EACCES|ENOKEY|EKEYREVOKED,
    /// revoke_limit=SECONDS, socket=PATH, control=PATH, log=FILE. For mount(8) and fstab, which keep suid and dev to
    /// themselves: allow_suid, allow_dev.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Stay in the foreground and log to standard error.
    #[arg(short, long)]
    pub foreground: bool,
    /// The socket of kmsd [default: $KMSD_SOCKET, or /run/kmsd/kmsd.sock].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The control socket of this mount [default: /run/kmsfs/VOLUME.sock for root, otherwise
    /// $XDG_RUNTIME_DIR/kmsfs/VOLUME.sock].
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Append the log to this file instead of sending it to syslog or standard error.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Options of a mount, all of them decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// No writes.
    pub read_only: bool,
    /// Other users than the one who mounts may use it.
    pub allow_other: bool,
    /// Whose grants count, if not what [`MountOptions::access`] takes for granted.
    pub access: Option<AccessMode>,
    /// The user that kmsfs becomes for a mount that tells users apart.
    pub user: String,
    /// What somebody without a grant is answered.
    pub denied: Errno,
    /// Set-user-id bits are honoured. Off by default: owner and mode are not authenticated in the
    /// lower tree.
    pub suid: bool,
    /// Device files work. Off by default, for the same reason.
    pub dev: bool,
    /// Programs may be run.
    pub exec: bool,
    /// When reading moves access times; the lower file system may do so less often.
    pub access_times: AccessTimes,
    /// All writes are synchronous.
    pub sync: bool,
    /// Changes of directories are synchronous.
    pub dirsync: bool,
    /// Readahead in KiB, set through sysfs after the mount (root only). 0 leaves the kernel's 128.
    pub readahead_kib: u32,
    /// Threads that answer requests.
    pub threads: usize,
    /// Use nothing of the kernel that Linux 6.1 does not have, for tests on newer ones.
    pub old_kernel: bool,
    /// How long an operation waits for kmsd to unlock a directory.
    pub key_wait: Duration,
    /// How long a revocation may take before the mount is ended, so that nobody gets anything any more.
    pub revoke_limit: Duration,
    /// The socket of kmsd.
    pub socket: PathBuf,
    /// The control socket, if not the default.
    pub control: Option<PathBuf>,
    /// The log file, if not syslog or standard error.
    pub log: Option<PathBuf>,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            read_only: false,
            allow_other: false,
            access: None,
            user: DEFAULT_USER.to_owned(),
            denied: Errno::ACCES,
            suid: false,
            dev: false,
            exec: true,
            access_times: AccessTimes::Relative,
            sync: false,
            dirsync: false,
            readahead_kib: 1024,
            threads: default_threads(),
            old_kernel: false,
            key_wait: Duration::from_secs(10),
            revoke_limit: Duration::from_secs(10),
            socket: PathBuf::from(DEFAULT_KMSD_SOCKET),
            control: None,
            log: None,
        }
    }
}

/// A mount option that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    /// Not an option of kmsfs or of `mount(8)`.
    #[error("unknown mount option `{0}`; `kmsfs mount --help` lists the options")]
    Unknown(String),
    /// An option with a value that does not fit.
    #[error("mount option `{name}` needs {expected}, not `{value}`")]
    Value {
        /// The option.
        name: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What was given.
        value: String,
    },
}

impl MountOptions {
    /// Decides all options from a command line. Later options win over earlier ones, and
    /// `--socket`, `--control` and `--log` over their `-o` forms.
    ///
    /// # Errors
    /// An unknown option, or one whose value does not fit.
    pub fn from_args(args: &MountArgs) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        if let Some(socket) = std::env::var_os("KMSD_SOCKET") {
            options.socket = PathBuf::from(socket);
        }
        options.old_kernel = std::env::var_os("KMSFS_KERNEL").is_some_and(|value| value == "6.1");
        for option in args.options.iter().flat_map(|list| list.split(',')) {
            options.apply(option)?;
        }
        if options.access == Some(AccessMode::Users) && !options.allow_other {
            return Err(bad("access", "allow_other beside `users`", "users"));
        }
        if let Some(socket) = &args.socket {
            options.socket.clone_from(socket);
        }
        if args.control.is_some() {
            options.control.clone_from(&args.control);
        }
        if args.log.is_some() {
            options.log.clone_from(&args.log);
        }
        Ok(options)
    }

    /// Whose grants count: with `allow_other` those of each user, unless chosen otherwise.
    #[must_use]
    pub fn access(&self) -> AccessMode {
        match self.access {
            Some(chosen) => chosen,
            None if self.allow_other => AccessMode::Users,
            None => AccessMode::Mounter,
        }
    }

    fn apply(&mut self, option: &str) -> Result<(), OptionError> {
        let (name, value) = option
            .split_once('=')
            .map_or((option, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("allow_other", None) => self.allow_other = true,
            ("suid" | "allow_suid", None) => self.suid = true,
            ("nosuid", None) => self.suid = false,
            ("dev" | "allow_dev", None) => self.dev = true,
            ("nodev", None) => self.dev = false,
            ("exec", None) => self.exec = true,
            ("noexec", None) => self.exec = false,
            ("atime" | "relatime" | "nostrictatime", None) => {
                self.access_times = AccessTimes::Relative;
            }
            ("strictatime", None) => self.access_times = AccessTimes::Always,
            ("noatime", None) => self.access_times = AccessTimes::Never,
            ("sync", None) => self.sync = true,
            ("async", None) => self.sync = false,
            ("dirsync", None) => self.dirsync = true,
            ("readahead", Some(value)) => {
                self.readahead_kib = number("readahead", "KiB from 0 to 65536", value, 65536)?;
            }
            ("threads", Some(value)) => {
                let threads = number("threads", "a number from 1 to 64", value, 64)?;
                if threads == 0 {
                    return Err(bad("threads", "a number from 1 to 64", value));
                }
                self.threads = usize::try_from(threads).unwrap_or(1);
            }
            ("kernel", Some("6.1")) => self.old_kernel = true,
            ("kernel", Some(value)) => {
                return Err(bad("kernel", "6.1, the only one that can be chosen", value));
            }
            ("key_wait", Some(value)) => {
                let seconds = number("key_wait", "seconds from 0 to 3600", value, 3600)?;
                self.key_wait = Duration::from_secs(seconds.into());
            }
            ("revoke_limit", Some(value)) => {
                let seconds = number("revoke_limit", "seconds from 1 to 3600", value, 3600)?;
                if seconds == 0 {
                    return Err(bad("revoke_limit", "seconds from 1 to 3600", value));
                }
                self.revoke_limit = Duration::from_secs(seconds.into());
            }
            ("access", Some("users")) => self.access = Some(AccessMode::Users),
            ("access", Some("mounter")) => self.access = Some(AccessMode::Mounter),
            ("access", Some(value)) => return Err(bad("access", "users or mounter", value)),
            ("user", Some(name)) if !name.is_empty() => name.clone_into(&mut self.user),
            ("denied", Some(value)) => {
                self.denied = match value {
                    "EACCES" => Errno::ACCES,
                    "ENOKEY" => Errno::NOKEY,
                    "EKEYREVOKED" => Errno::from_raw(libc::EKEYREVOKED),
                    _ => return Err(bad("denied", "EACCES, ENOKEY or EKEYREVOKED", value)),
                };
            }
            ("socket", Some(path)) => self.socket = PathBuf::from(path),
            ("control", Some(path)) => self.control = Some(PathBuf::from(path)),
            ("log", Some(path)) => self.log = Some(PathBuf::from(path)),
            // What fstab and mount(8) add for themselves, and what is always on.
            (
                ""
                | "defaults"
                | "default_permissions"
                | "auto"
                | "noauto"
                | "user"
                | "nouser"
                | "users"
                | "owner"
                | "group"
                | "nofail"
                | "_netdev"
                | "lazytime"
                | "nolazytime"
                | "diratime"
                | "nodiratime",
                None,
            ) => {}
            (name, _) if name.starts_with("x-") || name.starts_with("comment") => {}
            _ => return Err(OptionError::Unknown(option.to_owned())),
        }
        Ok(())
    }
}

/// Enough threads that a slow lower file system does not leave a core idle; more of them only
/// wake each other up.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

fn number(
    name: &'static str,
    expected: &'static str,
    value: &str,
    limit: u32,
) -> Result<u32, OptionError> {
    value
        .parse()
        .ok()
        .filter(|number| *number <= limit)
        .ok_or_else(|| bad(name, expected, value))
}

fn bad(name: &'static str, expected: &'static str, value: &str) -> OptionError {
    OptionError::Value {
        name,
        expected,
        value: value.to_owned(),
    }
}

/// Rewrites the command line of a mount helper, `mount.kmsfs LOWER MOUNTPOINT [-sfnvw] [-o ...]`,
/// as `mount(8)` and `/etc/fstab` call it, into `kmsfs mount ...`. Others are returned as they are.
#[must_use]
pub fn from_mount_helper(arguments: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let helper = arguments
        .first()
        .and_then(|program| std::path::Path::new(program).file_name())
        .is_some_and(|name| name == "mount.kmsfs" || name == "mount.fuse.kmsfs");
    if !helper {
        return arguments;
    }
    let mut rewritten = vec!["kmsfs".into(), "mount".into()];
    let mut rest = arguments.into_iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-r") => rewritten.extend(["-o".into(), "ro".into()]),
            Some("-s" | "-f" | "-n" | "-v" | "-w") => {}
            Some("-t") => drop(rest.next()),
            _ => rewritten.push(argument),
        }
    }
    let is_remount = rewritten
        .iter()
        .filter_map(|argument| argument.to_str())
        .any(|list| list.split(',').any(|word| word == "remount"));
    if is_remount && rewritten.len() > 3 {
        // The lower directory stays what it is.
        rewritten.splice(1..3, ["remount".into(), "--all".into()]);
    }
    rewritten
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<MountOptions, OptionError> {
        MountOptions::from_args(&MountArgs {
            lower: "/lower".into(),
            mountpoint: "/mnt".into(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
            foreground: false,
            socket: None,
            control: None,
            log: None,
        })
    }

    #[test]
    fn defaults_are_safe() {
        let options = MountOptions::default();
        assert!(!options.suid && !options.dev && !options.allow_other);
        assert_eq!(options.key_wait, Duration::from_secs(10));
        assert_eq!(options.socket, PathBuf::from(DEFAULT_KMSD_SOCKET));
    }

    #[test]
    fn lists_and_repeated_options_apply_in_order() {
        let options = parse(&["ro,suid,threads=3", "rw,key_wait=0,x-systemd.automount"]).unwrap();
        assert!(!options.read_only && options.suid);
        assert_eq!(options.threads, 3);
        assert_eq!(options.key_wait, Duration::ZERO);
    }

    #[test]
    fn unknown_options_and_bad_values_are_refused() {
        assert_eq!(parse(&["rwx"]), Err(OptionError::Unknown("rwx".to_owned())));
        assert_eq!(
            parse(&["ro=1"]),
            Err(OptionError::Unknown("ro=1".to_owned()))
        );
        for value in ["0", "65", "-1", "many", ""] {
            let error = parse(&[&format!("threads={value}")]).unwrap_err();
            assert!(error.to_string().contains("threads"), "{error}");
        }
    }

    #[test]
    fn users_are_told_apart_where_there_are_several_unless_chosen_otherwise() {
        assert_eq!(parse(&[]).unwrap().access(), AccessMode::Mounter);
        assert_eq!(parse(&["allow_other"]).unwrap().access(), AccessMode::Users);
        let options = parse(&["allow_other,access=mounter,user=fs,denied=ENOKEY"]).unwrap();
        assert_eq!(options.access(), AccessMode::Mounter);
        assert_eq!(
            (options.user.as_str(), options.denied),
            ("fs", Errno::NOKEY)
        );
        for wrong in ["access=users", "access=root", "user=", "denied=EIO"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_flag_on_the_command_line_wins() {
        let options = MountOptions::from_args(&MountArgs {
            lower: "/lower".into(),
            mountpoint: "/mnt".into(),
            options: vec!["socket=/a".into()],
            foreground: false,
            socket: Some("/b".into()),
            control: None,
            log: None,
        });
        assert_eq!(options.unwrap().socket, PathBuf::from("/b"));
    }

    #[test]
    fn mount_helper_form() {
        let words = |list: &[&str]| {
            list.iter()
                .map(Into::into)
                .collect::<Vec<std::ffi::OsString>>()
        };
        assert_eq!(
            from_mount_helper(words(&[
                "/sbin/mount.kmsfs",
                "/l",
                "/m",
                "-n",
                "-o",
                "rw,ro"
            ])),
            words(&["kmsfs", "mount", "/l", "/m", "-o", "rw,ro"])
        );
        assert_eq!(
            from_mount_helper(words(&["mount.fuse.kmsfs", "/l", "/m", "-o", "remount,ro"])),
            words(&["kmsfs", "remount", "--all", "/m", "-o", "remount,ro"])
        );
        assert_eq!(
            from_mount_helper(words(&["kmsfs", "mount", "-f"])),
            words(&["kmsfs", "mount", "-f"])
        );
    }
}
