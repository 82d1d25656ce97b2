//! kmsd: a key management daemon with the AWS KMS API, its root key sealed to a TPM 2.0.
//!
//! In the order a request goes: [`listen`] accepts connections, [`auth`] says who is asking, `api`
//! decodes and encodes, a [`service::Service`] answers: the [`engine`] over its [`storage`].

#![deny(unsafe_code)]

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

mod api;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod clock;
mod commands;
pub mod config;
pub mod engine;
mod events;
pub mod exit;
pub mod listen;
pub mod log;
mod metrics;
pub mod notify;
mod place;
pub mod policies;
pub mod rates;
mod run;
pub mod service;
pub mod storage;
mod sys;
mod terminal;
mod uuids;
mod world;

use cli::{Cli, Command};
use config::{Config, Log};
use exit::Failure;

/// Runs kmsd with the given arguments (the first one is the program's name).
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(exit::USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if cli.command.is_none() && !cli.check_config {
                tracing::error!(next_step = failure.next_step, "{}", failure.message);
                notify::status(&failure.message);
            }
            failure.report(cli.json)
        }
    }
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    // Before any secret exists.
    let hardened = kms_crypto::harden_process();
    if let Some(Command::Dev(args)) = &cli.command {
        // It has no configuration file: what it serves is all on its command line.
        return commands::dev(args, cli.json);
    }
    let config = load(cli.config.as_deref(), cli.check_config)?;
    // Not for what only looks at a TPM or a store, which may be a backup anywhere.
    if matches!(
        cli.command,
        None | Some(Command::Enroll(_) | Command::Recover(_) | Command::Restore(_))
    ) {
        place::check(&config, cli.config.as_deref())?;
    }
    if cli.check_config {
        policies::PolicyFiles::new(&config.identity.policies).read()?;
        if !config.tls.listen.is_empty() {
            let loaded = listen::tls::Certificates::load(&config.tls);
            loaded.map_err(listen::network::NetworkError::from)?;
        }
        if !cli.json {
            println!("The configuration is good.");
        }
        return Ok(());
    }
    match &cli.command {
        // What a command has to say goes to the terminal; the log only warns.
        Some(_) => log::start(&Log {
            level: "warn".into(),
            ..config.log
        }),
        None => log::start(&config.log),
    }
    if let Err(error) = hardened {
        tracing::warn!(%error, "memory of this process may end up in a core dump");
    }
    match &cli.command {
        None => run::serve(
            &config,
            run::Start {
                accept_gap: cli.accept_audit_gap,
                ..run::Start::default()
            },
        ),
        // Above.
        Some(Command::Dev(_)) => Ok(()),
        Some(Command::Enroll(args)) => commands::enroll(&config, args, cli.json),
        Some(Command::Recover(args)) => commands::recover(&config, args, cli.json),
        Some(Command::AcceptRollback(args)) => commands::accept_rollback(&config, args, cli.json),
        Some(Command::Approve(args)) => commands::approve(&config, args, cli.json),
        Some(Command::Unenroll(args)) => commands::unenroll(&config, args, cli.json),
        Some(Command::Offline(args)) => commands::offline(&config, args),
        Some(Command::BreakGlass(args)) => commands::break_glass(&config, args, cli.json),
        Some(Command::SplitRecovery(args)) => commands::split(&config, args, cli.json),
        Some(Command::VerifyBackup(args)) => commands::verify_backup(args, cli.json),
        Some(Command::Restore(args)) => commands::restore(&config, args, cli.json),
        Some(Command::RotateRecovery(args)) => commands::rotate_recovery(&config, args, cli.json),
        Some(Command::ExportVolume(args)) => commands::export(&config, args, cli.json),
        Some(Command::ImportVolume(args)) => commands::import(&config, args, cli.json),
        Some(Command::Tls(args)) => commands::tls(&config, &args.command, cli.json),
        Some(Command::TpmStatus) => commands::tpm_status(&config, cli.json),
    }
}

/// The named configuration, or the default one, which need not exist.
///
/// `names`: users and groups are looked up as well, as serving does.
fn load(path: Option<&Path>, names: bool) -> Result<Config, Failure> {
    let default = Path::new(config::DEFAULT_PATH);
    let path = match path {
        Some(path) => path,
        None if default.exists() => default,
        None => return Ok(Config::default()),
    };
    if names {
        Ok(Config::load_with_names(path)?)
    } else {
        Ok(Config::load(path)?)
    }
}
