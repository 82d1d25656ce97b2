//! Raw requests to kmsd's socket, for what no well-behaved client would send.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body, or null when it is not JSON.
    pub json: Value,
    /// The whole reply as text.
    pub text: String,
}

impl Reply {
    /// The error code: `__type` without a namespace.
    pub fn error(&self) -> &str {
        let name = self.json["__type"].as_str().unwrap_or_default();
        name.rsplit('#').next().unwrap_or_default()
    }
}

/// Sends one well-formed request with this target and body.
pub fn post(socket: &Path, target: &str, body: &[u8]) -> Reply {
    let mut request = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n\
         X-Amz-Target: {target}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    send(socket, &request).expect("a reply to a well-formed request")
}

/// Sends these bytes and reads until the end of the stream. `None`: closed without a reply.
pub fn send(socket: &Path, bytes: &[u8]) -> Option<Reply> {
    let mut stream = connect(socket);
    // The peer may refuse before it has read everything.
    let _ = stream.write_all(bytes);
    read(&mut stream)
}

/// A connection on which nothing waits longer than a minute.
pub fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("connect to kmsd");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("set a time limit");
    stream
        .set_write_timeout(Some(Duration::from_secs(60)))
        .expect("set a time limit");
    stream
}

/// Reads until the end of the stream.
pub fn read(stream: &mut UnixStream) -> Option<Reply> {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert!(
            error.kind() != std::io::ErrorKind::WouldBlock,
            "kmsd neither answered nor closed the connection within a minute"
        );
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let body = text
        .split_once("\r\n\r\n")
        .map(|(_, body)| body)
        .unwrap_or_default();
    let json = serde_json::from_str(body).unwrap_or(Value::Null);
    Some(Reply { status, json, text })
}
