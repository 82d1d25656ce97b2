//! `kmsctl fs init`.

use std::path::Path;

use kms_format::ContentMode;
use kmsfs::init::{self, InitError};
use serde_json::json;

use super::Mode;
use crate::Context;
use crate::exit::{Exit, Failure};

pub(super) fn run(
    lower: &Path,
    key: &str,
    mode: Mode,
    label: &str,
    context: &Context,
) -> Result<(), Failure> {
    let content = match mode {
        Mode::Xts => ContentMode::Xts,
        Mode::Gcm => ContentMode::Gcm,
    };
    let made = init::init(&context.client, lower, key, label, content).map_err(failure)?;
    let lower = lower.display();
    let human = format!(
        "{lower} is an encrypted directory now.\n\
         volume   {}\nkey      {}\nmode     {}\n\
         Mount it with `kmsfs mount {lower} MOUNTPOINT`.",
        made.volume,
        made.key_arn,
        mode.describe(),
    );
    let value = json!({
        "volume": made.volume.to_string(),
        "policy": made.policy.to_string(),
        "key_arn": made.key_arn,
        "mode": mode.name(),
        "authenticated": mode == Mode::Gcm,
    });
    context.output.print(human, &value)
}

fn failure(error: InitError) -> Failure {
    match error {
        InitError::Kmsd(error) => error.into(),
        InitError::Already(_) | InitError::NotEmpty { .. } | InitError::Lock(_) => {
            Failure::new(Exit::FileSystem, error.to_string())
        }
        InitError::Policy(_)
        | InitError::Format(_)
        | InitError::Volume(_)
        | InitError::Io { .. } => Failure::new(Exit::Local, error.to_string()),
    }
}
