//! Files of mode gcm that were closed before their header said how long they are.
//!
//! A header may say so only when what it vouches for is durable: an fsync of the file does both, closing it does not.
//! So files that were changed and closed wait here, still open, for a thread that makes them durable together every few
//! seconds. Until then their content is authenticated, but not their length.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kms_format::content::Synced;
use parking_lot::{Condvar, Mutex, RwLock};

use super::content::{Fault, Unchanged};
use super::{FsResult, NodeId};
use crate::errno::Errno;
use crate::inode::Node;
use crate::inode::descriptors::Descriptors;
use crate::inode::table::Table;

/// How long a file waits at most before its turn comes.
const DELAY: Duration = Duration::from_secs(3);
/// From this many on, one call for the whole lower file system is cheaper than one for each.
const MANY: usize = 16;
/// As many wait, each with a descriptor; whoever closes the next one does the work.
const MOST: usize = 256;

pub(super) struct Lengths {
    table: Arc<Table>,
    dirs: Arc<Descriptors>,
    waiting: Mutex<Waiting>,
    /// Nothing is to be changed now, not even headers. Shared by whoever changes some.
    held: RwLock<bool>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Waiting {
    /// Each with a reference, so that no second node of the same lower file can be made.
    nodes: HashMap<NodeId, Arc<Node>>,
    stopped: bool,
}

impl Lengths {
    pub(super) fn start(table: Arc<Table>, dirs: Arc<Descriptors>) -> FsResult<Arc<Lengths>> {
        let lengths = Arc::new(Lengths {
            table,
            dirs,
            waiting: Mutex::default(),
            held: RwLock::default(),
            changed: Condvar::new(),
            thread: Mutex::default(),
        });
        let worker = Arc::clone(&lengths);
        let thread = std::thread::Builder::new()
            .name("lengths".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))?;
        *lengths.thread.lock() = Some(thread);
        Ok(lengths)
    }

    /// A file was closed that should be looked after; the caller holds its lock, and a reference. Says whether so many
    /// wait that the caller should call [`Lengths::settle`].
    pub(super) fn add(&self, node: &Arc<Node>) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.nodes.insert(node.id, Arc::clone(node)).is_none() {
            node.take_reference();
        }
        if waiting.nodes.len() == 1 {
            self.changed.notify_one();
        }
        waiting.nodes.len() >= MOST
    }

    /// A file lost its last name: if nobody has it open, its space is given back at once.
    pub(super) fn remove(&self, node: &Arc<Node>) {
        if self.waiting.lock().nodes.remove(&node.id).is_some() {
            close(node);
            self.table.forget(node.id, 1);
        }
    }

    /// Files wait as long as this is set. On return no header is being written.
    pub(super) fn hold(&self, held: bool) {
        *self.held.write() = held;
    }

    /// Makes all that wait durable, lets their headers vouch for it, and closes them.
    pub(super) fn settle(&self) {
        let held = self.held.read();
        if *held {
            return;
        }
        let nodes: Vec<_> = std::mem::take(&mut self.waiting.lock().nodes)
            .into_values()
            .collect();
        let together = nodes.len() >= MANY;
        let mut begun = Vec::with_capacity(nodes.len());
        for node in &nodes {
            match begin(node) {
                Ok(Some((ticket, lower))) => {
                    let synced = if together { Ok(()) } else { lower.sync_data() };
                    match synced {
                        Ok(()) => begun.push((node, ticket)),
                        Err(errno) => {
                            // The lower file system says it once, and has said it now.
                            remember(node, errno);
                            complain(node, &Fault::Lower(errno));
                        }
                    }
                }
                Ok(None) => {}
                Err(fault) => complain(node, &fault),
            }
        }
        let synced = if together && !begun.is_empty() {
            self.dirs.root().sync_file_system()
        } else {
            Ok(())
        };
        for (node, ticket) in begun {
            let finished = match synced {
                Ok(()) => finish(node, ticket),
                Err(errno) => Err(Fault::Lower(errno)),
            };
            if let Err(fault) = finished {
                complain(node, &fault);
            }
        }
        for node in nodes {
            close(&node);
            self.table.forget(node.id, 1);
        }
    }

    fn run(&self) {
        loop {
            {
                let mut waiting = self.waiting.lock();
                while waiting.nodes.is_empty() && !waiting.stopped {
                    self.changed.wait(&mut waiting);
                }
                let until = Instant::now() + DELAY;
                while !waiting.stopped && !self.changed.wait_until(&mut waiting, until).timed_out()
                {
                }
                if waiting.stopped {
                    return;
                }
            }
            self.settle();
        }
    }

    /// Ends the thread; what waits is for [`Lengths::settle`].
    pub(super) fn stop(&self) {
        self.waiting.lock().stopped = true;
        self.changed.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread for lengths panicked");
        }
    }
}

type Begun = (kms_format::content::Ticket, Arc<crate::backing::LowerFile>);

/// None if somebody has it open again: then it comes back when it is closed.
fn begin(node: &Node) -> Result<Option<Begun>, Fault> {
    let mut body = node.file()?.write();
    if body.users > 0 {
        return Ok(None);
    }
    let Some(open) = &mut body.open else {
        return Ok(None);
    };
    let ticket = open.begin_sync()?;
    Ok(ticket.map(|ticket| (ticket, Arc::clone(open.lower()))))
}

fn finish(node: &Node, ticket: kms_format::content::Ticket) -> Result<(), Fault> {
    let mut body = node.file()?.write();
    if let Some(open) = &mut body.open {
        // Whether the header itself is durable does not matter: the one before it vouches for less. If something was cut
        // meanwhile, the file was opened again, and comes back.
        let unchanged = Unchanged::note(open.lower())?;
        if open.finish_sync(ticket)? == Synced::Header {
            unchanged.put_back(open.lower());
        }
    }
    Ok(())
}

fn close(node: &Node) {
    if let Ok(body) = node.file() {
        let mut body = body.write();
        if body.users == 0 {
            body.open = None;
        }
    }
}

fn remember(node: &Node, errno: Errno) {
    if let Ok(body) = node.file() {
        body.write().failures.remember(errno);
    }
}

fn complain(node: &Node, fault: &Fault) {
    let why = match fault {
        Fault::Lower(errno) => errno.to_string(),
        fault => fault.to_string(),
    };
    tracing::warn!(lower = node.lower_path(), %why, "the length of this file could not be made exact; its content is authenticated, its length is not until the next fsync");
}
