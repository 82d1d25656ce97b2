//! Live properties of the chip: maker, lockout, owner's password. (`get_tpm_property` caches for ever, so not that.)

use tss_esapi::{
    Context,
    constants::{CapabilityType, PropertyTag},
    structures::CapabilityData,
};

use super::rc;
use crate::{Lockout, SealError};

pub(super) fn manufacturer(context: &mut Context) -> Result<Option<String>, SealError> {
    let letters = property(context, PropertyTag::Manufacturer)?.map(u32::to_be_bytes);
    Ok(letters.map(|letters| {
        String::from_utf8_lossy(&letters)
            .trim_matches(['\0', ' '])
            .to_owned()
    }))
}

pub(super) fn firmware(context: &mut Context) -> Result<Option<String>, SealError> {
    let first = property(context, PropertyTag::FirmwareVersion1)?;
    let second = property(context, PropertyTag::FirmwareVersion2)?;
    Ok(first.map(|first| {
        let second = second.unwrap_or(0);
        format!(
            "{}.{}.{}.{}",
            first >> 16,
            first & 0xffff,
            second >> 16,
            second & 0xffff
        )
    }))
}

/// TPMA_PERMANENT, bit 0: ownerAuthSet.
pub(super) fn owner_auth_set(context: &mut Context) -> Result<bool, SealError> {
    Ok(property(context, PropertyTag::Permanent)?.is_some_and(|bits| bits & 1 != 0))
}

/// The state of the protection against guessing.
pub(super) fn lockout(context: &mut Context) -> Result<Lockout, SealError> {
    let mut read = |tag| Ok::<_, SealError>(property(context, tag)?.unwrap_or(0));
    Ok(summarise(
        read(PropertyTag::LockoutCounter)?,
        read(PropertyTag::MaxAuthFail)?,
        read(PropertyTag::LockoutInterval)?,
    ))
}

/// kmsd stops one short of the maximum, so that a wrong PIN here cannot lock the chip for its other users.
fn summarise(failures: u32, max_failures: u32, interval_seconds: u32) -> Lockout {
    // With an interval of zero the chip forgives at once (TPM 2.0 part 1, 19.8.5).
    let allowed = if interval_seconds == 0 {
        u32::MAX
    } else {
        max_failures.saturating_sub(1).max(1)
    };
    let tries_left = allowed.saturating_sub(failures);
    let to_forgive = if tries_left == 0 {
        failures - allowed + 1
    } else {
        0
    };
    Lockout {
        failures,
        max_failures,
        interval_seconds,
        tries_left,
        wait_seconds: u64::from(to_forgive) * u64::from(interval_seconds),
    }
}

fn property(context: &mut Context, tag: PropertyTag) -> Result<Option<u32>, SealError> {
    let (data, _) = context
        .execute_without_session(|context| {
            context.get_capability(CapabilityType::TpmProperties, tag.into(), 1)
        })
        .map_err(rc::failed("to read its properties"))?;
    Ok(match data {
        CapabilityData::TpmProperties(list) => list.find(tag).map(|property| property.value()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_one_short_of_the_lock() {
        let fresh = summarise(0, 3, 1000);
        assert_eq!((fresh.tries_left, fresh.wait_seconds), (2, 0));
        let last = summarise(1, 3, 1000);
        assert_eq!((last.tries_left, last.wait_seconds), (1, 0));
        let stopped = summarise(2, 3, 1000);
        assert_eq!((stopped.tries_left, stopped.wait_seconds), (0, 1000));
        let locked = summarise(3, 3, 1000);
        assert_eq!((locked.tries_left, locked.wait_seconds), (0, 2000));
    }

    #[test]
    fn odd_parameters_leave_a_way_in() {
        assert_eq!(summarise(0, 1, 10).tries_left, 1);
        assert_eq!(summarise(9, 3, 0).wait_seconds, 0);
    }
}
