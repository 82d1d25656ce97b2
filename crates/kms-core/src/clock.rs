//! Two clocks that must agree before anything is destroyed.

use serde::{Deserialize, Serialize};

/// One reading of the two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970-01-01 UTC by the system's clock, which can be set to anything.
    pub wall_ms: i64,
    /// Milliseconds that are known to have passed since the store was made; never goes back, and
    /// stands still while the machine is off.
    pub elapsed_ms: u64,
}

/// What the operating system says about time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Milliseconds since 1970-01-01 UTC.
    pub wall_ms: i64,
    /// Milliseconds since `boot` began, time in suspend included.
    pub uptime_ms: u64,
    /// Names the boot that `uptime_ms` counts from.
    pub boot: String,
}

/// Reads time.
pub trait Clock: Send + Sync {
    /// Both clocks, now.
    fn read(&self) -> Reading;
}

/// The persisted part of elapsed time, a row of the catalogue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elapsed {
    /// Milliseconds counted so far.
    pub total_ms: u64,
    /// Uptime at the last count.
    pub uptime_ms: u64,
    /// The boot in which the last count was made.
    pub boot: String,
}

impl Elapsed {
    /// Counts the time from the last count to `reading`. After a reboot only the new uptime
    /// counts: how long the machine was off cannot be known without trusting the wall clock.
    #[must_use]
    pub fn advanced(&self, reading: &Reading) -> Self {
        let passed = if reading.boot == self.boot {
            reading.uptime_ms.saturating_sub(self.uptime_ms)
        } else {
            reading.uptime_ms
        };
        Self {
            total_ms: self.total_ms.saturating_add(passed),
            uptime_ms: if reading.boot == self.boot {
                reading.uptime_ms.max(self.uptime_ms)
            } else {
                reading.uptime_ms
            },
            boot: reading.boot.clone(),
        }
    }

    /// Counts on from `reading`, perhaps on another host: how much of its uptime the store has seen
    /// is not known, so none of it counts.
    #[must_use]
    pub fn moved(&self, reading: &Reading) -> Self {
        Self {
            total_ms: self.total_ms,
            ..Self::starting(reading)
        }
    }

    /// A first count for a new store.
    pub fn starting(reading: &Reading) -> Self {
        Self {
            total_ms: 0,
            uptime_ms: reading.uptime_ms,
            boot: reading.boot.clone(),
        }
    }
}

/// A moment in the future by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// Wall clock, milliseconds since 1970.
    pub wall_ms: i64,
    /// Elapsed time, milliseconds.
    pub elapsed_ms: u64,
}

/// Whether a [`Due`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dueness {
    /// Neither clock has reached it.
    NotYet,
    /// Exactly one clock has: nothing is done, the operator is told.
    ClocksDisagree,
    /// Both have.
    Due,
}

impl Due {
    /// `span_ms` from now.
    pub fn after(now: Now, span_ms: u64) -> Self {
        let wall_span = i64::try_from(span_ms).unwrap_or(i64::MAX);
        Self {
            wall_ms: now.wall_ms.saturating_add(wall_span),
            elapsed_ms: now.elapsed_ms.saturating_add(span_ms),
        }
    }

    /// Milliseconds until the first of the two clocks reaches it.
    pub fn left_ms(&self, now: Now) -> u64 {
        let wall = self.wall_ms.saturating_sub(now.wall_ms);
        u64::try_from(wall)
            .unwrap_or(0)
            .min(self.elapsed_ms.saturating_sub(now.elapsed_ms))
    }

    /// Compares with the present.
    pub fn at(&self, now: Now) -> Dueness {
        match (
            now.wall_ms >= self.wall_ms,
            now.elapsed_ms >= self.elapsed_ms,
        ) {
            (true, true) => Dueness::Due,
            (false, false) => Dueness::NotYet,
            _ => Dueness::ClocksDisagree,
        }
    }
}

/// Milliseconds in a day.
pub const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(uptime_ms: u64, boot: &str) -> Reading {
        Reading {
            wall_ms: 0,
            uptime_ms,
            boot: boot.into(),
        }
    }

    #[test]
    fn elapsed_time_counts_across_restarts_and_ignores_time_switched_off() {
        let start = Elapsed::starting(&reading(1_000, "a"));
        let later = start.advanced(&reading(5_000, "a"));
        assert_eq!(later.total_ms, 4_000);
        let rebooted = later.advanced(&reading(700, "b"));
        assert_eq!(rebooted.total_ms, 4_700);
        let backwards = rebooted.advanced(&reading(100, "b"));
        assert_eq!(backwards.total_ms, 4_700);
        assert_eq!(backwards.advanced(&reading(800, "b")).total_ms, 4_800);
    }

    #[test]
    fn a_jump_of_one_clock_is_not_enough() {
        let now = Now {
            wall_ms: 1_000,
            elapsed_ms: 10,
        };
        let due = Due::after(now, 500);
        assert_eq!(due.at(now), Dueness::NotYet);
        assert_eq!(
            due.at(Now {
                wall_ms: 9_000_000,
                ..now
            }),
            Dueness::ClocksDisagree
        );
        assert_eq!(
            due.at(Now {
                elapsed_ms: 9_000_000,
                ..now
            }),
            Dueness::ClocksDisagree
        );
        assert_eq!(
            due.at(Now {
                wall_ms: 1_500,
                elapsed_ms: 510
            }),
            Dueness::Due
        );
    }
}
