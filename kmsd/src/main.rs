//! The `kmsd` program.

/// Starts the program.
fn main() -> std::process::ExitCode {
    kmsd::run(std::env::args_os())
}
