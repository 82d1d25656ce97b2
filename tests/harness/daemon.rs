//! A running kmsd: its configuration, its store, its process.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::cli::{self, Said};
use crate::process::Process;
use crate::{programs, wait};

/// kmsd with everything it needs in one folder.
pub struct Daemon {
    folder: PathBuf,
    process: Option<Process>,
}

impl Daemon {
    /// Writes the configuration for a root key in the TPM at `device`; nothing is started.
    pub fn configure(folder: &Path, device: &str) -> Daemon {
        let daemon = Daemon {
            folder: folder.to_path_buf(),
            process: None,
        };
        fs::create_dir_all(daemon.store()).expect("make the store's folder");
        daemon.set_clock(0);
        let config = format!(
            "[server]\nsocket = {socket:?}\n\n[store]\ndirectory = {store:?}\n\n\
             [seal]\nkind = \"tpm\"\ndevice = {device:?}\ncredential = {credential:?}\n\n[testing]\nclock_file = {clock:?}\n",
            socket = daemon.socket(),
            store = daemon.store(),
            credential = folder.join("credential"),
            clock = folder.join("clock"),
        );
        fs::write(daemon.config(), config).expect("write the configuration");
        daemon
    }

    /// Enrols without anyone at a terminal. The recovery key is in [`Daemon::recovery_key`] afterwards.
    #[track_caller]
    pub fn enroll(&self) -> Said {
        let config = self.config();
        let recovery = self.recovery_key();
        let (config, recovery) = (path_text(&config), path_text(&recovery));
        cli::run(
            "kmsd",
            &[
                "enroll",
                "--config",
                config,
                "--recovery-out",
                recovery,
                "--verify-from",
                recovery,
            ],
            None,
        )
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with more arguments.
    #[track_caller]
    pub fn start_with(&mut self, arguments: &[&str]) {
        let mut process = self.launch_with(arguments);
        let socket = self.socket();
        wait::until_true("kmsd answering", wait::PATIENCE, || {
            process.assert_running();
            UnixStream::connect(&socket).is_ok()
        });
        self.process = Some(process);
    }

    /// Starts it where it must refuse: waits for its end and gives the exit code and what it said.
    #[track_caller]
    pub fn start_refused(&self) -> (i32, String) {
        let before = self.log().len();
        let mut process = self.launch();
        let status = process.wait(wait::PATIENCE);
        let said = process.log().split_off(before);
        assert!(
            !status.success(),
            "kmsd should have refused to start; it said:\n{said}"
        );
        (status.code().unwrap_or(-1), said)
    }

    /// Starts it where it may or may not refuse: true when it runs.
    #[track_caller]
    pub fn try_start(&mut self) -> bool {
        let mut process = self.launch();
        let socket = self.socket();
        let runs = wait::until(
            "kmsd answering or ending",
            wait::PATIENCE,
            || match process.ended() {
                Some(_) => Some(false),
                None => UnixStream::connect(&socket).is_ok().then_some(true),
            },
        );
        if runs {
            self.process = Some(process);
        }
        runs
    }

    fn launch(&self) -> Process {
        self.launch_with(&[])
    }

    fn launch_with(&self, arguments: &[&str]) -> Process {
        let mut command = Command::new(programs::path("kmsd"));
        command.arg("--config").arg(self.config()).args(arguments);
        Process::start("kmsd", &mut command, &self.folder.join("kmsd.log"))
    }

    /// SIGTERM; it must end well.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("kmsd is running");
        let status = process.terminate();
        assert!(
            status.success(),
            "kmsd ended with {status} after SIGTERM:\n{}",
            process.log()
        );
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("kmsd is running");
        process.signal(Signal::KILL);
        process.wait(wait::PATIENCE);
    }

    /// The process, when it runs.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("kmsd is running")
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("kmsd.sock")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("kmsd.toml")
    }

    /// The folder of its store.
    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// The file with the recovery key.
    pub fn recovery_key(&self) -> PathBuf {
        self.folder.join("recovery")
    }

    /// What it logged since the first start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("kmsd.log")).unwrap_or_default()
    }

    /// Sets its clock to now plus `seconds`.
    pub fn set_clock(&self, seconds: u64) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let clock = self.folder.join("clock");
        let new = self.folder.join("clock.new");
        // Renamed into place: kmsd reads it whenever it likes.
        fs::write(&new, format!("{}\n", now + seconds)).expect("write the clock");
        fs::rename(&new, &clock).expect("put the clock in place");
    }
}

/// A path as an argument; test paths are plain ASCII.
pub fn path_text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
