//! kmsfs: a FUSE file system that encrypts each protected directory under its own KMS key.
//!
//! Three layers, top to bottom, each ignorant of the one above:
//!
//! * [`fuse`]: what the kernel says, in fuser's types, turned into calls of
//! * `fs`: the operations on inodes and handles, which know no transport, over
//! * `backing`: the only place with system calls, `*at` calls on directory descriptors.
//!
//! Beside them: [`volume`] asks kmsd for the keys, [`control`] is the socket of one mount,
//! [`mount`] puts a file system into the tree and takes it out again, [`init`] makes a new volume.
//! The program itself is [`run`].

pub mod options;

/// The exit status of the program.
pub use std::process::ExitCode;
