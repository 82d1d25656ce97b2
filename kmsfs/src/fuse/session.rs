//! A connection with the kernel: negotiation, request threads and parked requests.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::abi::{self, IN_HEADER, OUT_HEADER, WRITE_DATA, init};
use super::dispatch::{Dispatcher, Outcome, Scratch};
use super::reply::{AlignedBuffer, header_bytes};
use super::request::Header;
use crate::fs::Fs;

/// Largest read or write in one request. The kernel's own limit is 256 pages.
const MAX_IO: usize = 1 << 20;
/// How long the kernel may answer from its caches. All changes come through this mount: the lower
/// directory is locked.
const CACHE_TTL: Duration = Duration::from_secs(24 * 3600);
/// Asynchronous requests (readahead, direct I/O) the kernel may have outstanding.
const MAX_BACKGROUND: u16 = 128;
/// Threads for requests that wait for kmsd. Requests beyond them wait in a queue; what they wait for
/// is the same few policies.
const WAITERS: usize = 16;

/// A negotiated connection, ready to serve.
pub struct Session {
    shared: Arc<Shared>,
    threads: usize,
}

struct Shared {
    connection: OwnedFd,
    dispatcher: Dispatcher,
    parked: Parked,
}

/// Requests that have to wait for kmsd, copied out of the thread that read them.
#[derive(Default)]
struct Parked {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Vec<u8>>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

impl Session {
    /// Answers the kernel's INIT on `connection`. With `old_kernel` nothing is used that Linux 6.1 does not have.
    ///
    /// # Errors
    /// The mount went away, or the kernel speaks another protocol version.
    pub fn negotiate(
        connection: OwnedFd,
        fs: Arc<Fs>,
        threads: usize,
        old_kernel: bool,
    ) -> io::Result<Session> {
        let mut buffer = vec![0; abi::IN_HEADER + 8192];
        let length = loop {
            match rustix::io::read(&connection, &mut buffer) {
                Ok(length) => break length,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let message = buffer.get(..length).unwrap_or_default();
        let (unique, offer) = Offer::parse(message)
            .ok_or_else(|| io::Error::other("the kernel's first FUSE request was not INIT"))?;
        if offer.major != abi::MAJOR {
            return Err(io::Error::other(format!(
                "the kernel speaks FUSE {}.{}; kmsfs needs 7.x",
                offer.major, offer.minor
            )));
        }
        let reply = offer.accept(unique);
        rustix::io::write(&connection, &reply)?;
        let notify = connection.as_fd().try_clone_to_owned()?;
        fs.on_change(move |node| super::notify::forget_attributes(&notify, node));
        Ok(Session {
            shared: Arc::new(Shared {
                connection,
                dispatcher: Dispatcher::new(fs, CACHE_TTL, MAX_IO, old_kernel),
                parked: Parked::default(),
            }),
            threads,
        })
    }

    /// A second descriptor of the connection, for notifications.
    ///
    /// # Errors
    /// Too many open files.
    pub fn notifier(&self) -> io::Result<super::notify::Notifier> {
        let connection = self.shared.connection.as_fd().try_clone_to_owned()?;
        super::notify::Notifier::start(connection)
    }

    /// Starts the request threads.
    ///
    /// # Errors
    /// No more threads.
    pub fn start(self) -> io::Result<Running> {
        let threads = (0..self.threads)
            .map(|number| {
                let shared = Arc::clone(&self.shared);
                std::thread::Builder::new()
                    .name(format!("fuse-{number}"))
                    .spawn(move || shared.serve())
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Running {
            shared: self.shared,
            threads,
        })
    }
}

/// A session whose threads run.
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Running {
    /// Waits until the file system is unmounted and every request thread has ended.
    ///
    /// # Errors
    /// A thread ended for another reason than the unmount.
    pub fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for thread in self.threads {
            let ended = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a request thread panicked")));
            result = result.and(ended);
        }
        self.shared.parked.close();
        result
    }
}

impl Shared {
    /// Reads and answers requests until the file system is unmounted.
    fn serve(self: &Arc<Shared>) -> io::Result<()> {
        crate::volume::never_wait_here();
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
            let handled = caught(message, |message| {
                self.dispatcher.handle(message, &mut scratch)
            });
            match handled {
                Ok(Outcome::Reply(reply)) => self.send(reply),
                Ok(Outcome::Silent) => {}
                Ok(Outcome::Wait) => self.park(message.to_vec()),
                Err(reply) => self.send_failure(reply),
            }
        }
    }

    /// Answers for a handler that panicked, if the kernel expects an answer.
    fn send_failure(&self, reply: Option<[u8; OUT_HEADER]>) {
        if let Some(reply) = reply {
            self.send(&reply);
        }
    }

    /// Sends a reply. The only failures are that nobody waits for it any more: the request was
    /// aborted (ENOENT) or the file system is gone (ENODEV).
    fn send(&self, reply: &[u8]) {
        if let Err(error) = rustix::io::write(&self.connection, reply)
            && !matches!(
                error,
                rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::INTR
            )
        {
            tracing::error!(%error, "the kernel refused a reply");
        }
    }

    /// Hands a request to a thread that may wait for kmsd.
    fn park(self: &Arc<Shared>, request: Vec<u8>) {
        let mut queue = self.parked.queue.lock();
        queue.requests.push_back(request);
        if queue.idle < queue.requests.len() && queue.threads.len() < WAITERS {
            let shared = Arc::clone(self);
            let started = std::thread::Builder::new()
                .name("fuse-waiter".to_owned())
                .spawn(move || shared.serve_parked());
            match started {
                Ok(thread) => queue.threads.push(thread),
                Err(error) => tracing::error!(%error, "cannot start a thread to wait for kmsd"),
            }
        }
        drop(queue);
        self.parked.changed.notify_one();
    }

    fn serve_parked(&self) {
        let mut scratch = Scratch::new(MAX_IO);
        while let Some(mut request) = self.parked.next() {
            let handled = caught(&mut request, |request| {
                self.dispatcher.handle(request, &mut scratch)
            });
            match handled {
                Ok(Outcome::Reply(reply)) => self.send(reply),
                // It was allowed to wait, so it has an answer.
                Ok(Outcome::Silent | Outcome::Wait) => {}
                Err(reply) => self.send_failure(reply),
            }
        }
    }
}

/// Runs a handler. One that panics must not take its thread along: the caller would wait for ever, and after a few of
/// them so would everybody. Its request gets `EIO`, or nothing if the kernel expects nothing.
///
/// The locks of the file system are free again after a panic, and what it knows of the lower tree is read from there
/// when in doubt, so the next request may go on.
fn caught<T>(
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
        let length = u32::try_from(OUT_HEADER).unwrap_or(0);
        Some(header_bytes(length, -libc::EIO, header.unique))
    })
}

impl Parked {
    fn next(&self) -> Option<Vec<u8>> {
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

    fn close(&self) {
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

/// The kernel's INIT.
struct Offer {
    major: u32,
    minor: u32,
    max_readahead: u32,
    flags: u64,
}

impl Offer {
    fn parse(message: &[u8]) -> Option<(u64, Offer)> {
        let (header, mut fields) = Header::parse(message).ok()?;
        if header.opcode != abi::op::INIT || message.len() < IN_HEADER + 16 {
            return None;
        }
        let mut offer = Offer {
            major: fields.u32().ok()?,
            minor: fields.u32().ok()?,
            max_readahead: fields.u32().ok()?,
            flags: u64::from(fields.u32().ok()?),
        };
        if offer.flags & init::INIT_EXT != 0 {
            offer.flags |= u64::from(fields.u32().ok()?) << 32;
        }
        Some((header.unique, offer))
    }

    /// `fuse_init_out`: takes of the offer what kmsfs implements.
    fn accept(&self, unique: u64) -> Vec<u8> {
        const WANTED: u64 = init::ASYNC_READ
            | init::ATOMIC_O_TRUNC
            | init::EXPORT_SUPPORT
            | init::BIG_WRITES
            | init::DONT_MASK
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::ASYNC_DIO
            | init::PARALLEL_DIROPS
            | init::POSIX_ACL
            | init::MAX_PAGES
            | init::CACHE_SYMLINKS
            | init::HANDLE_KILLPRIV_V2
            | init::INIT_EXT;
        let flags = self.flags & WANTED;
        let (low, high) = (flags & u64::from(u32::MAX), flags >> 32);
        let max_pages = MAX_IO / 4096;
        let fields = [
            abi::MAJOR,
            abi::MINOR,
            self.max_readahead,
            u32::try_from(low).unwrap_or(0),
            u32::from(MAX_BACKGROUND) | (u32::from(MAX_BACKGROUND / 4 * 3) << 16),
            u32::try_from(MAX_IO).unwrap_or(0),
            1, // nanosecond times
            u32::try_from(max_pages).unwrap_or(0),
            u32::try_from(high).unwrap_or(0),
        ];
        let mut reply = Vec::with_capacity(OUT_HEADER + 64);
        let length = u32::try_from(OUT_HEADER + 64).unwrap_or(0);
        reply.extend(header_bytes(length, 0, unique));
        for field in fields {
            reply.extend(field.to_ne_bytes());
        }
        reply.resize(OUT_HEADER + 64, 0);
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(flags: u32) -> Vec<u8> {
        let mut message = Vec::new();
        for field in [104_u32, abi::op::INIT] {
            message.extend(field.to_ne_bytes());
        }
        message.extend(1_u64.to_ne_bytes());
        message.resize(IN_HEADER, 0);
        for field in [7_u32, 45, 131_072, flags, 0x5fd] {
            message.extend(field.to_ne_bytes());
        }
        message.resize(104, 0);
        message
    }

    #[test]
    fn only_what_is_offered_and_implemented_is_taken() {
        let (unique, offer) = Offer::parse(&offer(0x73ff_fffb)).unwrap();
        assert_eq!((unique, offer.major, offer.minor), (1, 7, 45));
        let reply = offer.accept(unique);
        assert_eq!(reply.len(), 80);
        let taken = u32::from_ne_bytes(reply.get(28..32).unwrap().try_into().unwrap());
        let taken = u64::from(taken);
        assert_eq!(taken & init::HANDLE_KILLPRIV_V2, init::HANDLE_KILLPRIV_V2);
        let writeback_cache = 1 << 16;
        let setxattr_ext = 1 << 29;
        assert_eq!(taken & (writeback_cache | setxattr_ext), 0);
        assert_eq!(taken & !offer.flags, 0);
    }

    #[test]
    #[allow(clippy::panic, reason = "what is tested")]
    fn a_panic_fails_its_request_and_nothing_else() {
        let mut message = offer(0);
        message[4] = 3;
        message[8] = 7;
        let scrambling = |message: &mut [u8]| {
            message.fill(0xff);
            panic!("a mistake");
        };
        let result: Result<(), _> = caught(&mut message.clone(), scrambling);
        let reply = result.unwrap_err().unwrap();
        assert_eq!(reply, header_bytes(16, -libc::EIO, 7));
        message[4] = 2;
        assert_eq!(caught(&mut message.clone(), scrambling), Err::<(), _>(None));
        assert_eq!(caught(&mut message, |message| message.len()), Ok(104));
    }

    #[test]
    fn anything_else_first_is_refused() {
        let mut message = offer(0);
        message[4] = 3;
        assert!(Offer::parse(&message).is_none());
        assert!(Offer::parse(message.get(..50).unwrap()).is_none());
    }
}
