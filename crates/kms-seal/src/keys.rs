//! Every derivation under the root secret, in one place.
//!
//! ```text
//! root secret (sealed, 32 bytes)
//!  ├─ mac       authenticates the enrolment record
//!  ├─ nv        authorisation value of the counters and of the epoch slots
//!  ├─ log       Ed25519 key that signs checkpoints of the audit log
//!  ├─ signer    P-256 key that approves PCR states
//!  └─ host KEK  = HKDF(root ‖ epoch secret ‖ credential part)
//! credential ─ stretched ─┬─ auth   what the TPM asks for
//!                         └─ part   what goes into the host KEK
//! ```
//!
//! The credential enters the host KEK outside the TPM as well, so a broken TPM alone yields nothing.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use kms_crypto::{Key, hkdf_key, hmac_sha256};

use crate::{Credential, Profile, SealError, enrollment::Stretch, hex::HexArray};

/// OWASP's figure of 2023 for PBKDF2-HMAC-SHA-256; some 0.2 s.
const PIN_ITERATIONS: u32 = 600_000;
/// A record that asks for more was edited to make the daemon hang.
const MAX_ITERATIONS: u32 = 10_000_000;
const SALT: &[u8] = b"kms-seal v0";

/// The key that wraps the store's domain keys on this host.
pub struct HostKek(Key<32>);

impl HostKek {
    /// The key.
    #[must_use]
    pub const fn key(&self) -> &Key<32> {
        &self.0
    }

    /// The key, moved out.
    #[must_use]
    pub fn into_key(self) -> Key<32> {
        self.0
    }
}

impl std::fmt::Debug for HostKek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostKek(..)")
    }
}

/// What stays in memory after an unseal, for the counter and for epoch changes.
pub(crate) struct RootKeys {
    pub(crate) mac: Key<32>,
    pub(crate) nv: Key<32>,
    pub(crate) log: Key<32>,
}

impl RootKeys {
    pub(crate) fn derive(root: &Key<32>, id: &[u8; 16]) -> Result<Self, SealError> {
        Ok(Self {
            mac: derive(root, b"record mac", id)?,
            nv: derive(root, b"nv auth", id)?,
            log: derive(root, b"audit log signer", id)?,
        })
    }
}

/// A credential after stretching.
pub(crate) struct Secrets {
    /// Authorisation value of the sealed object.
    pub(crate) auth: Key<32>,
    part: Key<32>,
}

impl Secrets {
    pub(crate) fn derive(credential: &Credential, stretch: &Stretch) -> Result<Self, SealError> {
        let salt = &stretch.salt.0;
        let stretched: Key<32> = match NonZeroU32::new(stretch.iterations) {
            None => hkdf_key(salt, &[credential.expose()], &[b"credential"])?,
            Some(iterations) if iterations.get() > MAX_ITERATIONS => {
                return Err(SealError::DamagedRecord {
                    reason: "it asks for too many iterations",
                });
            }
            Some(iterations) => {
                let mut out = [0; 32];
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
                pbkdf2::derive(algorithm, iterations, salt, credential.expose(), &mut out);
                Key::take(&mut out)?
            }
        };
        Ok(Self {
            auth: derive(&stretched, b"tpm auth", salt)?,
            part: derive(&stretched, b"kek part", salt)?,
        })
    }
}

/// New stretching parameters for `profile`.
pub(crate) fn new_stretch(profile: Profile) -> Result<Stretch, SealError> {
    let iterations = match profile {
        Profile::Machine => 0,
        Profile::Pin => PIN_ITERATIONS,
    };
    Ok(Stretch {
        salt: HexArray(kms_crypto::random_array()?),
        iterations,
    })
}

/// The host KEK and its confirmation value.
pub(crate) fn host_kek(
    id: &[u8; 16],
    root: &Key<32>,
    epoch: &Key<32>,
    secrets: &Secrets,
) -> Result<(HostKek, HexArray<32>), SealError> {
    let parts: [&[u8]; 3] = [root.expose(), epoch.expose(), secrets.part.expose()];
    let kek: Key<32> = hkdf_key(SALT, &parts, &[b"host kek", id])?;
    let check: Key<32> = derive(&kek, b"kek check", id)?;
    let check = HexArray(*check.expose());
    Ok((HostKek(kek), check))
}

/// A 32-byte key under `key`, apart from all others by `label`.
pub(crate) fn derive(key: &Key<32>, label: &[u8], context: &[u8]) -> Result<Key<32>, SealError> {
    Ok(hkdf_key(SALT, &[key.expose()], &[label, context])?)
}

pub(crate) fn mac(key: &Key<32>, message: &[u8]) -> Result<[u8; 32], SealError> {
    Ok(hmac_sha256(key.expose(), &[message]))
}
