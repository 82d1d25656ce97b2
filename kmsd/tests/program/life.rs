//! Configuration, readiness, socket activation, the end.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

use kms_api::{CreateKeyRequest, GetStatusRequest};

use super::*;

#[test]
fn the_configuration_is_checked() {
    let home = Home::new();
    let good = home.run(&["--check-config"]);
    assert!(good.status.success(), "{}", stderr(&good));
    home.configure("colour = \"red\"\n");
    for arguments in [&["--check-config"][..], &[], &["tpm-status"]] {
        let bad = home.run(arguments);
        assert_eq!(bad.status.code(), Some(3), "{}", stderr(&bad));
        let said = stderr(&bad);
        assert!(said.contains("line 8") && said.contains("colour"), "{said}");
        assert!(said.contains("--check-config"), "the next step: {said}");
    }
    home.configure("[server.x]\n");
    assert_eq!(home.run(&["--check-config"]).status.code(), Some(3));
    fs::remove_file(home.path("kmsd.toml")).unwrap();
    let missing = home.run(&["--check-config"]);
    assert_eq!(missing.status.code(), Some(3));
    assert_eq!(home.run(&["--no-such-option"]).status.code(), Some(2));
}

#[test]
fn a_host_that_is_not_enrolled_is_told_so() {
    let home = Home::new();
    let output = home.run(&[]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("enroll"), "{}", stderr(&output));
    assert!(!home.path("kmsd.sock").exists());
}

#[test]
fn the_service_manager_hears_of_start_and_end() {
    let home = Home::new();
    assert!(home.enroll().status.success());
    let manager = UnixDatagram::bind(home.path("notify")).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut command = home.command(&[]);
    command.env("NOTIFY_SOCKET", home.path("notify"));
    let mut kmsd = Running(command.stderr(Stdio::null()).spawn().unwrap());
    let heard = |word: &str| {
        let mut buffer = [0; 4096];
        loop {
            let count = manager.recv(&mut buffer).expect("a notification");
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if text.lines().any(|line| line == word) {
                return text;
            }
        }
    };
    let ready = heard("READY=1");
    assert!(ready.contains("STATUS=Serving requests"), "{ready}");
    // Ready means that it answers at once.
    home.client().send(GetStatusRequest {}).unwrap();
    heard("WATCHDOG=1");
    let pid = rustix::process::Pid::from_child(&kmsd.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    home.client().send(GetStatusRequest {}).unwrap();
    assert!(kmsd.terminate().success());
    heard("STOPPING=1");
    assert!(!home.path("kmsd.sock").exists());
}

#[test]
fn a_passed_socket_is_served_and_kept() {
    let home = Home::new();
    assert!(home.enroll().status.success());
    let listener = UnixListener::bind(home.path("kmsd.sock")).unwrap();
    let start = || {
        let kmsd = home.command(&[]);
        let mut shell = Command::new("sh");
        // As systemd does it: descriptor 3, and the process id of kmsd itself.
        shell.args([
            "-c",
            "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"",
            "sh",
        ]);
        shell.arg(kmsd.get_program()).args(kmsd.get_args());
        shell
            .stdin(OwnedFd::from(listener.try_clone().unwrap()))
            .stderr(Stdio::null());
        Running(shell.spawn().unwrap())
    };
    let mut kmsd = start();
    // Connects before kmsd is up: the socket holds the request until then.
    let client = home.client();
    client.send(CreateKeyRequest::default()).unwrap();
    assert!(kmsd.terminate().success());
    assert!(
        home.path("kmsd.sock").exists(),
        "the socket is the service manager's"
    );
    let mut kmsd = start();
    client
        .send(GetStatusRequest {})
        .expect("the client outlives a restart");
    assert!(kmsd.terminate().success());
}

#[test]
fn two_daemons_do_not_share_a_store() {
    let home = Home::new();
    assert!(home.enroll().status.success());
    let mut kmsd = home.start();
    let second = home.run(&[]);
    assert_eq!(second.status.code(), Some(64), "{}", stderr(&second));
    home.client().send(GetStatusRequest {}).unwrap();
    assert!(kmsd.terminate().success());
}

#[test]
fn the_log_has_one_line_for_each_request_and_no_secrets() {
    let home = Home::new();
    home.configure("[log]\nformat = \"json\"\nlevel = \"info,kmsd::api=debug\"\n");
    assert!(home.enroll().status.success());
    let mut kmsd = home.start();
    let client = home.client();
    let key_id = client
        .send(CreateKeyRequest::default())
        .unwrap()
        .key_metadata
        .key_id;
    client
        .send(kms_api::EncryptRequest {
            key_id: key_id.clone(),
            plaintext: kms_api::Blob::new(b"attack at dawn".to_vec()),
            encryption_context: Default::default(),
            grant_tokens: vec![],
            encryption_algorithm: None,
            dry_run: false,
        })
        .unwrap();
    let absent = kms_api::DescribeKeyRequest {
        key_id: "none".into(),
        grant_tokens: vec![],
    };
    client.send(absent).unwrap_err();
    assert!(kmsd.terminate().success());
    let log = read(&home.path("log"));
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let request = |operation: &str| {
        let name = format!("{operation:?}");
        let of = |line: &&serde_json::Value| line["operation"] == name.as_str();
        let found: Vec<_> = lines.iter().filter(of).collect();
        assert_eq!(found.len(), 1, "{operation}: {log}");
        found[0].clone()
    };
    // What only uses a key is of a lower level: there are very many of them.
    assert_eq!(request("Encrypt")["level"], "DEBUG");
    assert_eq!(request("CreateKey")["level"], "INFO");
    assert_eq!(request("DescribeKey")["level"], "INFO");
    let encrypt = request("Encrypt");
    assert_eq!(encrypt["outcome"], "ok");
    assert_eq!(encrypt["key"], format!("{key_id:?}"));
    assert!(
        encrypt["principal"]
            .as_str()
            .unwrap()
            .starts_with("arn:aws:iam::")
    );
    assert!(encrypt["duration_us"].is_u64());
    assert_eq!(encrypt["request_id"].as_str().unwrap().len(), 36);
    assert_eq!(request("DescribeKey")["outcome"], "NotFoundException");
    for secret in ["attack at dawn", "YXR0YWNrIGF0IGRhd24="] {
        assert!(!log.contains(secret));
    }
}

#[test]
fn the_check_of_the_configuration_looks_up_names_and_devices() {
    let home = Home::new();
    assert!(home.run(&["--check-config"]).status.success());
    let socket = home.path("kmsd.sock");
    let cases = [
        ("admin_group = \"no-such-group\"", "server.admin_group"),
        ("socket_group = \"no-such-group\"", "server.socket_group"),
        ("service_uids = [\"no-such-user\"]", "server.service_uids"),
        ("account = \"12\"", "server.account"),
        (
            "[seal]\ndevice = \"swtpm:host=127.0.0.1,port=99999\"",
            "seal.device",
        ),
    ];
    for (line, key) in cases {
        let text = format!("[server]\nsocket = {socket:?}\n\n{line}\n");
        fs::write(home.path("kmsd.toml"), text).unwrap();
        let output = home.run(&["--check-config"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{line}: {said}");
        assert!(said.contains(key), "{line}: {said}");
        let number = if line.starts_with('[') { 5 } else { 4 };
        assert!(said.contains(&format!("line {number}")), "{line}: {said}");
    }
}
