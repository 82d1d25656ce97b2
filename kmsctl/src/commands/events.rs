//! `kmsctl events`: what kmsd tells of, as it happens.

use clap::Args;
use kms_api::{NotifiedEvent, WaitForEventsRequest};
use serde_json::Value;

use crate::Context;
use crate::exit::Failure;

/// Milliseconds that one request waits.
const WAIT_MS: u32 = 20_000;

/// `kmsctl events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with the events that come, until interrupted.
    #[arg(short, long)]
    pub follow: bool,
    /// Only events from this record of the audit log on; by default those that kmsd still has in memory.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub from: u64,
}

pub(super) fn run(args: &EventsArgs, context: &Context) -> Result<(), Failure> {
    let mut marker = args.from.to_string();
    let mut wait = 0;
    loop {
        let answer = context.client.send(WaitForEventsRequest {
            marker: Some(marker),
            timeout_ms: Some(wait),
            limit: None,
        })?;
        if answer.missed && (args.from > 0 || wait > 0) {
            eprintln!(
                "kmsctl: there may have been events that kmsd no longer has in memory; `kmsctl audit search` finds their records"
            );
        }
        let full = !answer.events.is_empty();
        for event in &answer.events {
            show(event, context)?;
        }
        marker = answer.next_marker;
        if !full && !args.follow {
            return Ok(());
        }
        if !full {
            wait = WAIT_MS;
        }
    }
}

fn show(told: &NotifiedEvent, context: &Context) -> Result<(), Failure> {
    let line = match context.output.is_json() {
        true => told.event.to_string(),
        false => human(&told.event),
    };
    context.output.write(format!("{line}\n").as_bytes())
}

fn human(event: &Value) -> String {
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut line = format!("{}  {}", text("time"), text("detail-type"));
    let detail = event.get("detail").and_then(Value::as_object);
    for (name, value) in detail.into_iter().flatten() {
        match value {
            Value::String(text) => line.push_str(&format!("  {name}={text}")),
            other => line.push_str(&format!("  {name}={other}")),
        }
    }
    line
}
