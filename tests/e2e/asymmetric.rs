//! Signatures, ciphertexts and secrets of kmsd's keys against two other implementations, both ways.

use std::process::Command;

use kms_tests::world::World;
use kms_tests::{programs, require, tools};

#[test]
fn others_verify_open_and_agree_on_what_kmsd_makes_and_the_other_way_round() {
    if !require::tpm() {
        return;
    }
    let python = tools::python();
    let world = World::start();
    let script = programs::source_root().join("tests/e2e/asymmetric_client.py");
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
    assert!(said.contains("Ran 11 tests"), "{said}");
}
