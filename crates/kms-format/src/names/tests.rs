use proptest::prelude::*;

use super::*;
use crate::DirHeader;
use crate::testing::{each_flip, policy};

fn keys() -> DirKeys {
    DirHeader::create(&policy()).unwrap().1
}

fn plain_name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        (1..=255_u8).prop_filter("no slash", |byte| *byte != b'/'),
        1..=255,
    )
    .prop_filter("not a dot", |name| name != b"." && name != b"..")
}

fn record(name: &EncryptedName) -> Option<&[u8]> {
    match name {
        EncryptedName::Short(_) => None,
        EncryptedName::Long { record, .. } => Some(record),
    }
}

#[test]
fn stored_lengths_are_those_of_the_format_document() {
    let keys = keys();
    let length = |name: usize| {
        encrypt(&keys, &vec![b'x'; name], LOWER_MAX)
            .unwrap()
            .stored()
            .len()
    };
    for (names, stored) in [
        (1..=16, 43),
        (17..=32, 64),
        (33..=48, 86),
        (145..=160, 235),
        (161..=255, 44),
    ] {
        for name in names {
            assert_eq!(length(name), stored, "{name}");
        }
    }
}

#[test]
fn impossible_names_are_refused() {
    let keys = keys();
    let refusal = |name: &[u8]| match encrypt(&keys, name, LOWER_MAX) {
        Err(FormatError::Name(error)) => error,
        other => unreachable!("{other:?}"),
    };
    assert_eq!(refusal(b""), NameError::Empty);
    for name in [b".".as_slice(), b"..", b"a/b", b"/", b"a\0", b"\0"] {
        assert_eq!(refusal(name), NameError::Invalid);
    }
    assert_eq!(refusal(&[b'x'; 256]), NameError::TooLong(256));
}

#[test]
fn lower_names_are_told_apart() {
    let keys = keys();
    let short = encrypt(&keys, b"a", LOWER_MAX).unwrap();
    let long = encrypt(&keys, &[b'x'; 200], LOWER_MAX).unwrap();
    let EncryptedName::Long {
        stored, sidecar, ..
    } = &long
    else {
        unreachable!()
    };
    assert_eq!(classify(short.stored().as_bytes()), LowerName::Short);
    assert_eq!(classify(stored.as_bytes()), LowerName::Long);
    assert_eq!(classify(sidecar.as_bytes()), LowerName::Sidecar);
    assert_eq!(sidecar_name(stored.as_bytes()).as_ref(), Some(sidecar));
    assert_eq!(sidecar_entry(sidecar.as_bytes()).as_ref(), Some(stored));
    assert_eq!(
        classify(temporary().unwrap().as_bytes()),
        LowerName::Temporary
    );
    assert_eq!(classify(b".kmsfs"), LowerName::DirHeader);
    for name in [VOLUME, UNCLEAN, LINKS, ".kmsfs.whatever", ".kmsfsx"] {
        assert_eq!(classify(name.as_bytes()), LowerName::Reserved, "{name}");
    }
    for name in [
        b"".as_slice(),
        b"lost+found",
        b".",
        b".hidden",
        b"plain.txt",
        b"=",
        b"=abc",
        b"AAAA",
        b"\xff\xfe",
        [b'A'; 43 + 1].as_slice(),
        [b'A'; 300].as_slice(),
    ] {
        assert_eq!(classify(name), LowerName::Foreign, "{name:?}");
        assert!(matches!(
            decrypt(&keys, name, None),
            Err(FormatError::Name(NameError::Foreign))
        ));
        assert_eq!(sidecar_name(name), None);
        assert_eq!(sidecar_entry(name), None);
    }
}

#[test]
fn every_flipped_bit_of_a_stored_name_is_detected() {
    let keys = keys();
    for name in [b"a".as_slice(), &[b'x'; 160], &[b'y'; 161], &[b'z'; 255]] {
        let encrypted = encrypt(&keys, name, LOWER_MAX).unwrap();
        each_flip(encrypted.stored().as_bytes(), |at, stored| {
            assert!(
                decrypt(&keys, stored, record(&encrypted)).is_err(),
                "byte {at}"
            );
        });
        if let Some(record) = record(&encrypted) {
            each_flip(record, |at, record| {
                let result = decrypt(&keys, encrypted.stored().as_bytes(), Some(record));
                assert!(result.is_err(), "byte {at} of the record");
            });
            for length in 0..record.len() {
                let cut = decrypt(
                    &keys,
                    encrypted.stored().as_bytes(),
                    Some(&record[..length]),
                );
                assert!(
                    matches!(cut, Err(FormatError::Truncated { .. })),
                    "{length}: {cut:?}"
                );
            }
        }
    }
}

#[test]
fn long_names_need_their_own_record() {
    let keys = keys();
    let a = encrypt(&keys, &[b'a'; 200], LOWER_MAX).unwrap();
    let b = encrypt(&keys, &[b'b'; 200], LOWER_MAX).unwrap();
    let fault = |record| decrypt(&keys, a.stored().as_bytes(), record).unwrap_err();
    assert!(matches!(
        fault(None),
        FormatError::Name(NameError::SidecarMissing)
    ));
    assert!(matches!(
        fault(record(&b)),
        FormatError::Name(NameError::SidecarMismatch)
    ));
    assert!(matches!(fault(Some(&[0; 40])), FormatError::Blank { .. }));
}

#[test]
fn names_do_not_open_in_another_directory() {
    let (here, there) = (keys(), keys());
    let name = encrypt(&here, b"secret", LOWER_MAX).unwrap();
    assert_ne!(name, encrypt(&there, b"secret", LOWER_MAX).unwrap());
    let moved = decrypt(&there, name.stored().as_bytes(), None);
    assert!(matches!(
        moved,
        Err(FormatError::TagMismatch {
            record: Record::Name
        })
    ));
}

#[test]
fn shorter_lower_names_use_records_earlier() {
    let keys = keys();
    let name = [b'x'; 100];
    assert!(matches!(
        encrypt(&keys, &name, 255),
        Ok(EncryptedName::Short(_))
    ));
    let long = encrypt(&keys, &name, 143).unwrap();
    assert_eq!(
        decrypt(&keys, long.stored().as_bytes(), record(&long)).unwrap(),
        name
    );
    assert_eq!(long.stored().len(), 44);
}

proptest! {
    #[test]
    fn any_name_comes_back(name in plain_name()) {
        let keys = keys();
        let encrypted = encrypt(&keys, &name, LOWER_MAX).unwrap();
        let stored = encrypted.stored();
        prop_assert!(stored.len() <= LOWER_MAX);
        prop_assert!(!stored.starts_with('.'));
        prop_assert!(matches!(classify(stored.as_bytes()), LowerName::Short | LowerName::Long));
        prop_assert_eq!(&encrypt(&keys, &name, LOWER_MAX).unwrap(), &encrypted);
        prop_assert_eq!(decrypt(&keys, stored.as_bytes(), record(&encrypted)).unwrap(), name);
    }

    #[test]
    fn different_names_are_stored_differently(a in plain_name(), b in plain_name()) {
        prop_assume!(a != b);
        let keys = keys();
        let stored = |name: &[u8]| encrypt(&keys, name, LOWER_MAX).unwrap().stored().to_owned();
        prop_assert_ne!(stored(&a), stored(&b));
    }

    #[test]
    fn no_bytes_make_it_panic(
        lower in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "=[A-Za-z0-9_-]{43}".prop_map(String::into_bytes),
            "[A-Za-z0-9_-]{43}".prop_map(String::into_bytes),
        ],
        record in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
    ) {
        prop_assert!(decrypt(&keys(), &lower, record.as_deref()).is_err());
    }
}
