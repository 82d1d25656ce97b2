//! How soon `kmsd dev` is ready: from its start to the first answer to a signed request, as a test suite has it that starts one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kms_api::sigv4::Credentials;
use kms_tests::process::Process;
use kms_tests::programs;
use serde_json::{Value, json};

use crate::load::request;
use crate::median;

/// A start takes so little that a few more cost nothing.
const STARTS: usize = 15;

/// Starts it again and again, with keys in memory; prints the times.
pub(crate) fn starts(folder: &Path) -> Value {
    let mut times: Vec<f64> = (0..STARTS)
        .map(|_| start(folder).as_secs_f64() * 1e3)
        .collect();
    times.sort_by(f64::total_cmp);
    let most = times.last().copied().unwrap_or(f64::NAN);
    println!(
        "\nkmsd dev, from its start to the answer to CreateKey, {STARTS} times: median {:.0} ms, most {most:.0} ms",
        median(&times)
    );
    json!({ "test": "kmsd dev", "milliseconds": times })
}

fn start(folder: &Path) -> Duration {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("its number");
    drop(port);
    let mut command = Command::new(programs::path("kmsd"));
    command.args(["dev", "--listen", &address.to_string()]);
    let start = Instant::now();
    let _process = Process::start("kmsd dev", &mut command, &folder.join("dev.log"));
    let said = ask(address);
    let took = start.elapsed();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    took
}

/// The answer to a request, as soon as there is somebody to answer.
fn ask(address: SocketAddr) -> String {
    let credentials = Credentials {
        access_key_id: "test".to_owned(),
        secret: "test".to_owned().into(),
        session_token: None,
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("kmsd dev does not answer: {error}"),
        }
    };
    let patience = Some(Duration::from_secs(60));
    stream.set_read_timeout(patience).expect("a time limit");
    let bytes = request("CreateKey", "{}", Some((&credentials, "us-east-1")));
    stream.write_all(&bytes).expect("send a request");
    let mut answer = [0; 256];
    let length = stream.read(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
