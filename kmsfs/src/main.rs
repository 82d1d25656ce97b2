//! The `kmsfs` program.

/// Starts the program.
fn main() {}
