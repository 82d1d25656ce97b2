//! Reaching the device: absent, forbidden, busy, with a bound on the waiting.

use std::{
    fs::OpenOptions,
    io::ErrorKind,
    str::FromStr,
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use tss_esapi::{
    Context,
    constants::{CapabilityType, PropertyTag},
    tcti_ldr::TctiNameConf,
};

use super::rc;
use crate::SealError;

/// A chip may test itself first; less patience would call a working device busy.
const LEAST_ANSWER_TIME: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Connects to `device` and waits for its first answer, for `wait` in all (at least two seconds once it is
/// there).
pub(super) fn connect(device: &str, wait: Duration) -> Result<Context, SealError> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let left = wait.saturating_sub(start.elapsed());
        let error = match attempt(device, left.max(LEAST_ANSWER_TIME)) {
            Ok(context) => return Ok(context),
            Err(error) => error,
        };
        let may_pass = matches!(
            error,
            SealError::NoDevice { .. } | SealError::DeviceBusy { .. }
        );
        let left = wait.saturating_sub(start.elapsed());
        if !may_pass || left.is_zero() {
            return Err(match error {
                SealError::DeviceBusy { device, .. } => SealError::DeviceBusy {
                    device,
                    waited_seconds: start.elapsed().as_secs(),
                },
                other => other,
            });
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn attempt(device: &str, patience: Duration) -> Result<Context, SealError> {
    let configuration =
        TctiNameConf::from_str(device).map_err(|error| SealError::InvalidConfig {
            reason: format!("device: `{device}`: {error}"),
        })?;
    if let Some(path) = device.strip_prefix("device:") {
        probe_node(device, path)?;
    }
    // A simulator serves one client at a time and lets the next one wait without a word, and a device may hang. So the
    // first exchange, which changes nothing, happens on a thread of its own that can be left behind.
    let (sender, receiver) = sync_channel(1);
    let name = device.to_owned();
    thread::Builder::new()
        .name("tpm-connect".to_owned())
        .spawn(move || {
            // The receiver is gone after a time-out; the context then closes here.
            let _ = sender.send(first_exchange(&name, configuration));
        })
        .map_err(|source| SealError::Io {
            path: device.into(),
            source,
        })?;
    match receiver.recv_timeout(patience) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(busy(device)),
    }
}

fn first_exchange(device: &str, configuration: TctiNameConf) -> Result<Context, SealError> {
    let mut context = Context::new(configuration).map_err(|error| SealError::NoDevice {
        device: device.to_owned(),
        reason: rc::describe(&error),
    })?;
    context
        .execute_without_session(|context| {
            context.get_capability(
                CapabilityType::TpmProperties,
                PropertyTag::Manufacturer.into(),
                1,
            )
        })
        .map_err(|error| match rc::kind(&error) {
            Some(_) => rc::failed("the first question")(error),
            // The software between gave up: the other side went away.
            None => SealError::NoDevice {
                device: device.to_owned(),
                reason: rc::describe(&error),
            },
        })?;
    Ok(context)
}

/// libtss2 has one code for every failure to open; the system says which it is.
fn probe_node(device: &str, path: &str) -> Result<(), SealError> {
    let Err(error) = OpenOptions::new().read(true).write(true).open(path) else {
        return Ok(());
    };
    Err(match error.kind() {
        ErrorKind::ResourceBusy => busy(device),
        ErrorKind::PermissionDenied => SealError::DeviceForbidden {
            device: device.to_owned(),
        },
        _ => SealError::NoDevice {
            device: device.to_owned(),
            reason: error.to_string(),
        },
    })
}

fn busy(device: &str) -> SealError {
    SealError::DeviceBusy {
        device: device.to_owned(),
        waited_seconds: 0,
    }
}

/// Silences libtss2, which prints every expected failure to standard error, unless the
/// environment says otherwise.
#[allow(
    unsafe_code,
    reason = "no library but the environment controls libtss2's logging"
)]
pub(super) fn quiet_libtss2() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("TSS2_LOG").is_none() {
            // SAFETY: Rust's own readers are locked out by std. libtss2's only read the variable after this, since
            // every use of it comes after `call_once`. kmsd opens its sealer before it starts other threads.
            unsafe { std::env::set_var("TSS2_LOG", "all+none") };
        }
    });
}
