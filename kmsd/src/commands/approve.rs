//! `kmsd approve`.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER_PERMISSIVE;
use kms_seal::PcrState;
use serde_json::json;

use super::files::Ownership;
use crate::cli::ApproveArgs;
use crate::config::Config;
use crate::engine;
use crate::exit::Failure;
use crate::world;

/// Approves the measured state now, or the one given.
pub(crate) fn approve(config: &Config, args: &ApproveArgs, json: bool) -> Result<(), Failure> {
    let state = if args.pcrs.is_empty() {
        PcrState::Current
    } else {
        PcrState::Values(args.pcrs.iter().copied().collect::<BTreeMap<_, _>>())
    };
    let ownership = Ownership::of(config);
    let sealer = world::sealer(config)?;
    let credential = world::credential(config)?;
    let clock = world::clock(config)?;
    let store = world::engine_config(config);
    let result = engine::approve(&store, sealer, &credential, clock, &state);
    ownership.apply();
    let pcrs = result?;
    if json {
        println!("{}", json!({ "Pcrs": pcrs }));
    } else {
        println!("Approved: the store also opens in this state of the PCRs {pcrs:?}.");
    }
    Ok(())
}

/// Reads `7=<64 hex digits>`.
pub(crate) fn parse_pcr(text: &str) -> Result<(u32, [u8; 32]), String> {
    let (index, value) = text.split_once('=').ok_or("write it as NUMBER=VALUE")?;
    let index = index
        .parse()
        .ok()
        .filter(|index| *index < 24)
        .ok_or("the number goes from 0 to 23")?;
    let value = HEXLOWER_PERMISSIVE
        .decode(value.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or("the value has 64 hex digits (SHA-256 bank)")?;
    Ok((index, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcr_values_are_numbers_and_hex() {
        let zeros = "0".repeat(64);
        assert_eq!(parse_pcr(&format!("7={zeros}")), Ok((7, [0; 32])));
        for wrong in [
            "7",
            "7=",
            "7=00",
            &format!("24={zeros}"),
            &format!("x={zeros}"),
        ] {
            assert!(parse_pcr(wrong).is_err(), "{wrong}");
        }
    }
}
