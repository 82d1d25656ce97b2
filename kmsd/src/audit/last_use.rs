//! What the log says of the last use of each key, for the memory that a start begins without.
//!
//! It is read backwards, on a thread of its own, until the last use of every key is found or no key is old enough for what
//! is before.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use kms_core::audit::{Record, split};
use kms_core::ids::{KeyId, Scope};
use kms_core::last_use::{LastUse, Used, use_of};
use uuid::Uuid;

use super::files::list;
use super::search::{backwards, lines};

/// The keys that are still looked for, each with the time of its making.
pub(crate) type Wanted = HashMap<KeyId, i64>;

/// Starts to look, in the records before number `end`. Ends with the memory that it fills.
pub(crate) fn fill(
    directory: &Path,
    end: u64,
    wanted: Wanted,
    home: Arc<Scope>,
    uses: &Arc<LastUse>,
) {
    let directory = directory.to_owned();
    let weak = Arc::downgrade(uses);
    let thread = std::thread::Builder::new().name("last-use".into());
    let started = thread.spawn(move || match read(&directory, end, wanted, home, &weak) {
        Ok(()) => {
            if let Some(uses) = weak.upgrade() {
                uses.complete();
            }
        }
        // Conditions go on having no value, which denies what depends on one.
        Err(error) => tracing::error!(
            %error,
            "the audit log cannot be read: when keys were last used is not known until the next start"
        ),
    });
    if let Err(error) = started {
        tracing::error!(%error, "when keys were last used is not known: no thread could be started");
    }
}

fn read(
    directory: &Path,
    end: u64,
    wanted: Wanted,
    home: Arc<Scope>,
    uses: &Weak<LastUse>,
) -> io::Result<()> {
    let mut search = Search {
        home,
        oldest: oldest(&wanted),
        wanted,
        next: end,
        reached: None,
    };
    for file in list(directory)?.iter().rev() {
        if file.first >= end {
            continue;
        }
        let open = File::open(&file.path)?;
        let length = open.metadata()?.len();
        let enough = backwards(&open, length, |text| {
            let Some(uses) = uses.upgrade() else {
                return true;
            };
            let enough = lines(text).rev().any(|line| search.take(line, end, &uses));
            if let Some(time) = search.reached {
                uses.reaches_back_to(time);
            }
            enough
        })?;
        if enough {
            break;
        }
    }
    Ok(())
}

struct Search {
    home: Arc<Scope>,
    wanted: Wanted,
    /// When the oldest of them was made.
    oldest: i64,
    /// The record before this one comes next.
    next: u64,
    /// Time of the last record that was looked at.
    reached: Option<i64>,
}

impl Search {
    /// Looks at a line. Whether it is enough.
    fn take(&mut self, line: &[u8], end: u64, uses: &LastUse) -> bool {
        let Some((_, bytes, seq)) = split(line) else {
            return false;
        };
        if seq >= end {
            return false;
        }
        // Records are missing here: nothing is known of what they said.
        if seq.saturating_add(1) != self.next {
            return true;
        }
        self.next = seq;
        let Some(time) = time_of(bytes) else {
            return false;
        };
        self.reached = Some(time);
        if time < self.oldest {
            return true;
        }
        if !may_be_use(bytes) {
            return false;
        }
        let Ok(record) = Record::from_bytes(bytes) else {
            return false;
        };
        let mut found = false;
        for (key, used) in uses_in(&record, &self.home) {
            if self.wanted.remove(&key).is_some() {
                found = true;
                uses.found(key, used);
            }
        }
        if found {
            self.oldest = oldest(&self.wanted);
        }
        self.wanted.is_empty()
    }
}

/// No use of a key is older than the key. The clock may have been set back since, but then there is no telling of days.
fn oldest(wanted: &Wanted) -> i64 {
    wanted.values().copied().min().unwrap_or(i64::MAX)
}

/// The successful uses of keys that a record tells of.
pub(crate) fn uses_in<'r>(
    record: &'r Record,
    home: &'r Scope,
) -> impl Iterator<Item = (KeyId, Used)> + 'r {
    let uuid = |text: &str| Uuid::try_parse(text).map_or([0; 16], Uuid::into_bytes);
    let succeeded = record.error.is_none();
    record
        .keys
        .iter()
        .enumerate()
        .filter_map(move |(place, arn)| {
            let operation = use_of(&record.operation, place).filter(|_| succeeded)?;
            let used = Used {
                operation,
                time_ms: record.time,
                event_id: uuid(&record.event_id),
                request_id: uuid(record.request_id.as_deref().unwrap_or_default()),
            };
            Some((KeyId::from_arn(arn, home)?, used))
        })
}

/// The time in a record's bytes: its last member.
fn time_of(record: &[u8]) -> Option<i64> {
    let digits = record.strip_suffix(b"}")?;
    let begin = digits.iter().rposition(|byte| *byte == b':')?;
    let text = digits.get(begin.saturating_add(1)..)?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether a record's bytes may be those of a use: reading them takes long.
fn may_be_use(record: &[u8]) -> bool {
    const MEMBER: &[u8] = b"\"operation\":\"";
    record.windows(MEMBER.len()).enumerate().any(|(at, found)| {
        found == MEMBER
            && record
                .get(at.saturating_add(MEMBER.len())..)
                .and_then(|rest| rest.split(|byte| *byte == b'"').next())
                .and_then(|name| std::str::from_utf8(name).ok())
                .is_some_and(|name| use_of(name, 0).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> Scope {
        Scope::new("000000000000", "r").unwrap()
    }

    #[test]
    fn what_is_read_of_bytes_is_what_the_record_says() {
        let record = Record {
            operation: "Decrypt".to_owned(),
            time: 1_700_000_000_123,
            keys: vec![
                "arn:aws:kms:r:000000000000:key/00000000-0000-4000-8000-000000000001".into(),
            ],
            event_id: "00000000-0000-4000-8000-00000000000a".into(),
            request_id: Some("00000000-0000-4000-8000-00000000000b".into()),
            ..crate::audit::kms_service("x")
        };
        let bytes = record.to_bytes();
        assert_eq!(time_of(&bytes), Some(record.time));
        assert!(may_be_use(&bytes));
        let found: Vec<_> = uses_in(&record, &home()).collect();
        let [(key, used)] = found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(key.to_string(), "00000000-0000-4000-8000-000000000001");
        assert_eq!((used.operation, used.time_ms), ("Decrypt", record.time));
        assert_eq!((used.event_id[15], used.request_id[15]), (0xa, 0xb));
        let other = Record {
            operation: "DescribeKey".to_owned(),
            ..record
        };
        assert!(!may_be_use(&other.to_bytes()));
        assert_eq!(uses_in(&other, &home()).count(), 0);
    }
}
