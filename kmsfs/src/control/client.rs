//! The other end of the control socket, for kmsctl.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Answer, Command};
use crate::mount::table::MountEntry;
use crate::volume::RecordFile;

/// Sends one command and returns the answer.
///
/// # Errors
/// Nobody listens, or what answers is not kmsfs.
pub fn ask(socket: &Path, command: &Command, timeout: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// A connection on which more than one line goes each way.
pub struct Conversation {
    lines: BufReader<UnixStream>,
}

impl Conversation {
    /// Connects. Each answer is waited for up to `timeout`.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn start(socket: &Path, timeout: Duration) -> io::Result<Conversation> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Conversation {
            lines: BufReader::new(stream),
        })
    }

    /// Sends a command and waits for the next answer.
    ///
    /// # Errors
    /// The mount is gone, or what answers is not kmsfs.
    pub fn ask(&mut self, command: &Command) -> io::Result<Answer> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.lines.get_mut().write_all(&line)?;
        self.hear()
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// As [`Conversation::ask`].
    pub fn hear(&mut self) -> io::Result<Answer> {
        let mut answer = String::new();
        if self.lines.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

/// The control socket of a mount: at its default place, unless a copy of its volume answers there, or else among the
/// sockets beside it.
///
/// # Errors
/// Another user could answer in the place of control sockets. Nothing there is asked.
pub fn socket_of(mount: &MountEntry) -> io::Result<Option<PathBuf>> {
    super::place::check()?;
    Ok(find(mount))
}

fn find(mount: &MountEntry) -> Option<PathBuf> {
    let serves = |path: &Path| match ask(path, &Command::Status, Duration::from_secs(1)) {
        Ok(Answer::Status(status)) => Some(status.lower == mount.source),
        _ => None,
    };
    let default = RecordFile::in_directory(&mount.source)
        .and_then(|record| record.read())
        .map(|record| super::default_path(&record.volume))
        .ok()
        // What does not answer is asked again by the caller, who says why.
        .filter(|path| path.exists() && serves(path) != Some(false));
    default.or_else(|| {
        let sockets = std::fs::read_dir(super::directory()).ok()?;
        sockets
            .flatten()
            .map(|item| item.path())
            .find(|path| serves(path) == Some(true))
    })
}
