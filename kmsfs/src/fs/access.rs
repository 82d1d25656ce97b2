//! Access times: reading moves them as the mount says, and nothing that kmsfs reads for itself does.
//!
//! Lower files are opened with O_NOATIME. An access is counted by one read without it, so that the lower kernel sets the
//! time and no other with it: setting it explicitly would change the time of status change.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Fs, Timestamp};
use crate::backing::{LowerFile, Stat};
use crate::inode::Node;

/// When reading moves the access time. The lower file system may do so less often, but not more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessTimes {
    /// `noatime`.
    Never,
    /// `relatime`: if it is not behind the last change, or older than a day.
    #[default]
    Relative,
    /// `strictatime`.
    Always,
}

/// With `relatime` an access time does not get older than this, in seconds.
const DAY: i64 = 24 * 3600;

impl Fs {
    /// Sets when reading moves access times; `relatime` without that.
    #[must_use]
    pub fn with_access_times(mut self, rule: AccessTimes) -> Fs {
        self.access_times = rule;
        self
    }

    /// A file was read, or opened to be read: with pages in the kernel's cache the read itself is not seen here. With
    /// `tell` the kernel is told of the new time; after a read it asks by itself.
    pub(super) fn accessed(&self, node: &Node, file: &LowerFile, tell: bool) {
        if self.access_times == AccessTimes::Never {
            return;
        }
        let Some(_writing) = self.may_change() else {
            return;
        };
        let due = self.access_times == AccessTimes::Always
            || file.stat().is_ok_and(|stat| is_due(&stat, now()));
        // If it fails there is nothing that a reader could do about it.
        if due
            && file.touch().is_ok()
            && tell
            && let Some(changed) = self.changed.get()
        {
            changed(node.number());
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

fn is_due(stat: &Stat, now: i64) -> bool {
    let time = |secs, nanos| Timestamp {
        secs,
        nanos: u32::try_from(nanos).unwrap_or(0),
    };
    let read = time(stat.st_atime, stat.st_atime_nsec);
    let changed = time(stat.st_mtime, stat.st_mtime_nsec);
    let status = time(stat.st_ctime, stat.st_ctime_nsec);
    let order = |time: Timestamp| (time.secs, time.nanos);
    order(read) <= order(changed)
        || order(read) <= order(status)
        || now.saturating_sub(read.secs) >= DAY
}
