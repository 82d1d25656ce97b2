//! `check`: looks for damage while the volume is mounted.

use std::time::{Duration, Instant};

use super::Controlled;
use super::protocol::{Answer, Failed};
use crate::check::check_mounted;

/// Between two words about progress; also a sign of life for the client.
const STEP: Duration = Duration::from_millis(500);

/// Checks; `send` passes answers on and says whether somebody still listens.
pub(super) fn check(
    mount: &Controlled,
    content: bool,
    send: &mut dyn FnMut(&Answer) -> bool,
) -> Answer {
    let mut said = Instant::now();
    let report = check_mounted(
        &mount.fs,
        &mount.lower,
        &*mount.keys,
        content,
        &mut |counts| {
            if said.elapsed() < STEP {
                return true;
            }
            said = Instant::now();
            send(&Answer::Progress(*counts))
        },
    );
    match report {
        Ok(report) => Answer::Checked(Box::new(report)),
        Err(errno) => Answer::Failed(Failed {
            message: format!("the check did not get to its end: {errno}"),
            next_step: "unmount, then check the encrypted directory".to_owned(),
        }),
    }
}
