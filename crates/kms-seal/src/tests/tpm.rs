//! What only a TPM does.
