//! kmsfs: a FUSE file system that encrypts each protected directory under its own KMS key.
