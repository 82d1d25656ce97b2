//! Use of key material. The state machine says which version to use for what; a provider does it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kms_api::KeySpec;
use kms_crypto::asymmetric::{EncryptionScheme, KeyPair, SignatureScheme, SignedMessage};
use kms_crypto::hmac::{self, HmacHash};
use kms_crypto::{CryptoError, Key, SecretBytes, open_message, seal_message};
use parking_lot::RwLock;

use crate::domain::DomainKeys;
use crate::ids::{KeyId, MaterialId};
use crate::kms::pair_spec;
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
    /// What came with the request is not what the operation takes.
    #[error("what was given does not fit the key: {0}")]
    Unfit(String),
    /// The material's own wrap does not open: the store is damaged.
    #[error("key material does not open: {0}")]
    Damaged(String),
    /// The provider cannot be reached now.
    #[error("key material is not available: {0}")]
    Unavailable(String),
}

/// What can be done with the material of an asymmetric or HMAC key.
#[derive(Clone, Copy)]
pub enum KeyOperation<'a> {
    /// A signature.
    Sign(SignatureScheme, SignedMessage<'a>),
    /// The plaintext of a ciphertext that was made with the public key.
    Decrypt(EncryptionScheme, &'a [u8]),
    /// The secret shared with the owner of a public key (SubjectPublicKeyInfo).
    Agree(&'a [u8]),
    /// The secret that a ciphertext encapsulates.
    Decapsulate(&'a [u8]),
    /// The HMAC of a message.
    Mac(HmacHash, &'a [u8]),
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

    /// Does something with the material of an asymmetric or HMAC key.
    fn operate<'a>(
        &'a self,
        material: &'a MaterialRow,
        operation: KeyOperation<'a>,
    ) -> Answer<'a, SecretBytes>;

    /// Wipes what is cached of a key; on return no later use finds it in a cache.
    fn forget(&self, key: KeyId);
}

/// Material of this store, opened with the domain keys and cached: of symmetric keys in locked memory, key pairs where
/// AWS-LC keeps them.
pub struct LocalProvider {
    domain: Arc<RwLock<DomainKeys>>,
    cache: RwLock<HashMap<(KeyId, MaterialId), Arc<Key<32>>>>,
    others: RwLock<HashMap<(KeyId, MaterialId), Arc<Opened>>>,
    forgotten: AtomicU64,
    keeps: Box<dyn Fn(&MaterialRow) -> bool + Send + Sync>,
}

/// Material of a key that is not symmetric.
enum Opened {
    Mac(MacKey),
    Pair(KeyPair),
}

/// An HMAC key, in locked memory.
struct MacKey {
    bytes: Key<MAX_MAC_KEY>,
    len: usize,
}

/// Most bytes of an HMAC key: those of a block of its hash.
const MAX_MAC_KEY: usize = 128;

impl Opened {
    fn read(spec: KeySpec, secret: &SecretBytes) -> Result<Self, CryptoError> {
        match pair_spec(spec) {
            Some(spec) => KeyPair::from_pkcs8(spec, secret.expose()).map(Self::Pair),
            None => MacKey::read(secret.expose()).map(Self::Mac),
        }
    }

    fn operate(&self, operation: KeyOperation<'_>) -> Result<SecretBytes, CryptoError> {
        match (self, operation) {
            (Self::Pair(pair), KeyOperation::Sign(scheme, message)) => {
                pair.sign(scheme, message).map(SecretBytes::from)
            }
            (Self::Pair(pair), KeyOperation::Decrypt(scheme, ciphertext)) => {
                pair.decrypt(scheme, ciphertext)
            }
            (Self::Pair(pair), KeyOperation::Agree(peer)) => pair.agree(peer),
            (Self::Pair(pair), KeyOperation::Decapsulate(ciphertext)) => {
                pair.decapsulate(ciphertext)
            }
            (Self::Mac(key), KeyOperation::Mac(hash, message)) => {
                Ok(SecretBytes::from(hmac::mac(hash, key.bytes(), message)))
            }
            (Self::Pair(_), KeyOperation::Mac(..)) | (Self::Mac(_), _) => {
                Err(CryptoError::Scheme("this operation"))
            }
        }
    }
}

impl MacKey {
    fn read(secret: &[u8]) -> Result<Self, CryptoError> {
        let len = secret.len();
        let bytes = Key::try_init(|bytes| match bytes.get_mut(..len) {
            Some(place) if len > 0 => {
                place.copy_from_slice(secret);
                Ok(())
            }
            _ => Err(CryptoError::Length {
                what: "HMAC key",
                got: len,
            }),
        })?;
        Ok(Self { bytes, len })
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.expose().get(..self.len).unwrap_or_default()
    }
}

impl LocalProvider {
    /// Versions kept at most; 32 bytes of locked memory each.
    const CACHED: usize = 32 * 1024;
    /// The same of keys that are not symmetric; some kilobytes each.
    const CACHED_OTHERS: usize = 4 * 1024;

    /// A provider over the domain keys that the engine also holds.
    pub fn new(domain: Arc<RwLock<DomainKeys>>) -> Self {
        Self {
            domain,
            cache: RwLock::default(),
            others: RwLock::default(),
            forgotten: AtomicU64::new(0),
            keeps: Box::new(|_| true),
        }
    }

    /// Keeps open only what `keeps` says yes to: a use that was allowed may come long after its key was disabled or its material
    /// destroyed, when [`KeyProvider::forget`] has been called already.
    #[must_use]
    pub fn keeping(self, keeps: impl Fn(&MaterialRow) -> bool + Send + Sync + 'static) -> Self {
        let keeps = Box::new(keeps);
        Self { keeps, ..self }
    }

    /// Wipes everything.
    pub fn forget_all(&self) {
        let mut cache = self.cache.write();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        cache.clear();
        drop(cache);
        self.others.write().clear();
    }

    /// Number of versions in the cache.
    pub fn cached(&self) -> usize {
        self.cache.read().len() + self.others.read().len()
    }

    fn opened(&self, row: &MaterialRow) -> Result<Arc<Opened>, ProviderError> {
        let place = (row.key, row.id);
        if let Some(found) = self.others.read().get(&place) {
            return Ok(Arc::clone(found));
        }
        // In this order: what is forgotten after it was asked for changes the number.
        let before = self.forgotten.load(Ordering::SeqCst);
        let keeps = (self.keeps)(row);
        let damaged = |what: String| ProviderError::Damaged(what);
        let domain = self.domain.read();
        let secret = domain.unwrap_bytes(row.subject(), &row.secret);
        drop(domain);
        let secret = secret.map_err(|e| damaged(e.to_string()))?;
        let opened = Opened::read(row.spec, &secret).map_err(|e| damaged(e.to_string()))?;
        let opened = Arc::new(opened);
        let mut cache = self.others.write();
        // As below.
        if keeps && self.forgotten.load(Ordering::SeqCst) == before {
            if cache.len() >= Self::CACHED_OTHERS {
                cache.clear();
            }
            cache.insert(place, Arc::clone(&opened));
        }
        Ok(opened)
    }

    fn material(&self, row: &MaterialRow) -> Result<Arc<Key<32>>, ProviderError> {
        let place = (row.key, row.id);
        if let Some(key) = self.cache.read().get(&place) {
            return Ok(Arc::clone(key));
        }
        // As above.
        let before = self.forgotten.load(Ordering::SeqCst);
        let keeps = (self.keeps)(row);
        let opened = self.domain.read().unwrap(row.subject(), &row.secret);
        let key = Arc::new(opened.map_err(|e| ProviderError::Damaged(e.to_string()))?);
        let mut cache = self.cache.write();
        // A key that was disabled while its material was being opened must not enter the cache.
        if keeps && self.forgotten.load(Ordering::SeqCst) == before {
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

    fn operate<'a>(
        &'a self,
        material: &'a MaterialRow,
        operation: KeyOperation<'a>,
    ) -> Answer<'a, SecretBytes> {
        Answer::Ready(self.opened(material).and_then(|opened| {
            opened.operate(operation).map_err(|error| match error {
                CryptoError::Authentication => ProviderError::DoesNotOpen,
                CryptoError::Key(_) | CryptoError::PublicKey | CryptoError::Length { .. } => {
                    ProviderError::Unfit(error.to_string())
                }
                _ => ProviderError::Unavailable(error.to_string()),
            })
        }))
    }

    fn forget(&self, key: KeyId) {
        let mut cache = self.cache.write();
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        cache.retain(|(owner, _), _| *owner != key);
        drop(cache);
        self.others.write().retain(|(owner, _), _| *owner != key);
    }
}
