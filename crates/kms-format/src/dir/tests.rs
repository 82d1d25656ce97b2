use proptest::prelude::*;

use super::*;
use crate::ContentMode;
use crate::names::{self, LOWER_MAX};
use crate::testing::{each_flip, policy, policy_at, policy_of};

fn same_keys(a: &DirKeys, b: &DirKeys) -> bool {
    let stored = |keys| names::encrypt(keys, b"probe", LOWER_MAX).unwrap();
    stored(a) == stored(b)
}

#[test]
fn a_header_comes_back_with_its_keys() {
    let policy = policy();
    let (header, keys) = DirHeader::create(&policy).unwrap();
    let decoded = DirHeader::decode(&header.encode().unwrap()).unwrap();
    assert_eq!(decoded, header);
    assert_eq!(
        (decoded.policy(), decoded.generation(), decoded.lineage()),
        (policy.policy(), 1, 1)
    );
    assert!(same_keys(&keys, &decoded.unlock(&policy).unwrap()));
}

#[test]
fn two_directories_share_nothing() {
    let policy = policy();
    let (a, a_keys) = DirHeader::create(&policy).unwrap();
    let (b, b_keys) = DirHeader::create(&policy).unwrap();
    assert_ne!(a.id(), b.id());
    assert!(!same_keys(&a_keys, &b_keys));
}

#[test]
fn every_flipped_bit_is_detected() {
    let policy = policy();
    let (_, parent) = DirHeader::create_root(&policy).unwrap();
    for (header, _) in [
        DirHeader::create(&policy).unwrap(),
        DirHeader::create_root(&policy).unwrap(),
        DirHeader::create_nested(&policy, &parent).unwrap(),
    ] {
        each_flip(&header.encode().unwrap(), |at, bytes| {
            let result = DirHeader::decode(bytes).and_then(|header| header.unlock(&policy));
            assert!(result.is_err(), "a flip in byte {at} goes unnoticed");
        });
    }
}

#[test]
fn faults_are_named() {
    let (header, _) = DirHeader::create(&policy()).unwrap();
    let good = header.encode().unwrap();
    let fault = |bytes: &[u8]| DirHeader::decode(bytes).unwrap_err();
    for length in 0..DIR_HEADER {
        assert!(matches!(
            fault(&good[..length]),
            FormatError::Truncated { needed: 192, .. }
        ));
    }
    assert!(matches!(
        fault(&[good.as_slice(), &[0]].concat()),
        FormatError::TooLong { .. }
    ));
    assert!(matches!(fault(&[0; DIR_HEADER]), FormatError::Blank { .. }));
    assert!(matches!(
        fault(&[1; DIR_HEADER]),
        FormatError::WrongMagic { .. }
    ));
    let with = |offset: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[offset] = value;
        fault(&bytes)
    };
    assert!(matches!(
        with(8, 2),
        FormatError::UnsupportedFormat { found: 2, .. }
    ));
    assert!(matches!(
        with(10, 3),
        FormatError::BadField {
            field: "kind",
            value: 3,
            ..
        }
    ));
    assert!(matches!(
        with(12, 2),
        FormatError::Reserved { offset: 12, .. }
    ));
    assert!(matches!(
        with(12, 1),
        FormatError::BadField {
            field: "length",
            ..
        }
    ));
    assert!(matches!(
        with(128, 1),
        FormatError::Reserved { offset: 128, .. }
    ));
    assert!(matches!(
        with(191, 1),
        FormatError::Reserved { offset: 160, .. }
    ));
}

#[test]
fn headers_of_others_are_refused() {
    let (header, _) = DirHeader::create(&policy()).unwrap();
    let refusal = |policy| header.unlock(&policy).unwrap_err();
    let xts = ContentMode::Xts;
    assert!(matches!(
        refusal(policy_at(2, 1, xts)),
        FormatError::ForeignPolicy { .. }
    ));
    assert!(matches!(
        refusal(policy_at(1, 2, xts)),
        FormatError::OtherGeneration {
            found: 1,
            expected: 2,
            ..
        }
    ));
    assert!(matches!(
        refusal(policy_of(VolumeId([8; 16]), 1, 1, xts)),
        FormatError::ForeignVolume { .. }
    ));
    // The same ids, but another key behind them.
    let other_key = UnlockedPolicy::derive(
        crate::testing::VOLUME,
        policy().policy(),
        1,
        xts,
        &Key::random().unwrap(),
        &Key::random().unwrap(),
    );
    assert!(matches!(
        refusal(other_key.unwrap()),
        FormatError::TagMismatch { .. }
    ));
}

#[test]
fn the_wrapped_key_of_another_directory_is_refused() {
    let policy = policy();
    let mut a = DirHeader::create(&policy).unwrap().0.encode().unwrap();
    let b = DirHeader::create(&policy).unwrap().0.encode().unwrap();
    a[80..128].copy_from_slice(&b[80..128]);
    let swapped = DirHeader::decode(&a).unwrap();
    assert!(matches!(
        swapped.unlock(&policy),
        Err(FormatError::TagMismatch { .. })
    ));
}

#[test]
fn a_directory_lies_below_its_own_policy_or_where_it_was_admitted() {
    let (policy, other) = (policy(), policy_at(2, 1, ContentMode::Gcm));
    let (root, root_keys) = DirHeader::create_root(&policy).unwrap();
    assert!(root.is_volume_root());
    let (sibling, sibling_keys) = DirHeader::create(&policy).unwrap();
    sibling.check_below(&root, &root_keys).unwrap();

    let (nested, nested_keys) = DirHeader::create_nested(&other, &root_keys).unwrap();
    nested.check_below(&root, &root_keys).unwrap();
    assert!(!nested.is_volume_root() && !sibling.is_volume_root());
    let moved = nested.check_below(&sibling, &sibling_keys).unwrap_err();
    assert!(matches!(moved, FormatError::NotAdmitted { .. }), "{moved}");
    DirHeader::create(&other)
        .unwrap()
        .0
        .check_below(&nested, &nested_keys)
        .unwrap();

    // An attacker's directory, under a policy whose key they hold: neither as inherited nor as a root.
    let (inherited, _) = DirHeader::create(&other).unwrap();
    let refused = inherited.check_below(&root, &root_keys).unwrap_err();
    assert!(
        matches!(refused, FormatError::ForeignPolicy { .. }),
        "{refused}"
    );
    let (forged, _) = DirHeader::create_nested(&other, &sibling_keys).unwrap();
    assert!(forged.check_below(&root, &root_keys).is_err());
    assert!(
        DirHeader::create_root(&other)
            .unwrap()
            .0
            .check_below(&root, &root_keys)
            .is_err()
    );
}

#[test]
fn rewrap_keeps_the_directory_key_and_the_admission() {
    let (old, new) = (
        policy_at(2, 1, ContentMode::Xts),
        policy_at(2, 2, ContentMode::Xts),
    );
    let (root, root_keys) = DirHeader::create_root(&policy()).unwrap();
    let (mut header, keys) = DirHeader::create_nested(&old, &root_keys).unwrap();
    header.rewrap(&new, &keys).unwrap();
    let header = DirHeader::decode(&header.encode().unwrap()).unwrap();
    assert_eq!((header.generation(), header.lineage()), (2, 1));
    assert!(same_keys(&keys, &header.unlock(&new).unwrap()));
    assert!(matches!(
        header.unlock(&old),
        Err(FormatError::OtherGeneration { .. })
    ));
    header.check_below(&root, &root_keys).unwrap();
    let mut header = header;
    assert!(matches!(
        header.rewrap(&policy(), &keys),
        Err(FormatError::ForeignPolicy { .. })
    ));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), good: bool) {
        let policy = policy();
        let mut bytes = bytes;
        if good {
            // A valid start leads further in.
            let header = DirHeader::create(&policy).unwrap().0.encode().unwrap();
            for (to, from) in bytes.iter_mut().zip(&header[..64]) {
                *to = *from;
            }
            bytes.resize(DIR_HEADER, 0);
        }
        if let Ok(header) = DirHeader::decode(&bytes) {
            prop_assert_eq!(header.encode().unwrap().to_vec(), bytes);
            prop_assert!(header.unlock(&policy).is_err());
        }
    }
}

#[test]
fn a_directory_that_is_reencrypted_has_both_keys() {
    let old = policy();
    let (root, root_keys) = DirHeader::create_root(&old).unwrap();
    let (header, keys) = DirHeader::create(&old).unwrap();
    let encrypt = |keys: &DirKeys| crate::names::encrypt(keys, b"name", 255).unwrap();
    let before = encrypt(&keys);
    let new = policy_at(1, 2, ContentMode::Xts);
    let (both, both_keys) = header.begin_reencryption(&new, &keys).unwrap();
    assert_eq!((both.id(), both.lineage()), (header.id(), 2));
    let bytes = both.encode().unwrap();
    assert_eq!(bytes.len(), LONGEST);
    let read = DirHeader::decode(&bytes).unwrap();
    assert_eq!(read, both);
    assert!(read.reencrypting());
    let read_keys = read.unlock(&new).unwrap();
    read.check_below(&root, &root_keys).unwrap();
    let after = encrypt(&read_keys);
    assert_ne!(after.stored(), before.stored());
    assert_eq!(encrypt(read_keys.former().unwrap()), before);
    for name in [&before, &after] {
        let plain = crate::names::decrypt(&both_keys, name.stored().as_bytes(), None);
        assert_eq!(plain.unwrap(), b"name");
    }
    // No bit of it can be altered, and neither part alone will do.
    each_flip(&bytes, |at, bytes| {
        let result = DirHeader::decode(bytes).and_then(|header| header.unlock(&new));
        assert!(result.is_err(), "byte {at}");
    });
    for length in [0, 191, 192, 193, 255] {
        let error = DirHeader::decode(&bytes[..length]).unwrap_err();
        let torn = matches!(error, FormatError::Truncated { .. });
        assert_eq!(torn, length < 192, "{length}: {error}");
    }
    assert!(DirHeader::decode(&[&bytes[..], &[0]].concat()).is_err());
    let (other, _) = header.begin_reencryption(&new, &keys).unwrap();
    let mixed = [&bytes[..192], &other.encode().unwrap()[192..]].concat();
    let mixed = DirHeader::decode(&mixed).unwrap();
    assert!(matches!(
        mixed.unlock(&new),
        Err(FormatError::TagMismatch { .. })
    ));
    // It cannot begin twice, and it ends with one key.
    assert!(both.begin_reencryption(&new, &both_keys).is_err());
    let (last, last_keys) = read.end_reencryption(&new, &read_keys).unwrap();
    let last = DirHeader::decode(&last.encode().unwrap()).unwrap();
    assert_eq!(encrypt(&last.unlock(&new).unwrap()), after);
    assert_eq!(encrypt(&last_keys), after);
    assert!(last_keys.former().is_none());
    assert!(last.end_reencryption(&new, &last_keys).is_err());
}

#[test]
fn a_nested_policy_is_admitted_by_either_key_until_it_is_sealed_again() {
    let (root, root_keys) = DirHeader::create_root(&policy()).unwrap();
    let other = policy_at(2, 1, ContentMode::Xts);
    let (mut nested, nested_keys) = DirHeader::create_nested(&other, &root_keys).unwrap();
    let (both, both_keys) = root.begin_reencryption(&policy(), &root_keys).unwrap();
    nested.check_below(&both, &both_keys).unwrap();
    let (last, last_keys) = both.end_reencryption(&policy(), &both_keys).unwrap();
    assert!(!nested.is_sealed_by(&last_keys).unwrap());
    assert!(matches!(
        nested.check_below(&last, &last_keys),
        Err(FormatError::NotAdmitted { .. })
    ));
    nested.seal_again(&other, &nested_keys, &both_keys).unwrap();
    let nested = DirHeader::decode(&nested.encode().unwrap()).unwrap();
    nested.unlock(&other).unwrap();
    nested.check_below(&last, &last_keys).unwrap();
    nested.check_below(&both, &both_keys).unwrap();
    assert!(nested.check_below(&root, &root_keys).is_err());
}

#[test]
fn one_that_was_destroyed_keeps_its_place_and_opens_under_no_key() {
    let (mut root, root_keys) = DirHeader::create_root(&policy()).unwrap();
    let other = policy_at(2, 1, ContentMode::Xts);
    let (mut nested, _) = DirHeader::create_nested(&other, &root_keys).unwrap();
    let (both, both_keys) = root.begin_reencryption(&policy(), &root_keys).unwrap();
    let (last, last_keys) = both.end_reencryption(&policy(), &both_keys).unwrap();
    nested.seal_destroyed(&last_keys).unwrap();
    let nested = DirHeader::decode(&nested.encode().unwrap()).unwrap();
    nested.check_below(&last, &last_keys).unwrap();
    assert!(nested.check_below(&root, &root_keys).is_err());
    assert!(nested.unlock(&other).is_err());
    // What is no nested policy is not made one.
    assert!(root.seal_destroyed(&last_keys).is_err());
    let (mut plain, _) = DirHeader::create(&policy()).unwrap();
    assert!(plain.seal_destroyed(&last_keys).is_err());
}
