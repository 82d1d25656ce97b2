//! Where the log goes: standard error in the foreground, a file if asked, otherwise syslog.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Starts logging. `KMSFS_LOG` filters (`info` by default), in the syntax of `tracing`.
///
/// # Errors
/// The log file cannot be opened.
pub(crate) fn start(foreground: bool, file: Option<&Path>) -> io::Result<()> {
    let filter = EnvFilter::try_from_env("KMSFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false);
    // A second start, as in tests, keeps the first.
    if let Some(path) = file {
        let file = File::options().create(true).append(true).open(path)?;
        drop(format.with_writer(Arc::new(file)).try_init());
    } else if foreground {
        // The journal has its own times.
        let journal = std::env::var_os("JOURNAL_STREAM").is_some();
        let format = format.with_writer(io::stderr);
        drop(if journal {
            format.without_time().try_init()
        } else {
            format.try_init()
        });
    } else if let Ok(syslog) = Syslog::connect() {
        drop(format.without_time().with_writer(syslog).try_init());
    }
    Ok(())
}

/// The local syslog socket. Each event is one datagram.
struct Syslog(UnixDatagram);

impl Syslog {
    fn connect() -> io::Result<Syslog> {
        let socket = UnixDatagram::unbound()?;
        socket.connect("/dev/log")?;
        // A full log must not stop the file system.
        socket.set_nonblocking(true)?;
        Ok(Syslog(socket))
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = SyslogLine<'a>;

    fn make_writer(&'a self) -> SyslogLine<'a> {
        SyslogLine(&self.0)
    }
}

struct SyslogLine<'a>(&'a UnixDatagram);

impl Write for SyslogLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Facility daemon, severity info or worse by the level the formatter wrote first.
        let severity = match line.trim_ascii_start() {
            line if line.starts_with(b"ERROR") => 3,
            line if line.starts_with(b"WARN") => 4,
            _ => 6,
        };
        let mut datagram =
            format!("<{}>kmsfs[{}]: ", 3 * 8 + severity, std::process::id()).into_bytes();
        datagram.extend_from_slice(line.trim_ascii());
        self.0.send(&datagram)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
