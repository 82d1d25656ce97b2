use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;

fn bytes(text: &str) -> [u8; 32] {
    HEXLOWER
        .decode(text.as_bytes())
        .unwrap()
        .try_into()
        .unwrap()
}

fn key(seed: [u8; 32]) -> RecoveryPrivateKey {
    RecoveryPrivateKey::from_key(Key::from_slice(&seed).unwrap())
}

fn text(share: &RecoveryShare) -> String {
    String::from_utf8(share.to_text().expose().to_vec()).unwrap()
}

/// The same share with one bit of its value changed and a checksum that is right again.
fn forged(share: &RecoveryShare, bit: usize) -> RecoveryShare {
    let mut value = *share.value.expose();
    value[bit / 8] ^= 1 << (bit % 8);
    RecoveryShare {
        common: share.common,
        number: share.number,
        value: Key::from_slice(&value).unwrap(),
    }
}

#[test]
fn the_field_is_a_field() {
    for a in 0..=255u8 {
        assert_eq!(multiply(a, 1), a);
        assert_eq!(multiply(a, invert(a)), u8::from(a != 0), "{a}");
        for b in 0..=255u8 {
            assert_eq!(multiply(a, b), multiply(b, a));
            let both = multiply(a, b) ^ multiply(a, 0x35);
            assert_eq!(multiply(a, b ^ 0x35), both, "{a} {b}");
        }
    }
    // FIPS 197, section 4.2.
    assert_eq!(multiply(0x57, 0x83), 0xc1);
    assert_eq!(multiply(0x57, 0x13), 0xfe);
}

/// `vectors.json` was computed by `vectors.py`, in another way.
#[test]
fn shares_are_those_of_an_independent_implementation() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let mut compared = 0;
    for vector in vectors.as_array().unwrap() {
        let rows = vector["polynomial"].as_array().unwrap();
        let polynomial: Vec<Key<32>> = rows
            .iter()
            .map(|row| Key::from_slice(&bytes(row.as_str().unwrap())).unwrap())
            .collect();
        let secret = RecoveryPrivateKey::from_key(polynomial[0].duplicate().unwrap());
        let common = Common {
            threshold: polynomial.len() as u8,
            total: vector["total"].as_u64().unwrap() as u8,
            set: [1, 2, 3, 4],
            check: check(&secret).unwrap(),
        };
        let shares: Vec<RecoveryShare> = vector["shares"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(number, value)| {
                let number: u8 = number.parse().unwrap();
                let value = bytes(value.as_str().unwrap());
                assert_eq!(evaluate(&polynomial, number).unwrap().expose(), &value);
                compared += 1;
                RecoveryShare {
                    common,
                    number,
                    value: Key::from_slice(&value).unwrap(),
                }
            })
            .collect();
        let combined = combine(&shares.iter().rev().collect::<Vec<_>>()).unwrap();
        assert_eq!(combined.key.key().expose(), secret.key().expose());
        assert!(combined.altered.is_empty());
    }
    assert_eq!(compared, 2 + 3 + 5 + 5 + 20 + 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_threshold_of_the_shares_gives_the_key_in_any_order(
        seed: [u8; 32],
        (threshold, total, order) in (2..=8u8).prop_flat_map(|threshold| (Just(threshold), threshold..=12))
            .prop_flat_map(|(threshold, total)| {
                let order = Just((0..usize::from(total)).collect::<Vec<_>>()).prop_shuffle();
                (Just(threshold), Just(total), order)
            }),
    ) {
        let shares = split(&key(seed), threshold, total).unwrap();
        // By way of paper.
        let read: Vec<RecoveryShare> =
            shares.iter().map(|share| RecoveryShare::from_text(&text(share)).unwrap()).collect();
        let some: Vec<&RecoveryShare> =
            order.iter().take(threshold.into()).map(|at| &read[*at]).collect();
        let combined = combine(&some).unwrap();
        prop_assert_eq!(combined.key.key().expose(), &seed);
        let fewer = combine(&some[1..]).err();
        let missing = ShareError::Missing { needed: threshold, got: some.len() - 1 };
        prop_assert_eq!(fewer, Some(missing));
    }

    /// With `threshold - 1` shares every key is possible, and by exactly one polynomial: for each candidate there is one value of
    /// a further share that makes it the key.
    #[test]
    fn one_share_too_few_fits_every_key(seed: [u8; 32], candidate: [u8; 32], threshold in 2..=6u8) {
        let shares = split(&key(seed), threshold, threshold).unwrap();
        let known = &shares[1..];
        // The candidate as the value at 0, with the known shares: a polynomial of the right degree.
        let zero = RecoveryShare {
            common: shares[0].common,
            number: 0,
            value: Key::from_slice(&candidate).unwrap(),
        };
        let through: Vec<&RecoveryShare> = known.iter().chain([&zero]).collect();
        let other = RecoveryShare {
            common: shares[0].common,
            number: 1,
            value: interpolate(&through, 1).unwrap(),
        };
        let again: Vec<&RecoveryShare> = known.iter().chain([&other]).collect();
        let found = interpolate(&again, 0).unwrap();
        prop_assert_eq!(found.expose(), &candidate);
    }

    #[test]
    fn an_altered_share_never_gives_a_key_and_is_named_when_there_are_enough(
        seed: [u8; 32], victim in 0..5usize, bit in 0..256usize,
    ) {
        let mut shares = split(&key(seed), 3, 5).unwrap();
        shares[victim] = forged(&shares[victim], bit);
        let all: Vec<&RecoveryShare> = shares.iter().collect();
        let combined = combine(&all).unwrap();
        prop_assert_eq!(combined.key.key().expose(), &seed);
        prop_assert_eq!(combined.altered, vec![victim]);
        let three: Vec<&RecoveryShare> = (0..3).map(|step| all[(victim + step) % 5]).collect();
        prop_assert_eq!(combine(&three).err(), Some(ShareError::Altered));
    }
}

/// X25519 ignores the lowest three bits of a private key: an alteration that changes only these gives a key that works, and is
/// found all the same.
#[test]
fn an_alteration_that_the_public_key_does_not_show_is_found() {
    let mut shares = split(&key([7; 32]), 3, 5).unwrap();
    let public = key([7; 32]).public_key().unwrap();
    let genuine = *shares[1].value.expose();
    let mut tried = 0;
    for change in 1..=255 {
        let mut value = genuine;
        value[0] ^= change;
        shares[1].value = Key::from_slice(&value).unwrap();
        let all: Vec<&RecoveryShare> = shares.iter().collect();
        let found = RecoveryPrivateKey::from_key(interpolate(&all[..3], 0).unwrap());
        if found.public_key().unwrap() != public {
            continue;
        }
        tried += 1;
        assert_eq!(combine(&all[..3]).err(), Some(ShareError::Altered));
        let combined = combine(&all).unwrap();
        assert_eq!(combined.key.key().expose(), &[7; 32]);
        assert_eq!(combined.altered, vec![1]);
    }
    assert_eq!(tried, 7);
}

/// A single share of many splittings of one key looks like random bytes: each value of a byte comes up as often as any other.
/// 65,536 bytes, 256 values: chi-squared with 255 degrees of freedom is below 380 but once in a million times.
#[test]
fn the_bytes_of_a_share_are_uniform() {
    let key = key([0; 32]);
    let mut counts = [0u32; 256];
    for _ in 0..2048 {
        let shares = split(&key, 2, 2).unwrap();
        shares[0]
            .value
            .expose()
            .iter()
            .for_each(|byte| counts[usize::from(*byte)] += 1);
    }
    let expected = 2048.0 * 32.0 / 256.0;
    let squared: f64 = counts
        .iter()
        .map(|count| (f64::from(*count) - expected).powi(2) / expected)
        .sum();
    assert!(squared < 380.0, "chi-squared is {squared}");
}

#[test]
fn every_single_wrong_character_is_found() {
    let shares = split(&key([9; 32]), 2, 3).unwrap();
    let good = text(&shares[0]);
    assert_eq!(good.len(), "KMSD-SHARE-1".len() + 10 * 9, "{good}");
    for at in "KMSD-SHARE-1-".len()..good.len() {
        let wrong = if good[at..].starts_with('0') {
            "Z"
        } else {
            "0"
        };
        if good[at..].starts_with('-') {
            continue;
        }
        let mut changed = good.clone();
        changed.replace_range(at..=at, wrong);
        let error = RecoveryShare::from_text(&changed).err();
        assert_eq!(error, Some(TextError::Checksum.into()), "at {at}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let shares = |k, n| split(&key([1; 32]), k, n);
    for (threshold, total) in [(0, 0), (0, 3), (1, 3), (4, 3), (255, 254)] {
        let error = shares(threshold, total).err();
        let expected = ShareError::Threshold {
            threshold,
            shares: total,
        };
        assert_eq!(error, Some(expected));
    }
    assert_eq!(shares(255, 255).unwrap().len(), 255);
    let none = ShareError::Missing { needed: 2, got: 0 };
    assert_eq!(combine(&[]).err(), Some(none));

    let (a, b) = (shares(2, 3).unwrap(), shares(2, 3).unwrap());
    let other = ShareError::OtherSet { position: 1 };
    assert_eq!(combine(&[&a[0], &b[1]]).err(), Some(other));
    let first = ShareError::OtherSet { position: 0 };
    assert_eq!(combine(&[&b[0], &a[0], &a[1]]).err(), Some(first));
    let twice = ShareError::Repeated {
        position: 1,
        number: 3,
    };
    assert_eq!(combine(&[&a[2], &a[2]]).err(), Some(twice));

    // A share that says 1 of 3, number 4.
    let mut odd = RecoveryShare::from_text(&text(&a[0])).unwrap();
    odd.number = 4;
    let read = RecoveryShare::from_text(&text(&odd)).err();
    assert_eq!(read, Some(TextError::Contradiction.into()));
    // The key itself is not a share.
    let whole = key([1; 32]).to_text();
    let whole = std::str::from_utf8(whole.expose()).unwrap();
    assert!(RecoveryShare::from_text(whole).is_err());
}
