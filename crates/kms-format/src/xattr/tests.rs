use proptest::prelude::*;

use super::*;
use crate::testing::{each_flip, policy};
use crate::{DirHeader, FileHeader};

fn keys() -> XattrKeys {
    FileHeader::create(&policy()).unwrap().1.xattrs().unwrap()
}

fn listed(keys: &XattrKeys, lower: &LowerXattr, value: &[u8]) -> Result<Vec<u8>, FormatError> {
    if is_long(lower.as_str().as_bytes()) {
        decrypt_long_name(keys, lower.as_str().as_bytes(), value)
    } else {
        decrypt_name(keys, lower.as_str().as_bytes())
    }
}

#[test]
fn names_of_every_length_come_back() {
    let keys = keys();
    for length in 6..=NAME_MAX {
        let name = [NAMESPACE, &vec![b'n'; length - 5]].concat();
        let lower = encrypt_name(&keys, &name).unwrap();
        assert!(lower.as_str().len() <= NAME_MAX);
        assert!(lower.as_str().starts_with(PREFIX));
        assert_eq!(is_long(lower.as_str().as_bytes()), length > 165);
        assert_eq!(lower, encrypt_name(&keys, &name).unwrap());
        let value = seal_value(&keys, &name, &lower, b"value").unwrap();
        assert_eq!(listed(&keys, &lower, &value).unwrap(), name);
        assert_eq!(open_value(&keys, &lower, &value).unwrap(), b"value");
        assert_eq!(
            plain_length(&lower, value.len()),
            (length <= 165).then_some(5)
        );
    }
}

#[test]
fn names_outside_the_namespace_are_refused() {
    let keys = keys();
    for (name, error) in [
        (b"trusted.x".as_slice(), NameError::Invalid),
        (b"user.", NameError::Empty),
        (b"user.a\0", NameError::Invalid),
        (b"", NameError::Invalid),
        (
            [b"user.".as_slice(), &[b'x'; 251]].concat().leak(),
            NameError::TooLong(256),
        ),
    ] {
        let refused = encrypt_name(&keys, name);
        assert!(
            matches!(refused, Err(FormatError::Name(found)) if found == error),
            "{name:?}"
        );
    }
    assert!(is_encrypted(b"user.x") && !is_encrypted(b"security.capability"));
}

#[test]
fn every_flipped_bit_is_detected() {
    let keys = keys();
    for name in [
        b"user.mime_type".to_vec(),
        [NAMESPACE, &[b'n'; 200]].concat(),
    ] {
        let lower = encrypt_name(&keys, &name).unwrap();
        let value = seal_value(&keys, &name, &lower, b"text/plain").unwrap();
        each_flip(&value, |at, value| {
            assert!(open_value(&keys, &lower, value).is_err(), "byte {at}");
        });
        each_flip(lower.as_str().as_bytes(), |at, stored| {
            assert!(decrypt_name(&keys, stored).is_err(), "byte {at}");
            assert!(
                decrypt_long_name(&keys, stored, &value).is_err(),
                "byte {at}"
            );
        });
        for length in 0..value.len() {
            assert!(open_value(&keys, &lower, &value[..length]).is_err());
        }
    }
}

#[test]
fn values_do_not_open_under_another_name_or_object() {
    let (keys, other) = (
        keys(),
        DirHeader::create(&policy()).unwrap().1.xattrs().unwrap(),
    );
    let (a, b) = (
        encrypt_name(&keys, b"user.a").unwrap(),
        encrypt_name(&keys, b"user.b").unwrap(),
    );
    let value = seal_value(&keys, b"user.a", &a, b"value").unwrap();
    assert!(matches!(
        open_value(&keys, &b, &value),
        Err(FormatError::TagMismatch { .. })
    ));
    assert!(matches!(
        open_value(&other, &a, &value),
        Err(FormatError::TagMismatch { .. })
    ));
    let copied = decrypt_name(&other, a.as_str().as_bytes());
    assert!(matches!(
        copied,
        Err(FormatError::TagMismatch {
            record: Record::XattrName
        })
    ));
    assert_ne!(a, encrypt_name(&other, b"user.a").unwrap());
}

proptest! {
    #[test]
    fn any_attribute_comes_back(
        name in prop::collection::vec(1..=255_u8, 1..=250),
        value in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let keys = keys();
        let name = [NAMESPACE, &name].concat();
        let lower = encrypt_name(&keys, &name).unwrap();
        let sealed = seal_value(&keys, &name, &lower, &value).unwrap();
        prop_assert_eq!(listed(&keys, &lower, &sealed).unwrap(), name);
        prop_assert_eq!(open_value(&keys, &lower, &sealed).unwrap(), value);
    }

    #[test]
    fn no_bytes_make_it_panic(
        name in prop::collection::vec(any::<u8>(), 0..260),
        prefixed: bool,
        value in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let keys = keys();
        let name = if prefixed { [PREFIX.as_bytes(), &name].concat() } else { name };
        prop_assert!(decrypt_name(&keys, &name).is_err());
        prop_assert!(decrypt_long_name(&keys, &name, &value).is_err());
        let lower = encrypt_name(&keys, b"user.a").unwrap();
        prop_assert!(open_value(&keys, &lower, &value).is_err());
    }
}
