//! NV indices: the counter, two slots for epoch secrets and the checkpoint counter, each pinned by its name.
//!
//! All carry an authorisation value derived from the root secret and do not count failures, so they are no way
//! around a PIN and a power cut cannot lock them. The counter is read and incremented under that
//! value alone; a slot is written under it and read under the sealed object's policy with it. The checkpoint counter is one
//! of its own, because the other one's value is the store's generation and must not move by itself; it may be certified
//! by anybody and incremented only under the authorisation value.

use std::{thread, time::Duration};

use kms_crypto::{Key, sha256};
use tss_esapi::{
    Context,
    attributes::NvIndexAttributesBuilder,
    constants::{NvIndexType, SessionType, response_code::Tss2ResponseCodeKind},
    handles::{KeyHandle, NvIndexHandle, NvIndexTpmHandle, ObjectHandle, TpmHandle},
    interface_types::{
        algorithm::HashingAlgorithm,
        resource_handles::{NvAuth, Provision},
    },
    structures::{Auth, Digest, MaxNvBuffer, NvPublic, NvPublicBuilder},
};

use super::{policy::Verified, rc, session};
use crate::{SealError, enrollment::NvPin, hex::Hex};

/// TCG's registry gives 0x01800000 to 0x01bfffff to the owner.
const FIRST_INDEX: u32 = 0x0180_4b00;
const TRIPLES: u32 = 256;
const SHA256: [u8; 2] = [0, 0x0b];
const SECRET_LEN: u16 = 32;
pub(super) const COUNTER_LEN: u16 = 8;
/// Bit of TPMA_NV that the first write sets; it is part of the name.
const WRITTEN: u32 = 1 << 29;
const RATE_PAUSES: [u64; 5] = [20, 100, 500, 2000, 5000];

/// What an index is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Counter,
    Secret,
    /// Counts the checkpoints of the audit log.
    Checkpoint,
}

impl Purpose {
    /// TPMA_NV before the first write.
    const fn attributes(self) -> u32 {
        const AUTH_WRITE: u32 = 1 << 2;
        const COUNTER: u32 = 1 << 4;
        const AUTH_READ: u32 = 1 << 18;
        const POLICY_READ: u32 = 1 << 19;
        const NO_DA: u32 = 1 << 25;
        match self {
            Self::Counter => COUNTER | AUTH_READ | AUTH_WRITE | NO_DA,
            Self::Secret => POLICY_READ | AUTH_WRITE | NO_DA,
            Self::Checkpoint => COUNTER | AUTH_READ | AUTH_WRITE | POLICY_READ | NO_DA,
        }
    }

    const fn len(self) -> u16 {
        match self {
            Self::Counter | Self::Checkpoint => COUNTER_LEN,
            Self::Secret => SECRET_LEN,
        }
    }
}

/// How an index was found.
pub(super) enum Found {
    Absent,
    /// Defined by us, never written.
    Unwritten(NvIndexHandle),
    Written(NvIndexHandle),
    /// Something else lies there.
    Foreign,
}

/// Three free neighbouring indices, starting the search at a random one.
pub(super) fn free_triple(context: &mut Context) -> Result<[u32; 3], SealError> {
    let start = u32::from_be_bytes(kms_crypto::random_array()?);
    for step in 0..TRIPLES {
        let first = FIRST_INDEX + 3 * (start.wrapping_add(step) % TRIPLES);
        let triple = [first, first + 1, first + 2];
        let mut free = true;
        for index in triple {
            free &= resolve(context, index)?.is_none();
        }
        if free {
            return Ok(triple);
        }
    }
    Err(SealError::NvFull {
        what: "another three NV indices",
    })
}

/// Places for the checkpoint counter of an enrolment, the likely one first: behind the triples, in the order of theirs.
pub(super) fn checkpoint_places(counter: u32) -> impl Iterator<Item = u32> {
    const FIRST: u32 = FIRST_INDEX + 3 * TRIPLES;
    let start = counter.wrapping_sub(FIRST_INDEX) / 3;
    (0..TRIPLES).map(move |step| FIRST + start.wrapping_add(step) % TRIPLES)
}

/// The pin of an index that has been written: its name follows from what we define.
pub(super) fn pin(index: u32, purpose: Purpose, policy: &[u8]) -> NvPin {
    NvPin {
        index,
        name: Hex(name(index, purpose, WRITTEN, policy)),
    }
}

/// Looks an index up and says whether it is what `pin` means.
pub(super) fn find(
    context: &mut Context,
    pin: &NvPin,
    purpose: Purpose,
    policy: &[u8],
) -> Result<Found, SealError> {
    let Some(object) = resolve(context, pin.index)? else {
        return Ok(Found::Absent);
    };
    let actual = context
        .tr_get_name(object)
        .map_err(rc::failed("to name an NV index"))?
        .value()
        .to_vec();
    let handle = NvIndexHandle::from(object);
    if actual == pin.name.0 {
        Ok(Found::Written(handle))
    } else if actual == name(pin.index, purpose, 0, policy) {
        Ok(Found::Unwritten(handle))
    } else {
        Ok(Found::Foreign)
    }
}

/// Defines an index.
pub(super) fn define(
    context: &mut Context,
    srk: KeyHandle,
    index: u32,
    purpose: Purpose,
    policy: &[u8],
    auth: &Key<32>,
    password_given: bool,
) -> Result<NvIndexHandle, SealError> {
    let failed = rc::failed("to describe an NV index");
    let public = public(index, purpose, policy).map_err(&failed)?;
    let auth = to_auth(auth)?;
    session::with_hmac(
        context,
        srk,
        |context| context.nv_define_space(Provision::Owner, Some(auth), public),
        rc::owner_failed(
            "to define an NV index",
            "the counter and two epoch secrets",
            password_given,
        ),
    )
}

/// Removes an index.
pub(super) fn undefine(
    context: &mut Context,
    srk: KeyHandle,
    handle: NvIndexHandle,
    password_given: bool,
) -> Result<(), SealError> {
    session::with_hmac(
        context,
        srk,
        |context| context.nv_undefine_space(Provision::Owner, handle),
        rc::owner_failed(
            "to remove an NV index",
            "the removal of an index",
            password_given,
        ),
    )
}

/// Adds one to the counter; durable when it returns.
pub(super) fn increment(
    context: &mut Context,
    srk: KeyHandle,
    handle: NvIndexHandle,
    auth: &Key<32>,
) -> Result<(), Refused> {
    with_auth(context, handle, auth, |context| {
        at_the_chips_pace(|| {
            session::with_session(context, srk, SessionType::Hmac, |context, session| {
                Ok(context.execute_with_session(Some(session), |context| {
                    context.nv_increment(NvAuth::NvIndex(handle), handle)
                }))
            })
        })
    })
}

pub(super) fn read_counter(
    context: &mut Context,
    srk: KeyHandle,
    handle: NvIndexHandle,
    auth: &Key<32>,
) -> Result<u64, Refused> {
    let data = with_auth(context, handle, auth, |context| {
        at_the_chips_pace(|| {
            session::with_session(context, srk, SessionType::Hmac, |context, session| {
                Ok(context.execute_with_session(Some(session), |context| {
                    context.nv_read(NvAuth::NvIndex(handle), handle, COUNTER_LEN, 0)
                }))
            })
        })
    })?;
    let bytes = <[u8; 8]>::try_from(data.value()).map_err(|_| {
        Refused::Other(SealError::Tpm {
            operation: "to read the counter",
            reason: "the value has not 8 bytes".to_owned(),
        })
    })?;
    Ok(u64::from_be_bytes(bytes))
}

pub(super) fn write_secret(
    context: &mut Context,
    srk: KeyHandle,
    handle: NvIndexHandle,
    auth: &Key<32>,
    secret: &Key<32>,
) -> Result<(), Refused> {
    with_auth(context, handle, auth, |context| {
        at_the_chips_pace(|| {
            let data = MaxNvBuffer::try_from(secret.expose().to_vec())
                .map_err(rc::failed("an epoch secret"))?;
            session::with_session(context, srk, SessionType::Hmac, |context, session| {
                Ok(context.execute_with_session(Some(session), |context| {
                    context.nv_write(NvAuth::NvIndex(handle), handle, data, 0)
                }))
            })
        })
    })
}

/// Reads a slot under the sealed object's policy.
pub(super) fn read_secret(
    context: &mut Context,
    srk: KeyHandle,
    handle: NvIndexHandle,
    auth: &Key<32>,
    verified: &Verified,
) -> Result<Key<32>, Refused> {
    let data = with_auth(context, handle, auth, |context| {
        at_the_chips_pace(|| {
            session::with_session(context, srk, SessionType::Policy, |context, session| {
                verified.satisfy(context, session)?;
                Ok(context.execute_with_session(Some(session), |context| {
                    context.nv_read(NvAuth::NvIndex(handle), handle, SECRET_LEN, 0)
                }))
            })
        })
    })?;
    Key::from_slice(data.value()).map_err(|error| Refused::Other(error.into()))
}

/// Why an index did not do as asked.
pub(super) enum Refused {
    /// The authorisation value is not ours: the index was made by somebody else.
    WrongAuth,
    /// Never written.
    Unwritten,
    Other(SealError),
}

impl From<SealError> for Refused {
    fn from(error: SealError) -> Self {
        Self::Other(error)
    }
}

/// The inner result is the command's, the outer one that of what belongs around it. Chips that protect their memory against
/// wear say so and want a pause.
fn at_the_chips_pace<T>(
    mut command: impl FnMut() -> Result<tss_esapi::Result<T>, SealError>,
) -> Result<T, Refused> {
    let mut pauses = RATE_PAUSES.iter();
    loop {
        let error = match command()? {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        match rc::kind(&error) {
            Some(Tss2ResponseCodeKind::NvRate | Tss2ResponseCodeKind::NvUnavailable) => {
                if let Some(pause) = pauses.next() {
                    thread::sleep(Duration::from_millis(*pause));
                    continue;
                }
            }
            Some(Tss2ResponseCodeKind::BadAuth | Tss2ResponseCodeKind::AuthFail) => {
                return Err(Refused::WrongAuth);
            }
            Some(Tss2ResponseCodeKind::NvUninitialized) => return Err(Refused::Unwritten),
            _ => {}
        }
        return Err(Refused::Other(rc::failed("an NV index")(error)));
    }
}

/// Sets the authorisation value for the time of `body` only.
fn with_auth<T>(
    context: &mut Context,
    handle: NvIndexHandle,
    auth: &Key<32>,
    body: impl FnOnce(&mut Context) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let failed = rc::failed("an authorisation value");
    context
        .tr_set_auth(handle.into(), to_auth(auth)?)
        .map_err(&failed)?;
    let outcome = body(context);
    // libtss2 keeps it in its own heap; zeros go over it.
    context
        .tr_set_auth(handle.into(), Auth::default())
        .map_err(failed)?;
    outcome
}

pub(super) fn to_auth(key: &Key<32>) -> Result<Auth, SealError> {
    Auth::try_from(key.expose().to_vec()).map_err(rc::failed("an authorisation value"))
}

fn resolve(context: &mut Context, index: u32) -> Result<Option<ObjectHandle>, SealError> {
    let handle = NvIndexTpmHandle::new(index).map_err(|_| SealError::DamagedRecord {
        reason: "an NV index is out of range",
    })?;
    match context
        .execute_without_session(|context| context.tr_from_tpm_public(TpmHandle::NvIndex(handle)))
    {
        Ok(object) => Ok(Some(object)),
        Err(error) if super::is_absent(&error) => Ok(None),
        Err(error) => Err(rc::failed("to look up an NV index")(error)),
    }
}

fn public(index: u32, purpose: Purpose, policy: &[u8]) -> tss_esapi::Result<NvPublic> {
    let attributes = NvIndexAttributesBuilder::new()
        .with_auth_write(true)
        .with_no_da(true);
    let attributes = match purpose {
        Purpose::Counter => attributes
            .with_nv_index_type(NvIndexType::Counter)
            .with_auth_read(true),
        Purpose::Secret => attributes.with_policy_read(true),
        Purpose::Checkpoint => attributes
            .with_nv_index_type(NvIndexType::Counter)
            .with_auth_read(true)
            .with_policy_read(true),
    };
    NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(index)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes.build()?)
        .with_index_auth_policy(Digest::try_from(policy.to_vec())?)
        .with_data_area_size(usize::from(purpose.len()))
        .build()
}

/// Name of an index: SHA-256 of its marshalled TPMS_NV_PUBLIC (TPM 2.0 part 1, 16).
fn name(index: u32, purpose: Purpose, written: u32, policy: &[u8]) -> Vec<u8> {
    let hash = sha256(&[&marshalled(index, purpose, written, policy)]);
    [SHA256.as_slice(), &hash].concat()
}

/// TPMS_NV_PUBLIC of an index that has been written.
pub(super) fn described(index: u32, purpose: Purpose, policy: &[u8]) -> Vec<u8> {
    marshalled(index, purpose, WRITTEN, policy)
}

fn marshalled(index: u32, purpose: Purpose, written: u32, policy: &[u8]) -> Vec<u8> {
    let policy_len = u16::try_from(policy.len()).unwrap_or(u16::MAX);
    [
        index.to_be_bytes().as_slice(),
        &SHA256,
        &(purpose.attributes() | written).to_be_bytes(),
        &policy_len.to_be_bytes(),
        policy,
        &purpose.len().to_be_bytes(),
    ]
    .concat()
}
