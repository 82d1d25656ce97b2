//! PCRs: changes are named, approvals open the new state.

use std::collections::BTreeMap;

use kms_crypto::sha256;

use crate::{
    PcrState, Profile, SealError, SealerConfig,
    hex::hex,
    open,
    tests::{Chip, Host, failure, random, unseal},
};

#[test]
fn a_changed_pcr_is_named_with_both_values() {
    let host = Chip::new();
    let credential = random();
    let (record, kek) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    assert_eq!(record.pcrs(), [7, 16]);
    host.tpm.extend_pcr(16, 0x11).unwrap();
    let SealError::PcrChanged { moved } = unseal(&host, &record, &credential).unwrap_err() else {
        panic!("another failure");
    };
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0].index, 16);
    assert_eq!(moved[0].sealed, hex(&[0; 32]));
    assert_eq!(moved[0].current, hex(&extended([0; 32], 0x11)));
    assert_eq!(failure(host.sealer().check(&record)), "pcr-changed");

    host.tpm.extend_pcr(7, 0x22).unwrap();
    let error = unseal(&host, &record, &credential).unwrap_err().to_string();
    assert!(
        error.contains("PCR 7 was") && error.contains("PCR 16 was"),
        "{error}"
    );

    // PCR 16 can be reset at run time, PCR 7 only by a reboot.
    let mut host = host;
    host.tpm.restart().unwrap();
    assert_eq!(
        unseal(&host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
}

#[test]
fn other_pcrs_may_change() {
    let host = Chip::new();
    let credential = random();
    let (record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    host.tpm.extend_pcr(4, 0x11).unwrap();
    unseal(&host, &record, &credential).unwrap();
}

#[test]
fn a_state_is_approved_before_the_update() {
    let mut host = Chip::new();
    let credential = random();
    let (record, kek) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let next = BTreeMap::from([(7, [0; 32]), (16, extended([0; 32], 0x33))]);
    let approved = host
        .sealer()
        .approve(&record, &credential, &PcrState::Values(next))
        .unwrap();
    assert_eq!(
        unseal(&host, &approved, &credential).unwrap(),
        *kek.key().expose()
    );
    host.tpm.extend_pcr(16, 0x33).unwrap();
    assert_eq!(failure(unseal(&host, &record, &credential)), "pcr-changed");
    assert_eq!(
        unseal(&host, &approved, &credential).unwrap(),
        *kek.key().expose()
    );
    // The new state can approve as well: the old one again, and others.
    let again = host
        .sealer()
        .approve(&approved, &credential, &PcrState::Current)
        .unwrap();
    assert_eq!(
        unseal(&host, &again, &credential).unwrap(),
        *kek.key().expose()
    );
    // Counter and epochs go on under the same record.
    let mut sealer = host.sealer();
    let (staged, _) = sealer.stage_epoch(&again, &credential).unwrap();
    let committed = sealer.commit_epoch(&staged).unwrap();
    sealer.increment(&committed).unwrap();
    host.tpm.restart().unwrap();
    unseal(&host, &committed, &credential).unwrap();
}

#[test]
fn only_a_valid_state_can_approve() {
    let host = Chip::new();
    let credential = random();
    let (record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    host.tpm.extend_pcr(16, 0x11).unwrap();
    let outcome = host
        .sealer()
        .approve(&record, &credential, &PcrState::Current);
    assert_eq!(failure(outcome), "pcr-changed");
    // Nor can one record's approval serve another's.
    let (other, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let mut forged = serde_json::to_value(&record).unwrap();
    forged["body"]["vault"]["tpm"]["approvals"] =
        serde_json::to_value(&other).unwrap()["body"]["vault"]["tpm"]["approvals"].clone();
    let mut forged: crate::Enrollment = serde_json::from_value(forged).unwrap();
    forged.resum();
    assert_eq!(
        failure(unseal(&host, &forged, &credential)),
        "damaged-record"
    );
}

#[test]
fn the_newest_eight_approvals_are_kept() {
    let host = Chip::new();
    let credential = random();
    let (mut record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    for step in 0..9_u8 {
        let next = BTreeMap::from([(7, [0; 32]), (16, [step; 32])]);
        record = host
            .sealer()
            .approve(&record, &credential, &PcrState::Values(next))
            .unwrap();
    }
    // The state with PCR 16 at zero was approved anew by the first step and is the oldest now.
    assert_eq!(failure(unseal(&host, &record, &credential)), "pcr-changed");
}

#[test]
fn no_pcrs_means_any_state() {
    let host = Chip::new();
    let config = SealerConfig {
        pcrs: Vec::new(),
        ..host.config()
    };
    let credential = random();
    let mut sealer = open(&config).unwrap();
    let (record, kek) = sealer.enroll(Profile::Machine, &credential).unwrap();
    assert!(
        sealer
            .status()
            .unwrap()
            .warnings
            .iter()
            .any(|text| text.contains("No PCR"))
    );
    host.tpm.extend_pcr(7, 0x11).unwrap();
    assert_eq!(
        unseal(&host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
}

#[test]
fn many_pcrs_are_read_in_several_steps() {
    let host = Chip::new();
    let config = SealerConfig {
        pcrs: (0..24).rev().collect(),
        ..host.config()
    };
    let credential = random();
    let (record, kek) = open(&config)
        .unwrap()
        .enroll(Profile::Machine, &credential)
        .unwrap();
    assert_eq!(
        unseal(&host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
    host.tpm.extend_pcr(23, 0x11).unwrap();
    let error = unseal(&host, &record, &credential).unwrap_err();
    assert!(
        matches!(&error, SealError::PcrChanged { moved } if moved.len() == 1),
        "{error}"
    );
}

#[test]
fn a_bank_of_zeros_is_not_called_measured() {
    let host = Chip::new();
    let status = host.sealer().status().unwrap();
    assert_eq!(status.measured, Some(false));
    assert!(
        status
            .warnings
            .iter()
            .any(|text| text.contains("measured nothing"))
    );
    assert_eq!(
        status.pcrs.iter().map(|pcr| pcr.index).collect::<Vec<_>>(),
        [7, 16]
    );
    host.tpm.extend_pcr(0, 0x11).unwrap();
    let status = host.sealer().status().unwrap();
    assert_eq!(status.measured, Some(true));
    assert!(
        !status
            .warnings
            .iter()
            .any(|text| text.contains("measured nothing"))
    );
}

fn extended(value: [u8; 32], byte: u8) -> [u8; 32] {
    sha256(&[&value, &[byte; 32]])
}
