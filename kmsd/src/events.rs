//! Event notifications: told to those who wait for them, and to a program that root's configuration names.
//!
//! Events are derived from audit records once these are on disk ([`kms_core::events`]); nobody's request waits for any of this. An
//! event's place is the number of its record, so a listener that remembers the last one misses none.

mod hook;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kms_core::audit::Record;
use kms_core::events::{Bursts, event};
use kms_core::ids::Scope;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use crate::audit::{Appended, Observer};
pub(crate) use hook::{Hook, check as check_hook};

/// Events that are kept in memory.
const RING: usize = 4096;

/// An event with its place.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// Number of its record in the audit log.
    pub(crate) seq: u64,
    /// The event.
    pub(crate) event: Arc<Value>,
}

/// What a listener gets.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In order.
    pub(crate) events: Vec<Placed>,
    /// Everything with a number below this one has been told.
    pub(crate) next: u64,
    /// Events before `events` are no longer in memory: they are in the audit log.
    pub(crate) missed: bool,
}

/// The newest events, and those who wait for the next.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// Number after the last record that was seen.
    end: watch::Sender<u64>,
    /// Nobody is to wait any more.
    ended: AtomicBool,
}

impl Shared {
    fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Placed>,
    /// Events with a smaller number may have been and are not in `events`.
    begin: u64,
}

impl Events {
    /// Tells of records from number `begin` on: where the log ended at the start.
    pub(crate) fn new(begin: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                ring: Mutex::new(Ring {
                    events: VecDeque::new(),
                    begin,
                }),
                end: watch::Sender::new(begin),
                ended: AtomicBool::new(false),
            }),
        }
    }

    /// The log has so many records: of those nothing is told, unless it has been already.
    pub(crate) fn begin(&self, records: u64) {
        let mut ring = self.shared.ring.lock();
        let told = ring.events.front().map(|placed| placed.seq);
        ring.begin = told.map_or(records, |seq| seq.min(records));
        self.shared
            .end
            .send_if_modified(|end| std::mem::replace(end, (*end).max(records)) < records);
    }

    /// What sees the records. Bursts of denials are handed to `report`, which records them.
    pub(crate) fn observer(
        &self,
        scope: Scope,
        denial_burst: u32,
        hook: Option<Hook>,
        report: impl Fn(Record) + Send + 'static,
    ) -> impl Observer + 'static {
        Watcher {
            events: self.clone(),
            scope,
            bursts: Bursts::new(denial_burst),
            hook,
            report: Box::new(report),
        }
    }

    /// Events with the number `after` or a greater one, at most `limit`; waits for at most `timeout` until there are some. Without `after`
    /// nothing is waited for: the answer says from where to listen.
    pub(crate) async fn wait(&self, after: Option<u64>, limit: usize, timeout: Duration) -> Batch {
        let Some(after) = after else {
            return self.now(None, limit);
        };
        let mut end = self.shared.end.subscribe();
        let found = async {
            loop {
                end.borrow_and_update();
                let batch = self.read(after, limit);
                if !batch.events.is_empty() || batch.missed || self.shared.ended() {
                    return batch;
                }
                if end.changed().await.is_err() {
                    return batch;
                }
            }
        };
        match tokio::time::timeout(timeout, found).await {
            Ok(batch) => batch,
            Err(_) => self.read(after, limit),
        }
    }

    /// The same without waiting.
    pub(crate) fn now(&self, after: Option<u64>, limit: usize) -> Batch {
        match after {
            Some(after) => self.read(after, limit),
            None => Batch {
                next: *self.shared.end.borrow(),
                ..Batch::default()
            },
        }
    }

    /// Ends every wait, and those to come.
    pub(crate) fn end(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.end.send_modify(|_| {});
    }

    fn read(&self, after: u64, limit: usize) -> Batch {
        let ring = self.shared.ring.lock();
        let end = *self.shared.end.borrow();
        let first = ring.events.partition_point(|placed| placed.seq < after);
        let events: Vec<Placed> = ring
            .events
            .iter()
            .skip(first)
            .take(limit)
            .cloned()
            .collect();
        let more = ring.events.len() > first + events.len();
        let next = match events.last() {
            Some(last) if more => last.seq + 1,
            _ => end.max(after),
        };
        Batch {
            missed: after < ring.begin,
            events,
            next,
        }
    }

    fn push(&self, events: impl Iterator<Item = Placed>, end: u64) {
        let mut ring = self.shared.ring.lock();
        for placed in events {
            if ring.events.len() == RING
                && let Some(oldest) = ring.events.pop_front()
            {
                ring.begin = oldest.seq + 1;
            }
            ring.events.push_back(placed);
        }
        self.shared.end.send_replace(end);
    }
}

/// Sees the records, on the log's own thread.
struct Watcher {
    events: Events,
    scope: Scope,
    bursts: Bursts,
    hook: Option<Hook>,
    report: Box<dyn Fn(Record) + Send>,
}

impl Observer for Watcher {
    fn looks_at_uses(&self) -> bool {
        false
    }

    fn appended(&mut self, records: &[Appended<'_>], end: u64) {
        let mut told = Vec::new();
        for appended in records {
            let burst = self
                .bursts
                .seen(appended.record, || Uuid::new_v4().to_string());
            if let Some(burst) = burst {
                tracing::warn!(
                    principal = burst.details.get("principal").map(|name| name.to_string()),
                    "a principal is denied again and again"
                );
                (self.report)(burst);
            }
            if let Some(event) = event(appended.record, &self.scope) {
                let event = Arc::new(event);
                if let Some(hook) = &self.hook {
                    hook.tell(Arc::clone(&event));
                }
                told.push(Placed {
                    seq: appended.seq,
                    event,
                });
            }
        }
        self.events.push(told.into_iter(), end);
    }
}

#[cfg(test)]
mod tests;
