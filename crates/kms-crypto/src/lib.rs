//! Cryptographic primitives of kmsd and kmsfs: AEAD, XTS, SIV, KDF, key types in locked memory.
