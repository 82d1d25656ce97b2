//! `kmsctl fs freeze` and `kmsctl fs thaw`.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command as Process;
use std::time::Duration;

use kmsfs::control::client::{self, Conversation};
use kmsfs::control::protocol::{Answer, Command};
use serde_json::json;

use super::mounted::{self, Mounted};
use super::protect::unreachable_mount;
use crate::Context;
use crate::exit::{Exit, Failure};

/// Operations that run have to end, and everything has to be written to the disk.
const TIMEOUT: Duration = Duration::from_secs(600);

pub(super) fn freeze(
    path: &Path,
    seconds: u64,
    command: &[OsString],
    control: Option<&Path>,
    context: &Context,
) -> Result<(), Failure> {
    let mount = mounted::require(path, control)?;
    // What the kernel still holds goes down first.
    let synced =
        std::fs::File::open(&mount.entry.mountpoint).and_then(|root| Ok(rustix::fs::syncfs(root)?));
    synced.map_err(|error| Failure::local(mount.entry.mountpoint.display(), &error))?;
    let mut talk = Conversation::start(&mount.socket, TIMEOUT)
        .map_err(|error| unreachable_mount(&mount.socket, &error))?;
    let hold = !command.is_empty();
    let said = talk.ask(&Command::Freeze { seconds, hold });
    match said.map_err(|error| unreachable_mount(&mount.socket, &error))? {
        Answer::Frozen => {}
        answer => return Err(other(answer)),
    }
    let Some((program, arguments)) = command.split_first() else {
        let shown = mount.entry.source.display();
        return context.output.print(
            format!("Frozen for {seconds} s at most: copy {shown}, then `kmsctl fs thaw`."),
            &json!({ "lower": mount.entry.source, "seconds": seconds }),
        );
    };
    let status = Process::new(program)
        .args(arguments)
        .env("KMSFS_LOWER", &mount.entry.source)
        .status();
    let still = match talk.ask(&Command::Thaw) {
        Ok(Answer::Thawed(still)) => still,
        Ok(answer) => return Err(other(answer)),
        Err(error) => return Err(unreachable_mount(&mount.socket, &error)),
    };
    let shown = program.to_string_lossy();
    let status = status.map_err(|error| Failure::local(&shown, &error))?;
    if !still {
        let what = format!("{seconds} s were over before {shown} ended: its copy may be of no use");
        return Err(Failure::new(Exit::FileSystem, what).next("Try again with a longer --for."));
    }
    if !status.success() {
        return Err(Failure::new(Exit::Local, format!("{shown}: {status}")));
    }
    context.output.done("Done; changes go on.")
}

pub(super) fn thaw(path: &Path, control: Option<&Path>, context: &Context) -> Result<(), Failure> {
    let Mounted { socket, .. } = mounted::require(path, control)?;
    match client::ask(&socket, &Command::Thaw, TIMEOUT) {
        Ok(Answer::Thawed(was)) => {
            let human = match was {
                true => "Thawed: changes go on.",
                false => {
                    "It was not frozen, or its time was over: do not trust a copy that was not finished."
                }
            };
            context.output.print(human, &json!({ "frozen": was }))
        }
        Ok(answer) => Err(other(answer)),
        Err(error) => Err(unreachable_mount(&socket, &error)),
    }
}

/// An answer that was not asked for.
pub(super) fn other(answer: Answer) -> Failure {
    match answer {
        Answer::Failed(failed) => {
            Failure::new(Exit::FileSystem, failed.message).next(failed.next_step)
        }
        _ => Failure::new(
            Exit::Protocol,
            "the mount gave another answer than asked for",
        ),
    }
}

/// Seconds: a number with `s`, `m` or `h` behind it, or none.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) if text.ends_with('m') => (number, 60),
        Some(number) if text.ends_with('h') => (number, 3600),
        Some(number) => (number, 1),
        None => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| "expected 90s, 10m or 1h")?;
    let seconds = number.saturating_mul(unit);
    if (1..=24 * 3600).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("expected 1s to 24h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_limits() {
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("24h"), Ok(86_400));
        for wrong in ["", "m", "0", "25h", "-1", "1d", "1 m"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
