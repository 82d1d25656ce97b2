//! Kinds of keys: what each may be used for, and with which algorithms.

use kms_api::{
    EncapsulationAlgorithm as Encapsulation, EncryptionAlgorithm as Encryption,
    KeyAgreementAlgorithm as Agreement, KeySpec as S, KeyUsage as U, MacAlgorithm as Mac,
    SigningAlgorithm as Signing,
};

/// What keys of this kind may be made for.
pub fn usages(spec: S) -> &'static [U] {
    match spec {
        S::SymmetricDefault => &[U::EncryptDecrypt],
        S::Hmac224 | S::Hmac256 | S::Hmac384 | S::Hmac512 => &[U::GenerateVerifyMac],
        S::Rsa2048 | S::Rsa3072 | S::Rsa4096 => &[U::EncryptDecrypt, U::SignVerify],
        S::EccNistP256 | S::EccNistP384 | S::EccNistP521 => &[U::SignVerify, U::KeyAgreement],
        S::EccSecgP256k1 | S::EccNistEdwards25519 | S::MlDsa44 | S::MlDsa65 | S::MlDsa87 => {
            &[U::SignVerify]
        }
        S::MlKem512 | S::MlKem768 | S::MlKem1024 => &[U::EncapsulateDecapsulate],
        S::Sm2 => &[U::EncryptDecrypt, U::SignVerify, U::KeyAgreement],
    }
}

/// Whether keys of this kind are a private and a public key.
pub fn is_asymmetric(spec: S) -> bool {
    !matches!(
        spec,
        S::SymmetricDefault | S::Hmac224 | S::Hmac256 | S::Hmac384 | S::Hmac512
    )
}

/// Algorithms of Encrypt, Decrypt and ReEncrypt; none for keys that are for something else.
pub fn encryption_algorithms(spec: S, usage: U) -> &'static [Encryption] {
    match (usage, spec) {
        (U::EncryptDecrypt, S::SymmetricDefault) => &[Encryption::SymmetricDefault],
        (U::EncryptDecrypt, S::Rsa2048 | S::Rsa3072 | S::Rsa4096) => {
            &[Encryption::RsaesOaepSha1, Encryption::RsaesOaepSha256]
        }
        (U::EncryptDecrypt, S::Sm2) => &[Encryption::Sm2Pke],
        _ => &[],
    }
}

/// Algorithms of Sign and Verify; none for keys that are for something else.
pub fn signing_algorithms(spec: S, usage: U) -> &'static [Signing] {
    if usage != U::SignVerify {
        return &[];
    }
    match spec {
        S::Rsa2048 | S::Rsa3072 | S::Rsa4096 => &[
            Signing::RsassaPkcs1Sha256,
            Signing::RsassaPkcs1Sha384,
            Signing::RsassaPkcs1Sha512,
            Signing::RsassaPssSha256,
            Signing::RsassaPssSha384,
            Signing::RsassaPssSha512,
        ],
        S::EccNistP256 | S::EccSecgP256k1 => &[Signing::EcdsaSha256],
        S::EccNistP384 => &[Signing::EcdsaSha384],
        S::EccNistP521 => &[Signing::EcdsaSha512],
        S::EccNistEdwards25519 => &[Signing::Ed25519Sha512, Signing::Ed25519PhSha512],
        S::MlDsa44 | S::MlDsa65 | S::MlDsa87 => &[Signing::MlDsaShake256],
        S::Sm2 => &[Signing::Sm2Dsa],
        S::SymmetricDefault
        | S::Hmac224
        | S::Hmac256
        | S::Hmac384
        | S::Hmac512
        | S::MlKem512
        | S::MlKem768
        | S::MlKem1024 => &[],
    }
}

/// Algorithms of GenerateMac and VerifyMac; none for keys that are for something else.
pub fn mac_algorithms(spec: S) -> &'static [Mac] {
    match spec {
        S::Hmac224 => &[Mac::HmacSha224],
        S::Hmac256 => &[Mac::HmacSha256],
        S::Hmac384 => &[Mac::HmacSha384],
        S::Hmac512 => &[Mac::HmacSha512],
        _ => &[],
    }
}

/// Algorithms of DeriveSharedSecret; none for keys that are for something else.
pub fn agreement_algorithms(usage: U) -> &'static [Agreement] {
    match usage {
        U::KeyAgreement => &[Agreement::Ecdh],
        _ => &[],
    }
}

/// Algorithms of Encapsulate and Decapsulate; none for keys that are for something else.
pub fn encapsulation_algorithms(usage: U) -> &'static [Encapsulation] {
    match usage {
        U::EncapsulateDecapsulate => &[Encapsulation::MlKem],
        _ => &[],
    }
}

/// Bytes of the material that is drawn for a new HMAC key: as many as its tags have.
pub fn mac_key_len(spec: S) -> Option<usize> {
    match spec {
        S::Hmac224 => Some(28),
        S::Hmac256 => Some(32),
        S::Hmac384 => Some(48),
        S::Hmac512 => Some(64),
        _ => None,
    }
}

/// Most bytes that one RSA-OAEP or SM2 ciphertext holds; `None` where the request's own limit counts.
pub fn max_plaintext(spec: S, algorithm: Encryption) -> Option<usize> {
    let modulus = match spec {
        S::Rsa2048 => 256,
        S::Rsa3072 => 384,
        S::Rsa4096 => 512,
        S::Sm2 => return Some(1024),
        _ => return None,
    };
    match algorithm {
        Encryption::RsaesOaepSha1 => Some(modulus - 2 * 20 - 2),
        Encryption::RsaesOaepSha256 => Some(modulus - 2 * 32 - 2),
        Encryption::SymmetricDefault | Encryption::Sm2Pke => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> impl Iterator<Item = S> {
        S::WIRE.iter().filter_map(|name| S::from_wire(name))
    }

    #[test]
    fn every_use_of_a_key_has_algorithms_of_its_own_and_no_other() {
        for spec in every() {
            for usage in usages(spec) {
                let counts = [
                    encryption_algorithms(spec, *usage).len(),
                    signing_algorithms(spec, *usage).len(),
                    agreement_algorithms(*usage).len(),
                    encapsulation_algorithms(*usage).len(),
                    mac_algorithms(spec).len(),
                ];
                let kinds = counts.iter().filter(|count| **count > 0).count();
                assert_eq!(kinds, 1, "{spec} {usage}: {counts:?}");
            }
            assert_eq!(
                mac_key_len(spec).is_some(),
                !mac_algorithms(spec).is_empty()
            );
            assert!(!(is_asymmetric(spec) && mac_key_len(spec).is_some()));
        }
        assert_eq!(every().count(), 20);
    }

    /// The Developer Guide's table of OAEP sizes.
    #[test]
    fn rsa_holds_as_much_as_aws_says() {
        let sizes = [
            (S::Rsa2048, 214, 190),
            (S::Rsa3072, 342, 318),
            (S::Rsa4096, 470, 446),
        ];
        for (spec, sha1, sha256) in sizes {
            assert_eq!(max_plaintext(spec, Encryption::RsaesOaepSha1), Some(sha1));
            assert_eq!(
                max_plaintext(spec, Encryption::RsaesOaepSha256),
                Some(sha256)
            );
        }
    }
}
