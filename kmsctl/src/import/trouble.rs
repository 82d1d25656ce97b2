//! What goes wrong: with one object, which is named while the import goes on, or with the whole import.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::exit::{Exit, Failure};

/// Why an object was not imported.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// This one cannot be imported; others can.
    Problem(String),
    /// Nothing more can be imported now.
    Stop(Failure),
}

impl Trouble {
    /// A problem of one object.
    pub(crate) fn problem(text: impl Into<String>) -> Trouble {
        Trouble::Problem(text.into())
    }

    /// What the source's file system said when `what` was tried.
    pub(crate) fn source(what: impl fmt::Display) -> impl Fn(io::Error) -> Trouble {
        move |error| {
            match errno(&error) {
            Some(Errno::NOTCONN) => Trouble::Stop(
                Failure::new(Exit::Local, format!("{what}: the source is no longer mounted"))
                    .next("Mount the source again, then run the same command: it goes on where it stopped."),
            ),
            _ => Trouble::Problem(format!("{what}: {error}")),
        }
        }
    }

    /// What the destination's file system said when `what` was tried.
    pub(crate) fn destination(what: impl fmt::Display) -> impl Fn(io::Error) -> Trouble {
        move |error| {
            let (text, next) = match errno(&error) {
                Some(Errno::NOSPC) => (
                    "the destination is full",
                    "Make room in the file system that holds the encrypted directory",
                ),
                Some(Errno::DQUOT) => (
                    "the quota of the destination is used up",
                    "Raise the quota, or make room",
                ),
                Some(Errno::ROFS) => (
                    "the destination is read-only",
                    "Look at the kernel's log for why, and mount it writable",
                ),
                Some(Errno::NOTCONN) => (
                    "the destination is no longer mounted",
                    "Look at the log of kmsfs, and mount it again",
                ),
                Some(Errno::IO) => (
                    "the destination failed",
                    "Look at the log of kmsfs and the kernel's log for the reason",
                ),
                _ => return Trouble::Problem(format!("{what}: {error}")),
            };
            Trouble::Stop(
                Failure::new(Exit::Local, format!("{what}: {text} ({error})")).next(format!(
                    "What was imported so far is complete and stays. {next}, then run the same command again: it goes \
                     on where it stopped."
                )),
            )
        }
    }
}

/// The kernel's error number.
pub(crate) fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_stops_and_a_damaged_source_does_not() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        for stops in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::ROFS,
            Errno::NOTCONN,
            Errno::IO,
        ] {
            let Trouble::Stop(failure) = Trouble::destination("writing a")(error(stops)) else {
                panic!("{stops:?} should stop the import");
            };
            assert!(
                failure
                    .next_step
                    .unwrap()
                    .contains("goes on where it stopped")
            );
        }
        assert!(matches!(
            Trouble::source("reading a")(error(Errno::IO)),
            Trouble::Problem(_)
        ));
        assert!(matches!(
            Trouble::source("reading a")(error(Errno::NOTCONN)),
            Trouble::Stop(_)
        ));
    }
}
