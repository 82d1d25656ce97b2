//! kmsd: a key management daemon with the AWS KMS API, its root key sealed to a TPM 2.0.
