//! Salted, encrypting sessions that never outlive their use.

use tss_esapi::{
    Context,
    attributes::SessionAttributesBuilder,
    constants::SessionType,
    handles::{KeyHandle, ObjectHandle, SessionHandle},
    interface_types::{algorithm::HashingAlgorithm, session_handles::AuthSession},
    structures::SymmetricDefinition,
};

use super::rc;
use crate::SealError;

/// Runs `body` with a session salted to `srk`, whose first parameters travel encrypted both ways, and flushes the
/// session whatever happens. The name of `srk` must have been checked against a pinned one.
pub(super) fn with_session<T>(
    context: &mut Context,
    srk: KeyHandle,
    kind: SessionType,
    body: impl FnOnce(&mut Context, AuthSession) -> Result<T, SealError>,
) -> Result<T, SealError> {
    let session = start(context, srk, kind)?;
    let outcome = body(context, session);
    let handle: ObjectHandle = SessionHandle::from(session).into();
    let flushed = flush(context, handle);
    outcome.and_then(|value| flushed.map(|()| value))
}

/// Runs one command inside a fresh HMAC session.
pub(super) fn with_hmac<T>(
    context: &mut Context,
    srk: KeyHandle,
    command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    failed: impl FnOnce(tss_esapi::Error) -> SealError,
) -> Result<T, SealError> {
    with_session(context, srk, SessionType::Hmac, |context, session| {
        context
            .execute_with_session(Some(session), command)
            .map_err(failed)
    })
}

/// Runs `body` with a loaded object and flushes it whatever happens.
pub(super) fn with_object<T>(
    context: &mut Context,
    object: KeyHandle,
    body: impl FnOnce(&mut Context, KeyHandle) -> Result<T, SealError>,
) -> Result<T, SealError> {
    let outcome = body(context, object);
    let flushed = flush(context, object.into());
    outcome.and_then(|value| flushed.map(|()| value))
}

pub(super) fn flush(context: &mut Context, handle: ObjectHandle) -> Result<(), SealError> {
    context
        .execute_without_session(|context| context.flush_context(handle))
        .map_err(rc::failed("a flush"))
}

fn start(
    context: &mut Context,
    srk: KeyHandle,
    kind: SessionType,
) -> Result<AuthSession, SealError> {
    let failed = rc::failed("to start a session");
    let session = context
        .execute_without_session(|context| {
            context.start_auth_session(
                Some(srk),
                None,
                None,
                kind,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
        })
        .map_err(&failed)?
        .ok_or_else(|| SealError::Tpm {
            operation: "to start a session",
            reason: "it returned none".to_owned(),
        })?;
    let (attributes, mask) = SessionAttributesBuilder::new()
        .with_decrypt(true)
        .with_encrypt(true)
        .with_continue_session(true)
        .build();
    context
        .tr_sess_set_attributes(session, attributes, mask)
        .map_err(failed)?;
    Ok(session)
}
