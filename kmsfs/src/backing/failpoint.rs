//! Failpoints, in builds with the cargo feature `failpoints` only: every call that changes the lower tree is counted,
//! and one of them can be the last thing the process does, or fail.
//!
//! | environment | |
//! |---|---|
//! | `KMSFS_FAILPOINT_LOG` | file to which each call is appended before it is made: its number from 1 (0 for an fsync), then its place in the source |
//! | `KMSFS_CRASH_BEFORE` | SIGKILL instead of the call with this number |
//! | `KMSFS_CRASH_AFTER` | SIGKILL when the call with this number is done |
//! | `KMSFS_FAIL_AT` | `NUMBER:ERRNO`: the call with this number is not made and answers the errno |
//! | `KMSFS_FAIL_SYNC` | `NUMBER:ERRNO`: the same for the fsync with this number, counted by themselves |

use std::fs::File;
use std::io::Write as _;
use std::panic::Location;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::{Errno, Result};

struct Plan {
    log: Option<Mutex<File>>,
    before: Option<u64>,
    after: Option<u64>,
    fail: Option<(u64, Errno)>,
    fail_sync: Option<(u64, Errno)>,
}

static PLAN: LazyLock<Plan> = LazyLock::new(|| Plan {
    log: std::env::var_os("KMSFS_FAILPOINT_LOG").and_then(|path| {
        let file = File::options().create(true).append(true).open(path);
        file.ok().map(Mutex::new)
    }),
    before: number("KMSFS_CRASH_BEFORE"),
    after: number("KMSFS_CRASH_AFTER"),
    fail: failure("KMSFS_FAIL_AT"),
    fail_sync: failure("KMSFS_FAIL_SYNC"),
});
static CHANGES: AtomicU64 = AtomicU64::new(0);
static SYNCS: AtomicU64 = AtomicU64::new(0);

fn number<T: FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok()?.parse().ok()
}

fn failure(variable: &str) -> Option<(u64, Errno)> {
    let text = std::env::var(variable).ok()?;
    let (at, errno) = text.split_once(':')?;
    let errno = Errno::from_raw_os_error(errno.parse().ok()?);
    Some((at.parse().ok()?, errno))
}

/// A call that changes the lower tree.
pub(super) fn change<T>(caller: &Location<'_>, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let number = CHANGES.fetch_add(1, Ordering::SeqCst) + 1;
    note(number, caller);
    if PLAN.before == Some(number) {
        die();
    }
    let result = match PLAN.fail {
        Some((at, errno)) if at == number => Err(errno),
        _ => call(),
    };
    if PLAN.after == Some(number) {
        die();
    }
    result
}

/// A call that makes changes durable.
pub(super) fn sync<T>(caller: &Location<'_>, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let number = SYNCS.fetch_add(1, Ordering::SeqCst) + 1;
    note(0, caller);
    match PLAN.fail_sync {
        Some((at, errno)) if at == number => Err(errno),
        _ => call(),
    }
}

/// One write for each line, so that it is there however the process ends.
fn note(number: u64, caller: &Location<'_>) {
    if let Some(log) = &PLAN.log {
        let line = format!(
            "{number} {}:{}:{}\n",
            caller.file(),
            caller.line(),
            caller.column()
        );
        let _ = log.lock().write_all(line.as_bytes());
    }
}

fn die() -> ! {
    let own = rustix::process::getpid();
    loop {
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    }
}
