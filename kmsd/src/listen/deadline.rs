//! Deadlines on a connection: a client that is slow to send a head, or to take a response, is cut;
//! one that sends nothing at all is let go after the idle time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

const IDLE: u64 = 0;
const HEAD: u64 = 1;
const BUSY: u64 = 2;
const STAGES: u64 = 3;

/// Where a connection is: waiting for a request, reading a head, or working on a request (whose
/// body has a deadline of its own). Counts requests, so that no deadline outlives its request.
#[derive(Debug, Default)]
pub(crate) struct Stage(AtomicU64);

impl Stage {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn head_begins(&self, idle: u64) {
        // Fails when a request has begun meanwhile, which is what it then is.
        let _ = self
            .0
            .compare_exchange(idle, idle + 1, Ordering::AcqRel, Ordering::Acquire);
    }

    /// A head has been read: the request is being worked on.
    pub(crate) fn request_begins(&self) {
        let now = self.get();
        self.0.store(now - now % STAGES + BUSY, Ordering::Release);
    }

    /// The response is ready to be sent.
    pub(crate) fn request_ends(&self) {
        let now = self.get();
        self.0.store(now - now % STAGES + STAGES, Ordering::Release);
    }
}

/// Times a connection is allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) idle: Duration,
    pub(crate) head: Duration,
}

/// A stream with deadlines.
pub(crate) struct Timed<S> {
    stream: S,
    stage: Arc<Stage>,
    limits: Limits,
    read_timer: Pin<Box<Sleep>>,
    /// The stage `read_timer` was set for.
    read_stage: Option<u64>,
    write_timer: Pin<Box<Sleep>>,
    write_waits: bool,
}

impl<S> Timed<S> {
    pub(crate) fn new(stream: S, stage: Arc<Stage>, limits: Limits) -> Self {
        Self {
            stream,
            stage,
            limits,
            read_timer: Box::pin(sleep(limits.idle)),
            read_stage: None,
            write_timer: Box::pin(sleep(limits.head)),
            write_waits: false,
        }
    }

    /// Sets the idle time when a response is out, and wakes the connection when it has run out.
    fn watch_idle(&mut self, cx: &mut Context<'_>) {
        let now = self.stage.get();
        if now % STAGES == IDLE && self.read_stage != Some(now) {
            self.read_stage = Some(now);
            self.read_timer
                .as_mut()
                .reset(Instant::now() + self.limits.idle);
            // Registers the waker; running out at once is seen at the next read.
            let _ = self.read_timer.as_mut().poll(cx);
        }
    }

    /// Bounds how long one write may wait for the client.
    fn watch_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_waits = false;
            return result;
        }
        if !self.write_waits {
            self.write_waits = true;
            self.write_timer
                .as_mut()
                .reset(Instant::now() + self.limits.head);
        }
        ready!(self.write_timer.as_mut().poll(cx));
        Poll::Ready(Err(timed_out("the client does not take the response")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let now = this.stage.get();
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buffer) {
            if buffer.filled().len() > before && now % STAGES == IDLE {
                this.stage.head_begins(now);
            }
            return Poll::Ready(result);
        }
        let (limit, what) = match now % STAGES {
            IDLE => (this.limits.idle, "no request"),
            HEAD => (this.limits.head, "the head of the request is late"),
            _ => return Poll::Pending,
        };
        if this.read_stage != Some(now) {
            this.read_stage = Some(now);
            this.read_timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(this.read_timer.as_mut().poll(cx));
        Poll::Ready(Err(timed_out(what)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch_write(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        if result.is_ready() {
            // hyper does not read again after a response until the stream becomes readable, so the
            // idle time is set here.
            self.watch_idle(cx);
        }
        self.watch_write(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}
