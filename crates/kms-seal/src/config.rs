//! What a sealer is opened with: the device, the profile, the credential.

use std::{path::PathBuf, time::Duration};

use kms_crypto::{Key, SecretBytes};
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
        || device
            .strip_prefix("swtpm:")
            .is_some_and(|rest| rest.contains("port="))
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

/// The credential: random bytes or a typed PIN. Zeroised on drop, never shown.
#[derive(Clone)]
pub struct Credential(std::sync::Arc<SecretBytes>);

impl Credential {
    /// Takes the bytes as they are. A file's trailing newline is the caller's to remove.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(std::sync::Arc::new(SecretBytes::from(bytes)))
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
        self.0.expose()
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
