//! What kmsd does in a second: `make bench-kmsd`, part of `make bench`.
//!
//! A load generator over the Unix socket, and over TLS, and kmsd processes with the software sealer and throw-away stores. What is compared
//! takes turns in every round, so that whatever else the machine does meets all; the figure is the median of the rounds. Beside
//! it stands the processor time that kmsd itself took for a request, the least of the rounds, which depends little on
//! what else runs on the machine, and what that makes of the ratio on a machine whose processors have nothing else to do but to ask
//! and to answer.
//!
//! - GenerateDataKey with the audit log and without one; with the default policy and with twenty statements.
//! - Each kind of use of a key over the socket and over TLS, and CreateKey with a store on a disk (`--disk`), where every commit
//!   is durable.
//! - How soon `kmsd dev` is ready.
//! - With `--keys N`: GenerateDataKey beside that many keys, how long kmsd takes to start with them, and the same after that.
//!
//! usage: cargo bench -p kms-tests --bench kmsd_load -- [--rounds N] [--seconds S] [--connections 1,8,32] [--folder /dev/shm]
//!        [--disk target] [--keys N] [--out FILE]

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends with the reason"
)]

mod daemon;
mod dev;
mod load;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64;
use kms_tests::programs;
use serde_json::{Value, json};

use daemon::Daemon;
use load::{Done, Place, Target, Until, load};

fn main() {
    let options = Options::parse();
    let folder = scratch(&options.folder);
    let mut daemons = vec![Daemon::start("audit", folder.path(), "")];
    daemons.extend(Daemon::without_audit(folder.path()));
    let body = |key: &str| json!({ "KeyId": key, "KeySpec": "AES_256" }).to_string();
    let data_key = |name, daemon: &Daemon, key: &str| {
        let (pid, body) = (daemon.pid(), body(key));
        (name, daemon.socket.clone(), pid, body)
    };
    let pairs: Vec<_> = daemons
        .iter()
        .map(|daemon| data_key(daemon.name, daemon, &daemon.key))
        .collect();
    let mut results = vec![compare(&options, "GenerateDataKey", &targets(&pairs))];
    let daemon = daemons.first().expect("a daemon");
    let pairs = [
        data_key("20 statements", daemon, &daemon.guarded_key()),
        data_key("default policy", daemon, &daemon.key),
    ];
    results.push(compare(
        &options,
        "GenerateDataKey, by policy",
        &targets(&pairs),
    ));
    let uses = Uses::of(daemon);
    results.push(uses.measure(&options, "Unix socket", daemon, daemon.place()));
    let daemon = daemons.first_mut().expect("a daemon");
    let tls = daemon.with_tls();
    let (title, place) = ("TLS, each request signed", Place::Tls(&tls));
    results.push(uses.measure(&options, title, daemon, place));
    drop(daemons);
    results.push(create_keys(&options));
    results.push(dev::starts(folder.path()));
    if let Some(keys) = options.keys {
        results.push(scale(&options, keys));
    }
    let report = json!({
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "rounds": options.rounds,
        "seconds": options.time.as_secs_f64(),
        "results": results,
    });
    let text = serde_json::to_string_pretty(&report).expect("a report");
    fs::write(&options.out, text + "\n").expect("write the report");
    println!("\nWritten to {}", options.out.display());
}

struct Options {
    rounds: usize,
    time: Duration,
    connections: Vec<usize>,
    folder: PathBuf,
    disk: PathBuf,
    keys: Option<usize>,
    out: PathBuf,
}

impl Options {
    fn parse() -> Options {
        let mut options = Options {
            rounds: 3,
            time: Duration::from_secs(2),
            connections: vec![1, 8, 32],
            folder: "/dev/shm".into(),
            disk: programs::folder(),
            keys: None,
            out: programs::folder().join("bench-kmsd.json"),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .unwrap_or_else(|| panic!("{word} needs a value"))
            };
            match word.as_str() {
                "--rounds" => options.rounds = value().parse().expect("a number of rounds"),
                "--seconds" => {
                    options.time = Duration::from_secs_f64(value().parse().expect("seconds"));
                }
                "--connections" => {
                    let text = value();
                    let numbers = text.split(',').map(|n| n.parse().expect("a number"));
                    options.connections = numbers.collect();
                }
                "--folder" => options.folder = value().into(),
                "--disk" => options.disk = value().into(),
                "--keys" => options.keys = Some(value().parse().expect("a number of keys")),
                "--out" => options.out = value().into(),
                // What cargo says to every benchmark.
                "--bench" => {}
                other => panic!("there is no option {other}"),
            }
        }
        options
    }
}

fn scratch(parent: &Path) -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("kms-bench-")
        .tempdir_in(parent)
        .expect("a folder")
}

fn targets<'a>(pairs: &'a [(&'a str, PathBuf, i32, String)]) -> Vec<Target<'a>> {
    pairs
        .iter()
        .map(|(name, socket, pid, body)| {
            Target::new(name, Place::Socket(socket), *pid, "GenerateDataKey", body)
        })
        .collect()
}

/// Lets the targets take turns; prints a table.
fn compare(options: &Options, title: &str, targets: &[Target<'_>]) -> Value {
    let mut rows = Vec::new();
    println!("\n{title}\n");
    let names: Vec<&str> = targets.iter().map(|target| target.name).collect();
    println!(
        "| connections | {} | ratio | processor time |",
        names.join(" | ")
    );
    println!("|---|{}---|---|", "---|".repeat(names.len()));
    for &connections in &options.connections {
        // Caches, the first connection, the allocator.
        for target in targets {
            load(target, connections, Until::Time(options.time / 4));
        }
        let mut rates = vec![Vec::new(); targets.len()];
        let mut waits = vec![Vec::new(); targets.len()];
        let mut spent = vec![f64::INFINITY; targets.len()];
        let mut whole = spent.clone();
        for round in 0..options.rounds {
            for turn in 0..targets.len() {
                // Nobody is always first.
                let at = (turn + round) % targets.len();
                let done = load(&targets[at], connections, Until::Time(options.time));
                rates[at].push(done.rate);
                waits[at].push(done.micros);
                spent[at] = spent[at].min(done.spent);
                whole[at] = whole[at].min(done.whole);
            }
        }
        // A ratio is made within a round: neighbours in time.
        let ratios = rates.split_first().and_then(|(first, rest)| {
            let last = rest.last()?;
            Some(
                first
                    .iter()
                    .zip(last)
                    .map(|(a, b)| a / b)
                    .collect::<Vec<_>>(),
            )
        });
        let ratio = ratios.as_ref().map(|ratios| median(ratios));
        let cells: Vec<String> = rates
            .iter()
            .zip(&waits)
            .map(|(rates, waits)| format!("{:.0}/s, {:.0} µs", median(rates), median(waits)))
            .collect();
        let busy = whole.last().unwrap_or(&f64::NAN) / whole[0];
        let each: Vec<String> = spent.iter().map(|spent| format!("{spent:.2}")).collect();
        println!(
            "| {connections} | {} | {} | {} µs, {busy:.2} |",
            cells.join(" | "),
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            each.join(" / "),
        );
        rows.push(json!({
            "connections": connections, "names": names, "rates": rates, "median_micros": waits, "ratios": ratios, "ratio": ratio,
            "least_processor_micros": spent, "least_processor_micros_with_client": whole,
        }));
    }
    json!({ "test": title, "rows": rows })
}

/// One table of single targets: rate, median, 99th percentile and processor time. Nothing is compared here, so half the
/// time of a comparison is enough.
fn measure(options: &Options, title: &str, targets: &[Target<'_>]) -> Value {
    let mut rows = Vec::new();
    let time = options.time / 2;
    println!("\n{title}\n");
    println!("| | connections | rate | median | p99 | processor time |");
    println!("|---|---|---|---|---|---|");
    for target in targets {
        for &connections in &options.connections {
            load(target, connections, Until::Time(time / 4));
            let rounds: Vec<Done> = (0..options.rounds)
                .map(|_| load(target, connections, Until::Time(time)))
                .collect();
            let of = |what: fn(&Done) -> f64| rounds.iter().map(what).collect::<Vec<f64>>();
            let (rates, micros, p99) = (of(|d| d.rate), of(|d| d.micros), of(|d| d.p99));
            let spent = of(|d| d.spent).into_iter().fold(f64::INFINITY, f64::min);
            println!(
                "| {} | {connections} | {:.0}/s | {:.0} µs | {:.0} µs | {spent:.2} µs |",
                target.name,
                median(&rates),
                median(&micros),
                median(&p99),
            );
            rows.push(json!({
                "operation": target.name, "connections": connections, "rates": rates, "median_micros": micros,
                "p99_micros": p99, "least_processor_micros": spent,
            }));
        }
    }
    json!({ "test": title, "rows": rows })
}

/// Each kind of use of a key, with 64 bytes where there is something to encrypt or to sign: name, operation, body.
struct Uses(Vec<(&'static str, &'static str, String)>);

impl Uses {
    fn of(daemon: &Daemon) -> Uses {
        let text = BASE64.encode(&[7; 64]);
        let key = &daemon.key;
        let sealed = daemon
            .call("Encrypt", &json!({ "KeyId": key, "Plaintext": text }))
            .expect("Encrypt");
        let mut asked = vec![
            (
                "GenerateDataKey",
                "GenerateDataKey",
                json!({ "KeyId": key, "NumberOfBytes": 64 }),
            ),
            (
                "Encrypt",
                "Encrypt",
                json!({ "KeyId": key, "Plaintext": text }),
            ),
            (
                "Decrypt",
                "Decrypt",
                json!({ "CiphertextBlob": sealed["CiphertextBlob"] }),
            ),
        ];
        for (name, spec, algorithm) in [
            ("Sign, ECC_NIST_P256", "ECC_NIST_P256", "ECDSA_SHA_256"),
            ("Sign, RSA_2048", "RSA_2048", "RSASSA_PSS_SHA_256"),
        ] {
            let key = daemon
                .create_key(&json!({ "KeySpec": spec, "KeyUsage": "SIGN_VERIFY" }))
                .expect("CreateKey");
            let body = json!({ "KeyId": key, "Message": text, "SigningAlgorithm": algorithm });
            asked.push((name, "Sign", body));
        }
        Uses(
            asked
                .into_iter()
                .map(|(name, operation, body)| (name, operation, body.to_string()))
                .collect(),
        )
    }

    fn measure(&self, options: &Options, title: &str, daemon: &Daemon, place: Place<'_>) -> Value {
        let pid = daemon.pid();
        let targets: Vec<Target<'_>> = self
            .0
            .iter()
            .map(|(name, operation, body)| Target::new(name, place, pid, operation, body))
            .collect();
        measure(options, title, &targets)
    }
}

/// New keys, with a store on a disk.
fn create_keys(options: &Options) -> Value {
    let folder = scratch(&options.disk);
    let daemon = Daemon::start("disk", folder.path(), "");
    let target = Target::new("CreateKey", daemon.place(), daemon.pid(), "CreateKey", "{}");
    measure(options, "New keys, each durable on disk", &[target])
}

/// What many keys make of it.
fn scale(options: &Options, keys: usize) -> Value {
    const AT_ONCE: usize = 64;
    let folder = scratch(&options.disk);
    let mut daemon = Daemon::start("many keys", folder.path(), "");
    let body = json!({ "KeyId": daemon.key, "KeySpec": "AES_256" }).to_string();
    let data_keys = |daemon: &Daemon| {
        let target = Target::new(
            "GenerateDataKey",
            daemon.place(),
            daemon.pid(),
            "GenerateDataKey",
            &body,
        );
        load(&target, 8, Until::Time(options.time / 4));
        load(&target, 8, Until::Time(options.time))
    };
    let few = data_keys(&daemon);
    let target = Target::new("CreateKey", daemon.place(), daemon.pid(), "CreateKey", "{}");
    let made = load(&target, AT_ONCE, Until::Count(keys.saturating_sub(1)));
    let many = data_keys(&daemon);
    let took = daemon.restart();
    let again = data_keys(&daemon);
    println!("\n{keys} keys\n");
    println!("| | rate | median | processor time |\n|---|---|---|---|");
    for (what, done) in [
        ("GenerateDataKey with one key", &few),
        ("CreateKey, 64 connections", &made),
        ("GenerateDataKey with all of them", &many),
        ("after a start", &again),
    ] {
        println!(
            "| {what} | {:.0}/s | {:.0} µs | {:.2} µs |",
            done.rate, done.micros, done.spent
        );
    }
    println!(
        "\nFrom its start to its first answer kmsd took {:.2} s.",
        took.as_secs_f64()
    );
    json!({
        "test": "many keys", "keys": keys, "start_seconds": took.as_secs_f64(), "create_rate": made.rate,
        "rates": [few.rate, many.rate, again.rate],
        "least_processor_micros": [few.spent, many.spent, again.spent],
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
