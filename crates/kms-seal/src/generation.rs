//! Store generation against counter: is this the newest store that the host wrote?

use crate::SealError;

/// What the generation of a store says beside the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationCheck {
    /// Equal: serve.
    Current,
    /// The store is one ahead, a crash lay between store and counter: increment, then serve.
    IncrementMissing,
}

/// Compares the generation that an authenticated store carries with the counter's value. The writer stores
/// generation g + 1 durably first, increments the counter then, and answers last.
///
/// # Errors
/// [`SealError::RolledBack`] if the store is older, or more than one ahead (counter of another enrolment).
pub const fn check_generation(store: u64, counter: u64) -> Result<GenerationCheck, SealError> {
    if store == counter {
        return Ok(GenerationCheck::Current);
    }
    match store.checked_sub(counter) {
        Some(1) => Ok(GenerationCheck::IncrementMissing),
        Some(_) | None => Err(SealError::RolledBack { store, counter }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_and_one_ahead_pass() {
        assert_eq!(check_generation(7, 7).unwrap(), GenerationCheck::Current);
        assert_eq!(
            check_generation(8, 7).unwrap(),
            GenerationCheck::IncrementMissing
        );
        for (store, counter) in [(6, 7), (9, 7), (0, u64::MAX), (u64::MAX, 0)] {
            assert!(matches!(
                check_generation(store, counter),
                Err(SealError::RolledBack { .. })
            ));
        }
    }
}
