//! Into the background: the command starts itself again, waits for one line from that process, and
//! returns its verdict. The new process has one thread and no keys until it is on its own.

use std::io::{self, Read as _, Write as _};
use std::process::{Command, ExitCode, Stdio};

/// Set for the process in the background; its standard output is the pipe to the command.
const MARK: &str = "_KMSFS_IN_BACKGROUND";
/// What the process in the background writes when the mount can be used.
const READY: &[u8] = b"mounted\n";

/// Whether this process was started by [`start`].
#[must_use]
pub fn is_background() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts the same command line in the background and waits until its mount can be used. The
/// reason of a failure is on standard error already, which the process shares until then.
///
/// # Errors
/// The process could not be started.
pub fn start() -> io::Result<ExitCode> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(
            crate::options::from_mount_helper(std::env::args_os().collect())
                .into_iter()
                .skip(1),
        )
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut verdict = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        let mut chunk = [0; 64];
        while verdict != READY {
            match pipe.read(&mut chunk)? {
                0 => break,
                length => verdict.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            }
        }
    }
    if verdict == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    // It must not have succeeded without a mount; killed by a signal counts as failed too.
    Ok(ExitCode::from(code.filter(|code| *code != 0).unwrap_or(1)))
}

/// Leaves the session and the directory of the command.
///
/// # Errors
/// The kernel refuses.
pub fn detach() -> io::Result<()> {
    // Fails only if it is a session leader already.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    Ok(())
}

/// Tells the command that the mount can be used, and lets go of its standard streams.
///
/// # Errors
/// The pipe is closed: the command was killed, and nobody will know of the mount.
pub fn ready() -> io::Result<()> {
    io::stdout().write_all(READY)?;
    io::stdout().flush()?;
    let null = super::device::dev_null()?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
