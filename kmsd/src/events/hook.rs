//! The program that is told of events: one run for each, one at a time, on a thread of its own.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

/// Events that wait for the program; more are dropped, which is said.
const QUEUE: usize = 1024;
/// How often a running program is looked at.
const STEP: Duration = Duration::from_millis(10);
/// How much of what it says on standard error gets into the log.
const SAID: usize = 1024;

/// Why a program is not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum HookError {
    /// It cannot be looked at.
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// Somebody but root could change what is run.
    #[error("{} {reason}", path.display())]
    Unsafe { path: PathBuf, reason: &'static str },
}

/// Checks that nobody but root decides what this program is: it and every directory on the way to it belong to root
/// and are writable by nobody else.
pub(crate) fn check(program: &Path) -> Result<(), HookError> {
    let refuse = |path: &Path, reason| {
        Err(HookError::Unsafe {
            path: path.to_owned(),
            reason,
        })
    };
    if !program.is_absolute() {
        return refuse(program, "is not an absolute path");
    }
    // Where links lead counts, not they.
    let real = program.canonicalize().map_err(|source| HookError::Io {
        path: program.to_owned(),
        source,
    })?;
    for path in real.ancestors() {
        let metadata = path.metadata().map_err(|source| HookError::Io {
            path: path.to_owned(),
            source,
        })?;
        let is_program = path == real;
        if metadata.uid() != 0 {
            return refuse(path, "does not belong to root");
        }
        // A sticky directory such as /tmp lets nobody replace what is root's.
        let sticky = !is_program && metadata.mode() & 0o1000 != 0;
        if metadata.mode() & 0o022 != 0 && !sticky {
            return refuse(path, "can be written to by others than root");
        }
        if is_program && !metadata.is_file() {
            return refuse(path, "is not a file");
        }
        if is_program && metadata.mode() & 0o111 == 0 {
            return refuse(path, "is not executable");
        }
    }
    Ok(())
}

/// A handle of the thread that runs the program. When it is dropped the thread ends, after what waits.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    queue: SyncSender<Arc<Value>>,
    dropped: Arc<AtomicU64>,
}

impl Hook {
    /// Starts the thread. A run that takes longer than `limit` is killed, with all that it started in its process group.
    pub(crate) fn start(program: &Path, limit: Duration) -> std::io::Result<Self> {
        let (queue, events) = sync_channel(QUEUE);
        let program = program.to_owned();
        std::thread::Builder::new()
            .name("events-hook".to_owned())
            .spawn(move || run(&program, limit, &events))?;
        Ok(Self {
            queue,
            dropped: Arc::default(),
        })
    }

    /// Hands over an event; never waits.
    pub(crate) fn tell(&self, event: Arc<Value>) {
        match self.queue.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(event)) => {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::warn!(
                    dropped,
                    id = event.get("id").and_then(|id| id.as_str()),
                    "the program of events.exec is too slow: it is not told of this event, which is in the audit log"
                );
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

fn run(program: &Path, limit: Duration, events: &Receiver<Arc<Value>>) {
    while let Ok(event) = events.recv() {
        let id = event.get("id").and_then(Value::as_str);
        // It may have been replaced since the last time.
        if let Err(error) = check(program) {
            tracing::error!(%error, event = id, "the program of events.exec is not run");
            continue;
        }
        match run_once(program, limit, &event) {
            Ok((Some(status), _)) if status.success() => {}
            Ok((Some(status), said)) => {
                tracing::warn!(%status, said, event = id, "the program of events.exec failed");
            }
            Ok((None, said)) => {
                tracing::warn!(
                    said,
                    event = id,
                    "the program of events.exec took too long and was killed"
                );
            }
            Err(error) => {
                tracing::error!(%error, event = id, "the program of events.exec cannot be run");
            }
        }
    }
}

/// Runs it with the event on standard input. Its status, none if it was killed, and what it said.
fn run_once(
    program: &Path,
    limit: Duration,
    event: &Value,
) -> std::io::Result<(Option<ExitStatus>, String)> {
    let mut child = Command::new(program)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let line = format!("{event}\n");
    // It may not read, and it may leave a process in a session of its own that holds the pipe: neither holds this thread.
    let input = child.stdin.take();
    std::thread::spawn(move || {
        if let Some(mut input) = input {
            let _ = input.write_all(line.as_bytes());
        }
    });
    let mut said = Said::new(child.stderr.take())?;
    let status = wait(&mut child, limit, &mut said);
    // Whatever it left behind in its group ends with it.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let status = match status? {
        Some(status) => Some(status),
        None => {
            child.wait()?;
            None
        }
    };
    said.read();
    Ok((status, String::from_utf8_lossy(&said.text).into_owned()))
}

/// What a program says on standard error. Its end is not waited for: a process that left the group can hold the pipe for
/// as long as it likes.
struct Said {
    pipe: Option<ChildStderr>,
    text: Vec<u8>,
}

impl Said {
    fn new(pipe: Option<ChildStderr>) -> std::io::Result<Self> {
        if let Some(pipe) = &pipe {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        let text = Vec::new();
        Ok(Self { pipe, text })
    }

    /// Takes what there is, so that the program can go on, and keeps the beginning.
    fn read(&mut self) {
        /// What is taken at once, so that one that never stops is killed in time.
        const READS: usize = 64;
        let mut buffer = [0; 4096];
        for _ in 0..READS {
            let read = match self.pipe.as_mut().map(|pipe| pipe.read(&mut buffer)) {
                Some(Ok(read)) if read > 0 => read,
                _ => return,
            };
            let room = SAID.saturating_sub(self.text.len());
            self.text
                .extend(buffer.iter().take(read.min(room)).copied());
        }
    }
}

fn wait(
    child: &mut Child,
    limit: Duration,
    said: &mut Said,
) -> std::io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() >= limit {
            return Ok(None);
        }
        said.read();
        std::thread::sleep(STEP);
    }
}
