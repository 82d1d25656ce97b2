//! What an operator sees of a sealer.

use serde::Serialize;

/// State of the TPM or of the key file, from [`RootSealer::status`](crate::RootSealer::status).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SealStatus {
    /// `tpm` or `software`.
    pub kind: &'static str,
    /// The device, or the path of the key file.
    pub device: String,
    /// The TPM maker's four letters.
    pub manufacturer: Option<String>,
    /// Firmware version, as the maker counts.
    pub firmware: Option<String>,
    /// Handle of the storage root key, hex; `None` before the first enrolment.
    pub srk_handle: Option<String>,
    /// Its name, hex: what an enrolment pins.
    pub srk_name: Option<String>,
    /// State of the protection against guessing.
    pub lockout: Option<Lockout>,
    /// Values of the configured registers (SHA-256 bank).
    pub pcrs: Vec<PcrValue>,
    /// Whether the firmware measured the boot at all; `None` for the software sealer.
    pub measured: Option<bool>,
    /// Whether the owner hierarchy has a password.
    pub owner_auth_set: Option<bool>,
    /// What the sealing does not protect against here, one sentence each.
    pub warnings: Vec<String>,
}

/// Dictionary-attack protection of a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lockout {
    /// Failures counted now.
    pub failures: u32,
    /// Failures at which the TPM locks.
    pub max_failures: u32,
    /// Seconds after which one failure is forgiven.
    pub interval_seconds: u32,
    /// Attempts that kmsd would still make: it stops one short of the lock.
    pub tries_left: u32,
    /// Upper bound of the seconds until an attempt is free again; 0 while tries are left.
    pub wait_seconds: u64,
}

/// One platform configuration register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PcrValue {
    /// Its number.
    pub index: u32,
    /// Its value in hex.
    pub value: String,
}
