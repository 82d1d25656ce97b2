//! `kmsctl fs …`: encrypted directories.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::Context;
use crate::exit::Failure;

mod init;
mod protect;
mod status;

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
        /// The key: id, ARN or alias.
        #[arg(long)]
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
        /// The key: id, ARN or alias.
        #[arg(long)]
        key: String,
        /// How content is protected.
        #[arg(long, value_enum, default_value_t = Mode::Xts)]
        mode: Mode,
        /// The control socket of the mount, if it is not at its default place.
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
    },
    /// Show the policies of a mount, of a directory that is not mounted, or of all mounts.
    Status {
        /// A path in a mount, or an encrypted directory.
        path: Option<PathBuf>,
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
    /// AES-256-GCM: authenticated. Not supported yet.
    Gcm,
}

impl Mode {
    /// How results name it.
    fn describe(self) -> &'static str {
        match self {
            Mode::Xts => "xts (not authenticated)",
            Mode::Gcm => "gcm (authenticated)",
        }
    }
}

/// Carries out a command.
pub(crate) fn run(args: &FsArgs, context: &Context) -> Result<(), Failure> {
    match &args.command {
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
        FsCommand::Status { path, control } => {
            status::run(path.as_deref(), control.as_deref(), context)
        }
    }
}
