//! What can be done with a key pair, by algorithm.

use super::PairSpec;
use super::spec::Family;
use crate::CryptoError;
use crate::provider::aws_lc::pkey::{Md, Padding, Signing};

/// A digest of SHA-2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Digest {
    /// Bytes of the digest.
    pub const fn output_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    const fn md(self) -> Md {
        match self {
            Self::Sha256 => Md::Sha256,
            Self::Sha384 => Md::Sha384,
            Self::Sha512 => Md::Sha512,
        }
    }
}

/// A way to sign.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SignatureScheme {
    /// RSASSA-PSS (RFC 8017) with MGF1 over the same digest and a salt as long as it.
    RsaPss(Digest),
    /// RSASSA-PKCS1-v1_5 (RFC 8017).
    RsaPkcs1(Digest),
    /// ECDSA (FIPS 186-5); signatures are DER. Each curve goes with the digest of its size.
    Ecdsa(Digest),
    /// Ed25519 (RFC 8032), over messages only.
    Ed25519,
    /// Ed25519ph (RFC 8032) without a context: over SHA-512 of the message.
    Ed25519Ph,
    /// ML-DSA (FIPS 204) without a context, hedged.
    MlDsa,
    /// SM2DSA (GB/T 32918.2) with SM3 and the default identity; signatures are DER.
    Sm2,
}

impl SignatureScheme {
    /// Bytes that [`SignedMessage::Digest`] must have; none where there is no such form.
    pub const fn digest_len(self) -> Option<usize> {
        match self {
            Self::RsaPss(digest) | Self::RsaPkcs1(digest) | Self::Ecdsa(digest) => {
                Some(digest.output_len())
            }
            Self::Ed25519Ph => Some(64),
            Self::Sm2 => Some(32),
            Self::Ed25519 | Self::MlDsa => None,
        }
    }

    /// # Errors
    /// [`CryptoError::Scheme`].
    pub(super) fn must_go_with(self, spec: PairSpec) -> Result<(), CryptoError> {
        let goes = match self {
            Self::RsaPss(_) | Self::RsaPkcs1(_) => spec.family() == Family::Rsa,
            Self::Ecdsa(digest) => match spec {
                PairSpec::P256 | PairSpec::Secp256k1 => digest == Digest::Sha256,
                PairSpec::P384 => digest == Digest::Sha384,
                PairSpec::P521 => digest == Digest::Sha512,
                _ => false,
            },
            Self::Ed25519 | Self::Ed25519Ph => spec == PairSpec::Ed25519,
            Self::MlDsa => spec.family() == Family::MlDsa,
            Self::Sm2 => spec == PairSpec::Sm2,
        };
        if goes {
            Ok(())
        } else {
            Err(CryptoError::Scheme("this signature algorithm"))
        }
    }

    pub(super) const fn signing(self) -> Signing {
        match self {
            Self::RsaPss(digest) => Signing {
                padding: Some(Padding::Pss),
                md: Some(digest.md()),
            },
            Self::RsaPkcs1(digest) => Signing {
                padding: Some(Padding::Pkcs1),
                md: Some(digest.md()),
            },
            Self::Ecdsa(digest) => Signing {
                padding: None,
                md: Some(digest.md()),
            },
            Self::Ed25519 | Self::Ed25519Ph | Self::MlDsa | Self::Sm2 => Signing {
                padding: None,
                md: None,
            },
        }
    }
}

/// What is signed.
#[derive(Clone, Copy)]
pub enum SignedMessage<'a> {
    /// The message itself.
    Raw(&'a [u8]),
    /// Its digest, of [`SignatureScheme::digest_len`] bytes.
    Digest(&'a [u8]),
    /// For ML-DSA: mu of FIPS 204 (64 bytes), which covers the public key, the context and the message.
    ExternalMu(&'a [u8]),
}

/// Bytes of mu.
pub(super) const MU_LEN: usize = 64;

/// A message in the form in which it is signed, with its length checked.
pub(super) enum Prepared<'a> {
    Message(&'a [u8]),
    /// A digest, or mu.
    Hashed(&'a [u8]),
}

impl<'a> Prepared<'a> {
    /// The SHA-512 digest.
    pub(super) fn sha512(&self) -> Result<[u8; 64], CryptoError> {
        match self {
            Self::Message(message) => Ok(crate::provider::aws_lc::sha512(message)),
            Self::Hashed(digest) => (*digest).try_into().map_err(|_| CryptoError::Length {
                what: "digest",
                got: digest.len(),
            }),
        }
    }

    pub(super) fn new(
        scheme: SignatureScheme,
        message: SignedMessage<'a>,
    ) -> Result<Self, CryptoError> {
        let must_be = |what, bytes: &'a [u8], len| {
            if bytes.len() == len {
                Ok(Self::Hashed(bytes))
            } else {
                Err(CryptoError::Length {
                    what,
                    got: bytes.len(),
                })
            }
        };
        match message {
            SignedMessage::Raw(message) => Ok(Self::Message(message)),
            SignedMessage::Digest(digest) => match scheme.digest_len() {
                Some(len) => must_be("digest", digest, len),
                None => Err(CryptoError::Scheme("a digest in place of the message")),
            },
            SignedMessage::ExternalMu(mu) if scheme == SignatureScheme::MlDsa => {
                must_be("mu", mu, MU_LEN)
            }
            SignedMessage::ExternalMu(_) => Err(CryptoError::Scheme("mu in place of the message")),
        }
    }
}

/// A way to encrypt with a public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EncryptionScheme {
    /// RSAES-OAEP (RFC 8017) with SHA-1, MGF1 with SHA-1 and an empty label.
    RsaOaepSha1,
    /// RSAES-OAEP (RFC 8017) with SHA-256, MGF1 with SHA-256 and an empty label.
    RsaOaepSha256,
    /// SM2PKE (GB/T 32918.4) with SM3; ciphertexts are DER (GB/T 35276).
    Sm2,
}

impl EncryptionScheme {
    /// The most bytes that can be encrypted, as AWS KMS has it; none if the algorithm does not go with the key.
    pub const fn max_plaintext(self, spec: PairSpec) -> Option<usize> {
        match (self, spec.modulus_bits()) {
            // RFC 8017, 7.1.1: the modulus less two digests and two bytes.
            (Self::RsaOaepSha1, Some(bits)) => Some(bits as usize / 8 - 2 * 20 - 2),
            (Self::RsaOaepSha256, Some(bits)) => Some(bits as usize / 8 - 2 * 32 - 2),
            (Self::Sm2, None) if matches!(spec, PairSpec::Sm2) => Some(1024),
            _ => None,
        }
    }

    /// # Errors
    /// [`CryptoError::Scheme`].
    pub(super) const fn must_go_with(self, spec: PairSpec) -> Result<usize, CryptoError> {
        match self.max_plaintext(spec) {
            Some(max) => Ok(max),
            None => Err(CryptoError::Scheme("this encryption algorithm")),
        }
    }

    /// The digest of RSAES-OAEP.
    pub(super) const fn oaep(self) -> Option<Md> {
        match self {
            Self::RsaOaepSha1 => Some(Md::Sha1),
            Self::RsaOaepSha256 => Some(Md::Sha256),
            Self::Sm2 => None,
        }
    }
}
