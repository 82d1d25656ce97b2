//! The server on a real Unix socket, with a small service behind it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_api::client::{Client, ClientError};
use kms_api::*;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::server::{Limits, Server};
use super::*;
use crate::auth::Auth;
use crate::config::{NameOrId, Server as ServerConfig, ServiceUser};
use crate::service::{Entered, ErrorReply, Needs, Refused, Reply, Service};

mod crowds;
mod forged;

#[derive(Default)]
struct Echo {
    /// Reasons of requests that were refused before they came here.
    refused: parking_lot::Mutex<Vec<String>>,
    /// Comes to call the user of this test by another name when a request is registered, once.
    renames: parking_lot::Mutex<Option<Arc<Auth>>>,
}

impl Service for Echo {
    fn refused(&self, refused: &Refused<'_>) -> Result<(), ApiError> {
        self.refused.lock().push(refused.error.to_string());
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs {
            exe: true,
            exe_sha256: false,
        }
    }

    fn enter(&self) -> Entered {
        if let Some(auth) = self.renames.lock().take() {
            auth.rename(own_uid(), "renamed");
        }
        Entered::default()
    }

    async fn call(
        &self,
        _: uuid::Uuid,
        request: Request,
        caller: Caller,
        _: Entered,
    ) -> Result<Reply, ErrorReply> {
        match request {
            Request::Encrypt(r) if r.key_id == "slow" => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                Ok(encrypted(r.plaintext, &caller).into())
            }
            Request::Encrypt(r) if r.key_id == "panic" => panic!("asked to"),
            Request::Encrypt(r) => Ok(encrypted(r.plaintext, &caller).into()),
            Request::EnableKey(_) => Ok(Response::EnableKey(EmptyResponse {}).into()),
            Request::GetCallerIdentity(_) => {
                let identity = GetCallerIdentityResponse::of(&caller, "000000000000");
                let reliance = caller.via.as_ref().map(|_| Reliance {
                    epoch: 7,
                    milliseconds: 2500,
                });
                Ok(Reply {
                    reliance,
                    ..Response::GetCallerIdentity(identity).into()
                })
            }
            Request::Decrypt(_) => Err(ErrorReply {
                reliance: caller.via.as_ref().map(|_| Reliance {
                    epoch: 8,
                    milliseconds: 900,
                }),
                ..ApiError::bare(ErrorCode::InvalidCiphertext).into()
            }),
            other => Err(ApiError::not_found(other.operation()).into()),
        }
    }
}

fn encrypted(ciphertext_blob: Blob, caller: &Caller) -> Response {
    Response::Encrypt(EncryptResponse {
        ciphertext_blob,
        key_id: caller.arn.to_string(),
        encryption_algorithm: EncryptionAlgorithm::SymmetricDefault,
    })
}

struct Running {
    _dir: tempfile::TempDir,
    path: PathBuf,
    stop: watch::Sender<bool>,
    service: Arc<Echo>,
    auth: Arc<Auth>,
    served: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    runtime: Runtime,
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn config(dir: &Path) -> ServerConfig {
    let uids = if own_uid() == 0 {
        let service = "kmsfs".into();
        let user = NameOrId::Id(4320);
        vec![ServiceUser::Named { user, service }]
    } else {
        vec![NameOrId::Id(own_uid()).into()]
    };
    ServerConfig {
        socket: dir.join("kmsd.sock"),
        service_uids: uids,
        ..ServerConfig::default()
    }
}

fn auth(config: &ServerConfig) -> Arc<Auth> {
    Arc::new(Auth::new(config, &crate::config::Identity::default()).unwrap())
}

fn quick() -> Limits {
    Limits {
        connections: 512,
        per_user: 256,
        request: MAX_BODY_BYTES,
        head: Duration::from_millis(300),
        body: Duration::from_millis(400),
        idle: Duration::from_millis(800),
        shutdown: Duration::from_secs(5),
    }
}

fn start_with(limits: Limits, change: impl FnOnce(&mut ServerConfig)) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    change(&mut config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let listener = Listener::bind(&config).unwrap();
    let service = Arc::new(Echo::default());
    let auth = auth(&config);
    let server = Server::with_limits(limits, Arc::clone(&auth), Arc::clone(&service));
    let (stop, stopping) = watch::channel(false);
    let served = runtime.spawn(async move { server.run(listener, stopping).await });
    Running {
        path: config.socket,
        _dir: dir,
        stop,
        service,
        auth,
        served: Some(served),
        runtime,
    }
}

fn start() -> Running {
    start_with(quick(), |_| {})
}

impl Running {
    fn connect(&self) -> StdStream {
        let stream = StdStream::connect(&self.path).unwrap();
        // No test may hang.
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// Sends raw bytes and reads to the end of the connection.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may answer and close before it has everything.
        let _ = stream.write_all(bytes);
        read_all(&mut stream)
    }

    fn post(&self, target: &str, body: &[u8]) -> String {
        self.raw(&http(target, body))
    }

    fn stop(&mut self) {
        self.stop.send(true).unwrap();
        self.runtime
            .block_on(self.served.take().unwrap())
            .unwrap()
            .unwrap();
    }
}

fn read_all(stream: &mut StdStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("the server neither answered nor closed: {e}"),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn http(target: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: \
         application/x-amz-json-1.1\r\nx-amz-target: {target}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn encrypt(key: &str) -> EncryptRequest {
    EncryptRequest {
        key_id: key.into(),
        plaintext: Blob::new(b"hello".to_vec()),
        encryption_context: Default::default(),
        grant_tokens: vec![],
        encryption_algorithm: None,
        dry_run: false,
    }
}

#[test]
fn a_client_is_answered_and_named() {
    let running = start();
    let client = Client::new(&running.path);
    let response = client.send(encrypt("k")).unwrap();
    assert_eq!(response.ciphertext_blob.as_slice(), b"hello");
    assert!(response.key_id.starts_with("arn:aws:iam::000000000000:"));
    client
        .send(EnableKeyRequest { key_id: "k".into() })
        .unwrap();
    let error = client.send(DescribeKeyRequest {
        key_id: "k".into(),
        grant_tokens: vec![],
    });
    assert_eq!(error.unwrap_err().api().unwrap().code, ErrorCode::NotFound);
}

#[test]
fn responses_have_the_form_of_aws() {
    let running = start();
    let text = running.post("TrentService.EnableKey", br#"{"KeyId":"k"}"#);
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(
        text.contains("content-type: application/x-amz-json-1.1\r\n"),
        "{text}"
    );
    assert!(text.contains("x-amzn-requestid: "), "{text}");
    assert!(
        text.contains("content-length: 0\r\n") && text.ends_with("\r\n\r\n"),
        "{text}"
    );
    let text = running.post("TrentService.Decrypt", br#"{"CiphertextBlob":"AAAA"}"#);
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert!(
        text.ends_with("\r\n\r\n{\"__type\":\"InvalidCiphertextException\"}"),
        "{text}"
    );
}

#[test]
fn malformed_requests_get_the_right_error() {
    let running = start();
    let deep = format!(
        "{{\"KeyId\":{}1{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let cases: &[(&str, &[u8], &str)] = &[
        ("TrentService.Encrypt", b"", "SerializationException"),
        (
            "TrentService.Encrypt",
            b"not json",
            "SerializationException",
        ),
        (
            "TrentService.Encrypt",
            b"{\"KeyId\":",
            "SerializationException",
        ),
        ("TrentService.Encrypt", b"[]", "SerializationException"),
        (
            "TrentService.Encrypt",
            b"\xff\xfe",
            "SerializationException",
        ),
        (
            "TrentService.Encrypt",
            b"{\"KeyId\":5,\"Plaintext\":\"AA==\"}",
            "SerializationException",
        ),
        (
            "TrentService.Encrypt",
            b"{\"KeyId\":\"k\",\"Plaintext\":\"*\"}",
            "SerializationException",
        ),
        (
            "TrentService.DescribeKey",
            deep.as_bytes(),
            "SerializationException",
        ),
        (
            "TrentService.Encrypt",
            b"{\"Plaintext\":\"AA==\"}",
            "Value null at 'keyId' failed to satisfy constraint: Member must not be null",
        ),
        (
            "TrentService.Encrypt",
            b"{}",
            "2 validation errors detected",
        ),
        ("TrentService.Nothing", b"{}", "UnknownOperationException"),
        ("KmsdLocal.Encrypt", b"{}", "UnknownOperationException"),
        ("Encrypt", b"{}", "UnknownOperationException"),
        ("", b"{}", "UnknownOperationException"),
    ];
    for (target, body, expected) in cases {
        let text = running.post(target, body);
        assert!(text.starts_with("HTTP/1.1 400 "), "{target}: {text}");
        assert!(text.contains(expected), "{target} {expected}: {text}");
    }
}

#[test]
fn requests_that_are_not_ours_are_refused() {
    let running = start();
    let tail = "host: x\r\nconnection: close\r\ncontent-length: 2\r\n";
    let cases = [
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
        "PUT /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
        format!("POST / HTTP/1.1\r\n{tail}\r\n{{}}"),
        format!("POST /x HTTP/1.1\r\nx-amz-target: TrentService.ListKeys\r\n{tail}\r\n{{}}"),
        format!(
            "POST / HTTP/1.1\r\nx-amz-target: TrentService.ListKeys\r\ncontent-type: text/xml\r\n{tail}\r\n{{}}"
        ),
        format!("POST / HTTP/1.1\r\nx-amz-target: \u{e4}\r\n{tail}\r\n{{}}"),
    ];
    for request in cases {
        let text = running.raw(request.as_bytes());
        assert!(text.starts_with("HTTP/1.1 400 "), "{request:?}: {text}");
        assert!(
            text.contains("UnknownOperationException"),
            "{request:?}: {text}"
        );
    }
    // Not HTTP at all: refused or cut, and the server lives on.
    for garbage in [
        &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
        b"\0\0\0\0\r\n\r\n",
        b"\r\n\r\n",
    ] {
        let text = running.raw(garbage);
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 400 "),
            "{text}"
        );
    }
    let headers = format!("POST / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert!(running.raw(headers.as_bytes()).starts_with("HTTP/1.1 431 "));
    let long = format!("POST / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert!(running.raw(long.as_bytes()).starts_with("HTTP/1.1 431 "));
    Client::new(&running.path).send(encrypt("k")).unwrap();
}

#[test]
fn a_body_of_ten_megabytes_is_refused() {
    let running = start();
    let body = vec![b' '; 10_000_000];
    let text = running.post("TrentService.Encrypt", &body);
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    assert!(text.contains("RequestEntityTooLargeException"), "{text}");
    assert!(text.contains("larger than 1048576 bytes"), "{text}");
    // The same without an announced length.
    let mut chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nx-amz-target: \
        TrentService.Encrypt\r\n\r\n"
        .to_vec();
    for _ in 0..100 {
        chunked.extend_from_slice(b"186a0\r\n");
        chunked.extend_from_slice(&[b' '; 100_000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let text = running.raw(&chunked);
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    // The largest that is taken.
    let mut body = br#"{"KeyId":"k","Plaintext":"AAAA"}"#.to_vec();
    body.resize(MAX_BODY_BYTES, b' ');
    assert!(
        running
            .post("TrentService.Encrypt", &body)
            .starts_with("HTTP/1.1 200 ")
    );
    body.push(b' ');
    assert!(
        running
            .post("TrentService.Encrypt", &body)
            .starts_with("HTTP/1.1 413 ")
    );
}

#[test]
fn the_size_of_a_request_is_that_of_the_configuration() {
    let limits = Limits {
        request: 200_000,
        ..quick()
    };
    let running = start_with(limits, |_| {});
    let mut body = br#"{"KeyId":"k","Plaintext":"AAAA"}"#.to_vec();
    body.resize(200_000, b' ');
    let text = running.post("TrentService.Encrypt", &body);
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    body.push(b' ');
    let text = running.post("TrentService.Encrypt", &body);
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    assert!(text.contains("larger than 200000 bytes"), "{text}");
}

#[test]
fn an_absurd_length_is_refused() {
    let running = start();
    let head = "POST / HTTP/1.1\r\nhost: x\r\nx-amz-target: TrentService.Encrypt\r\n\
                content-length: 18446744073709551615\r\n\r\n{}";
    let start = Instant::now();
    let text = running.raw(head.as_bytes());
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_head_byte_by_byte_is_cut() {
    let running = start();
    let mut stream = running.connect();
    let begun = Instant::now();
    let head =
        b"POST / HTTP/1.1\r\nhost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let mut cut = false;
    for byte in head.iter().cycle().take(400) {
        if stream.write_all(&[*byte]).is_err() {
            cut = true;
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    assert!(cut, "the connection stayed open for {:?}", begun.elapsed());
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_body_byte_by_byte_is_cut_with_an_error() {
    let running = start();
    let mut stream = running.connect();
    let begun = Instant::now();
    let request = http("TrentService.Encrypt", &[b' '; 1000]);
    let head = request.len() - 1000;
    stream.write_all(&request[..head]).unwrap();
    for byte in &request[head..] {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    let text = read_all(&mut stream);
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(text.contains("RequestTimeoutException"), "{text}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn the_caller_is_who_it_is_after_its_request_was_registered() {
    let running = start();
    let whoami = http("KmsdLocal.GetCallerIdentity", b"{}");
    assert!(!running.raw(&whoami).contains("renamed"));
    *running.service.renames.lock() = Some(Arc::clone(&running.auth));
    let text = running.raw(&whoami);
    assert!(text.contains(r#""UserName":"renamed""#), "{text}");
}

#[test]
fn idle_connections_are_closed_before_and_after_a_request() {
    let running = start();
    for requests in [0, 1, 2] {
        let mut stream = running.connect();
        for _ in 0..requests {
            let text =
                String::from_utf8(http("TrentService.EnableKey", br#"{"KeyId":"k"}"#)).unwrap();
            stream
                .write_all(text.replace("connection: close\r\n", "").as_bytes())
                .unwrap();
            let mut chunk = [0; 4096];
            assert!(stream.read(&mut chunk).unwrap() > 0);
        }
        let begun = Instant::now();
        assert_eq!(read_all(&mut stream), "");
        let waited = begun.elapsed();
        assert!(
            waited > Duration::from_millis(500),
            "{requests}: {waited:?}"
        );
        assert!(waited < Duration::from_secs(5), "{requests}: {waited:?}");
    }
}

#[test]
fn a_client_that_does_not_read_is_cut() {
    let running = start();
    let mut stream = running.connect();
    let request = http("TrentService.Encrypt", &encrypt_body(4096));
    let request = String::from_utf8(request)
        .unwrap()
        .replace("connection: close\r\n", "");
    let begun = Instant::now();
    // Pipelines requests without reading, until the server gives up.
    stream
        .set_write_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut failed = None;
    for _ in 0..5000 {
        if let Err(error) = stream.write_all(request.as_bytes()) {
            failed = Some(error.kind());
            break;
        }
    }
    assert!(
        matches!(
            failed,
            Some(std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset)
        ),
        "{failed:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}

fn encrypt_body(length: usize) -> Vec<u8> {
    let request = EncryptRequest {
        plaintext: Blob::new(vec![7; length]),
        ..encrypt("k")
    };
    Request::from(request).to_json().unwrap().to_vec()
}

#[test]
fn a_slow_operation_is_not_cut_by_the_deadlines() {
    let running = start();
    // 500 ms of work, heads are due in 300 ms.
    Client::new(&running.path).send(encrypt("slow")).unwrap();
}

#[test]
fn a_panic_is_an_error_reply() {
    let running = start();
    let client = Client::new(&running.path);
    let error = client.send(encrypt("panic")).unwrap_err();
    assert_eq!(error.api().unwrap().code, ErrorCode::Internal);
    client.send(encrypt("k")).unwrap();
}

#[test]
fn users_are_named_and_the_overflow_user_is_refused() {
    if own_uid() != 0 {
        println!("skipped: not root");
        return;
    }
    let running = start_with(quick(), |config| config.socket_mode = "0666".into());
    let dir = running.path.parent().unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    // As another user, through a child process.
    let script = "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die $!; \
        connect(S, sockaddr_un($ARGV[0])) or die $!; syswrite(S, $ARGV[1]); print while <S>;";
    let request = String::from_utf8(http("TrentService.Encrypt", &encrypt_body(5))).unwrap();
    for (uid, shown) in [("4321", "user/uid-4321"), ("65534", "user/nobody")] {
        let output = std::process::Command::new("setpriv")
            .args([
                "--reuid",
                uid,
                "--regid",
                uid,
                "--clear-groups",
                "/usr/bin/perl",
                "-e",
                script,
            ])
            .args([running.path.to_str().unwrap(), &request])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("connection: close\r\n"), "{text} {errors}");
        let arn = format!("arn:aws:iam::000000000000:{shown}");
        if uid == "4321" {
            // Whoever is known is asked about: policies decide.
            assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
            assert!(text.contains(&format!(r#""KeyId":"{arn}""#)), "{text}");
            continue;
        }
        let message =
            format!(r#"{{"Message":"User: {arn} is not authorized to perform: kms:Encrypt"#);
        assert!(text.contains(&message), "{text}");
        assert!(text.contains("AccessDeniedException"), "{text}");
    }
}

#[test]
fn users_take_no_place_of_administrators_and_services() {
    if own_uid() != 0 {
        println!("skipped: not root");
        return;
    }
    let limits = Limits {
        connections: 8,
        per_user: 8,
        idle: Duration::from_secs(20),
        head: Duration::from_secs(20),
        ..quick()
    };
    let running = start_with(limits, |config| config.socket_mode = "0666".into());
    let dir = running.path.parent().unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    // Twenty connections that say nothing, until this test lets go; those over the users' own
    // places are answered at once.
    let script = "use Socket; for (1..20) { socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die $!; \
        connect($s, sockaddr_un($ARGV[0])) or die $!; push @s, $s; } \
        sysread($s[19], $t, 4096); syswrite(STDOUT, $t); <STDIN>;";
    let mut child = std::process::Command::new("setpriv")
        .args(["--reuid", "4321", "--regid", "4321", "--clear-groups"])
        .args([
            "/usr/bin/perl",
            "-e",
            script,
            running.path.to_str().unwrap(),
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut answer = [0; 4096];
    let count = child.stdout.as_mut().unwrap().read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    let held: Vec<StdStream> = (0..7).map(|_| running.connect()).collect();
    let own = running.raw(&http("TrentService.Encrypt", &encrypt_body(5)));
    drop((held, child.stdin.take()));
    child.wait().unwrap();
    assert!(own.starts_with("HTTP/1.1 200 "), "{own}");
    assert!(answer.contains("ServiceUnavailableException"), "{answer}");
}

#[test]
fn connections_have_a_limit_per_user() {
    let running = start_with(
        Limits {
            per_user: 3,
            idle: Duration::from_secs(20),
            ..quick()
        },
        |_| {},
    );
    let held: Vec<StdStream> = (0..3).map(|_| running.connect()).collect();
    let text = read_all(&mut running.connect());
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert!(text.contains("ServiceUnavailableException"), "{text}");
    drop(held);
    let client = Client::new(&running.path);
    let deadline = Instant::now() + Duration::from_secs(5);
    while client.send(encrypt("k")).is_err() {
        assert!(Instant::now() < deadline, "places are not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn shutdown_ends_idle_connections_and_finishes_requests() {
    let mut running = start();
    let idle = running.connect();
    let path = running.path.clone();
    let slow = std::thread::spawn(move || Client::new(path).send(encrypt("slow")));
    std::thread::sleep(Duration::from_millis(150));
    let begun = Instant::now();
    running.stop();
    assert!(begun.elapsed() < Duration::from_secs(4));
    slow.join()
        .unwrap()
        .expect("the request in progress is answered");
    drop(idle);
    assert!(!running.path.exists(), "the socket is removed");
}

#[test]
fn a_client_reconnects_after_a_restart() {
    let mut running = start();
    let client = Client::new(&running.path);
    client.send(encrypt("k")).unwrap();
    running.stop();
    let down = client.send(encrypt("k")).unwrap_err();
    assert!(matches!(down, ClientError::Unreachable { .. }), "{down}");
    let dir = running.path.parent().unwrap().to_owned();
    let _enter = running.runtime.enter();
    let config = config(&dir);
    let listener = Listener::bind(&config).unwrap();
    let server = Server::with_limits(quick(), auth(&config), Arc::new(Echo::default()));
    let (_stop, stopping) = watch::channel(false);
    running
        .runtime
        .spawn(async move { server.run(listener, stopping).await });
    client.send(encrypt("k")).unwrap();
}

#[test]
fn the_socket_has_its_mode_and_replaces_a_stale_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = ServerConfig {
        socket_mode: "0604".into(),
        ..config(dir.path())
    };
    // Left behind by a crash.
    drop(StdListener::bind(&config.socket).unwrap());
    assert!(config.socket.exists());
    let listener = Listener::bind(&config).unwrap();
    let mode = std::fs::metadata(&config.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o604);
    assert!(!listener.is_passed());
    assert!(matches!(
        Listener::bind(&config),
        Err(ListenError::InUse(_))
    ));
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "no temporary names are left"
    );
    drop(listener);
    std::fs::remove_file(&config.socket).unwrap();
    std::fs::write(&config.socket, "data").unwrap();
    assert!(matches!(
        Listener::bind(&config),
        Err(ListenError::NotASocket(_))
    ));
    assert_eq!(std::fs::read(&config.socket).unwrap(), b"data");
    let missing = ServerConfig {
        socket: dir.path().join("no/x"),
        ..config
    };
    assert!(matches!(
        Listener::bind(&missing),
        Err(ListenError::Io { .. })
    ));
}
