//! Holding all changes, so that the lower tree can be copied.
//!
//! Every operation that changes something holds a [`Writing`] as long as it runs. Freezing turns new ones away, to where
//! they can wait, lets the running ones end, and makes everything durable. The mark of use is away meanwhile: a copy
//! taken now is one of a clean volume.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_format::names;
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};

use super::{Fs, FsResult};
use crate::errno::Errno;
use crate::volume::{WOULD_WAIT, may_wait};

/// How long running operations may take to end before a freeze is given up.
const DRAIN: Duration = Duration::from_secs(30);

thread_local! {
    /// Changes that this thread is in: one may call another.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Where changes pass.
#[derive(Default)]
pub(super) struct Gate {
    changes: RwLock<()>,
    frozen: AtomicBool,
    state: Mutex<State>,
    thawed: Condvar,
}

#[derive(Default)]
struct State {
    /// Which freeze it is, from 1.
    number: u64,
    until: Option<Instant>,
    /// The mark of use was taken away.
    unmarked: bool,
}

/// A change that runs.
pub(super) struct Writing<'a> {
    _running: Option<RwLockReadGuard<'a, ()>>,
    /// Ends on the thread where it began.
    _here: PhantomData<*const ()>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().saturating_sub(1));
    }
}

impl Gate {
    /// Lets a change pass, if need be after the thaw.
    pub(super) fn pass(&self) -> FsResult<Writing<'_>> {
        loop {
            if let Some(writing) = self.try_pass() {
                return Ok(writing);
            }
            if !may_wait() {
                return Err(WOULD_WAIT);
            }
            let mut state = self.state.lock();
            while self.frozen.load(Ordering::Acquire) {
                self.thawed.wait(&mut state);
            }
            drop(state);
            // A freeze that was given up may still hold the lock for a moment.
            std::thread::yield_now();
        }
    }

    /// Lets a change pass unless it would have to wait.
    pub(super) fn try_pass(&self) -> Option<Writing<'_>> {
        let running = if DEPTH.get() == 0 {
            if self.frozen.load(Ordering::Acquire) {
                return None;
            }
            // Taken only by a freeze that has begun since.
            let running = self.changes.try_read()?;
            if self.frozen.load(Ordering::Acquire) {
                return None;
            }
            Some(running)
        } else {
            None
        };
        DEPTH.set(DEPTH.get() + 1);
        Some(Writing {
            _running: running,
            _here: PhantomData,
        })
    }

    fn open(&self, state: &mut State) {
        state.until = None;
        self.frozen.store(false, Ordering::Release);
        self.thawed.notify_all();
    }
}

impl Fs {
    /// Holds every change until [`Fs::thaw`], or for `limit`: whoever changes something waits, reading goes on. On return
    /// everything is durable and nothing changes any more. Gives the number of this freeze.
    ///
    /// # Errors
    /// `EBUSY` if it is frozen already, or operations that run do not end; what the lower file system says.
    pub fn freeze(self: &std::sync::Arc<Self>, limit: Duration) -> FsResult<u64> {
        let gate = &self.gate;
        let number = {
            let mut state = gate.state.lock();
            if gate.frozen.swap(true, Ordering::AcqRel) {
                return Err(Errno::BUSY);
            }
            state.number += 1;
            state.until = Some(Instant::now() + limit + DRAIN);
            state.number
        };
        let frozen = self.settle_down();
        let mut state = gate.state.lock();
        if state.number != number || state.until.is_none() {
            // Thawed meanwhile.
            return Err(Errno::BUSY);
        }
        match frozen {
            Ok(unmarked) => {
                state.unmarked = unmarked;
                let until = Instant::now() + limit;
                state.until = Some(until);
                drop(state);
                self.thaw_at(number, until)?;
                tracing::info!(lower = %self.lower.display(), seconds = limit.as_secs(), "frozen: changes wait");
                Ok(number)
            }
            Err(errno) => {
                self.lengths.hold(false);
                gate.open(&mut state);
                Err(errno)
            }
        }
    }

    /// Waits for running changes and makes everything durable. Says whether the mark of use is away.
    fn settle_down(&self) -> FsResult<bool> {
        let none = self.gate.changes.try_write_for(DRAIN);
        drop(none.ok_or(Errno::BUSY)?);
        self.sync_all()?;
        self.lengths.hold(true);
        // With sizes that nobody has checked yet it is not a clean volume.
        if self.read_only || self.recheck.is_some() || self.headers.failed() {
            return Ok(false);
        }
        let root = self.dirs.root();
        root.unlink(names::UNCLEAN)?;
        root.sync()?;
        Ok(true)
    }

    /// Lets changes go on: those of freeze `number`, or of any. Says whether it was frozen.
    ///
    /// # Errors
    /// The mark of use cannot be made: it stays frozen, and is tried again.
    pub fn thaw(&self, number: Option<u64>) -> FsResult<bool> {
        let mut state = self.gate.state.lock();
        if state.until.is_none() || number.is_some_and(|number| number != state.number) {
            return Ok(false);
        }
        if state.unmarked {
            let root = self.dirs.root();
            match root.write_small(names::UNCLEAN, &[]) {
                Ok(mark) => mark.sync()?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            root.sync()?;
            state.unmarked = false;
        }
        self.lengths.hold(false);
        self.gate.open(&mut state);
        tracing::info!(lower = %self.lower.display(), "thawed: changes go on");
        Ok(true)
    }

    /// How long it stays frozen, if it is.
    #[must_use]
    pub fn frozen_for(&self) -> Option<Duration> {
        let until = self.gate.state.lock().until?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Thaws when the time is over.
    fn thaw_at(self: &std::sync::Arc<Self>, number: u64, until: Instant) -> FsResult<()> {
        let weak = std::sync::Arc::downgrade(self);
        let started = std::thread::Builder::new()
            .name("thaw".to_owned())
            .spawn(move || {
                loop {
                    let Some(fs) = weak.upgrade() else { return };
                    let mut state = fs.gate.state.lock();
                    if state.number != number || state.until.is_none() {
                        return;
                    }
                    let now = Instant::now();
                    if now < until {
                        // Not for long at once: an unmount waits for nobody who only holds this.
                        let pause = (until - now).min(Duration::from_millis(200));
                        fs.gate.thawed.wait_for(&mut state, pause);
                        continue;
                    }
                    drop(state);
                    tracing::warn!("the time of the freeze is over");
                    match fs.thaw(Some(number)) {
                        Ok(_) => return,
                        Err(errno) => {
                            tracing::error!(%errno, "cannot thaw; trying again");
                            drop(fs);
                            std::thread::sleep(Duration::from_secs(1));
                        }
                    }
                }
            });
        started.map(drop).map_err(|error| {
            let _ = self.thaw(Some(number));
            Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN))
        })
    }
}
