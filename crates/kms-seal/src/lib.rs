//! The root key: TPM 2.0 and software sealers behind one trait.
