//! What can go wrong in this crate.

/// A failure of a cryptographic operation. Never contains key or message bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CryptoError {
    /// The system's random number generator failed; nothing that needs randomness can go on.
    #[error("the system's random number generator failed")]
    Random,
    /// Memory for a key could not be mapped.
    #[error("cannot map memory for keys: {0}")]
    Memory(rustix::io::Errno),
    /// The process could not be protected against dumps.
    #[error("cannot switch off core dumps of this process ({what}): {source}")]
    Harden {
        /// The setting that was refused.
        what: &'static str,
        /// The answer of the kernel.
        source: rustix::io::Errno,
    },
    /// An input has a length that the operation does not accept.
    #[error("{what}: length of {got} bytes is not valid")]
    Length {
        /// What has the wrong length.
        what: &'static str,
        /// Its length in bytes.
        got: usize,
    },
    /// Both halves of an XTS key are equal, which IEEE 1619 and NIST SP 800-38E forbid.
    #[error("the two halves of an AES-XTS key must differ")]
    EqualXtsHalves,
    /// The data was not made with this key and this associated data, or was altered since.
    #[error("authentication failed: wrong key, wrong associated data, or the data was altered")]
    Authentication,
    /// A public key that no honest party can have made (a point of small order).
    #[error("the public key is not valid")]
    PublicKey,
    /// A private key in PKCS#8, or a public key in SPKI, that is not valid, or not of the kind that was asked for.
    #[error("the key is not valid: {0}")]
    Key(&'static str),
    /// An algorithm, or a form of a message, that does not go with this kind of key.
    #[error("{0} does not go with this kind of key")]
    Scheme(&'static str),
    /// An algorithm that this build has not.
    #[error("{0}")]
    Unavailable(&'static str),
    /// A key written as text could not be read.
    #[error("{0}")]
    Text(#[from] TextError),
    /// The provider refused an operation whose inputs were valid, for example for want of memory.
    #[error("the cryptographic provider failed in {0}")]
    Provider(&'static str),
}

/// Why a key written as text could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The text does not begin with the expected word.
    #[error("this is not the expected kind of key: it must begin with {0}")]
    Prefix(&'static str),
    /// A character that cannot occur.
    #[error("the key contains a character that cannot be part of it, after {0} good ones")]
    Character(usize),
    /// Characters are missing or too many.
    #[error("the key must have {expected} characters after its first word, not {got}")]
    Length {
        /// How many characters there must be.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// All characters are possible, but the checksum says that at least one is wrong.
    #[error("the key's checksum does not match: at least one character is wrong")]
    Checksum,
    /// The checksum is right, and yet no program wrote this: numbers in it contradict each other.
    #[error("the numbers in it contradict each other: it was not written by this program")]
    Contradiction,
}
