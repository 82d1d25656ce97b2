use proptest::prelude::*;

use super::*;
use crate::ContentMode;
use crate::testing::{each_flip, policy, policy_at};

fn parts(sealed: &SealedTarget) -> (&str, Option<&[u8]>) {
    match sealed {
        SealedTarget::Inline(stored) => (stored, None),
        SealedTarget::Recorded { stored, record, .. } => (stored, Some(record)),
    }
}

fn open(stored: &[u8], record: Option<&[u8]>) -> Result<Vec<u8>, FormatError> {
    StoredTarget::parse(stored)?.open(&policy(), record)
}

#[test]
fn targets_of_every_length_come_back() {
    let policy = policy();
    for length in 1..=TARGET_MAX {
        let target: Vec<u8> = (0..length).map(|at| (at % 255) as u8 + 1).collect();
        let sealed = seal(&policy, &target).unwrap();
        let (stored, record) = parts(&sealed);
        assert!(stored.len() <= 1000, "XFS holds 1023 characters");
        assert_eq!(open(stored.as_bytes(), record).unwrap(), target);
        let parsed = StoredTarget::parse(stored.as_bytes()).unwrap();
        assert_eq!(parsed.length(), length);
        let from_size = plain_length(stored.len() as u64);
        assert_eq!(from_size, (length <= INLINE_MAX).then_some(length as u64));
        assert_eq!(record.is_some(), length > INLINE_MAX);
        if let SealedTarget::Recorded { name, .. } = &sealed {
            assert_eq!(parsed.record_name().as_ref(), Some(name));
        }
    }
}

#[test]
fn equal_targets_look_different() {
    let policy = policy();
    assert_ne!(
        seal(&policy, b"../secret").unwrap(),
        seal(&policy, b"../secret").unwrap()
    );
}

#[test]
fn impossible_targets_are_refused() {
    let policy = policy();
    let refusal = |target: &[u8]| match seal(&policy, target) {
        Err(FormatError::Name(error)) => error,
        other => unreachable!("{other:?}"),
    };
    assert_eq!(refusal(b""), NameError::Empty);
    assert_eq!(refusal(b"a\0b"), NameError::Invalid);
    assert_eq!(refusal(&[b'x'; 4096]), NameError::TooLong(4096));
    assert_eq!(refusal(&[b'x'; 70_000]), NameError::TooLong(70_000));
}

#[test]
fn every_flipped_bit_is_detected() {
    for length in [1, 20, INLINE_MAX + 1, 2000] {
        let sealed = seal(&policy(), &vec![b't'; length]).unwrap();
        let (stored, record) = parts(&sealed);
        each_flip(stored.as_bytes(), |at, stored| {
            assert!(open(stored, record).is_err(), "byte {at} of {length}");
        });
        if let Some(record) = record {
            each_flip(record, |at, record| {
                assert!(
                    open(stored.as_bytes(), Some(record)).is_err(),
                    "record byte {at}"
                );
            });
            assert!(matches!(
                open(stored.as_bytes(), None),
                Err(FormatError::Truncated { .. })
            ));
        }
    }
}

#[test]
fn targets_of_others_are_refused() {
    let xts = ContentMode::Xts;
    let sealed = seal(&policy(), b"target").unwrap();
    let parsed = StoredTarget::parse(parts(&sealed).0.as_bytes()).unwrap();
    assert_eq!(parsed.generation(), 1);
    assert!(matches!(
        parsed.open(&policy_at(2, 1, xts), None),
        Err(FormatError::TagMismatch { .. })
    ));
    assert!(matches!(
        parsed.open(&policy_at(1, 2, xts), None),
        Err(FormatError::OtherGeneration {
            found: 1,
            expected: 2,
            ..
        })
    ));
    let (a, b) = (
        seal(&policy(), &[b'a'; 800]).unwrap(),
        seal(&policy(), &[b'b'; 800]).unwrap(),
    );
    let swapped = open(parts(&a).0.as_bytes(), parts(&b).1);
    assert!(matches!(
        swapped,
        Err(FormatError::TagMismatch {
            record: Record::SymlinkRecord
        })
    ));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        raw in prop::collection::vec(any::<u8>(), 0..900),
        kind in 0..4_u8,
        encoded: bool,
        record in prop::option::of(prop::collection::vec(any::<u8>(), 0..900)),
    ) {
        let mut raw = raw;
        if let Some(first) = raw.first_mut() {
            *first = kind;
        }
        let stored = if encoded { BASE64URL_NOPAD.encode(&raw).into_bytes() } else { raw };
        prop_assert!(open(&stored, record.as_deref()).is_err());
        let _ = plain_length(stored.len() as u64);
    }

    #[test]
    fn any_size_has_at_most_one_length(size: u64) {
        prop_assert!(plain_length(size).is_none_or(|length| (1..=713).contains(&length)));
    }
}
