//! What a machine must have for a suite, and skipping what it cannot run.
//!
//! A suite begins with `require::fuse()` and the like, and returns when that is false. The line that says
//! so goes past the test runner's capture. With `KMS_TESTS_REQUIRE=fuse,tpm,systemd,loop` (any of them) a lack
//! is a failure: CI sets it, so that a machine that lost an ability cannot turn a suite green.

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// True when file systems can be mounted: `/dev/fuse` opens and `fusermount3` is there.
pub fn fuse() -> bool {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    let missing = match device {
        Err(error) => Some(format!("/dev/fuse: {error}")),
        Ok(_) if !on_path("fusermount3") => Some("fusermount3 is not installed".to_owned()),
        Ok(_) => None,
    };
    decide("fuse", missing)
}

/// True when a software TPM can be started.
pub fn tpm() -> bool {
    decide(
        "tpm",
        (!on_path("swtpm")).then(|| "swtpm is not installed".to_owned()),
    )
}

/// True when a host can be booted by systemd in a container: root, `systemd-nspawn`, cgroups.
pub fn systemd() -> bool {
    let missing = if !root() {
        Some("not root".to_owned())
    } else if !on_path("systemd-nspawn") {
        Some("systemd-nspawn is not installed".to_owned())
    } else if !Path::new("/sys/fs/cgroup").is_dir() {
        Some("no /sys/fs/cgroup".to_owned())
    } else {
        None
    };
    decide("systemd", missing)
}

/// True when a program that one test needs is installed.
pub fn program(name: &str) -> bool {
    let missing = (!on_path(name)).then(|| format!("{name} is not installed"));
    decide(name, missing)
}

/// True when file systems can be made in image files and mounted: root, loop devices, ext4 and XFS tools.
pub fn loop_devices() -> bool {
    let tool = ["losetup", "mkfs.ext4", "mkfs.xfs"]
        .into_iter()
        .find(|tool| !on_path(tool));
    let missing = if !root() {
        Some("not root".to_owned())
    } else if !Path::new("/dev/loop-control").exists() {
        Some("there is no /dev/loop-control".to_owned())
    } else {
        tool.map(|tool| format!("{tool} is not installed"))
    };
    decide("loop", missing)
}

/// True for root. Suites that act as several users need it; CI is root.
pub fn as_root() -> bool {
    decide("root", (!root()).then(|| "not root".to_owned()))
}

/// True when `program` is in a folder of `PATH`.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// True when longer exercises are asked for (`make test-full`).
pub fn full() -> bool {
    std::env::var_os("KMS_TESTS_FULL").is_some_and(|value| value == "1")
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

fn decide(what: &str, missing: Option<String>) -> bool {
    let Some(missing) = missing else { return true };
    let required = std::env::var("KMS_TESTS_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|item| item.trim() == what),
        "KMS_TESTS_REQUIRE names {what}, but: {missing}"
    );
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    // Not eprintln!, which the test runner keeps to itself when the test passes.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: needs {what}, but {missing}"
    );
    false
}

/// The output of a command that must succeed, as text.
pub fn output_of(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}
