//! `kmsctl audit checkpoint`.

use std::fmt::Write as _;

use kms_api::{CreateCheckpointRequest, Timestamp};
use serde_json::json;

use crate::Context;
use crate::exit::Failure;
use crate::output::time;

/// Has a checkpoint made and says what it covers.
pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let made = context.client.send(CreateCheckpointRequest {})?;
    let mut text = format!(
        "Checkpoint {} of {} covers {} records.",
        made.number,
        time(Timestamp::from_millis(made.time)),
        made.size
    );
    let mut witnesses = Vec::new();
    for witness in &made.witnesses {
        let _ = write!(
            text,
            "\nThe witness {} has cosigned {} records so far",
            witness.name, witness.size
        );
        if let Some(error) = &witness.error {
            let _ = write!(text, "; {error}");
        }
        witnesses.push(json!({
            "name": witness.name, "records": witness.size, "time": witness.time, "error": witness.error,
        }));
    }
    let value = json!({
        "checkpoint": made.number, "records": made.size, "timeMs": made.time, "witnesses": witnesses,
    });
    context.output.print(text, &value)
}
