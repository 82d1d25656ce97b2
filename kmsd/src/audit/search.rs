//! Searching the log's files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use kms_api::{ApiError, AuditEvent, ErrorCode, LookupEventsRequest, LookupEventsResponse};
use kms_core::audit::{Filter, MAX_LINE, Record, split};

use super::LogFile;
use super::files::list;

/// Events of a page when the request does not say.
const DEFAULT_LIMIT: u32 = 50;
/// A page ends after so many bytes of events,
const MAX_PAGE_BYTES: usize = 1 << 20;
/// or after so many lines that were looked at.
const MAX_LINES: usize = 500_000;
/// Bytes of a file that are looked at together; more than a line has.
const WINDOW: u64 = 1 << 20;
/// The rest of one line and the whole next one.
const LINE: usize = 2 * (MAX_LINE + 1);

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
    let failed = |error: io::Error| {
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
        if page.read(file).map_err(failed)? {
            break;
        }
    }
    Ok(page.done())
}

/// Between which bytes the first line with this number or a later one begins, by bisection: a page from the middle of a
/// file does not read what is before it. A line begins at the first of them.
fn place_of(file: &File, length: u64, seq: u64) -> io::Result<(u64, u64)> {
    let (mut low, mut high) = (0, length);
    while high.saturating_sub(low) > WINDOW {
        let middle = low.midpoint(high);
        let mut buffer = vec![0; LINE];
        let count = read_at(file, &mut buffer, middle)?;
        let text = buffer.get(..count).unwrap_or_default();
        let newline = text.iter().position(|byte| *byte == b'\n');
        let begin = newline.map_or(count, |at| at.saturating_add(1));
        let line = text
            .get(begin..)
            .and_then(|rest| rest.split(|byte| *byte == b'\n').next());
        match line.and_then(split) {
            Some((_, _, found)) if found < seq => low = middle.saturating_add(begin as u64),
            // It may be this line, which begins a little later.
            Some(_) => high = middle,
            // Not the search's to judge: look at all of the rest.
            None => break,
        }
    }
    Ok((low, high.saturating_add(LINE as u64).min(length)))
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(count as u64)) {
            Ok(0) => break,
            Ok(more) => count = count.saturating_add(more),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
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
                // Nothing is there yet: an empty page, not an error, for those who wait for more.
                .filter(|from| *from < end || (request.oldest_first && *from == end))
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
                volume: request.volume_id.clone(),
                inode: request.inode,
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

    /// Looks at a file, a window at a time. Whether the page ended.
    fn read(&mut self, entry: &LogFile) -> io::Result<bool> {
        let file = File::open(&entry.path)?;
        let length = file.metadata()?.len();
        if self.oldest_first {
            let (mut begin, _) = place_of(&file, length, self.from)?;
            while begin < length {
                let (text, end) = window(&file, begin, length)?;
                if self.take(lines(&text)) {
                    return Ok(true);
                }
                begin = end;
            }
            return Ok(false);
        }
        let (_, end) = place_of(&file, length, self.from.saturating_add(1))?;
        backwards(&file, end, |text| self.take(lines(text).rev()))
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

/// Hands out what is before `end` in windows of whole lines, the last one first, until told that it is enough. Whether it
/// was told so.
pub(super) fn backwards(
    file: &File,
    mut end: u64,
    mut take: impl FnMut(&[u8]) -> bool,
) -> io::Result<bool> {
    // The window before `end` begins with the first line in it.
    while end > 0 {
        let start = end.saturating_sub(WINDOW);
        let mut text = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
        let count = read_at(file, &mut text, start)?;
        text.truncate(count);
        let skipped = match start {
            0 => 0,
            _ => text
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(text.len(), |at| at.saturating_add(1)),
        };
        if take(text.get(skipped..).unwrap_or_default()) {
            return Ok(true);
        }
        // Nothing but the end of one line can be left of a window that is longer than any.
        let next = start.saturating_add(skipped as u64);
        if next >= end {
            break;
        }
        end = next;
    }
    Ok(false)
}

pub(super) fn lines(text: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
}

/// Whole lines from `begin`, about a window of them, and where they end.
fn window(file: &File, begin: u64, length: u64) -> io::Result<(Vec<u8>, u64)> {
    let wanted = WINDOW.min(length.saturating_sub(begin));
    let mut text = vec![0; usize::try_from(wanted).unwrap_or(0)];
    let count = read_at(file, &mut text, begin)?;
    text.truncate(count);
    if let Some(last) = text.iter().rposition(|byte| *byte == b'\n') {
        text.truncate(last.saturating_add(1));
    }
    // A file without a newline in so many bytes is no log: go on after them.
    let end = begin.saturating_add(text.len().max(1) as u64);
    Ok((text, end))
}
