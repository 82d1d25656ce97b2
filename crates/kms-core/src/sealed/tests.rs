use super::*;

const KIND: Kind = Kind {
    magic: b"KMSTEST1",
    info: b"a test",
    name: "a file of the tests",
};

fn made(plain: &[u8]) -> (RecoveryPrivateKey, Vec<u8>) {
    let key = RecoveryPrivateKey::generate().unwrap();
    let public = key.public_key().unwrap();
    let file = seal(KIND, b"{\"a\":1}", plain, &public).unwrap();
    (key, file)
}

#[test]
fn what_was_sealed_opens_whatever_its_size() {
    for size in [0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 7] {
        let plain: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let (key, file) = made(&plain);
        assert_eq!(head(KIND, &file).unwrap(), b"{\"a\":1}");
        assert_eq!(*open(KIND, &file, &key).unwrap(), plain, "{size}");
        let other = RecoveryPrivateKey::generate().unwrap();
        assert!(matches!(
            open(KIND, &file, &other),
            Err(SealedError::OtherRecoveryKey)
        ));
    }
}

#[test]
fn every_cut_and_every_flip_is_found_without_a_key() {
    let (_, file) = made(b"something");
    for length in 0..file.len() {
        assert!(head(KIND, &file[..length]).is_err(), "cut to {length}");
    }
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 1;
        assert!(head(KIND, &bad).is_err(), "flipped at {at}");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(head(KIND, &longer).is_err());
}

/// Whoever can make the digest anew still cannot alter, cut or reorder what is sealed, or its head.
#[test]
fn an_altered_file_with_a_new_digest_does_not_open() {
    let plain = vec![7; 2 * PART + 5];
    let (key, file) = made(&plain);
    let redigested = |bytes: &[u8]| {
        let digest = sha256(&[bytes]);
        [bytes, &digest].concat()
    };
    let signed = &file[..file.len() - DIGEST];
    assert!(open(KIND, &redigested(signed), &key).is_ok());
    let parts = 12 + 7 + SEALED;
    let whole = 4 + PART + TAG;
    for at in [
        14,
        12 + 7 + 3,
        parts,
        parts + 4,
        parts + whole + 9,
        signed.len() - 1,
    ] {
        let mut bad = signed.to_vec();
        bad[at] ^= 0x80;
        assert!(open(KIND, &redigested(&bad), &key).is_err(), "at {at}");
    }
    // Without its last part, and with two parts exchanged.
    let cut = &signed[..parts + 2 * whole];
    assert!(open(KIND, &redigested(cut), &key).is_err());
    let (first, second) = signed[parts..parts + 2 * whole].split_at(whole);
    let swapped = [
        &signed[..parts],
        second,
        first,
        &signed[parts + 2 * whole..],
    ]
    .concat();
    assert!(open(KIND, &redigested(&swapped), &key).is_err());
}

#[test]
fn other_kinds_are_named() {
    let (key, file) = made(b"x");
    let other = Kind {
        magic: b"KMSTEST2",
        name: "another file",
        ..KIND
    };
    let error = open(other, &file, &key).unwrap_err();
    assert_eq!(error.to_string(), "this is not another file");
}
