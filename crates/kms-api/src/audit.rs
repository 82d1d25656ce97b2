//! kmsd's operations on its audit log.

use serde::{Deserialize, Serialize};

use crate::members::Text;
use crate::request::requests;
use crate::response::responses;

requests! {
    /// Asks how the audit log stands.
    #[derive(Default, Copy)]
    GetAuditHeadRequest {}

    /// Makes a checkpoint of the audit log now.
    #[derive(Default, Copy)]
    CreateCheckpointRequest {}

    /// Searches the audit log. Every member that is given must hold.
    #[derive(Default)]
    LookupEventsRequest {
        /// The event's id.
        event_id: Option<String> = "EventId" opt_text(Text::len(1, 64));
        /// A key: its id, its ARN or what the request named it by.
        key_id: Option<String> = "KeyId" opt_text(Text::len(1, 2048));
        /// The principal's ARN or the user's name.
        principal: Option<String> = "Principal" opt_text(Text::len(1, 2048));
        /// Name of the operation or event.
        operation: Option<String> = "Operation" opt_text(Text::len(1, 128));
        /// `ok`, `error` (any), `denied` or an error code.
        outcome: Option<String> = "Outcome" opt_text(Text::len(1, 128));
        /// Not before this, seconds since 1970-01-01 UTC.
        start_time: Option<u32> = "StartTime" opt_int(0, u32::MAX);
        /// Before this, seconds since 1970-01-01 UTC.
        end_time: Option<u32> = "EndTime" opt_int(0, u32::MAX);
        /// A volume: its id.
        volume_id: Option<String> = "VolumeId" opt_text(Text::len(1, 64));
        /// A file of a volume: its inode number.
        inode: Option<u64> = "Inode" opt_long();
        /// Oldest first; otherwise newest first.
        oldest_first: bool = "OldestFirst" flag();
        /// Most events of a page, 1 to 1000; 50 when absent. A page may have fewer, and none, and not be the last.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
        /// From the page before.
        marker: Option<String> = "Marker" opt_text(Text::len(1, 64));
    }

    /// Waits for events.
    #[derive(Default)]
    WaitForEventsRequest {
        /// `NextMarker` of the answer before: events after it are wanted. Without it nothing is waited for: the answer says from
        /// where to listen.
        marker: Option<String> = "Marker" opt_text(Text::len(1, 20));
        /// Longest wait in milliseconds, 0 to 60000; 20000 when absent.
        timeout_ms: Option<u32> = "TimeoutMs" opt_int(0, 60_000);
        /// Most events of an answer, 1 to 1000; 100 when absent.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
    }
}

responses! {
    /// An event.
    NotifiedEvent {
        /// Number of its record in the audit log.
        sequence: u64,
        /// The event in the shape of Amazon EventBridge.
        event: serde_json::Value,
    }

    /// Events, oldest first; none when the wait was over.
    WaitForEventsResponse {
        /// The events.
        events: Vec<NotifiedEvent>,
        /// Where to go on.
        next_marker: String,
        /// There may have been more after `Marker`, before these, which are no longer kept: they are in the audit log.
        missed: bool,
    }

    /// How the audit log stands.
    GetAuditHeadResponse {
        /// Number of records on disk.
        size: u64,
        /// Chain value of the last one, 64 hexadecimal digits.
        chain: String,
        /// Root of the Merkle tree over them, 64 hexadecimal digits.
        root: String,
        /// Records that wait for the disk.
        pending: u64,
        /// `good`, `full`, or why the log cannot be written.
        health: String,
        /// Requests that were answered without a record since the start, because it could not be written.
        lost: u64,
        /// Requests that were refused since the start, because they could not be recorded.
        refused: u64,
        /// Directory of the log.
        directory: String,
    }

    /// The newest checkpoint, which covers everything that was recorded before the request.
    CreateCheckpointResponse {
        /// Its number.
        number: u64,
        /// Number of records that it covers.
        size: u64,
        /// When it was made, by the host's clock, milliseconds since 1970-01-01 UTC.
        time: i64,
        /// The witnesses that are to cosign checkpoints; they do so after the answer.
        witnesses: Vec<WitnessInfo>,
    }

    /// How a witness stands.
    WitnessInfo {
        /// Name of its key.
        name: String,
        /// Number of records that it has cosigned.
        size: u64,
        /// When it cosigned last, by its clock, seconds since 1970-01-01 UTC; 0: never.
        time: u64,
        /// Why its last attempt failed.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        error: Option<String>,
    }

    /// An event of the log.
    AuditEvent {
        /// The record's number.
        sequence: u64,
        /// Its line in the log, without the newline: what hashes and proofs are over.
        line: String,
    }

    /// A page of events.
    LookupEventsResponse {
        /// The events.
        events: Vec<AuditEvent>,
        /// For the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there may be more.
        truncated: bool,
    }
}
