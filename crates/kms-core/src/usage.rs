//! What was called how often, from the audit log, and what it would have cost at AWS.

mod price;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use kms_api::civil::{Civil, days_since_1970};
use serde::Serialize;

use crate::audit::{KMS_SOURCE, Kind, Record};
use crate::last_use::use_of;

pub use price::{Estimate, Item, PRICES_DATE, PRICES_SOURCE};

/// A calendar month in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month {
    year: i64,
    month: i64,
}

impl Month {
    /// Reads `2026-11`.
    pub fn parse(text: &str) -> Option<Self> {
        let (year, month) = text.split_once('-')?;
        if year.len() != 4 || month.len() != 2 {
            return None;
        }
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let (year, month) = (
            digits(year).then(|| year.parse().ok())?,
            digits(month).then(|| month.parse().ok())?,
        );
        let (year, month) = (year?, month?);
        (1970..=9999).contains(&year).then_some(())?;
        (1..=12).contains(&month).then_some(Self { year, month })
    }

    /// The month of a time in milliseconds since 1970.
    pub fn of(ms: i64) -> Self {
        let Civil { year, month, .. } = Civil::from_millis(ms);
        Self { year, month }
    }

    /// Its first moment, milliseconds since 1970.
    pub fn begin(self) -> i64 {
        days_since_1970(self.year, self.month, 1) * 86_400_000
    }

    /// The first moment after it.
    pub fn end(self) -> i64 {
        match self.month {
            12 => days_since_1970(self.year + 1, 1, 1) * 86_400_000,
            month => days_since_1970(self.year, month + 1, 1) * 86_400_000,
        }
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

/// How often something was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Calls {
    /// Requests that succeeded.
    pub succeeded: u64,
    /// Requests that were denied.
    pub denied: u64,
    /// Requests that failed otherwise.
    pub failed: u64,
}

impl Calls {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.succeeded + self.denied + self.failed
    }

    fn add(&mut self, record: &Record) {
        match record.error.as_ref().map(|error| error.code.as_str()) {
            None => self.succeeded += 1,
            Some("AccessDeniedException") => self.denied += 1,
            Some(_) => self.failed += 1,
        }
    }
}

/// Calls of one operation by one principal, on one key where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Row {
    /// Key ARN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Principal ARN.
    pub principal: String,
    /// Name of the operation.
    pub operation: String,
    /// How often.
    #[serde(flatten)]
    pub calls: Calls,
}

/// What is reported.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    /// For example `2026-11`.
    pub month: String,
    /// Records of the log that were looked at.
    pub records: u64,
    /// In the order of keys, principals, operations.
    pub rows: Vec<Row>,
    /// By key ARN, milliseconds since 1970: when a key was last used with success, whenever that was.
    pub last_used: BTreeMap<String, i64>,
    /// What AWS would have charged for the same.
    pub estimate: Estimate,
}

/// Adds up records, which come in the order of the log, from its beginning.
#[derive(Debug)]
pub struct Usage {
    month: Month,
    /// Nothing is charged for what has not been yet.
    until: i64,
    records: u64,
    calls: BTreeMap<(Option<String>, String, String), Calls>,
    last_used: BTreeMap<String, i64>,
    keys: BTreeMap<String, Life>,
    requests: price::Requests,
}

/// What is known of a key's life, for its price.
#[derive(Debug)]
struct Life {
    /// Since when it has been paid for; none while it waits for its deletion or is gone.
    since: Option<i64>,
    /// Milliseconds within the month until `since`, for each of the key and its first two rotations.
    paid: [i64; 3],
    rotations: usize,
}

impl Usage {
    /// Reports on `month`; `now` in milliseconds since 1970 ends what is charged for a month that is not over.
    pub fn new(month: Month, now: i64) -> Self {
        Self {
            month,
            until: now.clamp(month.begin(), month.end()),
            records: 0,
            calls: BTreeMap::new(),
            last_used: BTreeMap::new(),
            keys: BTreeMap::new(),
            requests: price::Requests::default(),
        }
    }

    /// Adds a record.
    pub fn add(&mut self, record: &Record) {
        self.records += 1;
        self.follow(record);
        if record.kind != Kind::Api {
            return;
        }
        let key = record.keys.first();
        if record.error.is_none() {
            for (place, key) in record.keys.iter().enumerate() {
                if use_of(&record.operation, place).is_some() {
                    self.last_used.insert(key.clone(), record.time);
                }
            }
        }
        if !(self.month.begin()..self.month.end()).contains(&record.time) {
            return;
        }
        let principal = record.caller.as_ref().map_or("-", |caller| &caller.arn);
        let place = (key.cloned(), principal.to_owned(), record.operation.clone());
        self.calls.entry(place).or_default().add(record);
        if record.source == KMS_SOURCE {
            self.requests.add(record);
        }
    }

    /// Follows what a key's price depends on.
    fn follow(&mut self, record: &Record) {
        if record.source != KMS_SOURCE || record.error.is_some() {
            return;
        }
        let Some(arn) = record.keys.first() else {
            return;
        };
        let (begin, until) = (self.month.begin(), self.until);
        let life = self.keys.entry(arn.clone()).or_insert_with(|| Life {
            // The log may not go back to its making: then it counts from the beginning of the log.
            since: Some(record.time),
            paid: [0; 3],
            rotations: 0,
        });
        match (record.kind, record.operation.as_str()) {
            (Kind::Api, "ScheduleKeyDeletion") | (Kind::Service, "DeleteKey") => {
                life.pay(record.time, begin, until);
                life.since = None;
            }
            (Kind::Api, "CancelKeyDeletion") => life.since = Some(record.time),
            (Kind::Service, "RotateKey") => {
                life.pay(record.time, begin, until);
                life.since = life.since.map(|_| record.time);
                life.rotations += 1;
            }
            _ => {}
        }
    }

    /// The report.
    pub fn report(mut self) -> Report {
        let (begin, end) = (self.month.begin(), self.month.end());
        for life in self.keys.values_mut() {
            life.pay(self.until, begin, self.until);
            life.since = None;
        }
        let paid = self.keys.values().fold([0; 3], |mut sum, life| {
            sum.iter_mut().zip(life.paid).for_each(|(to, ms)| *to += ms);
            sum
        });
        Report {
            month: self.month.to_string(),
            records: self.records,
            rows: self
                .calls
                .into_iter()
                .map(|((key, principal, operation), calls)| Row {
                    key,
                    principal,
                    operation,
                    calls,
                })
                .collect(),
            last_used: self.last_used,
            estimate: Estimate::new(paid, end - begin, &self.requests),
        }
    }
}

impl Life {
    /// Adds the time from `since` to `now`, as far as it lies between the two others.
    fn pay(&mut self, now: i64, begin: i64, until: i64) {
        let Some(since) = self.since else {
            return;
        };
        let time = (now.min(until) - since.max(begin)).max(0);
        let versions = 1 + self.rotations.min(2);
        self.paid
            .iter_mut()
            .take(versions)
            .for_each(|paid| *paid += time);
    }
}
