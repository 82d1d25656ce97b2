//! HPKE: the vector of RFC 9180's test set for our suite, and damaged input.

use super::{array, hex, on_every_provider};
use crate::hpke::{open_with, seal_with};
use crate::provider::Provider;
use crate::{CryptoError, Key, RECOVERY_OVERHEAD, RecoveryPrivateKey, RecoveryPublicKey};

on_every_provider!(rfc_9180_vector);

#[derive(serde::Deserialize)]
#[allow(non_snake_case, reason = "the names of RFC 9180")]
struct Vector {
    mode: u8,
    kem_id: u16,
    kdf_id: u16,
    aead_id: u16,
    info: String,
    skRm: String,
    pkRm: String,
    skEm: String,
    enc: String,
    encryption: Encryption,
}

#[derive(serde::Deserialize)]
struct Encryption {
    aad: String,
    ct: String,
    pt: String,
}

fn rfc_9180_vector<P: Provider>() {
    let json = include_str!("../../tests/vectors/hpke-base-x25519-sha256-aes256gcm.json");
    let vector: Vector = serde_json::from_str(json).unwrap();
    assert_eq!(
        (vector.mode, vector.kem_id, vector.kdf_id, vector.aead_id),
        (0, 0x20, 1, 2)
    );
    let (info, aad, plaintext) = (
        hex(&vector.info),
        hex(&vector.encryption.aad),
        hex(&vector.encryption.pt),
    );
    let ephemeral = Key::from_slice(&hex(&vector.skEm)).unwrap();
    let recipient = array(&hex(&vector.pkRm));
    let sealed = seal_with::<P>(&recipient, &ephemeral, &info, &aad, &plaintext).unwrap();
    assert_eq!(
        sealed,
        [hex(&vector.enc), hex(&vector.encryption.ct)].concat()
    );

    let private = Key::from_slice(&hex(&vector.skRm)).unwrap();
    assert_eq!(P::x25519_public(private.expose()).unwrap(), recipient);
    assert_eq!(
        open_with::<P>(&private, &info, &aad, &sealed)
            .unwrap()
            .expose(),
        plaintext
    );
}

#[test]
fn anything_changed_does_not_open() {
    let private = RecoveryPrivateKey::generate().unwrap();
    let public = private.public_key().unwrap();
    let sealed = public.seal(b"info", b"aad", b"domain key").unwrap();
    assert_eq!(sealed.len(), 10 + RECOVERY_OVERHEAD);
    assert_eq!(
        private.open(b"info", b"aad", &sealed).unwrap().expose(),
        b"domain key"
    );
    assert_ne!(
        sealed,
        public.seal(b"info", b"aad", b"domain key").unwrap(),
        "each seal is fresh"
    );

    let refused = |info: &[u8], aad: &[u8], sealed: &[u8]| private.open(info, aad, sealed).err();
    assert_eq!(
        refused(b"info ", b"aad", &sealed),
        Some(CryptoError::Authentication)
    );
    assert_eq!(
        refused(b"info", b"aad ", &sealed),
        Some(CryptoError::Authentication)
    );
    let other = RecoveryPrivateKey::generate().unwrap();
    assert_eq!(
        other.open(b"info", b"aad", &sealed).err(),
        Some(CryptoError::Authentication)
    );
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 4;
        assert_eq!(
            refused(b"info", b"aad", &changed),
            Some(CryptoError::Authentication),
            "byte {at}"
        );
    }
    for len in 0..RECOVERY_OVERHEAD {
        let bad = CryptoError::Length {
            what: "message to the recovery key",
            got: len,
        };
        assert_eq!(refused(b"info", b"aad", &sealed[..len]), Some(bad));
    }
}

#[test]
fn points_of_small_order_are_refused() {
    let public = RecoveryPublicKey::from_bytes([0; 32]);
    assert_eq!(public.seal(b"", b"", b"x"), Err(CryptoError::PublicKey));
    let private = RecoveryPrivateKey::generate().unwrap();
    let refused = private.open(b"", b"", &[0; RECOVERY_OVERHEAD + 1]).err();
    assert_eq!(refused, Some(CryptoError::PublicKey));
}
