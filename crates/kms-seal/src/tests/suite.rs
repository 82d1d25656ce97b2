//! What every keeper must do.

use super::{Chip, Host, Soft, failure, random, stored, unseal};
use crate::{Credential, Profile};

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod software { $(#[test] fn $name() { super::$name(&<super::Soft as super::Host>::new()); })* }
        mod tpm { $(#[test] fn $name() { super::$name(&<super::Chip as super::Host>::new()); })* }
    };
}

on_both!(
    the_same_kek_every_time,
    the_wrong_credential_opens_nothing,
    weak_credentials_are_refused,
    the_counter_goes_up_by_one_and_survives,
    nothing_works_before_unseal,
    an_epoch_change_survives_a_crash_between_any_two_steps,
    an_interrupted_stage_leaves_a_slot_that_is_used_again,
    epochs_alternate_between_two_slots,
    enrolments_stand_side_by_side,
    a_removed_enrolment_is_dead,
    check_says_what_unseal_would,
    checkpoints_are_vouched_for_with_a_counter_of_their_own,
    a_checkpoint_counter_whose_record_was_lost_is_found_again,
);

fn the_same_kek_every_time(host: &impl Host) {
    for (profile, credential) in [
        (Profile::Machine, random()),
        (Profile::Pin, Credential::new(b"2580".to_vec())),
    ] {
        let (record, kek) = host.sealer().enroll(profile, &credential).unwrap();
        let record = stored(&record);
        assert_eq!(record.profile(), profile);
        for _ in 0..2 {
            assert_eq!(
                unseal(host, &record, &credential).unwrap(),
                *kek.key().expose()
            );
        }
        let (_, other) = host.sealer().enroll(profile, &credential).unwrap();
        assert_ne!(
            other.key().expose(),
            kek.key().expose(),
            "each enrolment has a root of its own"
        );
    }
}

fn the_wrong_credential_opens_nothing(host: &impl Host) {
    let credential = random();
    let (record, kek) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    for _ in 0..4 {
        assert_eq!(
            failure(unseal(host, &record, &random())),
            "wrong-credential"
        );
    }
    // Failures of a random credential are not counted.
    assert_eq!(
        unseal(host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
}

fn weak_credentials_are_refused(host: &impl Host) {
    let pin = Credential::new(b"123456".to_vec());
    assert_eq!(
        failure(host.sealer().enroll(Profile::Machine, &pin)),
        "weak-credential"
    );
    let short = Credential::new(b"123".to_vec());
    assert_eq!(
        failure(host.sealer().enroll(Profile::Pin, &short)),
        "weak-credential"
    );
}

fn the_counter_goes_up_by_one_and_survives(host: &impl Host) {
    let credential = random();
    let mut sealer = host.sealer();
    let (record, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    let start = sealer.counter(&record).unwrap();
    for step in 1..=5 {
        assert_eq!(sealer.increment(&record).unwrap(), start + step);
        assert_eq!(sealer.counter(&record).unwrap(), start + step);
    }
    let mut again = host.sealer();
    again.unseal(&record, &credential).unwrap();
    assert_eq!(again.counter(&record).unwrap(), start + 5);
}

fn nothing_works_before_unseal(host: &impl Host) {
    let credential = random();
    let (record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let mut sealer = host.sealer();
    assert_eq!(failure(sealer.counter(&record)), "not-unsealed");
    assert_eq!(failure(sealer.increment(&record)), "not-unsealed");
    assert_eq!(failure(sealer.commit_epoch(&record)), "not-unsealed");
    sealer.unseal(&record, &random()).unwrap_err();
    assert_eq!(failure(sealer.counter(&record)), "not-unsealed");
}

/// The daemon's steps are: stage, write the store with the new record, commit, write the store with the committed
/// record. After each one it may die and start again with the record that the store holds then.
fn an_epoch_change_survives_a_crash_between_any_two_steps(host: &impl Host) {
    let credential = random();
    let (old, old_kek) = host.sealer().enroll(Profile::Machine, &credential).unwrap();

    let mut sealer = host.sealer();
    let (staged, new_kek) = sealer.stage_epoch(&old, &credential).unwrap();
    assert_ne!(new_kek.key().expose(), old_kek.key().expose());
    assert_eq!((old.epoch(), staged.epoch()), (0, 1));
    assert!(staged.has_retired_epoch());

    // Dead before the store was written: the old record is the newest.
    assert_eq!(
        unseal(host, &old, &credential).unwrap(),
        *old_kek.key().expose()
    );
    // Dead after: the staged one is.
    let staged = stored(&staged);
    assert_eq!(
        unseal(host, &staged, &credential).unwrap(),
        *new_kek.key().expose()
    );
    assert_eq!(
        failure(host.sealer().stage_epoch(&staged, &credential)),
        "damaged-record"
    );

    let mut sealer = host.sealer();
    sealer.unseal(&staged, &credential).unwrap();
    let committed = sealer.commit_epoch(&staged).unwrap();
    assert!(!committed.has_retired_epoch());
    // Dead before the committed record was written: commit again.
    assert_eq!(
        unseal(host, &staged, &credential).unwrap(),
        *new_kek.key().expose()
    );
    let mut sealer = host.sealer();
    sealer.unseal(&staged, &credential).unwrap();
    assert_eq!(sealer.commit_epoch(&staged).unwrap(), committed);
    assert_eq!(sealer.commit_epoch(&committed).unwrap(), committed);
    assert_eq!(
        unseal(host, &stored(&committed), &credential).unwrap(),
        *new_kek.key().expose()
    );

    // And the old one is dead, whoever holds the credential.
    assert_eq!(failure(unseal(host, &old, &credential)), "epoch-destroyed");
    assert_eq!(
        failure(host.sealer().stage_epoch(&old, &credential)),
        "epoch-destroyed"
    );
    assert_eq!(
        unseal(host, &committed, &credential).unwrap(),
        *new_kek.key().expose()
    );
}

fn an_interrupted_stage_leaves_a_slot_that_is_used_again(host: &impl Host) {
    let credential = random();
    let (record, kek) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let (lost, lost_kek) = host.sealer().stage_epoch(&record, &credential).unwrap();
    let (staged, staged_kek) = host.sealer().stage_epoch(&record, &credential).unwrap();
    assert_ne!(lost_kek.key().expose(), staged_kek.key().expose());
    assert_eq!(
        unseal(host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
    assert_eq!(
        unseal(host, &staged, &credential).unwrap(),
        *staged_kek.key().expose()
    );
    assert_eq!(failure(unseal(host, &lost, &credential)), "epoch-replaced");
}

fn epochs_alternate_between_two_slots(host: &impl Host) {
    let credential = random();
    let mut sealer = host.sealer();
    let (mut record, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    let start = sealer.counter(&record).unwrap();
    let mut dead = Vec::new();
    for epoch in 1..=4 {
        let (staged, kek) = sealer.stage_epoch(&record, &credential).unwrap();
        let committed = sealer.commit_epoch(&staged).unwrap();
        assert_eq!(committed.epoch(), epoch);
        assert_eq!(
            unseal(host, &committed, &credential).unwrap(),
            *kek.key().expose()
        );
        dead.push(std::mem::replace(&mut record, committed));
    }
    for old in &dead {
        let name = failure(unseal(host, old, &credential));
        assert!(
            ["epoch-destroyed", "epoch-replaced"].contains(&name),
            "{name}"
        );
    }
    assert_eq!(
        sealer.counter(&record).unwrap(),
        start,
        "epochs leave the counter alone"
    );
}

fn enrolments_stand_side_by_side(host: &impl Host) {
    let (one, two) = (random(), random());
    let mut sealer = host.sealer();
    let (first, first_kek) = sealer.enroll(Profile::Machine, &one).unwrap();
    let (second, second_kek) = sealer.enroll(Profile::Machine, &two).unwrap();
    assert_ne!(first.id(), second.id());
    assert_eq!(
        failure(sealer.counter(&first)),
        "not-unsealed",
        "the last one is open"
    );
    assert_eq!(
        unseal(host, &first, &one).unwrap(),
        *first_kek.key().expose()
    );
    assert_eq!(failure(unseal(host, &first, &two)), "wrong-credential");
    sealer.remove(&first).unwrap();
    assert_eq!(
        unseal(host, &second, &two).unwrap(),
        *second_kek.key().expose()
    );
    sealer.increment(&second).unwrap();
}

fn a_removed_enrolment_is_dead(host: &impl Host) {
    let credential = random();
    let mut sealer = host.sealer();
    let (record, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    sealer.remove(&record).unwrap();
    sealer.remove(&record).unwrap();
    assert_eq!(failure(sealer.counter(&record)), "not-unsealed");
    assert_eq!(
        failure(unseal(host, &record, &credential)),
        "epoch-destroyed"
    );
    assert_eq!(failure(host.sealer().check(&record)), "counter-missing");
}

fn check_says_what_unseal_would(host: &impl Host) {
    let credential = random();
    let mut sealer = host.sealer();
    let (record, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    host.sealer().check(&record).unwrap();
    let (staged, _) = sealer.stage_epoch(&record, &credential).unwrap();
    sealer.commit_epoch(&staged).unwrap();
    host.sealer().check(&staged).unwrap();
    assert_eq!(failure(host.sealer().check(&record)), "epoch-destroyed");
}

fn checkpoints_are_vouched_for_with_a_counter_of_their_own(host: &impl Host) {
    let credential = random();
    let mut sealer = host.sealer();
    let (old, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    assert!(!old.has_checkpoints());
    assert_eq!(failure(sealer.checkpointer(&old)), "damaged-record");
    let record = stored(&sealer.prepare_checkpoints(&old).unwrap());
    assert!(record.has_checkpoints());
    assert_eq!(sealer.prepare_checkpoints(&record).unwrap(), record);
    let generation = sealer.counter(&record).unwrap();

    let mut desk = sealer.checkpointer(&record).unwrap();
    let keys = desk.keys().clone();
    let first = desk.counter().unwrap();
    for step in 0..3 {
        assert_eq!(desk.counter().unwrap(), first + step);
        let text = format!("checkpoint {step}\n");
        let vouched = desk.vouch(text.as_bytes(), &[7; 32]).unwrap();
        kms_crypto::ed25519_verify(&keys.ed25519, text.as_bytes(), &vouched.signature).unwrap();
        assert_eq!(vouched.tpm.is_some(), keys.tpm.is_some());
        assert_eq!(desk.advance().unwrap(), first + step + 1);
    }
    assert_eq!(sealer.counter(&record).unwrap(), generation);

    // After a restart, and in another epoch, it is the same desk.
    let mut again = host.sealer();
    again.unseal(&record, &credential).unwrap();
    let (staged, _) = again.stage_epoch(&record, &credential).unwrap();
    let committed = again.commit_epoch(&staged).unwrap();
    let mut desk = again.checkpointer(&committed).unwrap();
    assert_eq!(desk.keys(), &keys);
    assert_eq!(desk.counter().unwrap(), first + 3);

    again.remove(&committed).unwrap();
    assert_eq!(failure(desk.counter()), "counter-missing");
}

fn a_checkpoint_counter_whose_record_was_lost_is_found_again(host: &impl Host) {
    let credential = random();
    let mut sealer = host.sealer();
    let (old, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    let lost = sealer.prepare_checkpoints(&old).unwrap();
    let counted = sealer.checkpointer(&lost).unwrap().advance().unwrap();
    let mut again = host.sealer();
    again.unseal(&old, &credential).unwrap();
    let record = again.prepare_checkpoints(&old).unwrap();
    let mut desk = again.checkpointer(&record).unwrap();
    assert_eq!(desk.counter().unwrap(), counted);
    desk.vouch(b"text", &[1; 32]).unwrap();
}
