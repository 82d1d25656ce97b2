//! What one half of a pair makes, the other accepts, and nothing else.

use super::{ENCRYPTION_SCHEMES, FAST, SIGNATURE_SCHEMES, messages, signature_schemes};
use crate::CryptoError;
use crate::asymmetric::{KeyPair, PairSpec, PublicKey, SignedMessage};

/// What holds for every pair, of whatever kind.
fn check(pair: &KeyPair) {
    let spec = pair.spec();
    let again = KeyPair::from_pkcs8(spec, pair.to_pkcs8().unwrap().expose()).unwrap();
    assert_eq!(again.public_spki(), pair.public_spki(), "{spec:?}");
    assert_eq!(
        again.to_pkcs8().unwrap().expose(),
        pair.to_pkcs8().unwrap().expose()
    );
    let public = PublicKey::from_spki(spec, pair.public_spki()).unwrap();
    assert_eq!(public.spec(), spec);
    for scheme in signature_schemes(spec) {
        let bytes = crate::random_array::<64>().unwrap();
        let mut altered = bytes;
        altered[17] ^= 4;
        let forms = messages(scheme, &bytes);
        for (message, other) in forms.into_iter().zip(messages(scheme, &altered)) {
            let signature = again.sign(scheme, message).unwrap();
            public.verify(scheme, message, &signature).unwrap();
            let refused = CryptoError::Authentication;
            assert_eq!(
                public.verify(scheme, other, &signature),
                Err(refused.clone())
            );
            for at in [0, signature.len() / 2, signature.len() - 1] {
                let mut signature = signature.clone();
                signature[at] ^= 1;
                let verified = public.verify(scheme, message, &signature);
                assert_eq!(verified, Err(refused.clone()), "{spec:?} {scheme:?} {at}");
            }
            let short = &signature[..signature.len() - 1];
            assert_eq!(public.verify(scheme, message, short), Err(refused.clone()));
            assert_eq!(public.verify(scheme, message, &[]), Err(refused));
        }
    }
    for scheme in ENCRYPTION_SCHEMES {
        let Some(max) = scheme.max_plaintext(spec) else {
            let error = public.encrypt(scheme, b"x").unwrap_err();
            assert_eq!(error, CryptoError::Scheme("this encryption algorithm"));
            continue;
        };
        for len in [1, 32, max] {
            let plaintext = vec![7; len];
            let mut ciphertext = public.encrypt(scheme, &plaintext).unwrap();
            assert_eq!(
                pair.decrypt(scheme, &ciphertext).unwrap().expose(),
                plaintext
            );
            let at = ciphertext.len() - 1;
            ciphertext[at] ^= 1;
            let error = pair.decrypt(scheme, &ciphertext).err();
            assert_eq!(error, Some(CryptoError::Authentication));
        }
        assert!(matches!(
            public.encrypt(scheme, &vec![0; max + 1]),
            Err(CryptoError::Length { .. })
        ));
    }
    if let Some(len) = spec.encapsulation_len() {
        let (secret, mut ciphertext) = public.encapsulate().unwrap();
        assert_eq!((secret.len(), ciphertext.len()), (32, len));
        assert_eq!(
            again.decapsulate(&ciphertext).unwrap().expose(),
            secret.expose()
        );
        ciphertext[5] ^= 1;
        let other = again.decapsulate(&ciphertext).unwrap();
        assert_ne!(other.expose(), secret.expose(), "implicit rejection");
        assert_eq!(
            other.expose(),
            pair.decapsulate(&ciphertext).unwrap().expose()
        );
        assert!(matches!(
            pair.decapsulate(&ciphertext[1..]),
            Err(CryptoError::Length { .. })
        ));
    } else {
        assert!(public.encapsulate().is_err());
        assert!(pair.decapsulate(&[0; 768]).is_err());
    }
    let own = pair.agree(pair.public_spki());
    match spec {
        PairSpec::P256 | PairSpec::P384 | PairSpec::P521 | PairSpec::Sm2 => {
            let peer = KeyPair::generate(spec).unwrap();
            let secret = pair.agree(peer.public_spki()).unwrap();
            let theirs = peer.agree(pair.public_spki()).unwrap();
            assert_eq!(secret.expose(), theirs.expose());
            assert_ne!(secret.expose(), own.unwrap().expose());
        }
        _ => assert!(matches!(own, Err(CryptoError::Scheme(_)))),
    }
}

#[test]
fn every_kind_does_what_it_can() {
    for spec in FAST {
        match spec.available() {
            Ok(()) => check(&KeyPair::generate(spec).unwrap()),
            Err(error) => assert_eq!(KeyPair::generate(spec).err(), Some(error)),
        }
    }
}

/// Their making takes seconds in a debug build, so each is made once.
#[test]
fn large_rsa_does_what_it_can() {
    for spec in [PairSpec::Rsa3072, PairSpec::Rsa4096] {
        check(&KeyPair::generate(spec).unwrap());
    }
}

#[test]
fn other_algorithms_are_refused() {
    for spec in FAST.into_iter().filter(|spec| spec.available().is_ok()) {
        let pair = KeyPair::generate(spec).unwrap();
        let public = pair.public_key().unwrap();
        let can: Vec<_> = signature_schemes(spec).collect();
        for scheme in SIGNATURE_SCHEMES {
            let signed = pair.sign(scheme, SignedMessage::Raw(b"message"));
            assert_eq!(signed.is_ok(), can.contains(&scheme), "{spec:?} {scheme:?}");
            let verified = public.verify(scheme, SignedMessage::Raw(b"message"), &[0; 64]);
            let expected = match can.contains(&scheme) {
                true => CryptoError::Authentication,
                false => CryptoError::Scheme("this signature algorithm"),
            };
            assert_eq!(verified, Err(expected));
        }
        for other in FAST.into_iter().filter(|other| *other != spec) {
            let (private, public) = (pair.to_pkcs8().unwrap(), pair.public_spki());
            assert!(KeyPair::from_pkcs8(other, private.expose()).is_err());
            assert!(PublicKey::from_spki(other, public).is_err());
        }
    }
}

#[test]
fn a_digest_must_have_its_length() {
    for spec in FAST.into_iter().filter(|spec| spec.available().is_ok()) {
        let pair = KeyPair::generate(spec).unwrap();
        for scheme in signature_schemes(spec) {
            for len in (0..130).filter(|len| Some(*len) != scheme.digest_len()) {
                let digest = vec![1; len];
                let error = pair
                    .sign(scheme, SignedMessage::Digest(&digest))
                    .unwrap_err();
                match scheme.digest_len() {
                    Some(_) => assert_eq!(
                        error,
                        CryptoError::Length {
                            what: "digest",
                            got: len
                        }
                    ),
                    None => assert!(matches!(error, CryptoError::Scheme(_))),
                }
                if len != 64 {
                    pair.sign(scheme, SignedMessage::ExternalMu(&digest))
                        .unwrap_err();
                }
            }
        }
    }
}
