//! Platform configuration registers of the SHA-256 bank.

use std::collections::BTreeMap;

use kms_crypto::sha256;
use tss_esapi::{
    Context,
    interface_types::algorithm::HashingAlgorithm,
    structures::{PcrSelectSize, PcrSelectionList, PcrSelectionListBuilder, PcrSlot},
};

use super::rc;
use crate::{
    MovedPcr, SealError,
    enrollment::Approval,
    hex::{HexArray, hex},
};

/// Values by register.
pub(super) type Values = BTreeMap<u32, HexArray<32>>;

/// TPM2_PCR_Read gives at most eight values at once.
const PER_READ: usize = 8;
/// Firmware measures into these before it starts anything.
const FIRMWARE_PCRS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// Reads the registers `indices`.
pub(super) fn read(
    context: &mut Context,
    indices: impl IntoIterator<Item = u32>,
) -> Result<Values, SealError> {
    let mut indices: Vec<u32> = indices.into_iter().collect();
    indices.sort_unstable();
    indices.dedup();
    let mut values = Values::new();
    for chunk in indices.chunks(PER_READ) {
        let selection = selection(chunk.iter().copied())?;
        let (_, _, digests) = context
            .execute_without_session(|context| context.pcr_read(selection))
            .map_err(rc::failed("to read PCRs"))?;
        if digests.len() != chunk.len() {
            return Err(SealError::Tpm {
                operation: "to read PCRs",
                reason: "its SHA-256 bank is not active".to_owned(),
            });
        }
        for (index, digest) in chunk.iter().zip(digests.value()) {
            let value = <[u8; 32]>::try_from(digest.value()).map_err(|_| SealError::Tpm {
                operation: "to read PCRs",
                reason: "a value has not 32 bytes".to_owned(),
            })?;
            values.insert(*index, HexArray(value));
        }
    }
    Ok(values)
}

/// Whether the firmware measured anything. A bank of zeros, as in most virtual machines without a vTPM-aware
/// firmware, satisfies every policy made on it.
pub(super) fn is_measured(context: &mut Context) -> Result<bool, SealError> {
    Ok(read(context, FIRMWARE_PCRS)?
        .values()
        .any(|value| value.0 != [0; 32]))
}

pub(super) fn selection(
    indices: impl IntoIterator<Item = u32>,
) -> Result<PcrSelectionList, SealError> {
    let slots = indices
        .into_iter()
        .map(|index| {
            1_u32
                .checked_shl(index)
                .map_or(Err(()), |bit| PcrSlot::try_from(bit).map_err(drop))
        })
        .collect::<Result<Vec<PcrSlot>, ()>>()
        .map_err(|()| SealError::DamagedRecord {
            reason: "it names a PCR above 23",
        })?;
    PcrSelectionListBuilder::new()
        .with_size_of_select(PcrSelectSize::ThreeOctets)
        .with_selection(HashingAlgorithm::Sha256, &slots)
        .build()
        .map_err(rc::failed("to select PCRs"))
}

/// The policy digest of TPM2_PolicyPCR over `values` on a fresh session (TPM 2.0 part 3, 23.7): what an approval signs.
/// Without registers the step is left out and the digest is the fresh session's, all zero.
pub(super) fn policy_digest(values: &Values) -> [u8; 32] {
    const FRESH: [u8; 32] = [0; 32];
    const CC_POLICY_PCR: [u8; 4] = [0, 0, 0x01, 0x7f];
    if values.is_empty() {
        return FRESH;
    }
    let mask = values.keys().fold(0_u32, |mask, index| {
        mask | 1_u32.checked_shl(*index).unwrap_or(0)
    });
    let [low, middle, high, _] = mask.to_le_bytes();
    // TPML_PCR_SELECTION: one selection, SHA-256, three octets.
    let selection = [0, 0, 0, 1, 0, 0x0b, 3, low, middle, high];
    let parts: Vec<&[u8]> = values.values().map(|value| value.0.as_slice()).collect();
    sha256(&[&FRESH, &CC_POLICY_PCR, &selection, &sha256(&parts)])
}

/// The approval that fits the chip's state now, newest first.
pub(super) fn find_approval<'a>(
    context: &mut Context,
    approvals: &'a [Approval],
) -> Result<&'a Approval, SealError> {
    let current = read(
        context,
        approvals
            .iter()
            .flat_map(|approval| approval.pcrs.keys().copied()),
    )?;
    let mut closest: Option<Vec<MovedPcr>> = None;
    for approval in approvals.iter().rev() {
        let moved = moved(&approval.pcrs, &current);
        if moved.is_empty() {
            return Ok(approval);
        }
        if closest.as_ref().is_none_or(|best| moved.len() < best.len()) {
            closest = Some(moved);
        }
    }
    Err(closest.map_or(
        SealError::DamagedRecord {
            reason: "it approves no state",
        },
        |moved| SealError::PcrChanged { moved },
    ))
}

fn moved(approved: &Values, current: &Values) -> Vec<MovedPcr> {
    approved
        .iter()
        .filter_map(|(index, sealed)| {
            let now = current.get(index)?;
            (now != sealed).then(|| MovedPcr {
                index: *index,
                sealed: hex(&sealed.0),
                current: hex(&now.0),
            })
        })
        .collect()
}
