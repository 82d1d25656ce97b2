//! The kmsd program itself, with the software sealer: enrolment, configuration, start and end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in a helper is a failed test"
)]

mod approvals;
mod dev;
mod enroll;
mod flood;
mod life;
mod making;
mod revoke;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder with a configuration for the software sealer.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        home.configure("");
        home
    }

    fn configure(&self, more: &str) {
        let uid = rustix::process::getuid().as_raw();
        let text = format!(
            "[server]\nsocket = {:?}\nservice_uids = [{uid}]\n[store]\ndirectory = {:?}\n[seal]\n{}",
            self.path("kmsd.sock"),
            self.path("store"),
            if more.starts_with("kind") {
                more.to_owned()
            } else {
                format!("kind = \"software\"\n{more}")
            },
        );
        fs::write(self.path("kmsd.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kmsd"));
        command
            .args(arguments)
            .arg("--config")
            .arg(self.path("kmsd.toml"));
        command.stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Enrols unattended, with the recovery key in the file `recovery`.
    fn enroll(&self) -> Output {
        let recovery = self.path("recovery");
        let recovery = recovery.to_str().unwrap();
        self.run(&[
            "enroll",
            "--recovery-out",
            recovery,
            "--verify-from",
            recovery,
        ])
    }

    /// Starts the daemon and waits until it answers.
    fn start(&self) -> Running {
        let log = fs::File::create(self.path("log")).unwrap();
        let mut kmsd = Running(self.command(&[]).stderr(log).spawn().unwrap());
        until("kmsd", || {
            let ended = kmsd.0.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "kmsd ended: {ended:?}\n{}",
                read(&self.path("log"))
            );
            self.client().send(kms_api::GetStatusRequest {}).ok()
        });
        kmsd
    }

    fn client(&self) -> kms_api::client::Client {
        kms_api::client::Client::new(self.path("kmsd.sock"))
    }
}

/// A child that does not outlive the test.
struct Running(Child);

impl Running {
    fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        until("the end of kmsd", || self.0.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited 30 s for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
