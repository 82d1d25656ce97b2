//! Requests by operation and outcome, and how long they took.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kms_api::{ErrorCode, Request};

/// Upper bounds of the latency histogram, in microseconds.
const BOUNDS: [u64; 17] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];
/// Outcomes: success, then the error codes.
const OUTCOMES: usize = ErrorCode::ALL.len() + 1;
/// What a request is counted as that names no operation of ours.
const OTHER: &str = "other";

/// Where the counters of an operation are.
static PLACES: LazyLock<HashMap<&'static str, usize>> = LazyLock::new(|| {
    let operations = Request::OPERATIONS.iter().enumerate();
    operations.map(|(at, (_, name))| (*name, at)).collect()
});

/// Counters of requests.
#[derive(Debug)]
pub(crate) struct Requests {
    /// One for each operation, and one for requests that name none.
    operations: Vec<Operation>,
}

#[derive(Debug)]
struct Operation {
    outcomes: [AtomicU64; OUTCOMES],
    /// Requests that took at most the bound of the same place, and not that of the one before.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Default for Operation {
    fn default() -> Self {
        Self {
            outcomes: [const { AtomicU64::new(0) }; OUTCOMES],
            buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            micros: AtomicU64::new(0),
        }
    }
}

impl Default for Requests {
    fn default() -> Self {
        let mut operations = Vec::new();
        operations.resize_with(Request::OPERATIONS.len() + 1, Operation::default);
        Self { operations }
    }
}

/// What was counted of one operation.
pub(super) struct Counted {
    pub(super) operation: &'static str,
    /// By `ok` or the error code; those that came up.
    pub(super) outcomes: Vec<(&'static str, u64)>,
    /// Cumulative, by upper bound in seconds.
    pub(super) buckets: Vec<(f64, u64)>,
    /// All of them.
    pub(super) count: u64,
    /// Sum of their times in seconds.
    pub(super) seconds: f64,
}

impl Requests {
    /// Counts a request that was answered.
    pub(crate) fn answered(&self, operation: &str, outcome: Option<ErrorCode>, took: Duration) {
        let at = PLACES.get(operation).copied();
        let at = at.unwrap_or_else(|| self.operations.len().saturating_sub(1));
        let Some(counters) = self.operations.get(at) else {
            return;
        };
        let outcome = outcome.map_or(0, |code| code as usize + 1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().take_while(|bound| micros > **bound).count();
        let cells = [counters.outcomes.get(outcome), counters.buckets.get(bucket)];
        for cell in cells.into_iter().flatten() {
            cell.fetch_add(1, Ordering::Relaxed);
        }
        counters.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted of the operations that were called.
    pub(super) fn counted(&self) -> impl Iterator<Item = Counted> {
        let names = Request::OPERATIONS.iter().map(|(_, name)| *name);
        let operations = names.chain([OTHER]).zip(&self.operations);
        operations.filter_map(|(operation, counters)| counters.counted(operation))
    }
}

impl Operation {
    fn counted(&self, operation: &'static str) -> Option<Counted> {
        let names = ["ok"]
            .into_iter()
            .chain(ErrorCode::ALL.iter().map(|code| code.as_str()));
        let outcomes: Vec<(&str, u64)> = names
            .zip(&self.outcomes)
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        if outcomes.is_empty() {
            return None;
        }
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BOUNDS.len());
        for (at, cell) in self.buckets.iter().enumerate() {
            count += cell.load(Ordering::Relaxed);
            if let Some(bound) = BOUNDS.get(at) {
                buckets.push((*bound as f64 / 1e6, count));
            }
        }
        Some(Counted {
            operation,
            outcomes,
            buckets,
            count,
            seconds: self.micros.load(Ordering::Relaxed) as f64 / 1e6,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_in_the_order_of_their_list() {
        for (at, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(*code as usize, at, "{code:?}");
        }
    }

    #[test]
    fn requests_are_counted_by_operation_outcome_and_time() {
        let requests = Requests::default();
        requests.answered("Decrypt", None, Duration::from_micros(25));
        requests.answered("Decrypt", None, Duration::from_micros(26));
        requests.answered(
            "Decrypt",
            Some(ErrorCode::AccessDenied),
            Duration::from_secs(60),
        );
        requests.answered("Format", Some(ErrorCode::UnknownOperation), Duration::ZERO);
        let counted: Vec<Counted> = requests.counted().collect();
        let names: Vec<&str> = counted.iter().map(|one| one.operation).collect();
        assert_eq!(names, ["Decrypt", OTHER]);
        let decrypt = &counted[0];
        assert_eq!(decrypt.outcomes, [("ok", 2), ("AccessDeniedException", 1)]);
        assert_eq!(decrypt.count, 3);
        assert_eq!(
            decrypt.buckets[0],
            (25e-6, 1),
            "a bound belongs to its bucket"
        );
        assert_eq!(decrypt.buckets[1], (50e-6, 2));
        assert_eq!(decrypt.buckets.last(), Some(&(10.0, 2)));
        assert!((decrypt.seconds - 60.000_051).abs() < 1e-9);
        assert_eq!(counted[1].outcomes, [("UnknownOperationException", 1)]);
    }
}
