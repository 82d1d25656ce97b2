//! Enumerations of the API, with the values of botocore's KMS model.

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $( $(#[$vdoc:meta])* $variant:ident = $wire:literal, )* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the variants are the wire values")]
        pub enum $name { $( $(#[$vdoc])* $variant, )* }

        impl $name {
            /// The values on the wire, in declaration order.
            pub const WIRE: &'static [&'static str] = &[ $( $wire, )* ];

            /// The value on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $wire, )* }
            }

            /// The variant with that value on the wire.
            pub fn from_wire(text: &str) -> Option<Self> {
                match text { $( $wire => Some(Self::$variant), )* _ => None }
            }
        }

        impl $crate::enums::WireEnum for $name {
            const WIRE: &'static [&'static str] = Self::WIRE;
            fn from_wire(text: &str) -> Option<Self> { Self::from_wire(text) }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(d)?;
                Self::from_wire(&text).ok_or_else(|| {
                    serde::de::Error::unknown_variant(&text, Self::WIRE)
                })
            }
        }
    };
}
pub(crate) use wire_enum;

/// What the request decoder needs of an enumeration.
pub(crate) trait WireEnum: Sized {
    /// The values on the wire.
    const WIRE: &'static [&'static str];
    /// The variant with that value.
    fn from_wire(text: &str) -> Option<Self>;
}

wire_enum! {
    /// Kind of key material.
    KeySpec {
        Rsa2048 = "RSA_2048", Rsa3072 = "RSA_3072", Rsa4096 = "RSA_4096",
        EccNistP256 = "ECC_NIST_P256", EccNistP384 = "ECC_NIST_P384", EccNistP521 = "ECC_NIST_P521",
        EccSecgP256k1 = "ECC_SECG_P256K1", SymmetricDefault = "SYMMETRIC_DEFAULT",
        Hmac224 = "HMAC_224", Hmac256 = "HMAC_256", Hmac384 = "HMAC_384", Hmac512 = "HMAC_512",
        Sm2 = "SM2", MlDsa44 = "ML_DSA_44", MlDsa65 = "ML_DSA_65", MlDsa87 = "ML_DSA_87",
        EccNistEdwards25519 = "ECC_NIST_EDWARDS25519",
        MlKem512 = "ML_KEM_512", MlKem768 = "ML_KEM_768", MlKem1024 = "ML_KEM_1024",
    }
}

impl KeySpec {
    /// The value of the deprecated member `CustomerMasterKeySpec`, which the newer kinds of keys do not have.
    pub fn customer_master_key_spec(self) -> Option<Self> {
        match self {
            Self::MlDsa44
            | Self::MlDsa65
            | Self::MlDsa87
            | Self::EccNistEdwards25519
            | Self::MlKem512
            | Self::MlKem768
            | Self::MlKem1024 => None,
            Self::Rsa2048
            | Self::Rsa3072
            | Self::Rsa4096
            | Self::EccNistP256
            | Self::EccNistP384
            | Self::EccNistP521
            | Self::EccSecgP256k1
            | Self::SymmetricDefault
            | Self::Hmac224
            | Self::Hmac256
            | Self::Hmac384
            | Self::Hmac512
            | Self::Sm2 => Some(self),
        }
    }
}

wire_enum! {
    /// What a key is for.
    KeyUsage {
        SignVerify = "SIGN_VERIFY", EncryptDecrypt = "ENCRYPT_DECRYPT",
        GenerateVerifyMac = "GENERATE_VERIFY_MAC", KeyAgreement = "KEY_AGREEMENT",
        EncapsulateDecapsulate = "ENCAPSULATE_DECAPSULATE",
    }
}

wire_enum! {
    /// Algorithm of Encrypt, Decrypt and ReEncrypt.
    EncryptionAlgorithm {
        SymmetricDefault = "SYMMETRIC_DEFAULT", RsaesOaepSha1 = "RSAES_OAEP_SHA_1",
        RsaesOaepSha256 = "RSAES_OAEP_SHA_256", Sm2Pke = "SM2PKE",
    }
}

wire_enum! {
    /// Algorithm of Sign and Verify.
    SigningAlgorithm {
        RsassaPssSha256 = "RSASSA_PSS_SHA_256", RsassaPssSha384 = "RSASSA_PSS_SHA_384",
        RsassaPssSha512 = "RSASSA_PSS_SHA_512", RsassaPkcs1Sha256 = "RSASSA_PKCS1_V1_5_SHA_256",
        RsassaPkcs1Sha384 = "RSASSA_PKCS1_V1_5_SHA_384",
        RsassaPkcs1Sha512 = "RSASSA_PKCS1_V1_5_SHA_512", EcdsaSha256 = "ECDSA_SHA_256",
        EcdsaSha384 = "ECDSA_SHA_384", EcdsaSha512 = "ECDSA_SHA_512", Sm2Dsa = "SM2DSA",
        MlDsaShake256 = "ML_DSA_SHAKE_256", Ed25519Sha512 = "ED25519_SHA_512",
        Ed25519PhSha512 = "ED25519_PH_SHA_512",
    }
}

wire_enum! {
    /// What the message of Sign and Verify is.
    MessageType { Raw = "RAW", Digest = "DIGEST", ExternalMu = "EXTERNAL_MU", }
}

wire_enum! {
    /// Algorithm of GenerateMac and VerifyMac.
    MacAlgorithm {
        HmacSha224 = "HMAC_SHA_224", HmacSha256 = "HMAC_SHA_256", HmacSha384 = "HMAC_SHA_384",
        HmacSha512 = "HMAC_SHA_512",
    }
}

wire_enum! {
    /// Algorithm of DeriveSharedSecret.
    KeyAgreementAlgorithm { Ecdh = "ECDH", }
}

wire_enum! {
    /// Algorithm of Encapsulate and Decapsulate.
    EncapsulationAlgorithm { MlKem = "ML_KEM", }
}

wire_enum! {
    /// Kind of a pair of data keys.
    DataKeyPairSpec {
        Rsa2048 = "RSA_2048", Rsa3072 = "RSA_3072", Rsa4096 = "RSA_4096",
        EccNistP256 = "ECC_NIST_P256", EccNistP384 = "ECC_NIST_P384", EccNistP521 = "ECC_NIST_P521",
        EccSecgP256k1 = "ECC_SECG_P256K1", Sm2 = "SM2",
        EccNistEdwards25519 = "ECC_NIST_EDWARDS25519",
        MlKem512 = "ML_KEM_512", MlKem768 = "ML_KEM_768", MlKem1024 = "ML_KEM_1024",
    }
}

wire_enum! {
    /// State of a key.
    KeyState {
        Creating = "Creating", Enabled = "Enabled", Disabled = "Disabled",
        PendingDeletion = "PendingDeletion", PendingImport = "PendingImport",
        PendingReplicaDeletion = "PendingReplicaDeletion", Unavailable = "Unavailable",
        Updating = "Updating",
    }
}

wire_enum! {
    /// Where key material comes from.
    Origin {
        AwsKms = "AWS_KMS", External = "EXTERNAL", AwsCloudHsm = "AWS_CLOUDHSM",
        ExternalKeyStore = "EXTERNAL_KEY_STORE",
    }
}

wire_enum! {
    /// Who manages a key.
    KeyManager { Aws = "AWS", Customer = "CUSTOMER", }
}

wire_enum! {
    /// Length of a data key.
    DataKeySpec { Aes256 = "AES_256", Aes128 = "AES_128", }
}

wire_enum! {
    /// Modifier of a dry run.
    DryRunModifier { IgnoreCiphertext = "IGNORE_CIPHERTEXT", }
}

wire_enum! {
    /// State of one version of key material.
    KeyMaterialState {
        NonCurrent = "NON_CURRENT", Current = "CURRENT", PendingRotation = "PENDING_ROTATION",
        PendingMultiRegionImportAndRotation = "PENDING_MULTI_REGION_IMPORT_AND_ROTATION",
    }
}

wire_enum! {
    /// What started a rotation.
    RotationType { Automatic = "AUTOMATIC", OnDemand = "ON_DEMAND", }
}

wire_enum! {
    /// Which key material ListKeyRotations lists.
    IncludeKeyMaterial { AllKeyMaterial = "ALL_KEY_MATERIAL", RotationsOnly = "ROTATIONS_ONLY", }
}

wire_enum! {
    /// An operation that a grant can allow.
    GrantOperation {
        Decrypt = "Decrypt", Encrypt = "Encrypt", GenerateDataKey = "GenerateDataKey",
        GenerateDataKeyWithoutPlaintext = "GenerateDataKeyWithoutPlaintext",
        ReEncryptFrom = "ReEncryptFrom", ReEncryptTo = "ReEncryptTo", Sign = "Sign", Verify = "Verify",
        GetPublicKey = "GetPublicKey", CreateGrant = "CreateGrant", RetireGrant = "RetireGrant",
        DescribeKey = "DescribeKey", GenerateDataKeyPair = "GenerateDataKeyPair",
        GenerateDataKeyPairWithoutPlaintext = "GenerateDataKeyPairWithoutPlaintext",
        GenerateMac = "GenerateMac", VerifyMac = "VerifyMac",
        DeriveSharedSecret = "DeriveSharedSecret", Encapsulate = "Encapsulate",
        Decapsulate = "Decapsulate",
    }
}

wire_enum! {
    /// Whose keys ListKeys lists.
    ResourceOwner { OwnedBySelf = "SELF", OtherAccountsViaRam = "OTHER_ACCOUNTS_VIA_RAM", }
}

wire_enum! {
    /// Whom an identity policy is attached to.
    IdentityType {
        /// A user, by name.
        User = "USER",
        /// A group of the name service, by name.
        Group = "GROUP",
        /// A systemd unit, by its full name.
        Unit = "UNIT",
        /// A role that the mapping rules of the configuration give.
        Role = "ROLE",
    }
}

wire_enum! {
    /// Where a policy is from.
    PolicySource { Catalogue = "CATALOGUE", File = "FILE", }
}

wire_enum! {
    /// What is decided about a request.
    Decision { Allowed = "ALLOWED", ExplicitDeny = "EXPLICIT_DENY", ImplicitDeny = "IMPLICIT_DENY", }
}

wire_enum! {
    /// What a user who loses access to a tree keeps of open files.
    RevokeMode {
        /// Descriptors and mappings of the user fail; others reopen the file.
        Stale = "STALE",
        /// The user's processes that hold files are killed.
        Kill = "KILL",
    }
}

#[allow(
    clippy::derivable_impls,
    reason = "the macro derives for every enumeration alike"
)]
impl Default for RevokeMode {
    fn default() -> Self {
        Self::Stale
    }
}

wire_enum! {
    /// What a mount does with a tree while kmsd cannot be asked.
    OnKmsdLoss { KeepOpen = "KEEP_OPEN", LockAfter = "LOCK_AFTER", }
}

wire_enum! {
    /// How kmsfs protects content under a policy.
    ContentMode { Xts = "XTS", Gcm = "GCM", }
}
