//! boto3 from PyPI calls every operation over the Unix socket.

use std::process::Command;

use kms_tests::world::World;
use kms_tests::{programs, require, tools};

#[test]
fn boto3_calls_every_operation() {
    if !require::tpm() {
        return;
    }
    let python = tools::python();
    let world = World::start();
    let script = programs::source_root().join("tests/e2e/boto3_client.py");
    let output = Command::new(python)
        .arg(script)
        .arg(world.daemon.socket())
        // Nothing of this machine's own AWS settings.
        .env("HOME", world.path("home"))
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    // unittest counts what it ran: an empty run is no success.
    assert!(said.contains("Ran 19 tests"), "{said}");
}
