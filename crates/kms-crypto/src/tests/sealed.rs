//! Sealed messages and wrapped keys: what is stored for years, so the bytes are fixed here.

use super::{hex, on_every_provider};
use crate::envelope::{open_with, seal_with};
use crate::provider::Provider;
use crate::wrap::{unwrap_with, wrap_with};
use crate::{
    CryptoError, Key, MESSAGE_OVERHEAD, WRAP_OVERHEAD, open_message, seal_message, sha256,
    unwrap_key, wrap_key,
};

on_every_provider!(message_bytes_never_change, wrapped_bytes_never_change);

fn material() -> Key<32> {
    Key::from_slice(&[0x42; 32]).unwrap()
}

/// The digests come from a third implementation (Python's hmac and cryptography): whoever
/// changes the bytes must change the format number as well.
fn message_bytes_never_change<P: Provider>() {
    let sealed = seal_with::<P>(&material(), &[0x17; 16], b"context", b"attack at dawn").unwrap();
    assert_eq!(
        sha256(&[&sealed]).to_vec(),
        hex("76e4fc028353810d7e3b43142f7b42e3ad27d37deaaa5369cbfc627231e9f849")
    );
    assert_eq!(
        open_with::<P>(&material(), b"context", &sealed)
            .unwrap()
            .expose(),
        b"attack at dawn"
    );
}

fn wrapped_bytes_never_change<P: Provider>() {
    let key = Key::<64>::from_slice(&[0x24; 64]).unwrap();
    let wrapped = wrap_with::<P, 64>(&material(), &[0x17; 12], b"file 1", &key).unwrap();
    assert_eq!(
        sha256(&[&wrapped]).to_vec(),
        hex("402ae8d7abe6bc425a98da59109c9d1f731b6b473746c5df80e81e6cbcdefe8a")
    );
    let opened = unwrap_with::<P, 64>(&material(), b"file 1", &wrapped).unwrap();
    assert!(opened.expose() == key.expose());
}

#[test]
fn message_changed_anywhere_does_not_open() {
    for plaintext in [&b""[..], b"x", &[7; 4096]] {
        let sealed = seal_message(&material(), b"aad", plaintext).unwrap();
        assert_eq!(sealed.len(), plaintext.len() + MESSAGE_OVERHEAD);
        assert_eq!(
            open_message(&material(), b"aad", &sealed).unwrap().expose(),
            plaintext
        );
        for at in (0..sealed.len()).step_by(1 + sealed.len() / 100) {
            let mut changed = sealed.clone();
            changed[at] ^= 0x80;
            let refused = open_message(&material(), b"aad", &changed).err();
            assert_eq!(refused, Some(CryptoError::Authentication), "byte {at}");
        }
        let refused = |aad: &[u8], sealed: &[u8]| open_message(&material(), aad, sealed).err();
        assert_eq!(refused(b"", &sealed), Some(CryptoError::Authentication));
        assert_eq!(
            refused(b"aad", &[&sealed[..], &[0]].concat()),
            Some(CryptoError::Authentication)
        );
        for len in 0..MESSAGE_OVERHEAD {
            let bad = CryptoError::Length {
                what: "sealed message",
                got: len,
            };
            assert_eq!(refused(b"aad", &sealed[..len]), Some(bad));
        }
    }
}

#[test]
fn messages_are_fresh_each_time() {
    let seal = || seal_message(&material(), b"", b"same").unwrap();
    let (one, two) = (seal(), seal());
    assert!(one.iter().zip(&two).filter(|(a, b)| a == b).count() < 20);
}

/// GCM alone would let one ciphertext open under two keys; the commitment does not.
#[test]
fn other_material_fails_at_the_commitment() {
    let mut sealed = seal_message(&material(), b"aad", b"text").unwrap();
    let other = Key::from_slice(&[0x43; 32]).unwrap();
    assert_eq!(
        open_message(&other, b"aad", &sealed).err(),
        Some(CryptoError::Authentication)
    );
    sealed[16] ^= 1;
    assert_eq!(
        open_message(&material(), b"aad", &sealed).err(),
        Some(CryptoError::Authentication)
    );
}

#[test]
fn wrapped_key_changed_anywhere_does_not_open() {
    let key = Key::<32>::random().unwrap();
    let wrapped = wrap_key(&material(), b"directory 1", &key).unwrap();
    assert_eq!(wrapped.len(), 32 + WRAP_OVERHEAD);
    assert!(
        unwrap_key::<32>(&material(), b"directory 1", &wrapped)
            .unwrap()
            .expose()
            == key.expose()
    );
    let refused = |aad: &[u8], wrapped: &[u8]| unwrap_key::<32>(&material(), aad, wrapped).err();
    assert_eq!(
        refused(b"directory 2", &wrapped),
        Some(CryptoError::Authentication)
    );
    for at in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[at] ^= 1;
        assert_eq!(
            refused(b"directory 1", &changed),
            Some(CryptoError::Authentication),
            "byte {at}"
        );
    }
    for len in (0..wrapped.len()).chain([wrapped.len() + 1]) {
        let mut changed = wrapped.clone();
        changed.resize(len, 0);
        let bad = CryptoError::Length {
            what: "wrapped key",
            got: len,
        };
        assert_eq!(refused(b"directory 1", &changed), Some(bad));
    }
    assert!(unwrap_key::<16>(&material(), b"directory 1", &wrapped).is_err());
    assert!(unwrap_key::<64>(&material(), b"directory 1", &wrapped).is_err());
}
