//! One HTTP/1.1 connection: a request out, a response in, under one deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use zeroize::Zeroizing;

use super::{Asking, Place, User};
use crate::{
    ACCOUNT_HEADER, CONTENT_TYPE, LEASE_HEADER, LEASES_HEADER, LeaseReport, ON_BEHALF_OF,
    REGION_HEADER, RELIANCE_HEADER, Reliance,
};

/// Largest response head, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Largest response body, in bytes.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    /// HTTP status.
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
    /// What the head says about how long to rely on it.
    pub(super) reliance: Option<Reliance>,
    /// What it says about services that had to hear of a change.
    pub(super) leases: Option<LeaseReport>,
}

/// Why an exchange failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server closed before it had taken the whole request.
    NotProcessed(io::Error),
    /// The server took the request and closed without a byte of answer.
    NoAnswer(io::Error),
    /// The connection broke or timed out later.
    Lost(io::Error),
    /// Not HTTP as kmsd speaks it.
    Protocol(String),
}

/// What bytes go over.
pub(super) enum Stream {
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tcp(std::net::TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>>),
}

impl Stream {
    fn set_timeout(&self, left: Duration) -> io::Result<()> {
        // A TLS session reads and writes whichever is asked for.
        let left = Some(left);
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(left)?;
                stream.set_write_timeout(left)
            }
            #[cfg(feature = "tls")]
            Self::Tcp(stream) => {
                stream.set_read_timeout(left)?;
                stream.set_write_timeout(left)
            }
            #[cfg(feature = "tls")]
            Self::Tls(stream) => {
                stream.sock.set_read_timeout(left)?;
                stream.sock.set_write_timeout(left)
            }
        }
    }

    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(to),
            #[cfg(feature = "tls")]
            Self::Tcp(stream) => stream.read(to),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(to),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tcp(stream) => stream.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    /// Has everything that was written sent.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(_) => Ok(()),
            #[cfg(feature = "tls")]
            Self::Tcp(_) => Ok(()),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// The head of a request on the socket, without its last, empty line.
pub(super) fn head(target: &str, (asking, place): (Asking, &Place), body: &[u8]) -> String {
    let mut head = format!(
        "POST / HTTP/1.1\r\nHost: kmsd\r\nContent-Type: {CONTENT_TYPE}\r\n\
         X-Amz-Target: {target}\r\nContent-Length: {}\r\n",
        body.len()
    );
    if let Some(User { uid, gid, pid }) = asking.user {
        head.push_str(&format!(
            "{ON_BEHALF_OF}: uid={uid};gid={gid};pid={pid}\r\n"
        ));
    }
    if let Some(lease) = asking.lease {
        head.push_str(&format!("{LEASE_HEADER}: {lease}\r\n"));
    }
    for (name, value) in [
        (REGION_HEADER, &place.region),
        (ACCOUNT_HEADER, &place.account),
    ] {
        if let Some(value) = value {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head
}

pub(super) struct Connection {
    stream: Stream,
}

impl Connection {
    /// Waits for something to read. A thread that sleeps in `read` on a Unix socket is also woken, to no avail, when the
    /// other side reads what it sent; one that sleeps in `poll` is not.
    fn wait(&self, deadline: Instant) -> io::Result<()> {
        #[cfg(not(feature = "tls"))]
        let Stream::Unix(stream) = &self.stream;
        #[cfg(feature = "tls")]
        let Stream::Unix(stream) = &self.stream else {
            // What has been received may have been decrypted already.
            return self.stream.set_timeout(remaining(deadline)?);
        };
        loop {
            let left = Timespec::try_from(remaining(deadline)?).map_err(io::Error::other)?;
            let mut waiting = [PollFd::new(stream, PollFlags::IN)];
            match poll(&mut waiting, Some(&left)) {
                Ok(0) => return Err(timeout()),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Connects to `path`; waits at most until `deadline` when the listen queue is full.
    pub(super) fn open(path: &Path, deadline: Instant) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(remaining(deadline)?))?;
        rustix::net::connect(&socket, &address)?;
        Ok(Self {
            stream: Stream::Unix(socket.into()),
        })
    }

    #[cfg(feature = "tls")]
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream }
    }

    /// Sends one request and reads its answer; also says whether the connection may be used again.
    pub(super) fn exchange(
        &mut self,
        head: &str,
        body: &[u8],
        deadline: Instant,
    ) -> Result<(Reply, bool), Failure> {
        let mut message = Zeroizing::new(Vec::with_capacity(head.len() + 2 + body.len()));
        message.extend_from_slice(head.as_bytes());
        message.extend_from_slice(b"\r\n");
        message.extend_from_slice(body);
        match self.send(&message, deadline) {
            Ok(()) => self.receive(deadline),
            // The server may have refused the request before its end (too large) and said why.
            Err(Failure::NotProcessed(e)) => match self.receive(deadline) {
                Ok((reply, _)) => Ok((reply, false)),
                Err(_) => Err(Failure::NotProcessed(e)),
            },
            Err(failure) => Err(failure),
        }
    }

    fn send(&mut self, mut message: &[u8], deadline: Instant) -> Result<(), Failure> {
        while !message.is_empty() {
            let left = remaining(deadline).map_err(Failure::Lost)?;
            self.stream.set_timeout(left).map_err(Failure::Lost)?;
            match self.stream.write(message) {
                Ok(count) => message = message.get(count..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_closed(&e) => return Err(Failure::NotProcessed(e)),
                Err(e) => return Err(Failure::Lost(timed_out(e))),
            }
        }
        self.stream.flush().map_err(|e| Failure::Lost(timed_out(e)))
    }

    fn receive(&mut self, deadline: Instant) -> Result<(Reply, bool), Failure> {
        let mut buffer = Zeroizing::new(Vec::with_capacity(24 * 1024));
        loop {
            if let Some(head) = Head::parse(&buffer)? {
                let end = head.length + head.body;
                while buffer.len() < head.length + head.body {
                    self.read_more(&mut buffer, deadline)?;
                }
                let body = buffer.get(head.length..end).unwrap_or_default();
                let keep = head.keep && buffer.len() == end;
                let reply = Reply {
                    status: head.status,
                    body: Zeroizing::new(body.to_vec()),
                    reliance: head.reliance,
                    leases: head.leases,
                };
                return Ok((reply, keep));
            }
            if buffer.len() > MAX_HEAD {
                return Err(Failure::Protocol("response head too long".into()));
            }
            self.read_more(&mut buffer, deadline)?;
        }
    }

    fn read_more(
        &mut self,
        buffer: &mut Zeroizing<Vec<u8>>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        self.wait(deadline).map_err(Failure::Lost)?;
        let mut chunk = Zeroizing::new([0u8; 8192]);
        let fresh = buffer.is_empty();
        match self.stream.read(chunk.as_mut_slice()) {
            Ok(0) => {
                let e = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed");
                Err(if fresh {
                    Failure::NoAnswer(e)
                } else {
                    Failure::Lost(e)
                })
            }
            Ok(count) => {
                buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            // On a Unix socket a reset means that the request was not read to its end.
            Err(e) if fresh && is_closed(&e) => Err(Failure::NotProcessed(e)),
            Err(e) => Err(Failure::Lost(timed_out(e))),
        }
    }
}

struct Head {
    status: u16,
    length: usize,
    body: usize,
    keep: bool,
    reliance: Option<Reliance>,
    leases: Option<LeaseReport>,
}

impl Head {
    /// `None` while the head is incomplete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Failure> {
        let protocol = |text: &str| Failure::Protocol(text.to_owned());
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(e) => return Err(protocol(&format!("not an HTTP response: {e}"))),
        };
        let header = |name: &str| {
            let found = response
                .headers
                .iter()
                .find(|h| h.name.eq_ignore_ascii_case(name));
            found.map(|h| String::from_utf8_lossy(h.value).trim().to_owned())
        };
        let body = match header("content-length").map(|text| text.parse::<usize>()) {
            Some(Ok(body)) if body <= MAX_BODY => body,
            Some(Ok(_)) => return Err(protocol("response body too long")),
            Some(Err(_)) | None => return Err(protocol("response without Content-Length")),
        };
        let keep = !header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let reliance = header(RELIANCE_HEADER).and_then(|text| Reliance::from_header(&text));
        let leases = header(LEASES_HEADER).and_then(|text| LeaseReport::from_header(&text));
        Ok(Some(Self {
            leases,
            reliance,
            status: response.code.unwrap_or(0),
            length,
            body,
            keep,
        }))
    }
}

fn is_closed(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

pub(super) fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(timeout())
    } else {
        Ok(left)
    }
}

fn timeout() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// An expired socket timeout shows as `WouldBlock`.
fn timed_out(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::WouldBlock {
        timeout()
    } else {
        e
    }
}
