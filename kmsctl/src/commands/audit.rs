//! `kmsctl audit …`: the log of what was asked, by whom, and what came of it.

use clap::{Args, Subcommand};

use crate::Context;
use crate::exit::Failure;

mod events;
mod source;
mod when;

use events::{ExportArgs, SearchArgs, TailArgs};

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
}

pub(super) fn run(args: &AuditArgs, context: &Context) -> Result<(), Failure> {
    match &args.command {
        AuditCommand::Tail(args) => events::tail(args, context),
        AuditCommand::Search(args) => events::search(args, context),
        AuditCommand::Export(args) => events::export(args, context),
    }
}
