//! After an unclean stop: whether the lower size of every file agrees with its header, and every directory has one, so that
//! the mark may go.
//!
//! A file is settled when it is looked up, but nobody need look it up before the next clean stop. So a thread reads
//! all headers in the background, without keys and without changing anything; what it finds is settled at the end.
//! The mark stays until a whole pass found nothing that could not be settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kms_format::file::{self, Settled};
use kms_format::names::{self, LowerName};
use kms_format::{ContentMode, FileHeader, FormatError};
use parking_lot::{Condvar, Mutex};

use super::context::{never_written, read_header};
use super::walk::{Here, Visit, walk};
use super::{Fs, FsResult, Kind};
use crate::backing::{Dir, LowerEntry};
use crate::errno::Errno;

/// How long an unmount waits for the pass to end.
const PATIENCE: Duration = Duration::from_secs(2);
/// With more unsettled files than this the mark stays.
const MOST: usize = 20_000;

/// Lower names from the root down.
type LowerPath = Vec<String>;

/// The pass over the lower tree.
pub(super) struct Recheck {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// A directory changed its place, perhaps from where the pass has not been to where it has.
    disturbed: AtomicBool,
    /// Once over: the unsettled files; None inside if not everything could be read.
    result: Mutex<Option<Option<Vec<LowerPath>>>>,
    over: Condvar,
}

impl Recheck {
    pub(super) fn start(root: &Arc<Dir>) -> FsResult<Recheck> {
        let shared = Arc::new(Shared::default());
        let (pass, root) = (Arc::clone(&shared), Arc::clone(root));
        let thread = std::thread::Builder::new()
            .name("recheck".to_owned())
            .spawn(move || {
                let found = pass.walk(&root);
                *pass.result.lock() = Some(found);
                pass.over.notify_all();
            })
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))?;
        Ok(Recheck {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// A directory gets another name or parent.
    pub(super) fn disturb(&self) {
        let settled = matches!(&*self.shared.result.lock(), Some(Some(found)) if found.is_empty());
        // What was found is known by the names it had.
        if !settled {
            self.shared.disturbed.store(true, Ordering::Release);
        }
    }

    /// Waits a moment for the end, then ends it. The unsettled files, or None if not all were looked at.
    fn finish(&self) -> Option<Vec<LowerPath>> {
        let deadline = Instant::now() + PATIENCE;
        let found = {
            let mut result = self.shared.result.lock();
            while result.is_none()
                && !self
                    .shared
                    .over
                    .wait_until(&mut result, deadline)
                    .timed_out()
            {}
            result.take().flatten()
        };
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that checks sizes panicked");
        }
        found.filter(|_| !self.shared.disturbed.load(Ordering::Acquire))
    }
}

impl Shared {
    fn walk(&self, root: &Arc<Dir>) -> Option<Vec<LowerPath>> {
        let mut pass = Pass {
            stop: &self.stop,
            found: Vec::new(),
        };
        walk(root, &mut pass).ok()?;
        Some(pass.found)
    }
}

struct Pass<'a> {
    stop: &'a AtomicBool,
    found: Vec<LowerPath>,
}

impl Visit for Pass<'_> {
    fn entry(&mut self, here: &Here<'_>, entry: &LowerEntry, kind: Kind) -> FsResult<bool> {
        if self.stop.load(Ordering::Acquire) || self.found.len() > MOST {
            return Err(Errno::BUSY);
        }
        let ours = matches!(
            names::classify(&entry.name),
            LowerName::Short | LowerName::Long
        );
        if ours && matches!(kind, Kind::File | Kind::Directory) {
            let name = String::from_utf8_lossy(&entry.name);
            let settled = match kind {
                Kind::File => verdict(here.dir, &name)? == Verdict::Settled,
                _ => has_header(here.dir, &name)?,
            };
            if !settled {
                let path = here.path.iter().map(|name| name.to_string());
                self.found.push(path.chain([name.into_owned()]).collect());
            }
        }
        Ok(ours)
    }

    fn unreadable(&mut self, _: &Here<'_>, _: &str, errno: Errno) -> FsResult<()> {
        match errno {
            // Removed since it was seen.
            Errno::NOENT => Ok(()),
            errno => Err(errno),
        }
    }
}

/// Whether the header of a directory is there; what is wrong with it otherwise is for whoever uses the directory.
fn has_header(dir: &Dir, name: &str) -> FsResult<bool> {
    let inside = match dir.open_dir(name) {
        Err(Errno::NOENT) => return Ok(true),
        inside => inside?,
    };
    Ok(!matches!(read_header(&inside)?, Err(error) if never_written(&error)))
}

/// How a lower size compares with the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Settled,
    /// There is no header; in mode xts that is an empty file.
    Blank,
    Unsettled,
}

/// Compares the lower size with the header. That is not authenticated here; damage is for whoever opens the file.
fn verdict(dir: &Dir, name: &str) -> FsResult<Verdict> {
    let file = match dir.open_file(name, false) {
        Err(Errno::NOENT) => return Ok(Verdict::Settled),
        file => file?,
    };
    let size = file.stat()?.st_size.cast_unsigned();
    if size == 0 {
        return Ok(Verdict::Blank);
    }
    let mut page = [0; file::PAGE];
    let got = file.read_at(&mut page, 0)?;
    Ok(
        match FileHeader::decode(page.get(..got).unwrap_or_default()) {
            Err(FormatError::Blank { .. }) => Verdict::Unsettled,
            Err(_) => Verdict::Settled,
            Ok(header) if header.copy().is_some() => Verdict::Unsettled,
            Ok(header) => match header.settle(size) {
                Ok(Settled::Repair { .. } | Settled::Look { .. }) => Verdict::Unsettled,
                Ok(Settled::Clean(_)) | Err(_) => Verdict::Settled,
            },
        },
    )
}

impl Fs {
    /// Whether every file is settled now, so that the next mount need not look.
    pub(super) fn all_settled(&self) -> bool {
        let Some(recheck) = &self.recheck else {
            return true;
        };
        let Some(found) = recheck.finish() else {
            return false;
        };
        found
            .iter()
            .all(|path| self.settle_at(path).unwrap_or(false))
    }

    /// Looks a file up, which settles it, and says whether that worked.
    fn settle_at(&self, path: &LowerPath) -> FsResult<bool> {
        let mut node = Arc::clone(self.table.root());
        for (depth, name) in path.iter().enumerate() {
            let dir = self.dirs.get(&node)?;
            let entered = {
                let _shared = node.directory()?.entries.read();
                self.enter(&node, &dir, name)
            };
            let entry = match entered {
                // Removed since.
                Err(Errno::NOENT) => return Ok(true),
                entry => entry?,
            };
            if depth + 1 == path.len() && entry.attr.kind == Kind::Directory {
                // Gives it a header, which is only done as long as the mark is there.
                self.context(&self.table.get(entry.node)?)?;
                return Ok(true);
            }
            if depth + 1 == path.len() {
                let gcm = self.table.get(entry.node)?.content_mode() == Some(ContentMode::Gcm);
                return Ok(match verdict(&dir, name)? {
                    Verdict::Settled => true,
                    Verdict::Blank => !gcm,
                    Verdict::Unsettled => false,
                });
            }
            node = self.table.get(entry.node)?;
        }
        Ok(true)
    }
}
