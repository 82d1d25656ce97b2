//! How fast a job may go.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The longest pause at a time, so that a job can be stopped.
const PAUSE: Duration = Duration::from_millis(200);

/// A limit on a job. None is as fast as it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Objects a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// Bytes of content a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// Holds a job back.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Rate,
    /// Until when the work done so far may take.
    due: Instant,
}

impl Throttle {
    pub(super) fn new(rate: Rate) -> Throttle {
        Throttle {
            rate,
            due: Instant::now(),
        }
    }

    /// Waits as long as this much work is to take. `stopped` ends the pause.
    pub(super) fn pass(&mut self, objects: u64, bytes: u64, stopped: impl Fn() -> bool) {
        let share = |done: u64, limit: Option<u64>| match limit {
            Some(limit) => Duration::from_secs_f64(done as f64 / limit.max(1) as f64),
            None => Duration::ZERO,
        };
        let takes = share(objects, self.rate.objects).max(share(bytes, self.rate.bytes));
        if takes.is_zero() {
            return;
        }
        let now = Instant::now();
        // What was not used is not saved up for longer than a moment.
        self.due = self.due.max(now.checked_sub(PAUSE).unwrap_or(now)) + takes;
        while let Some(left) = self.due.checked_duration_since(Instant::now())
            && !left.is_zero()
            && !stopped()
        {
            std::thread::sleep(left.min(PAUSE));
        }
    }
}
