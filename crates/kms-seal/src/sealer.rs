//! The order of things, the same for every keeper: derivations, record, caching, epochs.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use kms_crypto::{Key, hkdf_key};

use crate::{
    Checkpointer, Credential, Enrollment, HostKek, PcrState, Profile, RootSealer, SealError,
    SealStatus, TpmAttestation,
    attest::Desk,
    enrollment::{Attestor, Body, Slot, Vault},
    hex::HexArray,
    keys::{self, RootKeys, Secrets},
};

/// Something that keeps secrets: a TPM, a key file. Reached anew for every operation.
pub(crate) trait Keeper: Clone + Send + 'static {
    type Link: Link;

    fn connect(&mut self) -> Result<Self::Link, SealError>;

    /// An attestation key with its counter; one left over from an attempt whose record was lost is used again.
    fn make_attestor(&mut self, body: &Body, keys: &RootKeys) -> Result<Attestor, SealError>;

    /// What the device signs; none where there is none.
    fn attest(
        &mut self,
        attestor: &Attestor,
        qualifying: &[u8; 32],
    ) -> Result<Option<TpmAttestation>, SealError>;
}

/// A connection to a keeper, for one operation.
pub(crate) trait Link {
    fn status(&mut self) -> Result<SealStatus, SealError>;

    /// What can be checked without a credential.
    fn check(&mut self, body: &Body) -> Result<(), SealError>;

    /// A second source of randomness beside the system's.
    fn random(&mut self) -> Result<[u8; 32], SealError>;

    /// Makes the counter, seals `root`, and picks places for the epoch secrets. Returns the counter's
    /// value. Leaves nothing behind on failure.
    fn create(
        &mut self,
        id: &[u8; 16],
        profile: Profile,
        root: &Key<32>,
        keys: &RootKeys,
        auth: &Key<32>,
    ) -> Result<(Vault, u64), SealError>;

    /// Gives back the root secret.
    fn open(&mut self, body: &Body, auth: &Key<32>) -> Result<Key<32>, SealError>;

    fn read_epoch(
        &mut self,
        body: &Body,
        slot: Slot,
        keys: &RootKeys,
    ) -> Result<Key<32>, SealError>;

    /// Writes a slot that is free or holds something left over.
    fn write_epoch(
        &mut self,
        id: &[u8; 16],
        vault: &Vault,
        slot: Slot,
        keys: &RootKeys,
        secret: &Key<32>,
    ) -> Result<(), SealError>;

    /// Overwrites and removes a slot; an absent one is fine.
    fn erase_epoch(&mut self, body: &Body, slot: Slot, keys: &RootKeys) -> Result<(), SealError>;

    /// Whether the slot holds a secret of this enrolment.
    fn has_epoch(&mut self, body: &Body, slot: Slot) -> Result<(), SealError>;

    fn counter(&mut self, body: &Body, keys: &RootKeys) -> Result<u64, SealError>;

    fn increment(&mut self, body: &Body, keys: &RootKeys) -> Result<u64, SealError>;

    /// The vault with one more approved state.
    fn approve(
        &mut self,
        body: &Body,
        root: &Key<32>,
        state: &PcrState,
    ) -> Result<Vault, SealError>;

    fn remove(&mut self, id: &[u8; 16], vault: &Vault) -> Result<(), SealError>;

    fn checkpoint_counter(
        &mut self,
        body: &Body,
        attestor: &Attestor,
        keys: &RootKeys,
    ) -> Result<u64, SealError>;

    fn advance_checkpoint(
        &mut self,
        body: &Body,
        attestor: &Attestor,
        keys: &RootKeys,
    ) -> Result<u64, SealError>;

    /// Removes the checkpoint counter.
    fn remove_attestor(&mut self, body: &Body, attestor: &Attestor) -> Result<(), SealError>;
}

/// A sealer over any keeper.
pub(crate) struct Sealer<K> {
    keeper: K,
    /// Of the enrolment that was unsealed last.
    unsealed: Option<([u8; 16], Arc<RootKeys>)>,
}

impl<K: Keeper> Sealer<K> {
    pub(crate) const fn new(keeper: K) -> Self {
        Self {
            keeper,
            unsealed: None,
        }
    }

    /// Opens the root secret and authenticates the record with it.
    fn open_root(
        &mut self,
        enrollment: &Enrollment,
        credential: &Credential,
    ) -> Result<Opened<K::Link>, SealError> {
        enrollment.check_sum()?;
        let body = &enrollment.body;
        let secrets = Secrets::derive(credential, &body.stretch)?;
        let mut link = self.keeper.connect()?;
        let root = link.open(body, &secrets.auth)?;
        let keys = RootKeys::derive(&root, &body.id.0)?;
        enrollment.check_mac(&keys.mac)?;
        Ok(Opened {
            link,
            root,
            keys,
            secrets,
        })
    }

    /// The cached keys of this record, which they authenticate.
    fn keys(&self, enrollment: &Enrollment) -> Result<&Arc<RootKeys>, SealError> {
        enrollment.check_sum()?;
        let (_, keys) = self
            .unsealed
            .as_ref()
            .filter(|(id, _)| *id == enrollment.body.id.0)
            .ok_or(SealError::NotUnsealed)?;
        enrollment.check_mac(&keys.mac)?;
        Ok(keys)
    }
}

struct Opened<L> {
    link: L,
    root: Key<32>,
    keys: RootKeys,
    secrets: Secrets,
}

impl<K: Keeper> RootSealer for Sealer<K> {
    fn status(&mut self) -> Result<SealStatus, SealError> {
        self.keeper.connect()?.status()
    }

    fn check(&mut self, enrollment: &Enrollment) -> Result<(), SealError> {
        enrollment.check_sum()?;
        self.keeper.connect()?.check(&enrollment.body)
    }

    fn enroll(
        &mut self,
        profile: Profile,
        credential: &Credential,
    ) -> Result<(Enrollment, HostKek), SealError> {
        credential.check(profile)?;
        let stretch = keys::new_stretch(profile)?;
        let secrets = Secrets::derive(credential, &stretch)?;
        let mut link = self.keeper.connect()?;
        let id: [u8; 16] = kms_crypto::random_array()?;
        let root = draw_secret(&mut link, b"root secret")?;
        let root_keys = RootKeys::derive(&root, &id)?;
        let (vault, counter_base) = link.create(&id, profile, &root, &root_keys, &secrets.auth)?;

        let complete = |link: &mut K::Link| {
            let epoch = draw_secret(link, b"epoch secret")?;
            link.write_epoch(&id, &vault, Slot::A, &root_keys, &epoch)?;
            let (kek, kek_check) = keys::host_kek(&id, &root, &epoch, &secrets)?;
            let body = Body {
                id: HexArray(id),
                created: seconds_now(),
                profile,
                stretch,
                counter_base,
                epoch: 0,
                slot: Slot::A,
                retired: false,
                kek_check,
                vault: vault.clone(),
                attestor: None,
            };
            Ok((Enrollment::new(body, &root_keys.mac)?, kek))
        };
        match complete(&mut link) {
            Ok(done) => {
                self.unsealed = Some((id, Arc::new(root_keys)));
                Ok(done)
            }
            Err(error) => {
                if let Err(leftover) = link.remove(&id, &vault) {
                    tracing::warn!(%leftover, "a failed enrolment left NV indices behind");
                }
                Err(error)
            }
        }
    }

    fn unseal(
        &mut self,
        enrollment: &Enrollment,
        credential: &Credential,
    ) -> Result<HostKek, SealError> {
        let body = &enrollment.body;
        let Opened {
            mut link,
            root,
            keys,
            secrets,
        } = self.open_root(enrollment, credential)?;
        let epoch = link.read_epoch(body, body.slot, &keys)?;
        let (kek, check) = keys::host_kek(&body.id.0, &root, &epoch, &secrets)?;
        if !kms_crypto::constant_time_eq(&check.0, &body.kek_check.0) {
            // The record is authentic and so is the root secret: only the epoch secret is left.
            return Err(SealError::EpochReplaced {
                slot: format!("{:?}", body.slot),
                reason: "it gives another key than at enrolment",
            });
        }
        self.unsealed = Some((body.id.0, Arc::new(keys)));
        Ok(kek)
    }

    fn counter(&mut self, enrollment: &Enrollment) -> Result<u64, SealError> {
        self.keys(enrollment)?;
        let mut link = self.keeper.connect()?;
        let value = link.counter(&enrollment.body, self.keys(enrollment)?)?;
        not_before(enrollment, value)
    }

    fn increment(&mut self, enrollment: &Enrollment) -> Result<u64, SealError> {
        self.keys(enrollment)?;
        let mut link = self.keeper.connect()?;
        let value = link.increment(&enrollment.body, self.keys(enrollment)?)?;
        not_before(enrollment, value)
    }

    fn stage_epoch(
        &mut self,
        enrollment: &Enrollment,
        credential: &Credential,
    ) -> Result<(Enrollment, HostKek), SealError> {
        let Opened {
            mut link,
            root,
            keys,
            secrets,
        } = self.open_root(enrollment, credential)?;
        let mut body = enrollment.body.clone();
        if body.retired {
            return Err(SealError::DamagedRecord {
                reason: "its previous epoch must be committed first",
            });
        }
        // Never overwrite the free slot of a record whose own secret is gone: the newer record needs it.
        link.has_epoch(&body, body.slot)?;
        body.slot = body.slot.other();
        body.epoch += 1;
        body.retired = true;
        let epoch = draw_secret(&mut link, b"epoch secret")?;
        link.write_epoch(&body.id.0, &body.vault, body.slot, &keys, &epoch)?;
        let (kek, kek_check) = keys::host_kek(&body.id.0, &root, &epoch, &secrets)?;
        body.kek_check = kek_check;
        let staged = Enrollment::new(body, &keys.mac)?;
        self.unsealed = Some((staged.body.id.0, Arc::new(keys)));
        Ok((staged, kek))
    }

    fn commit_epoch(&mut self, enrollment: &Enrollment) -> Result<Enrollment, SealError> {
        self.keys(enrollment)?;
        if !enrollment.body.retired {
            return Ok(enrollment.clone());
        }
        let mut link = self.keeper.connect()?;
        let keys = self.keys(enrollment)?;
        let mut body = enrollment.body.clone();
        // Destroying the old secret without the new one in place would lose the store.
        link.has_epoch(&body, body.slot)?;
        link.erase_epoch(&body, body.slot.other(), keys)?;
        body.retired = false;
        Enrollment::new(body, &keys.mac)
    }

    fn approve(
        &mut self,
        enrollment: &Enrollment,
        credential: &Credential,
        state: &PcrState,
    ) -> Result<Enrollment, SealError> {
        let Opened {
            mut link,
            root,
            keys,
            ..
        } = self.open_root(enrollment, credential)?;
        let mut body = enrollment.body.clone();
        body.vault = link.approve(&body, &root, state)?;
        Enrollment::new(body, &keys.mac)
    }

    fn prepare_checkpoints(&mut self, enrollment: &Enrollment) -> Result<Enrollment, SealError> {
        if enrollment.body.attestor.is_some() {
            return Ok(enrollment.clone());
        }
        let keys = Arc::clone(self.keys(enrollment)?);
        let mut body = enrollment.body.clone();
        body.attestor = Some(self.keeper.make_attestor(&body, &keys)?);
        Enrollment::new(body, &keys.mac)
    }

    fn checkpointer(&self, enrollment: &Enrollment) -> Result<Box<dyn Checkpointer>, SealError> {
        let keys = Arc::clone(self.keys(enrollment)?);
        let desk = Desk::new(self.keeper.clone(), enrollment.body.clone(), keys)?;
        Ok(Box::new(desk))
    }

    fn remove(&mut self, enrollment: &Enrollment) -> Result<(), SealError> {
        enrollment.check_sum()?;
        let body = &enrollment.body;
        let mut link = self.keeper.connect()?;
        if let Some(attestor) = &body.attestor {
            link.remove_attestor(body, attestor)?;
        }
        link.remove(&body.id.0, &body.vault)?;
        self.unsealed = self.unsealed.take().filter(|(id, _)| *id != body.id.0);
        Ok(())
    }
}

/// A fresh secret from the system's generator, with the keeper's as a second input.
fn draw_secret(link: &mut impl Link, label: &[u8]) -> Result<Key<32>, SealError> {
    let own = Key::<32>::random()?;
    let other = Key::<32>::take(&mut link.random()?)?;
    Ok(hkdf_key(
        b"kms-seal v0 draw",
        &[own.expose(), other.expose()],
        &[label],
    )?)
}

fn not_before(enrollment: &Enrollment, value: u64) -> Result<u64, SealError> {
    let base = enrollment.body.counter_base;
    if value >= base {
        return Ok(value);
    }
    Err(SealError::CounterReplaced {
        counter: "of this enrolment".to_owned(),
        reason: format!("it is at {value} and was at {base} when it was enrolled"),
    })
}

fn seconds_now() -> u64 {
    // A clock before 1970 is no reason to fail: the value is informative.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
