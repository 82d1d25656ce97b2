use super::*;

const DAY: i64 = 86_400_000;

fn key(byte: u8) -> KeyId {
    KeyId::from_random([byte; 16], false)
}

fn used(operation: &'static str, time_ms: i64) -> Used {
    Used {
        operation,
        time_ms,
        event_id: [1; 16],
        request_id: [2; 16],
    }
}

#[test]
fn nothing_is_said_before_the_log_was_read() {
    let uses = LastUse::default();
    assert_eq!(uses.days_without(key(1), 0, 10 * DAY), None);
    // A use since the start is the last one whatever the log says.
    uses.note(key(1), used("Encrypt", 9 * DAY));
    assert_eq!(uses.days_without(key(1), 0, 10 * DAY), Some(1));
    uses.found(key(1), used("Decrypt", 3 * DAY));
    assert_eq!(uses.of(key(1)), Some(used("Encrypt", 9 * DAY)));
    uses.found(key(2), used("Decrypt", 3 * DAY));
    uses.found(key(2), used("Encrypt", 2 * DAY));
    assert_eq!(uses.days_without(key(2), 0, 10 * DAY), Some(7));
    assert_eq!(uses.days_without(key(3), 0, 10 * DAY), None);
}

#[test]
fn a_key_that_was_never_used_counts_from_when_that_is_known() {
    let uses = LastUse::default();
    assert_eq!(uses.tracked_since(0, 10 * DAY), 10 * DAY);
    uses.reaches_back_to(8 * DAY);
    uses.reaches_back_to(4 * DAY);
    uses.reaches_back_to(6 * DAY);
    uses.complete();
    // Made before and after the beginning of the log.
    assert_eq!(uses.days_without(key(1), 0, 10 * DAY), Some(6));
    assert_eq!(uses.days_without(key(1), 7 * DAY, 10 * DAY), Some(3));
    assert_eq!(uses.tracked_since(0, 10 * DAY), 4 * DAY);
    assert_eq!(uses.tracked_since(7 * DAY, 10 * DAY), 7 * DAY);
}

#[test]
fn days_are_whole_and_not_negative() {
    let uses = LastUse::default();
    uses.note(key(1), used("Encrypt", DAY));
    for (now, days) in [(2 * DAY - 1, 0), (2 * DAY, 1), (3 * DAY - 1, 1), (0, 0)] {
        assert_eq!(uses.days_without(key(1), 0, now), Some(days), "{now}");
    }
}
