//! DER from strangers: refused for the right reason, and never a panic.

use std::collections::BTreeMap;

use super::{FAST, signature_schemes, spki};
use crate::CryptoError;
use crate::asymmetric::der::{INTEGER, OCTET_STRING, SEQUENCE, context, element};
use crate::asymmetric::pkcs8::{PrivateKeyInfo, private_key_info};
use crate::asymmetric::{KeyPair, PairSpec, PublicKey, SignedMessage};

/// A pseudo-random generator with a fixed seed (SplitMix64): the same mutations on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    /// One to three small changes, most of them near the front, where the structure is.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let reach = if self.below(3) == 0 {
                out.len()
            } else {
                out.len().min(48)
            };
            let at = self.below(reach.max(1));
            match self.below(6) {
                0 => out[at] ^= 1 << self.below(8),
                1 => out[at] = self.next().to_le_bytes()[0],
                2 => out.insert(at, self.next().to_le_bytes()[0]),
                3 => drop(out.remove(at)),
                4 => out.truncate(at),
                _ => out[at] = [0x00, 0x01, 0x7f, 0x80, 0x81, 0x82, 0x84, 0xff][self.below(8)],
            }
            if out.is_empty() {
                break;
            }
        }
        out
    }
}

fn refused(spec: PairSpec, der: &[u8]) -> &'static str {
    match KeyPair::from_pkcs8(spec, der) {
        Err(CryptoError::Key(why)) => why,
        Err(other) => panic!("{spec:?}: {other}"),
        Ok(_) => panic!("{spec:?} was accepted"),
    }
}

fn refused_public(spec: PairSpec, der: &[u8]) -> &'static str {
    match PublicKey::from_spki(spec, der) {
        Err(CryptoError::Key(why)) => why,
        Err(other) => panic!("{spec:?}: {other}"),
        Ok(_) => panic!("{spec:?} was accepted"),
    }
}

fn pairs() -> BTreeMap<String, KeyPair> {
    let specs = FAST.into_iter().filter(|spec| spec.available().is_ok());
    specs
        .map(|spec| (format!("{spec:?}"), KeyPair::generate(spec).unwrap()))
        .collect()
}

#[test]
fn mutated_der_never_panics_and_what_is_accepted_works() {
    let mut random = Random(6);
    for pair in pairs().values() {
        let spec = pair.spec();
        let (private, public) = (pair.to_pkcs8().unwrap(), pair.public_spki().to_vec());
        for _ in 0..400 {
            if let Ok(key) = KeyPair::from_pkcs8(spec, &random.mutate(private.expose())) {
                // A seed may be another seed; whatever was accepted is whole.
                let again = KeyPair::from_pkcs8(spec, key.to_pkcs8().unwrap().expose()).unwrap();
                assert_eq!(again.public_spki(), key.public_spki());
                for scheme in signature_schemes(spec).take(1) {
                    let message = SignedMessage::Raw(b"message");
                    let signature = key.sign(scheme, message).unwrap();
                    let public = key.public_key().unwrap();
                    public.verify(scheme, message, &signature).unwrap();
                }
            }
            if let Ok(key) = PublicKey::from_spki(spec, &random.mutate(&public)) {
                for scheme in signature_schemes(spec).take(1) {
                    let verified = key.verify(scheme, SignedMessage::Raw(b"message"), &[1; 64]);
                    assert_eq!(verified, Err(CryptoError::Authentication));
                }
            }
        }
    }
}

#[test]
fn every_truncation_and_every_trailing_byte_is_refused() {
    for pair in pairs().values() {
        let spec = pair.spec();
        let (private, public) = (pair.to_pkcs8().unwrap(), pair.public_spki());
        let step = 1 + public.len() / 200;
        for len in (0..private.len()).step_by(step) {
            refused(spec, &private.expose()[..len]);
        }
        for len in (0..public.len()).step_by(step) {
            refused_public(spec, &public[..len]);
        }
        refused(spec, &[private.expose(), &[0]].concat());
        refused_public(spec, &[public, &[0]].concat());
        // Behind the private key, within its own structure.
        let info = PrivateKeyInfo::read(spec, private.expose()).unwrap();
        let longer = private_key_info(spec, &[info.key, &[5, 0]].concat());
        refused(spec, &longer);
    }
}

#[test]
fn the_public_key_beside_the_private_key_must_be_its_own() {
    for pair in pairs().values() {
        let spec = pair.spec();
        let private = pair.to_pkcs8().unwrap();
        let info = PrivateKeyInfo::read(spec, private.expose()).unwrap();
        let algorithm = element(SEQUENCE, &[spec.algorithm()]);
        let key = element(OCTET_STRING, &[info.key]);
        let public = super::super::pkcs8::read_spki(spec, pair.public_spki()).unwrap();
        let version_2 = |public: &[u8]| {
            let public = element(context(1, false), &[&[0], public]);
            element(SEQUENCE, &[b"\x02\x01\x01", &algorithm, &key, &public])
        };
        let read = KeyPair::from_pkcs8(spec, &version_2(public)).unwrap();
        assert_eq!(read.public_spki(), pair.public_spki());
        assert_eq!(read.to_pkcs8().unwrap().expose(), private.expose());
        let other = KeyPair::generate(spec).unwrap();
        let other = super::super::pkcs8::read_spki(spec, other.public_spki()).unwrap();
        let why = refused(spec, &version_2(other));
        assert!(why.contains("public key"), "{why}");
        // In a version-1 structure it has no place.
        let public = element(context(1, false), &[&[0], public]);
        let version_1 = element(SEQUENCE, &[b"\x02\x01\x00", &algorithm, &key, &public]);
        refused(spec, &version_1);
        // Attributes have, and say nothing.
        let attributes = element(context(0, true), &[b"\x30\x00"]);
        let with = element(SEQUENCE, &[b"\x02\x01\x00", &algorithm, &key, &attributes]);
        KeyPair::from_pkcs8(spec, &with).unwrap();
    }
}

#[test]
fn a_curve_point_must_be_on_the_curve_and_of_the_private_key() {
    for (spec, len) in [
        (PairSpec::P256, 32),
        (PairSpec::P384, 48),
        (PairSpec::P521, 66),
        (PairSpec::Secp256k1, 32),
        (PairSpec::Sm2, 32),
    ] {
        if spec.available().is_err() {
            continue;
        }
        let pair = KeyPair::generate(spec).unwrap();
        let mut public = pair.public_spki().to_vec();
        *public.last_mut().unwrap() ^= 1;
        refused_public(spec, &public);
        assert!(pair.agree(&public).is_err());
        refused_public(spec, &spki(spec, &[0]));
        refused_public(spec, &spki(spec, &[]));
        // Zero and the group's order are no private keys; nor is a number with another's point.
        for number in [vec![0; len], vec![0xff; len]] {
            let number = element(OCTET_STRING, &[&number]);
            let key = element(SEQUENCE, &[b"\x02\x01\x01", &number]);
            refused(spec, &private_key_info(spec, &key));
        }
        let own = pair.to_pkcs8().unwrap();
        let mut altered = own.expose().to_vec();
        let at = altered.len() - 1;
        altered[at] ^= 1;
        refused(spec, &altered);
    }
}

/// RSA numbers that contradict each other, or are too small for what is asked.
#[test]
fn rsa_numbers_are_checked() {
    let spec = PairSpec::Rsa2048;
    let pair = KeyPair::generate(spec).unwrap();
    let private = pair.to_pkcs8().unwrap();
    let info = PrivateKeyInfo::read(spec, private.expose()).unwrap();
    let body = super::super::der::Reader::only(info.key, SEQUENCE).unwrap();
    let mut reader = super::super::der::Reader::new(body);
    let numbers: Vec<Vec<u8>> =
        std::iter::from_fn(|| reader.take(INTEGER).map(<[u8]>::to_vec)).collect();
    assert_eq!(
        numbers.len(),
        9,
        "version, n, e, d, p, q, and what speeds it up"
    );
    let write = |numbers: &[Vec<u8>]| {
        let numbers: Vec<_> = numbers.iter().map(|n| element(INTEGER, &[n])).collect();
        let parts: Vec<&[u8]> = numbers.iter().map(|n| n.as_slice()).collect();
        private_key_info(spec, &element(SEQUENCE, &parts))
    };
    KeyPair::from_pkcs8(spec, &write(&numbers)).unwrap();
    for at in 0..numbers.len() {
        for bit in [1, 2, 0x40] {
            let mut altered = numbers.clone();
            *altered[at].last_mut().unwrap() ^= bit;
            refused(spec, &write(&altered));
        }
        let mut altered = numbers.clone();
        altered[at] = vec![0];
        if at > 0 {
            refused(spec, &write(&altered));
        }
        // More than one encoding of a number, and a negative one.
        let mut altered = numbers.clone();
        altered[at].insert(0, 0);
        refused(spec, &write(&altered));
        altered[at][0] = 0xff;
        refused(spec, &write(&altered));
    }
    // A key of another size is one of another kind.
    let why = refused(PairSpec::Rsa3072, private.expose());
    assert!(why.contains("modulus"), "{why}");
    let why = refused_public(PairSpec::Rsa4096, pair.public_spki());
    assert!(why.contains("modulus"), "{why}");
    // Exponents that are even or small: the public key alone can be written with them.
    let modulus = element(INTEGER, &[&numbers[1]]);
    for exponent in [
        &[3][..],
        &[17],
        &[1],
        &[0],
        &[1, 0, 0],
        &[0, 0xff, 0xff],
        &[1, 0, 2],
    ] {
        let exponent = element(INTEGER, &[exponent]);
        refused_public(
            spec,
            &spki(spec, &element(SEQUENCE, &[&modulus, &exponent])),
        );
    }
}

/// An ML-KEM public key must have reduced coefficients; an expanded private key alone has no seed to keep.
#[test]
fn lattice_keys_are_checked() {
    let pair = KeyPair::generate(PairSpec::MlKem768).unwrap();
    let mut public = pair.public_spki().to_vec();
    let at = public.len() - 1184;
    public[at] = 0xff;
    public[at + 1] |= 0x0f;
    refused_public(PairSpec::MlKem768, &public);
    for (spec, len) in [
        (PairSpec::MlKem512, 1632),
        (PairSpec::MlKem768, 2400),
        (PairSpec::MlKem1024, 3168),
        (PairSpec::MlDsa44, 2560),
        (PairSpec::MlDsa65, 4032),
        (PairSpec::MlDsa87, 4896),
    ] {
        let expanded = element(OCTET_STRING, &[&vec![1; len]]);
        let why = refused(spec, &private_key_info(spec, &expanded));
        assert!(why.contains("seed"), "{why}");
        for len in [0, 31, 33, 63, 65] {
            let seed = element(context(0, false), &[&vec![1; len]]);
            refused(spec, &private_key_info(spec, &seed));
        }
    }
}
