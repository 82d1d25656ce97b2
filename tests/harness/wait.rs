//! Waiting for something to become true, with a deadline.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(20);

/// How long things take at most that normally take well under a second. Long, because the machine may
/// be building or testing something else at the same time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `condition` until it gives a value, or fails the test after `limit` naming `what`.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain for: {what}"
        );
        std::thread::sleep(STEP);
    }
}

/// As [`until`], for a condition that is only true or false.
pub fn until_true(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    until(what, limit, || condition().then_some(()));
}
