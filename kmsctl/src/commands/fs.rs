//! `kmsctl fs …`: encrypted directories.

use clap::{Args, Subcommand};

use crate::Context;
use crate::exit::{Exit, Failure};

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
    /// Show the mounts and their policies.
    Status,
}

/// Carries out a command.
pub(crate) fn run(args: &FsArgs, _context: &Context) -> Result<(), Failure> {
    match args.command {
        FsCommand::Status => Err(Failure::new(Exit::FileSystem, "no kmsfs mount was found")),
    }
}
