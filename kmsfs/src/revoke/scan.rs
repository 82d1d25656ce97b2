//! Looking into processes without being held up by one.
//!
//! What `/proc` says of a process can take as long as the process wants: its memory map is locked while somebody else's file system
//! does not answer, or it has a million descriptors. So threads of their own look, one process after the other. One that is
//! held up is left to itself, and another goes on with the rest; the process counts as one that may have anything.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long nothing may come of a process before it counts as held up.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// One process may take this part of the whole time.
const PART: u32 = 4;
/// So many threads may be held up; with more of them nothing is looked into.
const MOST: usize = 32;

/// A process, told from a later one with its number by when it began.
pub(super) type Process = (u32, u64);

/// Told by whoever looks that something was found, and asked whether to go on.
pub(super) struct Pulse {
    beats: AtomicU64,
    stop: AtomicBool,
}

impl Pulse {
    /// False if nobody waits for the rest.
    pub(super) fn beat(&self) -> bool {
        self.beats.fetch_add(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }
}

/// What was found of one process, and whether that is all.
pub(super) struct Looked<T> {
    pub(super) found: Vec<T>,
    pub(super) whole: bool,
}

/// Looks into a process.
pub(super) type Look<T> = dyn Fn(u32, &Pulse) -> Vec<T> + Send + Sync;

/// Those that hold threads up.
#[derive(Default)]
pub(super) struct Stuck(Mutex<HashSet<Process>>);

/// Of one scan.
pub(super) struct Scan<T> {
    look: Arc<Look<T>>,
    stuck: Arc<Stuck>,
    worker: Option<Worker<T>>,
    until: Instant,
    each: Duration,
}

struct Worker<T> {
    work: Sender<(Process, Arc<Pulse>)>,
    found: Receiver<Vec<T>>,
}

impl<T: Send + 'static> Scan<T> {
    /// A scan that takes `limit` at most.
    pub(super) fn begin(look: Arc<Look<T>>, stuck: &Arc<Stuck>, limit: Duration) -> Scan<T> {
        Scan {
            look,
            stuck: Arc::clone(stuck),
            worker: None,
            until: Instant::now() + limit,
            each: limit / PART,
        }
    }

    /// Looks into one process.
    pub(super) fn process(&mut self, process: Process) -> Looked<T> {
        let nothing = Looked {
            found: Vec::new(),
            whole: false,
        };
        let now = Instant::now();
        {
            let stuck = self.stuck.0.lock();
            if now >= self.until || stuck.contains(&process) || stuck.len() >= MOST {
                return nothing;
            }
        }
        let Some(worker) = self.worker.take().or_else(|| self.start()) else {
            return nothing;
        };
        let pulse = Arc::new(Pulse {
            beats: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        if worker.work.send((process, Arc::clone(&pulse))).is_err() {
            return nothing;
        }
        let until = self.until.min(now + self.each);
        let (mut beats, mut last) = (0, now);
        loop {
            match worker.found.recv_timeout(LOOK) {
                Ok(found) => {
                    let whole = !pulse.stop.load(Ordering::Relaxed);
                    self.worker = Some(worker);
                    return Looked { found, whole };
                }
                // It panicked.
                Err(RecvTimeoutError::Disconnected) => return nothing,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            let heard = pulse.beats.load(Ordering::Relaxed);
            if heard != beats {
                (beats, last) = (heard, now);
            }
            if now >= last + PATIENCE {
                // The thread takes it out again when it comes back.
                self.stuck.0.lock().insert(process);
                pulse.stop.store(true, Ordering::Relaxed);
                return match worker.found.try_recv() {
                    // Just now: nobody is held up.
                    Ok(found) => {
                        self.stuck.0.lock().remove(&process);
                        self.worker = Some(worker);
                        Looked {
                            found,
                            whole: false,
                        }
                    }
                    Err(_) => nothing,
                };
            }
            if now >= until {
                // It stops at the next thing that it finds.
                pulse.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    fn start(&self) -> Option<Worker<T>> {
        let (work, todo) = mpsc::channel::<(Process, Arc<Pulse>)>();
        let (tell, found) = mpsc::channel();
        let (look, stuck) = (Arc::clone(&self.look), Arc::clone(&self.stuck));
        let started = std::thread::Builder::new()
            .name("processes".to_owned())
            .spawn(move || {
                while let Ok((process, pulse)) = todo.recv() {
                    let seen = look(process.0, &pulse);
                    let told = tell.send(seen);
                    stuck.0.lock().remove(&process);
                    if told.is_err() {
                        return;
                    }
                }
            });
        match started {
            Ok(_) => Some(Worker { work, found }),
            Err(error) => {
                tracing::error!(%error, "no thread to look into processes with");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// Looks at numbers: 13 holds up until it is let go, and 1,000 goes on for ever.
    fn scan(gate: &Arc<Mutex<()>>, stuck: &Arc<Stuck>, limit: Duration) -> Scan<u32> {
        let gate = Arc::clone(gate);
        let look = move |pid: u32, pulse: &Pulse| match pid {
            13 => {
                drop(gate.lock());
                vec![pid]
            }
            1000 => {
                let mut found = Vec::new();
                while pulse.beat() {
                    found.push(pid);
                    std::thread::yield_now();
                }
                found
            }
            pid => vec![pid, pid],
        };
        Scan::begin(Arc::new(look), stuck, limit)
    }

    #[test]
    fn one_that_holds_up_is_left_to_itself_and_the_others_are_seen() {
        let (gate, stuck) = (Arc::new(Mutex::new(())), Arc::new(Stuck::default()));
        let shut = gate.lock();
        let mut here = scan(&gate, &stuck, LONG);
        for round in 0..3 {
            let seen = here.process((13, 1));
            assert_eq!((seen.found.len(), seen.whole), (0, false), "{round}");
            let seen = here.process((7, 1));
            assert_eq!((&seen.found[..], seen.whole), (&[7, 7][..], true));
        }
        assert_eq!(stuck.0.lock().len(), 1, "one thread for all three");
        // Another scan knows of it; another process with its number is another one.
        let mut other = scan(&gate, &stuck, LONG);
        assert!(!other.process((13, 1)).whole);
        assert!(!other.process((13, 2)).whole);
        assert_eq!(stuck.0.lock().len(), 2);
        drop(shut);
        while !stuck.0.lock().is_empty() {
            std::thread::yield_now();
        }
        let seen = other.process((13, 1));
        assert_eq!((&seen.found[..], seen.whole), (&[13][..], true));
    }

    #[test]
    fn one_that_never_ends_gives_what_was_found_and_takes_a_part_of_the_time() {
        let (gate, stuck) = (Arc::new(Mutex::new(())), Arc::new(Stuck::default()));
        let mut here = scan(&gate, &stuck, Duration::from_secs(2));
        let seen = here.process((1000, 1));
        assert!(!seen.whole && !seen.found.is_empty());
        let seen = here.process((7, 1));
        assert!(seen.whole, "there is time left for others");
        assert!(stuck.0.lock().is_empty());
    }

    #[test]
    fn no_more_threads_than_a_few_are_held_up() {
        let (gate, stuck) = (Arc::new(Mutex::new(())), Arc::new(Stuck::default()));
        let begun = (0..MOST as u64).map(|began| (13, began));
        stuck.0.lock().extend(begun);
        let mut here = scan(&gate, &stuck, LONG);
        assert!(!here.process((7, 1)).whole);
        assert!(here.worker.is_none());
    }
}
