//! Metrics as a scraper sees them: curl on the Unix socket and on the loopback port, and the dashboard's queries against them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use kms_tests::programs;
use kms_tests::require;
use kms_tests::world::World;
use serde_json::{Value, json};

/// Samples by their whole name with labels.
type Samples = BTreeMap<String, f64>;

#[test]
fn a_scrape_tells_what_was_done_and_has_all_that_the_dashboard_asks_for() {
    if !require::tpm() {
        return;
    }
    let mut world = World::enrolled();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let socket = world.path("metrics.sock");
    add_config(
        &world,
        &format!("[metrics]\nsocket = {socket:?}\nlisten = \"{address}\"\n"),
    );
    world.daemon.start();

    let key = world.key("alias/metrics");
    let doomed = world.key("alias/doomed");
    world.call(
        "ScheduleKeyDeletion",
        &json!({ "KeyId": doomed, "PendingWindowInDays": 7 }),
    );
    for _ in 0..3 {
        world.call(
            "GenerateDataKey",
            &json!({ "KeyId": key, "KeySpec": "AES_256" }),
        );
    }
    let refused = world.post(
        "GenerateDataKey",
        &json!({ "KeyId": doomed, "KeySpec": "AES_256" }),
    );
    assert_eq!(refused.status, 400);
    assert_eq!(world.post("Teleport", &json!({})).status, 400);

    let by_port = curl(&[&format!("http://{address}/metrics")]);
    let text = curl(&[
        "--unix-socket",
        socket.to_str().unwrap(),
        "http://kmsd/metrics",
    ]);
    let samples = parse(&text);
    let value = |name: &str| {
        *samples
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in:\n{text}"))
    };
    let made = |outcome: &str| {
        value(&format!(
            "kmsd_requests_total{{operation=\"GenerateDataKey\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!(made("ok"), 3.0);
    assert_eq!(made("KMSInvalidStateException"), 1.0);
    let unknown = "kmsd_requests_total{operation=\"other\",outcome=\"UnknownOperationException\"}";
    assert_eq!(value(unknown), 1.0);
    let count = "kmsd_request_duration_seconds_count{operation=\"GenerateDataKey\"}";
    assert_eq!(value(count), 4.0);
    let all = "kmsd_request_duration_seconds_bucket{operation=\"GenerateDataKey\",le=\"+Inf\"}";
    assert_eq!(value(all), 4.0);
    assert_eq!(value("kmsd_keys{state=\"Enabled\"}"), 1.0);
    assert_eq!(value("kmsd_keys{state=\"PendingDeletion\"}"), 1.0);
    assert_eq!(value("kmsd_aliases"), 2.0);
    // The deletion was a tightening change: proved before its reply.
    assert!(value("kmsd_rollback_counter_advances_total") >= 1.0);
    assert_eq!(value("kmsd_unproved_changes"), 0.0);
    let destroyed = value("kmsd_next_key_deletion_timestamp_seconds");
    assert!(destroyed > value("kmsd_start_time_seconds") + 6.0 * 86_400.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert_eq!(
        names(&parse(&by_port)),
        names(&samples),
        "both places tell the same"
    );

    // A TPM that fails is seen.
    world.tpm.power_off();
    let refused = world.post("DisableKey", &json!({ "KeyId": key }));
    assert_eq!(refused.status, 500, "{}", refused.text);
    let text = curl(&[
        "--unix-socket",
        socket.to_str().unwrap(),
        "http://kmsd/metrics",
    ]);
    let samples = parse(&text);
    assert!(
        samples["kmsd_failures_total{kind=\"sealer\"}"] >= 1.0,
        "{text}"
    );
    assert!(samples["kmsd_sealer_last_failure_timestamp_seconds"] > 0.0);
    assert_eq!(samples["kmsd_unproved_changes"], 1.0);
    world.tpm.power_on();

    let asked = dashboard_names();
    let known = names(&samples);
    for name in &asked {
        assert!(
            known.contains(name.as_str()),
            "the dashboard asks for {name}, which no scrape has"
        );
    }
    assert!(
        asked.len() > 20,
        "the dashboard's queries were not found: {asked:?}"
    );
}

#[test]
fn metrics_leave_this_host_by_no_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kmsd.toml");
    let said = |listen: &str| {
        let text = format!("[seal]\nkind = \"software\"\n[metrics]\nlisten = {listen:?}\n");
        fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        kms_tests::cli::run("kmsd", &["--check-config", "--config", config], None)
    };
    said("127.0.0.1:9464").ok();
    said("[::1]:9464").ok();
    for outside in ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464"] {
        said(outside).fails_with("metrics.listen");
    }
}

/// Appends to the configuration; and a TPM that is gone is not waited for long.
fn add_config(world: &World, text: &str) {
    let path = world.daemon.config();
    let before = fs::read_to_string(&path).unwrap();
    let before = before.replace("[seal]", "[seal]\nwait = 1");
    fs::write(&path, format!("{before}\n{text}")).unwrap();
}

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "30"])
        .args(arguments)
        .output()
        .expect("run curl");
    assert!(
        output.status.success(),
        "curl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Parses the text format, and checks that each family is announced before its samples and comes once.
fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert_eq!(families.insert(name, kind), None, "{name} comes twice");
            current = name;
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            let bare = name.split('{').next().unwrap();
            let suffix = bare
                .strip_prefix(current)
                .expect("a sample below its family");
            let histogram = ["_bucket", "_sum", "_count"].contains(&suffix);
            let kind = families[current];
            assert_eq!(histogram, kind == "histogram", "{line}");
            assert!(histogram || suffix.is_empty(), "{line}");
            assert_eq!(kind == "counter", bare.ends_with("_total"), "{line}");
            let value = value.parse().expect("a number");
            assert_eq!(
                samples.insert(name.to_owned(), value),
                None,
                "{name} comes twice"
            );
        }
    }
    samples
}

fn base(name: &str) -> &str {
    name.split('{').next().unwrap_or_default()
}

fn names(samples: &Samples) -> BTreeSet<&str> {
    samples.keys().map(|name| base(name)).collect()
}

/// The names of metrics in the queries of the dashboard.
fn dashboard_names() -> BTreeSet<String> {
    let path = programs::source_root().join("docs/grafana/kmsd.json");
    let mut names = BTreeSet::new();
    let dashboard: Value = serde_json::from_str(&read(&path)).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            words(target["expr"].as_str().unwrap(), &mut names);
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        words(variable["query"].as_str().unwrap(), &mut names);
    }
    names
}

fn words(query: &str, names: &mut BTreeSet<String>) {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics = words.filter(|word| word.starts_with("kmsd_") || word.starts_with("process_"));
    names.extend(metrics.map(str::to_owned));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
