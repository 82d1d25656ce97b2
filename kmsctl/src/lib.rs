//! kmsctl: the administrator's tool for kmsd and kmsfs.
//!
//! Every command is a call or two of the kmsd API over its Unix socket, so it may do exactly what
//! the user who runs it may do. What needs the TPM itself (`kmsctl tpm …`) is done by the kmsd
//! program, which kmsctl starts.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub mod args;
mod commands;
#[cfg(test)]
mod coverage;
mod duration;
mod endpoint;
pub mod exit;
mod import;
pub mod output;
mod principal;

use args::Cli;
use exit::Exit;

/// What every command is given.
#[derive(Debug)]
pub struct Context {
    /// The client of kmsd, not yet connected.
    pub client: kms_api::client::Client,
    /// Where results go, and in which form.
    pub output: output::Output,
}

/// Runs kmsctl with the given arguments (the first one is the program's name).
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            // Help and version end with success.
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Success.into()
            };
        }
    };
    let output = output::Output::new(cli.json);
    let client = match endpoint::client(&cli) {
        Ok(client) => client,
        Err(failure) => {
            output.failure(&failure);
            return failure.exit.into();
        }
    };
    let context = Context {
        client: client
            .with_timeout(std::time::Duration::from_secs(cli.timeout))
            .in_place(cli.region.clone(), cli.account.clone()),
        output,
    };
    let done = commands::run(&cli.command, &context);
    if let Some(report) = context.client.take_lease_report() {
        commands::lease::report(&report);
    }
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => {
            context.output.failure(&failure);
            failure.exit.into()
        }
    }
}
