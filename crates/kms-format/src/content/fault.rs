//! Why an operation on content failed.

use crate::{FormatError, SizeError};

/// Why an operation on content failed.
#[derive(Debug, thiserror::Error)]
pub enum Fault<E> {
    /// The lower file system, or who gives out keys, said no.
    #[error("the lower file system refused")]
    Lower(E),
    /// The lower bytes are not what they should be: to be logged with the path.
    #[error(transparent)]
    Damage(FormatError),
    /// The file was opened for reading only.
    #[error("the file was opened for reading only")]
    ReadOnly,
    /// Larger than a file can be.
    #[error("larger than a file can be")]
    TooLarge,
    /// More holes than a header lists, and each of them too large to be filled with zeros (mode gcm).
    #[error(
        "the file has more holes than its header can list, and they are too large to be filled with zeros: \
         write it with fewer gaps, or keep it in a directory of mode xts"
    )]
    Holes,
    /// No data behind this offset.
    #[error("no data behind this offset")]
    NoData,
    /// The lower file system cannot reserve space.
    #[error("the lower file system cannot reserve space")]
    Unsupported,
}

/// The result of an operation on content.
pub type Faulty<T, E> = Result<T, Fault<E>>;

impl<E> From<FormatError> for Fault<E> {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Size(error) => error.into(),
            error => Self::Damage(error),
        }
    }
}

impl<E> From<SizeError> for Fault<E> {
    fn from(error: SizeError) -> Self {
        match error {
            // A request that cannot be met, not damage.
            SizeError::TooLarge { .. } => Self::TooLarge,
            error => Self::Damage(error.into()),
        }
    }
}
