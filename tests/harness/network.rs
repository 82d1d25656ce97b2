//! kmsd over the network: TLS with an authority of its own, and access keys.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli;
use crate::daemon::{Daemon, path_text};
use crate::world::World;

/// Where a kmsd listens with TLS.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `https://localhost:PORT`.
    pub url: String,
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The certificate of the authority that clients are to trust.
    pub ca: PathBuf,
    /// The folder with the files of `kmsd tls init`.
    pub folder: PathBuf,
}

/// An access key.
#[derive(Clone, Debug)]
pub struct AccessKey {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

/// The Region of a kmsd whose configuration names none.
pub const REGION: &str = "local-host-1";

/// A port on 127.0.0.1 that nobody has at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}

impl Endpoint {
    /// Makes certificates in `folder` and has the kmsd listen with them from its next start on. `more` are further lines
    /// of `[tls]`.
    #[track_caller]
    pub fn configure(daemon: &Daemon, folder: &Path, more: &str) -> Endpoint {
        let port = free_port();
        let folder = folder.join("tls");
        let config = daemon.config();
        let arguments = [
            "tls",
            "init",
            "--config",
            path_text(&config),
            "--directory",
            path_text(&folder),
            "--name",
            "localhost",
            "--name",
            "127.0.0.1",
        ];
        cli::run("kmsd", &arguments, None).ok();
        // Signatures are of now: the clock is the system's.
        let text = fs::read_to_string(&config).expect("the configuration");
        let own_clock = text.find("\n[testing]").map_or(text.len(), |at| at);
        fs::write(&config, &text[..own_clock]).expect("write the configuration");
        daemon.add_config(&format!(
            "\n[tls]\nlisten = [\"127.0.0.1:{port}\"]\ncertificate = {:?}\nkey = {:?}\n{more}\n",
            folder.join("server.crt"),
            folder.join("server.key"),
        ));
        Endpoint {
            url: format!("https://localhost:{port}"),
            port,
            ca: folder.join("ca.crt"),
            folder,
        }
    }

    /// Has a program of AWS's clients use this endpoint with an access key, and nothing of this machine's own settings.
    pub fn equip(&self, command: &mut Command, key: &AccessKey, home: &Path) {
        command
            .env("HOME", home)
            .env("AWS_ACCESS_KEY_ID", &key.id)
            .env("AWS_SECRET_ACCESS_KEY", &key.secret)
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE")
            .env("AWS_REGION", REGION)
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_ENDPOINT_URL_KMS", &self.url)
            .env("AWS_CA_BUNDLE", &self.ca)
            .env("NODE_EXTRA_CA_CERTS", &self.ca)
            .env("SSL_CERT_FILE", &self.ca)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("PYTHONDONTWRITEBYTECODE", "1");
    }
}

impl World {
    /// A new TPM, enrolled, with kmsd running on it and listening with TLS.
    #[track_caller]
    pub fn start_with_tls() -> (World, Endpoint) {
        let mut world = World::enrolled();
        let endpoint = Endpoint::configure(&world.daemon, &world.path(""), "");
        world.daemon.start();
        (world, endpoint)
    }

    /// Makes an access key, for example of `root` or `user:alice`.
    #[track_caller]
    pub fn access_key(&self, principal: &str) -> AccessKey {
        let made = self
            .kmsctl(&["access-key", "create", "--principal", principal, "--json"])
            .json();
        let text = |name: &str| made[name].as_str().expect(name).to_owned();
        AccessKey {
            id: text("AccessKeyId"),
            secret: text("SecretAccessKey"),
        }
    }
}

impl Daemon {
    /// Adds lines to the configuration, for the next start.
    pub fn add_config(&self, lines: &str) {
        let mut text = fs::read_to_string(self.config()).expect("the configuration");
        text.push_str(lines);
        fs::write(self.config(), text).expect("write the configuration");
    }
}
