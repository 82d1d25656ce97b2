//! Finding the programs under test: they lie beside the test executable.

use std::path::PathBuf;

/// The path of a built program: `kmsd`, `kmsfs` or `kmsctl`.
pub fn path(name: &str) -> PathBuf {
    let program = folder().join(name);
    assert!(
        program.is_file(),
        "{} is not there: run `cargo build --workspace --bins` first (`make test` does)",
        program.display()
    );
    program
}

/// The folder that holds the built programs, `target/debug` as a rule.
pub fn folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test executable");
    // target/debug/deps/e2e-0123abcd -> target/debug
    test.ancestors()
        .nth(2)
        .expect("a test executable lies in deps/")
        .to_path_buf()
}

/// The root of the source tree.
pub fn source_root() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("tests/ lies in the workspace")
        .to_path_buf()
}
