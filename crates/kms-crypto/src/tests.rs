//! Published test vectors, run on every provider that is compiled in, and the comparison of the two.

#[cfg(all(feature = "aws-lc", feature = "rustcrypto"))]
mod compare;
mod gcm;
mod hpke;
mod kdf;
#[cfg(feature = "aws-lc")]
mod kwp;
mod mac;
mod sealed;
mod signature;
mod siv;
mod x25519;
mod xts;

use data_encoding::HEXLOWER_PERMISSIVE;

/// Makes a `#[test]` per provider of functions that are generic over it.
macro_rules! on_every_provider {
    ($($test:ident),+ $(,)?) => {
        #[cfg(feature = "aws-lc")]
        mod aws_lc {
            $(#[test]
            fn $test() {
                super::$test::<crate::provider::aws_lc::AwsLc>();
            })+
        }
        #[cfg(feature = "rustcrypto")]
        mod rustcrypto {
            $(#[test]
            fn $test() {
                super::$test::<crate::provider::rustcrypto::RustCrypto>();
            })+
        }
    };
}
use on_every_provider;

pub(crate) fn hex(text: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap()
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap()
}

/// One record of a NIST response file, with the section it stands in.
pub(crate) struct Record<'a> {
    section: &'a str,
    lines: Vec<(&'a str, &'a str)>,
}

impl<'a> Record<'a> {
    /// The records of a response file: runs of `NAME = value` lines.
    pub(crate) fn all(file: &'a str) -> Vec<Self> {
        let mut section = "";
        let mut records = Vec::new();
        for block in file.split("\n\n") {
            let mut lines = Vec::new();
            for line in block
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
            {
                match line.strip_prefix('[') {
                    Some(name) => section = name.trim_end_matches(']'),
                    None => lines.push(
                        line.split_once('=')
                            .map_or((line, ""), |(k, v)| (k.trim(), v.trim())),
                    ),
                }
            }
            if !lines.is_empty() {
                records.push(Self { section, lines });
            }
        }
        records
    }

    fn find(&self, name: &str) -> Option<&'a str> {
        self.lines
            .iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| *value)
    }

    pub(crate) fn hex(&self, name: &str) -> Vec<u8> {
        hex(self
            .find(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.lines)))
    }
}
