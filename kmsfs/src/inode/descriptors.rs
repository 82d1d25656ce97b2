//! Descriptors of lower directories: a bounded number is kept open, the others are opened again from their parent.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Node;
use crate::backing::{Dir, LowerId};
use crate::errno::{Errno, FsResult};

/// How often a walk is begun anew when a rename got in between.
const ATTEMPTS: usize = 4;

/// The cache of directory descriptors.
pub(crate) struct Descriptors {
    root: Arc<Dir>,
    limit: usize,
    /// Those whose descriptor is kept, oldest first; looked at twice before one is closed.
    kept: Mutex<VecDeque<Weak<Node>>>,
}

impl Descriptors {
    /// A quarter of what the process may open is for directories.
    pub(crate) fn new(root: Dir) -> Descriptors {
        let limit = usize::try_from(crate::backing::descriptor_limit() / 4).unwrap_or(usize::MAX);
        Descriptors {
            root: Arc::new(root),
            limit: limit.clamp(16, 4096),
            kept: Mutex::default(),
        }
    }

    pub(crate) fn root(&self) -> &Arc<Dir> {
        &self.root
    }

    /// The descriptor of a directory.
    pub(crate) fn get(&self, node: &Arc<Node>) -> FsResult<Arc<Dir>> {
        let directory = node.directory()?;
        if let Some(dir) = directory.cached.lock().as_ref() {
            directory.used.store(true, Ordering::Relaxed);
            return Ok(Arc::clone(dir));
        }
        for _ in 0..ATTEMPTS {
            match self.walk(node) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => {}
                result => return result,
            }
        }
        Err(Errno::STALE)
    }

    /// Opens downwards from the nearest ancestor that is open.
    fn walk(&self, node: &Arc<Node>) -> FsResult<Arc<Dir>> {
        let mut below = Vec::new();
        let mut here = Arc::clone(node);
        let mut dir = loop {
            if here.id == crate::fs::NodeId::ROOT {
                break Arc::clone(&self.root);
            }
            if let Some(dir) = here.directory()?.cached.lock().as_ref() {
                break Arc::clone(dir);
            }
            let place = here.place().ok_or(Errno::STALE)?;
            below.push((here, place.name));
            here = place.parent;
        };
        while let Some((node, name)) = below.pop() {
            let opened = dir.open_dir(&name)?;
            if LowerId::of(&opened.stat()?) != node.lower {
                return Err(Errno::STALE);
            }
            dir = Arc::new(opened);
            self.keep(&node, &dir)?;
        }
        Ok(dir)
    }

    /// Remembers a descriptor, and closes an old one if there are too many.
    pub(crate) fn keep(&self, node: &Arc<Node>, dir: &Arc<Dir>) -> FsResult<()> {
        let directory = node.directory()?;
        {
            let mut cached = directory.cached.lock();
            if cached.is_some() {
                return Ok(());
            }
            *cached = Some(Arc::clone(dir));
            directory.used.store(true, Ordering::Relaxed);
        }
        let mut kept = self.kept.lock();
        kept.push_back(Arc::downgrade(node));
        // Each is asked at most once: those in use go to the end of the queue with their mark cleared.
        let mut patience = kept.len();
        while kept.len() > self.limit {
            let Some(oldest) = kept.pop_front() else {
                break;
            };
            let Some(node) = oldest.upgrade() else {
                continue;
            };
            let Ok(directory) = node.directory() else {
                continue;
            };
            // A removed directory cannot be found again by name.
            let removed = directory.dead.load(Ordering::Relaxed);
            let used = directory.used.swap(false, Ordering::Relaxed);
            if patience > 0 && (used || removed) {
                patience -= 1;
                kept.push_back(oldest);
            } else if removed {
                kept.push_back(oldest);
                break;
            } else {
                *directory.cached.lock() = None;
            }
        }
        Ok(())
    }
}
