//! What the sealer asks of a TPM, step by step.

use kms_crypto::Key;

use super::{
    Chip, NO_POLICY, attest, attestor_of, counter_refused, index,
    nv::{self, Found, Purpose, Refused},
    pcr,
    policy::{self, Signer},
    properties, rc, session,
    srk::{self, Srk},
    unexpected, vault_of,
};
use crate::{
    PcrState, PcrValue, Profile, SealError, SealStatus,
    enrollment::{Attestor, Body, Slot, TpmVault, Vault},
    hex::{Hex, HexArray, hex},
    keys::RootKeys,
    sealer::Link,
};

/// Older approvals go when a record would hold more.
const MAX_APPROVALS: usize = 8;

impl Link for Chip {
    fn status(&mut self) -> Result<SealStatus, SealError> {
        let context = &mut self.context;
        let srk = srk::find(context)?;
        let measured = pcr::is_measured(context)?;
        let pcrs = pcr::read(context, self.config.pcrs.iter().copied())?
            .into_iter()
            .map(|(index, value)| PcrValue {
                index,
                value: hex(&value.0),
            })
            .collect();
        let mut warnings = Vec::new();
        if self.config.device.starts_with("swtpm:") {
            warnings.push(
                "The TPM is a simulator: the keys are as safe as its state directory.".to_owned(),
            );
        }
        if self.config.pcrs.is_empty() {
            warnings.push("No PCR is checked: whatever boots here may open the key.".to_owned());
        } else if !measured {
            warnings.push(
                "The firmware measured nothing (PCR 0 to 7 are zero): checking PCRs protects nothing here."
                    .to_owned(),
            );
        }
        Ok(SealStatus {
            kind: "tpm",
            device: self.config.device.clone(),
            manufacturer: properties::manufacturer(context)?,
            firmware: properties::firmware(context)?,
            srk_handle: srk.as_ref().map(|srk| format!("{:#010x}", srk.handle)),
            srk_name: srk.as_ref().map(|srk| hex(&srk.name)),
            lockout: Some(properties::lockout(context)?),
            pcrs,
            measured: Some(measured),
            owner_auth_set: Some(properties::owner_auth_set(context)?),
            warnings,
        })
    }

    fn check(&mut self, body: &Body) -> Result<(), SealError> {
        let vault = vault_of(&body.vault)?;
        self.pinned_srk(vault)?;
        self.refuse_when_locked(body.profile)?;
        self.verify_state(vault)?;
        self.find_counter(vault)?;
        self.find_slot(vault, body.slot).map(drop)
    }

    fn random(&mut self) -> Result<[u8; 32], SealError> {
        let srk = self.own_srk()?;
        let bytes = session::with_hmac(
            &mut self.context,
            srk.key,
            |context| context.get_random(32),
            rc::failed("random bytes"),
        )?;
        // Some chips give less than was asked for; the rest stays zero, the system's generator counts.
        let mut out = [0; 32];
        for (to, from) in out.iter_mut().zip(bytes.value()) {
            *to = *from;
        }
        Ok(out)
    }

    fn create(
        &mut self,
        id: &[u8; 16],
        profile: Profile,
        root: &Key<32>,
        keys: &RootKeys,
        auth: &Key<32>,
    ) -> Result<(Vault, u64), SealError> {
        let Srk {
            key: srk,
            handle,
            name,
        } = self.own_srk()?;
        let signer = Signer::derive(root)?;
        let [counter, slot_a, slot_b] = nv::free_triple(&mut self.context)?;
        let counter = nv::pin(counter, Purpose::Counter, NO_POLICY);
        let policy_ref = policy::reference(id, &counter.name.0);
        let public_key = HexArray(signer.public);
        let signer_name = policy::signer_name(&mut self.context, &public_key)?;
        let policy = policy::digest(&signer_name, &policy_ref);
        let state = self.state(&PcrState::Current)?;
        let approval = signer.approve(state, &policy_ref)?;
        let (public, private) = self.seal(srk, profile, root, auth, &policy)?;
        let vault = TpmVault {
            srk_handle: handle,
            srk_name: Hex(name),
            public,
            private,
            signer: public_key,
            policy_ref: HexArray(policy_ref),
            approvals: vec![approval],
            counter,
            slot_a: nv::pin(slot_a, Purpose::Secret, &policy),
            slot_b: nv::pin(slot_b, Purpose::Secret, &policy),
        };
        match self.define_indices(srk, &vault, &policy, &keys.nv) {
            Ok(value) => Ok((Vault::Tpm(Box::new(vault)), value)),
            Err(error) => {
                if let Err(leftover) = self.remove(id, &Vault::Tpm(Box::new(vault))) {
                    tracing::warn!(%leftover, "a failed enrolment left NV indices behind");
                }
                Err(error)
            }
        }
    }

    fn open(&mut self, body: &Body, auth: &Key<32>) -> Result<Key<32>, SealError> {
        let vault = vault_of(&body.vault)?;
        let srk = self.pinned_srk(vault)?;
        self.refuse_when_locked(body.profile)?;
        self.unseal(srk, vault, auth)
    }

    fn read_epoch(
        &mut self,
        body: &Body,
        slot: Slot,
        keys: &RootKeys,
    ) -> Result<Key<32>, SealError> {
        let vault = vault_of(&body.vault)?;
        let srk = self.pinned_srk(vault)?;
        self.verify_state(vault)?;
        let handle = self.find_slot(vault, slot)?;
        let Self {
            context,
            verified: Some(verified),
            ..
        } = self
        else {
            return Err(SealError::NotUnsealed);
        };
        let slot = index(vault.slot(slot));
        let secret =
            nv::read_secret(context, srk, handle, &keys.nv, verified).map_err(|refused| {
                match refused {
                    Refused::WrongAuth => SealError::EpochReplaced {
                        slot,
                        reason: "it has another authorisation value",
                    },
                    Refused::Unwritten => SealError::EpochDestroyed { slot },
                    Refused::Other(error) => error,
                }
            })?;
        context
            .execute_without_session(|context| context.get_random(32))
            .map_err(rc::failed("random bytes"))?;
        Ok(secret)
    }

    fn write_epoch(
        &mut self,
        _id: &[u8; 16],
        vault: &Vault,
        slot: Slot,
        keys: &RootKeys,
        secret: &Key<32>,
    ) -> Result<(), SealError> {
        let vault = vault_of(vault)?;
        let srk = self.pinned_srk(vault)?;
        let policy = self.policy(vault)?;
        let given = self.password_given();
        let pin = vault.slot(slot);
        let Self { context, .. } = self;
        let handle = match nv::find(context, pin, Purpose::Secret, &policy)? {
            Found::Written(handle) | Found::Unwritten(handle) => handle,
            Found::Absent => nv::define(
                context,
                srk,
                pin.index,
                Purpose::Secret,
                &policy,
                &keys.nv,
                given,
            )?,
            Found::Foreign => {
                return Err(SealError::EpochReplaced {
                    slot: index(pin),
                    reason: "its name differs",
                });
            }
        };
        nv::write_secret(context, srk, handle, &keys.nv, secret).map_err(|refused| match refused {
            Refused::WrongAuth => SealError::EpochReplaced {
                slot: index(pin),
                reason: "it has another authorisation value",
            },
            other => unexpected(other),
        })
    }

    fn erase_epoch(&mut self, body: &Body, slot: Slot, keys: &RootKeys) -> Result<(), SealError> {
        self.destroy_slot(vault_of(&body.vault)?, slot, &keys.nv)
    }

    fn has_epoch(&mut self, body: &Body, slot: Slot) -> Result<(), SealError> {
        let vault = vault_of(&body.vault)?;
        self.pinned_srk(vault)?;
        self.find_slot(vault, slot).map(drop)
    }

    fn counter(&mut self, body: &Body, keys: &RootKeys) -> Result<u64, SealError> {
        let vault = vault_of(&body.vault)?;
        let srk = self.pinned_srk(vault)?;
        let handle = self.find_counter(vault)?;
        nv::read_counter(&mut self.context, srk, handle, &keys.nv)
            .map_err(|refused| counter_refused(&vault.counter, refused))
    }

    fn increment(&mut self, body: &Body, keys: &RootKeys) -> Result<u64, SealError> {
        let vault = vault_of(&body.vault)?;
        let srk = self.pinned_srk(vault)?;
        let handle = self.find_counter(vault)?;
        nv::increment(&mut self.context, srk, handle, &keys.nv)
            .and_then(|()| nv::read_counter(&mut self.context, srk, handle, &keys.nv))
            .map_err(|refused| counter_refused(&vault.counter, refused))
    }

    fn approve(
        &mut self,
        body: &Body,
        root: &Key<32>,
        state: &PcrState,
    ) -> Result<Vault, SealError> {
        let mut vault = vault_of(&body.vault)?.clone();
        let signer = Signer::derive(root)?;
        let approval = signer.approve(self.state(state)?, &vault.policy_ref.0)?;
        vault.approvals.retain(|other| other.pcrs != approval.pcrs);
        vault.approvals.push(approval);
        let surplus = vault.approvals.len().saturating_sub(MAX_APPROVALS);
        vault.approvals.drain(..surplus);
        Ok(Vault::Tpm(Box::new(vault)))
    }

    fn remove(&mut self, _id: &[u8; 16], vault: &Vault) -> Result<(), SealError> {
        let vault = vault_of(vault)?;
        let srk = self.pinned_srk(vault)?;
        let policy = self.policy(vault)?;
        let given = self.password_given();
        for (pin, purpose, policy) in [
            (&vault.slot_a, Purpose::Secret, policy.as_slice()),
            (&vault.slot_b, Purpose::Secret, policy.as_slice()),
            (&vault.counter, Purpose::Counter, NO_POLICY),
        ] {
            match nv::find(&mut self.context, pin, purpose, policy)? {
                Found::Written(handle) | Found::Unwritten(handle) => {
                    nv::undefine(&mut self.context, srk, handle, given)?;
                }
                Found::Absent => {}
                Found::Foreign => {
                    tracing::warn!(
                        index = index(pin),
                        "this NV index belongs to another; left alone"
                    );
                }
            }
        }
        Ok(())
    }

    fn checkpoint_counter(
        &mut self,
        body: &Body,
        attestor: &Attestor,
        keys: &RootKeys,
    ) -> Result<u64, SealError> {
        let srk = self.pinned_srk(vault_of(&body.vault)?)?;
        let attestor = attestor_of(attestor)?;
        let handle = self.find_checkpoint_counter(attestor)?;
        nv::read_counter(&mut self.context, srk, handle, &keys.nv)
            .map_err(|refused| counter_refused(&attestor.counter, refused))
    }

    fn advance_checkpoint(
        &mut self,
        body: &Body,
        attestor: &Attestor,
        keys: &RootKeys,
    ) -> Result<u64, SealError> {
        let srk = self.pinned_srk(vault_of(&body.vault)?)?;
        let attestor = attestor_of(attestor)?;
        let handle = self.find_checkpoint_counter(attestor)?;
        nv::increment(&mut self.context, srk, handle, &keys.nv)
            .and_then(|()| nv::read_counter(&mut self.context, srk, handle, &keys.nv))
            .map_err(|refused| counter_refused(&attestor.counter, refused))
    }

    fn remove_attestor(&mut self, body: &Body, attestor: &Attestor) -> Result<(), SealError> {
        let srk = self.pinned_srk(vault_of(&body.vault)?)?;
        let pin = &attestor_of(attestor)?.counter;
        let given = self.password_given();
        let policy = attest::certify_policy();
        match nv::find(&mut self.context, pin, Purpose::Checkpoint, &policy)? {
            Found::Written(handle) | Found::Unwritten(handle) => {
                nv::undefine(&mut self.context, srk, handle, given)
            }
            Found::Absent => Ok(()),
            Found::Foreign => {
                tracing::warn!(
                    index = index(pin),
                    "this NV index belongs to another; left alone"
                );
                Ok(())
            }
        }
    }
}
