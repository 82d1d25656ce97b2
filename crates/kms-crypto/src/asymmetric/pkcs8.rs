//! The outer layers of PKCS#8 and SubjectPublicKeyInfo, which say what kind of key it is.

use zeroize::Zeroizing;

use super::PairSpec;
use super::der::{BIT_STRING, INTEGER, OCTET_STRING, Reader, SEQUENCE, context, element};
use crate::CryptoError;

/// What stands in a PKCS#8 structure.
pub(super) struct PrivateKeyInfo<'a> {
    /// The private key in the form of its own standard.
    pub(super) key: &'a [u8],
    /// The public key that may stand beside it.
    pub(super) public: Option<&'a [u8]>,
}

impl<'a> PrivateKeyInfo<'a> {
    /// Reads `OneAsymmetricKey` of RFC 5958, of either version. Attributes are passed over.
    pub(super) fn read(spec: PairSpec, der: &'a [u8]) -> Result<Self, CryptoError> {
        let malformed = CryptoError::Key("it is not one PKCS#8 private key in DER");
        let body = Reader::only(der, SEQUENCE).ok_or_else(|| malformed.clone())?;
        let mut body = Reader::new(body);
        let mut read = || {
            let version = body.take(INTEGER)?;
            let algorithm = body.take(SEQUENCE)?;
            let key = body.take(OCTET_STRING)?;
            if body.has(context(0, true)) {
                body.take(context(0, true))?;
            }
            let public = match version {
                [0] => None,
                [1] if body.has(context(1, false)) => Some(bits(body.take(context(1, false))?)?),
                [1] => None,
                _ => return None,
            };
            body.is_empty().then_some((algorithm, key, public))
        };
        let (algorithm, key, public) = read().ok_or(malformed)?;
        must_be(spec, algorithm)?;
        Ok(Self { key, public })
    }
}

/// The plainest PKCS#8 structure around a private key: version 1, without attributes and public key.
pub(super) fn private_key_info(spec: PairSpec, key: &[u8]) -> Zeroizing<Vec<u8>> {
    let algorithm = element(SEQUENCE, &[spec.algorithm()]);
    let key = element(OCTET_STRING, &[key]);
    element(SEQUENCE, &[b"\x02\x01\x00", &algorithm, &key])
}

/// The public key in a SubjectPublicKeyInfo, in the form of its own standard.
pub(super) fn read_spki(spec: PairSpec, der: &[u8]) -> Result<&[u8], CryptoError> {
    let malformed = CryptoError::Key("it is not one SubjectPublicKeyInfo in DER");
    let body = Reader::only(der, SEQUENCE).ok_or_else(|| malformed.clone())?;
    let mut body = Reader::new(body);
    let mut read = || {
        let algorithm = body.take(SEQUENCE)?;
        let key = bits(body.take(BIT_STRING)?)?;
        body.is_empty().then_some((algorithm, key))
    };
    let (algorithm, key) = read().ok_or(malformed)?;
    must_be(spec, algorithm)?;
    Ok(key)
}

/// A SubjectPublicKeyInfo.
pub(super) fn spki(spec: PairSpec, public: &[u8]) -> Vec<u8> {
    let algorithm = element(SEQUENCE, &[spec.algorithm()]);
    let key = element(BIT_STRING, &[&[0], public]);
    element(SEQUENCE, &[&algorithm, &key]).to_vec()
}

/// The content of a BIT STRING of whole bytes.
pub(super) fn bits(content: &[u8]) -> Option<&[u8]> {
    match content.split_first()? {
        (0, bytes) => Some(bytes),
        _ => None,
    }
}

/// The seed of an ML-KEM or ML-DSA private key, and the expanded key that may stand beside it: of the three forms of
/// RFC 9935 and RFC 9881 those that have a seed.
pub(super) fn read_seed(spec: PairSpec, key: &[u8]) -> Result<(&[u8], Option<&[u8]>), CryptoError> {
    let form =
        CryptoError::Key("an ML-KEM or ML-DSA private key must be in the form with its seed");
    let (seed, expanded) = match Reader::only(key, context(0, false)) {
        Some(seed) => (seed, None),
        None => {
            let both = Reader::only(key, SEQUENCE).ok_or_else(|| form.clone())?;
            let mut both = Reader::new(both);
            let mut read = || {
                let seed = both.take(OCTET_STRING)?;
                let expanded = both.take(OCTET_STRING)?;
                both.is_empty().then_some((seed, Some(expanded)))
            };
            read().ok_or_else(|| form.clone())?
        }
    };
    if Some(seed.len()) == spec.seed_len() {
        Ok((seed, expanded))
    } else {
        Err(CryptoError::Key("its seed has a wrong length"))
    }
}

fn must_be(spec: PairSpec, algorithm: &[u8]) -> Result<(), CryptoError> {
    if algorithm == spec.algorithm() {
        Ok(())
    } else {
        Err(CryptoError::Key(
            "it is of another algorithm or curve, or names it in another way",
        ))
    }
}
