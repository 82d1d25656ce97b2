//! The primitives over the crates of the RustCrypto project.
