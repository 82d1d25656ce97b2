//! The TPM 2.0 keeper. The only module tree that names TPM types.
//!
//! Each operation connects, works, flushes and disconnects: nothing is held while idle, so other users of the chip
//! are not in the way and a reset or suspend in between goes unnoticed. Dropping the connection also frees libtss2's
//! buffers.

mod attest;
mod device;
mod link;
mod nv;
mod pcr;
mod policy;
mod properties;
mod raw;
mod rc;
mod session;
mod srk;

use kms_crypto::Key;
use tss_esapi::{
    Context,
    attributes::ObjectAttributesBuilder,
    constants::{SessionType, response_code::Tss2ResponseCodeKind},
    handles::{KeyHandle, NvIndexHandle, ObjectHandle},
    interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm},
    structures::{
        Auth, Digest, KeyedHashScheme, Private, Public, PublicBuilder, PublicKeyedHashParameters,
        SensitiveData,
    },
    traits::{Marshall, UnMarshall},
};

use self::{
    nv::{Found, Purpose, Refused},
    policy::Verified,
    srk::Srk,
};
use crate::{
    PcrState, Profile, SealError, SealerConfig, TpmAttestation,
    enrollment::{Attestor, Body, NvPin, Slot, TpmAttestor, TpmVault, Vault},
    hex::{Hex, HexArray},
    keys::RootKeys,
    sealer::Keeper,
};

/// The counter's policy: none, its authorisation value is enough.
const NO_POLICY: &[u8] = &[];

/// How to reach a TPM and what new enrolments are bound to.
#[derive(Clone)]
pub(crate) struct Tpm {
    config: SealerConfig,
}

impl Tpm {
    pub(crate) fn new(config: &SealerConfig) -> Self {
        device::quiet_libtss2();
        Self {
            config: config.clone(),
        }
    }
}

impl Keeper for Tpm {
    type Link = Chip;

    fn connect(&mut self) -> Result<Chip, SealError> {
        let mut context = device::connect(&self.config.device, self.config.wait)?;
        if let Some(password) = &self.config.owner_auth {
            let failed = rc::failed("the owner's password");
            let auth = Auth::try_from(password.expose().to_vec()).map_err(&failed)?;
            context
                .tr_set_auth(ObjectHandle::Owner, auth)
                .map_err(failed)?;
        }
        Ok(Chip {
            context,
            config: self.config.clone(),
            srk: None,
            verified: None,
        })
    }

    fn make_attestor(&mut self, body: &Body, keys: &RootKeys) -> Result<Attestor, SealError> {
        // Two conversations one after the other: a simulator has one client at a time.
        let key = self.make_attestation_key()?;
        let pin = self
            .connect()?
            .make_checkpoint_counter(vault_of(&body.vault)?, &keys.nv)?;
        let public = nv::described(pin.index, Purpose::Checkpoint, &attest::certify_policy());
        let mut attestor = attest::attestor(key, pin, public);
        // What it cannot do now it is not asked for later.
        attestor.certifies = false;
        let tried = self.attest_with(&attestor, &[0; 32])?;
        attestor.certifies = tried.certification.is_some();
        if !attestor.certifies {
            tracing::warn!(
                "this TPM does not certify counters (TPM2_NV_Certify): checkpoints carry quotes only"
            );
        }
        Ok(Attestor::Tpm(Box::new(attestor)))
    }

    fn attest(
        &mut self,
        attestor: &Attestor,
        qualifying: &[u8; 32],
    ) -> Result<Option<TpmAttestation>, SealError> {
        self.attest_with(attestor_of(attestor)?, qualifying)
            .map(Some)
    }
}

/// A connected TPM.
pub(crate) struct Chip {
    context: Context,
    config: SealerConfig,
    srk: Option<Srk>,
    verified: Option<Verified>,
}

impl Chip {
    const fn password_given(&self) -> bool {
        self.config.owner_auth.is_some()
    }

    /// The storage root key of a record, checked once per connection.
    fn pinned_srk(&mut self, vault: &TpmVault) -> Result<KeyHandle, SealError> {
        if let Some(srk) = &self.srk
            && srk.name == vault.srk_name.0
        {
            return Ok(srk.key);
        }
        let srk = srk::pinned(&mut self.context, vault)?;
        Ok(self.srk.insert(srk).key)
    }

    /// The storage root key for a new enrolment.
    fn own_srk(&mut self) -> Result<Srk, SealError> {
        if let Some(srk) = &self.srk {
            return Ok(srk.clone());
        }
        let given = self.password_given();
        let srk = srk::find_or_make(&mut self.context, given)?;
        Ok(self.srk.insert(srk).clone())
    }

    /// The approval for the state now, verified once per connection.
    fn verify_state(&mut self, vault: &TpmVault) -> Result<(), SealError> {
        if self.verified.is_none() {
            self.verified = Some(Verified::find(&mut self.context, vault)?);
        }
        Ok(())
    }

    /// Policy digest of the record's object and slots.
    fn policy(&mut self, vault: &TpmVault) -> Result<[u8; 32], SealError> {
        let signer = policy::signer_name(&mut self.context, &vault.signer)?;
        Ok(policy::digest(&signer, &vault.policy_ref.0))
    }

    fn refuse_when_locked(&mut self, profile: Profile) -> Result<(), SealError> {
        if profile == Profile::Machine {
            return Ok(());
        }
        let lockout = properties::lockout(&mut self.context)?;
        if lockout.tries_left == 0 {
            return Err(SealError::LockedOut {
                seconds: lockout.wait_seconds,
            });
        }
        Ok(())
    }

    fn find_counter(&mut self, vault: &TpmVault) -> Result<NvIndexHandle, SealError> {
        let pin = &vault.counter;
        let replaced = |reason: &str| {
            Err(SealError::CounterReplaced {
                counter: index(pin),
                reason: reason.to_owned(),
            })
        };
        match nv::find(&mut self.context, pin, Purpose::Counter, NO_POLICY)? {
            Found::Written(handle) => Ok(handle),
            Found::Absent => Err(SealError::CounterMissing {
                counter: index(pin),
            }),
            Found::Unwritten(_) => replaced("it was defined anew and never incremented"),
            Found::Foreign => replaced("its name differs"),
        }
    }

    fn find_slot(&mut self, vault: &TpmVault, slot: Slot) -> Result<NvIndexHandle, SealError> {
        let pin = vault.slot(slot);
        let policy = self.policy(vault)?;
        match nv::find(&mut self.context, pin, Purpose::Secret, &policy)? {
            Found::Written(handle) => Ok(handle),
            Found::Absent | Found::Unwritten(_) => {
                Err(SealError::EpochDestroyed { slot: index(pin) })
            }
            Found::Foreign => Err(SealError::EpochReplaced {
                slot: index(pin),
                reason: "its name differs",
            }),
        }
    }

    /// A counter for checkpoints that has been incremented once, so that it can be read.
    fn make_checkpoint_counter(
        &mut self,
        vault: &TpmVault,
        auth: &Key<32>,
    ) -> Result<NvPin, SealError> {
        let srk = self.pinned_srk(vault)?;
        let policy = attest::certify_policy();
        let given = self.password_given();
        for index in nv::checkpoint_places(vault.counter.index) {
            let pin = nv::pin(index, Purpose::Checkpoint, &policy);
            let context = &mut self.context;
            let handle = match nv::find(context, &pin, Purpose::Checkpoint, &policy)? {
                Found::Foreign => continue,
                Found::Absent => {
                    let purpose = Purpose::Checkpoint;
                    nv::define(context, srk, index, purpose, &policy, auth, given)?
                }
                Found::Unwritten(handle) => handle,
                // Left over from an attempt whose record was lost, or another enrolment's.
                Found::Written(handle) => match nv::read_counter(context, srk, handle, auth) {
                    Ok(_) => return Ok(pin),
                    Err(Refused::WrongAuth) => continue,
                    Err(refused) => return Err(unexpected(refused)),
                },
            };
            match nv::increment(&mut self.context, srk, handle, auth) {
                Ok(()) => return Ok(pin),
                Err(Refused::WrongAuth) => {}
                Err(refused) => return Err(unexpected(refused)),
            }
        }
        Err(SealError::NvFull {
            what: "the checkpoint counter",
        })
    }

    fn find_checkpoint_counter(
        &mut self,
        attestor: &TpmAttestor,
    ) -> Result<NvIndexHandle, SealError> {
        let pin = &attestor.counter;
        let policy = attest::certify_policy();
        match nv::find(&mut self.context, pin, Purpose::Checkpoint, &policy)? {
            Found::Written(handle) => Ok(handle),
            Found::Absent => Err(SealError::CounterMissing {
                counter: index(pin),
            }),
            Found::Unwritten(_) | Found::Foreign => Err(SealError::CounterReplaced {
                counter: index(pin),
                reason: "it was defined anew".to_owned(),
            }),
        }
    }

    /// Seals `root`; nothing persistent comes of it.
    fn seal(
        &mut self,
        srk: KeyHandle,
        profile: Profile,
        root: &Key<32>,
        auth: &Key<32>,
        policy: &[u8],
    ) -> Result<(Hex, Hex), SealError> {
        let failed = rc::failed("to seal the root secret");
        let template = sealed_template(profile, policy).map_err(&failed)?;
        let auth = nv::to_auth(auth)?;
        let secret = SensitiveData::try_from(root.expose().to_vec()).map_err(&failed)?;
        let created = session::with_hmac(
            &mut self.context,
            srk,
            |context| context.create(srk, template, Some(auth), Some(secret), None, None),
            &failed,
        )?;
        let public = created.out_public.marshall().map_err(failed)?;
        Ok((Hex(public), Hex(created.out_private.value().to_vec())))
    }

    fn unseal(
        &mut self,
        srk: KeyHandle,
        vault: &TpmVault,
        auth: &Key<32>,
    ) -> Result<Key<32>, SealError> {
        let public = Public::unmarshall(&vault.public.0).map_err(|_| SealError::DamagedBlob)?;
        let private =
            Private::try_from(vault.private.0.clone()).map_err(|_| SealError::DamagedBlob)?;
        let auth = nv::to_auth(auth)?;
        self.verify_state(vault)?;
        let Self {
            context,
            verified: Some(verified),
            ..
        } = self
        else {
            return Err(SealError::NotUnsealed);
        };
        let object = session::with_hmac(
            context,
            srk,
            |context| context.load(srk, private, public),
            |error| match rc::kind(&error) {
                // The parent is the right one, its name was compared: the blob is not.
                Some(
                    Tss2ResponseCodeKind::Integrity
                    | Tss2ResponseCodeKind::Binding
                    | Tss2ResponseCodeKind::Attributes
                    | Tss2ResponseCodeKind::Sensitive
                    | Tss2ResponseCodeKind::Size
                    | Tss2ResponseCodeKind::Insufficient
                    | Tss2ResponseCodeKind::Type
                    | Tss2ResponseCodeKind::Hash
                    | Tss2ResponseCodeKind::Scheme
                    | Tss2ResponseCodeKind::Value,
                ) => SealError::DamagedBlob,
                _ => rc::failed("to load the sealed blob")(error),
            },
        )?;
        let outcome = session::with_object(context, object, |context, object| {
            let failed = rc::failed("the credential");
            context.tr_set_auth(object.into(), auth).map_err(failed)?;
            session::with_session(context, srk, SessionType::Policy, |context, session| {
                verified.satisfy(context, session)?;
                Ok(context
                    .execute_with_session(Some(session), |context| context.unseal(object.into())))
            })
        })?;
        match outcome {
            Ok(secret) => {
                let root = Key::from_slice(secret.value()).map_err(|_| SealError::DamagedBlob)?;
                drop(secret);
                // libtss2 keeps the answer in its heap until the next one of the size comes.
                self.context
                    .execute_without_session(|context| context.get_random(32))
                    .map_err(rc::failed("random bytes"))?;
                Ok(root)
            }
            Err(error) => Err(self.unseal_failed(error)),
        }
    }

    fn unseal_failed(&mut self, error: tss_esapi::Error) -> SealError {
        match rc::kind(&error) {
            Some(Tss2ResponseCodeKind::BadAuth) => SealError::WrongCredential,
            Some(Tss2ResponseCodeKind::AuthFail) => match properties::lockout(&mut self.context) {
                Ok(lockout) => SealError::WrongPin {
                    tries_left: lockout.tries_left,
                },
                Err(error) => error,
            },
            Some(Tss2ResponseCodeKind::Lockout) => match properties::lockout(&mut self.context) {
                Ok(lockout) => SealError::LockedOut {
                    seconds: lockout.wait_seconds,
                },
                Err(error) => error,
            },
            Some(Tss2ResponseCodeKind::PolicyFail) => SealError::DamagedRecord {
                reason: "its policy is not that of the sealed blob",
            },
            _ => rc::failed("to unseal")(error),
        }
    }

    /// Makes counter and slots. The second slot is made too, so that a later deletion finds room.
    fn define_indices(
        &mut self,
        srk: KeyHandle,
        vault: &TpmVault,
        policy: &[u8],
        auth: &Key<32>,
    ) -> Result<u64, SealError> {
        let given = self.password_given();
        let Self { context, .. } = self;
        let index = vault.counter.index;
        let counter = nv::define(
            context,
            srk,
            index,
            Purpose::Counter,
            NO_POLICY,
            auth,
            given,
        )?;
        // A counter that was never incremented cannot be read.
        nv::increment(context, srk, counter, auth).map_err(unexpected)?;
        for pin in [&vault.slot_a, &vault.slot_b] {
            nv::define(
                context,
                srk,
                pin.index,
                Purpose::Secret,
                policy,
                auth,
                given,
            )?;
        }
        let counter = self.find_counter(vault)?;
        nv::read_counter(&mut self.context, srk, counter, auth).map_err(unexpected)
    }

    /// A random value over a slot, the slot removed, and its room kept for the next epoch.
    fn destroy_slot(
        &mut self,
        vault: &TpmVault,
        slot: Slot,
        auth: &Key<32>,
    ) -> Result<(), SealError> {
        let srk = self.pinned_srk(vault)?;
        let policy = self.policy(vault)?;
        let given = self.password_given();
        let pin = vault.slot(slot);
        let Self { context, .. } = self;
        match nv::find(context, pin, Purpose::Secret, &policy)? {
            Found::Written(handle) => {
                let noise = Key::random()?;
                match nv::write_secret(context, srk, handle, auth, &noise) {
                    // With another authorisation value it is not ours any more: our secret is gone.
                    Ok(()) | Err(Refused::WrongAuth) => {}
                    Err(refused) => return Err(unexpected(refused)),
                }
                // The secret is destroyed; that the index goes as well is only tidy.
                if let Err(error) = nv::undefine(context, srk, handle, given) {
                    tracing::warn!(%error, index = index(pin), "an overwritten epoch slot stays");
                    return Ok(());
                }
            }
            Found::Unwritten(_) => return Ok(()),
            Found::Absent => {}
            Found::Foreign => {
                // Our secret is gone; whoever defined this may keep it.
                tracing::warn!(
                    index = index(pin),
                    "a retired epoch slot now belongs to another"
                );
                return Ok(());
            }
        }
        if let Err(error) = nv::define(
            context,
            srk,
            pin.index,
            Purpose::Secret,
            &policy,
            auth,
            given,
        ) {
            tracing::warn!(%error, index = index(pin), "no room was kept for the next epoch secret");
        }
        Ok(())
    }

    /// Values to approve.
    fn state(&mut self, state: &PcrState) -> Result<pcr::Values, SealError> {
        match state {
            PcrState::Current => pcr::read(&mut self.context, self.config.pcrs.iter().copied()),
            PcrState::Values(values) => {
                if let Some(index) = values.keys().find(|index| **index > 23) {
                    return Err(SealError::InvalidConfig {
                        reason: format!("{index} is not a PCR (0 to 23)"),
                    });
                }
                Ok(values
                    .iter()
                    .map(|(index, value)| (*index, HexArray(*value)))
                    .collect())
            }
        }
    }
}

/// Whether a look-up failed because nothing is at that handle.
fn is_absent(error: &tss_esapi::Error) -> bool {
    rc::kind(error) == Some(Tss2ResponseCodeKind::Handle)
}

fn vault_of(vault: &Vault) -> Result<&TpmVault, SealError> {
    match vault {
        Vault::Tpm(vault) => Ok(vault),
        Vault::Software(_) => Err(SealError::UnsupportedRecord {
            reason: "it was made by the software sealer, the configuration says tpm".to_owned(),
        }),
    }
}

fn attestor_of(attestor: &Attestor) -> Result<&TpmAttestor, SealError> {
    match attestor {
        Attestor::Tpm(attestor) => Ok(attestor),
        Attestor::Software => Err(SealError::DamagedRecord {
            reason: "it has no attestation key of a TPM",
        }),
    }
}

fn index(pin: &NvPin) -> String {
    format!("{:#010x}", pin.index)
}

fn counter_refused(pin: &NvPin, refused: Refused) -> SealError {
    let replaced = |reason: &str| SealError::CounterReplaced {
        counter: index(pin),
        reason: reason.to_owned(),
    };
    match refused {
        Refused::WrongAuth => replaced("it has another authorisation value"),
        Refused::Unwritten => replaced("it was defined anew and never incremented"),
        Refused::Other(error) => error,
    }
}

/// For steps on indices that were made a moment ago.
fn unexpected(refused: Refused) -> SealError {
    let reason = match refused {
        Refused::Other(error) => return error,
        Refused::WrongAuth => "the authorisation value of an index made a moment ago",
        Refused::Unwritten => "an index made a moment ago is not written",
    };
    SealError::Tpm {
        operation: "an NV index",
        reason: reason.to_owned(),
    }
}

/// A sealed data object. `userWithAuth` stays clear: only the policy opens it. A PIN counts failures, a random
/// credential does not.
fn sealed_template(profile: Profile, policy: &[u8]) -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_no_da(profile == Profile::Machine)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(Digest::try_from(policy.to_vec())?)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}
