//! Access keys.

use serde::{Deserialize, Serialize};

use super::Wrapped;

/// An access key: requests that it signed act as its principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKeyRow {
    /// `AKIA` and 16 characters.
    pub id: String,
    /// `arn:aws:iam::ACCOUNT:user/NAME`, `…:role/NAME` or `…:root`.
    pub principal: String,
    /// 32 bytes; the base64 of the first 30 is the secret.
    pub secret: Wrapped,
    /// Whether its requests are accepted.
    pub enabled: bool,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// ARN of the principal that made it.
    pub creator: String,
    /// Wall clock, milliseconds.
    pub created_ms: i64,
    /// When a request that it signed was accepted last, as far as that has been written down: wall clock, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_ms: Option<i64>,
}
