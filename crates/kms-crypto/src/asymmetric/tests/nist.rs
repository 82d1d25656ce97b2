//! Known answers for ML-KEM (FIPS 203) and ML-DSA (FIPS 204).

use super::{seeded, seeded_and_expanded, spki};
use crate::asymmetric::{KeyPair, PairSpec, PublicKey, SignatureScheme, SignedMessage};
use crate::tests::Record;

#[test]
fn ml_kem() {
    for (spec, file) in [
        (
            PairSpec::MlKem512,
            include_str!("../../../tests/vectors/ml-kem-512.rsp"),
        ),
        (
            PairSpec::MlKem768,
            include_str!("../../../tests/vectors/ml-kem-768.rsp"),
        ),
        (
            PairSpec::MlKem1024,
            include_str!("../../../tests/vectors/ml-kem-1024.rsp"),
        ),
    ] {
        let records = Record::all(file);
        assert_eq!(records.len(), 2);
        for record in records {
            let seed = [record.hex("d"), record.hex("z")].concat();
            let pair = KeyPair::from_pkcs8(spec, &seeded(spec, &seed)).unwrap();
            assert_eq!(pair.public_spki(), spki(spec, &record.hex("pk")));
            assert_eq!(pair.to_pkcs8().unwrap().expose(), seeded(spec, &seed));
            // Both forms at once are accepted if, and only if, they are of one key.
            let mut expanded = record.hex("sk");
            let both = seeded_and_expanded(spec, &seed, &expanded);
            KeyPair::from_pkcs8(spec, &both).unwrap();
            expanded[3] ^= 1;
            let both = seeded_and_expanded(spec, &seed, &expanded);
            KeyPair::from_pkcs8(spec, &both).err().unwrap();
            for (ciphertext, secret) in [("ct", "ss"), ("ct_n", "ss_n")] {
                let found = pair.decapsulate(&record.hex(ciphertext)).unwrap();
                assert_eq!(found.expose(), record.hex(secret), "{spec:?} {ciphertext}");
            }
        }
    }
}

#[test]
fn ml_dsa() {
    for (spec, file) in [
        (
            PairSpec::MlDsa44,
            include_str!("../../../tests/vectors/ml-dsa-44.rsp"),
        ),
        (
            PairSpec::MlDsa65,
            include_str!("../../../tests/vectors/ml-dsa-65.rsp"),
        ),
        (
            PairSpec::MlDsa87,
            include_str!("../../../tests/vectors/ml-dsa-87.rsp"),
        ),
    ] {
        let records = Record::all(file);
        assert_eq!(records.len(), 2);
        for record in records {
            let (seed, public) = (record.hex("xi"), spki(spec, &record.hex("pk")));
            let both = seeded_and_expanded(spec, &seed, &record.hex("sk"));
            let pair = KeyPair::from_pkcs8(spec, &both).unwrap();
            assert_eq!(pair.public_spki(), &public[..]);
            assert_eq!(pair.to_pkcs8().unwrap().expose(), &seeded(spec, &seed)[..]);
            let public = PublicKey::from_spki(spec, &public).unwrap();
            let (mu, signature) = (record.hex("mu"), record.hex("sig"));
            let (scheme, mu) = (SignatureScheme::MlDsa, SignedMessage::ExternalMu(&mu));
            public.verify(scheme, mu, &signature).unwrap();
            // Hedged, so that the signature is another one each time.
            let own = pair.sign(scheme, mu).unwrap();
            assert_ne!(own, signature);
            public.verify(scheme, mu, &own).unwrap();
        }
    }
}
