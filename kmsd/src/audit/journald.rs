//! systemd's journal as a second place for records: a datagram each, by its native protocol.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::{Appended, Observer};

/// Sends records to the journal. Never waits: what the journal does not take at once is counted and dropped.
pub(super) struct Journal {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    dropped: u64,
}

impl Journal {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            socket: None,
            dropped: 0,
        }
    }

    fn send(&mut self, datagram: &[u8]) -> std::io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(&self.path)?;
                self.socket.insert(socket)
            }
        };
        socket.send(datagram).map(drop)
    }
}

impl Observer for Journal {
    fn looks_at_uses(&self) -> bool {
        true
    }

    fn appended(&mut self, records: &[Appended<'_>], _: u64) {
        for appended in records {
            let datagram = datagram(appended);
            if let Err(error) = self.send(&datagram) {
                // The journal restarted, or has no room.
                self.socket = None;
                self.dropped = self.dropped.saturating_add(1);
                if self.dropped.is_power_of_two() {
                    let dropped = self.dropped;
                    tracing::warn!(%error, dropped, "audit records did not reach the journal");
                }
            }
        }
    }
}

fn datagram(appended: &Appended<'_>) -> Vec<u8> {
    let record = appended.record;
    let outcome = record.error.as_ref().map_or("ok", |error| &error.code);
    let who = record.caller.as_ref().map_or("kmsd", |caller| &caller.arn);
    let mut out = Vec::with_capacity(appended.line.len().saturating_add(512));
    let priority = if record.error.is_some() { "5" } else { "6" };
    field(
        &mut out,
        "MESSAGE",
        format!("{} by {who}: {outcome}", record.operation).as_bytes(),
    );
    field(&mut out, "PRIORITY", priority.as_bytes());
    field(&mut out, "SYSLOG_IDENTIFIER", b"kmsd-audit");
    field(&mut out, "KMSD_EVENT_ID", record.event_id.as_bytes());
    field(&mut out, "KMSD_SEQ", appended.seq.to_string().as_bytes());
    field(&mut out, "KMSD_OPERATION", record.operation.as_bytes());
    field(&mut out, "KMSD_OUTCOME", outcome.as_bytes());
    field(&mut out, "KMSD_RECORD", appended.line);
    out
}

/// A field in the form that takes any bytes: name, newline, length, value, newline.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}
