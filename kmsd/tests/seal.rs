//! The engine on a real (simulated) TPM: changed PCRs, approvals, recovery on the same and on another TPM.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests stop at the first surprise"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use kms_crypto::{RecoveryPrivateKey, sha256};
use kms_seal::{
    Credential, PcrState, Profile, RootSealer, SealError, SealerConfig, testing::Swtpm,
};
use kmsd::{
    clock::SystemClock,
    engine::{self, Engine, EngineConfig, EngineError},
};
use tempfile::TempDir;

struct Host {
    tpm: Swtpm,
    directory: TempDir,
    credential: Credential,
    recovery: RecoveryPrivateKey,
}

impl Host {
    /// An enrolled one.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Self {
            tpm: Swtpm::start(directory.path().join("tpm")).unwrap(),
            directory,
            credential: Credential::random().unwrap(),
            recovery: RecoveryPrivateKey::generate().unwrap(),
        };
        engine::enroll(
            &host.config(),
            sealer(&host.tpm).as_mut(),
            Profile::Machine,
            &host.credential,
            &host.recovery,
            clock().as_ref(),
        )
        .unwrap();
        host
    }

    fn config(&self) -> EngineConfig {
        EngineConfig::new(self.store(), "000000000000", "local-host-1")
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn open(&self, tpm: &Swtpm, credential: &Credential) -> Result<(), EngineError> {
        let engine = Engine::open(self.config(), sealer(tpm), credential, clock())?;
        engine.shutdown()
    }

    fn recover(&self, tpm: &Swtpm, credential: &Credential) {
        engine::recover(
            &self.config(),
            sealer(tpm).as_mut(),
            Profile::Machine,
            credential,
            &self.recovery,
            clock().as_ref(),
        )
        .unwrap();
    }
}

#[test]
fn a_changed_pcr_locks_the_store_and_an_approval_made_before_does_not() {
    let host = Host::new();
    host.open(&host.tpm, &host.credential).unwrap();
    let coming = sha256(&[&[0; 32], &[0x11; 32]]);
    let state = PcrState::Values(BTreeMap::from([(7, [0; 32]), (16, coming)]));
    let pcrs = engine::approve(
        &host.config(),
        sealer(&host.tpm),
        &host.credential,
        clock(),
        &state,
    )
    .unwrap();
    assert_eq!(pcrs, [7, 16]);
    host.open(&host.tpm, &host.credential).unwrap();
    host.tpm.extend_pcr(16, 0x11).unwrap();
    host.open(&host.tpm, &host.credential).unwrap();
    host.tpm.extend_pcr(16, 0x22).unwrap();
    let error = host.open(&host.tpm, &host.credential).unwrap_err();
    assert!(
        matches!(&error, EngineError::Seal(SealError::PcrChanged { moved }) if moved.len() == 1),
        "{error}"
    );
    assert_eq!(error.exit_code(), 24);

    host.recover(&host.tpm, &host.credential);
    host.open(&host.tpm, &host.credential).unwrap();
}

#[test]
fn a_store_from_before_a_recovery_is_dead_under_the_same_tpm() {
    let host = Host::new();
    host.open(&host.tpm, &host.credential).unwrap();
    let copy = host.directory.path().join("copy");
    copy_directory(&host.store(), &copy);

    let new = Credential::random().unwrap();
    host.recover(&host.tpm, &new);
    host.open(&host.tpm, &new).unwrap();
    // Three of the seal, and the counter of the audit log's checkpoints.
    assert_eq!(nv_indices(&host.tpm), 4, "the former ones are gone");

    fs::remove_dir_all(host.store()).unwrap();
    copy_directory(&copy, &host.store());
    for credential in [&host.credential, &new] {
        assert!(host.open(&host.tpm, credential).is_err());
    }
}

#[test]
fn a_store_moves_to_another_tpm_with_the_recovery_key() {
    let host = Host::new();
    let other = Swtpm::start(host.directory.path().join("other")).unwrap();
    let error = host.open(&other, &host.credential).unwrap_err();
    assert!(matches!(
        error,
        EngineError::Seal(SealError::OtherTpm { .. })
    ));
    host.recover(&other, &host.credential);
    host.open(&other, &host.credential).unwrap();
    let error = host.open(&host.tpm, &host.credential).unwrap_err();
    assert!(matches!(
        error,
        EngineError::Seal(SealError::OtherTpm { .. })
    ));
}

fn sealer(tpm: &Swtpm) -> Box<dyn RootSealer> {
    kms_seal::open(&SealerConfig {
        device: tpm.device(),
        pcrs: vec![7, 16],
        ..SealerConfig::default()
    })
    .unwrap()
}

fn clock() -> Arc<SystemClock> {
    Arc::new(SystemClock::new().unwrap())
}

fn nv_indices(tpm: &Swtpm) -> usize {
    let list = tpm.tool("tpm2_getcap", &["handles-nv-index"]).unwrap();
    String::from_utf8(list.stdout).unwrap().lines().count()
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
