use proptest::prelude::*;

use super::*;
use crate::testing::{VOLUME, each_flip};

fn record() -> VolumeRecord {
    let mut record = VolumeRecord::new(VOLUME, "personnel \"files\"\n\u{1f512}");
    for generation in [1, 2] {
        record.policies.push(PolicyRecord {
            policy: PolicyId([3; 16]),
            generation,
            key_arn: "arn:aws:kms:local-host-1:000000000000:key/0".into(),
            content_mode: ContentMode::Gcm,
            data_key: vec![0xab; 200],
        });
    }
    record
}

/// A record with the right checksum around any body.
fn sealed(body: &str) -> Vec<u8> {
    let digest = HEXLOWER.encode(&kms_crypto::sha256(&[body.as_bytes()]));
    format!("KMSFSVOL 1 sha256={digest}\n{body}").into_bytes()
}

#[test]
fn a_record_comes_back() {
    let record = record();
    let bytes = record.encode().unwrap();
    assert!(bytes.starts_with(b"KMSFSVOL 1 sha256="));
    assert_eq!(VolumeRecord::decode(&bytes).unwrap(), record);
    assert_eq!(record.policy(PolicyId([3; 16]), 2), record.policies.last());
    assert_eq!(record.policy(PolicyId([3; 16]), 3), None);
}

#[test]
fn every_flipped_bit_and_every_cut_is_detected() {
    let bytes = record().encode().unwrap();
    each_flip(&bytes, |at, flipped| {
        assert!(
            VolumeRecord::decode(flipped).is_err(),
            "a flip in byte {at} goes unnoticed"
        );
    });
    for length in 0..bytes.len() {
        assert!(VolumeRecord::decode(&bytes[..length]).is_err());
    }
    assert!(VolumeRecord::decode(&[bytes.as_slice(), b"\n"].concat()).is_err());
}

#[test]
fn faults_are_named() {
    let fault = |bytes: &[u8]| VolumeRecord::decode(bytes).unwrap_err();
    assert!(matches!(fault(b""), FormatError::Blank { .. }));
    assert!(matches!(fault(&[0; 500]), FormatError::Blank { .. }));
    assert!(matches!(
        fault(b"something else\n"),
        FormatError::WrongMagic { .. }
    ));
    assert!(matches!(
        fault(b"KMSFSVOL 1 sha256="),
        FormatError::Truncated { .. }
    ));
    assert!(matches!(
        fault(b"KMSFSVOL 2 sha256=00\n{}"),
        FormatError::UnsupportedFormat { found: 2, .. }
    ));
    for head in [
        "KMSFSVOL 01 sha256=00\n",
        "KMSFSVOL x sha256=00\n",
        "KMSFSVOL 1\n{}",
    ] {
        assert!(
            matches!(fault(head.as_bytes()), FormatError::WrongMagic { .. }),
            "{head}"
        );
    }
    assert!(matches!(
        fault(b"KMSFSVOL 1 sha256=00\n{}"),
        FormatError::Checksum { .. }
    ));
    assert!(matches!(
        fault(&vec![b'K'; RECORD_MAX + 1]),
        FormatError::TooLong { .. }
    ));
    let id = "07070707070707070707070707070707";
    let policy = |text: &str| format!(r#"{{"volume":"{id}","policies":[{text}]}}"#);
    for (name, body) in [
        ("no JSON", "{".to_owned()),
        (
            "unknown member",
            format!(r#"{{"volume":"{id}","policies":[],"mode":1}}"#),
        ),
        ("missing member", r#"{"policies":[]}"#.to_owned()),
        ("short id", r#"{"volume":"0707","policies":[]}"#.to_owned()),
        (
            "upper-case id",
            format!(r#"{{"volume":"{}","policies":[]}}"#, "AB".repeat(16)),
        ),
        (
            "bad base64",
            policy(&format!(
                r#"{{"policy":"{id}","generation":1,"key_arn":"","content_mode":"XTS","data_key":"!"}}"#
            )),
        ),
        (
            "unknown mode",
            policy(&format!(
                r#"{{"policy":"{id}","generation":1,"key_arn":"","content_mode":"CBC","data_key":"AAAA"}}"#
            )),
        ),
    ] {
        assert!(
            matches!(fault(&sealed(&body)), FormatError::Syntax { .. }),
            "{name}"
        );
    }
    let entry = |generation: u32, blob: &str| {
        format!(
            r#"{{"policy":"{id}","generation":{generation},"key_arn":"","content_mode":"XTS","data_key":"{blob}"}}"#
        )
    };
    for (name, body) in [
        ("generation 0", policy(&entry(0, "AAAA"))),
        ("no blob", policy(&entry(1, ""))),
        ("large blob", policy(&entry(1, &"AAAA".repeat(2049)))),
        (
            "twice",
            policy(&[entry(1, "AAAA"), entry(1, "BBBB")].join(",")),
        ),
        ("too many", policy(&vec![entry(1, "AAAA"); 1025].join(","))),
    ] {
        assert!(
            matches!(fault(&sealed(&body)), FormatError::BadField { .. }),
            "{name}"
        );
    }
    assert!(VolumeRecord::decode(&sealed(&policy(&entry(1, "AAAA")))).is_ok());
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let mut twice = record();
    twice.policies.extend(record().policies);
    assert!(matches!(twice.encode(), Err(FormatError::BadField { .. })));
    let huge = VolumeRecord::new(VOLUME, "x".repeat(RECORD_MAX));
    assert!(matches!(huge.encode(), Err(FormatError::DoesNotFit { .. })));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), body in ".*") {
        prop_assert!(VolumeRecord::decode(&bytes).is_err());
        prop_assert!(VolumeRecord::decode(&sealed(&body)).is_err());
        prop_assert!(VolumeRecord::decode(&[b"KMSFSVOL 1 sha256=".as_slice(), &bytes].concat()).is_err());
    }
}
