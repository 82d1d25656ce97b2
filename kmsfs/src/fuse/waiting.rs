//! Requests that wait for kmsd, and the threads that may.

use std::collections::VecDeque;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// A request that waits.
pub(super) struct Kept {
    pub(super) message: Vec<u8>,
    /// It was carried out, and cannot be once more: this is sent when its caller is let in again.
    pub(super) reply: Option<Vec<u8>>,
}

/// Requests that have to wait for kmsd, copied out of the thread that read them.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) queue: Mutex<Queue>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct Queue {
    /// With the time since which each waits.
    pub(super) requests: VecDeque<(Instant, Kept)>,
    pub(super) idle: usize,
    pub(super) threads: Vec<JoinHandle<()>>,
    closed: bool,
}

impl Waiting {
    /// The next one; none once it is closed.
    pub(super) fn next(&self) -> Option<(Instant, Kept)> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(request) = queue.requests.pop_front() {
                return Some(request);
            }
            if queue.closed {
                return None;
            }
            queue.idle += 1;
            self.changed.wait(&mut queue);
            queue.idle -= 1;
        }
    }

    /// Ends the threads.
    pub(super) fn close(&self) {
        let threads = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            queue.requests.clear();
            std::mem::take(&mut queue.threads)
        };
        self.changed.notify_all();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a waiting thread panicked");
            }
        }
    }
}
