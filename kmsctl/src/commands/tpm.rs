//! `kmsctl tpm …`: hands over to the kmsd program, the only one that talks to the TPM.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::Context;
use crate::args::{Passed, TpmCommand};
use crate::exit::{Exit, Failure};

pub(super) fn run(command: &TpmCommand, context: &Context) -> Result<(), Failure> {
    let (name, Passed { arguments }) = match command {
        TpmCommand::Enroll(passed) => ("enroll", passed),
        TpmCommand::Status(passed) => ("tpm-status", passed),
        TpmCommand::Recover(passed) => ("recover", passed),
        TpmCommand::Approve(passed) => ("approve", passed),
        TpmCommand::AcceptRollback(passed) => ("accept-rollback", passed),
        TpmCommand::Unenroll(passed) => ("unenroll", passed),
    };
    pass(name, arguments, context)
}

/// Becomes the kmsd program with this command and these arguments.
pub(super) fn pass(name: &str, arguments: &[OsString], context: &Context) -> Result<(), Failure> {
    let program = kmsd();
    let mut process = Command::new(&program);
    process.arg(name).args(arguments);
    if context.output.is_json() {
        process.arg("--json");
    }
    // Replaces this process; comes back only when that failed.
    let error = process.exec();
    Err(Failure::new(
        Exit::Local,
        format!("{} cannot be started: {error}", program.display()),
    )
    .next("Install kmsd beside kmsctl or in the PATH."))
}

/// The kmsd beside this program, or else the one in the PATH.
pub(super) fn kmsd() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name("kmsd"));
    match beside {
        Some(path) if path.is_file() => path,
        Some(_) | None => PathBuf::from("kmsd"),
    }
}
