//! The key schedule below a policy (FORMAT.md section 2): what each key is derived from and what it may do.

use std::fmt;

use kms_crypto::{GcmKey, Key, SivKey, XtsKey, hkdf_key};
use zeroize::Zeroize;

use crate::{ContentMode, DirId, FileId, FormatError, PolicyId, Record, VolumeId, gcm, xts};

/// Bytes of a wrapped 32-byte key: SIV tag and ciphertext.
pub const WRAPPED_KEY: usize = 48;

/// A policy whose key is at hand: wraps directory and file keys, seals symlink targets.
///
/// The policy key itself is not kept; only what is derived from it.
pub struct UnlockedPolicy {
    volume: VolumeId,
    policy: PolicyId,
    generation: u32,
    mode: ContentMode,
    directories: SivKey,
    files: SivKey,
    symlinks: SivKey,
    jobs: Key<32>,
}

impl UnlockedPolicy {
    /// Derives the policy key from the data key out of the KMS blob and the policy secret out of kmsd's registry.
    ///
    /// `mode` must come from the registry too, never from the lower tree.
    ///
    /// # Errors
    /// [`FormatError::Crypto`] if the library has no memory for keys.
    pub fn derive(
        volume: VolumeId,
        policy: PolicyId,
        generation: u32,
        mode: ContentMode,
        data_key: &Key<32>,
        secret: &Key<32>,
    ) -> Result<Self, FormatError> {
        let salt = [volume.0, policy.0].concat();
        let key = hkdf_key::<32>(
            &salt,
            &[data_key.expose(), secret.expose()],
            &[b"kmsfs/1/policy", &generation.to_le_bytes()],
        )?;
        let siv = |label: &[u8]| -> Result<SivKey, FormatError> {
            Ok(SivKey::new(&hkdf_key(
                &policy.0,
                &[key.expose()],
                &[label],
            )?)?)
        };
        Ok(Self {
            volume,
            policy,
            generation,
            mode,
            directories: siv(b"kmsfs/1/wrap-directory")?,
            files: siv(b"kmsfs/1/wrap-file")?,
            symlinks: siv(b"kmsfs/1/symlink")?,
            jobs: hkdf_key(&policy.0, &[key.expose()], &[b"kmsfs/1/job"])?,
        })
    }

    /// The volume of the policy.
    #[must_use]
    pub const fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> PolicyId {
        self.policy
    }

    /// The generation of this policy key.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// How the policy's files are encrypted.
    #[must_use]
    pub const fn mode(&self) -> ContentMode {
        self.mode
    }

    pub(crate) const fn directories(&self) -> &SivKey {
        &self.directories
    }

    pub(crate) const fn files(&self) -> &SivKey {
        &self.files
    }

    pub(crate) const fn jobs(&self) -> &Key<32> {
        &self.jobs
    }

    pub(crate) const fn symlinks(&self) -> &SivKey {
        &self.symlinks
    }
}

/// The keys of one directory: its names, its own `user.` xattrs, and the seal that admits nested policies.
pub struct DirKeys {
    id: DirId,
    key: Key<32>,
    names: SivKey,
    former: Option<Box<Self>>,
}

impl DirKeys {
    pub(crate) fn new(id: DirId, key: Key<32>) -> Result<Self, FormatError> {
        let names = SivKey::new(&hkdf_key(&id.0, &[key.expose()], &[b"kmsfs/1/names"])?)?;
        Ok(Self {
            id,
            key,
            names,
            former: None,
        })
    }

    /// With the key that the directory had before.
    pub(crate) fn with_former(mut self, former: Key<32>) -> Result<Self, FormatError> {
        self.former = Some(Box::new(Self::new(self.id, former)?));
        Ok(self)
    }

    /// The key that the directory had before: while it is re-encrypted, some of what is in it is under that.
    #[must_use]
    pub fn former(&self) -> Option<&Self> {
        self.former.as_deref()
    }

    /// The directory.
    #[must_use]
    pub const fn id(&self) -> DirId {
        self.id
    }

    /// Keys for the `user.` xattrs of the directory itself. Derived anew at each call (two HKDFs).
    ///
    /// # Errors
    /// [`FormatError::Crypto`] if the library has no memory for keys.
    pub fn xattrs(&self) -> Result<XattrKeys, FormatError> {
        XattrKeys::derive(&self.id.0, &self.key)
    }

    pub(crate) const fn names(&self) -> &SivKey {
        &self.names
    }

    pub(crate) const fn key(&self) -> &Key<32> {
        &self.key
    }

    /// Proof that whoever held this directory's key admitted directory `child` with a policy of its own.
    pub(crate) fn admit(&self, child: DirId, policy: PolicyId) -> Result<[u8; 32], FormatError> {
        const LABEL: &[u8] = b"kmsfs/1/nested-policy";
        let key: Key<32> = hkdf_key(&self.id.0, &[self.key.expose()], &[LABEL])?;
        Ok(kms_crypto::hmac_sha256(
            key.expose(),
            &[LABEL, &child.0, &policy.0],
        ))
    }
}

/// The keys of one file: its header's body, its content, its `user.` xattrs.
pub struct FileKeys {
    id: FileId,
    key: Key<32>,
    header: GcmKey,
}

impl FileKeys {
    pub(crate) fn new(id: FileId, key: Key<32>) -> Result<Self, FormatError> {
        let header: Key<32> = hkdf_key(&id.0, &[key.expose()], &[b"kmsfs/1/header"])?;
        Ok(Self {
            id,
            header: GcmKey::new(header.expose())?,
            key,
        })
    }

    /// The file.
    #[must_use]
    pub const fn id(&self) -> FileId {
        self.id
    }

    /// The cipher for content of mode xts (one HKDF, two AES key schedules; keep it as long as the file is open).
    ///
    /// # Errors
    /// [`FormatError::Crypto`] if the library has no memory for keys.
    pub fn xts(&self) -> Result<xts::Content, FormatError> {
        let key: Key<64> = hkdf_key(&self.id.0, &[self.key.expose()], &[b"kmsfs/1/xts"])?;
        Ok(xts::Content::new(XtsKey::new(&key)?))
    }

    /// The cipher for the units of mode gcm in the same range as `unit` (one HKDF; a range is 4096 units).
    ///
    /// # Errors
    /// [`FormatError::Crypto`] if the library has no memory for keys.
    pub fn gcm(&self, unit: u64) -> Result<gcm::Range, FormatError> {
        let range = gcm::range_of(unit);
        let key: Key<32> = hkdf_key(
            &self.id.0,
            &[self.key.expose()],
            &[b"kmsfs/1/gcm", &range.to_le_bytes()],
        )?;
        Ok(gcm::Range::new(self.id, range, GcmKey::new(key.expose())?))
    }

    /// Keys for the file's `user.` xattrs. Derived anew at each call (two HKDFs).
    ///
    /// # Errors
    /// [`FormatError::Crypto`] if the library has no memory for keys.
    pub fn xattrs(&self) -> Result<XattrKeys, FormatError> {
        XattrKeys::derive(&self.id.0, &self.key)
    }

    /// Whether this is the same key.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        kms_crypto::constant_time_eq(self.key.expose(), other.key.expose())
    }

    pub(crate) const fn header(&self) -> &GcmKey {
        &self.header
    }

    pub(crate) const fn key(&self) -> &Key<32> {
        &self.key
    }
}

/// The keys of one object's `user.` xattrs; see [`crate::xattr`].
pub struct XattrKeys {
    pub(crate) names: SivKey,
    pub(crate) values: GcmKey,
}

impl XattrKeys {
    fn derive(id: &[u8; 16], key: &Key<32>) -> Result<Self, FormatError> {
        let values: Key<32> = hkdf_key(id, &[key.expose()], &[b"kmsfs/1/xattr-values"])?;
        Ok(Self {
            names: SivKey::new(&hkdf_key(id, &[key.expose()], &[b"kmsfs/1/xattr-names"])?)?,
            values: GcmKey::new(values.expose())?,
        })
    }
}

impl fmt::Debug for UnlockedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnlockedPolicy")
            .field("volume", &self.volume)
            .field("policy", &self.policy)
            .field("generation", &self.generation)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DirKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirKeys")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FileKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeys")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for XattrKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XattrKeys").finish_non_exhaustive()
    }
}

/// Wraps `key` under `wrapping`: always the same bytes for the same input, so there is no nonce to run out of.
pub(crate) fn wrap(
    wrapping: &SivKey,
    aad: &[&[u8]],
    key: &Key<32>,
) -> Result<[u8; WRAPPED_KEY], FormatError> {
    wrapping
        .seal(aad, key.expose())?
        .try_into()
        .map_err(|_| FormatError::Misuse("a wrapped key is 48 bytes"))
}

/// Unwraps a key.
pub(crate) fn unwrap(
    record: Record,
    wrapping: &SivKey,
    aad: &[&[u8]],
    wrapped: &[u8],
) -> Result<Key<32>, FormatError> {
    let mut plain = wrapping
        .open(aad, wrapped)
        .map_err(FormatError::unopened(record))?;
    let key = Key::from_slice(&plain);
    plain.zeroize();
    Ok(key?)
}
