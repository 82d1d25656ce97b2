//! TPM only.
