//! `kmsctl key set-description`, `last-usage` and `rotation-status`.

use kms_api::*;

use super::super::key_id;
use crate::Context;
use crate::exit::Failure;
use crate::output::time;

pub(super) fn set_description(key: &str, text: &str, context: &Context) -> Result<(), Failure> {
    context.client.send(UpdateKeyDescriptionRequest {
        key_id: key_id(key, context)?,
        description: text.to_owned(),
    })?;
    context.output.done(format!("{key} is described anew."))
}

pub(super) fn last_usage(key: &str, context: &Context) -> Result<(), Failure> {
    let response = context.client.send(GetKeyLastUsageRequest {
        key_id: key_id(key, context)?,
    })?;
    let since = time(response.tracking_start_date);
    let used = &response.key_last_usage;
    let human = match (&used.operation, used.timestamp) {
        (Some(operation), Some(at)) => {
            let event = used.cloud_trail_event_id.as_deref().unwrap_or("unknown");
            format!("{operation} at {} (event {event})", time(at))
        }
        (_, _) => format!("no use since {since}, when kmsd began to note them"),
    };
    context.output.print(human, &response)
}

pub(super) fn rotation_status(key: &str, context: &Context) -> Result<(), Failure> {
    let response = context.client.send(GetKeyRotationStatusRequest {
        key_id: key_id(key, context)?,
    })?;
    let mut human = match (
        response.key_rotation_enabled,
        response.rotation_period_in_days,
    ) {
        (true, Some(days)) => format!("every {days} days"),
        (true, None) => "automatic".to_owned(),
        (false, _) => "not automatic".to_owned(),
    };
    if let Some(next) = response.next_rotation_date {
        human.push_str(&format!(", next {}", time(next)));
    }
    if let Some(since) = response.on_demand_rotation_start_date {
        human.push_str(&format!(", one on demand began {}", time(since)));
    }
    context.output.print(human, &response)
}
