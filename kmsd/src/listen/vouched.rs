//! A stream whose every byte the kernel vouches for.
//!
//! Identity is that of the process that connected. A descriptor can be passed on, and inherited; so the
//! kernel is asked at each receive who sent the bytes (`SO_PASSCRED`, unix(7)), and what another process sent
//! counts for nothing.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Whose bytes came over a connection that were not the peer's.
#[derive(Debug, Default)]
pub(crate) struct Origin(Mutex<Option<(u32, i32)>>);

impl Origin {
    /// User and process of the first sender that was not the one that connected.
    pub(crate) fn foreign(&self) -> Option<(u32, i32)> {
        *self.0.lock()
    }
}

/// A stream that notes in [`Origin`] when bytes come from another process.
pub(crate) struct Vouched {
    stream: UnixStream,
    uid: u32,
    pid: i32,
    origin: Arc<Origin>,
    control: Vec<u8>,
}

/// Has the kernel tell who sends. On a listening socket every connection made from then on inherits it, so
/// that no byte is missed that a client sends before it is accepted.
pub(crate) fn ask_for_credentials(socket: &impl std::os::fd::AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::PassCred, &true)?)
}

impl Vouched {
    /// The stream of the peer with these ids.
    pub(crate) fn new(stream: UnixStream, uid: u32, pid: u32) -> io::Result<(Self, Arc<Origin>)> {
        ask_for_credentials(&stream)?;
        let origin = Arc::new(Origin::default());
        let vouched = Self {
            stream,
            uid,
            pid: i32::try_from(pid).unwrap_or(-1),
            origin: Arc::clone(&origin),
            control: nix::cmsg_space!(UnixCredentials),
        };
        Ok((vouched, origin))
    }

    /// Receives what one process sent: the kernel does not put bytes of several into one message.
    fn receive(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let fd = self.stream.as_raw_fd();
        let control = &mut self.control;
        let (count, sender) = self.stream.try_io(Interest::READABLE, || {
            let mut parts = [IoSliceMut::new(buffer.initialize_unfilled())];
            // There is room for the credentials only: the kernel closes descriptors that come along.
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<()>(fd, &mut parts, Some(control), flags)?;
            let sender = message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|one| match one {
                    ControlMessageOwned::ScmCredentials(who) => Some((who.uid(), who.pid())),
                    _ => None,
                })
            });
            Ok((message.bytes, sender))
        })?;
        buffer.advance(count);
        // Nothing at all is the end of the stream, which nobody signs.
        if count > 0 && sender != Some((self.uid, self.pid)) {
            let sender = sender.unwrap_or((crate::config::OVERFLOW_UID, 0));
            self.origin.0.lock().get_or_insert(sender);
        }
        Ok(())
    }
}

impl AsyncRead for Vouched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.receive(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncWrite for Vouched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
