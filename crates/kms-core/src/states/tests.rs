//! The whole table as data: every action in every state, for both origins.

use super::*;

const ARN: &str = "arn:aws:kms:local-host-1:000000000000:key/k";

const STATES: [State; 7] = [
    State::Enabled,
    State::Disabled,
    State::PendingDeletion,
    State::PendingImport,
    State::Unavailable,
    State::Creating,
    State::Updating,
];

/// Footnotes of the Developer Guide's table (0 = allowed).
fn text(note: u8) -> Option<String> {
    let (code, what) = match note {
        0 => return None,
        1 => ("DisabledException", "is disabled."),
        3 => ("KMSInvalidStateException", "is pending deletion."),
        4 => (
            "KMSInvalidStateException",
            "is not pending deletion (or pending replica deletion).",
        ),
        5 => ("KMSInvalidStateException", "is pending import."),
        6 => (
            "UnsupportedOperationException",
            "origin is EXTERNAL which is not valid for this operation.",
        ),
        7 => return Some("UnsupportedOperationException".into()),
        11 => ("KMSInvalidStateException", "is unavailable."),
        14 => ("KMSInvalidStateException", "is creating."),
        15 => ("KMSInvalidStateException", "is updating."),
        9 => (
            "UnsupportedOperationException",
            "origin is AWS_KMS which is not valid for this operation.",
        ),
        _ => unreachable!("no such footnote"),
    };
    Some(format!("{code}: {ARN} {what}"))
}

/// Columns as in [`STATES`].
#[rustfmt::skip]
const AWS_KMS: [(Action, [u8; 7]); 14] = [
    //                         Enab Dis PDel PImp Unav Crea Upd
    (Action::CancelDeletion,   [ 4,  4,  0,   4,   4,   4,   4]),
    (Action::Name,             [ 0,  0,  3,   0,   0,   0,   0]),
    (Action::Cryptographic,    [ 0,  1,  3,   5,  11,  14,   0]),
    (Action::Grant,            [ 0,  1,  3,   5,   0,  14,   0]),
    (Action::Describe,         [ 0,  0,  0,   0,   0,   0,   0]),
    (Action::Switch,           [ 0,  0,  3,   5,   0,  14,  15]),
    (Action::ScheduleRotation, [ 0,  1,  3,   5,   7,  14,   0]),
    (Action::RotationStatus,   [ 0,  0,  0,   0,   7,   0,   0]),
    (Action::Rotate,           [ 0,  1,  3,   5,   7,  14,  15]),
    (Action::ListRotations,    [ 0,  0,  0,   0,   7,   0,   0]),
    (Action::ScheduleDeletion, [ 0,  0,  3,   0,   0,   0,  15]),
    (Action::ImportParameters, [ 9,  9,  9,   9,   9,   9,   9]),
    (Action::Import,           [ 9,  9,  9,   9,   9,   9,   9]),
    (Action::DeleteMaterial,   [ 9,  9,  9,   9,   9,   9,   9]),
];

#[rustfmt::skip]
const EXTERNAL: [(Action, [u8; 7]); 14] = [
    (Action::CancelDeletion,   [ 4,  4,  0,   4,   4,   4,   4]),
    (Action::Name,             [ 0,  0,  3,   0,   0,   0,   0]),
    (Action::Cryptographic,    [ 0,  1,  3,   5,  11,  14,   0]),
    (Action::Grant,            [ 0,  1,  3,   5,   0,  14,   0]),
    (Action::Describe,         [ 0,  0,  0,   0,   0,   0,   0]),
    (Action::Switch,           [ 0,  0,  3,   5,   0,  14,  15]),
    (Action::ScheduleRotation, [ 6,  6,  6,   6,   6,   6,   6]),
    (Action::RotationStatus,   [ 6,  6,  6,   6,   6,   6,   6]),
    (Action::Rotate,           [ 0,  1,  3,   5,   7,  14,  15]),
    (Action::ListRotations,    [ 0,  0,  0,   0,   7,   0,   0]),
    (Action::ScheduleDeletion, [ 0,  0,  3,   0,   0,   0,  15]),
    (Action::ImportParameters, [ 0,  0,  3,   0,   7,  14,  15]),
    (Action::Import,           [ 0,  0,  3,   0,   7,  14,   0]),
    (Action::DeleteMaterial,   [ 0,  0,  0,   0,   7,  14,  15]),
];

#[test]
fn every_action_in_every_state_answers_as_the_table_says() {
    for (origin, table) in [(Origin::AwsKms, AWS_KMS), (Origin::External, EXTERNAL)] {
        for (action, notes) in table {
            for (state, note) in STATES.into_iter().zip(notes) {
                let found = check(action, state, origin, ARN)
                    .err()
                    .map(|e| e.to_string());
                assert_eq!(
                    found,
                    text(note),
                    "{action:?} in {state:?}, origin {origin:?}"
                );
            }
        }
    }
}

#[test]
fn a_tombstone_is_not_found_by_anything() {
    for (action, _) in AWS_KMS {
        let error = check(action, State::Destroyed, Origin::AwsKms, ARN).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("NotFoundException: Key '{ARN}' does not exist")
        );
    }
}
