//! Signatures, ciphertexts and secrets of kmsd's keys against two other implementations, both ways.

use std::process::Command;

use kms_tests::world::World;
use kms_tests::{programs, require, tools};

/// Runs one of the programs, which must count so many tests.
fn compare(name: &str, tests: u32) {
    if !require::tpm() || !require::program("openssl") {
        return;
    }
    let python = tools::python();
    let world = World::start();
    let script = programs::source_root().join("tests/e2e").join(name);
    let folder = world.path("other");
    std::fs::create_dir(&folder).unwrap();
    let output = Command::new(python)
        .arg(script)
        .arg(world.daemon.socket())
        .arg(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    // unittest counts what it ran: an empty run is no success.
    assert!(said.contains(&format!("Ran {tests} tests")), "{said}");
}

#[test]
fn others_verify_open_and_agree_on_what_kmsd_makes() {
    compare("asymmetric_client.py", 11);
}

#[test]
fn kmsd_verifies_opens_and_agrees_on_what_others_make_with_keys_that_they_imported() {
    compare("imported_client.py", 12);
}
