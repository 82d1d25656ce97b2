//! What a sealer is opened with: the device, the profile, the credential.

use std::{path::PathBuf, time::Duration};

use kms_crypto::{CryptoError, Key, SecretBytes};
use serde::{Deserialize, Serialize};

use crate::SealError;

/// Bytes that a machine's credential must have at least.
pub const MACHINE_CREDENTIAL_LEN: usize = 32;
/// Characters that a typed PIN must have at least.
pub const MIN_PIN_LEN: usize = 4;

/// How to reach the root key's keeper, see [`open`](crate::open).
#[derive(Debug, Clone)]
pub struct SealerConfig {
    /// TPM or software.
    pub kind: SealerKind,
    /// TPM: `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=N`.
    pub device: String,
    /// Software: the key file; counter and epoch files lie beside it.
    pub key_file: PathBuf,
    /// TPM: registers of the SHA-256 bank (0 to 23) that a new enrolment is bound to. Empty means
    /// no measurement is checked.
    pub pcrs: Vec<u32>,
    /// How long to wait for a device that is absent or held by another process.
    pub wait: Duration,
    /// The owner hierarchy's password, where one is set. Only enrolment, epoch changes and removal
    /// need it.
    pub owner_auth: Option<Credential>,
}

impl Default for SealerConfig {
    /// The TPM behind the kernel's resource manager, bound to PCR 7 (secure boot state), ten
    /// seconds of patience.
    fn default() -> Self {
        Self {
            kind: SealerKind::Tpm,
            device: "device:/dev/tpmrm0".to_owned(),
            key_file: PathBuf::from("/var/lib/kmsd/seal.key"),
            pcrs: vec![7],
            wait: Duration::from_secs(10),
            owner_auth: None,
        }
    }
}

impl SealerConfig {
    /// Checks what can be checked without touching the device.
    ///
    /// # Errors
    /// [`SealError::InvalidConfig`] naming the option.
    pub fn validate(&self) -> Result<(), SealError> {
        let invalid = |reason: String| Err(SealError::InvalidConfig { reason });
        if let Some(index) = self.pcrs.iter().find(|index| **index > 23) {
            return invalid(format!("pcrs: {index} is not a PCR (0 to 23)"));
        }
        match self.kind {
            SealerKind::Tpm if !is_device(&self.device) => invalid(format!(
                "device: `{}` is neither `device:/dev/...` nor `swtpm:host=...,port=...`",
                self.device
            )),
            SealerKind::Software if self.key_file.file_name().is_none() => {
                invalid("key_file: must name a file".to_owned())
            }
            SealerKind::Tpm | SealerKind::Software => Ok(()),
        }
    }
}

fn is_device(device: &str) -> bool {
    device
        .strip_prefix("device:")
        .is_some_and(|path| path.starts_with('/'))
        || device.strip_prefix("swtpm:").is_some_and(is_swtpm_address)
}

/// `host=NAME,port=1..65535`, the host optional.
fn is_swtpm_address(text: &str) -> bool {
    let mut port = false;
    let good = text.split(',').all(|part| match part.split_once('=') {
        Some(("host", name)) => !name.is_empty(),
        Some(("port", number)) => {
            port = number.bytes().all(|b| b.is_ascii_digit())
                && number.parse::<u16>().is_ok_and(|number| number > 0);
            port
        }
        Some(_) | None => false,
    });
    good && port
}

/// Who keeps the root secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SealerKind {
    /// A TPM 2.0.
    Tpm,
    /// A key file. For development: it resists neither a thief of the disk nor a rollback.
    Software,
}

impl SealerKind {
    /// As written in the configuration: `tpm` or `software`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Software => "software",
        }
    }
}

/// What stands behind the credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// At least 32 random bytes that the service manager delivers. Wrong ones are not counted, so
    /// unclean power-offs cannot lock the TPM. A stolen whole machine unlocks itself.
    #[default]
    Machine,
    /// A PIN that a person types, at least 4 characters. The TPM counts wrong ones and locks; it
    /// also counts an unclean power-off after use.
    Pin,
}

/// The credential: random bytes or a typed PIN, in locked memory. Zeroised on drop, never shown.
#[derive(Clone)]
pub struct Credential(std::sync::Arc<Kept>);

/// Longest credential that is kept in locked memory, in bytes.
const MAX_LOCKED: usize = 4096;

enum Kept {
    Locked {
        bytes: Key<MAX_LOCKED>,
        len: usize,
    },
    /// One that is too long, or no memory for keys is left.
    Heap(SecretBytes),
}

impl Credential {
    /// Takes the bytes as they are. A file's trailing newline is the caller's to remove.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        // Zeroised when dropped.
        let source = SecretBytes::from(bytes);
        let len = source.len();
        let locked = Key::try_init(|slot: &mut [u8; MAX_LOCKED]| {
            let place = slot.get_mut(..len).ok_or(CryptoError::Length {
                what: "credential",
                got: len,
            })?;
            place.copy_from_slice(source.expose());
            Ok(())
        });
        Self(std::sync::Arc::new(match locked {
            Ok(bytes) => Kept::Locked { bytes, len },
            Err(_) => Kept::Heap(source),
        }))
    }

    /// A fresh machine credential of 32 random bytes.
    ///
    /// # Errors
    /// [`SealError::Crypto`] if the system's random generator fails.
    pub fn random() -> Result<Self, SealError> {
        let key = Key::<MACHINE_CREDENTIAL_LEN>::random()?;
        Ok(Self::new(key.expose().to_vec()))
    }

    /// The bytes, for writing the credential file.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        match &*self.0 {
            Kept::Locked { bytes, len } => bytes.expose().get(..*len).unwrap_or_default(),
            Kept::Heap(bytes) => bytes.expose(),
        }
    }

    /// Refuses what is too short for `profile`.
    pub(crate) fn check(&self, profile: Profile) -> Result<(), SealError> {
        let bytes = self.expose();
        match profile {
            Profile::Machine if bytes.len() < MACHINE_CREDENTIAL_LEN => {
                Err(SealError::WeakCredential {
                    reason: "the machine profile needs 32 random bytes",
                })
            }
            Profile::Pin if String::from_utf8_lossy(bytes).chars().count() < MIN_PIN_LEN => {
                Err(SealError::WeakCredential {
                    reason: "the PIN profile needs at least 4 characters",
                })
            }
            Profile::Machine | Profile::Pin => Ok(()),
        }
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_names_the_wrong_option() {
        let good = SealerConfig::default();
        good.validate().unwrap();
        for (config, word) in [
            (
                SealerConfig {
                    pcrs: vec![7, 24],
                    ..good.clone()
                },
                "pcrs: 24",
            ),
            (
                SealerConfig {
                    device: "/dev/tpmrm0".to_owned(),
                    ..good.clone()
                },
                "device: `/dev/tpmrm0`",
            ),
            (
                SealerConfig {
                    kind: SealerKind::Software,
                    key_file: "/".into(),
                    ..good
                },
                "key_file",
            ),
        ] {
            assert!(
                config.validate().unwrap_err().to_string().contains(word),
                "{word}"
            );
        }
    }

    #[test]
    fn the_port_of_a_simulator_is_one() {
        let is = |text: &str| is_device(&format!("swtpm:{text}"));
        assert!(is("host=127.0.0.1,port=2321") && is("port=1") && is("host=::1,port=65535"));
        for wrong in [
            "",
            "host=x",
            "port=0",
            "port=65536",
            "port=+1",
            "host=,port=1",
            "port=1,x=2",
        ] {
            assert!(!is(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_credential_is_in_memory_for_keys() {
        // Memory for keys is left out of core dumps, which the kernel shows as the flag `dd`.
        let dumped = |address: usize| {
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut inside = false;
            for line in maps.lines() {
                let range = line.split(' ').next().unwrap().split_once('-');
                let number = |text| usize::from_str_radix(text, 16).ok();
                if let Some((Some(from), Some(to))) =
                    range.map(|(from, to)| (number(from), number(to)))
                {
                    inside = (from..to).contains(&address);
                } else if inside && line.starts_with("VmFlags:") {
                    return !line.split_whitespace().any(|flag| flag == "dd");
                }
            }
            panic!("{address:x} is not mapped");
        };
        for bytes in [b"1234".to_vec(), vec![7; 32], vec![7; MAX_LOCKED]] {
            let credential = Credential::new(bytes.clone());
            assert_eq!(credential.expose(), bytes);
            assert!(!dumped(credential.expose().as_ptr() as usize));
        }
        let long = Credential::new(vec![7; MAX_LOCKED + 1]);
        assert_eq!(long.expose().len(), MAX_LOCKED + 1);
    }

    #[test]
    fn weak_credentials_are_refused() {
        assert!(
            Credential::new(vec![1; 31])
                .check(Profile::Machine)
                .is_err()
        );
        assert!(
            Credential::new(b"123".to_vec())
                .check(Profile::Pin)
                .is_err()
        );
        Credential::new(b"1234".to_vec())
            .check(Profile::Pin)
            .unwrap();
        Credential::random()
            .unwrap()
            .check(Profile::Machine)
            .unwrap();
    }
}
