//! `kmsctl audit tail`, `search` and `export`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kms_api::{DescribeKeyRequest, GetStatusRequest, Timestamp};
use kms_core::Scope;
use kms_core::audit::{Filter, Record, cloudtrail};
use serde_json::Value;

use super::source::{Event, Source};
use super::when;
use crate::Context;
use crate::exit::{Exit, Failure};
use crate::output::time;

/// How often `tail -f` looks for more.
const FOLLOW: Duration = Duration::from_secs(2);

/// Where events come from.
#[derive(Debug, Args)]
pub(super) struct From {
    /// Read the files in this directory instead of asking kmsd.
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

/// Which events are wanted.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// Only about this key: its id or ARN, or an alias (as it points now; with --directory, as requests gave it).
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only by this principal (ARN, or name of a user).
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// Only this operation or event, for example Decrypt.
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// Only with this outcome: ok, error, denied or an error code.
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<String>,
    /// Only accesses to this file or directory, of which a mount has opens recorded (`kmsctl fs policy set`).
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Not before this: 2026-11-25, 2026-11-25T14:30:00Z, or 2h for two hours ago.
    #[arg(long, value_name = "TIME", value_parser = when::seconds)]
    from: Option<u32>,
    /// Before this.
    #[arg(long, value_name = "TIME", value_parser = when::seconds)]
    to: Option<u32>,
}

/// `kmsctl audit tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// How many.
    #[arg(short = 'n', long, default_value_t = 20)]
    lines: usize,
    /// Go on with the events that come, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// Which.
    #[command(flatten)]
    wanted: Wanted,
    /// Where from.
    #[command(flatten)]
    source: From,
}

/// `kmsctl audit search`.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// The event with this id.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Most events to show.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Which.
    #[command(flatten)]
    wanted: Wanted,
    /// Where from.
    #[command(flatten)]
    source: From,
}

/// `kmsctl audit export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// As a CloudTrail log file: `{"Records": [...]}`.
    #[arg(long, required = true)]
    cloudtrail: bool,
    /// Which.
    #[command(flatten)]
    wanted: Wanted,
    /// Where from.
    #[command(flatten)]
    source: From,
}

impl Wanted {
    fn filter(&self, from: &From, context: &Context) -> Result<Filter, Failure> {
        let ms = |seconds: Option<u32>| seconds.map(|seconds| i64::from(seconds) * 1000);
        // Records name keys by their ARNs, whatever the request called them.
        let key = match &self.key {
            Some(name) if name.starts_with("alias/") && from.directory.is_none() => {
                let request = DescribeKeyRequest {
                    key_id: name.clone(),
                    grant_tokens: Vec::new(),
                };
                Some(context.client.send(request)?.key_metadata.key_id)
            }
            key => key.clone(),
        };
        let (volume, inode) = match &self.file {
            Some(file) => {
                let (volume, inode) = crate::commands::fs::object_of(file)?;
                (Some(volume), Some(inode))
            }
            None => (None, None),
        };
        Ok(Filter {
            event_id: None,
            volume,
            inode,
            key,
            principal: self.principal.clone(),
            operation: self.operation.clone(),
            outcome: self.outcome.clone(),
            from_ms: ms(self.from),
            until_ms: ms(self.to),
        })
    }
}

impl From {
    fn source<'a>(&'a self, context: &'a Context) -> Source<'a> {
        match &self.directory {
            Some(directory) => Source::Files(directory),
            None => Source::Daemon(&context.client),
        }
    }
}

pub(super) fn tail(args: &TailArgs, context: &Context) -> Result<(), Failure> {
    let source = args.source.source(context);
    let filter = args.wanted.filter(&args.source, context)?;
    // Following asks for events all the time, which is recorded, too: that is not what anybody wants to see.
    let own = |record: &Record| filter.operation.is_none() && record.operation == "LookupEvents";
    let mut newest = Vec::new();
    let mut next = None;
    source.each(&filter, false, None, |event| {
        next = next.or_else(|| Some(event.line.seq.saturating_add(1)));
        if args.lines > 0 && !own(&event.line.record) {
            newest.push(event);
        }
        Ok(newest.len() < args.lines)
    })?;
    for event in newest.iter().rev() {
        show(event, context)?;
    }
    let mut next = next.unwrap_or(0);
    if !args.follow {
        return Ok(());
    }
    loop {
        std::thread::sleep(FOLLOW);
        // Everything that came, so that what is not wanted is not looked through again.
        source.each(&Filter::default(), true, Some(next), |event| {
            next = event.line.seq.saturating_add(1);
            let record = &event.line.record;
            if filter.matches(record) && !own(record) {
                show(&event, context)?;
            }
            Ok(true)
        })?;
    }
}

fn newest(source: &Source<'_>, filter: &Filter, count: usize) -> Result<Vec<Event>, Failure> {
    let mut found = Vec::new();
    if count > 0 {
        source.each(filter, false, None, |event| {
            found.push(event);
            Ok(found.len() < count)
        })?;
    }
    Ok(found)
}

pub(super) fn search(args: &SearchArgs, context: &Context) -> Result<(), Failure> {
    let filter = Filter {
        event_id: args.event.clone(),
        ..args.wanted.filter(&args.source, context)?
    };
    let found = newest(&args.source.source(context), &filter, args.limit)?;
    if found.is_empty() && args.event.is_some() {
        return Err(Failure::new(
            Exit::NotFound,
            "there is no such event in the audit log",
        ));
    }
    for event in &found {
        show(event, context)?;
    }
    Ok(())
}

/// One line for people; the record as it stands in the log for programs.
fn show(event: &Event, context: &Context) -> Result<(), Failure> {
    let text = if context.output.is_json() {
        event.text.clone()
    } else {
        human(event)
    };
    context.output.write(format!("{text}\n").as_bytes())
}

fn human(event: &Event) -> String {
    let record = &event.line.record;
    let at = time(Timestamp::from_millis(record.time));
    let who = record.caller.as_ref().map_or("kmsd", |caller| &caller.arn);
    let who = who.split_once(":user/").map_or(who, |(_, name)| name);
    let via = record
        .caller
        .as_ref()
        .and_then(|caller| caller.via.as_ref());
    let via = via
        .map(|via| format!(" via {}", via.service))
        .unwrap_or_default();
    let keys: Vec<&str> = record
        .keys
        .iter()
        .map(|arn| arn.rsplit('/').next().unwrap_or(arn))
        .collect();
    let about = if keys.is_empty() {
        String::new()
    } else {
        format!(" {}", keys.join(" "))
    };
    let outcome = record.error.as_ref().map_or("ok", |error| &error.code);
    let (operation, outcome) = match file_access(record) {
        Some((what, how)) => (what, how),
        None => (record.operation.clone(), outcome.to_owned()),
    };
    let details = match &record.details {
        details if record.caller.is_none() && !details.is_empty() => {
            format!(" {}", serde_json::to_string(details).unwrap_or_default())
        }
        _ => String::new(),
    };
    format!(
        "{at} {} {} {}{about} by {who}{via}: {outcome}{details}",
        event.line.seq, record.event_id, operation
    )
}

/// What was done with which file, and how that ended.
fn file_access(record: &Record) -> Option<(String, String)> {
    if record.operation != "RecordFileAccess" || record.error.is_some() {
        return None;
    }
    let text = |name: &str| record.parameters.get(name).and_then(Value::as_str);
    let number = |name: &str| record.parameters.get(name).and_then(Value::as_u64);
    let mut what = text("operation")?.to_owned();
    if let Some(more) = text("accessMode") {
        what.push_str(&format!(" for {more}"));
    }
    what.push_str(&format!(" of inode {}", number("inode")?));
    let mut how = text("outcome")?.to_lowercase();
    if let Some(error) = text("error") {
        how.push_str(&format!(" ({error})"));
    }
    if let Some(count) = number("count") {
        how.push_str(&format!(", {count} times"));
    }
    if let Some(lost) = number("notRecorded") {
        how.push_str(&format!(", after {lost} that were not recorded"));
    }
    Some((what, how))
}

pub(super) fn export(args: &ExportArgs, context: &Context) -> Result<(), Failure> {
    let source = args.source.source(context);
    let filter = args.wanted.filter(&args.source, context)?;
    let mut scope = match &source {
        Source::Daemon(client) => {
            let status = client.send(GetStatusRequest {})?;
            Scope::new(&status.account_id, &status.region)
        }
        Source::Files(_) => None,
    };
    if scope.is_none() {
        source.each(&Filter::default(), true, None, |event| {
            scope = named_scope(&event.line.record);
            Ok(scope.is_none())
        })?;
    }
    let scope = scope.unwrap_or_else(|| Scope {
        account: "000000000000".to_owned(),
        region: "local-host-1".to_owned(),
    });
    let output = context.output;
    output.write(b"{\"Records\":[")?;
    let mut first = true;
    source.each(&filter, true, None, |event| {
        let record: Value = cloudtrail::event(&event.line, &scope);
        let comma = if std::mem::take(&mut first) {
            "\n"
        } else {
            ",\n"
        };
        output
            .write(format!("{comma}{record}").as_bytes())
            .map(|()| true)
    })?;
    output.write(b"\n]}\n")
}

/// The home's account and Region, as a record of a request in the home names them by the ARN of a key of the caller's account.
fn named_scope(record: &Record) -> Option<Scope> {
    if record.account.is_some() || record.region.is_some() {
        return None;
    }
    let caller = record.caller.as_ref()?;
    let named = Scope::of_arn(record.keys.first()?)?;
    (caller.arn.split(':').nth(4) == Some(&named.account)).then_some(named)
}
