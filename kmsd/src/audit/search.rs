//! Searching the log's files.

use std::path::Path;

use kms_api::{ApiError, AuditEvent, ErrorCode, LookupEventsRequest, LookupEventsResponse};
use kms_core::audit::{Filter, Record, split};

use super::LogFile;
use super::files::list;

/// Events of a page when the request does not say.
const DEFAULT_LIMIT: u32 = 50;
/// A page ends after so many bytes of events,
const MAX_PAGE_BYTES: usize = 1 << 20;
/// or after so many lines that were looked at.
const MAX_LINES: usize = 500_000;

/// One page of the events that `request` asks for. Only records before number `end` are looked at: those after it may
/// not be on disk yet. Blocks.
///
/// # Errors
/// The marker is none, or the files cannot be read.
pub fn search(
    directory: &Path,
    end: u64,
    request: &LookupEventsRequest,
) -> Result<LookupEventsResponse, ApiError> {
    let mut page = Page::new(request, end)?;
    let failed = |error: std::io::Error| {
        tracing::error!(%error, "the audit log cannot be read");
        ApiError::new(
            ErrorCode::Internal,
            "The audit log cannot be read; see kmsd's log.",
        )
    };
    let files = list(directory).map_err(failed)?;
    let ends = files.iter().skip(1).map(|file| file.first).chain([end]);
    let mut ranges: Vec<(&LogFile, u64)> = files.iter().zip(ends).collect();
    if !request.oldest_first {
        ranges.reverse();
    }
    for (file, end) in ranges {
        if !page.concerns(file.first, end) {
            continue;
        }
        let text = std::fs::read(&file.path).map_err(failed)?;
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let full = if request.oldest_first {
            page.take(lines)
        } else {
            page.take(lines.rev())
        };
        if full {
            break;
        }
    }
    Ok(page.done())
}

struct Page {
    filter: Filter,
    limit: usize,
    oldest_first: bool,
    /// Records from here (on or back, the first one that is wanted).
    from: u64,
    end: u64,
    events: Vec<AuditEvent>,
    bytes: usize,
    looked: usize,
    next: Option<u64>,
}

impl Page {
    fn new(request: &LookupEventsRequest, end: u64) -> Result<Self, ApiError> {
        let from = match &request.marker {
            None if request.oldest_first => 0,
            None => end.saturating_sub(1),
            Some(marker) => marker
                .parse()
                .ok()
                .filter(|from| *from < end)
                .ok_or_else(|| ApiError::bare(ErrorCode::InvalidMarker))?,
        };
        let ms = |seconds: Option<u32>| seconds.map(|seconds| i64::from(seconds) * 1000);
        Ok(Self {
            filter: Filter {
                event_id: request.event_id.clone(),
                key: request.key_id.clone(),
                principal: request.principal.clone(),
                operation: request.operation.clone(),
                outcome: request.outcome.clone(),
                from_ms: ms(request.start_time),
                until_ms: ms(request.end_time),
            },
            limit: request.limit.unwrap_or(DEFAULT_LIMIT) as usize,
            oldest_first: request.oldest_first,
            from,
            end,
            events: Vec::new(),
            bytes: 0,
            looked: 0,
            next: None,
        })
    }

    /// Whether a file with the records `first..end` has any that are wanted.
    fn concerns(&self, first: u64, end: u64) -> bool {
        if self.oldest_first {
            end > self.from && first < self.end
        } else {
            first <= self.from
        }
    }

    /// Looks at lines in order. Whether the page ended.
    fn take<'a>(&mut self, lines: impl Iterator<Item = &'a [u8]>) -> bool {
        for line in lines {
            let Some((_, record, seq)) = split(line) else {
                // Not the search's to judge: `kmsctl audit verify` is.
                continue;
            };
            let before = if self.oldest_first {
                seq < self.from
            } else {
                seq > self.from
            };
            if before || seq >= self.end {
                continue;
            }
            if self.events.len() >= self.limit
                || self.bytes > MAX_PAGE_BYTES
                || self.looked >= MAX_LINES
            {
                self.next = Some(seq);
                return true;
            }
            self.looked = self.looked.saturating_add(1);
            let Ok(text) = std::str::from_utf8(line) else {
                continue;
            };
            if self.filter.may_match(text)
                && Record::from_bytes(record).is_ok_and(|record| self.filter.matches(&record))
            {
                self.bytes = self.bytes.saturating_add(text.len());
                self.events.push(AuditEvent {
                    sequence: seq,
                    line: text.to_owned(),
                });
            }
        }
        false
    }

    fn done(self) -> LookupEventsResponse {
        LookupEventsResponse {
            events: self.events,
            truncated: self.next.is_some(),
            next_marker: self.next.map(|seq| seq.to_string()),
        }
    }
}
