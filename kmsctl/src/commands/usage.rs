//! `kmsctl usage`: what was called how often, by whom, and what it would have cost at AWS.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use kms_api::Timestamp;
use kms_core::audit::Filter;
use kms_core::usage::{Month, Report, Usage};

use crate::Context;
use crate::commands::audit::source::Source;
use crate::exit::Failure;
use crate::output::time;

/// `kmsctl usage`.
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// The month, in UTC; the present one by default.
    #[arg(long, value_name = "YYYY-MM", value_parser = month)]
    pub month: Option<Month>,
    /// Read the audit log's files in this directory instead of asking kmsd.
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
}

fn month(text: &str) -> Result<Month, String> {
    Month::parse(text).ok_or_else(|| "expected a month such as 2026-11".to_owned())
}

pub(super) fn run(args: &UsageArgs, context: &Context) -> Result<(), Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| {
            i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
        });
    let month = args.month.unwrap_or_else(|| Month::of(now));
    let mut usage = Usage::new(month, now);
    let source = match &args.directory {
        Some(directory) => Source::Files(directory),
        None => Source::Daemon(&context.client),
    };
    source.each(&Filter::default(), true, None, |event| {
        usage.add(&event.line.record);
        Ok(true)
    })?;
    let report = usage.report();
    context.output.print(human(&report), &report)
}

fn human(report: &Report) -> String {
    let mut text = format!(
        "Usage in {} (UTC), from {} records\n\n",
        report.month, report.records
    );
    let _ = writeln!(
        text,
        "{:>10} {:>8} {:>8}  {:24} {:36}  principal",
        "succeeded", "denied", "failed", "operation", "key"
    );
    for row in &report.rows {
        let key = row.key.as_deref().unwrap_or("-");
        let _ = writeln!(
            text,
            "{:>10} {:>8} {:>8}  {:24} {:36}  {}",
            row.calls.succeeded,
            row.calls.denied,
            row.calls.failed,
            row.operation,
            key.rsplit('/').next().unwrap_or(key),
            row.principal
        );
    }
    if !report.last_used.is_empty() {
        text.push_str("\nLast successful use\n");
        for (key, ms) in &report.last_used {
            let id = key.rsplit('/').next().unwrap_or(key);
            let _ = writeln!(text, "  {id:36}  {}", time(Timestamp::from_millis(*ms)));
        }
    }
    let estimate = &report.estimate;
    let _ = writeln!(
        text,
        "\nThe same at AWS: about {:.2} US dollars (an estimate by the prices of {}, {})",
        estimate.total, estimate.source, estimate.date
    );
    for item in &estimate.items {
        let free = match item.free {
            free if free > 0.0 => format!(", {free:.0} of them free"),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "  {:>10.2}  {}: {} at {} for {}{free}",
            item.amount,
            item.what,
            quantity(item.quantity),
            item.price,
            item.per
        );
    }
    text
}

fn quantity(number: f64) -> String {
    match number.fract() {
        0.0 => format!("{number:.0}"),
        _ => format!("{number:.2}"),
    }
}
