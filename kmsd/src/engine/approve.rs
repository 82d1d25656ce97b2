//! Approving a measured state of the host, so that an update does not lock the store.

use std::sync::Arc;

use kms_core::rows::Row;
use kms_core::{Change, Clock};
use kms_seal::{Credential, PcrState, RootSealer};

use super::audit::store_event;
use super::open::open_stopped;
use super::writer::{Anchor, Writer};
use super::{EngineConfig, EngineError};

/// Lets the store be opened in one more measured state. Needs a state that is approved already, as
/// every start does; the states approved before stay valid. Returns the registers that are checked.
///
/// # Errors
/// The store does not open, or the sealer measures nothing.
pub fn approve(
    config: &EngineConfig,
    sealer: Box<dyn RootSealer>,
    credential: &Credential,
    clock: Arc<dyn Clock>,
    state: &PcrState,
) -> Result<Vec<u32>, EngineError> {
    let (_lock, shared) = open_stopped(config, sealer, credential, clock)?;
    let mut writer = shared.writer.lock();
    shared.increment(&mut writer)?;
    shared.finish_epoch(&mut writer)?;
    let Writer {
        sealer, enrollment, ..
    } = &mut *writer;
    let approved = sealer.approve(enrollment, credential, state)?;
    let row = Row::Enrollment(approved.to_json()?);
    // At once: an older store would not know the new state.
    let event =
        store_event("StateApproved", shared.clock.read().wall_ms).detail("pcrs", approved.pcrs());
    shared.commit_recorded(&mut writer, &[Change::Put(row)], Anchor::Now, vec![event])?;
    shared.increment(&mut writer)?;
    Ok(approved.pcrs())
}
