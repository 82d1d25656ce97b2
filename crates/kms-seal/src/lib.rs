//! The root key: TPM 2.0 and software sealers behind one trait.

mod error;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::{
    MovedPcr, SealError,
    kind::{ErrorKind, kinds},
};
