//! `keys.json`: the public keys that a log's checkpoints are verified with. Whoever verifies needs a copy that was made
//! when the host was trusted: the one on the host is as good as its root user.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::attest::{AttestError, TpmKeys};
use super::checkpoint::Sealer;
use super::note::{KIND_ED25519, VerifierKey};

const VERSION: u32 = 1;

/// The file as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    origin: String,
    keys: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Number of the first checkpoint that it signed.
    since: u64,
    /// Ed25519, as `NAME+HASH+BASE64`.
    verifier: String,
    sealer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tpm: Option<TpmEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TpmEntry {
    /// TPMT_PUBLIC, hexadecimal.
    attestation_key: String,
    endorsement_name: String,
    /// TPMS_NV_PUBLIC, hexadecimal.
    counter: String,
    certifies: bool,
}

/// The keys of one log, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Which log.
    pub origin: String,
    keys: Vec<LogKey>,
}

/// The key of one enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKey {
    /// Number of the first checkpoint that it signed.
    pub since: u64,
    /// Signs every checkpoint.
    pub verifier: VerifierKey,
    /// Attests every checkpoint; `None` for the software sealer.
    pub tpm: Option<TpmKeys>,
}

impl LogKey {
    /// What vouches.
    #[must_use]
    pub const fn sealer(&self) -> Sealer {
        match self.tpm {
            Some(_) => Sealer::Tpm,
            None => Sealer::Software,
        }
    }
}

/// Why a key file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Not JSON of this form.
    #[error("it is not a key file: {0}")]
    Json(String),
    /// Made by another version of kmsd.
    #[error("it has version {0}, and this program reads version {VERSION}")]
    Version(u32),
    /// One of its keys is no key.
    #[error("its key {number}: {reason}")]
    Key {
        /// Which, from 1.
        number: usize,
        /// Why.
        reason: String,
    },
}

impl Keys {
    /// The keys of a new log.
    #[must_use]
    pub const fn new(origin: String) -> Self {
        Self {
            origin,
            keys: Vec::new(),
        }
    }

    /// The keys, oldest first.
    #[must_use]
    pub fn keys(&self) -> &[LogKey] {
        &self.keys
    }

    /// Adds the key of a new enrolment. Says whether it was not there yet.
    pub fn add(&mut self, key: LogKey) -> bool {
        let known = self
            .keys
            .iter()
            .any(|other| other.verifier == key.verifier && other.tpm == key.tpm);
        if !known {
            self.keys.push(key);
        }
        !known
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`KeysError`]; a TPM's keys that can vouch for nothing are refused too.
    pub fn parse(json: &[u8]) -> Result<Self, KeysError> {
        let file: KeyFile =
            serde_json::from_slice(json).map_err(|error| KeysError::Json(error.to_string()))?;
        if file.version != VERSION {
            return Err(KeysError::Version(file.version));
        }
        let mut keys = Vec::new();
        for (number, entry) in (1..).zip(&file.keys) {
            let key = entry.read(&file.origin);
            keys.push(key.map_err(|reason| KeysError::Key { number, reason })?);
        }
        Ok(Self {
            origin: file.origin,
            keys,
        })
    }

    /// Writes a file.
    #[must_use]
    pub fn to_json(&self) -> String {
        let file = KeyFile {
            version: VERSION,
            origin: self.origin.clone(),
            keys: self.keys.iter().map(Entry::of).collect(),
        };
        // Strings and numbers always have a JSON form.
        let mut json = serde_json::to_string_pretty(&file).unwrap_or_default();
        json.push('\n');
        json
    }
}

impl Entry {
    fn of(key: &LogKey) -> Self {
        Self {
            since: key.since,
            verifier: key.verifier.to_string(),
            sealer: key.sealer().as_str().to_owned(),
            tpm: key.tpm.as_ref().map(|tpm| TpmEntry {
                attestation_key: HEXLOWER.encode(&tpm.attestation_key),
                endorsement_name: HEXLOWER.encode(&tpm.endorsement_name),
                counter: HEXLOWER.encode(&tpm.counter),
                certifies: tpm.certifies,
            }),
        }
    }

    fn read(&self, origin: &str) -> Result<LogKey, String> {
        let verifier = VerifierKey::parse(&self.verifier).map_err(|error| error.to_string())?;
        if verifier.kind != KIND_ED25519 || verifier.name != origin {
            return Err("it is not a key of this log".to_owned());
        }
        let hex = |text: &str| {
            HEXLOWER
                .decode(text.as_bytes())
                .map_err(|_| "it is not hexadecimal".to_owned())
        };
        let tpm = match &self.tpm {
            None => None,
            Some(entry) => {
                let tpm = TpmKeys {
                    attestation_key: hex(&entry.attestation_key)?,
                    endorsement_name: hex(&entry.endorsement_name)?,
                    counter: hex(&entry.counter)?,
                    certifies: entry.certifies,
                };
                tpm.check()
                    .map_err(|error: AttestError| error.to_string())?;
                Some(tpm)
            }
        };
        let key = LogKey {
            since: self.since,
            verifier,
            tpm,
        };
        if key.sealer().as_str() == self.sealer {
            Ok(key)
        } else {
            Err("what it says of the sealer does not fit its keys".to_owned())
        }
    }
}
