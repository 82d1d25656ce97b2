//! The `kmsfs` program with failpoints, under a name of its own: see `backing::failpoint`.

use std::process::ExitCode;

/// Starts the program.
fn main() -> ExitCode {
    kmsfs::run(std::env::args_os().collect())
}
