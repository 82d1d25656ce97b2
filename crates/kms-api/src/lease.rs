//! Leases of services on authorisation answers: the operations, and the headers that go with others.

use serde::{Deserialize, Serialize};

use crate::enums::wire_enum;
use crate::id::ResourceId;
use crate::members::Text;
use crate::request::requests;
use crate::response::responses;
use crate::timestamp::Timestamp;

/// Request header: the lease under which the service wants to keep the answer.
pub const LEASE_HEADER: &str = "x-kmsd-lease";
/// Response header: a [`Reliance`] as JSON.
pub const RELIANCE_HEADER: &str = "x-kmsd-reliance";
/// Response header: a [`LeaseReport`] as JSON.
pub const LEASES_HEADER: &str = "x-kmsd-leases";

wire_enum! {
    /// Which answers the epochs since a given one concern.
    Changed { None = "NONE", Keys = "KEYS", All = "ALL", }
}

requests! {
    /// Takes a lease. Services only.
    #[derive(Default)]
    AcquireLeaseRequest {
        /// Names the holder to people, for example a mount point; up to 256 characters.
        label: Option<String> = "Label" opt_text(Text::len(0, 256));
        /// Length in milliseconds, 1000 to 60000; the configured one by default.
        duration_ms: Option<u32> = "DurationMs" opt_int(1_000, 60_000);
    }

    /// Waits until the authorisation epoch is beyond `Epoch`, which the holder says to have applied.
    WaitForEpochRequest {
        /// The lease.
        lease_id: ResourceId = "LeaseId" id();
        /// The newest epoch that the holder has applied.
        epoch: u64 = "Epoch" long();
        /// Longest wait in milliseconds; at most a third of the lease, which is also the default.
        timeout_ms: Option<u32> = "TimeoutMs" opt_int(0, 60_000);
    }

    /// Says that an epoch is applied, without waiting for the next.
    AcknowledgeEpochRequest {
        /// The lease.
        lease_id: ResourceId = "LeaseId" id();
        /// The newest epoch that the holder has applied.
        epoch: u64 = "Epoch" long();
    }

    /// Gives a lease back: its holder relies on no answer any more.
    ReleaseLeaseRequest {
        /// The lease.
        lease_id: ResourceId = "LeaseId" id();
    }

    /// Lists the leases.
    #[derive(Default, Copy)]
    ListLeasesRequest {}
}

impl crate::request::Absent for u64 {}

responses! {
    /// The new lease.
    AcquireLeaseResponse {
        /// Its identifier.
        lease_id: ResourceId,
        /// Its length in milliseconds.
        duration_ms: u64,
        /// The authorisation epoch that it starts at.
        epoch: u64,
    }

    /// What has changed.
    WaitForEpochResponse {
        /// The newest epoch. May be older than the one asked about, after an older store was accepted.
        epoch: u64,
        /// Which answers the changes since `Epoch` of the request concern.
        changed: Changed,
        /// The keys, when `Changed` is `KEYS`.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        key_arns: Vec<String>,
        /// What is left of the lease in milliseconds, counted from the moment at which the request was
        /// sent. Less than its length until kmsd knows that the newest epoch is applied.
        remaining_ms: u64,
    }

    /// The acknowledgement is noted.
    AcknowledgeEpochResponse {
        /// The newest epoch.
        epoch: u64,
        /// What is left of the lease in milliseconds, counted from the moment at which the request was
        /// sent.
        remaining_ms: u64,
    }

    /// One lease of a list.
    LeaseListEntry {
        /// Its identifier.
        lease_id: ResourceId,
        /// Principal of the service.
        holder: String,
        /// Its user id.
        uid: u32,
        /// What the holder said that it is for.
        label: String,
        /// When it was taken.
        creation_date: Timestamp,
        /// Its length in milliseconds.
        duration_ms: u64,
        /// Milliseconds that are left of it; absent when it has run out.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        remaining_ms: Option<u64>,
        /// The newest epoch that its holder has applied; 0 when that is not known.
        applied_epoch: u64,
    }

    /// The leases.
    ListLeasesResponse {
        /// The authorisation epoch.
        epoch: u64,
        /// The leases.
        leases: Vec<LeaseListEntry>,
    }

    /// What a call that took something away had to wait for (`X-Kmsd-Leases`).
    #[derive(Default)]
    LeaseReport {
        /// The authorisation epoch that had to be heard of.
        epoch: u64,
        /// Number of services that have applied it.
        acknowledged: u64,
        /// Number of services that did not and whose lease has run out: what they keep is void.
        #[serde(default)]
        ran_out: u64,
        /// Labels of the first of these.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        labels: Vec<String>,
    }

    /// How long a service may rely on an answer (`X-Kmsd-Reliance`).
    #[derive(Copy, Default, Eq)]
    Reliance {
        /// The epoch that the answer is from. It is void as soon as the holder has applied a later one
        /// that concerns it.
        epoch: u64,
        /// Milliseconds, counted from the moment at which the request was sent; 0: not at all.
        milliseconds: u64,
    }
}

impl LeaseReport {
    /// The value of the header: JSON in ASCII.
    pub fn to_header(&self) -> String {
        ascii_json(self)
    }

    /// Reads the header.
    pub fn from_header(value: &str) -> Option<Self> {
        serde_json::from_str(value).ok()
    }
}

impl Reliance {
    /// The value of the header: JSON in ASCII.
    pub fn to_header(&self) -> String {
        ascii_json(self)
    }

    /// Reads the header.
    pub fn from_header(value: &str) -> Option<Self> {
        serde_json::from_str(value).ok()
    }
}

/// JSON whose texts spell everything outside printable ASCII as `\uXXXX`.
fn ascii_json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    let mut text = String::with_capacity(json.len());
    for unit in json.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if (b' '..=b'~').contains(&byte) => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\u{unit:04x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_ascii_and_come_back() {
        let report = LeaseReport {
            epoch: 7,
            acknowledged: 2,
            ran_out: 1,
            labels: vec!["kmsfs /srv/m\u{fc}ller \u{1f512}\n\u{7f}".into()],
        };
        let header = report.to_header();
        assert!(
            header.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{header}"
        );
        assert_eq!(LeaseReport::from_header(&header), Some(report));
        let reliance = Reliance {
            epoch: 1,
            milliseconds: 9_000,
        };
        assert_eq!(reliance.to_header(), r#"{"Epoch":1,"Milliseconds":9000}"#);
        assert_eq!(Reliance::from_header(&reliance.to_header()), Some(reliance));
        assert_eq!(Reliance::from_header("soon"), None);
    }
}
