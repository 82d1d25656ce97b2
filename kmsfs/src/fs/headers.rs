//! Directory headers that are written but not yet durable.
//!
//! They become durable before an fsync at or below their directory returns, and within some seconds anyway, on a
//! thread of their own: not one fsync for each mkdir.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kms_format::names;
use parking_lot::{Condvar, Mutex};

use super::{FsResult, NodeId};
use crate::backing::Dir;
use crate::errno::Errno;
use crate::inode::Node;
use crate::inode::descriptors::Descriptors;
use crate::inode::table::Table;

/// How long a header may stay in memory; with the time to write it, less than the 5 s of FORMAT.md.
const DELAY: Duration = Duration::from_secs(3);
/// From this many on, one call for the whole lower file system is cheaper than one for each.
const MANY: usize = 64;

pub(super) struct Headers {
    dirs: Arc<Descriptors>,
    table: Arc<Table>,
    waiting: Mutex<Waiting>,
    count: AtomicUsize,
    changed: Condvar,
    /// Something could not be made durable.
    failed: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Waiting {
    nodes: HashMap<NodeId, Header>,
    stopped: bool,
}

struct Header {
    /// Held, so that it keeps its place, and is found again, when the kernel forgets it.
    node: Arc<Node>,
    /// An fsync failed since it was written. What was in the cache then counts as clean and may never be written: the next
    /// fsync proves nothing unless the header is written again.
    doubtful: bool,
}

impl Waiting {
    fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes
            .values()
            .map(|header| Arc::clone(&header.node))
            .collect()
    }
}

impl Headers {
    pub(super) fn start(dirs: Arc<Descriptors>, table: Arc<Table>) -> FsResult<Arc<Headers>> {
        let headers = Arc::new(Headers {
            dirs,
            table,
            waiting: Mutex::default(),
            count: AtomicUsize::new(0),
            changed: Condvar::new(),
            failed: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let worker = Arc::clone(&headers);
        let thread = std::thread::Builder::new()
            .name("headers".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))?;
        *headers.thread.lock() = Some(thread);
        Ok(headers)
    }

    /// A header was written.
    pub(super) fn add(&self, node: &Arc<Node>) {
        let header = Header {
            node: Arc::clone(node),
            doubtful: false,
        };
        let mut waiting = self.waiting.lock();
        if waiting.nodes.insert(node.id, header).is_none() {
            self.table.hold(node);
        }
        self.count.store(waiting.nodes.len(), Ordering::Release);
        if waiting.nodes.len() == 1 {
            self.changed.notify_one();
        }
    }

    #[cfg(test)]
    pub(super) fn waits(&self, node: NodeId) -> bool {
        self.waiting.lock().nodes.contains_key(&node)
    }

    /// The directory is gone.
    pub(super) fn remove(&self, node: &Node) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut waiting = self.waiting.lock();
        let known = waiting.nodes.remove(&node.id);
        self.count.store(waiting.nodes.len(), Ordering::Release);
        drop(waiting);
        if known.is_some() {
            self.table.forget(node.id, 1);
        }
    }

    /// Whether anything could not be made durable, even if it was later.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Makes the headers of a directory and of all above it durable.
    pub(super) fn flush_above(&self, node: &Arc<Node>) -> FsResult<()> {
        let mut here = Some(Arc::clone(node));
        while let Some(node) = here
            && self.count.load(Ordering::Acquire) > 0
        {
            let waits = self.waiting.lock().nodes.contains_key(&node.id);
            if waits {
                self.flush(&node)?;
            }
            here = node.parent();
        }
        Ok(())
    }

    /// Before something moves from one directory into another: the lower file system may make the move durable at any
    /// time, and what was synced in `from` must not end below a header that is not.
    pub(super) fn flush_for_move(&self, from: &Node, to: &Arc<Node>) -> FsResult<()> {
        // Nothing in a directory whose own header waits was ever synced.
        if self.count.load(Ordering::Acquire) == 0
            || self.waiting.lock().nodes.contains_key(&from.id)
        {
            return Ok(());
        }
        self.flush_above(to)
    }

    /// Makes the headers of the directories in `parent` durable.
    pub(super) fn flush_below(&self, parent: &Arc<Node>) -> FsResult<()> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let all = self.waiting.lock().nodes();
        let inside = |node: &&Arc<Node>| node.parent().is_some_and(|up| Arc::ptr_eq(&up, parent));
        all.iter()
            .filter(inside)
            .try_for_each(|node| self.flush(node))
    }

    pub(super) fn flush_all(&self) -> FsResult<()> {
        let all = self.waiting.lock().nodes();
        if all.len() < MANY {
            return all.iter().try_for_each(|node| self.flush(node));
        }
        let doubtful = |node: &Arc<Node>| self.is_doubtful(node.id);
        if let Err(errno) = self.dirs.root().sync_file_system() {
            all.iter().for_each(|node| self.doubt(node.id));
            return Err(errno);
        }
        for node in all {
            if doubtful(&node) {
                self.flush(&node)?;
            } else {
                self.remove(&node);
            }
        }
        Ok(())
    }

    fn doubt(&self, node: NodeId) {
        self.failed.store(true, Ordering::Release);
        if let Some(header) = self.waiting.lock().nodes.get_mut(&node) {
            header.doubtful = true;
        }
    }

    fn is_doubtful(&self, node: NodeId) -> bool {
        let waiting = self.waiting.lock();
        waiting
            .nodes
            .get(&node)
            .is_some_and(|header| header.doubtful)
    }

    fn flush(&self, node: &Arc<Node>) -> FsResult<()> {
        let found = self.dirs.get(node).and_then(|dir| {
            if self.is_doubtful(node.id) {
                write_again(node, &dir)?;
            }
            Ok((dir.open_file(names::DIR_HEADER, false)?, dir))
        });
        let written = match found {
            // Removed in the meantime: nothing to keep.
            Err(Errno::NOENT | Errno::STALE) => Ok(()),
            Err(errno) => Err(errno),
            Ok((header, dir)) => header.sync().and_then(|()| dir.sync()),
        };
        match written {
            Ok(()) => {
                self.remove(node);
                Ok(())
            }
            Err(errno) => {
                self.doubt(node.id);
                tracing::error!(lower = node.lower_path(), %errno, "cannot make a directory header durable");
                Err(errno)
            }
        }
    }

    fn run(&self) {
        loop {
            {
                let mut waiting = self.waiting.lock();
                while waiting.nodes.is_empty() && !waiting.stopped {
                    self.changed.wait(&mut waiting);
                }
                if !waiting.stopped {
                    // A notification in between is only one more header.
                    let until = std::time::Instant::now() + DELAY;
                    while !waiting.stopped
                        && !self.changed.wait_until(&mut waiting, until).timed_out()
                    {
                    }
                }
                if waiting.stopped {
                    return;
                }
            }
            // Logged; tried again with the next header, fsync or at the end.
            let _ = self.flush_all();
        }
    }

    /// Ends the thread; what waits is for [`Headers::flush_all`].
    pub(super) fn stop(&self) {
        self.waiting.lock().stopped = true;
        self.changed.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread for directory headers panicked");
        }
    }
}

/// Writes a directory's header over itself: the same bytes, so a crash leaves one and the same.
fn write_again(node: &Node, dir: &Dir) -> FsResult<()> {
    let context = node.directory()?.context.read();
    let Some(context) = context.as_ref() else {
        // Replaced, and synced by that, in the meantime.
        return Ok(());
    };
    let bytes = context
        .header
        .encode()
        .map_err(|error| Errno::from(&error))?;
    dir.open_file(names::DIR_HEADER, true)?.write_at(&bytes, 0)
}
