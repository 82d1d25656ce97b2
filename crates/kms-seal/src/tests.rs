//! One suite for both keepers, against a real swtpm and real files; then what only one of them does.

mod software;
mod suite;
mod tamper;
mod tpm;

use std::time::Duration;

use tempfile::TempDir;

use crate::{
    Credential, Enrollment, RootSealer, SealError, SealerConfig, SealerKind, open, testing::Swtpm,
};

/// A host with a keeper of its own.
trait Host {
    fn new() -> Self;
    fn config(&self) -> SealerConfig;

    /// A sealer that knows nothing yet, as after a restart of the daemon.
    fn sealer(&self) -> Box<dyn RootSealer> {
        open(&self.config()).unwrap()
    }
}

struct Soft(TempDir);

impl Host for Soft {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn config(&self) -> SealerConfig {
        SealerConfig {
            kind: SealerKind::Software,
            key_file: self.0.path().join("seal.key"),
            ..SealerConfig::default()
        }
    }
}

struct Chip {
    /// Dropped before the directory.
    tpm: Swtpm,
    directory: TempDir,
}

impl Host for Chip {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(directory.path().join("tpm")).unwrap();
        Self { tpm, directory }
    }

    fn config(&self) -> SealerConfig {
        SealerConfig {
            device: self.tpm.device(),
            pcrs: vec![7, 16],
            wait: Duration::from_secs(5),
            ..SealerConfig::default()
        }
    }
}

fn random() -> Credential {
    Credential::random().unwrap()
}

/// The KEK's bytes, to compare.
fn unseal(
    host: &impl Host,
    record: &Enrollment,
    credential: &Credential,
) -> Result<[u8; 32], SealError> {
    host.sealer()
        .unseal(record, credential)
        .map(|kek| *kek.key().expose())
}

/// Name of the failure.
fn failure<T>(outcome: Result<T, SealError>) -> &'static str {
    match outcome {
        Ok(_) => "success",
        Err(error) => error.kind().name,
    }
}

/// What the store would do: write the record, read it again.
fn stored(record: &Enrollment) -> Enrollment {
    let again = Enrollment::from_json(&record.to_json().unwrap()).unwrap();
    assert_eq!(&again, record);
    again
}
