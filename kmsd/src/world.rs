//! The real world put together from the configuration: credential, sealer, clock, engine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kms_core::Clock;
use kms_core::kms::Settings;
use kms_seal::{Credential, MACHINE_CREDENTIAL_LEN, RootSealer};
use zeroize::Zeroizing;

use crate::clock::{FileClock, SystemClock};
use crate::config::Config;
use crate::engine::EngineConfig;
use crate::exit::Failure;
use crate::terminal;

/// Largest credential or password file, in bytes.
const MAX_SECRET_FILE: u64 = 4096;

/// The engine's part of the configuration.
pub(crate) fn engine_config(config: &Config) -> EngineConfig {
    EngineConfig {
        audit: config.audit(),
        rates: config.limits.rates(),
        served: config.server.served(),
        anchor_interval: Duration::from_secs(config.store.anchor_interval),
        settings: Settings {
            lease_ms: config.lease.duration.saturating_mul(1000),
            approval: config.approval.rules(),
            quotas: config.limits.quotas(),
        },
        ..EngineConfig::new(
            &config.store.directory,
            &config.server.account,
            &config.server.region,
        )
    }
}

/// The sealer.
pub(crate) fn sealer(config: &Config) -> Result<Box<dyn RootSealer>, Failure> {
    let owner_auth = match &config.seal.owner_auth {
        Some(path) => Some(read_credential(&delivered(path)).map_err(|e| {
            Failure::local(
                format_args!("the password of the TPM's owner in {}", path.display()),
                &e,
                "Put it there, or remove `seal.owner_auth` when the TPM has none.",
            )
        })?),
        None => None,
    };
    Ok(kms_seal::open(&config.sealer_config(owner_auth))?)
}

/// The clock: the system's, or the injected one.
pub(crate) fn clock(config: &Config) -> Result<Arc<dyn Clock>, Failure> {
    let failed = |what: &Path, e: &io::Error, next: &str| {
        Failure::local(format_args!("the clock {}", what.display()), e, next)
    };
    if let Some(path) = &config.testing.clock_file {
        tracing::warn!(
            "TESTING: the time comes from {}; whoever writes that file decides when keys are destroyed",
            path.display()
        );
        let clock = FileClock::new(path)
            .map_err(|e| failed(path, &e, "Write the seconds since 1970 into it."))?;
        return Ok(Arc::new(clock));
    }
    let clock = SystemClock::new()
        .map_err(|e| failed(Path::new("/proc"), &e, "kmsd needs /proc: mount it."))?;
    Ok(Arc::new(clock))
}

/// The credential of an enrolled store: the file, or typed when there is none and someone is there.
pub(crate) fn credential(config: &Config) -> Result<Credential, Failure> {
    let path = delivered(&config.credential());
    match read_credential(&path) {
        Ok(credential) => Ok(credential),
        Err(e) if e.kind() == io::ErrorKind::NotFound && terminal::is_interactive() => {
            Ok(Credential::new(terminal::ask_secret("PIN: ")?))
        }
        Err(e) => Err(Failure::local(
            format_args!("the credential {}", path.display()),
            &e,
            "Run `kmsctl tpm enroll` if this host is not enrolled; else name the file with \
             `seal.credential` and in the unit's LoadCredential=, or run `kmsctl tpm recover`.",
        )),
    }
}

/// The file of that name that the service manager delivered, or else the file itself.
pub(crate) fn delivered(path: &Path) -> PathBuf {
    let delivered = std::env::var_os("CREDENTIALS_DIRECTORY")
        .and_then(|directory| Some(Path::new(&directory).join(path.file_name()?)));
    match delivered {
        Some(delivered) if delivered.exists() => delivered,
        Some(_) | None => path.to_owned(),
    }
}

/// Reads a credential file.
pub(crate) fn read_credential(path: &Path) -> io::Result<Credential> {
    use std::io::Read;
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    std::fs::File::open(path)?
        .take(MAX_SECRET_FILE)
        .read_to_end(&mut bytes)?;
    // A machine credential has at least 32 bytes, all of which count; what is shorter was typed,
    // and an editor ended it with a newline.
    if bytes.len() < MACHINE_CREDENTIAL_LEN
        && let Some(b'\n') = bytes.last()
    {
        bytes.pop();
    }
    Ok(Credential::new(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_typed_loses_its_newline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            read_credential(file.path()).unwrap().expose().to_vec()
        };
        assert_eq!(read(b"1234\n"), b"1234");
        assert_eq!(read(b"1234"), b"1234");
        // One in 256 random credentials ends in the byte of a newline.
        let mut random = [7; MACHINE_CREDENTIAL_LEN];
        random[MACHINE_CREDENTIAL_LEN - 1] = b'\n';
        assert_eq!(read(&random), random);
    }
}
