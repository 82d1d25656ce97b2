//! Identities: 16 random bytes each, and the content mode of a policy.

use std::fmt;
use std::str::FromStr;

use crate::FormatError;

/// A text that is not 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 lower-case hexadecimal digits")]
pub struct IdError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Shown and parsed as 32 lower-case hexadecimal digits.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Draws a new id.
            ///
            /// # Errors
            /// [`FormatError::Crypto`] if the system gives no random bytes.
            pub fn random() -> Result<Self, FormatError> {
                Ok(Self(kms_crypto::random_array()?))
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| IdError)?;
                bytes.try_into().map(Self).map_err(|_| IdError)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

id! {
    /// A volume: one lower tree.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(try_from = "String", into = "String")]
    VolumeId
}
id! {
    /// A policy: the binding of a directory tree to a KMS key.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(try_from = "String", into = "String")]
    PolicyId
}
id! {
    /// A directory.
    DirId
}
id! {
    /// A file.
    FileId
}

/// How the content of a policy's files is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ContentMode {
    /// AES-256-XTS in units of 4096 bytes: not authenticated.
    #[serde(rename = "XTS")]
    Xts,
    /// AES-256-GCM in units of 4064 bytes: authenticated.
    #[serde(rename = "GCM")]
    Gcm,
}

impl ContentMode {
    /// The byte that stands for the mode in headers.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Xts => 1,
            Self::Gcm => 2,
        }
    }

    /// The mode a header byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Xts),
            2 => Some(Self::Gcm),
            _ => None,
        }
    }
}

impl fmt::Display for ContentMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xts => "XTS",
            Self::Gcm => "GCM",
        })
    }
}
