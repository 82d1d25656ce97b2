use proptest::prelude::*;

use super::*;
use crate::testing::{each_flip, policy_at};
use crate::{ContentMode, FileHeader, FileKeys};

fn keys() -> FileKeys {
    FileHeader::create(&policy_at(1, 1, ContentMode::Gcm))
        .unwrap()
        .1
}

fn sealed(keys: &FileKeys, unit: u64, content: &[u8]) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    keys.gcm(unit)
        .unwrap()
        .seal(unit, content, &mut page)
        .unwrap();
    page
}

#[test]
fn units_of_every_length_come_back() {
    let keys = keys();
    for (unit, length) in [
        (0, 1),
        (1, 15),
        (4095, 4063),
        (4096, 4064),
        (u64::MAX, 4064),
    ] {
        let plain = vec![0xa5; length];
        let mut page = sealed(&keys, unit, &plain);
        let opened = keys.gcm(unit).unwrap().open(unit, &mut page).unwrap();
        assert_eq!(opened, Unit::Data(length));
        assert_eq!(&content(&page)[..length], plain);
        assert!(content(&page)[length..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn every_flipped_bit_is_detected() {
    let keys = keys();
    let range = keys.gcm(3).unwrap();
    each_flip(&sealed(&keys, 3, b"content"), |at, page| {
        let mut page: [u8; PAGE] = page.try_into().unwrap();
        assert!(range.open(3, &mut page).is_err(), "byte {at}");
    });
}

#[test]
fn pages_do_not_open_elsewhere() {
    let (keys, other) = (keys(), keys());
    let page = sealed(&keys, 5, b"content");
    let open = |keys: &FileKeys, unit| keys.gcm(unit).unwrap().open(unit, &mut page.clone());
    assert!(matches!(
        open(&keys, 6),
        Err(FormatError::TagMismatch { .. })
    ));
    assert!(matches!(
        open(&keys, 5 + RANGE),
        Err(FormatError::TagMismatch { .. })
    ));
    assert!(matches!(
        open(&other, 5),
        Err(FormatError::TagMismatch { .. })
    ));
    assert!(open(&keys, 5).is_ok());
    let wrong_range = keys.gcm(0).unwrap().open(RANGE, &mut page.clone());
    assert!(matches!(wrong_range, Err(FormatError::Misuse(_))));
}

#[test]
fn contents_that_do_not_fit_are_refused() {
    let range = keys().gcm(0).unwrap();
    let mut page = [0; PAGE];
    for length in [0, CONTENT + 1] {
        let refused = range.seal(0, &vec![1; length], &mut page);
        assert!(matches!(
            refused,
            Err(FormatError::DoesNotFit { limit: 4064, .. })
        ));
    }
    assert_eq!(range.open(0, &mut page).unwrap(), Unit::Zero);
}

#[test]
fn hole_lists_have_a_limit() {
    let mut list = HoleList::default();
    for at in 0..HOLES_MAX as u64 {
        assert!(list.insert(at * 3..at * 3 + 1));
    }
    let full = list.clone();
    assert!(!list.insert(10_000..10_001), "one too many");
    assert!(!list.remove(10_000..10_000) || list == full);
    assert_eq!(list, full);
    assert!(list.insert(1..3), "joins two holes");
    assert_eq!(list.holes().len(), HOLES_MAX - 1);
    assert_eq!(HoleList::decode(&list.encode()).unwrap(), list);
}

#[test]
fn malformed_hole_lists_are_refused() {
    let bytes = |numbers: &[u64]| {
        numbers
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect::<Vec<_>>()
    };
    for (name, list) in [
        ("half an entry", bytes(&[1])),
        ("odd bytes", vec![0; 17]),
        ("empty hole", bytes(&[1, 0])),
        ("touching", bytes(&[1, 1, 2, 1])),
        ("overlapping", bytes(&[1, 5, 3, 5])),
        ("descending", bytes(&[9, 1, 3, 1])),
        ("overflow", bytes(&[u64::MAX, 2])),
    ] {
        assert!(
            matches!(HoleList::decode(&list), Err(FormatError::BadField { .. })),
            "{name}"
        );
    }
}

proptest! {
    #[test]
    fn hole_lists_behave_like_sets(
        steps in prop::collection::vec((any::<bool>(), 0..60_u64, 0..12_u64), 0..40),
    ) {
        let mut list = HoleList::default();
        let mut set = std::collections::BTreeSet::new();
        for (add, start, count) in steps {
            let units = start..start + count;
            if add {
                prop_assert!(list.insert(units.clone()));
                set.extend(units);
            } else {
                prop_assert!(list.remove(units.clone()));
                set.retain(|unit| !units.contains(unit));
            }
            for unit in 0..80 {
                prop_assert_eq!(list.contains(unit), set.contains(&unit), "unit {}", unit);
            }
            prop_assert_eq!(&HoleList::decode(&list.encode()).unwrap(), &list);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(page in prop::collection::vec(any::<u8>(), PAGE), unit: u64) {
        let mut page: [u8; PAGE] = page.try_into().unwrap();
        prop_assert!(keys().gcm(unit).unwrap().open(unit, &mut page).is_err());
        let _ = HoleList::decode(&page);
    }
}
