//! Every place in the source that changes the lower tree, as the compiler knows it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use kms_tests::programs;
use kms_tests::world::World;
use serde_json::Value;

/// What has tests of its own: `kmsctl fs check` changes lower trees without a mount; a rewrap can be done 32 times in one volume, and
/// every state that a stop leaves of it is enumerated in `kmsfs/src/fs/tests/enumerate`; so is every one of another content mode for a
/// file in `kmsfs/src/fs/tests/mode.rs`.
const ELSEWHERE: [&str; 5] = [
    "kmsfs/src/check",
    "kmsfs/src/fs/copies.rs",
    "kmsfs/src/fs/mode.rs",
    "kmsfs/src/fs/rewrap.rs",
    "kmsfs/src/fs/tasks.rs",
];

/// Whether a place has tests of its own.
pub(super) fn elsewhere(site: &str) -> bool {
    ELSEWHERE.iter().any(|folder| site.starts_with(folder))
}

/// The program with failpoints, and the places in it.
pub(super) struct Sites {
    pub(super) program: PathBuf,
    /// As `file:line:column`.
    pub(super) all: BTreeSet<String>,
}

/// Builds the program. In that build what changes the tree is deprecated: the warnings are the list.
pub(super) fn build(world: &World) -> Sites {
    let folder = programs::folder();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--workspace", "--locked", "--message-format=json"])
        .args([
            "--features",
            "kmsfs/failpoints",
            "--bin",
            "kmsfs-failpoints",
        ])
        .arg("--target-dir")
        .arg(folder.parent().expect("a target folder"))
        .current_dir(programs::source_root())
        .stderr(Stdio::inherit());
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.output().expect("start cargo");
    assert!(output.status.success(), "cargo build failed");
    let mut all = BTreeSet::new();
    for line in String::from_utf8(output.stdout)
        .expect("JSON of cargo")
        .lines()
    {
        let message: Value = serde_json::from_str(line).expect("JSON of cargo");
        if message["message"]["code"]["code"] != "deprecated" {
            continue;
        }
        for span in message["message"]["spans"].as_array().into_iter().flatten() {
            let file = span["file_name"].as_str().unwrap_or_default();
            if span["is_primary"] == true && !elsewhere(file) {
                all.insert(format!(
                    "{file}:{}:{}",
                    span["line_start"], span["column_start"]
                ));
            }
        }
    }
    assert!(
        all.len() > 50,
        "the compiler named only {} places",
        all.len()
    );
    // Where other users can run it.
    let program = world.path("kmsfs-failpoints");
    std::fs::copy(folder.join("kmsfs-failpoints"), &program).expect("copy the program");
    Sites { program, all }
}

/// The line of a place, without the spaces around it.
pub(super) fn source_line(site: &str) -> String {
    let mut parts = site.split(':');
    let file = parts.next().unwrap_or_default();
    let line: usize = parts.next().and_then(|line| line.parse().ok()).unwrap_or(0);
    let text = std::fs::read_to_string(programs::source_root().join(file)).unwrap_or_default();
    let line = line.checked_sub(1).and_then(|line| text.lines().nth(line));
    line.unwrap_or_default().trim().to_owned()
}
