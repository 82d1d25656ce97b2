//! Domain keys: one per deletion epoch, each wrapped to every recipient; they wrap key material and
//! policy secrets.

use std::collections::BTreeMap;

use kms_api::KeySpec;
use kms_crypto::{
    CryptoError, Key, RecoveryPrivateKey, RecoveryPublicKey, SecretBytes, hkdf_key, unwrap_bytes,
    unwrap_key, wrap_bytes, wrap_key,
};

use crate::ids::{KeyId, MaterialId, Scope};
use crate::rows::{Bytes, DomainRow, DomainWrap, MaterialRow, MetaRow, Recipient, Wrapped};

/// What a wrapped secret is; all of it is authenticated with the wrap, so that no row can be moved
/// to another place.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A version of the material of a key of this kind.
    Material(KeyId, MaterialId, KeySpec),
    /// The secret of a policy: volume, policy, generation.
    PolicySecret(&'a str, &'a str, u32),
    /// The secret of an access key: its id and its principal.
    AccessKey(&'a str, &'a str),
}

/// The domain keys that are open, and the one that new wraps use.
pub struct DomainKeys {
    store_id: String,
    scope: Scope,
    current: u64,
    keys: BTreeMap<u64, Key<32>>,
}

/// A wrap or unwrap under a domain key failed.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// The row names a domain key that this store no longer has.
    #[error("domain key {0} is not in this store")]
    Missing(u64),
    /// The wrap was changed, or belongs to another row or store.
    #[error("a wrapped secret does not open: {0}")]
    Crypto(#[from] CryptoError),
    /// No wrap for this recipient.
    #[error("domain key {0} has no wrap for {1}")]
    NoRecipient(u64, &'static str),
}

impl DomainKeys {
    /// An empty set for the store that `meta` describes.
    pub fn new(meta: &MetaRow) -> Self {
        Self {
            store_id: meta.store_id.clone(),
            scope: meta.scope.clone(),
            current: meta.domain,
            keys: BTreeMap::new(),
        }
    }

    /// Draws a new domain key, without making it current.
    pub fn draw(&mut self, id: u64) -> Result<(), DomainError> {
        self.keys.insert(id, Key::random()?);
        Ok(())
    }

    /// New wraps use this domain key from now on.
    pub fn make_current(&mut self, id: u64) {
        self.current = id;
    }

    /// Opens a domain key with the host's KEK.
    pub fn open_as_host(&mut self, row: &DomainRow, kek: &Key<32>) -> Result<(), DomainError> {
        let mut last = DomainError::NoRecipient(row.id, "this host");
        for entry in row.wraps.iter().filter(|w| w.recipient == Recipient::Host) {
            match unwrap_key(kek, &self.host_aad(row.id), &entry.blob.0) {
                Ok(key) => {
                    self.keys.insert(row.id, key);
                    return Ok(());
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// Opens a domain key with the recovery private key.
    pub fn open_as_recovery(
        &mut self,
        row: &DomainRow,
        private: &RecoveryPrivateKey,
    ) -> Result<(), DomainError> {
        let mut last = DomainError::NoRecipient(row.id, "a recovery key");
        for entry in &row.wraps {
            let Recipient::Recovery(_) = entry.recipient else {
                continue;
            };
            match private.open(RECOVERY_INFO, &self.recovery_aad(row.id), &entry.blob.0) {
                Ok(secret) => {
                    self.keys.insert(row.id, Key::from_slice(secret.expose())?);
                    return Ok(());
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// The row of an open domain key, wrapped to this host and to the recovery key.
    pub fn row(
        &self,
        id: u64,
        created_ms: i64,
        kek: &Key<32>,
        recovery: &RecoveryPublicKey,
    ) -> Result<DomainRow, DomainError> {
        let key = self.key(id)?;
        let host = wrap_key(kek, &self.host_aad(id), key)?;
        let recovered = recovery.seal(RECOVERY_INFO, &self.recovery_aad(id), key.expose())?;
        Ok(DomainRow {
            id,
            created_ms,
            wraps: vec![
                DomainWrap {
                    recipient: Recipient::Host,
                    blob: Bytes(host),
                },
                DomainWrap {
                    recipient: Recipient::Recovery(Bytes(recovery.as_bytes().to_vec())),
                    blob: Bytes(recovered),
                },
            ],
        })
    }

    /// The same domain key with a wrap for this host in the place of those for hosts; who can recover it stays.
    pub fn with_host(&self, row: &DomainRow, kek: &Key<32>) -> Result<DomainRow, DomainError> {
        let host = wrap_key(kek, &self.host_aad(row.id), self.key(row.id)?)?;
        let others = row.wraps.iter().filter(|w| w.recipient != Recipient::Host);
        let own = DomainWrap {
            recipient: Recipient::Host,
            blob: Bytes(host),
        };
        Ok(DomainRow {
            wraps: std::iter::once(own).chain(others.cloned()).collect(),
            ..row.clone()
        })
    }

    /// The same domain key with one more wrap, for another recovery key.
    pub fn with_recovery(
        &self,
        row: &DomainRow,
        recovery: &RecoveryPublicKey,
    ) -> Result<DomainRow, DomainError> {
        let key = self.key(row.id)?;
        let blob = recovery.seal(RECOVERY_INFO, &self.recovery_aad(row.id), key.expose())?;
        let mut row = row.clone();
        row.wraps.push(DomainWrap {
            recipient: Recipient::Recovery(Bytes(recovery.as_bytes().to_vec())),
            blob: Bytes(blob),
        });
        Ok(row)
    }

    /// The number of the domain key that new wraps use.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// Forgets every domain key but the current one.
    pub fn retain_current(&mut self) {
        let current = self.current;
        self.keys.retain(|id, _| *id == current);
    }

    /// Forgets one domain key.
    pub fn forget(&mut self, id: u64) {
        self.keys.remove(&id);
    }

    /// Forgets every domain key: nothing can be wrapped or opened any more.
    pub fn forget_all(&mut self) {
        self.keys.clear();
    }

    /// The set-MAC key of a store whose current domain key is `id`.
    pub fn mac_key(&self, id: u64) -> Result<Key<32>, DomainError> {
        let key = self.key(id)?;
        Ok(hkdf_key(
            self.store_id.as_bytes(),
            &[key.expose()],
            &[b"kmsd set mac key 1"],
        )?)
    }

    /// The key that import tokens are sealed under while domain key `id` is held.
    pub fn import_key(&self, id: u64) -> Result<Key<32>, DomainError> {
        let key = self.key(id)?;
        Ok(hkdf_key(
            self.store_id.as_bytes(),
            &[key.expose()],
            &[b"kmsd import token key 1"],
        )?)
    }

    /// Wraps a secret under the current domain key.
    pub fn wrap(&self, subject: Subject<'_>, secret: &Key<32>) -> Result<Wrapped, DomainError> {
        let domain = self.current;
        let blob = wrap_key(self.key(domain)?, &self.aad(domain, subject), secret)?;
        Ok(Wrapped {
            domain,
            blob: Bytes(blob),
        })
    }

    /// Opens a wrapped secret.
    pub fn unwrap(&self, subject: Subject<'_>, secret: &Wrapped) -> Result<Key<32>, DomainError> {
        let key = self.key(secret.domain)?;
        Ok(unwrap_key(
            key,
            &self.aad(secret.domain, subject),
            &secret.blob.0,
        )?)
    }

    /// Wraps a secret of any length under the current domain key.
    pub fn wrap_bytes(&self, subject: Subject<'_>, secret: &[u8]) -> Result<Wrapped, DomainError> {
        let domain = self.current;
        let blob = wrap_bytes(self.key(domain)?, &self.aad(domain, subject), secret)?;
        Ok(Wrapped {
            domain,
            blob: Bytes(blob),
        })
    }

    /// Opens a wrapped secret of any length. Where that is 32 bytes, [`Self::unwrap`] keeps them in locked memory.
    pub fn unwrap_bytes(
        &self,
        subject: Subject<'_>,
        secret: &Wrapped,
    ) -> Result<SecretBytes, DomainError> {
        let key = self.key(secret.domain)?;
        let aad = self.aad(secret.domain, subject);
        Ok(unwrap_bytes(key, &aad, &secret.blob.0)?)
    }

    /// Key material under the current domain key.
    pub fn rewrap(&self, row: &MaterialRow) -> Result<Wrapped, DomainError> {
        self.wrap_as(row, row.subject())
    }

    /// Key material under the current domain key, for another key of the same id.
    pub fn copy(&self, row: &MaterialRow, to: KeyId) -> Result<MaterialRow, DomainError> {
        let secret = self.wrap_as(row, Subject::Material(to, row.id, row.spec))?;
        Ok(MaterialRow {
            key: to,
            secret,
            ..row.clone()
        })
    }

    fn wrap_as(&self, row: &MaterialRow, subject: Subject<'_>) -> Result<Wrapped, DomainError> {
        match row.spec {
            KeySpec::SymmetricDefault => {
                self.wrap(subject, &self.unwrap(row.subject(), &row.secret)?)
            }
            _ => {
                let secret = self.unwrap_bytes(row.subject(), &row.secret)?;
                self.wrap_bytes(subject, secret.expose())
            }
        }
    }

    fn key(&self, id: u64) -> Result<&Key<32>, DomainError> {
        self.keys.get(&id).ok_or(DomainError::Missing(id))
    }

    fn host_aad(&self, id: u64) -> Vec<u8> {
        fields(&[
            b"kmsd domain key 1",
            b"host",
            self.store_id.as_bytes(),
            &id.to_be_bytes(),
        ])
    }

    fn recovery_aad(&self, id: u64) -> Vec<u8> {
        fields(&[
            b"kmsd domain key 1",
            b"recovery",
            self.store_id.as_bytes(),
            &id.to_be_bytes(),
        ])
    }

    fn aad(&self, domain: u64, subject: Subject<'_>) -> Vec<u8> {
        let domain = domain.to_be_bytes();
        let store = self.store_id.as_bytes();
        let (account, region) = (self.scope.account.as_bytes(), self.scope.region.as_bytes());
        match subject {
            Subject::Material(key, material, spec) => {
                let elsewhere = key.place().scope();
                let scope = elsewhere.as_deref().unwrap_or(&self.scope);
                let key = key.to_string();
                let name: &[u8] = match spec {
                    KeySpec::SymmetricDefault => b"kmsd key material 1",
                    _ => b"kmsd key material 2",
                };
                let mut all = vec![
                    name,
                    store,
                    &domain,
                    scope.account.as_bytes(),
                    scope.region.as_bytes(),
                    key.as_bytes(),
                    &material.0,
                ];
                if spec != KeySpec::SymmetricDefault {
                    all.push(spec.as_str().as_bytes());
                }
                fields(&all)
            }
            Subject::PolicySecret(volume, policy, generation) => fields(&[
                b"kmsd policy secret 1",
                store,
                &domain,
                account,
                region,
                volume.as_bytes(),
                policy.as_bytes(),
                &generation.to_be_bytes(),
            ]),
            Subject::AccessKey(id, principal) => fields(&[
                b"kmsd access key 1",
                store,
                &domain,
                id.as_bytes(),
                principal.as_bytes(),
            ]),
        }
    }
}

const RECOVERY_INFO: &[u8] = b"kmsd domain key recovery 1";

/// Joins fields so that different lists never give equal bytes.
fn fields(list: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in list {
        out.extend_from_slice(&(field.len() as u64).to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}
