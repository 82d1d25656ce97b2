//! The software keeper: a key file for development and tests.
//!
//! It behaves as a TPM would towards its callers and protects far less: who can read the file has the root secret (all but
//! the credential), and who puts the files back as they were has rolled back the counter and revived destroyed epoch
//! secrets. It says so wherever it is used.

mod files;

use std::path::{Path, PathBuf};

use kms_crypto::{Key, constant_time_eq, hkdf_key, hmac_sha256, unwrap_key, wrap_key};

use self::files::HostKey;
use crate::{
    PcrState, Profile, SealError, SealStatus, SealerConfig, TpmAttestation,
    enrollment::{Attestor, Body, Slot, SoftwareVault, Vault},
    hex::{Hex, HexArray, hex},
    keys::RootKeys,
    sealer::{Keeper, Link},
};

const WARNING: &str = "The root key lies in a plain key file, not in a TPM: who reads the file and the credential \
                       reads everything, and neither rollback nor the revival of deleted keys is detected.";

/// Where the key file is.
#[derive(Clone)]
pub(crate) struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    pub(crate) fn new(config: &SealerConfig) -> Self {
        tracing::warn!(key_file = %config.key_file.display(), "SOFTWARE SEALER: {WARNING}");
        Self {
            path: config.key_file.clone(),
        }
    }
}

impl Keeper for KeyFile {
    type Link = Opened;

    fn connect(&mut self) -> Result<Opened, SealError> {
        let host = match files::read_host_key(&self.path) {
            Ok(host) => Some(host),
            Err(SealError::KeyFileMissing { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Opened {
            path: self.path.clone(),
            host,
        })
    }

    fn make_attestor(&mut self, body: &Body, keys: &RootKeys) -> Result<Attestor, SealError> {
        let opened = self.connect()?;
        let path = opened.checkpoint_path(&body.id.0);
        if files::read(&path)?.is_none() {
            write_counter(&path, &body.id.0, keys, 1)?;
        }
        Ok(Attestor::Software)
    }

    fn attest(
        &mut self,
        _attestor: &Attestor,
        _qualifying: &[u8; 32],
    ) -> Result<Option<TpmAttestation>, SealError> {
        Ok(None)
    }
}

/// The key file as found.
pub(crate) struct Opened {
    path: PathBuf,
    host: Option<HostKey>,
}

impl Opened {
    /// The key that the record was made with.
    fn host_of(&self, vault: &SoftwareVault) -> Result<&Key<32>, SealError> {
        let host = self
            .host
            .as_ref()
            .ok_or_else(|| SealError::KeyFileMissing {
                path: self.path.clone(),
            })?;
        if host.id != vault.key_id.0 {
            return Err(SealError::OtherKeyFile {
                path: self.path.clone(),
            });
        }
        Ok(&host.key)
    }

    fn beside(&self, id: &[u8; 16], suffix: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{}.{suffix}", hex(id)));
        path.into()
    }

    fn counter_path(&self, id: &[u8; 16]) -> PathBuf {
        self.beside(id, "counter")
    }

    fn checkpoint_path(&self, id: &[u8; 16]) -> PathBuf {
        self.beside(id, "checkpoints")
    }

    fn slot_path(&self, id: &[u8; 16], slot: Slot) -> PathBuf {
        self.beside(
            id,
            match slot {
                Slot::A => "epoch-a",
                Slot::B => "epoch-b",
            },
        )
    }
}

fn read_counter(path: &Path, id: &[u8; 16], keys: &RootKeys) -> Result<u64, SealError> {
    let replaced = |reason: &str| SealError::CounterReplaced {
        counter: path.display().to_string(),
        reason: reason.to_owned(),
    };
    let data = files::read(path)?.ok_or_else(|| SealError::CounterMissing {
        counter: path.display().to_string(),
    })?;
    let (value, tag) = data
        .split_first_chunk::<8>()
        .ok_or_else(|| replaced("it is too short"))?;
    if !constant_time_eq(&counter_tag(keys, id, path, *value), tag) {
        return Err(replaced("its authentication does not fit"));
    }
    Ok(u64::from_be_bytes(*value))
}

fn write_counter(path: &Path, id: &[u8; 16], keys: &RootKeys, value: u64) -> Result<(), SealError> {
    let value = value.to_be_bytes();
    let data = [value.as_slice(), &counter_tag(keys, id, path, value)].concat();
    files::replace(path, &data)
}

impl Link for Opened {
    fn status(&mut self) -> Result<SealStatus, SealError> {
        Ok(SealStatus {
            kind: "software",
            device: self.path.display().to_string(),
            manufacturer: None,
            firmware: None,
            srk_handle: None,
            srk_name: None,
            lockout: None,
            pcrs: Vec::new(),
            measured: None,
            owner_auth_set: None,
            warnings: vec![WARNING.to_owned()],
        })
    }

    fn check(&mut self, body: &Body) -> Result<(), SealError> {
        let vault = vault_of(&body.vault)?;
        check_blob(self.host_of(vault)?, vault, &body.id.0)?;
        let counter = self.counter_path(&body.id.0);
        if files::read(&counter)?.is_none() {
            return Err(SealError::CounterMissing {
                counter: counter.display().to_string(),
            });
        }
        self.has_epoch(body, body.slot)
    }

    fn random(&mut self) -> Result<[u8; 32], SealError> {
        Ok(kms_crypto::random_array()?)
    }

    fn create(
        &mut self,
        id: &[u8; 16],
        _profile: Profile,
        root: &Key<32>,
        keys: &RootKeys,
        auth: &Key<32>,
    ) -> Result<(Vault, u64), SealError> {
        if self.host.is_none() {
            self.host = Some(files::create_host_key(&self.path)?);
        }
        let host = self
            .host
            .as_ref()
            .ok_or_else(|| SealError::KeyFileMissing {
                path: self.path.clone(),
            })?;
        let sealed = wrap_key(&blob_key(&host.key, auth)?, id, root)?;
        let vault = SoftwareVault {
            key_id: HexArray(host.id),
            tag: HexArray(blob_tag(&host.key, id, &sealed)),
            sealed: Hex(sealed),
        };
        write_counter(&self.counter_path(id), id, keys, 1)?;
        Ok((Vault::Software(vault), 1))
    }

    fn open(&mut self, body: &Body, auth: &Key<32>) -> Result<Key<32>, SealError> {
        let vault = vault_of(&body.vault)?;
        let host = self.host_of(vault)?;
        check_blob(host, vault, &body.id.0)?;
        unwrap_key(&blob_key(host, auth)?, &body.id.0, &vault.sealed.0)
            .map_err(|_| SealError::WrongCredential)
    }

    fn read_epoch(
        &mut self,
        body: &Body,
        slot: Slot,
        keys: &RootKeys,
    ) -> Result<Key<32>, SealError> {
        let path = self.slot_path(&body.id.0, slot);
        let name = path.display().to_string();
        let Some(wrapped) = files::read(&path)? else {
            return Err(SealError::EpochDestroyed { slot: name });
        };
        unwrap_key(&keys.nv, &slot_aad(&body.id.0, slot), &wrapped).map_err(|_| {
            SealError::EpochReplaced {
                slot: name,
                reason: "its authentication does not fit",
            }
        })
    }

    fn write_epoch(
        &mut self,
        id: &[u8; 16],
        _vault: &Vault,
        slot: Slot,
        keys: &RootKeys,
        secret: &Key<32>,
    ) -> Result<(), SealError> {
        let wrapped = wrap_key(&keys.nv, &slot_aad(id, slot), secret)?;
        files::replace(&self.slot_path(id, slot), &wrapped)
    }

    fn erase_epoch(&mut self, body: &Body, slot: Slot, _keys: &RootKeys) -> Result<(), SealError> {
        files::destroy(&self.slot_path(&body.id.0, slot))
    }

    fn has_epoch(&mut self, body: &Body, slot: Slot) -> Result<(), SealError> {
        let path = self.slot_path(&body.id.0, slot);
        match files::read(&path)? {
            Some(_) => Ok(()),
            None => Err(SealError::EpochDestroyed {
                slot: path.display().to_string(),
            }),
        }
    }

    fn counter(&mut self, body: &Body, keys: &RootKeys) -> Result<u64, SealError> {
        read_counter(&self.counter_path(&body.id.0), &body.id.0, keys)
    }

    fn increment(&mut self, body: &Body, keys: &RootKeys) -> Result<u64, SealError> {
        advance(&self.counter_path(&body.id.0), &body.id.0, keys)
    }

    fn approve(
        &mut self,
        _body: &Body,
        _root: &Key<32>,
        _state: &PcrState,
    ) -> Result<Vault, SealError> {
        Err(SealError::InvalidConfig {
            reason: "kind: the software sealer measures nothing, there is nothing to approve"
                .to_owned(),
        })
    }

    fn remove(&mut self, id: &[u8; 16], vault: &Vault) -> Result<(), SealError> {
        vault_of(vault)?;
        for path in [
            self.slot_path(id, Slot::A),
            self.slot_path(id, Slot::B),
            self.counter_path(id),
        ] {
            files::destroy(&path)?;
        }
        Ok(())
    }

    fn checkpoint_counter(
        &mut self,
        body: &Body,
        _attestor: &Attestor,
        keys: &RootKeys,
    ) -> Result<u64, SealError> {
        read_counter(&self.checkpoint_path(&body.id.0), &body.id.0, keys)
    }

    fn advance_checkpoint(
        &mut self,
        body: &Body,
        _attestor: &Attestor,
        keys: &RootKeys,
    ) -> Result<u64, SealError> {
        advance(&self.checkpoint_path(&body.id.0), &body.id.0, keys)
    }

    fn remove_attestor(&mut self, body: &Body, _attestor: &Attestor) -> Result<(), SealError> {
        files::destroy(&self.checkpoint_path(&body.id.0))
    }
}

fn vault_of(vault: &Vault) -> Result<&SoftwareVault, SealError> {
    match vault {
        Vault::Software(vault) => Ok(vault),
        Vault::Tpm(_) => Err(SealError::UnsupportedRecord {
            reason: "it was made by a TPM, the configuration says software".to_owned(),
        }),
    }
}

fn check_blob(host: &Key<32>, vault: &SoftwareVault, id: &[u8; 16]) -> Result<(), SealError> {
    if constant_time_eq(&blob_tag(host, id, &vault.sealed.0), &vault.tag.0) {
        Ok(())
    } else {
        Err(SealError::DamagedBlob)
    }
}

fn blob_key(host: &Key<32>, auth: &Key<32>) -> Result<Key<32>, SealError> {
    Ok(hkdf_key(
        b"kms-seal v0 software",
        &[host.expose(), auth.expose()],
        &[b"root secret"],
    )?)
}

fn blob_tag(host: &Key<32>, id: &[u8; 16], sealed: &[u8]) -> [u8; 32] {
    hmac_sha256(host.expose(), &[b"kms-seal v0 blob", id, sealed])
}

fn advance(path: &Path, id: &[u8; 16], keys: &RootKeys) -> Result<u64, SealError> {
    let value = read_counter(path, id, keys)? + 1;
    write_counter(path, id, keys, value)?;
    Ok(value)
}

fn counter_tag(keys: &RootKeys, id: &[u8; 16], path: &Path, value: [u8; 8]) -> [u8; 32] {
    // One counter's file is not taken for the other's.
    let label: &[u8] = match path.extension().and_then(|extension| extension.to_str()) {
        Some("checkpoints") => b"kms-seal v0 checkpoint counter",
        _ => b"kms-seal v0 counter",
    };
    hmac_sha256(keys.nv.expose(), &[label, id, &value])
}

fn slot_aad(id: &[u8; 16], slot: Slot) -> Vec<u8> {
    let slot = match slot {
        Slot::A => b'a',
        Slot::B => b'b',
    };
    [id.as_slice(), &[slot]].concat()
}
