//! A connection with the kernel: negotiation, and request threads from their start to their end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::abi::{self, IN_HEADER, OUT_HEADER, init};
use super::dispatch::Dispatcher;
use super::reply::header_bytes;
use super::request::Header;
use super::serve::{MAX_IO, Shared};
use crate::fs::Fs;
use crate::revoke::Kernel;

/// How long the kernel may answer from its caches. All changes come through this mount: the lower
/// directory is locked.
const CACHE_TTL: Duration = Duration::from_secs(24 * 3600);
/// Asynchronous requests (readahead, direct I/O) the kernel may have outstanding.
const MAX_BACKGROUND: u16 = 128;

/// A negotiated connection, ready to serve.
pub struct Session {
    shared: Arc<Shared>,
    threads: usize,
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
        let reply = offer.accept(unique, fs.per_user());
        rustix::io::write(&connection, &reply)?;
        let notify = connection.as_fd().try_clone_to_owned()?;
        fs.on_change(move |node| super::notify::forget_attributes(&notify, node));
        let dispatcher = Dispatcher::new(Arc::clone(&fs), CACHE_TTL, MAX_IO, old_kernel);
        Ok(Session {
            shared: Arc::new(Shared::new(connection, fs, dispatcher, threads)),
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

    /// What a revocation does to the kernel and to requests.
    pub(crate) fn kernel(&self) -> Arc<dyn Kernel> {
        Arc::clone(&self.shared) as Arc<dyn Kernel>
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
                    .spawn(move || shared.serve(number))
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
        self.shared.close();
        result
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
    fn accept(&self, unique: u64, per_user: bool) -> Vec<u8> {
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
        let mut flags = self.flags & WANTED;
        if per_user {
            // A target in the page cache is read through an O_PATH descriptor without a request.
            flags &= !init::CACHE_SYMLINKS;
        }
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
    use super::super::serve::caught;
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
        let reply = offer.accept(unique, false);
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
