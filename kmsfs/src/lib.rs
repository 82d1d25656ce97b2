//! kmsfs: a FUSE file system that encrypts each protected directory under its own KMS key.
//!
//! Three layers, top to bottom, each ignorant of the one above:
//!
//! * [`fuse`]: what the kernel says, turned into calls of
//! * [`fs`]: the operations on inodes and handles, which know no transport, over
//! * `backing`: the only place with system calls on the lower tree, `*at` calls on descriptors.
//!
//! Beside them: [`volume`] asks kmsd for the keys, [`access`] who may use them, [`service`] as whom kmsfs runs, [`control`] is the socket of one mount,
//! [`jobs`] is long work on it,
//! [`revoke`] ends access to what is open,
//! [`mount`] puts a file system into the tree and takes it out again, [`init`] makes a new volume,
//! [`status`] shows one. The program itself is [`run`].

pub mod access;
pub mod backing;
pub mod check;
pub mod control;
pub mod errno;
pub mod extent;
pub mod extract;
pub mod fs;
pub mod fuse;
pub mod handle;
pub mod init;
pub mod inode;
pub mod jobs;
mod log;
pub mod mount;
pub mod options;
mod program;
pub mod revoke;
pub mod service;
pub mod status;
pub mod volume;

pub use program::run;
