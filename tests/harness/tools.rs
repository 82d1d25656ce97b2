//! Tools from the registries: the file system suites (crates), clients and libraries (a Python environment). Made once
//! below the target folder, each under its exact version.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::programs;
use crate::require::output_of;

/// One installation at a time in this process; `scripts/tool.sh` is quick when the tool is there.
static INSTALLING: Mutex<()> = Mutex::new(());

/// The path of a tool of `scripts/tool-versions`, built first if need be (a minute or so).
pub fn cargo_tool(name: &str) -> PathBuf {
    let _one = INSTALLING.lock();
    let script = programs::source_root().join("scripts/tool.sh");
    PathBuf::from(output_of(Command::new(script).arg(name)).trim())
}

/// A Python interpreter that has the clients and the libraries of `tests/clients/requirements.txt`; the programs among them
/// (`aws`, `aws-encryption-cli`) lie beside it. Made on first use, which takes a minute.
pub fn python() -> PathBuf {
    let _one = INSTALLING.lock();
    let requirements = programs::source_root().join("tests/clients/requirements.txt");
    let listed = std::fs::read(&requirements).expect("read the requirements");
    let folder = installed("python", &listed, |folder| {
        output_of(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(folder),
        );
        output_of(
            Command::new(folder.join("bin/python"))
                .args(["-m", "pip", "install", "--quiet"])
                .args(["--disable-pip-version-check", "--requirement"])
                .arg(&requirements),
        );
    });
    folder.join("bin/python")
}

/// A folder with the AWS SDK for JavaScript and its test program, as `tests/clients/node/package-lock.json` has it.
pub fn javascript_client() -> PathBuf {
    let _one = INSTALLING.lock();
    let source = programs::source_root().join("tests/clients/node");
    let read = |name: &str| std::fs::read(source.join(name)).expect("read the package's files");
    let folder = installed("node", &read("package-lock.json"), |folder| {
        std::fs::create_dir_all(folder).expect("make the folder");
        for name in ["package.json", "package-lock.json"] {
            std::fs::write(folder.join(name), read(name)).expect("copy the package's files");
        }
        let ci = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
        output_of(Command::new("npm").current_dir(folder).args(ci));
    });
    // Modules are looked for beside the program.
    std::fs::write(folder.join("life.mjs"), read("life.mjs")).expect("copy the program");
    folder
}

/// The test program of the AWS SDK for Rust: a workspace of its own, built on first use (a minute or two).
pub fn rust_client() -> PathBuf {
    let _one = INSTALLING.lock();
    let manifest = programs::source_root().join("tests/clients/rust/Cargo.toml");
    let target = programs::folder().join("client-rust");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    output_of(
        Command::new(cargo)
            .args(["build", "--locked", "--quiet", "--manifest-path"])
            .arg(manifest)
            .env("CARGO_TARGET_DIR", &target)
            // What cargo sets for this test is not meant for another workspace.
            .env_remove("CARGO_MANIFEST_DIR"),
    );
    target.join("debug/kms-client-rust")
}

/// A folder below the target folder that `make` filled, named after `inputs`: other inputs make another one.
fn installed(kind: &str, inputs: &[u8], make: impl FnOnce(&Path)) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    let folder = programs::folder().join(format!("{kind}-{:016x}", hasher.finish()));
    let ready = folder.join("ready");
    if !ready.exists() {
        make(&folder);
        std::fs::write(&ready, "").expect("mark the folder as ready");
    }
    folder
}
