//! Clients of AWS KMS that nobody here wrote, each unchanged, over TLS with signed requests. What they are told is what
//! `kmsctl aws-config` prints, and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod served;

use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::{programs, require, tools};

use served::Served;

/// What the suite needs of the machine.
fn machine_can() -> bool {
    require::tpm() && require::program("openssl")
}

fn source(name: &str) -> PathBuf {
    programs::source_root().join("tests/clients").join(name)
}

/// Runs one of the Python programs, which must count so many tests.
fn python(name: &str, tests: u32) {
    if !machine_can() {
        return;
    }
    let python = tools::python();
    let served = Served::shared();
    let said = served.run(Command::new(python).arg(source(name)));
    // unittest counts what it ran: an empty run is no success.
    assert!(said.contains(&format!("Ran {tests} test")), "{said}");
}

/// Runs one of the shell scripts with the Python environment's programs in the path.
fn script(name: &str, argument: Option<&Path>) {
    let path = format!(
        "{}:{}",
        tools::python().parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let served = Served::shared();
    let mut command = Command::new("bash");
    command.arg(source(name)).args(argument);
    served.run(command.env("PATH", path));
}

#[test]
fn boto3() {
    python("boto3_life.py", 3);
}

#[test]
fn replies_have_the_shapes_of_the_model() {
    python("shape.py", 10);
}

#[test]
fn aws_cli() {
    if machine_can() {
        script("aws_cli.sh", None);
    }
}

#[test]
fn encryption_sdk() {
    python("encryption_sdk.py", 2);
}

#[test]
fn encryption_sdk_command_line() {
    if machine_can() {
        script("encryption_cli.sh", Some(&programs::path("kmsctl")));
    }
}

#[test]
fn tink() {
    python("tink_life.py", 1);
}

#[test]
fn sdk_for_javascript() {
    if !machine_can() || !require::program("node") || !require::program("npm") {
        return;
    }
    let folder = tools::javascript_client();
    let served = Served::shared();
    let said = served.run(Command::new("node").current_dir(folder).args([
        "--test",
        "--test-reporter=tap",
        "life.mjs",
    ]));
    assert!(
        said.contains("# pass 2") && said.contains("# fail 0"),
        "{said}"
    );
}

#[test]
fn sdk_for_rust() {
    if !machine_can() {
        return;
    }
    let program = tools::rust_client();
    let said = Served::shared().run(&mut Command::new(program));
    assert!(said.contains("the life of 2 keys"), "{said}");
}
