//! `kmsctl lease …`: which services rely on answers, and what a change had to wait for.

use clap::{Args, Subcommand};
use kms_api::{LeaseReport, ListLeasesRequest};

use crate::Context;
use crate::exit::Failure;
use crate::output::{Table, time};

/// Arguments of `kmsctl lease`.
#[derive(Debug, Args)]
pub struct LeaseArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: LeaseCommand,
}

/// The commands of `kmsctl lease`.
#[derive(Debug, Subcommand)]
pub enum LeaseCommand {
    /// List the services that hold a lease, and whether they have heard of the newest change.
    List,
}

pub(super) fn run(args: &LeaseArgs, context: &Context) -> Result<(), Failure> {
    match args.command {
        LeaseCommand::List => list(context),
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let leases = context.client.send(ListLeasesRequest {})?;
    let mut table = Table::new(&["LEASE", "LABEL", "HOLDER", "SINCE", "LEFT", "HEARD"]);
    for lease in &leases.leases {
        table.row(vec![
            lease.lease_id.to_string().chars().take(12).collect(),
            lease.label.clone(),
            lease.holder.clone(),
            time(lease.creation_date),
            match lease.remaining_ms {
                Some(left) => format!("{}.{} s", left / 1000, left % 1000 / 100),
                None => "run out".to_owned(),
            },
            match lease.applied_epoch == leases.epoch {
                true => "yes".to_owned(),
                false => format!("of epoch {}, not of {}", lease.applied_epoch, leases.epoch),
            },
        ]);
    }
    context.output.print(table, &leases)
}

/// Says on standard error which services a change had to wait for, if there were any.
pub(crate) fn report(report: &LeaseReport) {
    if report.acknowledged > 0 {
        eprintln!(
            "{} service(s) relied on older answers and have dropped them.",
            report.acknowledged
        );
    }
    if report.ran_out > 0 {
        let labels: Vec<String> = report
            .labels
            .iter()
            .map(|label| label.chars().filter(|c| !c.is_control()).collect())
            .collect();
        eprintln!(
            "{} service(s) did not answer; what they kept is void, since their leases have run out: {}.",
            report.ran_out,
            labels.join(", ")
        );
        eprintln!(
            "If one of them is a mount that hangs or was killed, what was open in it stays readable from the kernel's cache until it \
             runs again: end the processes that have something open there."
        );
    }
}
