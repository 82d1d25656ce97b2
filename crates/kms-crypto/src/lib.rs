//! Cryptographic primitives of kmsd and kmsfs.
//!
//! Everything the rest of the project may do with a key is here, and nothing else: bytes in, bytes out. This crate
//! must never do I/O, read a clock, log, or print a secret. Its main types are [`Key`], a key of fixed length in
//! locked memory, and what is made from one: [`XtsKey`] and [`GcmKey`] for file content, [`SivKey`] for names,
//! [`seal_message`] for KMS ciphertexts, [`wrap_key`] for keys under keys, [`RecoveryPublicKey`] for the recovery
//! recipient, [`split`] and [`combine`] for shares of its private key, [`asymmetric`] for key pairs and [`hmac`] for MACs
//! that others check.
//!
//! The implementation behind them is chosen at compile time: AWS-LC (feature `aws-lc`, the default), or the crates of
//! the RustCrypto project (`--no-default-features --features rustcrypto`, or `prefer-rustcrypto` where another crate
//! switches the default on). With `rustcrypto` beside `aws-lc`, AWS-LC does the work and the tests compare the two. Key pairs and
//! [`wrap_kwp`] are AWS-LC's alone.
//!
//! What a [`Key`] holds is locked and kept out of core dumps. What the providers make of it, expanded keys, lives on the
//! ordinary heap while the [`XtsKey`], [`GcmKey`] or [`SivKey`] lives, and is zeroised after; [`harden_process`] keeps it
//! out of core dumps, nothing keeps it out of swap. A test searches the memory of the process for both. The second
//! provider moves expanded keys by value, which may leave copies on the stack.
//!
//! ```
//! use kms_crypto::{Key, seal_message, open_message};
//!
//! # fn main() -> Result<(), kms_crypto::CryptoError> {
//! let material = Key::<32>::random()?;
//! let sealed = seal_message(&material, b"context", b"attack at dawn")?;
//! assert_eq!(open_message(&material, b"context", &sealed)?.expose(), b"attack at dawn");
//! assert!(open_message(&material, b"other context", &sealed).is_err());
//! # Ok(())
//! # }
//! ```

#![deny(clippy::indexing_slicing)]

#[cfg(not(any(feature = "aws-lc", feature = "rustcrypto")))]
compile_error!(
    "kms-crypto needs a provider: enable the feature `aws-lc` (default) or `rustcrypto`"
);

#[cfg(feature = "aws-lc")]
pub mod asymmetric;
mod envelope;
mod error;
pub mod fips;
mod gcm;
pub mod hmac;
mod hpke;
mod kdf;
#[cfg(feature = "aws-lc")]
mod kwp;
mod process;
mod provider;
mod random;
mod secret;
mod shares;
mod signature;
mod siv;
#[cfg(test)]
mod tests;
mod text;
mod wrap;
mod xts;

pub use envelope::{MESSAGE_OVERHEAD, open_message, seal_message};
pub use error::{CryptoError, TextError};
pub use gcm::{GCM_NONCE_LEN, GCM_TAG_LEN, GcmKey};
pub use hpke::{RECOVERY_OVERHEAD, RecoveryPrivateKey, RecoveryPublicKey};
pub use kdf::{constant_time_eq, hkdf_key, hkdf_sha256, hmac_sha256, sha256};
#[cfg(feature = "aws-lc")]
pub use kwp::{unwrap_kwp, wrap_kwp};
pub use process::harden_process;
pub use random::{fill_random, random_array};
pub use secret::{Key, LockStatus, SecretBytes, lock_status};
pub use shares::{Combined, MAX_SHARES, RecoveryShare, ShareError, combine, split};
pub use signature::{SIGNATURE_LEN, ed25519_public, ed25519_sign, ed25519_verify, p256_verify};
pub use siv::{SIV_TAG_LEN, SivKey};
pub use wrap::{WRAP_OVERHEAD, unwrap_bytes, unwrap_key, wrap_bytes, wrap_key};
pub use xts::{XTS_UNIT, XtsKey};
