//! How much of everything there may be.

/// Resource quotas. The defaults are AWS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Keys of an account in a Region.
    pub keys: usize,
    /// Aliases of a key.
    pub aliases_per_key: usize,
    /// Tags of a key.
    pub tags_per_key: usize,
    /// Grants of a key.
    pub grants_per_key: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            keys: 100_000,
            aliases_per_key: 50,
            tags_per_key: 50,
            grants_per_key: 50_000,
        }
    }
}
