//! The header of a directory that is being re-encrypted: it has two keys (FORMAT.md section 6.5).
//!
//! Everything new is made under the new key; what was there before is under either. Both keys are wrapped under the same
//! generation of the policy key, and the former one is tied to the rest of the header, so that the two cannot be combined in
//! another way.

use kms_crypto::Key;

use super::{DIR_HEADER, DirHeader, Nesting};
use crate::bytes::{Fields, put};
use crate::keys::{self, WRAPPED_KEY};
use crate::{DirKeys, FormatError, Record, UnlockedPolicy};

/// Set in the flags if a former key follows.
pub(super) const FLAG: u32 = 1;
/// Bytes of a header with a former key.
pub(super) const WITH_FORMER: usize = DIR_HEADER + REST;

const REST: usize = 64;
const WRAP: usize = 16;
const AAD: &[u8] = b"kmsfs/1/former-directory-key";

/// The key that the directory had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Former {
    lineage: u32,
    wrapped: [u8; WRAPPED_KEY],
}

impl Former {
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let mut rest = [0; REST];
        put(&mut rest, 0, &self.lineage.to_le_bytes())?;
        put(&mut rest, WRAP, &self.wrapped)?;
        out.extend_from_slice(&rest);
        Ok(())
    }

    /// What is behind the first part of a header with these flags.
    pub(super) fn decode(flags: u32, rest: &[u8]) -> Result<Option<Self>, FormatError> {
        const RECORD: Record = Record::DirHeader;
        let bad = |field, value| FormatError::BadField {
            record: RECORD,
            field,
            value,
        };
        let found = DIR_HEADER.saturating_add(rest.len());
        match flags {
            0 if rest.is_empty() => Ok(None),
            0 => Err(FormatError::TooLong {
                record: RECORD,
                found,
                expected: DIR_HEADER,
            }),
            // Not what a power cut leaves of a header: this one is never written in place.
            FLAG if rest.len() != REST => Err(bad("length", found as u64)),
            FLAG => {
                let fields = Fields::exact(RECORD, rest, REST)?;
                fields.reserved(4, 12)?;
                Ok(Some(Self {
                    lineage: fields.u32(0)?,
                    wrapped: fields.array(WRAP)?,
                }))
            }
            _ => Err(FormatError::Reserved {
                record: RECORD,
                offset: 12,
            }),
        }
    }

    /// `first`: the rest of the header, the wrapped new key included.
    pub(super) fn unwrap(
        &self,
        policy: &UnlockedPolicy,
        first: &[u8; DIR_HEADER],
    ) -> Result<Key<32>, FormatError> {
        let aad: &[&[u8]] = &[AAD, first, &self.lineage.to_le_bytes()];
        keys::unwrap(Record::DirHeader, policy.directories(), aad, &self.wrapped)
    }
}

impl DirHeader {
    /// The header that begins a re-encryption, and the keys that go with it: fresh ones, with the present ones as their
    /// former ones. Both are wrapped under `policy`, which may be of another generation. The directory keeps its id.
    ///
    /// # Errors
    /// [`FormatError::ForeignPolicy`] for another policy, [`FormatError::Misuse`] if the directory is being re-encrypted
    /// already or the keys are another one's.
    pub fn begin_reencryption(
        &self,
        policy: &UnlockedPolicy,
        keys: &DirKeys,
    ) -> Result<(Self, DirKeys), FormatError> {
        if self.former.is_some() || keys.former().is_some() {
            return Err(FormatError::Misuse("a re-encryption that cannot begin"));
        }
        let mut header = self.clone();
        header.lineage = policy.generation();
        header.former = Some(Former {
            lineage: self.lineage,
            wrapped: [0; WRAPPED_KEY],
        });
        let keys = DirKeys::new(self.id, Key::random()?)?.with_former(keys.key().duplicate()?)?;
        header.rewrap(policy, &keys)?;
        Ok((header, keys))
    }

    /// The header that ends a re-encryption, and the keys that go with it. Nothing may be under the former key any more, the
    /// seals of nested policies included ([`DirHeader::is_sealed_by`]).
    ///
    /// # Errors
    /// As [`DirHeader::begin_reencryption`].
    pub fn end_reencryption(
        &self,
        policy: &UnlockedPolicy,
        keys: &DirKeys,
    ) -> Result<(Self, DirKeys), FormatError> {
        if self.former.is_none() {
            return Err(FormatError::Misuse(
                "the directory is not being re-encrypted",
            ));
        }
        let mut header = self.clone();
        header.former = None;
        let keys = DirKeys::new(self.id, keys.key().duplicate()?)?;
        header.rewrap(policy, &keys)?;
        Ok((header, keys))
    }

    /// Whether the directory is being re-encrypted.
    #[must_use]
    pub const fn reencrypting(&self) -> bool {
        self.former.is_some()
    }

    /// Whether this root of a policy was admitted with exactly this key of its parent, not the former one.
    ///
    /// # Errors
    /// [`FormatError::Crypto`] if the library has no memory for keys.
    pub fn is_sealed_by(&self, parent: &DirKeys) -> Result<bool, FormatError> {
        let seal = parent.admit(self.id, self.policy)?;
        Ok(kms_crypto::constant_time_eq(&seal, &self.seal))
    }

    /// Admits this root of a policy with its parent's present key; the caller replaces the file. It must be one that
    /// [`DirHeader::check_below`] lets pass.
    ///
    /// # Errors
    /// [`FormatError::Misuse`] for what is not the root of a nested policy, or keys of another directory.
    pub fn seal_again(
        &mut self,
        policy: &UnlockedPolicy,
        keys: &DirKeys,
        parent: &DirKeys,
    ) -> Result<(), FormatError> {
        if self.nesting != Nesting::Root || self.is_volume_root() {
            return Err(FormatError::Misuse("not the root of a nested policy"));
        }
        self.seal = parent.admit(self.id, self.policy)?;
        self.rewrap(policy, keys)
    }

    /// The same for one whose policy was destroyed: nobody has its keys, and nothing opens it again, before or after. Only its
    /// place is vouched for.
    ///
    /// # Errors
    /// As [`DirHeader::seal_again`].
    pub fn seal_destroyed(&mut self, parent: &DirKeys) -> Result<(), FormatError> {
        if self.nesting != Nesting::Root || self.is_volume_root() {
            return Err(FormatError::Misuse("not the root of a nested policy"));
        }
        self.seal = parent.admit(self.id, self.policy)?;
        Ok(())
    }

    /// The keys have a former one exactly if the header has.
    pub(super) fn wrap_former(
        &mut self,
        policy: &UnlockedPolicy,
        keys: &DirKeys,
    ) -> Result<(), FormatError> {
        let first = self.first_part()?;
        match (&mut self.former, keys.former()) {
            (None, None) => Ok(()),
            (Some(former), Some(keys)) => {
                let aad: &[&[u8]] = &[AAD, &first, &former.lineage.to_le_bytes()];
                former.wrapped = keys::wrap(policy.directories(), aad, keys.key())?;
                Ok(())
            }
            _ => Err(FormatError::Misuse(
                "keys of another state of the directory",
            )),
        }
    }
}
