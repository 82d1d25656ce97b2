//! The `kmsctl` program.

/// Starts the program.
fn main() {}
