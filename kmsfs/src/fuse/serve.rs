//! Threads that answer requests, and requests that wait.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::abi::{self, OUT_HEADER, WRITE_DATA};
use super::asked::asked;
use super::dispatch::{Dispatcher, Outcome, Scratch};
use super::reply::{AlignedBuffer, header_bytes};
use super::request::Header;
use super::slots::Slot;
use super::waiting::{Kept, Waiting};
use super::{opened, permit, undo};
use crate::errno::Errno;
use crate::fs::Fs;
use crate::revoke::marks::{Asked, Marks, Verdict};

/// Largest read or write in one request. The kernel's own limit is 256 pages.
pub(super) const MAX_IO: usize = 1 << 20;
/// Threads for requests that wait for kmsd. Requests beyond them wait in a queue; what they wait for
/// is the same few policies.
const WAITERS: usize = 16;
/// A connection that is served.
pub(super) struct Shared {
    pub(super) connection: OwnedFd,
    pub(super) fs: Arc<Fs>,
    pub(super) dispatcher: Dispatcher,
    pub(super) waiting: Waiting,
    /// One for each thread, the waiting ones last.
    pub(super) slots: Vec<Slot>,
    threads: usize,
    /// Requests that wait for the end of a revocation.
    pub(super) parked: Mutex<Vec<Kept>>,
}

/// A request, and what was decided when it was begun.
struct Since {
    asked: Asked,
    /// See [`crate::access::Access::decisions`].
    decided: u64,
}

/// What a thread is.
#[derive(Clone, Copy)]
struct Worker {
    /// Its slot.
    number: usize,
    /// It may wait for kmsd.
    waits: bool,
}

impl Shared {
    pub(super) fn new(
        connection: OwnedFd,
        fs: Arc<Fs>,
        dispatcher: Dispatcher,
        threads: usize,
    ) -> Shared {
        Shared {
            connection,
            fs,
            dispatcher,
            waiting: Waiting::default(),
            slots: (0..threads + WAITERS).map(|_| Slot::default()).collect(),
            threads,
            parked: Mutex::default(),
        }
    }

    /// Reads and answers requests, as thread `number`, until the file system is unmounted.
    pub(super) fn serve(self: &Arc<Shared>, number: usize) -> io::Result<()> {
        crate::volume::never_wait_here();
        let worker = Worker {
            number,
            waits: false,
        };
        let mut buffer = AlignedBuffer::new(MAX_IO + WRITE_DATA + 4096, WRITE_DATA);
        let mut scratch = Scratch::new(MAX_IO);
        loop {
            let length = match rustix::io::read(&self.connection, buffer.as_mut()) {
                Ok(length) => length,
                // Interrupted, or the request was withdrawn before it could be read.
                Err(
                    rustix::io::Errno::INTR | rustix::io::Errno::AGAIN | rustix::io::Errno::NOENT,
                ) => continue,
                Err(rustix::io::Errno::NODEV) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let message = buffer.as_mut().get_mut(..length).unwrap_or_default();
            self.process(worker, message, &mut scratch);
        }
    }

    fn marks(&self) -> &Marks {
        self.fs.marks()
    }

    /// Carries one request out, or has it wait.
    fn process(self: &Arc<Shared>, worker: Worker, message: &mut [u8], scratch: &mut Scratch) {
        let Some(slot) = self.slots.get(worker.number) else {
            return;
        };
        let Ok((header, arguments)) = Header::parse(message) else {
            tracing::error!(
                length = message.len(),
                "the kernel sent a malformed request"
            );
            return;
        };
        let asked = asked(&header, arguments);
        slot.begin(header, asked);
        match self.before(&asked, worker) {
            Verdict::Pass => {}
            Verdict::Fail(errno) => return self.fail(slot, &header, message, errno),
            Verdict::Park => return self.park(slot, message, None),
            Verdict::Wait(_) => return self.wait(slot, message, None),
        }
        let decided = self.fs.decisions();
        let handled = caught(message, |message| self.dispatcher.handle(message, scratch));
        match handled {
            Ok(Outcome::Reply(reply)) => {
                let since = Since { asked, decided };
                self.answer(slot, &header, &since, message, reply);
            }
            Ok(Outcome::Silent) => {
                slot.end(|| ());
            }
            // Who may wait has an answer.
            Ok(Outcome::Wait) if worker.waits => {
                slot.end(|| ());
            }
            Ok(Outcome::Wait) => self.wait(slot, message, None),
            // What no reply is expected to panicked.
            Err(None) => {
                slot.end(|| ());
            }
            Err(Some(reply)) => {
                slot.end(|| self.send(&reply));
            }
        }
    }

    /// Whether a request may be carried out. Where waiting is allowed, waits for kmsd to be back.
    fn before(&self, asked: &Asked, worker: Worker) -> Verdict {
        if self.marks().is_quiet() {
            return Verdict::Pass;
        }
        loop {
            let seen = self.marks().unlockings();
            match self.fs.judge(asked) {
                Verdict::Pass => return self.reopened(asked),
                Verdict::Wait(until) if worker.waits => {
                    if !self.marks().wait_for_unlocking(seen, until) && Instant::now() >= until {
                        return Verdict::Fail(Errno::NOKEY);
                    }
                }
                verdict => return verdict,
            }
        }
    }

    /// What is open may have lost its keys.
    fn reopened(&self, asked: &Asked) -> Verdict {
        for handle in asked.handles.into_iter().flatten() {
            match self.fs.reopen(handle) {
                Ok(()) => {}
                Err(errno) if errno == crate::volume::WOULD_WAIT => {
                    return Verdict::Wait(Instant::now());
                }
                Err(errno) => return Verdict::Fail(errno),
            }
        }
        Verdict::Pass
    }

    /// Sends the reply, unless what was revoked since forbids it.
    fn answer(
        self: &Arc<Shared>,
        slot: &Slot,
        header: &Header,
        since: &Since,
        message: &[u8],
        reply: &[u8],
    ) {
        // Before the reply is sent: afterwards the kernel may forget the object at any time.
        let access = opened::access(&self.fs, header, message, reply);
        let verdict = slot.end(|| {
            let verdict = self.after(header, since, message, reply);
            match verdict {
                Verdict::Pass => self.send(reply),
                Verdict::Fail(errno) => self.send(&failure(header, errno)),
                Verdict::Park | Verdict::Wait(_) => {}
            }
            verdict
        });
        match verdict {
            Some(Verdict::Pass) => opened::note(&self.fs, access),
            Some(Verdict::Fail(errno)) => {
                let reply = failure(header, errno);
                let refused = opened::access(&self.fs, header, message, &reply);
                opened::note(&self.fs, refused);
            }
            _ => {}
        }
        // Answered by somebody else, or not at all: what it would have given is not taken.
        let verdict = verdict.unwrap_or(Verdict::Fail(Errno::STALE));
        let later = matches!(verdict, Verdict::Park | Verdict::Wait(_));
        let kept = later && undo::succeeded(reply).is_some() && permit::is_once(message);
        if verdict != Verdict::Pass && !kept {
            undo::take_back(&self.fs, header.opcode, reply);
        }
        let kept = kept.then(|| reply.to_vec());
        match verdict {
            Verdict::Park => self.park(slot, message, kept),
            Verdict::Wait(_) => self.wait(slot, message, kept),
            Verdict::Pass | Verdict::Fail(_) => {}
        }
    }

    /// Answers a request with an error.
    fn fail(&self, slot: &Slot, header: &Header, message: &[u8], errno: Errno) {
        let reply = failure(header, errno);
        let access = opened::access(&self.fs, header, message, &reply);
        if slot.end(|| self.send(&reply)).is_some() {
            opened::note(&self.fs, access);
        }
    }

    /// Sends the reply to a request that was carried out before, if its caller is let in now; otherwise nothing of it is given.
    fn confirm(self: &Arc<Shared>, worker: Worker, message: &[u8], reply: Vec<u8>) {
        let Some(slot) = self.slots.get(worker.number) else {
            return;
        };
        let Ok((header, arguments)) = Header::parse(message) else {
            return;
        };
        let asked = asked(&header, arguments);
        slot.begin(header, asked);
        let decided = self.fs.decisions();
        let refused = match self.before(&asked, worker) {
            Verdict::Pass => self.dispatcher.permitted(&header, arguments).err(),
            Verdict::Fail(errno) => Some(errno),
            Verdict::Park => return self.park(slot, message, Some(reply)),
            Verdict::Wait(_) => return self.wait(slot, message, Some(reply)),
        };
        match refused {
            None => {
                let since = Since { asked, decided };
                self.answer(slot, &header, &since, message, &reply);
            }
            Some(errno) => {
                self.fail(slot, &header, message, errno);
                undo::take_back(&self.fs, header.opcode, &reply);
            }
        }
    }

    fn after(&self, header: &Header, since: &Since, message: &[u8], reply: &[u8]) -> Verdict {
        let asked = &since.asked;
        if self.fs.decisions() != since.decided && permit::is_void(asked, message) {
            // Who was let in may not be any more: once more from the beginning.
            return Verdict::Wait(Instant::now());
        }
        if self.marks().is_quiet() {
            return Verdict::Pass;
        }
        if !asked.shows() {
            // What failed may have failed because of it.
            let failed = undo::succeeded(reply).is_none();
            return match self.fs.judge(asked) {
                Verdict::Fail(errno) if failed => Verdict::Fail(errno),
                _ => Verdict::Pass,
            };
        }
        match self.fs.judge(asked) {
            Verdict::Pass => {}
            verdict => return verdict,
        }
        let named = undo::nodes(header.opcode, reply);
        if named.iter().all(|node| self.fs.may_name(*node)) {
            Verdict::Pass
        } else {
            Verdict::Park
        }
    }

    /// Sends a reply. The only failures are that nobody waits for it any more: the request was
    /// aborted (ENOENT) or the file system is gone (ENODEV).
    pub(super) fn send(&self, reply: &[u8]) {
        if let Err(error) = rustix::io::write(&self.connection, reply)
            && !matches!(
                error,
                rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::INTR
            )
        {
            tracing::error!(%error, "the kernel refused a reply");
        }
    }

    /// Keeps a request until the present revocation is over; it may be over already.
    fn park(self: &Arc<Shared>, slot: &Slot, message: &[u8], reply: Option<Vec<u8>>) {
        let message = message.to_vec();
        let mut one = Some(Kept { message, reply });
        self.marks().during(|| {
            self.parked.lock().extend(one.take());
        });
        // Under the lock of the slot: see below.
        slot.end(|| one.map(|one| self.enqueue(one)));
    }

    /// Hands a request to a thread that may wait for kmsd, unless somebody else has answered it.
    fn wait(self: &Arc<Shared>, slot: &Slot, message: &[u8], reply: Option<Vec<u8>>) {
        let message = message.to_vec();
        // Under the lock of the slot: a revocation finds it there or in the queue.
        slot.end(|| self.enqueue(Kept { message, reply }));
    }

    pub(super) fn enqueue(self: &Arc<Shared>, request: Kept) {
        let mut queue = self.waiting.queue.lock();
        queue.requests.push_back((Instant::now(), request));
        if queue.idle < queue.requests.len() && queue.threads.len() < WAITERS {
            let shared = Arc::clone(self);
            let worker = Worker {
                number: self.threads + queue.threads.len(),
                waits: true,
            };
            let started = std::thread::Builder::new()
                .name("fuse-waiter".to_owned())
                .spawn(move || shared.serve_waiting(worker));
            match started {
                Ok(thread) => queue.threads.push(thread),
                Err(error) => tracing::error!(%error, "cannot start a thread to wait for kmsd"),
            }
        }
        drop(queue);
        self.waiting.changed.notify_one();
    }

    fn serve_waiting(self: &Arc<Shared>, worker: Worker) {
        let mut scratch = Scratch::new(MAX_IO);
        while let Some((since, mut request)) = self.waiting.next() {
            // Those who came first may have used up the limit of all.
            crate::volume::waiting_since(since);
            match request.reply {
                None => self.process(worker, &mut request.message, &mut scratch),
                Some(reply) => self.confirm(worker, &request.message, reply),
            }
        }
    }

    /// Ends the threads for waiting requests.
    pub(super) fn close(&self) {
        self.waiting.close();
    }
}

/// Runs a handler. One that panics must not take its thread along: the caller would wait for ever, and after a few of
/// them so would everybody. Its request gets `EIO`, or nothing if the kernel expects nothing.
///
/// The locks of the file system are free again after a panic, and what it knows of the lower tree is read from there
/// when in doubt, so the next request may go on.
pub(super) fn caught<T>(
    message: &mut [u8],
    handler: impl FnOnce(&mut [u8]) -> T,
) -> Result<T, Option<[u8; OUT_HEADER]>> {
    // The handler changes the message, but not for a reply that is made here.
    let header = Header::parse(message).ok().map(|(header, _)| header);
    let run = std::panic::AssertUnwindSafe(|| handler(message));
    std::panic::catch_unwind(run).map_err(|panic| {
        let reason = (panic.downcast_ref::<String>().map(String::as_str))
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let (opcode, node) = header.map_or((0, 0), |header| (header.opcode, header.node));
        tracing::error!(
            opcode,
            node,
            reason,
            "a request handler panicked: this request fails with EIO; please report it"
        );
        let silent = [abi::op::FORGET, abi::op::BATCH_FORGET, abi::op::INTERRUPT];
        let header = header.filter(|header| !silent.contains(&header.opcode))?;
        Some(failure(&header, Errno::IO))
    })
}

pub(super) fn failure(header: &Header, errno: Errno) -> [u8; OUT_HEADER] {
    let length = u32::try_from(OUT_HEADER).unwrap_or(0);
    header_bytes(length, -errno.raw(), header.unique)
}

#[cfg(test)]
mod tests;
