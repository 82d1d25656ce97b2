//! kmsd over TLS: requests signed by boto3 and by a signer written for this test, certificates and access keys that change
//! while connections are open.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use kms_tests::network::{AccessKey, Endpoint, free_port};
use kms_tests::world::World;
use kms_tests::{cli, programs, require, tools, wait};
use serde_json::json;

fn script(world: &World, endpoint: &Endpoint, key: &AccessKey) -> Command {
    let mut command = Command::new(tools::python());
    command.arg(programs::source_root().join("tests/e2e/network_client.py"));
    endpoint.equip(&mut command, key, &world.path("home"));
    command
}

#[test]
fn boto3_signs_and_kmsd_answers_as_aws_does() {
    if !require::tpm() {
        return;
    }
    let (world, endpoint) = World::start_with_tls();
    let root = world.access_key("root");
    let alice = world.access_key("user:alice");
    let output = script(&world, &endpoint, &root)
        .arg("tests")
        .env("ALICE_ID", &alice.id)
        .env("ALICE_SECRET", &alice.secret)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    // unittest counts what it ran: an empty run is no success.
    assert!(said.contains("Ran 10 tests"), "{said}");

    // What CloudTrail has of it, and nothing of a user of this host.
    let events = world
        .kmsctl(&["audit", "search", "--operation", "Encrypt", "--json"])
        .ok()
        .stdout;
    assert!(events.contains(&root.id), "{events}");
    let log = world.path("cloudtrail.json");
    let exported = world
        .kmsctl(&["audit", "export", "--cloudtrail"])
        .ok()
        .stdout;
    fs::write(&log, &exported).unwrap();
    for part in [
        "\"sourceIPAddress\":\"127.0.0.1\"",
        &format!("\"accessKeyId\":\"{}\"", root.id),
        "Boto3/",
        "\"errorCode\":\"InvalidSignatureException\"",
    ] {
        assert!(exported.contains(part), "{part} in\n{exported}");
    }
    for secret in [&root.secret, &alice.secret] {
        assert!(
            !exported.contains(secret.as_str()),
            "a secret is in the log"
        );
        assert!(!world.daemon.log().contains(secret.as_str()));
    }
    let listed = world.kmsctl(&["access-key", "list", "--json"]).ok().json();
    let used = |id: &str| {
        let keys = listed["AccessKeys"].as_array().unwrap();
        let found = keys.iter().find(|key| key["AccessKeyId"] == id).unwrap();
        found["LastUsedDate"].is_number()
    };
    assert!(used(&root.id) && used(&alice.id));
}

/// A client that keeps its connection and does what it is told.
struct Client {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Client {
    fn start(mut command: Command) -> Self {
        let mut process = command
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            to: process.stdin.take().unwrap(),
            from: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.to, "{what}").unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn access_keys_and_certificates_change_under_open_connections() {
    if !require::tpm() {
        return;
    }
    let (mut world, endpoint) = World::start_with_tls();
    let root = world.access_key("root");
    let mut client = Client::start(script(&world, &endpoint, &root));
    assert_eq!(client.ask("call"), "ok");
    world.kmsctl(&["access-key", "disable", &root.id]).ok();
    // The same connection: it has been open all the time.
    assert_eq!(client.ask("call"), "UnrecognizedClientException");
    world.kmsctl(&["access-key", "enable", &root.id]).ok();
    assert_eq!(client.ask("call"), "ok");

    let before = client.ask("certificate");
    let folder = endpoint.folder.to_str().unwrap();
    let renew = ["tls", "renew", "--directory", folder, "--name", "localhost"];
    cli::run("kmsd", &renew, None).ok();
    wait::until_true("the new certificate", wait::PATIENCE, || {
        client.ask("certificate") != before
    });
    assert_eq!(client.ask("call"), "ok", "the open connection stays");
    assert_eq!(client.ask("fresh"), "ok", "the authority is the same");
    // A file that is none: the certificate in force stays.
    let now = client.ask("certificate");
    let path = endpoint.folder.join("server.crt");
    let good = fs::read(&path).unwrap();
    fs::write(&path, "no certificate\n").unwrap();
    wait::until_true("a complaint", wait::PATIENCE, || {
        world.daemon.log().contains("the former one stays in force")
    });
    assert_eq!(client.ask("certificate"), now);
    fs::write(&path, good).unwrap();

    // Access keys outlive kmsd.
    world.daemon.stop();
    world.daemon.start();
    assert_eq!(client.ask("fresh"), "ok");
    world.kmsctl(&["access-key", "delete", &root.id]).ok();
    assert_eq!(client.ask("call"), "UnrecognizedClientException");
    assert_eq!(client.ask("fresh"), "UnrecognizedClientException");
}

#[test]
fn clients_show_certificates_where_they_must() {
    if !require::tpm() {
        return;
    }
    let mut world = World::enrolled();
    let ca = world.path("tls/ca.crt");
    let more = format!("client_ca = {ca:?}");
    let endpoint = Endpoint::configure(&world.daemon, &world.path(""), &more);
    world.daemon.start();
    let key = world.access_key("role:web");
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "kms:ListKeys", "Resource": "*"}]});
    let body = json!({"IdentityType": "ROLE", "Identity": "web", "PolicyName": "p", "Document": policy.to_string()});
    let reply = kms_tests::http::post(
        &world.daemon.socket(),
        "KmsdLocal.PutIdentityPolicy",
        body.to_string().as_bytes(),
    );
    assert_eq!(reply.status, 200, "{}", reply.text);
    let folder = endpoint.folder.to_str().unwrap();
    cli::run(
        "kmsd",
        &["tls", "client", "--directory", folder, "--name", "web1"],
        None,
    )
    .ok();
    let mut without = Client::start(script(&world, &endpoint, &key));
    assert_eq!(without.ask("fresh"), "no connection");
    let mut with = script(&world, &endpoint, &key);
    with.env("CLIENT_CERT", endpoint.folder.join("web1.crt"))
        .env("CLIENT_KEY", endpoint.folder.join("web1.key"));
    let mut with = Client::start(with);
    assert_eq!(with.ask("fresh"), "ok");
    // The certificate is in the record, and stands for no signature.
    assert_eq!(with.ask("unsigned"), "MissingAuthenticationTokenException");
    let events = world
        .kmsctl(&["audit", "search", "--operation", "ListKeys", "--json"])
        .ok()
        .stdout;
    assert!(events.contains("certificate"), "{events}");
    assert!(events.contains("assumed-role/web/"), "{events}");
}

#[test]
fn kmsctl_asks_over_the_network_and_crowds_are_let_go() {
    if !require::tpm() {
        return;
    }
    let mut world = World::enrolled();
    let mut endpoint = Endpoint::configure(&world.daemon, &world.path(""), "");
    let plain = free_port();
    world.daemon.add_config(&format!(
        "[network]\nmax_connections_per_address = 2\nhandshake_timeout = 5\nhosts = [\"localhost\", \"127.0.0.1:{plain}\"]\n[http]\nlisten = [\"127.0.0.1:{plain}\"]\n"
    ));
    world.daemon.start();
    let key = world.access_key("user:alice");

    // Without a handshake: two hold all that their address may have, the third is let go at once, and they in the end.
    let connect = || TcpStream::connect(("127.0.0.1", endpoint.port)).unwrap();
    let mut silent = [connect(), connect()];
    let mut third = connect();
    let ends = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_))
    };
    assert!(ends(&mut third));
    let refused = "a connection over the limit was refused";
    assert!(
        world.daemon.log().contains(refused),
        "{}",
        world.daemon.log()
    );
    assert!(silent.iter_mut().all(ends));

    let kmsctl = |url: &str, key: &AccessKey| {
        let mut command = Command::new(programs::path("kmsctl"));
        endpoint.equip(&mut command, key, &world.path("home"));
        let output = command
            .args(["--endpoint", url, "whoami", "--json"])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let http = format!("http://127.0.0.1:{plain}");
    for (url, is_secure) in [(endpoint.url.as_str(), true), (http.as_str(), false)] {
        let (code, said) = kmsctl(url, &key);
        assert_eq!(code, Some(0), "{said}");
        let whoami: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(whoami["Arn"], "arn:aws:iam::000000000000:user/alice");
        assert_eq!(whoami["Network"]["AccessKeyId"], key.id);
        assert_eq!(whoami["Network"]["SecureTransport"], is_secure);
        assert!(whoami["Uid"].is_null(), "{whoami}");
    }
    let wrong = AccessKey {
        secret: "wrong".into(),
        ..key.clone()
    };
    let (code, said) = kmsctl(&endpoint.url, &wrong);
    assert!(
        code == Some(4) && said.contains("InvalidSignatureException"),
        "{said}"
    );
    // It is there under this name, too, but not meant.
    let (code, said) = kmsctl(&format!("https://127.0.0.1:{}", endpoint.port), &key);
    assert!(
        code == Some(4) && said.contains("none of this kmsd's names (network.hosts)"),
        "{said}"
    );
    let (code, said) = kmsctl("http://192.0.2.1:80", &key);
    assert!(
        code == Some(2) && said.contains("on this host only"),
        "{said}"
    );

    // Loopback without TLS takes no unsigned requests either.
    endpoint.url = http;
    let mut client = Client::start(script(&world, &endpoint, &key));
    assert_eq!(
        client.ask("unsigned"),
        "MissingAuthenticationTokenException"
    );
    assert_eq!(
        client.ask("fresh"),
        "AccessDeniedException",
        "alice has no policy"
    );
    // An authority that is not kmsd's: no connection.
    let other = world.path("other");
    let arguments = [
        "tls",
        "init",
        "--directory",
        other.to_str().unwrap(),
        "--name",
        "localhost",
    ];
    cli::run("kmsd", &arguments, None).ok();
    endpoint.url = format!("https://localhost:{}", endpoint.port);
    endpoint.ca = other.join("ca.crt");
    let mut client = Client::start(script(&world, &endpoint, &key));
    assert_eq!(client.ask("fresh"), "no connection");
}
