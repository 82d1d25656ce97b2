//! Asymmetric, HMAC and KEM keys: their operations, and what each refuses.

use data_encoding::BASE64;
use kms_crypto::asymmetric::{
    Digest, EncryptionScheme, KeyPair, PairSpec, PublicKey, SignatureScheme, SignedMessage,
};

use super::*;

fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

fn bytes(reply: &Value, member: &str) -> Vec<u8> {
    BASE64
        .decode(reply[member].as_str().unwrap().as_bytes())
        .unwrap()
}

impl Bench {
    fn create_of(&mut self, spec: &str, usage: &str) -> String {
        self.create(json!({"KeySpec": spec, "KeyUsage": usage}))
    }

    fn public(&mut self, key: &str, spec: PairSpec) -> PublicKey {
        let reply = self.call("GetPublicKey", json!({"KeyId": key})).unwrap();
        PublicKey::from_spki(spec, &bytes(&reply, "PublicKey")).unwrap()
    }

    /// Signs, has the signature verified, and a changed message refused.
    fn sign_and_verify(
        &mut self,
        key: &str,
        algorithm: &str,
        kind: &str,
        message: &[u8],
    ) -> Vec<u8> {
        let body = |message: &[u8]| {
            json!({
                "KeyId": key, "Message": base64(message), "MessageType": kind,
                "SigningAlgorithm": algorithm,
            })
        };
        let signed = self.call("Sign", body(message)).unwrap();
        assert_eq!(signed["KeyId"], arn(key));
        assert_eq!(signed["SigningAlgorithm"], algorithm);
        let mut verify = body(message);
        verify["Signature"] = signed["Signature"].clone();
        let verified = self.call("Verify", verify.clone()).unwrap();
        assert_eq!(
            verified,
            json!({"KeyId": arn(key), "SignatureValid": true, "SigningAlgorithm": algorithm})
        );
        verify["DryRun"] = json!(true);
        let refused = self.call("Verify", verify.clone()).unwrap_err();
        assert!(refused.starts_with("DryRunOperationException"), "{refused}");
        let mut changed = message.to_vec();
        changed[0] ^= 1;
        verify["Message"] = json!(base64(&changed));
        for dry_run in [true, false] {
            verify["DryRun"] = json!(dry_run);
            let refused = self.call("Verify", verify.clone()).unwrap_err();
            assert_eq!(
                refused, "KMSInvalidSignatureException",
                "{algorithm} {kind}"
            );
        }
        bytes(&signed, "Signature")
    }
}

/// Algorithms with the length of their digest.
type Algorithms = &'static [(&'static str, usize)];

const SIGNERS: &[(&str, PairSpec, Algorithms)] = &[
    (
        "RSA_2048",
        PairSpec::Rsa2048,
        &[
            ("RSASSA_PSS_SHA_256", 32),
            ("RSASSA_PSS_SHA_384", 48),
            ("RSASSA_PSS_SHA_512", 64),
            ("RSASSA_PKCS1_V1_5_SHA_256", 32),
            ("RSASSA_PKCS1_V1_5_SHA_384", 48),
            ("RSASSA_PKCS1_V1_5_SHA_512", 64),
        ],
    ),
    ("ECC_NIST_P256", PairSpec::P256, &[("ECDSA_SHA_256", 32)]),
    ("ECC_NIST_P384", PairSpec::P384, &[("ECDSA_SHA_384", 48)]),
    ("ECC_NIST_P521", PairSpec::P521, &[("ECDSA_SHA_512", 64)]),
    (
        "ECC_SECG_P256K1",
        PairSpec::Secp256k1,
        &[("ECDSA_SHA_256", 32)],
    ),
    ("SM2", PairSpec::Sm2, &[("SM2DSA", 32)]),
];

#[test]
fn every_algorithm_signs_messages_and_digests() {
    let mut bench = Bench::new();
    for (spec, pair, algorithms) in SIGNERS {
        if pair.available().is_err() {
            continue;
        }
        let key = bench.create_of(spec, "SIGN_VERIFY");
        let public = bench.public(&key, *pair);
        for (algorithm, digest) in *algorithms {
            bench.sign_and_verify(&key, algorithm, "RAW", b"attack at dawn");
            let prehashed = vec![7; *digest];
            let signature = bench.sign_and_verify(&key, algorithm, "DIGEST", &prehashed);
            // What is signed is the digest, not a digest of it.
            let scheme = match *algorithm {
                "ECDSA_SHA_256" => SignatureScheme::Ecdsa(Digest::Sha256),
                "RSASSA_PSS_SHA_512" => SignatureScheme::RsaPss(Digest::Sha512),
                "RSASSA_PKCS1_V1_5_SHA_384" => SignatureScheme::RsaPkcs1(Digest::Sha384),
                _ => continue,
            };
            public
                .verify(scheme, SignedMessage::Digest(&prehashed), &signature)
                .unwrap();
        }
        for (message, kind, wanted) in [
            (
                31,
                "DIGEST",
                "ValidationException: Digest is invalid length for algorithm ",
            ),
            (
                64,
                "EXTERNAL_MU",
                "ValidationException: MessageType EXTERNAL_MU is not valid for algorithm ",
            ),
        ] {
            let body = json!({
                "KeyId": key, "Message": base64(&vec![1; message]), "MessageType": kind,
                "SigningAlgorithm": algorithms[0].0,
            });
            let refused = bench.call("Sign", body).unwrap_err();
            assert_eq!(refused, format!("{wanted}{}.", algorithms[0].0));
        }
    }
}

#[test]
fn ed25519_takes_messages_and_its_prehashed_form_digests_which_it_hashes_once_more() {
    let mut bench = Bench::new();
    let key = bench.create_of("ECC_NIST_EDWARDS25519", "SIGN_VERIFY");
    let public = bench.public(&key, PairSpec::Ed25519);
    let signature = bench.sign_and_verify(&key, "ED25519_SHA_512", "RAW", b"message");
    public
        .verify(
            SignatureScheme::Ed25519,
            SignedMessage::Raw(b"message"),
            &signature,
        )
        .unwrap();
    let digest = [9; 64];
    let signature = bench.sign_and_verify(&key, "ED25519_PH_SHA_512", "DIGEST", &digest);
    public
        .verify(
            SignatureScheme::Ed25519Ph,
            SignedMessage::Raw(&digest),
            &signature,
        )
        .unwrap();
    for (algorithm, kind) in [("ED25519_SHA_512", "DIGEST"), ("ED25519_PH_SHA_512", "RAW")] {
        let body = json!({
            "KeyId": key, "Message": base64(&digest), "MessageType": kind, "SigningAlgorithm": algorithm,
        });
        let refused = bench.call("Sign", body).unwrap_err();
        assert_eq!(
            refused,
            format!(
                "ValidationException: MessageType {kind} is not valid for algorithm {algorithm}."
            )
        );
    }
}

#[test]
fn ml_dsa_takes_messages_and_mu() {
    let mut bench = Bench::new();
    for (spec, len) in [
        ("ML_DSA_44", 2420),
        ("ML_DSA_65", 3309),
        ("ML_DSA_87", 4627),
    ] {
        let key = bench.create_of(spec, "SIGN_VERIFY");
        let algorithm = "ML_DSA_SHAKE_256";
        let signature = bench.sign_and_verify(&key, algorithm, "RAW", &[5; 4096]);
        assert_eq!(signature.len(), len);
        bench.sign_and_verify(&key, algorithm, "EXTERNAL_MU", &[6; 64]);
        let body = json!({
            "KeyId": key, "Message": base64(&[1; 63]), "MessageType": "EXTERNAL_MU",
            "SigningAlgorithm": algorithm,
        });
        let refused = bench.call("Sign", body).unwrap_err();
        assert_eq!(
            refused,
            "ValidationException: Digest is invalid length for algorithm ML_DSA_SHAKE_256."
        );
    }
}

#[test]
fn rsa_encrypts_and_decrypts_what_was_encrypted_elsewhere() {
    let mut bench = Bench::new();
    let key = bench.create_of("RSA_2048", "ENCRYPT_DECRYPT");
    let public = bench.public(&key, PairSpec::Rsa2048);
    let schemes = [
        ("RSAES_OAEP_SHA_1", EncryptionScheme::RsaOaepSha1, 214),
        ("RSAES_OAEP_SHA_256", EncryptionScheme::RsaOaepSha256, 190),
    ];
    for (algorithm, scheme, most) in schemes {
        let encrypt = |len: usize| json!({"KeyId": key, "Plaintext": base64(&vec![3; len]), "EncryptionAlgorithm": algorithm});
        let made = bench.call("Encrypt", encrypt(most)).unwrap();
        assert_eq!(made["EncryptionAlgorithm"], algorithm);
        let decrypt = |blob: &[u8]| json!({"KeyId": key, "CiphertextBlob": base64(blob), "EncryptionAlgorithm": algorithm});
        let opened = bench
            .call("Decrypt", decrypt(&bytes(&made, "CiphertextBlob")))
            .unwrap();
        assert_eq!(
            opened,
            json!({
                "KeyId": arn(&key), "Plaintext": base64(&vec![3; most]), "EncryptionAlgorithm": algorithm,
            })
        );
        let refused = bench.call("Encrypt", encrypt(most + 1)).unwrap_err();
        assert_eq!(
            refused,
            format!(
                "ValidationException: Algorithm {algorithm} and key spec RSA_2048 cannot encrypt data larger than {most} bytes."
            )
        );
        let outside = public.encrypt(scheme, b"from outside").unwrap();
        let opened = bench.call("Decrypt", decrypt(&outside)).unwrap();
        assert_eq!(bytes(&opened, "Plaintext"), b"from outside");
        let mut damaged = outside.clone();
        damaged[100] ^= 1;
        for blob in [&damaged[..], &outside[1..], &[0; 6144]] {
            let refused = bench.call("Decrypt", decrypt(blob)).unwrap_err();
            assert_eq!(refused, "InvalidCiphertextException");
        }
        let mut dry = decrypt(&outside);
        dry["DryRun"] = json!(true);
        let refused = bench.call("Decrypt", dry).unwrap_err();
        assert!(refused.starts_with("DryRunOperation"), "{refused}");
    }
}

#[test]
fn what_asymmetric_encryption_has_not_is_refused() {
    let mut bench = Bench::new();
    let key = bench.create_of("RSA_2048", "ENCRYPT_DECRYPT");
    let symmetric = bench.create_key();
    let oaep = "RSAES_OAEP_SHA_256";
    let cases = [
        (
            "Encrypt",
            json!({"KeyId": key, "Plaintext": "AAAA"}),
            "InvalidKeyUsageException: Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048.",
        ),
        (
            "Encrypt",
            json!({"KeyId": symmetric, "Plaintext": "AAAA", "EncryptionAlgorithm": oaep}),
            "InvalidKeyUsageException: Algorithm RSAES_OAEP_SHA_256 is incompatible with key spec SYMMETRIC_DEFAULT.",
        ),
        (
            "Encrypt",
            json!({"KeyId": key, "Plaintext": "AAAA", "EncryptionAlgorithm": oaep, "EncryptionContext": {"a": "b"}}),
            "ValidationException: EncryptionContext is not supported for algorithm RSAES_OAEP_SHA_256.",
        ),
        (
            "Decrypt",
            json!({"CiphertextBlob": "AAAA", "EncryptionAlgorithm": oaep}),
            "ValidationException: 1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null",
        ),
        (
            "GenerateDataKey",
            json!({"KeyId": key, "KeySpec": "AES_256"}),
            "InvalidKeyUsageException: Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048.",
        ),
        (
            "GenerateDataKeyPair",
            json!({"KeyId": key, "KeyPairSpec": "ECC_NIST_P256"}),
            "InvalidKeyUsageException: Algorithm SYMMETRIC_DEFAULT is incompatible with key spec RSA_2048.",
        ),
    ];
    for (operation, body, wanted) in cases {
        assert_eq!(bench.call(operation, body).unwrap_err(), wanted);
    }
    let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
    let refused = bench.call("CreatePolicy", body).unwrap_err();
    assert!(refused.starts_with("InvalidKeyUsage"), "{refused}");
}

#[test]
fn ciphertexts_move_between_symmetric_and_rsa_keys() {
    let mut bench = Bench::new();
    let (symmetric, rsa) = (
        bench.create_key(),
        bench.create_of("RSA_2048", "ENCRYPT_DECRYPT"),
    );
    let blob = bench.encrypt(&symmetric, b"text", json!({"a": "b"}));
    let to_rsa = json!({
        "CiphertextBlob": blob, "SourceEncryptionContext": {"a": "b"}, "DestinationKeyId": rsa,
        "DestinationEncryptionAlgorithm": "RSAES_OAEP_SHA_1",
    });
    let moved = bench.call("ReEncrypt", to_rsa).unwrap();
    assert!(moved["SourceKeyMaterialId"].is_string());
    assert!(moved.get("DestinationKeyMaterialId").is_none());
    assert_eq!(moved["DestinationEncryptionAlgorithm"], "RSAES_OAEP_SHA_1");
    let back = json!({
        "CiphertextBlob": moved["CiphertextBlob"], "SourceKeyId": rsa,
        "SourceEncryptionAlgorithm": "RSAES_OAEP_SHA_1", "DestinationKeyId": symmetric,
    });
    let back = bench.call("ReEncrypt", back).unwrap();
    assert_eq!(back["SourceKeyId"], arn(&rsa));
    let blob = back["CiphertextBlob"].as_str().unwrap();
    assert_eq!(bench.decrypt(blob, json!({})).unwrap(), b"text");

    let long = bench.encrypt(&symmetric, &[1; 300], json!({}));
    let body = json!({
        "CiphertextBlob": long, "DestinationKeyId": rsa,
        "DestinationEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
    });
    assert_eq!(
        bench.call("ReEncrypt", body).unwrap_err(),
        "ValidationException: Algorithm RSAES_OAEP_SHA_256 and key spec RSA_2048 cannot encrypt data larger than 190 bytes."
    );
}

#[test]
fn hmac_keys_make_and_verify_tags() {
    let mut bench = Bench::new();
    for (size, len) in [(224, 28), (256, 32), (384, 48), (512, 64)] {
        let key = bench.create_of(&format!("HMAC_{size}"), "GENERATE_VERIFY_MAC");
        let algorithm = format!("HMAC_SHA_{size}");
        let body = json!({"KeyId": key, "Message": "AAAA", "MacAlgorithm": algorithm});
        let made = bench.call("GenerateMac", body.clone()).unwrap();
        let mac = bytes(&made, "Mac");
        assert_eq!(mac.len(), len);
        let again = bench.call("GenerateMac", body.clone()).unwrap();
        assert_eq!(again, made);
        let mut verify = body.clone();
        verify["Mac"] = json!(base64(&mac));
        let verified = bench.call("VerifyMac", verify.clone()).unwrap();
        assert_eq!(
            verified,
            json!({"KeyId": arn(&key), "MacValid": true, "MacAlgorithm": algorithm})
        );
        for wrong in [&mac[1..], &[0; 28][..]] {
            verify["Mac"] = json!(base64(wrong));
            let refused = bench.call("VerifyMac", verify.clone()).unwrap_err();
            assert_eq!(refused, "KMSInvalidMacException");
        }
        let other = if size == 256 {
            "HMAC_SHA_512"
        } else {
            "HMAC_SHA_256"
        };
        let body = json!({"KeyId": key, "Message": "AAAA", "MacAlgorithm": other});
        assert_eq!(
            bench.call("GenerateMac", body).unwrap_err(),
            format!(
                "InvalidKeyUsageException: Algorithm {other} is incompatible with key spec HMAC_{size}."
            )
        );
        let refused = bench
            .call("GetPublicKey", json!({"KeyId": key}))
            .unwrap_err();
        assert_eq!(refused, "UnsupportedOperationException");
    }
}

#[test]
fn two_parties_agree_on_a_secret() {
    let mut bench = Bench::new();
    let curves = [
        ("ECC_NIST_P256", PairSpec::P256, 32),
        ("ECC_NIST_P384", PairSpec::P384, 48),
        ("ECC_NIST_P521", PairSpec::P521, 66),
        ("SM2", PairSpec::Sm2, 32),
    ];
    for (spec, pair, len) in curves {
        if pair.available().is_err() {
            continue;
        }
        let key = bench.create_of(spec, "KEY_AGREEMENT");
        let peer = KeyPair::generate(pair).unwrap();
        let body = |spki: &[u8]| json!({"KeyId": key, "KeyAgreementAlgorithm": "ECDH", "PublicKey": base64(spki)});
        let derived = bench
            .call("DeriveSharedSecret", body(peer.public_spki()))
            .unwrap();
        let public = bench.call("GetPublicKey", json!({"KeyId": key})).unwrap();
        let secret = peer.agree(&bytes(&public, "PublicKey")).unwrap();
        assert_eq!(secret.len(), len);
        assert_eq!(
            derived,
            json!({
                "KeyId": arn(&key), "SharedSecret": base64(secret.expose()),
                "KeyAgreementAlgorithm": "ECDH", "KeyOrigin": "AWS_KMS",
            })
        );
        let other = match pair {
            PairSpec::P256 => PairSpec::P384,
            _ => PairSpec::P256,
        };
        let other = KeyPair::generate(other).unwrap();
        let cut = &peer.public_spki()[..40];
        for wrong in [other.public_spki(), cut] {
            let refused = bench.call("DeriveSharedSecret", body(wrong)).unwrap_err();
            assert_eq!(
                refused,
                format!(
                    "ValidationException: PublicKey is not a valid public key of key spec {spec} \
                     (SubjectPublicKeyInfo in DER)."
                )
            );
        }
        let mut dry = body(peer.public_spki());
        dry["DryRun"] = json!(true);
        let refused = bench.call("DeriveSharedSecret", dry).unwrap_err();
        assert!(refused.starts_with("DryRunOperation"), "{refused}");
    }
}

#[test]
fn secrets_are_encapsulated_and_recovered() {
    let mut bench = Bench::new();
    let sets = [
        ("ML_KEM_512", 768),
        ("ML_KEM_768", 1088),
        ("ML_KEM_1024", 1568),
    ];
    for (spec, len) in sets {
        let key = bench.create_of(spec, "ENCAPSULATE_DECAPSULATE");
        let body = json!({"KeyId": key, "EncapsulationAlgorithm": "ML_KEM"});
        let made = bench.call("Encapsulate", body.clone()).unwrap();
        let mut ciphertext = bytes(&made, "SharedSecretCiphertextBlob");
        assert_eq!(ciphertext.len(), len);
        assert_eq!(bytes(&made, "SharedSecret").len(), 32);
        let mut open = |ciphertext: &[u8], dry_run: bool| {
            let mut body = body.clone();
            body["SharedSecretCiphertextBlob"] = json!(base64(ciphertext));
            body["DryRun"] = json!(dry_run);
            bench.call("Decapsulate", body)
        };
        assert_eq!(
            open(&ciphertext, false).unwrap(),
            json!({
                "KeyId": arn(&key), "SharedSecret": made["SharedSecret"],
                "EncapsulationAlgorithm": "ML_KEM",
            })
        );
        assert!(open(&ciphertext, true).unwrap_err().starts_with("DryRun"));
        for dry_run in [true, false] {
            let refused = open(&ciphertext[1..], dry_run).unwrap_err();
            assert_eq!(refused, "InvalidCiphertextException");
        }
        // Implicit rejection: a secret that nobody knows.
        ciphertext[7] ^= 1;
        let other = open(&ciphertext, false).unwrap();
        assert_ne!(other["SharedSecret"], made["SharedSecret"]);
        assert_eq!(bytes(&other, "SharedSecret").len(), 32);
    }
}

#[test]
fn pairs_of_data_keys_are_made_under_symmetric_keys() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let specs = [
        ("RSA_2048", PairSpec::Rsa2048),
        ("ECC_NIST_P256", PairSpec::P256),
        ("ECC_NIST_P384", PairSpec::P384),
        ("ECC_NIST_P521", PairSpec::P521),
        ("ECC_SECG_P256K1", PairSpec::Secp256k1),
        ("ECC_NIST_EDWARDS25519", PairSpec::Ed25519),
        ("ML_KEM_512", PairSpec::MlKem512),
        ("ML_KEM_768", PairSpec::MlKem768),
        ("ML_KEM_1024", PairSpec::MlKem1024),
    ];
    for (spec, pair) in specs {
        let body = json!({"KeyId": key, "KeyPairSpec": spec, "EncryptionContext": {"a": "b"}});
        let made = bench.call("GenerateDataKeyPair", body.clone()).unwrap();
        let private = bytes(&made, "PrivateKeyPlaintext");
        let read = KeyPair::from_pkcs8(pair, &private).unwrap();
        assert_eq!(read.public_spki(), bytes(&made, "PublicKey"));
        let blob = made["PrivateKeyCiphertextBlob"].as_str().unwrap();
        assert_eq!(bench.decrypt(blob, json!({"a": "b"})).unwrap(), private);
        assert_eq!(made["KeyPairSpec"], spec);
        assert_eq!(made["KeyMaterialId"], bench.material(&key));

        let operation = "GenerateDataKeyPairWithoutPlaintext";
        let sealed = bench.call(operation, body.clone()).unwrap();
        assert!(sealed.get("PrivateKeyPlaintext").is_none());
        assert_ne!(sealed["PublicKey"], made["PublicKey"]);
        let blob = sealed["PrivateKeyCiphertextBlob"].as_str().unwrap();
        let private = bench.decrypt(blob, json!({"a": "b"})).unwrap();
        let read = KeyPair::from_pkcs8(pair, &private).unwrap();
        assert_eq!(read.public_spki(), bytes(&sealed, "PublicKey"));
        for operation in ["GenerateDataKeyPair", operation] {
            let mut dry = body.clone();
            dry["DryRun"] = json!(true);
            let refused = bench.call(operation, dry).unwrap_err();
            assert!(refused.starts_with("DryRunOperation"), "{refused}");
        }
    }
}

/// Every operation on a key that is for something else.
#[test]
fn keys_are_used_for_what_they_were_made_for() {
    let mut bench = Bench::new();
    let keys = [
        ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"),
        ("ECC_NIST_P256", "SIGN_VERIFY"),
        ("ECC_NIST_P256", "KEY_AGREEMENT"),
        ("HMAC_256", "GENERATE_VERIFY_MAC"),
        ("ML_KEM_512", "ENCAPSULATE_DECAPSULATE"),
    ]
    .map(|(spec, usage)| (bench.create_of(spec, usage), usage));
    let operations = [
        ("Encrypt", "ENCRYPT_DECRYPT"),
        ("Decrypt", "ENCRYPT_DECRYPT"),
        ("GenerateDataKey", "ENCRYPT_DECRYPT"),
        ("GenerateDataKeyWithoutPlaintext", "ENCRYPT_DECRYPT"),
        ("GenerateDataKeyPair", "ENCRYPT_DECRYPT"),
        ("GenerateDataKeyPairWithoutPlaintext", "ENCRYPT_DECRYPT"),
        ("Sign", "SIGN_VERIFY"),
        ("Verify", "SIGN_VERIFY"),
        ("GenerateMac", "GENERATE_VERIFY_MAC"),
        ("VerifyMac", "GENERATE_VERIFY_MAC"),
        ("DeriveSharedSecret", "KEY_AGREEMENT"),
        ("Encapsulate", "ENCAPSULATE_DECAPSULATE"),
        ("Decapsulate", "ENCAPSULATE_DECAPSULATE"),
    ];
    for (key, usage) in &keys {
        // What a key is for comes before its state.
        bench.call("DisableKey", json!({"KeyId": key})).unwrap();
        for (operation, wanted) in operations {
            let body = json!({
                "KeyId": key, "Plaintext": "AAAA", "CiphertextBlob": "AAAA", "NumberOfBytes": 16,
                "KeyPairSpec": "ECC_NIST_P256", "Message": "AAAA", "SigningAlgorithm": "ECDSA_SHA_256",
                "Signature": "AAAA", "MacAlgorithm": "HMAC_SHA_256", "Mac": "AAAA",
                "KeyAgreementAlgorithm": "ECDH", "PublicKey": "AAAA",
                "EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": "AAAA",
            });
            let refused = bench.call(operation, body).unwrap_err();
            let arn = arn(key);
            let expected = if *usage == wanted {
                format!("DisabledException: {arn} is disabled.")
            } else {
                format!(
                    "InvalidKeyUsageException: {arn} key usage is {usage} which is not valid for {operation}."
                )
            };
            assert_eq!(refused, expected);
        }
    }
    let refused = bench.call("GetPublicKey", json!({"KeyId": keys[1].0}));
    assert_eq!(
        refused.unwrap_err(),
        format!("DisabledException: {} is disabled.", arn(&keys[1].0))
    );
}

#[test]
fn keys_say_which_algorithms_they_have_and_show_no_material() {
    let mut bench = Bench::new();
    let cases = [
        (
            "RSA_2048",
            "SIGN_VERIFY",
            "SigningAlgorithms",
            json!([
                "RSASSA_PKCS1_V1_5_SHA_256",
                "RSASSA_PKCS1_V1_5_SHA_384",
                "RSASSA_PKCS1_V1_5_SHA_512",
                "RSASSA_PSS_SHA_256",
                "RSASSA_PSS_SHA_384",
                "RSASSA_PSS_SHA_512",
            ]),
        ),
        (
            "RSA_2048",
            "ENCRYPT_DECRYPT",
            "EncryptionAlgorithms",
            json!(["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"]),
        ),
        (
            "ECC_NIST_P384",
            "KEY_AGREEMENT",
            "KeyAgreementAlgorithms",
            json!(["ECDH"]),
        ),
        (
            "HMAC_512",
            "GENERATE_VERIFY_MAC",
            "MacAlgorithms",
            json!(["HMAC_SHA_512"]),
        ),
        (
            "ML_KEM_768",
            "ENCAPSULATE_DECAPSULATE",
            "EncapsulationAlgorithms",
            json!(["ML_KEM"]),
        ),
    ];
    for (spec, usage, member, list) in cases {
        let key = bench.create_of(spec, usage);
        let reply = bench.call("DescribeKey", json!({"KeyId": key})).unwrap();
        let metadata = &reply["KeyMetadata"];
        assert_eq!(metadata["KeySpec"], spec);
        // botocore's model does not know the newer kinds by the deprecated name.
        let newer = spec.starts_with("ML_") || spec == "ECC_NIST_EDWARDS25519";
        match newer {
            true => assert!(
                metadata.get("CustomerMasterKeySpec").is_none(),
                "{metadata}"
            ),
            false => assert_eq!(metadata["CustomerMasterKeySpec"], spec),
        }
        assert_eq!(metadata["KeyUsage"], usage);
        assert_eq!(metadata[member], list);
        let members = metadata.as_object().unwrap();
        let lists = members.keys().filter(|name| name.ends_with("Algorithms"));
        assert_eq!(lists.count(), 1, "{metadata}");
        assert!(!members.contains_key("CurrentKeyMaterialId"));
    }
    for (spec, usage) in [
        ("RSA_2048", "KEY_AGREEMENT"),
        ("ECC_SECG_P256K1", "KEY_AGREEMENT"),
    ] {
        let body = json!({"KeySpec": spec, "KeyUsage": usage});
        assert_eq!(
            bench.call("CreateKey", body).unwrap_err(),
            format!("ValidationException: KeyUsage {usage} is not compatible with KeySpec {spec}")
        );
    }
}

#[test]
fn only_symmetric_keys_rotate() {
    let mut bench = Bench::new();
    for (spec, usage) in [
        ("ECC_NIST_P256", "SIGN_VERIFY"),
        ("HMAC_256", "GENERATE_VERIFY_MAC"),
    ] {
        let key = bench.create_of(spec, usage);
        for operation in [
            "RotateKeyOnDemand",
            "ListKeyRotations",
            "GetKeyRotationStatus",
            "EnableKeyRotation",
            "DisableKeyRotation",
        ] {
            let refused = bench.call(operation, json!({"KeyId": key})).unwrap_err();
            assert_eq!(refused, "UnsupportedOperationException", "{operation}");
        }
    }
}

#[test]
fn an_alias_goes_on_naming_keys_of_one_kind() {
    let mut bench = Bench::new();
    let signer = bench.create_of("ECC_NIST_P256", "SIGN_VERIFY");
    let other = bench.create_of("ECC_NIST_EDWARDS25519", "SIGN_VERIFY");
    let agreeing = bench.create_of("ECC_NIST_P256", "KEY_AGREEMENT");
    let symmetric = bench.create_key();
    let rsa = bench.create_of("RSA_2048", "ENCRYPT_DECRYPT");
    let mut name = |operation: &str, key: &str| {
        bench.call(
            operation,
            json!({"AliasName": "alias/x", "TargetKeyId": key}),
        )
    };
    name("CreateAlias", &signer).unwrap();
    name("UpdateAlias", &other).unwrap();
    assert_eq!(
        name("UpdateAlias", &agreeing).unwrap_err(),
        "ValidationException: Alias alias/x cannot be changed from a CMK with key usage SIGN_VERIFY to a CMK with key \
         usage KEY_AGREEMENT. The key usage of the current CMK and the new CMK must be the same."
    );
    let sign =
        json!({"KeyId": "alias/x", "Message": "AAAA", "SigningAlgorithm": "ED25519_SHA_512"});
    let signed = bench.call("Sign", sign).unwrap();
    assert_eq!(signed["KeyId"], arn(&other));

    let mut name = |operation: &str, key: &str| {
        bench.call(
            operation,
            json!({"AliasName": "alias/y", "TargetKeyId": key}),
        )
    };
    name("CreateAlias", &symmetric).unwrap();
    let refused = name("UpdateAlias", &rsa).unwrap_err();
    assert!(refused.starts_with("ValidationException"), "{refused}");
}

#[test]
fn material_of_every_kind_survives_a_new_domain_key_and_leaves_the_cache_when_disabled() {
    let mut bench = Bench::new();
    let signer = bench.create_of("ECC_NIST_P256", "SIGN_VERIFY");
    let mac = bench.create_of("HMAC_384", "GENERATE_VERIFY_MAC");
    let sign = json!({"KeyId": signer, "Message": "AAAA", "SigningAlgorithm": "ECDSA_SHA_256"});
    let make = json!({"KeyId": mac, "Message": "AAAA", "MacAlgorithm": "HMAC_SHA_384"});
    bench.call("Sign", sign.clone()).unwrap();
    let tag = bench.call("GenerateMac", make.clone()).unwrap();
    assert_eq!(bench.provider.cached(), 2);
    bench.call("DisableKey", json!({"KeyId": signer})).unwrap();
    assert_eq!(bench.provider.cached(), 1);
    bench.call("EnableKey", json!({"KeyId": signer})).unwrap();

    let doomed = bench.create_of("HMAC_256", "GENERATE_VERIFY_MAC");
    bench
        .call("ScheduleKeyDeletion", json!({"KeyId": doomed}))
        .unwrap();
    bench.destroy(&doomed);
    bench.provider.forget_all();
    bench.call("Sign", sign).unwrap();
    assert_eq!(bench.call("GenerateMac", make).unwrap(), tag);
    let domain = bench.domain.read();
    crate::backup::check_secrets(bench.kms.snapshot(), &domain).unwrap();
}

/// Wraps are for one kind of key: a row that claims another does not open.
#[test]
fn a_row_that_claims_another_kind_does_not_open() {
    let mut bench = Bench::new();
    let key = bench.create_of("ECC_NIST_P256", "KEY_AGREEMENT");
    let id: KeyId = key.parse().unwrap();
    let row = bench.kms.snapshot().materials(id).next().unwrap();
    let mut other = crate::rows::MaterialRow::clone(row);
    other.spec = kms_api::KeySpec::EccNistP384;
    let domain = bench.domain.read();
    assert!(domain.unwrap_bytes(row.subject(), &row.secret).is_ok());
    assert!(domain.unwrap_bytes(other.subject(), &other.secret).is_err());
}

/// Stores of earlier versions have rows without a kind.
#[test]
fn rows_of_symmetric_keys_are_as_they_were() {
    let mut bench = Bench::new();
    bench.create_key();
    for row in bench.kms.snapshot().keys() {
        let raw = Row::Key(Box::new(KeyRow::clone(row))).encode().unwrap();
        let text = String::from_utf8(raw.body).unwrap();
        assert!(!text.contains("spec") && !text.contains("usage"), "{text}");
    }
}

#[test]
fn policies_ask_for_algorithms() {
    let mut bench = Bench::new();
    let root = "arn:aws:iam::000000000000:root";
    let statement = |condition: Value| json!({"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition": condition});
    let allow =
        json!({"Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*", "Resource": "*"});
    let cases = [
        (
            "RSA_2048",
            "SIGN_VERIFY",
            json!({"StringNotEqualsIfExists": {"kms:SigningAlgorithm": "RSASSA_PSS_SHA_256"}}),
            "Sign",
            json!({"Message": "AAAA", "SigningAlgorithm": "RSASSA_PSS_SHA_256"}),
            json!({"Message": "AAAA", "SigningAlgorithm": "RSASSA_PSS_SHA_512"}),
        ),
        (
            "ECC_NIST_P256",
            "SIGN_VERIFY",
            json!({"StringEquals": {"kms:MessageType": "DIGEST"}}),
            "Sign",
            json!({"Message": base64(&[0; 32]), "SigningAlgorithm": "ECDSA_SHA_256"}),
            json!({"Message": base64(&[0; 32]), "SigningAlgorithm": "ECDSA_SHA_256", "MessageType": "DIGEST"}),
        ),
        (
            "HMAC_256",
            "GENERATE_VERIFY_MAC",
            json!({"StringNotEqualsIfExists": {"kms:MacAlgorithm": "HMAC_SHA_256"}}),
            "GenerateMac",
            json!({"Message": "AAAA", "MacAlgorithm": "HMAC_SHA_256"}),
            json!({"Message": "AAAA", "MacAlgorithm": "HMAC_SHA_512"}),
        ),
        (
            "SYMMETRIC_DEFAULT",
            "ENCRYPT_DECRYPT",
            json!({"StringLike": {"kms:DataKeyPairSpec": "RSA_*"}}),
            "GenerateDataKeyPair",
            json!({"KeyPairSpec": "ECC_NIST_P256"}),
            json!({"KeyPairSpec": "RSA_2048"}),
        ),
    ];
    let caller = Caller::new(kms_api::CallerRole::Root, 0, root.to_owned());
    for (spec, usage, condition, operation, good, bad) in cases {
        let policy = json!({"Version": "2012-10-17", "Statement": [allow, statement(condition)]});
        let key =
            bench.create(json!({"KeySpec": spec, "KeyUsage": usage, "Policy": policy.to_string()}));
        let with = |mut body: Value| {
            body["KeyId"] = json!(key);
            body
        };
        bench.call_as(&caller, operation, with(good)).unwrap();
        let refused = bench.call_as(&caller, operation, with(bad)).unwrap_err();
        assert!(refused.contains("explicit deny"), "{operation}: {refused}");
    }
    let key = bench.create_of("ECC_NIST_P256", "SIGN_VERIFY");
    let body = json!({"Principal": "root", "Action": "kms:Sign", "KeyId": key});
    let simulated = bench.call("SimulatePrincipalPolicy", body).unwrap();
    assert_eq!(simulated["Decision"], "ALLOWED");
}

/// A build on a FIPS module says so for what it may not use, and for a key that another build has made; any other build
/// makes and uses all of it.
#[test]
fn what_a_fips_module_does_not_approve_is_refused_there() {
    let mut bench = Bench::new();
    let outer = bench.create(json!({}));
    let refused = "UnsupportedOperationException: ";
    for (spec, pair, algorithm) in [
        (
            kms_api::KeySpec::EccSecgP256k1,
            PairSpec::Secp256k1,
            "ECDSA_SHA_256",
        ),
        (kms_api::KeySpec::Sm2, PairSpec::Sm2, "SM2DSA"),
    ] {
        let made = bench.call(
            "CreateKey",
            json!({"KeySpec": spec, "KeyUsage": "SIGN_VERIFY"}),
        );
        let data_key = json!({"KeyId": outer, "KeyPairSpec": spec});
        let data_key = bench.call("GenerateDataKeyPair", data_key);
        assert_eq!(pair.available().is_err(), kms_crypto::fips::ENABLED);
        if kms_crypto::fips::ENABLED {
            let (made, data_key) = (made.unwrap_err(), data_key.unwrap_err());
            assert!(made.starts_with(refused), "{made}");
            assert!(data_key.starts_with(refused), "{data_key}");
            // As if another build had made it.
            let key = bench.create_of("ECC_NIST_P256", "SIGN_VERIFY");
            let id: KeyId = key.parse().unwrap();
            let row = bench.kms.snapshot().keys().find(|row| row.id == id);
            let mut row = row.unwrap().as_ref().clone();
            row.spec = spec;
            bench.apply(vec![Change::Put(Row::Key(Box::new(row)))]);
            let sign = json!({
                "KeyId": key, "Message": base64(b"message"), "SigningAlgorithm": algorithm,
            });
            let sign = bench.call("Sign", sign).unwrap_err();
            assert!(sign.starts_with(refused), "{sign}");
        } else {
            made.unwrap();
            data_key.unwrap();
        }
    }
}

#[test]
fn grants_are_for_the_operations_that_a_key_has() {
    let mut bench = Bench::new();
    let signer = bench.create_of("ECC_NIST_P256", "SIGN_VERIFY");
    let mac = bench.create_of("HMAC_256", "GENERATE_VERIFY_MAC");
    let user = "arn:aws:iam::000000000000:user/alice";
    let grant = |key: &str, operations: &[&str]| json!({"KeyId": key, "GranteePrincipal": user, "Operations": operations});
    bench
        .call("CreateGrant", grant(&signer, &["Sign", "GetPublicKey"]))
        .unwrap();
    let caller = Caller::new(kms_api::CallerRole::User, 1000, user.to_owned());
    let sign = json!({"KeyId": signer, "Message": "AAAA", "SigningAlgorithm": "ECDSA_SHA_256"});
    let signed = bench.call_as(&caller, "Sign", sign.clone()).unwrap();
    bench
        .call_as(&caller, "GetPublicKey", json!({"KeyId": signer}))
        .unwrap();
    let mut verify = sign;
    verify["Signature"] = signed["Signature"].clone();
    let refused = bench.call_as(&caller, "Verify", verify).unwrap_err();
    assert!(refused.starts_with("AccessDenied"), "{refused}");

    for (key, wrong) in [
        (&signer, "GenerateMac"),
        (&mac, "Sign"),
        (&mac, "GetPublicKey"),
    ] {
        let refused = bench.call("CreateGrant", grant(key, &[wrong])).unwrap_err();
        let wanted = format!("ValidationException: Grant operations [{wrong}] are not supported");
        assert!(refused.starts_with(&wanted), "{refused}");
    }
    let mut constrained = grant(&signer, &["Sign"]);
    constrained["Constraints"] = json!({"EncryptionContextSubset": {"a": "b"}});
    let refused = bench.call("CreateGrant", constrained).unwrap_err();
    assert!(refused.starts_with("ValidationException"), "{refused}");
}
