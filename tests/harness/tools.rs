//! Tools from the registries: the file system suites (crates) and boto3 (a Python environment). Made once
//! below the target folder, each under its exact version.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use crate::programs;
use crate::require::output_of;

/// boto3, with the botocore of the same version.
const BOTO3: &str = "1.44.5";

/// One installation at a time in this process; `scripts/tool.sh` is quick when the tool is there.
static INSTALLING: Mutex<()> = Mutex::new(());

/// The path of a tool of `scripts/tool-versions`, built first if need be (a minute or so).
pub fn cargo_tool(name: &str) -> PathBuf {
    let _one = INSTALLING.lock();
    let script = programs::source_root().join("scripts/tool.sh");
    PathBuf::from(output_of(Command::new(script).arg(name)).trim())
}

/// A Python interpreter that has boto3.
pub fn python_with_boto3() -> PathBuf {
    let _one = INSTALLING.lock();
    let folder = programs::folder().join(format!("python-boto3-{BOTO3}"));
    let python = folder.join("bin/python");
    let ready = folder.join("ready");
    if !ready.exists() {
        output_of(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&folder),
        );
        output_of(
            Command::new(&python)
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                ])
                .arg(format!("boto3=={BOTO3}")),
        );
        std::fs::write(&ready, "").expect("mark the environment as ready");
    }
    python
}
