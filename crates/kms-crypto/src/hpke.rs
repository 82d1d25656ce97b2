//! HPKE (RFC 9180) for the recovery recipient: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
//!
//! One message per encapsulation ("single-shot", RFC 9180 section 6), so the sequence number is always 0.

use zeroize::Zeroizing;

use crate::gcm::{GCM_NONCE_LEN, GCM_TAG_LEN};
use crate::provider::{Active, Gcm, Provider};
use crate::{CryptoError, Key, SecretBytes, text};

/// Bytes of an encapsulated key, in front of each sealed message.
const ENC_LEN: usize = 32;

/// How many bytes a message sealed to a [`RecoveryPublicKey`] is longer than its plaintext.
pub const RECOVERY_OVERHEAD: usize = ENC_LEN + GCM_TAG_LEN;

/// RFC 9180 sections 7.1 to 7.3: KEM 0x0020, and with it KDF 0x0001 and AEAD 0x0002.
const KEM_SUITE: &[u8] = b"KEM\x00\x20";
const HPKE_SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x02";
const MODE_BASE: u8 = 0;

/// The private half of the recovery key. It is made at enrolment, shown to the administrator once, and kept nowhere.
///
/// ```
/// use kms_crypto::RecoveryPrivateKey;
///
/// # fn main() -> Result<(), kms_crypto::CryptoError> {
/// let private = RecoveryPrivateKey::generate()?;
/// let kept = private.to_text(); // "KMSD-RECOVERY-1-...", for paper
/// let public = private.public_key()?;
///
/// let sealed = public.seal(b"domain key", b"epoch 3", &[7; 32])?;
/// let again = RecoveryPrivateKey::from_text(core::str::from_utf8(kept.expose()).unwrap())?;
/// assert_eq!(again.open(b"domain key", b"epoch 3", &sealed)?.expose(), [7; 32]);
/// # Ok(())
/// # }
/// ```
pub struct RecoveryPrivateKey(Key<32>);

/// The public half of the recovery key: a recipient of every domain key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecoveryPublicKey([u8; 32]);

impl RecoveryPrivateKey {
    /// A new private key.
    ///
    /// # Errors
    /// [`CryptoError::Random`], [`CryptoError::Memory`].
    pub fn generate() -> Result<Self, CryptoError> {
        Key::random().map(Self)
    }

    /// A private key from its 32 bytes; every value is one (RFC 7748 section 5).
    pub fn from_key(key: Key<32>) -> Self {
        Self(key)
    }

    /// Reads what [`RecoveryPrivateKey::to_text`] wrote. Case, spaces, line ends and hyphens do not matter, and O, I
    /// and L are read as the digits that they look like.
    ///
    /// # Errors
    /// [`CryptoError::Text`] says what is wrong with the text.
    pub fn from_text(text: &str) -> Result<Self, CryptoError> {
        Key::try_init(|key| text::decode(text::PRIVATE, text, key.as_mut_slice())).map(Self)
    }

    /// The key for a human to keep: `KMSD-RECOVERY-1-` and 7 groups of 8 characters (ASCII), the last 5 of which are
    /// a checksum with the remainder of the key.
    pub fn to_text(&self) -> SecretBytes {
        text::encode(text::PRIVATE, self.0.expose())
    }

    /// The bytes, for splitting them.
    pub(crate) fn key(&self) -> &Key<32> {
        &self.0
    }

    /// The public key that belongs to this private key.
    ///
    /// # Errors
    /// [`CryptoError::Provider`] if the provider has no memory.
    pub fn public_key(&self) -> Result<RecoveryPublicKey, CryptoError> {
        Active::x25519_public(self.0.expose()).map(RecoveryPublicKey)
    }

    /// Opens what [`RecoveryPublicKey::seal`] made with the same `info` and `aad`.
    ///
    /// # Errors
    /// [`CryptoError::Length`] if `sealed` is shorter than [`RECOVERY_OVERHEAD`], [`CryptoError::Authentication`] if it
    /// was made for another key, `info` or `aad`, or was altered, [`CryptoError::PublicKey`] if the key in front is of
    /// small order.
    pub fn open(&self, info: &[u8], aad: &[u8], sealed: &[u8]) -> Result<SecretBytes, CryptoError> {
        open_with::<Active>(&self.0, info, aad, sealed)
    }
}

impl RecoveryPublicKey {
    /// A public key from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads what [`RecoveryPublicKey::to_text`] wrote, as leniently as [`RecoveryPrivateKey::from_text`].
    ///
    /// # Errors
    /// [`CryptoError::Text`] says what is wrong with the text.
    pub fn from_text(text: &str) -> Result<Self, CryptoError> {
        let mut key = [0; 32];
        text::decode(text::PUBLIC, text, &mut key)?;
        Ok(Self(key))
    }

    /// The key as text with a checksum: `KMSD-RECIPIENT-1-` and 7 groups of 8 characters.
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(text::encode(text::PUBLIC, &self.0).expose()).into_owned()
    }

    /// Seals `plaintext` to this key: encapsulated key (32) ‖ ciphertext ‖ tag (16). `info` says what the message is
    /// for, `aad` what it belongs to; both are authenticated and not stored.
    ///
    /// # Errors
    /// [`CryptoError::PublicKey`] if this key is of small order, [`CryptoError::Random`].
    pub fn seal(&self, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        seal_with::<Active>(&self.0, &Key::random()?, info, aad, plaintext)
    }
}

pub(crate) fn seal_with<P: Provider>(
    recipient: &[u8; 32],
    ephemeral: &Key<32>,
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let enc = P::x25519_public(ephemeral.expose())?;
    let dh = Key::try_init(|out| P::x25519(ephemeral.expose(), recipient, out))?;
    let message = Schedule::derive::<P>(&dh, &enc, recipient, info)?;
    let mut body = Zeroizing::new(plaintext.to_vec());
    let tag = P::Gcm::new(message.key.expose())?.seal(&message.nonce, aad, &mut body)?;
    Ok([enc.as_slice(), &body, &tag].concat())
}

pub(crate) fn open_with<P: Provider>(
    private: &Key<32>,
    info: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<SecretBytes, CryptoError> {
    let bad = CryptoError::Length {
        what: "message to the recovery key",
        got: sealed.len(),
    };
    let (enc, rest) = sealed
        .split_first_chunk::<ENC_LEN>()
        .ok_or_else(|| bad.clone())?;
    let (body, tag) = rest.split_last_chunk().ok_or(bad)?;
    let recipient = P::x25519_public(private.expose())?;
    let dh = Key::try_init(|out| P::x25519(private.expose(), enc, out))?;
    let message = Schedule::derive::<P>(&dh, enc, &recipient, info)?;
    let mut body = Zeroizing::new(body.to_vec());
    P::Gcm::new(message.key.expose())?.open(&message.nonce, aad, &mut body, tag)?;
    Ok(SecretBytes::from(std::mem::take(&mut *body)))
}

/// Key and nonce of the one message of a context.
struct Schedule {
    key: Key<32>,
    nonce: [u8; GCM_NONCE_LEN],
}

impl Schedule {
    /// RFC 9180 section 4.1 (ExtractAndExpand) and section 5.1 (KeySchedule) with an empty pre-shared key.
    fn derive<P: Provider>(
        dh: &Key<32>,
        enc: &[u8; 32],
        recipient: &[u8; 32],
        info: &[u8],
    ) -> Result<Self, CryptoError> {
        let mut prk = Zeroizing::new([0; 32]);
        let mut shared = Zeroizing::new([0; 32]);
        labeled_extract::<P>(KEM_SUITE, b"", b"eae_prk", dh.expose(), &mut prk)?;
        labeled_expand::<P>(
            KEM_SUITE,
            &prk,
            b"shared_secret",
            &[enc, recipient],
            &mut *shared,
        )?;

        let (mut psk_id_hash, mut info_hash) = ([0; 32], [0; 32]);
        labeled_extract::<P>(HPKE_SUITE, b"", b"psk_id_hash", b"", &mut psk_id_hash)?;
        labeled_extract::<P>(HPKE_SUITE, b"", b"info_hash", info, &mut info_hash)?;
        let context: [&[u8]; 3] = [&[MODE_BASE], &psk_id_hash, &info_hash];
        let mut secret = Zeroizing::new([0; 32]);
        labeled_extract::<P>(HPKE_SUITE, &*shared, b"secret", b"", &mut secret)?;

        let key =
            Key::try_init(|out| labeled_expand::<P>(HPKE_SUITE, &secret, b"key", &context, out))?;
        let mut nonce = [0; GCM_NONCE_LEN];
        labeled_expand::<P>(HPKE_SUITE, &secret, b"base_nonce", &context, &mut nonce)?;
        Ok(Self { key, nonce })
    }
}

/// RFC 9180 section 4.
fn labeled_extract<P: Provider>(
    suite: &[u8],
    salt: &[u8],
    label: &[u8],
    ikm: &[u8],
    prk: &mut [u8; 32],
) -> Result<(), CryptoError> {
    P::hkdf_extract(salt, &[b"HPKE-v1", suite, label, ikm], prk)
}

/// RFC 9180 section 4; `info` has at most 3 parts.
fn labeled_expand<P: Provider>(
    suite: &[u8],
    prk: &[u8; 32],
    label: &[u8],
    info: &[&[u8]],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    let length = u16::try_from(out.len())
        .map_err(|_| CryptoError::Length {
            what: "output of HPKE",
            got: out.len(),
        })?
        .to_be_bytes();
    let head: [&[u8]; 4] = [&length, b"HPKE-v1", suite, label];
    P::hkdf_expand(prk, &[&head, info].concat(), out)
}
