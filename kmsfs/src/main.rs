//! The `kmsfs` program.

use std::process::ExitCode;

/// Starts the program.
fn main() -> ExitCode {
    kmsfs::run(std::env::args_os().collect())
}
