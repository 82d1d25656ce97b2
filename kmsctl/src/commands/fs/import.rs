//! `kmsctl fs import`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::import::{self, Excludes, Options};

/// Arguments of `kmsctl fs import`.
///
/// Everything in SRC is copied into DIR with owners, modes, times, extended attributes, ACLs, links and holes. Each file
/// is read back and compared before it gets its name. Interrupted, the same command goes on where it stopped; until the
/// import is complete there is a directory `.kmsctl-import` in DIR.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The tree to bring in: plain files, or what another encrypting file system shows while it is mounted.
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Where its content goes: an existing directory in a kmsfs mount.
    #[arg(value_name = "DIR")]
    pub destination: PathBuf,
    /// Only report what would be done and what would not work.
    #[arg(long)]
    pub dry_run: bool,
    /// Leave out what matches; may be given several times. With a slash the pattern is compared with the path
    /// below SRC, without one with every name. `*` does not match a slash, `**` does.
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Also import file systems that are mounted below SRC; by default only their empty mount points.
    #[arg(long)]
    pub cross_file_systems: bool,
    /// Write over files in DIR that differ. Directories are always merged.
    #[arg(long)]
    pub overwrite: bool,
    /// When all of it is imported, verified and durable, remove it from SRC; what changed meanwhile stays.
    #[arg(long, conflicts_with = "dry_run")]
    pub remove_source: bool,
    /// Do not ask before --remove-source.
    #[arg(long, requires = "remove_source")]
    pub yes: bool,
    /// Allow a DIR that is not in a kmsfs mount.
    #[arg(long)]
    pub any_destination: bool,
}

pub(super) fn run(args: &ImportArgs, context: &Context) -> Result<(), Failure> {
    let excludes = Excludes::new(&args.exclude)
        .map_err(|error| Failure::new(Exit::Usage, format!("--exclude: {error}")))?;
    if args.remove_source && !args.yes {
        confirm(args)?;
    }
    let options = Options {
        excludes,
        cross_file_systems: args.cross_file_systems,
        overwrite: args.overwrite,
        dry_run: args.dry_run,
        remove_source: args.remove_source,
        any_destination: args.any_destination,
        quiet: context.output.is_json(),
    };
    let (summary, result) = import::run(&args.source, &args.destination, &options);
    let Some(summary) = summary else {
        return result;
    };
    context.output.print(summary.human(), &summary)?;
    result?;
    match summary.problems.len() {
        0 => Ok(()),
        problems => Err(Failure::new(
            Exit::Partial,
            format!("{problems} problems, each named above; everything else was imported"),
        )
        .next("Mend them, or leave them out with --exclude, then run the same command again.")),
    }
}

fn confirm(args: &ImportArgs) -> Result<(), Failure> {
    let source = args.source.display();
    if !io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            format!("--remove-source removes what is in {source}, and nobody is at a terminal to confirm it"),
        )
        .next("Give --yes."));
    }
    let failed = |error: io::Error| Failure::local("the terminal", &error);
    eprint!("Remove what is in {source} after it was imported and verified? Type yes: ");
    io::stderr().flush().map_err(failed)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(failed)?;
    if line.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, "not confirmed; nothing was done"))
}
