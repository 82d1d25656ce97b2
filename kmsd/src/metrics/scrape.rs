//! Everything, when somebody asks.

use std::sync::atomic::Ordering;

use super::Metrics;
use super::text::{Kind, Text};
use crate::audit::{AuditStatus, CheckpointStatus, Health};
use crate::engine::Gauges;

/// The metrics of an engine as text.
pub(crate) fn scrape(metrics: &Metrics, gauges: &Gauges) -> String {
    let mut text = Text::default();
    about(&mut text, gauges);
    requests(&mut text, metrics);
    catalogue(&mut text, gauges);
    if let Some(status) = &gauges.audit {
        audit(&mut text, status);
        if let Some(checkpoints) = &gauges.checkpoints {
            self::checkpoints(&mut text, status, checkpoints);
        }
    }
    sealer(&mut text, metrics, gauges);
    failures(&mut text, metrics);
    process(&mut text);
    text.finish()
}

fn about(text: &mut Text, gauges: &Gauges) {
    text.family("kmsd_build_info", Kind::Gauge, "Version of kmsd, always 1.");
    let labels = [("version", env!("CARGO_PKG_VERSION"))];
    text.sample("kmsd_build_info", &labels, 1);
    text.single(
        "kmsd_start_time_seconds",
        Kind::Gauge,
        "When kmsd was started, by its own clock, Unix time.",
        seconds(gauges.started_ms),
    );
}

fn requests(text: &mut Text, metrics: &Metrics) {
    let counted: Vec<_> = metrics.requests.counted().collect();
    let name = "kmsd_requests_total";
    text.family(
        name,
        Kind::Counter,
        "Requests by operation and outcome (ok or the error code).",
    );
    for one in &counted {
        for (outcome, count) in &one.outcomes {
            let labels = [("operation", one.operation), ("outcome", outcome)];
            text.sample(name, &labels, count);
        }
    }
    let name = "kmsd_request_duration_seconds";
    text.family(
        name,
        Kind::Histogram,
        "From the head of a request to its answer, without sending it.",
    );
    for one in &counted {
        for (bound, count) in &one.buckets {
            let labels = [("operation", one.operation), ("le", &bound.to_string())];
            text.sample("kmsd_request_duration_seconds_bucket", &labels, count);
        }
        let labels = [("operation", one.operation), ("le", "+Inf")];
        text.sample("kmsd_request_duration_seconds_bucket", &labels, one.count);
        let labels = [("operation", one.operation)];
        text.sample("kmsd_request_duration_seconds_sum", &labels, one.seconds);
        text.sample("kmsd_request_duration_seconds_count", &labels, one.count);
    }
}

fn catalogue(text: &mut Text, gauges: &Gauges) {
    let counts = &gauges.counts;
    text.family("kmsd_keys", Kind::Gauge, "Keys by state.");
    for (state, count) in &counts.keys {
        text.sample("kmsd_keys", &[("state", state)], count);
    }
    if let Some(next) = counts.next_deletion_ms {
        let help = "When the next key is destroyed, Unix time; absent when none waits for it.";
        text.single(
            "kmsd_next_key_deletion_timestamp_seconds",
            Kind::Gauge,
            help,
            seconds(next),
        );
    }
    let rows = [
        ("kmsd_aliases", "Aliases.", counts.aliases),
        ("kmsd_volumes", "Volumes of kmsfs.", counts.volumes),
        (
            "kmsd_volume_policies",
            "Encrypted directory trees in the registry.",
            counts.policies,
        ),
        ("kmsd_grants", "Grants.", counts.grants),
        (
            "kmsd_identity_policies",
            "Identity policies in the catalogue.",
            counts.identity_policies,
        ),
        (
            "kmsd_guard_rails",
            "Guard rails in the catalogue.",
            counts.guard_rails,
        ),
        (
            "kmsd_leases",
            "Services that hold a lease on answers.",
            counts.leases,
        ),
        (
            "kmsd_approvals_pending",
            "Requests that wait for approvals.",
            counts.approvals,
        ),
        (
            "kmsd_audit_outbox_records",
            "Audit records of committed changes that the log is not known to have yet.",
            counts.outbox,
        ),
        (
            "kmsd_store_revision",
            "Revision of the store: rises with every transaction.",
            gauges.revision,
        ),
        (
            "kmsd_authorization_epoch",
            "Authorisation epoch: rises whenever somebody's rights may have changed.",
            gauges.authorization_epoch,
        ),
        (
            "kmsd_deletion_epoch",
            "Deletion epoch: rises whenever key material is destroyed.",
            gauges.deletion_epoch,
        ),
        (
            "kmsd_cached_key_versions",
            "Versions of key material that are open in memory.",
            gauges.cached_materials,
        ),
    ];
    for (name, help, value) in rows {
        text.single(name, Kind::Gauge, help, value);
    }
}

fn audit(text: &mut Text, status: &AuditStatus) {
    let healthy = u64::from(status.health == Health::Good);
    let gauges = [
        (
            "kmsd_audit_records",
            "Records of the audit log that are on disk.",
            status.records,
        ),
        (
            "kmsd_audit_pending_records",
            "Records that wait for the disk.",
            status.pending,
        ),
        (
            "kmsd_audit_file_bytes",
            "Size of the file that is being written.",
            status.file_bytes,
        ),
        (
            "kmsd_audit_healthy",
            "1 while the audit log can be written.",
            healthy,
        ),
    ];
    for (name, help, value) in gauges {
        text.single(name, Kind::Gauge, help, value);
    }
    let counters = [
        (
            "kmsd_audit_lost_total",
            "Requests that were answered without a record, because it could not be written.",
            status.lost,
        ),
        (
            "kmsd_audit_refused_total",
            "Requests that were refused, because they could not be recorded.",
            status.refused,
        ),
    ];
    for (name, help, value) in counters {
        text.single(name, Kind::Counter, help, value);
    }
}

fn checkpoints(text: &mut Text, audit: &AuditStatus, status: &CheckpointStatus) {
    text.single(
        "kmsd_audit_checkpoint_timestamp_seconds",
        Kind::Gauge,
        "When the last checkpoint of the audit log was made, Unix time; 0 for never.",
        seconds(status.time_ms),
    );
    text.single(
        "kmsd_audit_uncovered_records",
        Kind::Gauge,
        "Records on disk that no checkpoint covers yet.",
        audit.records.saturating_sub(status.size),
    );
    let name = "kmsd_audit_witness_behind_records";
    text.family(
        name,
        Kind::Gauge,
        "Records under the last checkpoint that a witness has not cosigned.",
    );
    for witness in &status.witnesses {
        let labels = [("witness", witness.name.as_str())];
        text.sample(name, &labels, status.size.saturating_sub(witness.size));
    }
    let name = "kmsd_audit_witness_timestamp_seconds";
    text.family(
        name,
        Kind::Gauge,
        "When a witness cosigned last, by its clock, Unix time; 0 for never.",
    );
    for witness in &status.witnesses {
        text.sample(name, &[("witness", witness.name.as_str())], witness.time);
    }
}

fn sealer(text: &mut Text, metrics: &Metrics, gauges: &Gauges) {
    text.single(
        "kmsd_leases_ran_out_total",
        Kind::Counter,
        "Leases that ran out before their holder acknowledged a change that takes something away.",
        metrics.leases_ran_out.load(Ordering::Relaxed),
    );
    text.family(
        "kmsd_sealer_info",
        Kind::Gauge,
        "What the root key is sealed to, always 1.",
    );
    let labels = [
        ("kind", gauges.sealer_kind.as_str()),
        ("device", gauges.sealer_device.as_str()),
    ];
    text.sample("kmsd_sealer_info", &labels, 1);
    let help = "The rollback counter, as last seen.";
    let counter = metrics.counter.load(Ordering::Relaxed);
    text.single("kmsd_rollback_counter", Kind::Gauge, help, counter);
    let help = "How often this process has advanced the rollback counter; it wears the TPM.";
    let advances = metrics.advances.load(Ordering::Relaxed);
    text.single(
        "kmsd_rollback_counter_advances_total",
        Kind::Counter,
        help,
        advances,
    );
    let rows = [
        (
            "kmsd_unanchored_transactions",
            "Transactions that an older copy of the store could lack unnoticed.",
            gauges.unanchored,
        ),
        (
            "kmsd_unproved_changes",
            "1 while a change that takes something away waits for the rollback counter.",
            u64::from(gauges.unproved),
        ),
    ];
    for (name, help, value) in rows {
        text.single(name, Kind::Gauge, help, value);
    }
    let help =
        "When the TPM (or the key file) last failed, Unix time; 0 for never since the start.";
    let failed = metrics.sealer_failed.load(Ordering::Relaxed);
    text.single(
        "kmsd_sealer_last_failure_timestamp_seconds",
        Kind::Gauge,
        help,
        failed,
    );
    let locked = kms_crypto::lock_status();
    let rows = [
        (
            "kmsd_key_memory_locked_bytes",
            "Memory for keys that is locked against swapping.",
            locked.locked_bytes,
        ),
        (
            "kmsd_key_memory_unlocked_bytes",
            "Memory for keys that could not be locked; should be 0.",
            locked.unlocked_bytes,
        ),
    ];
    for (name, help, value) in rows {
        text.single(name, Kind::Gauge, help, value);
    }
}

fn failures(text: &mut Text, metrics: &Metrics) {
    let name = "kmsd_failures_total";
    text.family(
        name,
        Kind::Counter,
        "Changes and background work that failed, by what failed.",
    );
    for (kind, count) in metrics.failures.lock().iter() {
        text.sample(name, &[("kind", kind)], count);
    }
}

/// What every exporter says about its process.
fn process(text: &mut Text) {
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let memory = [
            (
                "VmSize:",
                "process_virtual_memory_bytes",
                "Virtual memory of the process.",
            ),
            (
                "VmRSS:",
                "process_resident_memory_bytes",
                "Resident memory of the process.",
            ),
        ];
        for (field, name, help) in memory {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
            if let Some(value) = kibibytes.and_then(|text| text.parse::<u64>().ok()) {
                text.single(name, Kind::Gauge, help, value * 1024);
            }
        }
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the directory's.
        let count = entries.count().saturating_sub(1);
        text.single(
            "process_open_fds",
            Kind::Gauge,
            "Open file descriptors.",
            count,
        );
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        text.single(
            "process_max_fds",
            Kind::Gauge,
            "Limit of open file descriptors.",
            limit,
        );
    }
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    let help = "Processor time of the process, user and system.";
    text.single("process_cpu_seconds_total", Kind::Counter, help, used);
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}
