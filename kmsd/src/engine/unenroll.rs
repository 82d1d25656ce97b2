//! Taking a store's enrolment out of the TPM.

use kms_core::DomainKeys;
use kms_seal::{Credential, Enrollment, RootSealer};

use super::open::{load, open_storage};
use super::writer::verified;
use super::{EngineConfig, EngineError};

/// Removes counter and epoch secrets of the store's enrolment from what keeps them, and returns the
/// store's name. The store itself stays; only its recovery key opens it afterwards, so `confirm` is
/// asked first, with the name, when it is sure that `credential` opens this store.
///
/// # Errors
/// There is no store, kmsd has it open, it was changed, the credential is wrong, what `confirm` says,
/// or the sealer failed, which may leave a part of the enrolment in place: the store does not open
/// with it any more.
pub fn unenroll<E: From<EngineError>>(
    config: &EngineConfig,
    mut sealer: Box<dyn RootSealer>,
    credential: &Credential,
    confirm: impl FnOnce(&str) -> Result<(), E>,
) -> Result<String, E> {
    let (_lock, mut storage) = open_storage(&config.directory)?;
    let (rows, snapshot) = load(&mut storage, config)?;
    let prove = || -> Result<Enrollment, EngineError> {
        let enrollment = Enrollment::from_json(snapshot.enrollment())?;
        let kek = sealer.unseal(&enrollment, credential)?;
        let mut domain = DomainKeys::new(snapshot.meta());
        for row in snapshot.domains() {
            domain.open_as_host(row, kek.key())?;
        }
        verified(&rows, &snapshot, domain.mac_key(snapshot.meta().domain)?)?;
        Ok(enrollment)
    };
    let enrollment = { prove }()?;
    confirm(&snapshot.meta().store_id)?;
    sealer.remove(&enrollment).map_err(EngineError::from)?;
    Ok(snapshot.meta().store_id.clone())
}
