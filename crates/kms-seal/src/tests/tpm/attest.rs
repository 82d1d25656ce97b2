//! What a chip attests holds, says what it should, and cannot be had again.

use kms_core::audit::attest::{AttestError, Attestation, Signed, TpmKeys};

use crate::{
    Checkpointer, Enrollment, Profile, Quoted, TpmAttestation, TpmLogKeys,
    tests::{Chip, Host, failure, random},
};

fn desk(host: &Chip) -> (Box<dyn Checkpointer>, Enrollment) {
    let mut sealer = host.sealer();
    let (record, _) = sealer.enroll(Profile::Machine, &random()).unwrap();
    let record = sealer.prepare_checkpoints(&record).unwrap();
    (sealer.checkpointer(&record).unwrap(), record)
}

fn keys(desk: &dyn Checkpointer) -> TpmKeys {
    let TpmLogKeys {
        attestation_key,
        endorsement_name,
        counter,
        certifies,
    } = desk.keys().tpm.clone().unwrap();
    TpmKeys {
        attestation_key,
        endorsement_name,
        counter,
        certifies,
    }
}

fn attest(desk: &mut dyn Checkpointer, qualifying: &[u8; 32]) -> Attestation {
    let signed = |Quoted { attest, signature }| Signed { attest, signature };
    let TpmAttestation {
        quote,
        certification,
    } = desk.vouch(b"text", qualifying).unwrap().tpm.unwrap();
    Attestation {
        quote: signed(quote),
        certification: certification.map(signed),
    }
}

#[test]
fn an_attestation_verifies_and_says_what_the_counter_is() {
    let mut host = Chip::new();
    let (mut desk, _) = desk(&host);
    let keys = keys(desk.as_ref());
    keys.check().unwrap();
    assert!(keys.certifies, "swtpm has TPM2_NV_Certify");
    let counter = desk.counter().unwrap();
    let one = attest(desk.as_mut(), &[1; 32]);
    assert_eq!(Attestation::from_bytes(&one.to_bytes()), Ok(one.clone()));
    let first = keys.verify(&one, &[1; 32], counter).unwrap();
    let differs = |outcome| matches!(outcome, Err(AttestError::Differs(_)));
    assert!(differs(keys.verify(&one, &[2; 32], counter)));
    assert!(differs(keys.verify(&one, &[1; 32], counter + 1)));
    let quote_only = Attestation {
        certification: None,
        ..one
    };
    assert!(differs(keys.verify(&quote_only, &[1; 32], counter)));

    // The value that has passed is not to be had again.
    desk.advance().unwrap();
    let late = attest(desk.as_mut(), &[1; 32]);
    assert!(differs(keys.verify(&late, &[1; 32], counter)));
    let second = keys.verify(&late, &[1; 32], counter + 1).unwrap();
    assert_eq!(
        (second.resets, second.restarts),
        (first.resets, first.restarts)
    );
    assert!(second.clock >= first.clock);

    host.tpm.restart().unwrap();
    let third = keys.verify(&attest(desk.as_mut(), &[3; 32]), &[3; 32], counter + 1);
    assert_eq!(
        third.unwrap().resets,
        first.resets + 1,
        "the real count, not one that is obfuscated"
    );
}

#[test]
fn altered_attestations_are_refused() {
    let host = Chip::new();
    let (mut desk, _) = desk(&host);
    let keys = keys(desk.as_ref());
    let counter = desk.counter().unwrap();
    let bytes = attest(desk.as_mut(), &[1; 32]).to_bytes();
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 0x10;
        let outcome = Attestation::from_bytes(&altered)
            .and_then(|attestation| keys.verify(&attestation, &[1; 32], counter));
        assert!(outcome.is_err(), "byte {at}");
        assert!(Attestation::from_bytes(&bytes[..at]).is_err() || at * 2 > bytes.len() - 8);
    }
}

#[test]
fn keys_that_can_vouch_for_nothing_are_refused() {
    let host = Chip::new();
    let (desk, _) = desk(&host);
    let keys = keys(desk.as_ref());
    // TPMA_OBJECT at byte 4, big-endian: restricted is bit 16, fixedTPM bit 1.
    for (byte, bit) in [(5, 1), (7, 2)] {
        let mut other = keys.clone();
        other.attestation_key[byte] &= !bit;
        assert!(
            matches!(other.check(), Err(AttestError::Unfit(_))),
            "{byte}"
        );
    }
    // TPMA_NV at byte 6: the type in the lowest byte, WRITTEN and ORDERLY in the highest.
    for (byte, flip) in [(9, 0x10), (6, 0x20), (6, 0x04)] {
        let mut other = keys.clone();
        other.counter[byte] ^= flip;
        assert!(
            matches!(other.check(), Err(AttestError::Unfit(_))),
            "{byte}"
        );
    }
}

#[test]
fn a_cleared_chip_attests_no_more() {
    let host = Chip::new();
    let (mut desk, _) = desk(&host);
    host.tpm.clear().unwrap();
    assert_eq!(failure(desk.vouch(b"text", &[1; 32])), "tpm-failure");
    assert_eq!(failure(desk.counter()), "other-tpm");
}

#[test]
fn attesting_leaves_nothing_in_the_chip() {
    let host = Chip::new();
    let (mut desk, _) = desk(&host);
    // Three objects and three sessions fit.
    for _ in 0..8 {
        attest(desk.as_mut(), &[1; 32]);
    }
    for what in ["handles-transient", "handles-loaded-session"] {
        let output = host.tpm.tool("tpm2_getcap", &[what]).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "", "{what}");
    }
}
