//! The load generator: one thread that keeps every connection busy with one request at a time.
//!
//! One thread for all connections, since those of the load generator are paid for by the machine that is measured: a
//! thread for each would mostly measure how fast the kernel wakes them in turn. A connection is waited for with `poll`, as
//! clients with a time limit do it; a thread that sleeps in `read` on a Unix socket is also woken when the other side has
//! read what it sent, to no avail.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kms_api::sigv4::{Credentials, Signable, sign};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Where kmsd is asked.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// Over its socket.
    Socket(&'a Path),
    /// Over TLS, requests signed.
    Tls(&'a Tls),
}

/// A kmsd that listens with TLS.
pub(crate) struct Tls {
    pub(crate) address: SocketAddr,
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) credentials: Credentials,
    pub(crate) region: String,
}

/// What is asked, again and again.
pub(crate) struct Target<'a> {
    pub(crate) name: &'a str,
    pub(crate) place: Place<'a>,
    pub(crate) pid: i32,
    operation: &'a str,
    body: &'a str,
}

impl<'a> Target<'a> {
    pub(crate) fn new(
        name: &'a str,
        place: Place<'a>,
        pid: i32,
        operation: &'a str,
        body: &'a str,
    ) -> Target<'a> {
        Target {
            name,
            place,
            pid,
            operation,
            body,
        }
    }

    /// The bytes of the request. Over TLS they are signed, once for all: a signature is good for five minutes.
    fn request(&self) -> Vec<u8> {
        let signer = match self.place {
            Place::Socket(_) => None,
            Place::Tls(tls) => Some((&tls.credentials, tls.region.as_str())),
        };
        request(self.operation, self.body, signer)
    }
}

/// The bytes of a request, signed where there is somebody to sign it: with an access key, for a Region.
pub(crate) fn request(
    operation: &str,
    body: &str,
    signer: Option<(&Credentials, &str)>,
) -> Vec<u8> {
    let target = format!("TrentService.{operation}");
    let headers = [
        ("host", "localhost"),
        ("content-type", kms_api::CONTENT_TYPE),
        ("x-amz-target", target.as_str()),
    ];
    let mut text = "POST / HTTP/1.1\r\n".to_owned();
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some((credentials, region)) = signer {
        let headers = headers.map(|(name, value)| (name, value.as_bytes()));
        let request = Signable {
            method: "POST",
            path: "/",
            query: "",
            headers: &headers,
            body: body.as_bytes(),
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time");
        let now = i64::try_from(now.as_millis()).expect("a time");
        let signature = sign(&request, credentials, region, now);
        text.push_str(&format!(
            "x-amz-date: {}\r\nauthorization: {}\r\n",
            signature.date, signature.authorization
        ));
    }
    let length = body.len();
    text.push_str(&format!("content-length: {length}\r\n\r\n{body}"));
    text.into_bytes()
}

/// A connection to kmsd.
enum Stream {
    Socket(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn connect(place: Place<'_>) -> Stream {
        match place {
            Place::Socket(path) => {
                Stream::Socket(UnixStream::connect(path).expect("connect to kmsd"))
            }
            Place::Tls(tls) => {
                let stream = TcpStream::connect(tls.address).expect("connect to kmsd");
                stream.set_nodelay(true).expect("send at once");
                let name = ServerName::try_from("localhost").expect("a name");
                let client = ClientConnection::new(Arc::clone(&tls.config), name);
                let client = client.expect("a TLS client");
                Stream::Tls(Box::new(StreamOwned::new(client, stream)))
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Socket(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Socket(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Socket(stream) => stream.as_fd(),
            Stream::Tls(stream) => stream.sock.as_fd(),
        }
    }
}

/// When to stop.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Time(Duration),
    /// After this number of requests.
    Count(usize),
}

pub(crate) struct Done {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Median time of one, microseconds.
    pub(crate) micros: f64,
    /// Time within which 99 of 100 were answered, microseconds.
    pub(crate) p99: f64,
    /// Processor time of kmsd for one, user and system, microseconds.
    pub(crate) spent: f64,
    /// The same with that of the client.
    pub(crate) whole: f64,
}

struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
    filled: usize,
    asked: Instant,
}

/// Asks on so many connections at once.
pub(crate) fn load(target: &Target<'_>, connections: usize, until: Until) -> Done {
    let mut open: Vec<Connection> = (0..connections)
        .map(|_| Connection {
            stream: Stream::connect(target.place),
            buffer: vec![0; 16 * 1024],
            filled: 0,
            asked: Instant::now(),
        })
        .collect();
    let request = target.request();
    if matches!(target.place, Place::Tls(_)) {
        // The handshake is not measured.
        for connection in &mut open {
            connection.ask(&request);
            while !connection.answered() {}
        }
    }
    let mut times = Vec::with_capacity(1 << 16);
    let (before, own, start) = (processor_time(target.pid), own_time(), Instant::now());
    for connection in &mut open {
        connection.ask(&request);
    }
    let mut asked = connections;
    let more = |asked: usize| match until {
        Until::Time(limit) => start.elapsed() < limit,
        Until::Count(count) => asked < count,
    };
    let patience = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    let mut busy = connections;
    while busy > 0 {
        let ready: Vec<bool> = {
            let mut waiting: Vec<PollFd<'_>> = open
                .iter()
                .map(|connection| PollFd::new(&connection.stream, PollFlags::IN))
                .collect();
            let count = poll(&mut waiting, Some(&patience)).expect("wait for kmsd");
            assert!(count > 0, "kmsd answered nothing for a minute");
            waiting.iter().map(|fd| !fd.revents().is_empty()).collect()
        };
        for (connection, _) in open.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            if connection.answered() {
                times.push(connection.asked.elapsed().as_secs_f64() * 1e6);
                if more(asked) {
                    asked += 1;
                    connection.ask(&request);
                } else {
                    busy -= 1;
                }
            }
        }
    }
    let took = start.elapsed().as_secs_f64();
    let spent = processor_time(target.pid).saturating_sub(before) as f64 / 1e3;
    let whole = own_time().saturating_sub(own) as f64 / 1e3 + spent;
    let count = times.len() as f64;
    times.sort_by(f64::total_cmp);
    Done {
        rate: count / took,
        micros: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
        spent: spent / count,
        whole: whole / count,
    }
}

impl Connection {
    fn ask(&mut self, request: &[u8]) {
        self.filled = 0;
        self.asked = Instant::now();
        self.stream.send(request).expect("send a request");
    }

    /// Reads what is there; whether it is a whole response, which must be a success.
    fn answered(&mut self) -> bool {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => panic!("kmsd closed the connection"),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => return false,
            Err(error) => panic!("read a response: {error}"),
        }
        let text = &self.buffer[..self.filled];
        let Some(head) = text.windows(4).position(|four| four == b"\r\n\r\n") else {
            return false;
        };
        let said = std::str::from_utf8(&text[..head]).expect("the head of a response");
        assert!(
            said.starts_with("HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(text)
        );
        let length: usize = said
            .lines()
            .find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse().expect("a length"))
            })
            .expect("content-length");
        self.filled >= head + 4 + length
    }
}

/// Of a sorted list.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * at).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// Processor time of this process, in nanoseconds, with its threads that have ended.
fn own_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Processor time that the threads of a process have taken, in nanoseconds.
fn processor_time(pid: i32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the threads of kmsd");
    let times = threads.filter_map(|thread| {
        // One that has just ended takes its time with it: kmsd's workers do not end.
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    times.sum()
}
