//! Where events come from: a running kmsd, or the files of a log.

use std::path::{Path, PathBuf};

use kms_api::LookupEventsRequest;
use kms_api::client::Client;
use kms_core::audit::{Filter, Line};

use crate::exit::{Exit, Failure};

/// Events of a page.
const PAGE: u32 = 500;

/// Where events come from.
pub(in crate::commands) enum Source<'a> {
    /// A running kmsd.
    Daemon(&'a Client),
    /// Files in a directory.
    Files(&'a Path),
}

/// An event: as it was read, and what it says.
pub(in crate::commands) struct Event {
    pub(in crate::commands) line: Line,
    pub(in crate::commands) text: String,
}

impl Source<'_> {
    /// Hands every event that is wanted to `each`, until it says that it has enough. `from`: the number of the first one
    /// that is looked at, in the chosen order.
    pub(in crate::commands) fn each(
        &self,
        filter: &Filter,
        oldest_first: bool,
        from: Option<u64>,
        mut each: impl FnMut(Event) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        match self {
            Self::Daemon(client) => ask(client, filter, oldest_first, from, &mut each),
            Self::Files(directory) => read(directory, filter, oldest_first, from, &mut each),
        }
    }
}

type Each<'a> = &'a mut dyn FnMut(Event) -> Result<bool, Failure>;

fn ask(
    client: &Client,
    filter: &Filter,
    oldest_first: bool,
    from: Option<u64>,
    each: Each<'_>,
) -> Result<(), Failure> {
    let seconds = |ms: Option<i64>| ms.and_then(|ms| u32::try_from(ms.div_euclid(1000)).ok());
    let mut marker = from.map(|from| from.to_string());
    loop {
        let page = client.send(LookupEventsRequest {
            event_id: filter.event_id.clone(),
            key_id: filter.key.clone(),
            principal: filter.principal.clone(),
            operation: filter.operation.clone(),
            outcome: filter.outcome.clone(),
            volume_id: filter.volume.clone(),
            inode: filter.inode,
            start_time: seconds(filter.from_ms),
            end_time: seconds(filter.until_ms),
            oldest_first,
            limit: Some(PAGE),
            marker: marker.take(),
        })?;
        for event in page.events {
            let line = Line::parse(event.line.as_bytes()).map_err(|error| {
                let text = format!("record {} in the answer of kmsd: {error}", event.sequence);
                Failure::new(Exit::Protocol, text)
            })?;
            if !each(Event {
                line,
                text: event.line,
            })? {
                return Ok(());
            }
        }
        match page.next_marker {
            Some(next) if page.truncated => marker = Some(next),
            _ => return Ok(()),
        }
    }
}

/// The files of a log with the numbers of their first records, in order.
fn files(directory: &Path) -> Result<Vec<(u64, PathBuf)>, Failure> {
    let failed = |error: &std::io::Error| Failure::local(directory.display(), error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        let first = entry.file_name().to_str().and_then(|name| {
            name.strip_prefix("log-")?
                .strip_suffix(".jsonl")?
                .parse::<u64>()
                .ok()
        });
        if let Some(first) = first {
            files.push((first, entry.path()));
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Failure::new(
            Exit::NotFound,
            format!(
                "{} has no file of an audit log (log-NUMBER.jsonl)",
                directory.display()
            ),
        ));
    }
    Ok(files)
}

fn read(
    directory: &Path,
    filter: &Filter,
    oldest_first: bool,
    from: Option<u64>,
    each: Each<'_>,
) -> Result<(), Failure> {
    let mut files = files(directory)?;
    if !oldest_first {
        files.reverse();
    }
    for (_, path) in files {
        let text = std::fs::read(&path).map_err(|error| Failure::local(path.display(), &error))?;
        // What comes after the last newline is still being written.
        let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let lines = text
            .get(..whole)
            .unwrap_or_default()
            .split(|byte| *byte == b'\n')
            .enumerate()
            .filter(|(_, line)| !line.is_empty());
        let mut lines: Vec<_> = lines.collect();
        if !oldest_first {
            lines.reverse();
        }
        for (number, bytes) in lines {
            let line = match Line::parse(bytes) {
                Ok(line) => line,
                Err(error) => {
                    eprintln!(
                        "kmsctl: {}, line {}: {error} (`kmsctl audit verify` says more)",
                        path.display(),
                        number.saturating_add(1)
                    );
                    continue;
                }
            };
            let skipped = from.is_some_and(|from| {
                if oldest_first {
                    line.seq < from
                } else {
                    line.seq > from
                }
            });
            if skipped || !filter.matches(&line.record) {
                continue;
            }
            let text = String::from_utf8_lossy(bytes).into_owned();
            if !each(Event { line, text })? {
                return Ok(());
            }
        }
    }
    Ok(())
}
