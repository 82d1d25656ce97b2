//! Notes of the specifications, and the forms that are none.

use proptest::prelude::*;

use super::*;

/// c2sp.org/tlog-cosignature: a checkpoint with a cosignature.
const COSIGNED: &str = "example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
";

/// golang.org/x/mod/sumdb/note: its example of a signed message and the verifier key.
const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const SIGNED: &str = "If you think cryptography is the answer to your problem,
then you don't know what your problem is.

\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
";

fn seed(byte: u8) -> kms_crypto::Key<32> {
    kms_crypto::Key::take(&mut [byte; 32]).unwrap()
}

fn signer(name: &str, kind: u8, byte: u8) -> VerifierKey {
    VerifierKey {
        name: name.to_owned(),
        kind,
        public: kms_crypto::ed25519_public(&seed(byte)).unwrap(),
    }
}

#[test]
fn what_the_specification_shows_is_read_and_written_the_same() {
    for text in [COSIGNED, SIGNED] {
        assert_eq!(Note::parse(text.as_bytes()).unwrap().to_string(), text);
    }
    let note = Note::parse(COSIGNED.as_bytes()).unwrap();
    assert_eq!(note.text().lines().count(), 3);
    assert_eq!(note.signatures()[1].name, "witness.example.com/w1");
    assert_eq!(note.signatures()[1].bytes.len(), 72);
}

#[test]
fn a_note_of_another_implementation_verifies() {
    let key = VerifierKey::parse(PETER).unwrap();
    assert_eq!(key.to_string(), PETER);
    let note = Note::parse(SIGNED.as_bytes()).unwrap();
    assert_eq!(key.verify(&note), Some(Ok(None)));
    let altered = SIGNED.replace("problem is", "problem was");
    let note = Note::parse(altered.as_bytes()).unwrap();
    assert_eq!(key.verify(&note), Some(Err(CryptoError::Authentication)));
    let other = Note::parse(COSIGNED.as_bytes()).unwrap();
    assert_eq!(key.verify(&other), None);
}

#[test]
fn a_cosignature_covers_its_time() {
    let witness = signer("witness.example/w", KIND_COSIGNATURE, 7);
    let mut note = Note::new("origin\n1\nroot");
    let signed = format!("cosignature/v1\ntime 1700000000\n{}", note.text());
    let bytes = kms_crypto::ed25519_sign(&seed(7), signed.as_bytes()).unwrap();
    let mut signature = Signature {
        name: witness.name.clone(),
        id: witness.id(),
        bytes: [&1_700_000_000_u64.to_be_bytes()[..], &bytes].concat(),
    };
    note.sign(signature.clone());
    assert_eq!(witness.verify(&note), Some(Ok(Some(1_700_000_000))));
    signature.bytes[7] ^= 1;
    let mut later = Note::new(note.text());
    later.sign(signature);
    assert_eq!(
        witness.verify(&later),
        Some(Err(CryptoError::Authentication))
    );
}

#[test]
fn malformed_notes_are_refused() {
    for (text, error) in [
        ("", NoteError::Form),
        ("text\n", NoteError::Form),
        ("text\n\n", NoteError::Form),
        ("\n\n\u{2014} a AAAAAAA=\n", NoteError::Form),
        ("text\n\n\u{2014} a AAAAAAA=", NoteError::Form),
        ("text\n\n- a AAAAAAA=\n", NoteError::SignatureLine),
        ("text\n\n\u{2014} a+b AAAAAAA=\n", NoteError::SignatureLine),
        ("text\n\n\u{2014}  AAAAAAA=\n", NoteError::SignatureLine),
        ("text\n\n\u{2014} a AAAAAA==\n", NoteError::SignatureLine),
        ("text\n\n\u{2014} a AAAA AAAA\n", NoteError::SignatureLine),
        ("text\n\n\u{2014} a AAA=AAAA\n", NoteError::SignatureLine),
        ("te\txt\n\n\u{2014} a AAAAAAA=\n", NoteError::Characters),
    ] {
        assert_eq!(Note::parse(text.as_bytes()), Err(error), "{text:?}");
    }
    assert_eq!(Note::parse(b"\xff\n\n"), Err(NoteError::Characters));
    assert_eq!(
        Note::parse(&vec![b'a'; MAX_NOTE + 1]),
        Err(NoteError::TooLong)
    );
    for text in [
        "PeterNeumann",
        "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10",
    ] {
        assert_eq!(
            VerifierKey::parse(text),
            Err(NoteError::VerifierKey),
            "{text}"
        );
    }
}

#[test]
fn notes_follow_each_other_in_a_file() {
    let file = format!("{SIGNED}{COSIGNED}{SIGNED}");
    let found: Vec<_> = notes_of(file.as_bytes()).collect();
    assert_eq!(
        found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
        [1, 5, 11]
    );
    assert!(found.iter().all(|(_, note)| note.is_ok()));
    // One that was cut short is found, and where it begins.
    let cut = &file[..file.len() - 10];
    let last = notes_of(cut.as_bytes()).last().unwrap();
    assert_eq!(last.0, 11);
    assert!(last.1.is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Note::parse(&bytes);
        prop_assert!(notes_of(&bytes).count() <= bytes.len());
    }

    #[test]
    fn what_is_read_is_written_the_same(edit in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = COSIGNED.as_bytes().to_vec();
        let at = edit.index(bytes.len());
        bytes[at] = byte;
        if let Ok(note) = Note::parse(&bytes) {
            prop_assert_eq!(note.to_string().into_bytes(), bytes);
        }
    }
}
