//! cargo: builds, tests and runs a package without dependencies, knows what is fresh, and rebuilds what changed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{MODES, Volume, machine_can};

fn cargo(package: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--offline")
        .current_dir(package)
        .env("CARGO_TARGET_DIR", package.join("target"))
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "cargo {arguments:?}: {said}");
    format!("{said}{}", String::from_utf8_lossy(&output.stdout))
}

#[test]
fn builds_tests_and_runs() {
    if !machine_can() {
        return;
    }
    for mode in MODES {
        let mut volume = Volume::new(mode);
        let package = volume.point().join("package");
        fs::create_dir_all(package.join("src")).unwrap();
        let write = |file: &str, text: &str| fs::write(package.join(file), text).unwrap();
        write(
            "Cargo.toml",
            "[package]\nname = \"package\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n",
        );
        write(
            "src/lib.rs",
            "pub fn answer() -> u32 { 41 + 1 }\n#[test]\nfn right() { assert_eq!(answer(), 42) }\n",
        );
        write(
            "src/main.rs",
            "fn main() { println!(\"the answer is {}\", package::answer()); }\n",
        );
        write(
            "build.rs",
            "fn main() { println!(\"cargo::rerun-if-changed=build.rs\"); }\n",
        );
        assert!(cargo(&package, &["run"]).contains("the answer is 42"));
        assert!(cargo(&package, &["test"]).contains("1 passed"));
        let fresh = cargo(&package, &["run"]);
        assert!(
            fresh.contains("the answer is 42") && !fresh.contains("Compiling"),
            "{fresh}"
        );

        volume.remount();
        let package = volume.point().join("package");
        let fresh = cargo(&package, &["build"]);
        assert!(!fresh.contains("Compiling"), "after a remount: {fresh}");
        fs::write(
            package.join("src/lib.rs"),
            "pub fn answer() -> u32 { 43 }\n",
        )
        .unwrap();
        let changed = cargo(&package, &["run"]);
        assert!(
            changed.contains("Compiling") && changed.contains("the answer is 43"),
            "{changed}"
        );
        volume.end();
    }
}
