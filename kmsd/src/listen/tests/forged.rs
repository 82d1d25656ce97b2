//! Who pretends to be another: descriptors that change hands, programs that change, user namespaces,
//! processes that name users without being a service.

use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use super::*;

/// Connects, and writes its second argument; what comes back goes to standard output.
const CLIENT: &str = "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die $!; \
    connect(S, sockaddr_un($ARGV[0])) or die $!; syswrite(S, $ARGV[1]); print while <S>;";

fn whoami() -> String {
    let request = http("KmsdLocal.GetCallerIdentity", b"{}");
    String::from_utf8(request).unwrap()
}

/// Sends a request over a connection of this process, from a child that has it as its standard output.
fn from_a_child(running: &Running, prefix: &[&str]) -> String {
    let mut stream = running.connect();
    let output: OwnedFd = stream.try_clone().unwrap().into();
    let words = [
        prefix,
        &["/usr/bin/perl", "-e", "syswrite(STDOUT, $ARGV[0])"],
    ]
    .concat();
    let child = Command::new(words[0])
        .args(&words[1..])
        .arg(whoami())
        .stdout(Stdio::from(output))
        .status()
        .unwrap();
    assert!(child.success());
    read_all(&mut stream)
}

fn client(running: &Running, prefix: &[&str], request: &str) -> Output {
    let dir = running.path.parent().unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let words = [prefix, &["/usr/bin/perl", "-e", CLIENT]].concat();
    Command::new(words[0])
        .args(&words[1..])
        .args([running.path.to_str().unwrap(), request])
        .output()
        .unwrap()
}

fn printed(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{}{stderr}", String::from_utf8_lossy(&output.stdout))
}

fn assert_denied(running: &Running, text: &str, reason: &str) {
    assert!(text.contains("AccessDeniedException"), "{text}");
    assert!(text.contains(reason), "{text}");
    let recorded = running.service.refused.lock();
    let last = recorded.last().expect("the refusal is recorded");
    assert!(last.contains(reason), "{last}");
}

#[test]
fn the_process_that_connected_is_answered() {
    let running = start();
    let text = running.raw(whoami().as_bytes());
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let pid = format!(r#""Pid":{},"#, std::process::id());
    assert!(text.contains(&pid), "{text}");
    let exe = std::env::current_exe().unwrap();
    assert!(text.contains(exe.to_str().unwrap()), "{text}");
    assert!(running.service.refused.lock().is_empty());
}

#[test]
fn a_descriptor_of_another_process_gains_nothing() {
    let running = start();
    let text = from_a_child(&running, &["/usr/bin/env"]);
    assert_denied(&running, &text, "was sent by another process");
    assert!(text.contains("connection: close\r\n"), "{text}");
}

#[test]
fn a_descriptor_of_another_user_gains_nothing() {
    if own_uid() != 0 {
        println!("skipped: not root");
        return;
    }
    let running = start();
    let user = ["/usr/bin/setpriv", "--reuid", "4321", "--clear-groups"];
    let text = from_a_child(&running, &user);
    assert_denied(&running, &text, "another process (uid 4321, pid ");
}

#[test]
fn one_foreign_byte_spoils_a_request_and_all_after_it() {
    let running = start();
    let mut stream = running.connect();
    let request = whoami().replace("connection: close\r\n", "");
    let (first, rest) = request.split_at(10);
    stream.write_all(first.as_bytes()).unwrap();
    let status = Command::new("/usr/bin/perl")
        .args(["-e", "syswrite(STDOUT, $ARGV[0])", &rest[..1]])
        .stdout(Stdio::from(OwnedFd::from(stream.try_clone().unwrap())))
        .status()
        .unwrap();
    assert!(status.success());
    stream.write_all(&rest.as_bytes()[1..]).unwrap();
    let text = read_all(&mut stream);
    assert_denied(&running, &text, "was sent by another process");
}

#[test]
fn another_program_after_the_connect_has_no_facts() {
    let running = start();
    // The same process: connects as perl, waits until it is known as that, and goes on as the shell.
    let script = r#"use Socket; $^F = 100; socket(S, AF_UNIX, SOCK_STREAM, 0) or die $!;
        connect(S, sockaddr_un($ARGV[0])) or die $!; my $fd = fileno(S);
        syswrite(S, $ARGV[1]); sysread(S, $answer, 65536); $answer =~ m,"Exe":"[^"]*perl, or die $answer;
        exec("/bin/sh", "-c", "printf '%s' \"\$1\" >&$fd; cat <&$fd", "sh", $ARGV[2]);"#;
    let keep = whoami().replace("connection: close\r\n", "");
    let output = Command::new("/usr/bin/perl")
        .args([
            "-e",
            script,
            running.path.to_str().unwrap(),
            &keep,
            &whoami(),
        ])
        .output()
        .unwrap();
    let text = printed(&output);
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert!(!text.contains(r#""Process""#), "{text}");
    assert!(!text.contains("perl"), "{text}");
}

#[test]
fn another_user_namespace_is_refused() {
    let running = start();
    let output = client(
        &running,
        &["/usr/bin/unshare", "--user", "--map-root-user"],
        &whoami(),
    );
    let text = printed(&output);
    if text.contains("unshare failed") || text.contains("Operation not permitted") {
        println!("skipped: no user namespaces here: {text}");
        return;
    }
    assert_denied(&running, &text, "it runs in another user namespace");
    assert!(text.contains("connection: close\r\n"), "{text}");
}

#[test]
fn only_services_name_users() {
    let running = start_with(quick(), |config| config.socket_mode = "0666".into());
    let request =
        |header: &str| whoami().replace("host: x\r\n", &format!("host: x\r\n{header}\r\n"));
    let named = request("X-Kmsd-On-Behalf-Of: uid=0;gid=0;pid=1");
    if own_uid() == 0 {
        // Root is not a service.
        let text = running.raw(named.as_bytes());
        assert_denied(&running, &text, "may ask on behalf of others");
        // A service of its own uid is one.
        let text = printed(&client(&running, &SERVICE, &named));
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        assert!(
            text.contains(r#""Arn":"arn:aws:iam::000000000000:root""#),
            "{text}"
        );
        let via = r#""Via":{"Service":"kmsfs.local-host-1.amazonaws.com""#;
        assert!(text.contains(via), "{text}");
        let reliance = "x-kmsd-reliance: {\"Epoch\":7,\"Milliseconds\":2500}\r\n";
        assert!(text.contains(reliance), "{text}");
        // An error may be relied on, too.
        let body = br#"{"CiphertextBlob":"AAAA"}"#;
        let decrypt = String::from_utf8(http("TrentService.Decrypt", body)).unwrap();
        let header = "host: x\r\nX-Kmsd-On-Behalf-Of: uid=0;gid=0;pid=1\r\n";
        let decrypt = decrypt.replace("host: x\r\n", header);
        let text = printed(&client(&running, &SERVICE, &decrypt));
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        let reliance = "x-kmsd-reliance: {\"Epoch\":8,\"Milliseconds\":900}\r\n";
        assert!(text.contains(reliance), "{text}");
        // Not for the administration of keys.
        let body = br#"{"KeyId":"k"}"#;
        let enable = String::from_utf8(http("TrentService.EnableKey", body)).unwrap();
        let header = "host: x\r\nX-Kmsd-On-Behalf-Of: uid=0;gid=0;pid=1\r\n";
        let enable = enable.replace("host: x\r\n", header);
        let text = printed(&client(&running, &SERVICE, &enable));
        assert_denied(
            &running,
            &text,
            "services do not ask for it on behalf of users",
        );
    }
    for header in [
        "X-Kmsd-On-Behalf-Of: alice",
        "X-Kmsd-On-Behalf-Of:",
        "X-Kmsd-On-Behalf-Of: uid=1;gid=1;pid=1\r\nX-Kmsd-On-Behalf-Of: uid=1;gid=1;pid=1",
    ] {
        let text = running.raw(request(header).as_bytes());
        assert!(text.contains("ValidationException"), "{header}: {text}");
    }
}

const SERVICE: [&str; 6] = [
    "/usr/bin/setpriv",
    "--reuid",
    "4320",
    "--regid",
    "4320",
    "--clear-groups",
];
