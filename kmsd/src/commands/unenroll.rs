//! `kmsd unenroll`.

use serde_json::json;

use super::files::Ownership;
use crate::cli::UnenrollArgs;
use crate::config::Config;
use crate::engine;
use crate::exit::Failure;
use crate::{terminal, world};

/// Removes the store's enrolment from the TPM, once someone has confirmed it.
pub(crate) fn unenroll(config: &Config, args: &UnenrollArgs, json: bool) -> Result<(), Failure> {
    if !args.yes_destroy && !terminal::is_interactive() {
        return Err(Failure::unconfirmed(
            "nobody is at a terminal to confirm it; nothing was removed",
        ));
    }
    let ownership = Ownership::of(config);
    let sealer = world::sealer(config)?;
    let credential = world::credential(config)?;
    let store = world::engine_config(config);
    let result = engine::unenroll(&store, sealer, &credential, |store_id| {
        if args.yes_destroy {
            return Ok(());
        }
        terminal::say(&format!(
            "This removes the enrolment of the store {store_id} from the TPM. Only the recovery key\n\
             opens the store afterwards; without it every key is lost.",
        ))?;
        if *terminal::ask("Type the name of the store to go on: ")? == store_id {
            return Ok(());
        }
        Err(Failure::unconfirmed(
            "that is not the name of the store; nothing was removed",
        ))
    });
    ownership.apply();
    let store_id = result?;
    if json {
        println!("{}", json!({ "StoreId": store_id }));
    } else {
        println!(
            "Unenrolled: counter and epoch secrets of the store {store_id} are gone; only the recovery key \
             opens it from now on.\nTo use it again run `kmsctl tpm recover`."
        );
    }
    Ok(())
}
