//! A TPM simulator for tests, demos and benches (feature `testing`).
//!
//! [`Swtpm`] runs one `swtpm` process over a state directory on two loopback ports. It needs the Debian package
//! `swtpm`; the helpers that change the chip's state call `tpm2-tools`. Never use it to keep real keys.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a simulator may take to come up or to go down.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// Ports tried lie below the range that Linux hands out to outgoing connections (32768 and up).
const FIRST_PORT: u16 = 20_000;
const PORT_PAIRS: u16 = 6_000;
/// TPM2_Shutdown(TPM_SU_CLEAR), TPM 2.0 part 3, 9.4.
const SHUTDOWN_CLEAR: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0];

/// A running (or stopped) simulator over one state directory. The process is killed when this is dropped; the
/// state directory stays.
#[derive(Debug)]
pub struct Swtpm {
    state: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Swtpm {
    /// Starts a simulator on `state` (made if missing) and waits until it listens. An empty directory is a
    /// factory-new TPM with seeds of its own.
    ///
    /// # Errors
    /// `swtpm` is not installed, the state is unusable, or no pair of ports was free within 20 seconds.
    pub fn start(state: impl Into<PathBuf>) -> io::Result<Self> {
        let state = state.into();
        std::fs::create_dir_all(&state)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let port = free_port_pair();
            match spawn(&state, port) {
                Ok(child) => {
                    return Ok(Self {
                        state,
                        port,
                        child: Some(child),
                    });
                }
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What kmsd takes as `seal.device`, for example `swtpm:host=127.0.0.1,port=20002`. It stays the same over
    /// [`stop`](Self::stop) and [`restart`](Self::restart).
    #[must_use]
    pub fn device(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// The directory that holds the simulator's state. Copy it while stopped to make a snapshot.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// An orderly power-off: TPM2_Shutdown(CLEAR), then the end of the process. Does nothing when stopped.
    ///
    /// # Errors
    /// The simulator did not answer within 20 seconds (another client holds it); it is killed all the same.
    pub fn stop(&mut self) -> io::Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        let said = self.say_goodbye();
        self.kill()?;
        said
    }

    /// A power cut: SIGKILL, no TPM2_Shutdown. The chip counts it as an unclean power-off.
    ///
    /// # Errors
    /// The process could not be signalled or reaped.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts a stopped simulator on the same state and ports. If it still runs it is stopped in order first: that is a
    /// TPM reset, PCRs are at their start values afterwards.
    ///
    /// # Errors
    /// As [`start`](Self::start); also when somebody else took the ports meanwhile.
    pub fn restart(&mut self) -> io::Result<()> {
        self.stop()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match spawn(&self.state, self.port) {
                Ok(child) => {
                    self.child = Some(child);
                    return Ok(());
                }
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline =>
                {
                    sleep(POLL * 5)
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs one of the `tpm2-tools` against this simulator, for example `tool("tpm2_pcrread", &["sha256:7"])`.
    ///
    /// # Errors
    /// The tool is not installed or failed; its standard error is in the message.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> io::Result<Output> {
        let output = Command::new(program)
            .args(arguments)
            .env("TPM2TOOLS_TCTI", self.device())
            .output()?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!(
                "{program} {arguments:?}: {}: {}",
                output.status,
                stderr.trim()
            )));
        }
        Ok(output)
    }

    /// Extends PCR `index` of the SHA-256 bank with 32 bytes of `byte`, as a changed boot would.
    ///
    /// # Errors
    /// As [`tool`](Self::tool).
    pub fn extend_pcr(&self, index: u32, byte: u8) -> io::Result<()> {
        let digest: String = std::iter::repeat_n(format!("{byte:02x}"), 32).collect();
        self.tool("tpm2_pcrextend", &[&format!("{index}:sha256={digest}")])
            .map(drop)
    }

    /// TPM2_Clear: new storage seed, owner's objects and NV indices gone, as "clear TPM" in a firmware menu.
    ///
    /// # Errors
    /// As [`tool`](Self::tool).
    pub fn clear(&self) -> io::Result<()> {
        self.tool("tpm2_clear", &["-c", "p"]).map(drop)
    }

    /// Sets the dictionary-attack parameters and resets the counter of failures.
    ///
    /// # Errors
    /// As [`tool`](Self::tool).
    pub fn set_lockout(&self, max_tries: u32, recovery_seconds: u32) -> io::Result<()> {
        let (tries, seconds) = (max_tries.to_string(), recovery_seconds.to_string());
        self.tool(
            "tpm2_dictionarylockout",
            &["-s", "-n", &tries, "-t", &seconds, "-l", &seconds],
        )?;
        self.tool("tpm2_dictionarylockout", &["-c"]).map(drop)
    }

    fn say_goodbye(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&SHUTDOWN_CLEAR)?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // Nobody is left to tell; the process is a child and dies by SIGKILL.
        let _ = self.kill();
    }
}

/// Starts swtpm and waits until it holds both ports. It makes the pid file only after it has bound them, so a process that
/// lost a race for a port is never taken for a running one.
fn spawn(state: &Path, port: u16) -> io::Result<Child> {
    let control = port + 1;
    let pid_file = state.join("swtpm.pid");
    let log = state.join("swtpm.log");
    match std::fs::remove_file(&pid_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .args([
            "--server",
            &format!("type=tcp,port={port},bindaddr=127.0.0.1"),
        ])
        // The TCTI of tpm2-tss expects the control channel on the next port.
        .args([
            "--ctrl",
            &format!("type=tcp,port={control},bindaddr=127.0.0.1"),
        ])
        .args([
            "--flags",
            "not-need-init,startup-clear",
            "--seccomp",
            "action=none",
            "--pid",
        ])
        .arg(format!("file={}", pid_file.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log)?)
        .spawn()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if pid_file.metadata().is_ok_and(|file| file.len() > 0) {
            return Ok(child);
        }
        if let Some(status) = child.try_wait()? {
            let stderr = std::fs::read_to_string(&log)?;
            let kind = if stderr.contains("in use") {
                io::ErrorKind::AddrInUse
            } else {
                io::ErrorKind::Other
            };
            return Err(io::Error::new(
                kind,
                format!("swtpm: {status}: {}", stderr.trim()),
            ));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "swtpm did not come up",
            ));
        }
        sleep(POLL);
    }
}

/// A port that was free a moment ago, as was the next one. Test processes start at different places.
pub(crate) fn free_port_pair() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(97) % u32::from(PORT_PAIRS)) as u16;
    loop {
        let pair = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORT_PAIRS;
        let port = FIRST_PORT + 2 * pair;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && free(port + 1) {
            return port;
        }
    }
}
