use super::*;
use crate::audit::{Actor, Failure, LOCAL_SOURCE};

const DAY: i64 = 86_400_000;

fn november() -> Month {
    Month::parse("2026-11").unwrap()
}

fn api(operation: &str, key: &str, day: f64) -> Record {
    let time = november().begin() + (day * DAY as f64) as i64;
    let mut record = Record::service("e".into(), time, KMS_SOURCE, operation);
    record.kind = Kind::Api;
    record.caller = Some(
        Actor {
            arn: "alice".into(),
            ..Actor::default()
        }
        .into(),
    );
    if key.is_empty() {
        record
    } else {
        record.key(key)
    }
}

fn service(event: &str, key: &str, day: f64) -> Record {
    let mut record = api(event, key, day);
    record.kind = Kind::Service;
    record.caller = None;
    record
}

fn report(records: &[Record], days: f64) -> Report {
    let mut usage = Usage::new(november(), november().begin() + (days * DAY as f64) as i64);
    records.iter().for_each(|record| usage.add(record));
    usage.report()
}

fn amount(report: &Report, what: &str) -> f64 {
    let items = &report.estimate.items;
    let item = items.iter().find(|item| item.what == what);
    item.map_or(0.0, |item| item.amount)
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-9, "{a} and {b}");
}

#[test]
fn months_are_those_of_the_calendar() {
    let month = |text: &str| Month::parse(text).unwrap();
    let length = |text: &str| (month(text).end() - month(text).begin()) / DAY;
    assert_eq!(length("2024-02"), 29);
    assert_eq!(length("2100-02"), 28);
    assert_eq!(length("2026-12"), 31);
    assert_eq!(month("1970-01").begin(), 0);
    assert_eq!(month("2000-03").begin(), 951_868_800_000);
    let mut at = month("1970-01");
    for _ in 0..12 * 200 {
        let next = Month::of(at.end());
        assert_eq!(next.begin(), at.end());
        assert_eq!(Month::of(next.begin() - 1), at);
        assert_eq!(Month::parse(&at.to_string()), Some(at));
        at = next;
    }
    for wrong in [
        "2026", "2026-13", "2026-00", "26-11", "2026-1", "2026-+1", "+026-01", "",
    ] {
        assert_eq!(Month::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn calls_are_counted_by_key_principal_and_operation_within_the_month() {
    let mut denied = api("Decrypt", "k1", 2.0);
    denied.error = Some(Failure {
        code: "AccessDeniedException".into(),
        message: None,
    });
    let mut local = api("GetPolicy", "", 3.0);
    local.source = LOCAL_SOURCE.into();
    let records = [
        api("Decrypt", "k1", -1.0),
        api("Decrypt", "k1", 0.0),
        api("Decrypt", "k1", 1.0),
        denied,
        api("Encrypt", "k2", 3.0),
        local,
        api("Decrypt", "k1", 30.0),
    ];
    let report = report(&records, 30.0);
    let rows: Vec<_> = report
        .rows
        .iter()
        .map(|row| {
            (
                row.key.as_deref(),
                row.operation.as_str(),
                row.calls.succeeded,
                row.calls.denied,
            )
        })
        .collect();
    let expected = [
        (None, "GetPolicy", 1, 0),
        (Some("k1"), "Decrypt", 2, 1),
        (Some("k2"), "Encrypt", 1, 0),
    ];
    assert_eq!(rows, expected);
    assert_eq!(report.records, 7);
    assert_eq!(report.last_used["k1"], november().end());
    let requests = report
        .estimate
        .items
        .iter()
        .find(|item| item.what == "requests");
    assert_eq!(
        requests.unwrap().quantity,
        4.0,
        "AWS has no GetPolicy of ours"
    );
}

#[test]
fn keys_cost_for_the_time_they_are_there() {
    let records = [
        api("CreateKey", "old", -400.0),
        api("CreateKey", "new", 15.0),
        api("CreateKey", "doomed", -10.0),
        api("ScheduleKeyDeletion", "doomed", 3.0),
        api("CancelKeyDeletion", "doomed", 27.0),
        api("CreateKey", "gone", -10.0),
        api("ScheduleKeyDeletion", "gone", -8.0),
        service("DeleteKey", "gone", -1.0),
    ];
    let whole = report(&records, 99.0);
    // 30 + 15 + 3 + 3 days of 30.
    close(amount(&whole, "keys"), 51.0 / 30.0);
    close(whole.estimate.total, 51.0 / 30.0);
    // In the middle of the month only what has been.
    close(amount(&report(&records, 10.0), "keys"), 13.0 / 30.0);
}

#[test]
fn the_first_two_rotations_cost_and_no_more() {
    let rotated = |day| service("RotateKey", "k", day);
    let once = report(&[api("CreateKey", "k", 0.0), rotated(20.0)], 30.0);
    close(amount(&once, "keys"), 1.0);
    close(
        amount(&once, "first and second rotations of keys"),
        10.0 / 30.0,
    );
    let often = [
        api("CreateKey", "k", -9.0),
        rotated(-8.0),
        rotated(-7.0),
        rotated(-6.0),
        rotated(5.0),
    ];
    let often = report(&often, 30.0);
    close(amount(&often, "keys"), 1.0);
    close(amount(&often, "first and second rotations of keys"), 2.0);
}

#[test]
fn requests_beyond_the_free_ones_cost_by_ten_thousand() {
    let mut usage = Usage::new(november(), november().begin());
    let record = api("Decrypt", "", 1.0);
    for _ in 0..30_000 {
        usage.add(&record);
    }
    for _ in 0..10_000 {
        usage.add(&api("Sign", "", 1.0));
    }
    // There is no such operation here.
    let mut refused = api("Sign", "", 1.0);
    refused.error = Some(Failure {
        code: "UnknownOperationException".to_owned(),
        message: None,
    });
    for _ in 0..10_000 {
        usage.add(&refused);
    }
    let report = usage.report();
    close(amount(&report, "requests"), 0.03);
    close(amount(&report, "requests with asymmetric keys"), 0.15);
    close(report.estimate.total, 0.18);
}
