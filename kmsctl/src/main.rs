//! The `kmsctl` program.

/// Starts the program.
fn main() -> std::process::ExitCode {
    kmsctl::run(std::env::args_os())
}
