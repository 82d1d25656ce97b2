//! `kmsctl audit …`: the log of what was asked, by whom, and what came of it; and whether it is what it was.

use clap::{Args, Subcommand};

use crate::Context;
use crate::exit::{Exit, Failure};

mod checkpoint;
mod events;
mod files;
mod proof;
pub(super) mod source;
mod verify;
pub(super) mod when;

use events::{ExportArgs, SearchArgs, TailArgs};
use proof::{CheckProofArgs, ProveArgs};
use verify::VerifyArgs;

/// Where kmsd keeps its log if nothing else is configured.
const DEFAULT_DIRECTORY: &str = "/var/lib/kmsd/audit";

/// Arguments of `kmsctl audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AuditCommand,
}

/// The commands of `kmsctl audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Show the newest events, and with -f those that come.
    Tail(TailArgs),
    /// Find events, newest first.
    Search(SearchArgs),
    /// Write events in the form of AWS CloudTrail, oldest first.
    Export(ExportArgs),
    /// Make a checkpoint now, over everything that was recorded so far: before a copy is taken, for example.
    Checkpoint,
    /// Verify the log from its public keys; reads its files, needs no kmsd. Ends with 18 if anything is wrong.
    Verify(VerifyArgs),
    /// Print a proof that an event is in the log, which can be checked without the log.
    Prove(ProveArgs),
    /// Check a proof of `audit prove`, without the log.
    CheckProof(CheckProofArgs),
}

pub(super) fn run(args: &AuditArgs, context: &Context) -> Result<Exit, Failure> {
    let done = match &args.command {
        AuditCommand::Tail(args) => events::tail(args, context),
        AuditCommand::Search(args) => events::search(args, context),
        AuditCommand::Export(args) => events::export(args, context),
        AuditCommand::Checkpoint => checkpoint::run(context),
        AuditCommand::Verify(args) => return verify::run(args, context),
        AuditCommand::Prove(args) => proof::prove(args, context),
        AuditCommand::CheckProof(args) => proof::check(args, context),
    };
    done.map(|()| Exit::Success)
}
