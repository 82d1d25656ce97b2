//! `[limits]`: how much there may be, and how fast it may be asked for.

use kms_core::kms::Quotas;
use serde::Deserialize;

use super::{ConfigError, require};
use crate::rates::RateLimits;

/// `[limits]`. Rates are requests of one principal in a second; 0: any number.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Use of symmetric and HMAC keys, random numbers.
    pub symmetric: u32,
    /// Signing, verifying, key agreement, encapsulation.
    pub asymmetric: u32,
    /// New keys, new material and pairs of data keys.
    pub key_making: u32,
    /// Whatever else changes something.
    pub management: u32,
    /// Descriptions and lists.
    pub reading: u32,
    /// Seconds of a rate that may come at once.
    pub burst_seconds: u32,
    /// Whether the rates hold for root as well.
    pub root: bool,
    /// Whether they hold for services, and for users on whose behalf services ask.
    pub services: bool,
    /// Keys of an account in a Region.
    pub keys: u64,
    /// Aliases of a key.
    pub aliases_per_key: u64,
    /// Tags of a key.
    pub tags_per_key: u64,
    /// Grants of a key.
    pub grants_per_key: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let rates = RateLimits::default();
        let quotas = Quotas::default();
        Self {
            symmetric: rates.symmetric,
            asymmetric: rates.asymmetric,
            key_making: rates.key_making,
            management: rates.management,
            reading: rates.reading,
            burst_seconds: rates.burst_seconds,
            root: rates.root,
            services: rates.services,
            keys: quotas.keys as u64,
            aliases_per_key: quotas.aliases_per_key as u64,
            tags_per_key: quotas.tags_per_key as u64,
            grants_per_key: quotas.grants_per_key as u64,
        }
    }
}

impl Limits {
    /// How fast.
    pub fn rates(&self) -> RateLimits {
        RateLimits {
            symmetric: self.symmetric,
            asymmetric: self.asymmetric,
            key_making: self.key_making,
            management: self.management,
            reading: self.reading,
            burst_seconds: self.burst_seconds,
            root: self.root,
            services: self.services,
        }
    }

    /// How much.
    pub fn quotas(&self) -> Quotas {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Quotas {
            keys: size(self.keys),
            aliases_per_key: size(self.aliases_per_key),
            tags_per_key: size(self.tags_per_key),
            grants_per_key: size(self.grants_per_key),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let burst = self.burst_seconds;
        require((1..=3600).contains(&burst), "limits.burst_seconds", || {
            format!("is {burst}; must be 1 to 3600 seconds")
        })?;
        // Beyond these nobody has measured that kmsd starts in good time.
        let sizes = [
            ("limits.keys", self.keys, 1_000_000),
            ("limits.aliases_per_key", self.aliases_per_key, 1000),
            ("limits.tags_per_key", self.tags_per_key, 1000),
            ("limits.grants_per_key", self.grants_per_key, 1_000_000),
        ];
        for (key, value, most) in sizes {
            require((1..=most).contains(&value), key, || {
                format!("is {value}; must be 1 to {most}")
            })?;
        }
        Ok(())
    }
}
