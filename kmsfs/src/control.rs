//! The control socket of a mount: one JSON object a line, one line back.
//!
//! Only root and the user who mounted may use it; the kernel tells who connects.

mod check;
pub mod client;
mod end;
mod jobs;
mod lock;
mod place;
mod protect;
pub mod protocol;
pub mod way;

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use self::place::make as make_directory;
pub use self::place::{default_path, directory};
use self::protocol::{Answer, Command, Failed};
use crate::errno::Errno;
use crate::fs::Fs;
use crate::jobs::Jobs;
use crate::revoke::Revoker;
use crate::status::MountStatus;
use crate::volume::RecordFile;
use crate::volume::kmsd::{KmsdKeys, Unlocked};

/// How long a client may take to say something.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients served at once; more are turned away.
const MAX_CONNECTIONS: usize = 16;
/// The longest freeze, in seconds.
const MAX_FREEZE: u64 = 24 * 3600;
/// Between two looks at whether keys were rotated.
const LOOK: Duration = Duration::from_secs(600);
/// From the mount to the first one.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Longest line.
const MAX_LINE: u64 = 64 * 1024;

/// A mount as the control socket sees it.
pub struct Controlled {
    /// The lower directory.
    pub lower: PathBuf,
    /// The mount point.
    pub mountpoint: PathBuf,
    /// The file system.
    pub fs: Arc<Fs>,
    /// Its keys.
    pub keys: Arc<KmsdKeys>,
    /// Ends access to what is open in it.
    pub revoker: Arc<Revoker>,
    /// Whom it asks about its users.
    pub deciders: way::Deciders,
    /// Its volume record.
    pub record: RecordFile,
    /// Held by whoever replaces the volume record.
    pub record_lock: Arc<Mutex<()>>,
    /// Long work on it.
    pub jobs: Arc<Jobs>,
}

/// The socket of one mount; removed when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    link: Option<PathBuf>,
    listener: Arc<UnixListener>,
    thread: Option<JoinHandle<()>>,
}

impl ControlSocket {
    /// Listens on `path`. A socket that is there already is left from a mount that was killed; only the default place
    /// may be in use, by a mount of a copy of this volume.
    ///
    /// # Errors
    /// The directory cannot be made or the socket not be bound.
    pub fn open(path: &Path, mount: Controlled) -> io::Result<ControlSocket> {
        let usual = default_path(&mount.keys.volume());
        if path == usual {
            place::make()?;
        }
        let default = unused(&usual);
        let path = if path == usual { &default } else { path };
        make_room(path)?;
        let link = link_to(path, &default);
        let listener = Arc::new(UnixListener::bind(path)?);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let accepting = Arc::clone(&listener);
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept(&accepting, mount))?;
        Ok(ControlSocket {
            path: path.to_owned(),
            link,
            listener,
            thread: Some(thread),
        })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Wakes the thread out of accept.
        let _ = rustix::net::shutdown(self.listener.as_fd(), rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        for path in self.link.iter().chain([&self.path]) {
            drop(std::fs::remove_file(path));
        }
    }
}

/// The default place, or one beside it if somebody listens there: a copy of this volume is mounted, too.
fn unused(default: &Path) -> PathBuf {
    if UnixStream::connect(default).is_err() {
        return default.to_owned();
    }
    default.with_extension(format!("{}.sock", std::process::id()))
}

/// Makes the directory, and removes what a killed mount left.
fn make_room(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent()
        && !parent.is_dir()
    {
        std::fs::create_dir_all(parent)?;
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A socket at a chosen place can be found at the default one too, where kmsctl looks.
fn link_to(path: &Path, default: &Path) -> Option<PathBuf> {
    if path == default {
        return None;
    }
    let linked = place::make()
        .and_then(|()| make_room(default))
        .and_then(|()| std::os::unix::fs::symlink(path, default));
    match linked {
        Ok(()) => Some(default.to_owned()),
        Err(error) => {
            tracing::warn!(%error, link = %default.display(), "kmsctl needs --control for this mount");
            None
        }
    }
}

/// What all connections share.
struct Server {
    mount: Controlled,
}

/// Accepts connections, each with a thread of its own, until the socket is shut down; then ends them.
fn accept(listener: &UnixListener, mount: Controlled) {
    let server = Arc::new(Server { mount });
    jobs::resume(&server.mount);
    let looking = Arc::clone(&server);
    let rotations = std::thread::Builder::new()
        .name("rotations".to_owned())
        .spawn(move || {
            // Soon after the mount, when what is used first is unlocked.
            let mut pause = FIRST_LOOK;
            while !looking.mount.jobs.closes_within(pause) {
                jobs::rewrap_rotated(&looking.mount);
                pause = LOOK;
            }
        });
    if let Err(error) = &rotations {
        tracing::warn!(%error, "no rewrap begins by itself after a rotation");
    }
    let mut connections: Vec<(Arc<UnixStream>, JoinHandle<()>)> = Vec::new();
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // Shut down.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => {
                // No descriptors, for example; it passes.
                tracing::debug!(%error, "cannot accept a control connection");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        connections.retain(|(_, thread)| !thread.is_finished());
        if connections.len() >= MAX_CONNECTIONS {
            tracing::debug!("too many control connections");
            continue;
        }
        let (server, stream) = (Arc::clone(&server), Arc::new(stream));
        let served = Arc::clone(&stream);
        let thread = std::thread::Builder::new()
            .name("control-client".to_owned())
            .spawn(move || {
                if let Err(error) = serve(&server, &served) {
                    tracing::debug!(%error, "control connection");
                }
                // Closed only with the next connection.
                drop(served.shutdown(Shutdown::Both));
            });
        match thread {
            Ok(thread) => connections.push((stream, thread)),
            Err(error) => tracing::warn!(%error, "cannot start a thread for a control connection"),
        }
    }
    for (stream, _) in &connections {
        drop(stream.shutdown(Shutdown::Both));
    }
    for (_, thread) in connections {
        drop(thread.join());
    }
    server.mount.jobs.close();
    if let Ok(rotations) = rotations {
        drop(rotations.join());
    }
}

fn serve(server: &Server, stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let owner = crate::service::mounter();
    let allowed = peer.uid.is_root() || peer.uid == owner;
    let mut lines = BufReader::new(stream);
    let mut held = Held {
        server,
        freeze: None,
    };
    loop {
        let mut line = String::new();
        if lines.by_ref().take(MAX_LINE).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = if allowed {
            handle(server, &line, stream, &mut held)
        } else {
            Answer::Failed(Failed {
                message: format!("user {} may not control this mount", peer.uid.as_raw()),
                next_step: "use root, or the user who mounted".to_owned(),
            })
        };
        send(stream, &answer)?;
    }
}

fn send(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    stream.write_all(&text)
}

/// A freeze that lasts no longer than its connection.
struct Held<'a> {
    server: &'a Server,
    freeze: Option<u64>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.freeze.is_some()
            && let Err(errno) = self.server.mount.fs.thaw(self.freeze)
        {
            tracing::error!(%errno, "cannot thaw now; the time limit does");
        }
    }
}

fn handle(server: &Server, line: &str, stream: &UnixStream, held: &mut Held<'_>) -> Answer {
    let mount = &server.mount;
    let command = match serde_json::from_str(line) {
        Ok(command) => command,
        Err(error) => {
            return Answer::Failed(Failed {
                message: format!("not a command of this kmsfs: {error}"),
                next_step: "use kmsctl and kmsfs of the same version".to_owned(),
            });
        }
    };
    match command {
        Command::Status => Answer::Status(status(mount)),
        Command::Freeze { seconds, hold } => {
            match mount
                .fs
                .freeze(Duration::from_secs(seconds.min(MAX_FREEZE)))
            {
                Ok(number) => {
                    if hold {
                        held.freeze = Some(number);
                        // It says nothing until its work is done.
                        let _ = stream.set_read_timeout(None);
                    }
                    Answer::Frozen
                }
                Err(errno) => Answer::Failed(not_frozen(errno)),
            }
        }
        Command::Thaw => match mount.fs.thaw(None) {
            Ok(was) => Answer::Thawed(was),
            Err(errno) => Answer::Failed(Failed {
                message: format!("the mark of use cannot be made: {errno}"),
                next_step: "make room on the lower file system, then thaw again".to_owned(),
            }),
        },
        Command::Lock { path, user, kill } => {
            answer(lock::lock(mount, &path, user, kill), Answer::Locked)
        }
        Command::Unlock { path, user } => {
            answer(lock::unlock(mount, &path, user), Answer::Unlocked)
        }
        Command::WhyDenied { path, who } => answer(
            way::check(who).and_then(|()| way::way(mount, &path, who)),
            |way| Answer::Way(Box::new(way)),
        ),
        Command::Who { path } => answer(lock::who(mount, &path), Answer::Holders),
        Command::Check { content } => {
            check::check(mount, content, &mut |answer| send(stream, answer).is_ok())
        }
        Command::Job(request) => {
            // It may be long until somebody says something again.
            let _ = stream.set_read_timeout(None);
            jobs::job(server, &request, &mut |answer| send(stream, answer).is_ok())
        }
        Command::JobWatch => jobs::watch_running(mount, &mut |answer| send(stream, answer).is_ok()),
        Command::OlderEnded { policy, before } => match policy.parse() {
            Ok(policy) => match mount.older_ended(policy, before) {
                Ok(gone) => Answer::OlderGone(gone),
                Err(failed) => Answer::Failed(failed),
            },
            Err(_) => Answer::Failed(Failed {
                message: format!("{policy} is no policy id"),
                next_step: "use kmsctl and kmsfs of the same version".to_owned(),
            }),
        },
        Command::JobStop => Answer::JobStopped(mount.jobs.stop()),
        Command::Protect { path, key, mode } => {
            let _alone = mount.record_lock.lock();
            match protect::protect(mount, &path, &key, &mode) {
                Ok(done) => Answer::Protected(done),
                Err(failed) => {
                    tracing::warn!(key, reason = failed.message, "protect refused");
                    Answer::Failed(failed)
                }
            }
        }
    }
}

fn answer<T>(done: Result<T, Failed>, answer: impl FnOnce(T) -> Answer) -> Answer {
    done.map_or_else(Answer::Failed, answer)
}

fn not_frozen(errno: Errno) -> Failed {
    if errno == Errno::BUSY {
        return Failed {
            message: "it is frozen already, or operations that run do not end".to_owned(),
            next_step: "see `kmsctl fs status`; try again".to_owned(),
        };
    }
    Failed {
        message: format!("not everything can be made durable: {errno}"),
        next_step: "see the log of the mount".to_owned(),
    }
}

/// The oldest first: of each policy the newest generation counts.
fn newest(mut unlocked: Vec<Unlocked>) -> Vec<Unlocked> {
    unlocked.sort_by_key(|unlocked| unlocked.policy.generation());
    unlocked
}

fn status(mount: &Controlled) -> MountStatus {
    let record = mount.keys.record();
    let refusals = record.policies.iter().filter_map(|entry| {
        let refusal = mount.keys.refusal(&entry.policy)?;
        Some((entry.policy.to_string(), refusal.to_string()))
    });
    let locked = mount.revoker.locks().into_iter().map(|(policy, reasons)| {
        let reasons: Vec<_> = reasons.iter().map(|why| why.text()).collect();
        (
            policy.to_string(),
            format!("locked: {}", reasons.join("; ")),
        )
    });
    MountStatus {
        volume: mount.keys.volume().to_string(),
        lower: mount.lower.clone(),
        mountpoint: mount.mountpoint.clone(),
        pid: std::process::id(),
        refused: refusals.chain(locked).collect(),
        job: mount.jobs.progress(),
        frozen: mount.fs.frozen_for().map(|left| left.as_secs()),
        unlocked: newest(mount.keys.unlocked())
            .into_iter()
            .map(|unlocked| {
                (
                    unlocked.policy.policy().to_string(),
                    unlocked.key_material_id,
                )
            })
            .collect(),
    }
}
