//! A child process that never outlives its owner, with its output kept in a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::wait;

/// A running program. Dropping it kills it (SIGKILL) and reaps it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with standard output and error appended to `log`. A file, not a pipe: nobody has
    /// to drain it, and a test that fails can show it.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Process {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("open the log");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("second handle of the log"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
            status: None,
        }
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("ask for the child's state");
        }
        self.status
    }

    /// Waits until it prints `text`; fails with its output if it ends before.
    pub fn wait_for_log(&mut self, text: &str) {
        let name = self.name.clone();
        wait::until_true(&format!("{name} printing {text:?}"), wait::PATIENCE, || {
            if self.log().contains(text) {
                return true;
            }
            self.assert_running();
            false
        });
    }

    /// Fails the test, with the program's output, if it has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.ended() {
            panic!(
                "{} ended early, {status}; it printed:\n{}",
                self.name,
                self.log()
            );
        }
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            rustix::process::kill_process(self.pid(), signal).expect("send a signal to the child");
        }
    }

    /// Waits for the end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ending; it printed:\n{}", self.name, self.log());
        wait::until(&what, limit, || self.ended())
    }

    /// SIGTERM, then waits for a clean end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(wait::PATIENCE)
    }

    /// SIGKILL, then reaps it.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait(wait::PATIENCE);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(8000);
            let tail = log.get(start..).unwrap_or(&log);
            eprintln!("--- {} printed:\n{tail}---", self.name);
        }
    }
}
