//! AWS's published prices, US East. An estimate: what is free of charge, discounts and taxes are not all known here.

use serde::Serialize;

use crate::audit::Record;

/// Where the prices are published.
pub const PRICES_SOURCE: &str = "https://aws.amazon.com/kms/pricing/";
/// When they were read, year and month.
pub const PRICES_DATE: &str = "2026-11";

/// US dollars for a key and month, and for each of its first two rotations.
const KEY_MONTH: f64 = 1.0;
/// Requests a month that cost nothing; those about asymmetric keys do not count among them.
const FREE: u64 = 20_000;
/// US dollars for 10,000 requests.
const SYMMETRIC: f64 = 0.03;
/// The same for keys that are asymmetric and not RSA of 2048 bits, which cost as symmetric ones.
const ASYMMETRIC: f64 = 0.15;
/// The same for pairs of data keys on elliptic curves.
const ECC_PAIR: f64 = 0.10;
/// The same for pairs of RSA data keys.
const RSA_PAIR: f64 = 12.0;

/// Requests by what they cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Requests {
    symmetric: u64,
    asymmetric: u64,
    ecc_pairs: u64,
    rsa_pairs: u64,
}

impl Requests {
    /// Counts a request by its operation and what it says of its algorithm.
    ///
    /// What kmsd has no operation for costs nothing: nothing was done.
    pub(super) fn add(&mut self, record: &Record) {
        let unknown = ["UnknownOperationException", "UnsupportedOperationException"];
        let code = record.error.as_ref().map(|error| error.code.as_str());
        if code.is_some_and(|code| unknown.contains(&code)) {
            return;
        }
        let text = |name: &str| {
            record
                .parameters
                .get(name)
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
        };
        let counter = match record.operation.as_str() {
            "GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext" => {
                if text("keyPairSpec").starts_with("RSA") {
                    &mut self.rsa_pairs
                } else {
                    &mut self.ecc_pairs
                }
            }
            "Sign" | "Verify" | "DeriveSharedSecret" | "GetPublicKey" | "Encapsulate"
            | "Decapsulate" => &mut self.asymmetric,
            "Encrypt" | "Decrypt" if text("encryptionAlgorithm").starts_with("RSAES") => {
                &mut self.asymmetric
            }
            _ => &mut self.symmetric,
        };
        *counter += 1;
    }
}

/// One line of the estimate.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Item {
    /// What is charged for.
    pub what: &'static str,
    /// Key months, or requests.
    pub quantity: f64,
    /// Of these, not charged for.
    pub free: f64,
    /// US dollars for `per` of them.
    pub price: f64,
    /// See there.
    pub per: f64,
    /// US dollars.
    pub amount: f64,
}

/// What AWS would have charged.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Estimate {
    /// Line by line; those of which there is nothing are left out.
    pub items: Vec<Item>,
    /// US dollars.
    pub total: f64,
    /// Where the prices are from.
    pub source: &'static str,
    /// When they were read.
    pub date: &'static str,
}

impl Estimate {
    /// `paid`: milliseconds that keys, first and second rotations existed in a month of so many milliseconds.
    pub(super) fn new(paid: [i64; 3], month: i64, requests: &Requests) -> Self {
        let months = |ms: i64| ms as f64 / month as f64;
        let [keys, first, second] = paid;
        let candidates = [
            ("keys", months(keys), 0.0, KEY_MONTH, 1.0),
            (
                "first and second rotations of keys",
                months(first + second),
                0.0,
                KEY_MONTH,
                1.0,
            ),
            (
                "requests",
                requests.symmetric as f64,
                FREE as f64,
                SYMMETRIC,
                10_000.0,
            ),
            (
                "requests with asymmetric keys",
                requests.asymmetric as f64,
                0.0,
                ASYMMETRIC,
                10_000.0,
            ),
            (
                "pairs of data keys on elliptic curves",
                requests.ecc_pairs as f64,
                0.0,
                ECC_PAIR,
                10_000.0,
            ),
            (
                "pairs of RSA data keys",
                requests.rsa_pairs as f64,
                0.0,
                RSA_PAIR,
                10_000.0,
            ),
        ];
        let items: Vec<Item> = candidates
            .into_iter()
            .filter(|(_, quantity, ..)| *quantity > 0.0)
            .map(|(what, quantity, free, price, per)| Item {
                what,
                quantity,
                free: quantity.min(free),
                price,
                per,
                amount: (quantity - free).max(0.0) * price / per,
            })
            .collect();
        Self {
            total: items.iter().map(|item| item.amount).sum(),
            items,
            source: PRICES_SOURCE,
            date: PRICES_DATE,
        }
    }
}
