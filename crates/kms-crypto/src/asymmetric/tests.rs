//! Every kind of key pair: round trips, published vectors, and DER from strangers.

mod round_trip;

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
