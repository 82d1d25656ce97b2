//! The `kmsd` program.

/// Starts the program.
fn main() {}
