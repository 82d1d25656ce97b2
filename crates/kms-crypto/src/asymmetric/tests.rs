//! Every kind of key pair: round trips, published vectors, and DER from strangers.

mod hostile;
mod nist;
mod round_trip;
mod standards;
mod wycheproof;

use super::{Digest, EncryptionScheme, PairSpec, SignatureScheme, SignedMessage};

/// Kinds whose making takes no noticeable time.
const FAST: [PairSpec; 13] = [
    PairSpec::Rsa2048,
    PairSpec::P256,
    PairSpec::P384,
    PairSpec::P521,
    PairSpec::Secp256k1,
    PairSpec::Ed25519,
    PairSpec::MlDsa44,
    PairSpec::MlDsa65,
    PairSpec::MlDsa87,
    PairSpec::MlKem512,
    PairSpec::MlKem768,
    PairSpec::MlKem1024,
    PairSpec::Sm2,
];

/// Every signature scheme.
const SIGNATURE_SCHEMES: [SignatureScheme; 13] = [
    SignatureScheme::RsaPss(Digest::Sha256),
    SignatureScheme::RsaPss(Digest::Sha384),
    SignatureScheme::RsaPss(Digest::Sha512),
    SignatureScheme::RsaPkcs1(Digest::Sha256),
    SignatureScheme::RsaPkcs1(Digest::Sha384),
    SignatureScheme::RsaPkcs1(Digest::Sha512),
    SignatureScheme::Ecdsa(Digest::Sha256),
    SignatureScheme::Ecdsa(Digest::Sha384),
    SignatureScheme::Ecdsa(Digest::Sha512),
    SignatureScheme::Ed25519,
    SignatureScheme::Ed25519Ph,
    SignatureScheme::MlDsa,
    SignatureScheme::Sm2,
];

/// Every encryption scheme.
const ENCRYPTION_SCHEMES: [EncryptionScheme; 3] = [
    EncryptionScheme::RsaOaepSha1,
    EncryptionScheme::RsaOaepSha256,
    EncryptionScheme::Sm2,
];

/// The signature schemes that go with a kind of pair.
fn signature_schemes(spec: PairSpec) -> impl Iterator<Item = SignatureScheme> {
    SIGNATURE_SCHEMES
        .into_iter()
        .filter(move |scheme| scheme.must_go_with(spec).is_ok())
}

/// A form of a message whose bytes have the right length.
fn messages(scheme: SignatureScheme, bytes: &[u8; 64]) -> Vec<SignedMessage<'_>> {
    let mut forms = vec![SignedMessage::Raw(bytes)];
    if let Some(len) = scheme.digest_len() {
        forms.push(SignedMessage::Digest(&bytes[..len]));
    }
    if scheme == SignatureScheme::MlDsa {
        forms.push(SignedMessage::ExternalMu(bytes));
    }
    forms
}

/// PKCS#8 around a seed.
fn seeded(spec: PairSpec, seed: &[u8]) -> Vec<u8> {
    let key = super::der::element(super::der::context(0, false), &[seed]);
    super::pkcs8::private_key_info(spec, &key).to_vec()
}

/// PKCS#8 around a seed and the expanded key.
fn seeded_and_expanded(spec: PairSpec, seed: &[u8], expanded: &[u8]) -> Vec<u8> {
    use super::der::{OCTET_STRING, SEQUENCE, element};
    let (seed, expanded) = (
        element(OCTET_STRING, &[seed]),
        element(OCTET_STRING, &[expanded]),
    );
    let key = element(SEQUENCE, &[&seed, &expanded]);
    super::pkcs8::private_key_info(spec, &key).to_vec()
}

/// SubjectPublicKeyInfo around a public key in the form of its own standard.
fn spki(spec: PairSpec, public: &[u8]) -> Vec<u8> {
    use super::der::{BIT_STRING, SEQUENCE, element};
    let algorithm = element(SEQUENCE, &[spec.algorithm()]);
    let key = element(BIT_STRING, &[&[0], public]);
    element(SEQUENCE, &[&algorithm, &key]).to_vec()
}
