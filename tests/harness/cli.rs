//! Running the programs as an administrator would.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::programs;

/// What a program said.
#[derive(Debug)]
pub struct Said {
    /// Exit code, or -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    command: String,
}

impl Said {
    /// Fails the test unless the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> Said {
        assert!(
            self.code == 0,
            "{}: exit code {}\n{}{}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails the test unless the exit code is not 0 and standard error contains `text`.
    #[track_caller]
    pub fn fails_with(self, text: &str) -> Said {
        assert!(
            self.code > 0 && self.stderr.contains(text),
            "{}: expected a failure that says {text:?}, got exit code {}\n{}{}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error} in:\n{}", self.command, self.stdout))
    }
}

/// Runs a built program to its end.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S], socket: Option<&Path>) -> Said {
    let mut command = Command::new(programs::path(program));
    command.args(arguments).stdin(Stdio::null());
    match socket {
        Some(socket) => command.env("KMSD_SOCKET", socket),
        None => command.env_remove("KMSD_SOCKET"),
    };
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        command: format!("{command:?}"),
    }
}
