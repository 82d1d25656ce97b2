//! Which operations a grant on a key can list: those that the key has.

use kms_api::{GrantOperation, KeySpec, KeyUsage};

/// Whether keys of this kind have the operation.
pub fn grantable(operation: GrantOperation, spec: KeySpec, usage: KeyUsage) -> bool {
    use GrantOperation as O;
    let symmetric = spec == KeySpec::SymmetricDefault;
    let mac = usage == KeyUsage::GenerateVerifyMac;
    match operation {
        O::CreateGrant | O::RetireGrant | O::DescribeKey => true,
        O::Encrypt | O::Decrypt | O::ReEncryptFrom | O::ReEncryptTo => {
            usage == KeyUsage::EncryptDecrypt
        }
        O::GenerateDataKey
        | O::GenerateDataKeyWithoutPlaintext
        | O::GenerateDataKeyPair
        | O::GenerateDataKeyPairWithoutPlaintext => symmetric,
        O::Sign | O::Verify => usage == KeyUsage::SignVerify,
        O::GetPublicKey => !symmetric && !mac,
        O::GenerateMac | O::VerifyMac => mac,
        O::DeriveSharedSecret => usage == KeyUsage::KeyAgreement,
        O::Encapsulate | O::Decapsulate => usage == KeyUsage::EncapsulateDecapsulate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Developer Guide's table "Grant operations", by kind of key.
    #[test]
    fn each_kind_of_key_has_its_operations() {
        let always = ["CreateGrant", "DescribeKey", "RetireGrant"];
        let cases: [(KeySpec, KeyUsage, &[&str]); 7] = [
            (
                KeySpec::SymmetricDefault,
                KeyUsage::EncryptDecrypt,
                &[
                    "Decrypt",
                    "Encrypt",
                    "GenerateDataKey",
                    "GenerateDataKeyPair",
                    "GenerateDataKeyPairWithoutPlaintext",
                    "GenerateDataKeyWithoutPlaintext",
                    "ReEncryptFrom",
                    "ReEncryptTo",
                ],
            ),
            (
                KeySpec::Rsa2048,
                KeyUsage::EncryptDecrypt,
                &[
                    "Decrypt",
                    "Encrypt",
                    "GetPublicKey",
                    "ReEncryptFrom",
                    "ReEncryptTo",
                ],
            ),
            (
                KeySpec::Rsa4096,
                KeyUsage::SignVerify,
                &["GetPublicKey", "Sign", "Verify"],
            ),
            (
                KeySpec::MlDsa65,
                KeyUsage::SignVerify,
                &["GetPublicKey", "Sign", "Verify"],
            ),
            (
                KeySpec::EccNistP256,
                KeyUsage::KeyAgreement,
                &["DeriveSharedSecret", "GetPublicKey"],
            ),
            (
                KeySpec::Hmac256,
                KeyUsage::GenerateVerifyMac,
                &["GenerateMac", "VerifyMac"],
            ),
            (
                KeySpec::MlKem768,
                KeyUsage::EncapsulateDecapsulate,
                &["Decapsulate", "Encapsulate", "GetPublicKey"],
            ),
        ];
        for (spec, usage, own) in cases {
            let mut wanted: Vec<&str> = own.iter().chain(&always).copied().collect();
            wanted.sort_unstable();
            let mut found: Vec<&str> = GrantOperation::WIRE
                .iter()
                .filter(|name| grantable(GrantOperation::from_wire(name).unwrap(), spec, usage))
                .copied()
                .collect();
            found.sort_unstable();
            assert_eq!(found, wanted, "{spec} {usage}");
        }
        assert_eq!(GrantOperation::WIRE.len(), 19);
    }
}
