//! The persistent storage root key: found or made at enrolment, pinned by name from then on.

use tss_esapi::{
    Context,
    attributes::ObjectAttributesBuilder,
    handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle},
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        dynamic_handles::Persistent,
        ecc::EccCurve,
        resource_handles::{Hierarchy, Provision},
    },
    structures::{
        EccPoint, Public, PublicBuilder, PublicEccParametersBuilder, SymmetricDefinitionObject,
    },
};

use super::{rc, session};
use crate::{SealError, enrollment::TpmVault, hex::hex};

/// TCG's handle for the storage root key, and those tried after it.
const HANDLES: std::ops::RangeInclusive<u32> = 0x8100_0001..=0x8100_000f;

/// A usable storage root key.
#[derive(Clone)]
pub(super) struct Srk {
    pub(super) key: KeyHandle,
    /// Where it is persistent, or should be.
    pub(super) handle: u32,
    /// ESYS's own hash of the public area.
    pub(super) name: Vec<u8>,
}

/// The first suitable key, as found. Another owner's key (systemd makes one at the same handle) serves just as
/// well; one of another kind is left alone.
pub(super) fn find(context: &mut Context) -> Result<Option<Srk>, SealError> {
    for handle in HANDLES {
        let Some(object) = persistent(context, handle)? else {
            continue;
        };
        let (public, _, _) = context
            .execute_without_session(|context| context.read_public(object.into()))
            .map_err(rc::failed("to read the storage root key"))?;
        if is_suitable(&public) {
            return Ok(Some(named(context, object.into(), handle)?));
        }
    }
    Ok(None)
}

/// The first suitable key, made and stored at the first free handle if there is none. Needs the owner's password only
/// then.
pub(super) fn find_or_make(context: &mut Context, password_given: bool) -> Result<Srk, SealError> {
    if let Some(found) = find(context)? {
        return Ok(found);
    }
    let owner_failed = rc::owner_failed(
        "to make a storage root key",
        "a persistent key",
        password_given,
    );
    let primary = create_primary(context, &owner_failed)?;
    session::with_object(context, primary, |context, primary| {
        for handle in HANDLES {
            if persistent(context, handle)?.is_some() {
                continue;
            }
            let place = persistent_handle(handle)?;
            let object = session::with_hmac(
                context,
                primary,
                |context| {
                    context.evict_control(
                        Provision::Owner,
                        primary.into(),
                        Persistent::Persistent(place),
                    )
                },
                &owner_failed,
            )?;
            return named(context, object.into(), handle);
        }
        Err(SealError::NvFull {
            what: "a persistent storage root key",
        })
    })
}

/// The key that `vault` pins. If its handle is empty the key is made again from the seed: the same chip gives the
/// same key, an other or a cleared one does not.
pub(super) fn pinned(context: &mut Context, vault: &TpmVault) -> Result<Srk, SealError> {
    let handle = vault.srk_handle;
    if let Some(object) = persistent(context, handle)? {
        let srk = named(context, object.into(), handle)?;
        if srk.name == vault.srk_name.0 {
            return Ok(srk);
        }
        return Err(other(vault, &srk));
    }
    let primary = create_primary(context, &rc::failed("to make the storage root key again"))?;
    let srk = named(context, primary, handle)?;
    if srk.name == vault.srk_name.0 {
        tracing::warn!(
            handle = format!("{handle:#x}"),
            "the persistent storage root key was removed; using the same key made anew"
        );
        return Ok(srk);
    }
    session::flush(context, primary.into())?;
    Err(other(vault, &srk))
}

fn other(vault: &TpmVault, found: &Srk) -> SealError {
    SealError::OtherTpm {
        expected: hex(&vault.srk_name.0),
        found: hex(&found.name),
    }
}

fn named(context: &mut Context, key: KeyHandle, handle: u32) -> Result<Srk, SealError> {
    let name = context
        .tr_get_name(key.into())
        .map_err(rc::failed("to name the storage root key"))?;
    Ok(Srk {
        key,
        handle,
        name: name.value().to_vec(),
    })
}

fn persistent(context: &mut Context, handle: u32) -> Result<Option<ObjectHandle>, SealError> {
    let place = TpmHandle::Persistent(persistent_handle(handle)?);
    match context.execute_without_session(|context| context.tr_from_tpm_public(place)) {
        Ok(object) => Ok(Some(object)),
        Err(error) if super::is_absent(&error) => Ok(None),
        Err(error) => Err(rc::failed("to look up the storage root key")(error)),
    }
}

fn persistent_handle(handle: u32) -> Result<PersistentTpmHandle, SealError> {
    PersistentTpmHandle::new(handle).map_err(|_| SealError::DamagedRecord {
        reason: "its storage root key is not at a persistent handle",
    })
}

/// Nothing secret passes: the template is public, and an empty owner password needs no session key. A set one is
/// proved by HMAC.
fn create_primary(
    context: &mut Context,
    failed: &dyn Fn(tss_esapi::Error) -> SealError,
) -> Result<KeyHandle, SealError> {
    let template = template().map_err(failed)?;
    context
        .execute_with_nullauth_session(|context| {
            context.create_primary(Hierarchy::Owner, template, None, None, None, None)
        })
        .map(|created| created.key_handle)
        .map_err(failed)
}

/// TCG's reference template for an ECC P-256 storage root key.
fn template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_restricted_decryption_key(
                SymmetricDefinitionObject::AES_128_CFB,
                EccCurve::NistP256,
            )
            .build()?,
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

fn is_suitable(public: &Public) -> bool {
    let Public::Ecc {
        object_attributes: attributes,
        parameters,
        ..
    } = public
    else {
        return false;
    };
    attributes.fixed_tpm()
        && attributes.fixed_parent()
        && attributes.user_with_auth()
        && attributes.no_da()
        && attributes.restricted()
        && attributes.decrypt()
        && !attributes.sign_encrypt()
        && parameters.ecc_curve() == EccCurve::NistP256
        && public.symmetric_algorithm() == Some(SymmetricDefinitionObject::AES_128_CFB)
        && public.name_hashing_algorithm() == HashingAlgorithm::Sha256
}
