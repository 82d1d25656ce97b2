//! The two providers against each other, on random input of random length.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::array;
use crate::provider::aws_lc::AwsLc;
use crate::provider::rustcrypto::RustCrypto;
use crate::provider::{Direction, Gcm, Provider, Siv, Xts};
use crate::{Key, envelope, hpke, kdf, wrap};

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=max)
}

fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(bytes(100), 0..6)
}

fn refs(parts: &[Vec<u8>]) -> Vec<&[u8]> {
    parts.iter().map(Vec::as_slice).collect()
}

fn key64() -> impl Strategy<Value = [u8; 64]> {
    vec(any::<u8>(), 64).prop_map(|bytes| array(&bytes))
}

/// What each provider makes of each direction, in place and out of place, is the same.
fn xts_agrees(key: &[u8; 64], first: u128, unit: usize, data: &[u8]) -> TestCaseResult {
    let aws = <AwsLc as Provider>::Xts::new(key).unwrap();
    let rust = <RustCrypto as Provider>::Xts::new(key).unwrap();
    for way in [Direction::Encrypt, Direction::Decrypt] {
        let (mut a, mut b) = (data.to_vec(), data.to_vec());
        aws.in_place(way, first, unit, &mut a).unwrap();
        rust.in_place(way, first, unit, &mut b).unwrap();
        prop_assert_eq!(&a, &b);
        let (mut c, mut d) = (vec![0; data.len()], vec![0; data.len()]);
        aws.copy(way, first, unit, data, &mut c).unwrap();
        rust.copy(way, first, unit, data, &mut d).unwrap();
        prop_assert_eq!(&a, &c);
        prop_assert_eq!(&b, &d);
        let back = if way == Direction::Encrypt {
            Direction::Decrypt
        } else {
            Direction::Encrypt
        };
        rust.in_place(back, first, unit, &mut a).unwrap();
        prop_assert_eq!(&a, data);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn xts_runs_of_units(key in key64(), first: u64, blocks in 1_usize..=1100, seed: u8) {
        let data: Vec<u8> = (0..blocks * 16).map(|at| (at as u8).wrapping_mul(31) ^ seed).collect();
        xts_agrees(&key, first.into(), 4096, &data)?;
    }

    #[test]
    fn xts_one_unit_of_any_length(key in key64(), tweak: u128, data in vec(any::<u8>(), 16..=5000)) {
        xts_agrees(&key, tweak, data.len(), &data)?;
    }

    #[test]
    fn gcm(key: [u8; 32], nonce: [u8; 12], aad in bytes(200), data in bytes(9000)) {
        let aws = <AwsLc as Provider>::Gcm::new(&key).unwrap();
        let rust = <RustCrypto as Provider>::Gcm::new(&key).unwrap();
        let (mut a, mut b) = (data.clone(), data.clone());
        let tag = aws.seal(&nonce, &aad, &mut a).unwrap();
        prop_assert_eq!(tag, rust.seal(&nonce, &aad, &mut b).unwrap());
        prop_assert_eq!(&a, &b);
        aws.open(&nonce, &aad, &mut b, &tag).unwrap();
        rust.open(&nonce, &aad, &mut a, &tag).unwrap();
        prop_assert_eq!(&a, &data);
        prop_assert_eq!(&b, &data);
    }

    #[test]
    fn siv(key in key64(), headers in parts(), data in bytes(600)) {
        let aws = <AwsLc as Provider>::Siv::new(&key).unwrap();
        let rust = <RustCrypto as Provider>::Siv::new(&key).unwrap();
        let headers = refs(&headers);
        let (mut a, mut b) = (data.clone(), data.clone());
        let iv = aws.seal(&headers, &mut a).unwrap();
        prop_assert_eq!(iv, rust.seal(&headers, &mut b).unwrap());
        prop_assert_eq!(&a, &b);
        aws.open(&headers, &mut b, &iv).unwrap();
        rust.open(&headers, &mut a, &iv).unwrap();
        prop_assert_eq!(&a, &data);
        prop_assert_eq!(&b, &data);
    }

    #[test]
    fn hashes_and_derivations(salt in bytes(200), ikm in parts(), info in parts(), len in 0_usize..=8160) {
        let (ikm, info) = (refs(&ikm), refs(&info));
        prop_assert_eq!(AwsLc::sha256(&ikm), RustCrypto::sha256(&ikm));
        prop_assert_eq!(AwsLc::hmac_sha256(&salt, &ikm), RustCrypto::hmac_sha256(&salt, &ikm));
        let (mut a, mut b) = (vec![0; len], vec![0; len]);
        kdf::hkdf_with::<AwsLc>(&salt, &ikm, &info, &mut a).unwrap();
        kdf::hkdf_with::<RustCrypto>(&salt, &ikm, &info, &mut b).unwrap();
        prop_assert_eq!(a, b);
    }

    #[test]
    fn x25519(private: [u8; 32], peer: [u8; 32]) {
        prop_assert_eq!(AwsLc::x25519_public(&private), RustCrypto::x25519_public(&private));
        let (mut a, mut b) = ([0; 32], [0; 32]);
        let (one, two) = (AwsLc::x25519(&private, &peer, &mut a), RustCrypto::x25519(&private, &peer, &mut b));
        prop_assert_eq!((one, a), (two, b));
    }

    #[test]
    fn messages(material: [u8; 32], nonce: [u8; 16], aad in bytes(300), plaintext in bytes(4096)) {
        let material = Key::from_slice(&material).unwrap();
        let sealed = envelope::seal_with::<AwsLc>(&material, &nonce, &aad, &plaintext).unwrap();
        let other = envelope::seal_with::<RustCrypto>(&material, &nonce, &aad, &plaintext).unwrap();
        prop_assert_eq!(&sealed, &other);
        let a = envelope::open_with::<AwsLc>(&material, &aad, &sealed).unwrap();
        let b = envelope::open_with::<RustCrypto>(&material, &aad, &sealed).unwrap();
        prop_assert_eq!(a.expose(), &plaintext);
        prop_assert_eq!(b.expose(), &plaintext);
    }

    #[test]
    fn wrapped_keys(kek: [u8; 32], nonce: [u8; 12], aad in bytes(100), key in key64()) {
        let (kek, key) = (Key::from_slice(&kek).unwrap(), Key::<64>::from_slice(&key).unwrap());
        let wrapped = wrap::wrap_with::<AwsLc, 64>(&kek, &nonce, &aad, &key).unwrap();
        let other = wrap::wrap_with::<RustCrypto, 64>(&kek, &nonce, &aad, &key).unwrap();
        prop_assert_eq!(&wrapped, &other);
        let opened = wrap::unwrap_with::<RustCrypto, 64>(&kek, &aad, &wrapped).unwrap();
        prop_assert!(opened.expose() == key.expose());
    }

    #[test]
    fn recovery(private: [u8; 32], ephemeral: [u8; 32], info in bytes(50), aad in bytes(50), text in bytes(500)) {
        let (private, ephemeral) = (Key::from_slice(&private).unwrap(), Key::from_slice(&ephemeral).unwrap());
        let public = AwsLc::x25519_public(private.expose()).unwrap();
        let sealed = hpke::seal_with::<AwsLc>(&public, &ephemeral, &info, &aad, &text).unwrap();
        let other = hpke::seal_with::<RustCrypto>(&public, &ephemeral, &info, &aad, &text).unwrap();
        prop_assert_eq!(&sealed, &other);
        let a = hpke::open_with::<AwsLc>(&private, &info, &aad, &sealed).unwrap();
        let b = hpke::open_with::<RustCrypto>(&private, &info, &aad, &sealed).unwrap();
        prop_assert_eq!(a.expose(), &text);
        prop_assert_eq!(b.expose(), &text);
    }
}
