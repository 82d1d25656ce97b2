//! `kmsctl fs …`: encrypted directories.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use kms_core::kms::KMSFS_ALIAS;

use crate::Context;
use crate::exit::{Exit, Failure};

mod check;
mod count;
mod extract;
mod freeze;
mod import;
mod init;
mod jobs;
mod lock;
mod mounted;
mod move_keys;
mod offline;
mod policy;
mod progress;
mod protect;
mod shred;
mod status;
mod why_denied;

pub(super) use mounted::object_of;

/// Arguments of `kmsctl fs`.
#[derive(Debug, Args)]
pub struct FsArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: FsCommand,
}

/// The commands of `kmsctl fs`.
#[derive(Debug, Subcommand)]
pub enum FsCommand {
    /// Make an empty directory an encrypted one, to be mounted with `kmsfs mount`.
    Init {
        /// The empty directory.
        lower: PathBuf,
        /// The key: id, ARN or alias. Without it the one that kmsd manages for kmsfs, which is made when it is first asked for.
        #[arg(long, default_value = KMSFS_ALIAS)]
        key: String,
        /// How content is protected.
        #[arg(long, value_enum, default_value_t = Mode::Xts)]
        mode: Mode,
        /// Free text that kmsd shows with the volume.
        #[arg(long, default_value = "")]
        label: String,
    },
    /// Put an empty directory of a mount, and all that will be made in it, under another key.
    Protect {
        /// The directory, in the mount.
        directory: PathBuf,
        /// The key: id, ARN or alias. Without it the one that kmsd manages for kmsfs, which is made when it is first asked for.
        #[arg(long, default_value = KMSFS_ALIAS)]
        key: String,
        /// How content is protected.
        #[arg(long, value_enum, default_value_t = Mode::Xts)]
        mode: Mode,
        /// The control socket of the mount, if it is not at its default place.
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
    },
    /// Look for damage in an encrypted directory, mounted or not, and repair it if asked to.
    ///
    /// Ends with 0 if it is clean (notes do not count), 13 if all damage was repaired, 14 if damage is left, 15 if
    /// nothing is damaged but not everything could be checked. Nothing of a user's is ever deleted: what cannot be
    /// repaired goes into `.kmsfs.lost` in the encrypted directory, with a journal. With --json the report is printed
    /// as JSON.
    Check {
        /// The encrypted directory, or a path in its mount.
        path: PathBuf,
        /// Repair what has a safe repair, and move the rest out of the way. Not while it is mounted.
        #[arg(long)]
        repair: bool,
        /// Read all content as well.
        #[arg(long)]
        content: bool,
        /// Check only the structure, without asking kmsd for keys. Not while it is mounted.
        #[arg(long, conflicts_with_all = ["repair", "content", "store"])]
        no_keys: bool,
        /// Where the keys come from.
        #[command(flatten)]
        source: offline::KeySource,
        /// The control socket of the mount, if it is not at its default place.
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
        /// Also write the report to this file, as JSON.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// Rescue: write what is in an encrypted directory to an ordinary one, without a mount.
    ///
    /// Needs the kmsd that runs, or with --store only its store or a backup of it and the TPM or the recovery key. Damage
    /// does not stop it: what is lost is listed, and the exit code is 16 instead of 0. It can be repeated on the same
    /// destination: what is there and the same is not written again.
    Extract {
        /// The encrypted directory, not mounted. It may be on a read-only file system or snapshot.
        lower: PathBuf,
        /// Where to; made if need be.
        destination: PathBuf,
        /// Where content cannot be read, write zeros and keep the rest of the file.
        #[arg(long)]
        salvage: bool,
        /// Where the keys come from.
        #[command(flatten)]
        source: offline::KeySource,
        /// Also write the report to this file, as JSON.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// Bring an existing tree of files into a directory of a mount: a verified copy that can be resumed.
    Import(import::ImportArgs),
    /// Hold all changes in a mount, so that its encrypted directory can be copied.
    ///
    /// Everything is made durable first; whoever changes something then waits, reading goes on. Ends with `thaw`, with an
    /// unmount, or when the time is over. With a command, it is run meanwhile (KMSFS_LOWER is the encrypted directory),
    /// and changes go on when it ends, or when kmsctl ends in any way.
    Freeze {
        /// A path in the mount, or its encrypted directory.
        path: PathBuf,
        /// For how long at most: 90s, 10m, 1h.
        #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = freeze::seconds)]
        limit: u64,
        /// The control socket of the mount, if it is not at its default place.
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
        /// What to run meanwhile.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<std::ffi::OsString>,
    },
    /// Let changes go on in a mount that is frozen.
    Thaw {
        /// A path in the mount, or its encrypted directory.
        path: PathBuf,
        /// The control socket of the mount, if it is not at its default place.
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
    },
    /// Count what each protected directory of a volume holds, without keys, and tell kmsd: it shows this before a key is deleted.
    Count(count::CountArgs),
    /// Write the keys of a volume to a file that only another host's recovery key opens. kmsd must be stopped (runs the kmsd program).
    ExportKeys(move_keys::ExportKeysArgs),
    /// Take in the keys of a volume of another host. kmsd must be stopped (runs the kmsd program: `kmsd import-volume --help`).
    #[command(disable_help_flag = true)]
    ImportKeys(crate::args::Passed),
    /// Destroy what a protected directory hangs on: nothing in it can be read again, from no copy or backup of it.
    Shred(shred::ShredArgs),
    /// End access to a protected directory at once, what is open included, until `fs unlock`.
    ///
    /// Returns when nobody concerned gets one more byte, by no descriptor, mapping or program, and names the processes
    /// that still have something open. Without --user nobody has access and the keys are wiped; what was open works
    /// again after `fs unlock`. With --user others notice at most that a file they share with that user has to be opened
    /// again (ESTALE); with --force not even that.
    Lock(lock::LockArgs),
    /// Give access back that `fs lock` ended.
    Unlock(lock::UnlockArgs),
    /// Show which processes have something open in a directory of a mount, and how.
    Who(lock::WhoArgs),
    /// Explain why a user does not get at a file or directory of a mount, and say which command would help.
    ///
    /// Looks at everything that decides, on the way from the root of the host: permissions and ACLs, locks, what kmsd says of the
    /// user, the state of keys, damage. Ends with 0 if nothing denies it, with 19 if something does; what decides comes first.
    /// Only root and the user who mounted may ask.
    WhyDenied(why_denied::WhyDeniedArgs),
    /// Wrap the keys of a directory tree anew, under a new generation of its policy key, while it is in use.
    ///
    /// Contents stay as they are; every wrapped key in it hangs on the newest material of its KMS key afterwards. Runs in the
    /// mount, and goes on if kmsctl ends; interrupted, it goes on at the next mount, or with the same command.
    Rewrap(jobs::RewrapArgs),
    /// As rewrap, but onto another KMS key: the former one is not needed any more afterwards.
    Rekey(jobs::RekeyArgs),
    /// What is chosen for a directory tree: what a revocation does to open files, and what happens without kmsd.
    Policy(policy::PolicyArgs),
    /// Give every file of a directory tree a new key and write its content anew under it, while it is in use.
    ///
    /// Who once had the old file keys (a user whose grant was revoked, a copy of the disk with its keys) reads nothing with them that is
    /// on the disk afterwards. The policy key gets a new generation and everything is rewrapped on the way. Runs in the mount, in
    /// place: a crash at any point loses nothing, and it goes on at the next mount, or with the same command.
    Reencrypt(jobs::ReencryptArgs),
    /// Watch or stop the rewrap, rekey or reencrypt that runs in a mount.
    Job(jobs::WatchArgs),
    /// Show the policies of a mount, of a directory that is not mounted, or of all mounts.
    Status {
        /// A path in a mount, or an encrypted directory.
        path: Option<PathBuf>,
        /// Read all headers, and show what hangs on which generation of the policy keys and what a rewrap and a re-encryption
        /// have left to do.
        #[arg(long)]
        count: bool,
        /// The control socket of the mount, if it is not at its default place.
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
    },
}

/// How content is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// AES-256-XTS: fast, no overhead, NOT authenticated (changes to the lower files go unnoticed).
    Xts,
    /// AES-256-GCM: authenticated (changes to the lower files are found), slower for small random writes.
    Gcm,
}

impl Mode {
    /// How the registry names it.
    fn name(self) -> &'static str {
        match self {
            Mode::Xts => "XTS",
            Mode::Gcm => "GCM",
        }
    }

    /// How results name it.
    fn describe(self) -> &'static str {
        match self {
            Mode::Xts => "xts (not authenticated)",
            Mode::Gcm => "gcm (authenticated)",
        }
    }
}

/// Carries out a command, and says how kmsctl ends when it succeeded.
pub(crate) fn run(args: &FsArgs, context: &Context) -> Result<Exit, Failure> {
    let done = match &args.command {
        FsCommand::Init {
            lower,
            key,
            mode,
            label,
        } => init::run(lower, key, *mode, label, context),
        FsCommand::Protect {
            directory,
            key,
            mode,
            control,
        } => protect::run(directory, key, *mode, control.as_deref(), context),
        FsCommand::Check {
            path,
            repair,
            content,
            no_keys,
            source,
            control,
            report,
        } => {
            let options = kmsfs::check::Options {
                repair: *repair,
                content: *content,
            };
            let source = (!no_keys).then_some(source);
            let report = report.as_deref();
            return check::run(path, options, source, control.as_deref(), report, context);
        }
        FsCommand::Extract {
            lower,
            destination,
            salvage,
            source,
            report,
        } => {
            let options = kmsfs::extract::Options { salvage: *salvage };
            let report = report.as_deref();
            return extract::run(lower, destination, options, source, report, context);
        }
        FsCommand::Import(args) => import::run(args, context),
        FsCommand::Freeze {
            path,
            limit,
            control,
            command,
        } => freeze::freeze(path, *limit, command, control.as_deref(), context),
        FsCommand::Thaw { path, control } => freeze::thaw(path, control.as_deref(), context),
        FsCommand::Count(args) => count::run(args, context),
        FsCommand::ExportKeys(args) => move_keys::export(args, context),
        FsCommand::ImportKeys(args) => {
            crate::commands::tpm::pass("import-volume", &args.arguments, context)
        }
        FsCommand::Shred(args) => shred::run(args, context),
        FsCommand::Lock(args) => lock::lock(args, context),
        FsCommand::Unlock(args) => lock::unlock(args, context),
        FsCommand::Who(args) => lock::who(args, context),
        FsCommand::WhyDenied(args) => return why_denied::run(args, context),
        FsCommand::Rewrap(args) => jobs::rewrap(args, context),
        FsCommand::Rekey(args) => jobs::rekey(args, context),
        FsCommand::Reencrypt(args) => jobs::reencrypt(args, context),
        FsCommand::Policy(args) => policy::run(args, context),
        FsCommand::Job(args) => jobs::job(args, context),
        FsCommand::Status {
            path,
            count,
            control,
        } => status::run(path.as_deref(), *count, control.as_deref(), context),
    };
    done.map(|()| Exit::Success)
}
