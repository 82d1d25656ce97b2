//! How many data keys kmsd makes in a second: `make bench-kmsd`, part of `make bench`.
//!
//! A load generator over the Unix socket, one thread for each connection, and kmsd processes with the software sealer
//! and throw-away stores: one as it is, one without an audit log. They take turns in every round, so that whatever else the
//! machine does meets both; the figure is the median of the rounds. Beside it stands the processor time that kmsd itself took for a
//! request, the least of the rounds, which depends little on what else runs on the machine,
//! and what that makes of the ratio on a machine whose processors have nothing else to do but to ask and to answer. A second table compares a key with the
//! default policy with one whose policy has twenty statements.
//!
//! usage: cargo bench -p kms-tests --bench kmsd_load -- [--rounds N] [--seconds S] [--connections 1,8,32] [--folder /dev/shm] [--out FILE]

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends with the reason"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_tests::process::Process;
use kms_tests::{cli, http, programs, wait};
use serde_json::{Value, json};

fn main() {
    let options = Options::parse();
    let folder = tempfile::Builder::new()
        .prefix("kms-bench-")
        .tempdir_in(&options.folder)
        .expect("a folder");
    let mut daemons = vec![Daemon::start("audit", folder.path(), "")];
    daemons.extend(Daemon::without_audit(folder.path()));
    let audit = compare(
        &options,
        "GenerateDataKey",
        &daemons
            .iter()
            .map(|daemon| Target::data_key(daemon.name, daemon, &daemon.key))
            .collect::<Vec<_>>(),
    );
    let daemon = daemons.first().expect("a daemon");
    let policy = compare(
        &options,
        "GenerateDataKey, by policy",
        &[
            Target::data_key("20 statements", daemon, &daemon.guarded_key()),
            Target::data_key("default policy", daemon, &daemon.key),
        ],
    );
    let report = json!({
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "rounds": options.rounds,
        "seconds": options.time.as_secs_f64(),
        "results": [audit, policy],
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
    out: PathBuf,
}

impl Options {
    fn parse() -> Options {
        let mut options = Options {
            rounds: 3,
            time: Duration::from_secs(2),
            connections: vec![1, 8, 32],
            folder: "/dev/shm".into(),
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
                "--out" => options.out = value().into(),
                // What cargo says to every benchmark.
                "--bench" => {}
                other => panic!("there is no option {other}"),
            }
        }
        options
    }
}

/// A kmsd of its own.
struct Daemon {
    name: &'static str,
    socket: PathBuf,
    key: String,
    process: Process,
}

impl Daemon {
    fn start(name: &'static str, folder: &Path, testing: &str) -> Daemon {
        let folder = folder.join(name.replace(' ', "-"));
        let store = folder.join("store");
        fs::create_dir_all(&store).expect("make the store's folder");
        let (socket, config) = (folder.join("kmsd.sock"), folder.join("kmsd.toml"));
        let text = format!(
            "[server]\nsocket = {socket:?}\n[store]\ndirectory = {store:?}\n\
             [seal]\nkind = \"software\"\nkey_file = {:?}\n[testing]\n{testing}",
            folder.join("root.key")
        );
        fs::write(&config, text).expect("write the configuration");
        let recovery = folder.join("recovery");
        let mut enroll: Vec<&std::ffi::OsStr> = vec!["enroll".as_ref(), "--config".as_ref()];
        enroll.extend([
            config.as_os_str(),
            "--recovery-out".as_ref(),
            recovery.as_os_str(),
        ]);
        enroll.extend::<[&std::ffi::OsStr; 2]>(["--verify-from".as_ref(), recovery.as_os_str()]);
        cli::run("kmsd", &enroll, None).ok();
        let mut command = Command::new(programs::path("kmsd"));
        command.arg("--config").arg(&config);
        let mut process = Process::start("kmsd", &mut command, &folder.join("kmsd.log"));
        wait::until_true("kmsd answering", wait::PATIENCE, || {
            process.assert_running();
            UnixStream::connect(&socket).is_ok()
        });
        let key = create_key(&socket, &json!({}));
        Daemon {
            name,
            socket,
            key,
            process,
        }
    }

    /// One that keeps no audit log, where kmsd can be told so.
    fn without_audit(folder: &Path) -> Option<Daemon> {
        let testing = "no_audit = true\n";
        let config = folder.join("probe.toml");
        let text = format!("[seal]\nkind = \"software\"\n[testing]\n{testing}");
        fs::write(&config, text).expect("write a configuration");
        let arguments = [
            "--check-config".as_ref(),
            "--config".as_ref(),
            config.as_os_str(),
        ];
        let said = cli::run("kmsd", &arguments, None);
        if said.code != 0 {
            println!("kmsd has no testing.no_audit: nothing to compare with");
            return None;
        }
        Some(Daemon::start("no audit", folder, testing))
    }

    /// A key whose policy has twenty statements; the last of them allows.
    fn guarded_key(&self) -> String {
        let allow = |number: usize| {
            json!({
                "Sid": format!("Service{number}"), "Effect": "Allow",
                "Principal": { "AWS": format!("arn:aws:iam::000000000000:user/service-{number}") },
                "Action": ["kms:Decrypt", "kms:GenerateDataKey*"], "Resource": "*",
                "Condition": { "StringEquals": { "kms:EncryptionContext:service": format!("s{number}") } },
            })
        };
        let mut statements: Vec<Value> = (1..20).map(allow).collect();
        statements.push(json!({
            "Sid": "Root", "Effect": "Allow", "Action": "kms:*", "Resource": "*",
            "Principal": { "AWS": "arn:aws:iam::000000000000:root" },
        }));
        let policy = json!({ "Version": "2012-10-17", "Statement": statements });
        create_key(&self.socket, &json!({ "Policy": policy.to_string() }))
    }
}

fn create_key(socket: &Path, body: &Value) -> String {
    let body = body.to_string();
    let reply = http::post(socket, "TrentService.CreateKey", body.as_bytes());
    assert_eq!(reply.status, 200, "CreateKey: {}", reply.text);
    let arn = &reply.json["KeyMetadata"]["Arn"];
    arn.as_str().expect("a key ARN").to_owned()
}

/// What is measured: one request, again and again, at one daemon.
struct Target<'a> {
    name: &'a str,
    socket: &'a Path,
    pid: i32,
    request: Vec<u8>,
}

impl<'a> Target<'a> {
    fn data_key(name: &'a str, daemon: &'a Daemon, key: &str) -> Target<'a> {
        let body = json!({ "KeyId": key, "KeySpec": "AES_256" }).to_string();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: kmsd\r\ncontent-type: application/x-amz-json-1.1\r\n\
             x-amz-target: TrentService.GenerateDataKey\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Target {
            name,
            socket: &daemon.socket,
            pid: daemon.process.pid().as_raw_nonzero().get(),
            request: (head + &body).into_bytes(),
        }
    }
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
            load(target, connections, options.time / 4);
        }
        let mut rates = vec![Vec::new(); targets.len()];
        let mut waits = vec![Vec::new(); targets.len()];
        let mut spent = vec![f64::INFINITY; targets.len()];
        let mut whole = spent.clone();
        for round in 0..options.rounds {
            for turn in 0..targets.len() {
                // Nobody is always first.
                let at = (turn + round) % targets.len();
                let done = load(&targets[at], connections, options.time);
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

struct Done {
    /// Requests a second.
    rate: f64,
    /// Median time of one.
    micros: f64,
    /// Processor time of kmsd for one, user and system, microseconds.
    spent: f64,
    /// The same with that of the client.
    whole: f64,
}

/// Processor time of this process, in nanoseconds, with its threads that have ended.
fn own_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Processor time that the threads of a process have taken, in nanoseconds.
fn processor_time(pid: i32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the threads of kmsd");
    let times = threads.filter_map(|thread| {
        // One that has just ended takes its time with it: kmsd's workers do not end.
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    times.sum()
}

fn load(target: &Target<'_>, connections: usize, time: Duration) -> Done {
    let stop = AtomicBool::new(false);
    let begin = Barrier::new(connections + 1);
    let mut times: Vec<f64> = Vec::new();
    let (mut took, mut spent, mut whole) = (Duration::ZERO, 0, 0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| client(target, &begin, &stop)))
            .collect();
        let before = processor_time(target.pid);
        let own = own_time();
        begin.wait();
        let start = Instant::now();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        took = start.elapsed();
        for thread in threads {
            times.extend(thread.join().expect("a client"));
        }
        spent = processor_time(target.pid).saturating_sub(before);
        whole = own_time().saturating_sub(own) + spent;
    });
    Done {
        rate: times.len() as f64 / took.as_secs_f64(),
        micros: median(&times),
        spent: spent as f64 / 1e3 / times.len() as f64,
        whole: whole as f64 / 1e3 / times.len() as f64,
    }
}

/// Microseconds of each request until told to stop.
fn client(target: &Target<'_>, begin: &Barrier, stop: &AtomicBool) -> Vec<f64> {
    let mut stream = UnixStream::connect(target.socket).expect("connect to kmsd");
    let mut times = Vec::with_capacity(1 << 16);
    let mut buffer = vec![0; 16 * 1024];
    begin.wait();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        stream.write_all(&target.request).expect("send a request");
        response(&mut stream, &mut buffer);
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times
}

/// Reads one response, which must be a success.
fn response(stream: &mut UnixStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..]).expect("read a response");
        assert!(count > 0, "kmsd closed the connection");
        filled += count;
        let text = &buffer[..filled];
        let Some(head) = text.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let said = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
        assert!(
            said.starts_with("http/1.1 200"),
            "{}",
            String::from_utf8_lossy(text)
        );
        let length = said.split("content-length:").nth(1).expect("a length");
        let length = length.lines().next().unwrap_or_default().trim();
        let length: usize = length.parse().expect("a length");
        if filled >= head + 4 + length {
            return;
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
