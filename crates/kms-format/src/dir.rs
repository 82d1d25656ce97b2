//! Directory headers, `.kmsfs` in every lower directory (FORMAT.md section 4).

mod reencrypt;

use kms_crypto::Key;

use self::reencrypt::{FLAG, Former};
use crate::bytes::{Fields, put};
use crate::keys::{self, WRAPPED_KEY};
use crate::{DirId, DirKeys, FORMAT, FormatError, PolicyId, Record, UnlockedPolicy, VolumeId};

/// Bytes of a directory header, but for [`LONGEST`]: any other length is damage.
pub const DIR_HEADER: usize = 192;
/// Bytes of the header of a directory that is being re-encrypted.
pub const LONGEST: usize = reencrypt::WITH_FORMER;

const MAGIC: &[u8; 8] = b"KMSFSDIR";
const WRAP: usize = 80;
const NESTING: usize = 128;
const AAD: &[u8] = b"kmsfs/1/directory-header";

/// How a directory came by its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nesting {
    /// It has its parent's.
    Inherits,
    /// It is the root of a policy: the volume's root, or a directory set under a policy of its own.
    Root,
}

/// A directory header, parsed. Holds no secret: the wrapped key needs [`DirHeader::unlock`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirHeader {
    id: DirId,
    nesting: Nesting,
    volume: VolumeId,
    policy: PolicyId,
    generation: u32,
    lineage: u32,
    wrapped: [u8; WRAPPED_KEY],
    seal: [u8; 32],
    /// The key it had before, while it is re-encrypted.
    former: Option<Former>,
}

impl DirHeader {
    /// A new directory that inherits its parent's policy: fresh id, fresh key.
    ///
    /// # Errors
    /// [`FormatError::Crypto`] if there are no random bytes or no memory.
    pub fn create(policy: &UnlockedPolicy) -> Result<(Self, DirKeys), FormatError> {
        Self::new(policy, Nesting::Inherits, DirId::random()?, None)
    }

    /// The volume's root directory.
    ///
    /// # Errors
    /// As [`DirHeader::create`].
    pub fn create_root(policy: &UnlockedPolicy) -> Result<(Self, DirKeys), FormatError> {
        Self::new(policy, Nesting::Root, DirId::random()?, None)
    }

    /// The root of a policy below another: sealed under the parent's key, see [`DirHeader::check_below`].
    ///
    /// # Errors
    /// As [`DirHeader::create`].
    pub fn create_nested(
        policy: &UnlockedPolicy,
        parent: &DirKeys,
    ) -> Result<(Self, DirKeys), FormatError> {
        Self::new(policy, Nesting::Root, DirId::random()?, Some(parent))
    }

    fn new(
        policy: &UnlockedPolicy,
        nesting: Nesting,
        id: DirId,
        parent: Option<&DirKeys>,
    ) -> Result<(Self, DirKeys), FormatError> {
        let keys = DirKeys::new(id, Key::random()?)?;
        let mut header = Self {
            id,
            nesting,
            volume: policy.volume(),
            policy: policy.policy(),
            generation: policy.generation(),
            lineage: policy.generation(),
            wrapped: [0; WRAPPED_KEY],
            seal: match parent {
                Some(parent) => parent.admit(id, policy.policy())?,
                None => [0; 32],
            },
            former: None,
        };
        header.wrap(policy, &keys)?;
        Ok((header, keys))
    }

    /// The bytes to write.
    ///
    /// # Errors
    /// None in practice: the layout is fixed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = self.first_part()?.to_vec();
        if let Some(former) = &self.former {
            former.encode(&mut out)?;
        }
        Ok(out)
    }

    /// What every header has.
    fn first_part(&self) -> Result<[u8; DIR_HEADER], FormatError> {
        let mut out = [0; DIR_HEADER];
        put(&mut out, 0, MAGIC)?;
        put(&mut out, 8, &FORMAT.to_le_bytes())?;
        put(
            &mut out,
            10,
            &[match self.nesting {
                Nesting::Inherits => 1,
                Nesting::Root => 2,
            }],
        )?;
        let flags = if self.former.is_some() { FLAG } else { 0 };
        put(&mut out, 12, &flags.to_le_bytes())?;
        put(&mut out, 16, &self.id.0)?;
        put(&mut out, 32, &self.volume.0)?;
        put(&mut out, 48, &self.policy.0)?;
        put(&mut out, 64, &self.generation.to_le_bytes())?;
        put(&mut out, 68, &self.lineage.to_le_bytes())?;
        put(&mut out, WRAP, &self.wrapped)?;
        put(&mut out, NESTING, &self.seal)?;
        Ok(out)
    }

    /// Parses a header; what it says is not yet authenticated. [`DirHeader::policy`] and
    /// [`DirHeader::generation`] tell which policy key [`DirHeader::unlock`] needs.
    ///
    /// # Errors
    /// Any structural fault; [`FormatError::Blank`] and [`FormatError::Truncated`] are what a power cut can leave of a
    /// header that was never synced.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (first, rest) = bytes.split_at(bytes.len().min(DIR_HEADER));
        let fields = Fields::exact(Record::DirHeader, first, DIR_HEADER)?;
        fields.identify(MAGIC)?;
        let former = Former::decode(fields.u32(12)?, rest)?;
        let nesting = match fields.u8(10)? {
            1 => Nesting::Inherits,
            2 => Nesting::Root,
            other => return Err(fields.bad("kind", other)),
        };
        fields.reserved(11, 1)?;
        fields.reserved(72, 8)?;
        fields.reserved(160, 32)?;
        if nesting == Nesting::Inherits {
            fields.reserved(NESTING, 32)?;
        }
        Ok(Self {
            id: DirId(fields.array(16)?),
            nesting,
            volume: VolumeId(fields.array(32)?),
            policy: PolicyId(fields.array(48)?),
            generation: fields.u32(64)?,
            lineage: fields.u32(68)?,
            wrapped: fields.array(WRAP)?,
            seal: fields.array(NESTING)?,
            former,
        })
    }

    /// Authenticates the whole header and opens the directory key.
    ///
    /// # Errors
    /// [`FormatError::ForeignVolume`], [`FormatError::ForeignPolicy`] or [`FormatError::OtherGeneration`] if the header
    /// asks for another key, [`FormatError::TagMismatch`] if it was altered.
    pub fn unlock(&self, policy: &UnlockedPolicy) -> Result<DirKeys, FormatError> {
        const RECORD: Record = Record::DirHeader;
        if self.volume != policy.volume() {
            let (found, expected) = (self.volume, policy.volume());
            return Err(FormatError::ForeignVolume {
                record: RECORD,
                found,
                expected,
            });
        }
        if self.policy != policy.policy() {
            let (found, expected) = (self.policy, policy.policy());
            return Err(FormatError::ForeignPolicy {
                record: RECORD,
                found,
                expected,
            });
        }
        if self.generation != policy.generation() {
            let (found, expected) = (self.generation, policy.generation());
            return Err(FormatError::OtherGeneration {
                record: RECORD,
                found,
                expected,
            });
        }
        let bytes = self.first_part()?;
        let (before, after) = associated(&bytes)?;
        let key = keys::unwrap(
            RECORD,
            policy.directories(),
            &[AAD, before, after],
            &self.wrapped,
        )?;
        let keys = DirKeys::new(self.id, key)?;
        match &self.former {
            Some(former) => keys.with_former(former.unwrap(policy, &bytes)?),
            None => Ok(keys),
        }
    }

    /// Decides whether this directory may lie in a parent with the given header and keys: the same policy, or a policy
    /// of its own that the parent's key admitted. Call it after [`DirHeader::unlock`], at every lookup.
    ///
    /// # Errors
    /// [`FormatError::ForeignVolume`], [`FormatError::ForeignPolicy`] for a directory that claims to inherit,
    /// [`FormatError::NotAdmitted`] for a policy root without the parent's seal.
    pub fn check_below(&self, parent: &Self, parent_keys: &DirKeys) -> Result<(), FormatError> {
        const RECORD: Record = Record::DirHeader;
        if self.volume != parent.volume {
            let (found, expected) = (self.volume, parent.volume);
            return Err(FormatError::ForeignVolume {
                record: RECORD,
                found,
                expected,
            });
        }
        match self.nesting {
            Nesting::Inherits if self.policy == parent.policy => Ok(()),
            Nesting::Inherits => {
                let (found, expected) = (self.policy, parent.policy);
                Err(FormatError::ForeignPolicy {
                    record: RECORD,
                    found,
                    expected,
                })
            }
            Nesting::Root => {
                if self.is_sealed_by(parent_keys)? {
                    return Ok(());
                }
                match parent_keys.former() {
                    Some(former) if self.is_sealed_by(former)? => Ok(()),
                    _ => Err(FormatError::NotAdmitted { record: RECORD }),
                }
            }
        }
    }

    /// Wraps the same directory key under another generation of the same policy; the caller replaces the file.
    ///
    /// # Errors
    /// [`FormatError::ForeignPolicy`] if `to` is another policy, [`FormatError::Misuse`] if `keys` are of another
    /// directory.
    pub fn rewrap(&mut self, to: &UnlockedPolicy, keys: &DirKeys) -> Result<(), FormatError> {
        if (self.volume, self.policy) != (to.volume(), to.policy()) {
            let (found, expected) = (self.policy, to.policy());
            return Err(FormatError::ForeignPolicy {
                record: Record::DirHeader,
                found,
                expected,
            });
        }
        if self.id != keys.id() {
            return Err(FormatError::Misuse("keys of another directory"));
        }
        self.generation = to.generation();
        self.wrap(to, keys)
    }

    /// Wraps whatever keys there are.
    fn wrap(&mut self, policy: &UnlockedPolicy, keys: &DirKeys) -> Result<(), FormatError> {
        let bytes = self.first_part()?;
        let (before, after) = associated(&bytes)?;
        self.wrapped = keys::wrap(policy.directories(), &[AAD, before, after], keys.key())?;
        self.wrap_former(policy, keys)
    }

    /// The directory's identity.
    #[must_use]
    pub const fn id(&self) -> DirId {
        self.id
    }

    /// Whether the directory is the root of a policy.
    #[must_use]
    pub const fn nesting(&self) -> Nesting {
        self.nesting
    }

    /// Is this the root of a volume: the root of a policy that no parent admitted? Only the lower root may be one.
    #[must_use]
    pub fn is_volume_root(&self) -> bool {
        self.nesting == Nesting::Root && self.seal == [0; 32]
    }

    /// The volume named in the header.
    #[must_use]
    pub const fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The policy named in the header.
    #[must_use]
    pub const fn policy(&self) -> PolicyId {
        self.policy
    }

    /// The generation of the policy key that wraps the directory key.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The generation under which the directory key was made.
    #[must_use]
    pub const fn lineage(&self) -> u32 {
        self.lineage
    }
}

/// Everything but the wrapped key.
fn associated(header: &[u8; DIR_HEADER]) -> Result<(&[u8], &[u8]), FormatError> {
    let fields = Fields::exact(Record::DirHeader, header, DIR_HEADER)?;
    Ok((fields.slice(0, WRAP)?, fields.rest(NESTING)?))
}

#[cfg(test)]
mod tests;
