//! The client against small servers on real Unix sockets.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::{
    CreateVolumeRequest, ErrorCode, GenerateRandomRequest, ListKeysRequest, ListKeysResponse,
};

const EMPTY_LIST: &str = r#"{"Keys":[],"Truncated":false}"#;

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one request (head and announced body).
fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        text.push(char::from(byte[0]));
    }
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |n| n.parse::<usize>().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    text.push_str(&String::from_utf8(body).unwrap());
    Some(text)
}

fn list(client: &Client) -> Result<ListKeysResponse, ClientError> {
    client.send(ListKeysRequest::default())
}

#[test]
fn keeps_the_connection_and_speaks_the_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        while let Some(request) = read_request(&mut stream) {
            seen.push(request);
            stream.write_all(ok(EMPTY_LIST).as_bytes()).unwrap();
        }
        seen
    });
    let client = Client::new(&path);
    for _ in 0..3 {
        assert!(!list(&client).unwrap().truncated);
    }
    drop(client);
    let seen = server.join().unwrap();
    assert_eq!(seen.len(), 3, "one connection served all three");
    assert!(seen[0].starts_with("POST / HTTP/1.1\r\n"));
    assert!(seen[0].contains("X-Amz-Target: TrentService.ListKeys\r\n"));
    assert!(seen[0].contains("Content-Type: application/x-amz-json-1.1\r\n"));
    assert!(seen[0].ends_with("\r\n\r\n{}"));
}

#[test]
fn a_service_names_its_user_and_learns_how_long_an_answer_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let first = read_request(&mut stream).unwrap();
        let held = "X-Kmsd-Reliance: {\"Epoch\":12,\"Milliseconds\":2500}\r\n\r\n";
        let reply = ok(EMPTY_LIST).replacen("\r\n\r\n", &format!("\r\n{held}"), 1);
        stream.write_all(reply.as_bytes()).unwrap();
        let second = read_request(&mut stream).unwrap();
        stream.write_all(ok(EMPTY_LIST).as_bytes()).unwrap();
        (first, second)
    });
    let client = Client::new(&path);
    let user = User {
        uid: 1000,
        gid: 100,
        pid: 4711,
    };
    let lease = ResourceId([7; 16]);
    let asking = Asking {
        user: Some(user),
        lease: Some(lease),
        deadline: None,
    };
    let request = ListKeysRequest::default;
    let answer = client.send_as(request(), asking).unwrap();
    let reliance = Reliance {
        epoch: 12,
        milliseconds: 2500,
    };
    assert_eq!(answer.reliance, Some(reliance));
    let answer = client.send_as(request(), Asking::default()).unwrap();
    assert_eq!(
        answer.reliance, None,
        "what is not promised is not relied on"
    );
    let (first, second) = server.join().unwrap();
    let header = "x-kmsd-on-behalf-of: uid=1000;gid=100;pid=4711\r\n";
    assert!(first.contains(header), "{first}");
    assert!(
        first.contains(&format!("x-kmsd-lease: {}\r\n", "07".repeat(16))),
        "{first}"
    );
    assert!(!second.contains("x-kmsd"), "{second}");
}

#[test]
fn a_refusal_is_an_answer_that_may_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for more in [
            "",
            "X-Kmsd-Reliance: {\"Epoch\":3,\"Milliseconds\":700}\r\n",
        ] {
            read_request(&mut stream).unwrap();
            let body = ApiError::new(ErrorCode::AccessDenied, "no").to_json();
            let head = format!(
                "HTTP/1.1 400 Bad Request\r\n{more}Content-Length: {}\r\n\r\n",
                body.len()
            );
            stream
                .write_all(&[head.as_bytes(), &body].concat())
                .unwrap();
        }
    });
    let client = Client::new(&path);
    let ask = || client.ask(ListKeysRequest::default(), Asking::default());
    let first = ask().unwrap();
    assert_eq!(first.output.unwrap_err().code, ErrorCode::AccessDenied);
    assert_eq!(first.reliance, None);
    let second = ask().unwrap();
    assert_eq!(second.output.unwrap_err().code, ErrorCode::AccessDenied);
    let reliance = Reliance {
        epoch: 3,
        milliseconds: 700,
    };
    assert_eq!(second.reliance, Some(reliance));
    server.join().unwrap();
}

#[test]
fn a_deadline_of_its_own_ends_the_wait_for_one_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream).unwrap();
        // Never answered.
        read_request(&mut stream)
    });
    let client = Client::new(&path);
    let asking = Asking {
        deadline: Some(Instant::now() + Duration::from_millis(20)),
        ..Asking::default()
    };
    let late = client
        .send_as(ListKeysRequest::default(), asking)
        .unwrap_err();
    let ClientError::Unreachable { source, .. } = late else {
        panic!("{late}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::TimedOut);
    drop(client);
    server.join().unwrap();
}

#[test]
fn replaces_idle_connections_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let client = Client::new(&path);
    for _ in 0..3 {
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_request(&mut stream).unwrap();
            stream.write_all(ok(EMPTY_LIST).as_bytes()).unwrap();
        });
        list(&client).unwrap();
        server.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
    let gone = list(&client).unwrap_err();
    assert!(matches!(gone, ClientError::Unreachable { .. }), "{gone}");
}

#[test]
fn a_request_that_may_have_been_done_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    thread::spawn(move || {
        // Answers the first request of each connection, then takes another and hangs up.
        while let Ok((mut stream, _)) = listener.accept() {
            if read_request(&mut stream).is_some() {
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(ok(EMPTY_LIST).as_bytes());
            }
            if read_request(&mut stream).is_some() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let client = Client::new(&path);
    list(&client).unwrap();
    let lost = client.send(CreateVolumeRequest::default()).unwrap_err();
    assert!(matches!(lost, ClientError::Unreachable { .. }), "{lost}");
    assert_eq!(
        calls.load(Ordering::SeqCst),
        2,
        "CreateVolume was sent once"
    );
    list(&client).unwrap();
    list(&client).expect("a repeatable request is sent again on a fresh connection");
    assert_eq!(calls.load(Ordering::SeqCst), 5);
}

#[test]
fn a_silent_server_ends_in_a_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let client = Client::new(&path).with_timeout(Duration::from_millis(200));
    let start = Instant::now();
    let Err(ClientError::Unreachable { source, .. }) = list(&client) else {
        panic!("no timeout");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::TimedOut);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_dribbling_server_ends_in_a_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let (stop, stopped) = mpsc::channel::<()>();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stopped.recv_timeout(Duration::from_millis(20)).is_err() {
            let _ = stream.write_all(b"H");
        }
    });
    let client = Client::new(&path).with_timeout(Duration::from_millis(300));
    let error = list(&client).unwrap_err();
    // "HHHH…" is refused as soon as it cannot be a status line; either way it ends.
    assert!(!matches!(error, ClientError::Api(_)), "{error}");
    stop.send(()).unwrap();
    server.join().unwrap();
}

#[test]
fn errors_and_garbage_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let answers = [
        (
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 39\r\n\r\n{\"__type\":\"InvalidCiphertextException\"}",
            "api",
        ),
        (
            "HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\nno",
            "protocol",
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", "protocol"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            "protocol",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "protocol"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "protocol"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}", "lost"),
    ];
    for (index, (answer, expected)) in answers.into_iter().enumerate() {
        let path = dir.path().join(index.to_string());
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_request(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let request = GenerateRandomRequest {
            number_of_bytes: Some(1),
            custom_key_store_id: None,
        };
        let error = Client::new(&path).send(request).unwrap_err();
        server.join().unwrap();
        match (expected, &error) {
            ("api", ClientError::Api(e)) => assert_eq!(e.code, ErrorCode::InvalidCiphertext),
            ("protocol", ClientError::Protocol(_)) | ("lost", ClientError::Unreachable { .. }) => {}
            _ => panic!("{answer:?} gave {error:?}"),
        }
    }
}
