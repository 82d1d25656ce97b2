//! The kmsfs format on disk: headers, units, names and sizes, as pure functions of bytes.
//!
//! `docs/FORMAT.md` is the description, section by section; this crate is its only implementation. It opens no file and
//! knows no path: [`content`] runs its steps on anything that implements [`content::Lower`], a real file or a model of one.
//!
//! Every decoder takes arbitrary bytes and answers with a [`FormatError`]; none panics.
//!
//! Where to start: [`UnlockedPolicy`] is what unlocking a policy yields; [`DirHeader`] and [`DirKeys`] make a directory,
//! [`FileHeader`] and [`FileKeys`] a file; [`names`], [`symlink`] and [`xattr`] translate what is not content;
//! [`content`] is an open file, made of [`size`] and [`xts`] (or [`gcm`]).
//!
//! ```
//! use kms_crypto::Key;
//! use kms_format::{ContentMode, FileHeader, PolicyId, UnlockedPolicy, VolumeId, file};
//!
//! # fn main() -> Result<(), kms_format::FormatError> {
//! let policy = UnlockedPolicy::derive(
//!     VolumeId::random()?, PolicyId::random()?, 1, ContentMode::Xts, &Key::random()?, &Key::random()?,
//! )?;
//! let (mut header, keys) = FileHeader::create(&policy)?;
//! let mut page = [0; file::PAGE];
//! header.write_inline(&keys, b"hello", &mut page)?;
//!
//! let opened = FileHeader::open(&page, &policy)?;
//! assert_eq!(opened.content.as_slice(), b"hello");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod bytes;
pub mod content;
pub mod dir;
mod error;
pub mod file;
pub mod gcm;
mod id;
pub mod job;
pub mod keys;
pub mod names;
pub mod size;
pub mod symlink;
#[cfg(test)]
mod testing;
pub mod volume;
pub mod xattr;
pub mod xts;

pub use dir::{DirHeader, Nesting};
pub use error::{FormatError, Record};
pub use file::FileHeader;
pub use id::{ContentMode, DirId, FileId, IdError, PolicyId, VolumeId};
pub use keys::{DirKeys, FileKeys, UnlockedPolicy, XattrKeys};
pub use names::NameError;
pub use size::SizeError;

/// The format number of every record this crate writes. Number 1 is frozen: every later build reads it
/// (`tests/fixtures/format1` has sample volumes).
pub const FORMAT: u16 = 1;
