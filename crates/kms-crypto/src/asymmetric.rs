//! Key pairs: RSA, elliptic curves, Ed25519, ML-DSA, ML-KEM and SM2, to sign, to encrypt, to agree on a secret and to
//! encapsulate one.
//!
//! A [`KeyPair`] holds the private key, a [`PublicKey`] what anyone may know; both are read from DER, which may come from
//! a stranger: PKCS#8 (RFC 5958) and SubjectPublicKeyInfo (RFC 5280). They are parsed strictly: the algorithm must be the
//! one that was asked for, byte for byte, a public key inside must belong to the private key, and nothing may follow.
//!
//! Only AWS-LC computes these (and for SM2, which it has not, the crate `sm2` of RustCrypto); there is no second provider.
//! AWS-LC keeps the private key on its own heap, not in locked memory, and zeroises it when the key is dropped.
//! The crate `sm2` moves numbers by value, which may leave copies on the stack.
//!
//! ```
//! use kms_crypto::asymmetric::{Digest, KeyPair, PairSpec, PublicKey, SignatureScheme, SignedMessage};
//!
//! # fn main() -> Result<(), kms_crypto::CryptoError> {
//! let pair = KeyPair::generate(PairSpec::P256)?;
//! let (scheme, message) = (SignatureScheme::Ecdsa(Digest::Sha256), SignedMessage::Raw(b"attack at dawn"));
//! let signature = pair.sign(scheme, message)?;
//! let public = PublicKey::from_spki(PairSpec::P256, pair.public_spki())?;
//! public.verify(scheme, message, &signature)?;
//! # Ok(())
//! # }
//! ```

mod der;
mod pair;
mod pkcs8;
mod public;
mod scheme;
#[cfg(feature = "sm2")]
mod sm2;
mod spec;
#[cfg(test)]
mod tests;

pub use pair::KeyPair;
pub use public::PublicKey;
pub use scheme::{Digest, EncryptionScheme, SignatureScheme, SignedMessage};
pub use spec::PairSpec;
