//! The key file.

use std::{fs, os::unix::fs::PermissionsExt};

use super::{Host, Soft, failure, random, unseal};
use crate::{PcrState, Profile};

#[test]
fn its_files_are_for_the_owner_alone() {
    let host = Soft::new();
    let mut sealer = host.sealer();
    let credential = random();
    let (record, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    sealer.increment(&record).unwrap();
    sealer.stage_epoch(&record, &credential).unwrap();
    let files: Vec<_> = fs::read_dir(host.0.path())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(files.len(), 4, "key, counter, two epochs: {files:?}");
    for file in files {
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o7777,
            0o600,
            "{file:?}"
        );
    }
}

#[test]
fn a_file_that_others_can_read_is_refused() {
    let host = Soft::new();
    let credential = random();
    let (record, kek) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let path = host.config().key_file;
    for mode in [0o640, 0o604, 0o660, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(
            failure(unseal(&host, &record, &credential)),
            "key-file-mode",
            "{mode:o}"
        );
        assert_eq!(
            failure(host.sealer().enroll(Profile::Machine, &credential)),
            "key-file-mode"
        );
        assert_eq!(failure(host.sealer().status()), "key-file-mode");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(
        unseal(&host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
}

#[test]
fn missing_damaged_and_foreign_key_files_differ() {
    let host = Soft::new();
    let credential = random();
    let (record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let path = host.config().key_file;
    let good = fs::read(&path).unwrap();
    for place in 0..good.len() {
        let mut damaged = good.clone();
        damaged[place] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        assert_eq!(
            failure(unseal(&host, &record, &credential)),
            "key-file-damaged",
            "{place}"
        );
    }
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert_eq!(
        failure(unseal(&host, &record, &credential)),
        "key-file-damaged"
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(
        failure(unseal(&host, &record, &credential)),
        "key-file-missing"
    );
    host.sealer().enroll(Profile::Machine, &credential).unwrap();
    assert_eq!(
        failure(unseal(&host, &record, &credential)),
        "other-key-file"
    );
}

#[test]
fn counter_and_epoch_files_are_authenticated() {
    let host = Soft::new();
    let credential = random();
    let mut sealer = host.sealer();
    let (record, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    let beside = |suffix: &str| {
        let name = format!("seal.key.{}.{suffix}", record.id());
        host.0.path().join(name)
    };
    let counter = fs::read(beside("counter")).unwrap();
    for place in 0..counter.len() {
        let mut damaged = counter.clone();
        damaged[place] ^= 1;
        fs::write(beside("counter"), &damaged).unwrap();
        assert_eq!(
            failure(sealer.counter(&record)),
            "counter-replaced",
            "{place}"
        );
    }
    fs::remove_file(beside("counter")).unwrap();
    assert_eq!(failure(sealer.increment(&record)), "counter-missing");
    fs::write(beside("counter"), &counter).unwrap();
    sealer.increment(&record).unwrap();

    let mut epoch = fs::read(beside("epoch-a")).unwrap();
    epoch[0] ^= 1;
    fs::write(beside("epoch-a"), &epoch).unwrap();
    assert_eq!(
        failure(unseal(&host, &record, &credential)),
        "epoch-replaced"
    );
}

#[test]
fn it_says_that_it_is_no_tpm() {
    let status = Soft::new().sealer().status().unwrap();
    assert_eq!((status.kind, status.measured), ("software", None));
    assert!(
        status.warnings[0].contains("not in a TPM"),
        "{:?}",
        status.warnings
    );
    let host = Soft::new();
    let credential = random();
    let (record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let approved = host
        .sealer()
        .approve(&record, &credential, &PcrState::Current);
    assert_eq!(failure(approved), "invalid-config");
}
