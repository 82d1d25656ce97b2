//! Wrong PINs, lockout, resets, power cuts, and state put back.

use std::{fs, path::Path};

use crate::{
    Credential, Profile, SealError, check_generation,
    tests::{Chip, Host, failure, random, unseal},
};

#[test]
fn a_wrong_pin_is_counted_and_the_chip_is_never_locked() {
    let host = Chip::new();
    host.tpm.set_lockout(5, 1000).unwrap();
    let (right, wrong) = (pin("2580"), pin("2581"));
    let (record, kek) = host.sealer().enroll(Profile::Pin, &right).unwrap();
    for left in [3, 2, 1] {
        let error = unseal(&host, &record, &wrong).unwrap_err();
        assert!(
            matches!(error, SealError::WrongPin { tries_left } if tries_left == left),
            "{error}"
        );
    }
    // The right one goes through and does not make the chip forget.
    assert_eq!(unseal(&host, &record, &right).unwrap(), *kek.key().expose());
    let error = unseal(&host, &record, &wrong).unwrap_err();
    assert!(
        matches!(error, SealError::WrongPin { tries_left: 0 }),
        "{error}"
    );
    for credential in [&wrong, &right] {
        let error = unseal(&host, &record, credential).unwrap_err();
        assert!(
            matches!(error, SealError::LockedOut { seconds: 1000 }),
            "{error}"
        );
    }
    let lockout = host.sealer().status().unwrap().lockout.unwrap();
    assert_eq!(
        (lockout.failures, lockout.max_failures),
        (4, 5),
        "one short of the lock"
    );
    assert_eq!((lockout.tries_left, lockout.wait_seconds), (0, 1000));

    host.tpm.set_lockout(5, 1000).unwrap();
    assert_eq!(unseal(&host, &record, &right).unwrap(), *kek.key().expose());
}

#[test]
fn a_lock_passes_with_time() {
    let host = Chip::new();
    host.tpm.set_lockout(2, 1).unwrap();
    let (record, _) = host.sealer().enroll(Profile::Pin, &pin("2580")).unwrap();
    unseal(&host, &record, &pin("2581")).unwrap_err();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while let Err(error) = unseal(&host, &record, &pin("2580")) {
        assert!(
            matches!(error, SealError::LockedOut { seconds: 1 }),
            "{error}"
        );
        assert!(std::time::Instant::now() < deadline, "still locked");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn a_locked_chip_still_opens_for_a_machine() {
    let host = Chip::new();
    host.tpm.set_lockout(2, 1000).unwrap();
    let machine = random();
    let (record, kek) = host.sealer().enroll(Profile::Machine, &machine).unwrap();
    let (other, _) = host.sealer().enroll(Profile::Pin, &pin("2580")).unwrap();
    unseal(&host, &other, &pin("2581")).unwrap_err();
    assert_eq!(failure(unseal(&host, &other, &pin("2580"))), "locked-out");
    assert_eq!(
        unseal(&host, &record, &machine).unwrap(),
        *kek.key().expose()
    );
}

#[test]
fn a_reset_changes_nothing() {
    let mut host = Chip::new();
    let credential = random();
    let mut sealer = host.sealer();
    let (record, kek) = sealer.enroll(Profile::Machine, &credential).unwrap();
    let count = sealer.increment(&record).unwrap();
    host.tpm.restart().unwrap();
    // The same sealer, as after a suspend of the host.
    assert_eq!(sealer.counter(&record).unwrap(), count);
    assert_eq!(
        sealer.unseal(&record, &credential).unwrap().key().expose(),
        kek.key().expose()
    );
    assert_eq!(sealer.increment(&record).unwrap(), count + 1);
}

#[test]
fn power_cuts_lose_nothing_and_do_not_lock_a_machine() {
    let mut host = Chip::new();
    host.tpm.set_lockout(3, 1000).unwrap();
    let credential = random();
    let mut sealer = host.sealer();
    let (mut record, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    let mut count = sealer.counter(&record).unwrap();
    for _ in 0..4 {
        let (staged, kek) = sealer.stage_epoch(&record, &credential).unwrap();
        count = sealer.increment(&staged).unwrap().max(count + 1);
        host.tpm.kill().unwrap();
        host.tpm.restart().unwrap();
        assert_eq!(sealer.counter(&staged).unwrap(), count);
        assert_eq!(
            unseal(&host, &staged, &credential).unwrap(),
            *kek.key().expose()
        );
        record = sealer.commit_epoch(&staged).unwrap();
        host.tpm.kill().unwrap();
        host.tpm.restart().unwrap();
        assert_eq!(
            unseal(&host, &record, &credential).unwrap(),
            *kek.key().expose()
        );
        assert_ne!(
            failure(unseal(&host, &staged, &credential)),
            "wrong-credential"
        );
    }
}

#[test]
fn an_unclean_power_off_counts_against_a_pin() {
    let mut host = Chip::new();
    host.tpm.set_lockout(10, 1000).unwrap();
    let (record, _) = host.sealer().enroll(Profile::Pin, &pin("2580")).unwrap();
    unseal(&host, &record, &pin("2580")).unwrap();
    host.tpm.kill().unwrap();
    host.tpm.restart().unwrap();
    unseal(&host, &record, &pin("2580")).unwrap();
    assert_eq!(host.sealer().status().unwrap().lockout.unwrap().failures, 1);
    // An orderly one does not.
    host.tpm.restart().unwrap();
    assert_eq!(host.sealer().status().unwrap().lockout.unwrap().failures, 1);
}

/// The documented limit: whoever can put back the chip's own state has rolled back everything. Together with a newer
/// store it shows.
#[test]
fn the_chips_own_state_put_back() {
    let mut host = Chip::new();
    let credential = random();
    let mut sealer = host.sealer();
    let (old, old_kek) = sealer.enroll(Profile::Machine, &credential).unwrap();
    let generation = sealer.counter(&old).unwrap();

    host.tpm.stop().unwrap();
    let copy = host.directory.path().join("copy");
    copy_directory(host.tpm.state_dir(), &copy);
    host.tpm.restart().unwrap();

    let (staged, _) = sealer.stage_epoch(&old, &credential).unwrap();
    let new = sealer.commit_epoch(&staged).unwrap();
    let newer_generation = sealer.increment(&new).unwrap() + 1;
    sealer.increment(&new).unwrap();
    assert_eq!(failure(unseal(&host, &old, &credential)), "epoch-destroyed");

    host.tpm.stop().unwrap();
    fs::remove_dir_all(host.tpm.state_dir()).unwrap();
    copy_directory(&copy, host.tpm.state_dir());
    host.tpm.restart().unwrap();

    assert_eq!(
        unseal(&host, &old, &credential).unwrap(),
        *old_kek.key().expose()
    );
    assert_eq!(failure(unseal(&host, &new, &credential)), "epoch-destroyed");
    sealer.unseal(&old, &credential).unwrap();
    let counter = sealer.counter(&old).unwrap();
    assert_eq!(counter, generation);
    assert_eq!(
        failure(check_generation(newer_generation, counter)),
        "rolled-back"
    );
}

fn pin(text: &str) -> Credential {
    Credential::new(text.as_bytes().to_vec())
}

/// Plain files only, which is what swtpm keeps.
fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
