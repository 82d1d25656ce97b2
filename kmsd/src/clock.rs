//! The clocks of the real world, and one that tests set.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use kms_core::clock::{Clock, Reading};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// The system's clock, and the time since boot with suspend included.
#[derive(Debug)]
pub struct SystemClock {
    boot: String,
}

impl SystemClock {
    /// Names the present boot by the kernel's boot id.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn new() -> io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            boot: boot.trim().to_owned(),
        })
    }
}

impl Clock for SystemClock {
    fn read(&self) -> Reading {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let boot = clock_gettime(ClockId::Boottime);
        let millis = boot
            .tv_sec
            .saturating_mul(1000)
            .saturating_add(boot.tv_nsec / 1_000_000);
        Reading {
            wall_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            uptime_ms: u64::try_from(millis).unwrap_or(0),
            boot: self.boot.clone(),
        }
    }
}

/// A clock read from a file at every use, for tests: `WALL [ELAPSED]`, decimal seconds. Without
/// `ELAPSED`, elapsed time follows the wall clock; with it, tests can make the two disagree.
#[derive(Debug)]
pub struct FileClock {
    path: PathBuf,
    last: Mutex<(i64, u64)>,
}

impl FileClock {
    /// Reads the file once, so that a mistake shows at start.
    ///
    /// # Errors
    /// The file cannot be read or does not hold one or two numbers.
    pub fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let first = read_file(&path)?;
        Ok(Self {
            path,
            last: Mutex::new(first),
        })
    }
}

impl Clock for FileClock {
    fn read(&self) -> Reading {
        let mut last = self.last.lock();
        // A file that is being rewritten may be empty for a moment: time stands still until then.
        if let Ok(now) = read_file(&self.path) {
            *last = now;
        }
        Reading {
            wall_ms: last.0.saturating_mul(1000),
            uptime_ms: last.1.saturating_mul(1000),
            boot: "injected".to_owned(),
        }
    }
}

fn read_file(path: &Path) -> io::Result<(i64, u64)> {
    let text = std::fs::read_to_string(path)?;
    let numbers: Result<Vec<i64>, _> = text.split_whitespace().map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[wall]) => Ok((wall, u64::try_from(wall).unwrap_or(0))),
        Ok(&[wall, elapsed]) => Ok((wall, u64::try_from(elapsed).unwrap_or(0))),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} does not hold `WALL [ELAPSED]` in seconds",
                path.display()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_at_every_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clock");
        assert!(FileClock::new(&path).is_err());
        std::fs::write(&path, "1000\n").unwrap();
        let clock = FileClock::new(&path).unwrap();
        assert_eq!(
            (clock.read().wall_ms, clock.read().uptime_ms),
            (1_000_000, 1_000_000)
        );
        std::fs::write(&path, "2000 5").unwrap();
        assert_eq!(
            (clock.read().wall_ms, clock.read().uptime_ms),
            (2_000_000, 5_000)
        );
        std::fs::write(&path, "").unwrap();
        assert_eq!(clock.read().wall_ms, 2_000_000);
        std::fs::write(&path, "tomorrow").unwrap();
        assert!(FileClock::new(&path).is_err());
    }

    #[test]
    fn the_system_clock_runs() {
        let clock = SystemClock::new().unwrap();
        let (a, b) = (clock.read(), clock.read());
        assert!(b.uptime_ms >= a.uptime_ms && a.wall_ms > 1_700_000_000_000);
        assert_eq!(a.boot, b.boot);
    }
}
