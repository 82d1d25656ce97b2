//! The kinds of key pairs.

use crate::CryptoError;
use crate::provider::aws_lc::pkey::Kind;

/// A kind of key pair.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PairSpec {
    /// RSA with a modulus of 2,048 bits.
    Rsa2048,
    /// RSA with a modulus of 3,072 bits.
    Rsa3072,
    /// RSA with a modulus of 4,096 bits.
    Rsa4096,
    /// NIST P-256 (secp256r1).
    P256,
    /// NIST P-384 (secp384r1).
    P384,
    /// NIST P-521 (secp521r1).
    P521,
    /// secp256k1 of SEC 2.
    Secp256k1,
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ML-DSA-44 (FIPS 204).
    MlDsa44,
    /// ML-DSA-65 (FIPS 204).
    MlDsa65,
    /// ML-DSA-87 (FIPS 204).
    MlDsa87,
    /// ML-KEM-512 (FIPS 203).
    MlKem512,
    /// ML-KEM-768 (FIPS 203).
    MlKem768,
    /// ML-KEM-1024 (FIPS 203).
    MlKem1024,
    /// SM2 (GB/T 32918).
    Sm2,
}

/// What a kind of key pair can do, and what its encodings look like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Rsa,
    /// Weierstrass curves but SM2's.
    Ec,
    Ed25519,
    MlDsa,
    MlKem,
    Sm2,
}

impl PairSpec {
    /// Every kind of key pair.
    pub const ALL: [Self; 15] = [
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::P256,
        Self::P384,
        Self::P521,
        Self::Secp256k1,
        Self::Ed25519,
        Self::MlDsa44,
        Self::MlDsa65,
        Self::MlDsa87,
        Self::MlKem512,
        Self::MlKem768,
        Self::MlKem1024,
        Self::Sm2,
    ];

    /// Whether this build can make and use such pairs.
    ///
    /// # Errors
    /// [`CryptoError::Unavailable`], which says why not.
    pub fn available(self) -> Result<(), CryptoError> {
        match self {
            #[cfg(not(feature = "sm2"))]
            Self::Sm2 => Err(CryptoError::Unavailable(
                "this build has no SM2 (cargo feature `sm2`)",
            )),
            Self::Sm2 | Self::Secp256k1 if crate::fips::ENABLED => Err(CryptoError::Unavailable(
                "this build is on a FIPS module, which does not approve of this curve",
            )),
            _ => Ok(()),
        }
    }

    /// Bytes of an ML-KEM ciphertext; none for other kinds.
    pub const fn encapsulation_len(self) -> Option<usize> {
        match self {
            Self::MlKem512 => Some(768),
            Self::MlKem768 => Some(1088),
            Self::MlKem1024 => Some(1568),
            _ => None,
        }
    }

    pub(super) const fn family(self) -> Family {
        match self {
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => Family::Rsa,
            Self::P256 | Self::P384 | Self::P521 | Self::Secp256k1 => Family::Ec,
            Self::Ed25519 => Family::Ed25519,
            Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87 => Family::MlDsa,
            Self::MlKem512 | Self::MlKem768 | Self::MlKem1024 => Family::MlKem,
            Self::Sm2 => Family::Sm2,
        }
    }

    /// Bits of an RSA modulus; none for other kinds.
    pub(super) const fn modulus_bits(self) -> Option<u32> {
        match self {
            Self::Rsa2048 => Some(2048),
            Self::Rsa3072 => Some(3072),
            Self::Rsa4096 => Some(4096),
            _ => None,
        }
    }

    /// AWS-LC's name; none for SM2.
    pub(super) const fn kind(self) -> Option<Kind> {
        Some(match self {
            Self::Rsa2048 => Kind::Rsa(2048),
            Self::Rsa3072 => Kind::Rsa(3072),
            Self::Rsa4096 => Kind::Rsa(4096),
            Self::P256 => Kind::P256,
            Self::P384 => Kind::P384,
            Self::P521 => Kind::P521,
            Self::Secp256k1 => Kind::Secp256k1,
            Self::Ed25519 => Kind::Ed25519,
            Self::MlDsa44 => Kind::MlDsa44,
            Self::MlDsa65 => Kind::MlDsa65,
            Self::MlDsa87 => Kind::MlDsa87,
            Self::MlKem512 => Kind::MlKem512,
            Self::MlKem768 => Kind::MlKem768,
            Self::MlKem1024 => Kind::MlKem1024,
            Self::Sm2 => return None,
        })
    }

    /// The content of the `AlgorithmIdentifier` of PKCS#8 and SubjectPublicKeyInfo: there is one way to write each.
    /// RFC 8017 A.1 (RSA), RFC 5480 (curves), RFC 8410 (Ed25519), RFC 9881 (ML-DSA), RFC 9935 (ML-KEM), GB/T 35276 (SM2).
    pub(super) const fn algorithm(self) -> &'static [u8] {
        match self {
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => {
                b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00"
            }
            Self::P256 => {
                b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
            }
            Self::P384 => b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
            Self::P521 => b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23",
            Self::Secp256k1 => b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x0a",
            Self::Ed25519 => b"\x06\x03\x2b\x65\x70",
            Self::MlDsa44 => b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x11",
            Self::MlDsa65 => b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x12",
            Self::MlDsa87 => b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x03\x13",
            Self::MlKem512 => b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x04\x01",
            Self::MlKem768 => b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x04\x02",
            Self::MlKem1024 => b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x04\x03",
            Self::Sm2 => {
                b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x81\x1c\xcf\x55\x01\x82\x2d"
            }
        }
    }

    /// Bytes of the seed of which the private key is made; none for kinds that have none.
    pub(super) const fn seed_len(self) -> Option<usize> {
        match self.family() {
            Family::MlDsa => Some(32),
            Family::MlKem => Some(64),
            _ => None,
        }
    }
}
