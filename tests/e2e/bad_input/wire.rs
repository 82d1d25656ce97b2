//! What comes over the socket.

use std::io::Write;
use std::time::{Duration, Instant};

use kms_tests::world::World;
use kms_tests::{http, require};
use serde_json::{Value, json};

/// kmsd lives, has not panicked, and still answers.
#[track_caller]
fn assert_well(world: &mut World) {
    world.daemon.process().assert_running();
    let log = world.daemon.log();
    assert!(!log.contains("panicked"), "{log}");
    world.call("GenerateRandom", &json!({ "NumberOfBytes": 8 }));
}

#[test]
fn wrong_requests_get_the_right_error() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    let socket = world.daemon.socket();
    let cases: [(&str, &[u8], &str); 16] = [
        (
            "TrentService.NoSuchOperation",
            b"{}",
            "UnknownOperationException",
        ),
        ("NoSuchService.Encrypt", b"{}", "UnknownOperationException"),
        ("", b"{}", "UnknownOperationException"),
        ("Encrypt", b"{}", "UnknownOperationException"),
        (
            "TrentService.Encrypt",
            b"",
            "SerializationException|ValidationException",
        ),
        ("TrentService.Encrypt", b"{", "SerializationException"),
        ("TrentService.Encrypt", b"[]", "SerializationException"),
        ("TrentService.Encrypt", b"null", "SerializationException"),
        (
            "TrentService.Encrypt",
            b"\xff\xfe{}",
            "SerializationException",
        ),
        ("TrentService.Encrypt", b"{}", "ValidationException"),
        (
            "TrentService.Encrypt",
            br#"{"KeyId": "alias/a"}"#,
            "ValidationException",
        ),
        (
            "TrentService.Encrypt",
            br#"{"KeyId": 7, "Plaintext": "YQ=="}"#,
            "SerializationException",
        ),
        (
            "TrentService.Encrypt",
            br#"{"KeyId": "alias/a", "Plaintext": "not base64!"}"#,
            "SerializationException",
        ),
        (
            "TrentService.Encrypt",
            br#"{"KeyId": "alias/a", "Plaintext": ""}"#,
            "ValidationException",
        ),
        (
            "TrentService.Decrypt",
            br#"{"CiphertextBlob": "AAAA"}"#,
            "InvalidCiphertextException",
        ),
        (
            "KmsdLocal.GetPolicy",
            br#"{"VolumeId": "zz", "PolicyId": "zz"}"#,
            "ValidationException",
        ),
    ];
    for (target, body, expected) in cases {
        let reply = http::post(&socket, target, body);
        let text = String::from_utf8_lossy(body).into_owned();
        assert!(
            expected.split('|').any(|code| code == reply.error()),
            "{target} {text}: expected {expected}, got {}",
            reply.text
        );
        assert!(
            (400..500).contains(&reply.status),
            "{target} {text}: {}",
            reply.text
        );
    }
    // Nested too deep, and a number no type can hold.
    let deep = [
        b"{\"a\":".repeat(50_000),
        b"1".to_vec(),
        b"}".repeat(50_000),
    ]
    .concat();
    assert!((400..500).contains(&http::post(&socket, "TrentService.Encrypt", &deep).status));
    let huge = br#"{"NumberOfBytes": 1e400}"#;
    assert!((400..500).contains(&http::post(&socket, "TrentService.GenerateRandom", huge).status));
    assert_well(&mut world);
}

#[test]
fn what_is_not_http_is_turned_away() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    let socket = world.daemon.socket();
    let refused: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /elsewhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
    ];
    for bytes in refused {
        if let Some(reply) = http::send(&socket, bytes) {
            assert!(reply.status >= 400, "{bytes:?}: {}", reply.text);
        }
    }
    // Header lines without end.
    let endless = format!(
        "POST / HTTP/1.1\r\n{}",
        "X-Filler: aaaaaaaaaaaaaaaa\r\n".repeat(100_000)
    );
    if let Some(reply) = http::send(&socket, endless.as_bytes()) {
        assert!(reply.status >= 400, "{}", reply.text);
    }
    assert_well(&mut world);
}

#[test]
fn a_body_of_ten_megabytes_is_refused() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    let socket = world.daemon.socket();
    let body = format!("{{\"KeyId\": \"{}\"}}", "a".repeat(10 << 20));
    let target = "X-Amz-Target: TrentService.DescribeKey\r\n";
    let announced = format!(
        "POST / HTTP/1.1\r\nHost: x\r\n{target}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: x\r\n{target}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         {:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    for request in [announced, chunked] {
        let asked = Instant::now();
        if let Some(reply) = http::send(&socket, request.as_bytes()) {
            assert!((400..500).contains(&reply.status), "{}", reply.text);
        }
        assert!(asked.elapsed() < Duration::from_secs(30));
    }
    assert_well(&mut world);
}

#[test]
fn slow_clients_are_dropped_and_hold_up_nobody() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    let socket = world.daemon.socket();
    // One stops within the header, one within the body, one says nothing at all.
    let beginnings: [&[u8]; 3] = [
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Tar",
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: TrentService.ListKeys\r\nContent-Length: 500\r\n\r\n{",
        b"",
    ];
    let mut slow: Vec<_> = beginnings
        .iter()
        .map(|bytes| {
            let mut stream = http::connect(&socket);
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    assert_well(&mut world);
    // http::read fails when nothing happens within a minute.
    for stream in &mut slow[..2] {
        if let Some(reply) = http::read(stream) {
            assert!(reply.status >= 400, "{}", reply.text);
        }
    }
    assert_well(&mut world);
}

#[test]
fn no_single_bit_of_a_blob_can_change() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    world.key("alias/a");
    let sealed = world.call(
        "Encrypt",
        &json!({ "KeyId": "alias/a", "Plaintext": "c2VjcmV0" }),
    );
    let blob = sealed["CiphertextBlob"].as_str().unwrap();
    let bytes = data_encoding::BASE64.decode(blob.as_bytes()).unwrap();
    let decrypt = |world: &World, bytes: &[u8]| {
        let body = json!({ "CiphertextBlob": data_encoding::BASE64.encode(bytes) });
        world.post("Decrypt", &body)
    };
    assert_eq!(
        decrypt(&world, &bytes).json["Plaintext"],
        Value::from("c2VjcmV0")
    );
    let refused = |reply: &http::Reply| {
        reply.status == 400
            && ["InvalidCiphertextException", "AccessDeniedException"].contains(&reply.error())
    };
    for position in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[position] ^= 1 << (position % 8);
        let reply = decrypt(&world, &changed);
        assert!(refused(&reply), "bit in byte {position}: {}", reply.text);
    }
    for length in (1..bytes.len()).step_by(3) {
        let reply = decrypt(&world, &bytes[..length]);
        assert!(refused(&reply), "cut to {length} bytes: {}", reply.text);
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(refused(&decrypt(&world, &longer)));

    // A blob of another host is foreign here.
    let other = World::start();
    other.key("alias/a");
    let foreign = other.call(
        "Encrypt",
        &json!({ "KeyId": "alias/a", "Plaintext": "c2VjcmV0" }),
    );
    let body = json!({ "CiphertextBlob": foreign["CiphertextBlob"] });
    let reply = world.post("Decrypt", &body);
    assert!(refused(&reply), "{}", reply.text);
    assert_well(&mut world);
}

#[test]
fn mangled_requests_never_stop_it() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    world.key("alias/a");
    let socket = world.daemon.socket();
    let body = br#"{"KeyId": "alias/a", "Plaintext": "c2VjcmV0", "EncryptionContext": {"a": "b"}}"#;
    let request = [
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: TrentService.Encrypt\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )
        .as_bytes(),
        body,
    ]
    .concat();
    // A fixed sequence: a failure comes back.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..300 {
        let mut mangled = request.clone();
        for _ in 0..=random(4) {
            let position = random(mangled.len());
            match random(4) {
                0 => mangled[position] ^= 1 << random(8),
                1 => mangled[position] = random(256) as u8,
                2 => drop(mangled.remove(position)),
                _ => mangled.insert(position, random(256) as u8),
            }
        }
        let mut stream = http::connect(&socket);
        let _ = stream.write_all(&mangled);
        // Otherwise a length that grew would wait for its deadline.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        if let Some(reply) = http::read(&mut stream) {
            assert!(
                reply.status < 500,
                "{}: {}",
                String::from_utf8_lossy(&mangled),
                reply.text
            );
        }
    }
    assert_well(&mut world);
}
