//! The examples that standards give for Ed25519ph and SM2, and Ed25519 against its seed.

use super::spki;
use crate::asymmetric::{
    Digest, EncryptionScheme, KeyPair, PairSpec, PublicKey, SignatureScheme, SignedMessage, der,
    pkcs8,
};
use crate::tests::hex;

/// RFC 8032, 7.3.
#[test]
fn ed25519ph() {
    let seed = hex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42");
    let key = der::element(der::OCTET_STRING, &[&seed]);
    let der = pkcs8::private_key_info(PairSpec::Ed25519, &key);
    let pair = KeyPair::from_pkcs8(PairSpec::Ed25519, &der).unwrap();
    let public = hex("ec172b93ad5e563f4932c70e1245034c35467ef2efd4d64ebf819683467e2bf0");
    assert_eq!(
        pair.public_spki()[..12],
        spki(PairSpec::Ed25519, &public)[..12]
    );
    let expected = hex(
        "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406",
    );
    let scheme = SignatureScheme::Ed25519Ph;
    let digest = hex(
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    );
    let public = pair.public_key().unwrap();
    for message in [SignedMessage::Raw(b"abc"), SignedMessage::Digest(&digest)] {
        assert_eq!(pair.sign(scheme, message).unwrap(), expected);
        public.verify(scheme, message, &expected).unwrap();
    }
    // The two ways to sign are kept apart.
    let plain = public.verify(
        SignatureScheme::Ed25519,
        SignedMessage::Raw(b"abc"),
        &expected,
    );
    plain.unwrap_err();
}

/// A signature over a digest is one over the message.
#[test]
fn digest_and_message_are_one() {
    let (message, digest) = (b"message", crate::sha256(&[b"message"]));
    for (spec, scheme) in [
        (PairSpec::P256, SignatureScheme::Ecdsa(Digest::Sha256)),
        (PairSpec::Secp256k1, SignatureScheme::Ecdsa(Digest::Sha256)),
        (PairSpec::Rsa2048, SignatureScheme::RsaPss(Digest::Sha256)),
        (PairSpec::Rsa2048, SignatureScheme::RsaPkcs1(Digest::Sha256)),
    ] {
        if spec.available().is_err() {
            continue;
        }
        let pair = KeyPair::generate(spec).unwrap();
        let public = pair.public_key().unwrap();
        let (raw, hashed) = (SignedMessage::Raw(message), SignedMessage::Digest(&digest));
        public
            .verify(scheme, hashed, &pair.sign(scheme, raw).unwrap())
            .unwrap();
        public
            .verify(scheme, raw, &pair.sign(scheme, hashed).unwrap())
            .unwrap();
    }
}

/// GB/T 32918.5-2017, annexes A and C: the example over the recommended curve, with the identity `1234567812345678`.
#[cfg(feature = "sm2")]
#[test]
fn sm2() {
    // It is the FIPS build that has not what it was built with.
    if crate::fips::ENABLED {
        return;
    }
    let private = hex("3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8");
    let private = der::element(der::OCTET_STRING, &[&private]);
    let private = der::element(der::SEQUENCE, &[b"\x02\x01\x01", &private]);
    let private = pkcs8::private_key_info(PairSpec::Sm2, &private);
    let pair = KeyPair::from_pkcs8(PairSpec::Sm2, &private).unwrap();
    let point = hex(
        "0409f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13",
    );
    assert_eq!(pair.public_spki(), spki(PairSpec::Sm2, &point));

    let r = hex("00f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3");
    let s = hex("00b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa");
    let (r, s) = (
        der::element(der::INTEGER, &[&r]),
        der::element(der::INTEGER, &[&s]),
    );
    let signature = der::element(der::SEQUENCE, &[&r, &s]);
    let public = PublicKey::from_spki(PairSpec::Sm2, pair.public_spki()).unwrap();
    let message = SignedMessage::Raw(b"message digest");
    public
        .verify(SignatureScheme::Sm2, message, &signature)
        .unwrap();
    // The digest over identity, public key and message, which the example calls e.
    let digest = hex("f0b43e94ba45accaace692ed534382eb17e6ab5a19ce7b31f4486fdfc0d28640");
    let message = SignedMessage::Digest(&digest);
    public
        .verify(SignatureScheme::Sm2, message, &signature)
        .unwrap();

    let x = hex("0004ebfc718e8d1798620432268e77feb6415e2ede0e073c0f4f640ecd2e149a73");
    let y = hex("00e858f9d81e5430a57b36daab8f950a3c64e6ee6a63094d99283aff767e124df0");
    let digest = hex("59983c18f809e262923c53aec295d30383b54e39d609d160afcb1908d0bd8766");
    let body = hex("21886ca989ca9c7d58087307ca93092d651efa");
    let ciphertext = der::element(
        der::SEQUENCE,
        &[
            &der::element(der::INTEGER, &[&x[1..]]),
            &der::element(der::INTEGER, &[&y]),
            &der::element(der::OCTET_STRING, &[&digest]),
            &der::element(der::OCTET_STRING, &[&body]),
        ],
    );
    let plaintext = pair.decrypt(EncryptionScheme::Sm2, &ciphertext).unwrap();
    assert_eq!(plaintext.expose(), b"encryption standard");
}
