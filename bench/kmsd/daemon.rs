//! A kmsd with the software sealer and a throw-away store.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_api::sigv4::Credentials;
use kms_tests::process::Process;
use kms_tests::{cli, http, programs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use crate::load::{Place, Tls};

/// A kmsd of its own.
pub(crate) struct Daemon {
    pub(crate) name: &'static str,
    pub(crate) socket: PathBuf,
    /// ARN of a key.
    pub(crate) key: String,
    folder: PathBuf,
    process: Process,
}

impl Daemon {
    /// Makes a store and starts a kmsd for it; `more` goes to the end of its configuration.
    pub(crate) fn start(name: &'static str, folder: &Path, more: &str) -> Daemon {
        let folder = folder.join(name.replace(' ', "-"));
        let store = folder.join("store");
        fs::create_dir_all(&store).expect("make the store's folder");
        let (socket, config) = (folder.join("kmsd.sock"), folder.join("kmsd.toml"));
        let text = format!(
            "[server]\nsocket = {socket:?}\n[store]\ndirectory = {store:?}\n\
             [seal]\nkind = \"software\"\nkey_file = {:?}\n{more}",
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
        let process = run(&folder);
        wait(&socket);
        let mut daemon = Daemon {
            name,
            socket,
            key: String::new(),
            folder,
            process,
        };
        daemon.key = daemon.create_key(&json!({})).expect("CreateKey");
        daemon
    }

    /// One that keeps no audit log, where kmsd can be told so.
    pub(crate) fn without_audit(folder: &Path) -> Option<Daemon> {
        let testing = "[testing]\nno_audit = true\n";
        let config = folder.join("probe.toml");
        let text = format!("[seal]\nkind = \"software\"\n{testing}");
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

    /// Has it listen with TLS, which a start with that takes; the place, with an access key.
    pub(crate) fn with_tls(&mut self) -> Tls {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = port.local_addr().expect("its number");
        drop(port);
        let (config, folder) = (self.folder.join("kmsd.toml"), self.folder.join("tls"));
        let mut init: Vec<&std::ffi::OsStr> = vec!["tls".as_ref(), "init".as_ref()];
        init.extend([
            "--config".as_ref(),
            config.as_os_str(),
            "--directory".as_ref(),
            folder.as_os_str(),
            "--name".as_ref(),
            "localhost".as_ref(),
        ]);
        cli::run("kmsd", &init, None).ok();
        let mut text = fs::read_to_string(&config).expect("read the configuration");
        text.push_str(&format!(
            "\n[tls]\nlisten = [\"{address}\"]\ncertificate = {:?}\nkey = {:?}\n",
            folder.join("server.crt"),
            folder.join("server.key"),
        ));
        fs::write(&config, text).expect("write the configuration");
        self.restart();
        let body = json!({ "PrincipalArn": "arn:aws:iam::000000000000:root" });
        let body = body.to_string();
        let made = http::post(&self.socket, "KmsdLocal.CreateAccessKey", body.as_bytes());
        assert_eq!(made.status, 200, "CreateAccessKey: {}", made.text);
        let text = |name: &str| made.json[name].as_str().expect("an access key").to_owned();
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(folder.join("ca.crt"));
        roots
            .add(authority.expect("a certificate"))
            .expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Tls {
            address,
            config: Arc::new(client),
            credentials: Credentials {
                access_key_id: text("AccessKeyId"),
                secret: text("SecretAccessKey").into(),
                session_token: None,
            },
            region: "local-host-1".to_owned(),
        }
    }

    /// Its socket.
    pub(crate) fn place(&self) -> Place<'_> {
        Place::Socket(&self.socket)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid().as_raw_nonzero().get()
    }

    /// Ends it and starts it again. How long it took from its start to its first answer.
    pub(crate) fn restart(&mut self) -> Duration {
        self.process.terminate();
        let start = Instant::now();
        self.process = run(&self.folder);
        wait(&self.socket);
        self.call("DescribeKey", &json!({ "KeyId": self.key }))
            .expect("DescribeKey");
        start.elapsed()
    }

    /// Calls an operation; the answer, or the error.
    pub(crate) fn call(&self, operation: &str, body: &Value) -> Result<Value, String> {
        let target = format!("TrentService.{operation}");
        let reply = http::post(&self.socket, &target, body.to_string().as_bytes());
        match reply.status {
            200 => Ok(reply.json),
            _ => Err(reply.text),
        }
    }

    /// Makes a key; its ARN.
    pub(crate) fn create_key(&self, body: &Value) -> Result<String, String> {
        let reply = self.call("CreateKey", body)?;
        let arn = reply["KeyMetadata"]["Arn"].as_str();
        Ok(arn.expect("a key ARN").to_owned())
    }

    /// A key whose policy has twenty statements; the last of them allows.
    pub(crate) fn guarded_key(&self) -> String {
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
        self.create_key(&json!({ "Policy": policy.to_string() }))
            .expect("CreateKey")
    }
}

fn run(folder: &Path) -> Process {
    let mut command = Command::new(programs::path("kmsd"));
    command.arg("--config").arg(folder.join("kmsd.toml"));
    Process::start("kmsd", &mut command, &folder.join("kmsd.log"))
}

/// Waits until it answers, looking often: a start is measured with it.
fn wait(socket: &Path) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < deadline, "kmsd does not answer");
        std::thread::sleep(Duration::from_millis(2));
    }
}
