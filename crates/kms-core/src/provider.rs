//! Use of key material. The state machine says which version to use for what; a provider does it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kms_crypto::{Key, SecretBytes, open_message, seal_message};
use parking_lot::RwLock;

use crate::domain::{DomainKeys, Subject};
use crate::ids::{KeyId, MaterialId};
use crate::rows::MaterialRow;

/// A result that is there, or one that will be. Local providers answer at once and allocate nothing.
pub enum Answer<'a, T> {
    /// Done.
    Ready(Result<T, ProviderError>),
    /// Under way, for example in a hardware module.
    Pending(Pin<Box<dyn Future<Output = Result<T, ProviderError>> + Send + 'a>>),
}

impl<T> Answer<'_, T> {
    /// Waits for the result.
    pub async fn wait(self) -> Result<T, ProviderError> {
        match self {
            Self::Ready(result) => result,
            Self::Pending(future) => future.await,
        }
    }
}

/// Why key material could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The sealed message is not one that this material made with this associated data.
    #[error("the message does not open")]
    DoesNotOpen,
    /// The material's own wrap does not open: the store is damaged.
    #[error("key material does not open: {0}")]
    Damaged(String),
    /// The provider cannot be reached now.
    #[error("key material is not available: {0}")]
    Unavailable(String),
}

/// Uses key material on behalf of the state machine.
pub trait KeyProvider: Send + Sync {
    /// Seals a message under the material.
    fn seal<'a>(
        &'a self,
        material: &'a MaterialRow,
        associated: &'a [u8],
        plaintext: &'a [u8],
    ) -> Answer<'a, Vec<u8>>;

    /// Opens a message sealed under the material.
    fn open<'a>(
        &'a self,
        material: &'a MaterialRow,
        associated: &'a [u8],
        sealed: &'a [u8],
    ) -> Answer<'a, SecretBytes>;

    /// Wipes what is cached of a key; on return no later use finds it in a cache.
    fn forget(&self, key: KeyId);
}

/// Material of this store, opened with the domain keys and cached in locked memory.
pub struct LocalProvider {
    domain: Arc<RwLock<DomainKeys>>,
    cache: RwLock<HashMap<(KeyId, MaterialId), Arc<Key<32>>>>,
    forgotten: AtomicU64,
}

impl LocalProvider {
    /// Versions kept at most; 32 bytes of locked memory each.
    const CACHED: usize = 32 * 1024;

    /// A provider over the domain keys that the engine also holds.
    pub fn new(domain: Arc<RwLock<DomainKeys>>) -> Self {
        Self {
            domain,
            cache: RwLock::default(),
            forgotten: AtomicU64::new(0),
        }
    }

    /// Wipes everything.
    pub fn forget_all(&self) {
        let mut cache = self.cache.write();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        cache.clear();
    }

    /// Number of versions in the cache.
    pub fn cached(&self) -> usize {
        self.cache.read().len()
    }

    fn material(&self, row: &MaterialRow) -> Result<Arc<Key<32>>, ProviderError> {
        let place = (row.key, row.id);
        if let Some(key) = self.cache.read().get(&place) {
            return Ok(Arc::clone(key));
        }
        let before = self.forgotten.load(Ordering::SeqCst);
        let opened = self
            .domain
            .read()
            .unwrap(Subject::Material(row.key, row.id), &row.secret);
        let key = Arc::new(opened.map_err(|e| ProviderError::Damaged(e.to_string()))?);
        let mut cache = self.cache.write();
        // A key that was disabled while its material was being opened must not enter the cache.
        if self.forgotten.load(Ordering::SeqCst) == before {
            if cache.len() >= Self::CACHED {
                cache.clear();
            }
            cache.insert(place, Arc::clone(&key));
        }
        Ok(key)
    }
}

impl KeyProvider for LocalProvider {
    fn seal<'a>(
        &'a self,
        material: &'a MaterialRow,
        associated: &'a [u8],
        plaintext: &'a [u8],
    ) -> Answer<'a, Vec<u8>> {
        Answer::Ready(self.material(material).and_then(|key| {
            seal_message(&key, associated, plaintext)
                .map_err(|e| ProviderError::Unavailable(e.to_string()))
        }))
    }

    fn open<'a>(
        &'a self,
        material: &'a MaterialRow,
        associated: &'a [u8],
        sealed: &'a [u8],
    ) -> Answer<'a, SecretBytes> {
        Answer::Ready(self.material(material).and_then(|key| {
            open_message(&key, associated, sealed).map_err(|_| ProviderError::DoesNotOpen)
        }))
    }

    fn forget(&self, key: KeyId) {
        let mut cache = self.cache.write();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        cache.retain(|(owner, _), _| *owner != key);
    }
}
