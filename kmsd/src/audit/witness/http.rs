//! One HTTP request to a witness. No TLS: over a network the way is a proxy on this host, or a Unix socket.
//!
//! HTTP/1.0, so that the answer ends with the connection and comes in one piece.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long connecting, and each reading and writing, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Where checkpoints are submitted: a submission prefix of c2sp.org/tlog-witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    server: Server,
    /// Without a slash at its end.
    prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Server {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

/// What a witness answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) body: Vec<u8>,
}

impl Submission {
    /// Reads `http://HOST[:PORT][/PREFIX]` or `unix:/SOCKET[:/PREFIX]`.
    ///
    /// # Errors
    /// It is neither; the text says what it must be.
    pub fn parse(url: &str) -> Result<Self, String> {
        let form = || {
            "must be http://HOST[:PORT][/PREFIX] or unix:/SOCKET[:/PREFIX]; kmsd asks witnesses without TLS: for https:// \
             let a proxy on this host, or on a Unix socket, do that"
                .to_owned()
        };
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(form());
        }
        let trimmed = |prefix: &str| prefix.trim_end_matches('/').to_owned();
        if let Some(rest) = url.strip_prefix("unix:") {
            let (path, prefix) = rest.split_once(":/").unwrap_or((rest, ""));
            if !path.starts_with('/') {
                return Err(form());
            }
            let prefix = match prefix {
                "" => String::new(),
                prefix => trimmed(&format!("/{prefix}")),
            };
            return Ok(Self {
                server: Server::Unix(path.into()),
                prefix,
            });
        }
        let rest = url.strip_prefix("http://").ok_or_else(form)?;
        let (authority, prefix) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| form())?),
            _ => (authority, 80),
        };
        if host.is_empty() || host.contains('@') {
            return Err(form());
        }
        Ok(Self {
            server: Server::Tcp {
                host: host.to_owned(),
                port,
            },
            prefix: trimmed(prefix),
        })
    }

    /// Posts to `add-checkpoint`. Blocks, for half a minute at most.
    pub(super) fn post(&self, body: &str) -> io::Result<Answer> {
        let deadline = Instant::now() + DEADLINE;
        match &self.server {
            Server::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                self.exchange(stream, "localhost", body, deadline)
            }
            Server::Tcp { host, port } => {
                let name = host.trim_start_matches('[').trim_end_matches(']');
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
                for address in (name, *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, PATIENCE) {
                        Ok(stream) => {
                            stream.set_read_timeout(Some(PATIENCE))?;
                            stream.set_write_timeout(Some(PATIENCE))?;
                            return self.exchange(stream, host, body, deadline);
                        }
                        Err(error) => last = error,
                    }
                    if Instant::now() >= deadline {
                        break;
                    }
                }
                Err(last)
            }
        }
    }

    fn exchange(
        &self,
        mut stream: impl Read + Write,
        host: &str,
        body: &str,
        deadline: Instant,
    ) -> io::Result<Answer> {
        let head = format!(
            "POST {}/add-checkpoint HTTP/1.0\r\nHost: {host}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            self.prefix,
            body.len()
        );
        stream.write_all((head + body).as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(piece.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if answer.len() > MAX_ANSWER {
                return Err(bad("the answer is too long"));
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if complete(&answer) {
                break;
            }
        }
        Answer::parse(&answer)
    }
}

impl std::fmt::Display for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.server {
            Server::Unix(path) if self.prefix.is_empty() => write!(f, "unix:{}", path.display()),
            Server::Unix(path) => write!(f, "unix:{}:{}", path.display(), self.prefix),
            Server::Tcp { host, port } => write!(f, "http://{host}:{port}{}", self.prefix),
        }
    }
}

/// Whether everything that the head announces is there: some servers leave the connection open all the same.
fn complete(answer: &[u8]) -> bool {
    let Ok((head, body)) = split(answer) else {
        return false;
    };
    let length = header(head, "content-length").and_then(|length| length.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

impl Answer {
    fn parse(answer: &[u8]) -> io::Result<Self> {
        let (head, body) = split(answer)?;
        let status = head
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1."))
            .and_then(|rest| rest.get(2..5))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| bad("the answer is not HTTP"))?;
        if header(head, "transfer-encoding").is_some() {
            return Err(bad("the answer is in pieces, which HTTP/1.0 does not have"));
        }
        let length = header(head, "content-length").map(str::parse::<usize>);
        let body = match length {
            None => body,
            Some(Ok(length)) => body
                .get(..length)
                .ok_or_else(|| bad("the answer was cut off"))?,
            Some(Err(_)) => return Err(bad("the answer has a malformed length")),
        };
        Ok(Self {
            status,
            content_type: header(head, "content-type").unwrap_or_default().to_owned(),
            body: body.to_vec(),
        })
    }
}

fn split(answer: &[u8]) -> io::Result<(&str, &[u8])> {
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .ok_or_else(|| bad("the answer ended in its head"))?;
    let (head, body) = answer.split_at(end);
    let head = std::str::from_utf8(head).map_err(|_| bad("the answer is not HTTP"))?;
    Ok((head, body.get(4..).unwrap_or_default()))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found
            .trim()
            .eq_ignore_ascii_case(name)
            .then(|| value.trim())
    })
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for (text, same) in [
            ("http://w.example", "http://w.example:80"),
            ("http://w.example:8080/", "http://w.example:8080"),
            ("http://[::1]:80/a/b/", "http://[::1]:80/a/b"),
            ("http://[::1]/a", "http://[::1]:80/a"),
            ("unix:/run/w.sock", "unix:/run/w.sock"),
            ("unix:/run/w.sock:/log/", "unix:/run/w.sock:/log"),
        ] {
            assert_eq!(Submission::parse(text).unwrap().to_string(), same);
        }
        for text in [
            "https://w.example",
            "w.example",
            "unix:w.sock",
            "http://",
            "http://w:x/",
            "http://user@w/",
            "http://w /",
            "http://w/\r\nx",
        ] {
            let said = Submission::parse(text).unwrap_err();
            assert!(said.contains("TLS"), "{text}: {said}");
        }
    }

    #[test]
    fn answers_are_read() {
        let answer =
            Answer::parse(b"HTTP/1.1 409 Conflict\r\ncontent-TYPE: text/x.tlog.size\r\nContent-Length: 3\r\n\r\n12\nx")
                .unwrap();
        assert_eq!(answer.status, 409);
        assert_eq!(answer.content_type, "text/x.tlog.size");
        assert_eq!(answer.body, b"12\n");
        assert_eq!(
            Answer::parse(b"HTTP/1.0 200 OK\r\n\r\nx").unwrap().body,
            b"x"
        );
        for bad in [
            &b"HTTP/1.0 200 OK\r\n"[..],
            b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nx",
            b"HTTP/1.0 200 OK\r\ncontent-length: -1\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.0 2\r\n\r\n",
            b"",
        ] {
            assert!(Answer::parse(bad).is_err());
        }
    }
}
