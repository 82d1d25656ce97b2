//! The whole chain in a temporary folder: TPM, kmsd, encrypted directories.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{self, Said};
use crate::daemon::{Daemon, path_text};
use crate::http;
use crate::mount::Mount;
use crate::swtpm::Swtpm;

/// A TPM and an enrolled, running kmsd.
pub struct World {
    // Dropped from top to bottom: the daemon before its TPM, the folder last.
    /// kmsd.
    pub daemon: Daemon,
    /// Its TPM.
    pub tpm: Swtpm,
    folder: TempDir,
}

impl World {
    /// A new TPM, enrolled, with kmsd running on it.
    #[track_caller]
    pub fn start() -> World {
        let mut world = World::enrolled();
        world.daemon.start();
        world
    }

    /// The same with kmsd not started yet.
    #[track_caller]
    pub fn enrolled() -> World {
        let world = World::bare();
        world.daemon.enroll().ok();
        world
    }

    /// A new TPM and the configuration of a kmsd that has no store.
    #[track_caller]
    pub fn bare() -> World {
        // Short: the paths of sockets below it may have 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("kms-")
            .tempdir()
            .expect("a folder");
        let tpm = Swtpm::start(folder.path());
        let daemon = Daemon::configure(folder.path(), &tpm.device());
        World {
            daemon,
            tpm,
            folder,
        }
    }

    /// A path below the world's folder.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Runs kmsctl against this kmsd.
    pub fn kmsctl(&self, arguments: &[&str]) -> Said {
        cli::run("kmsctl", arguments, Some(&self.daemon.socket()))
    }

    /// Calls an operation of AWS; the reply whatever it is.
    pub fn post(&self, operation: &str, body: &Value) -> http::Reply {
        let target = format!("TrentService.{operation}");
        http::post(&self.daemon.socket(), &target, body.to_string().as_bytes())
    }

    /// Calls an operation of AWS that must succeed.
    #[track_caller]
    pub fn call(&self, operation: &str, body: &Value) -> Value {
        let reply = self.post(operation, body);
        assert!(reply.status == 200, "{operation}: {}", reply.text);
        reply.json
    }

    /// Calls an operation of kmsd's own that must succeed.
    #[track_caller]
    pub fn call_local(&self, operation: &str, body: &Value) -> Value {
        let target = format!("KmsdLocal.{operation}");
        let reply = http::post(&self.daemon.socket(), &target, body.to_string().as_bytes());
        assert!(reply.status == 200, "{operation}: {}", reply.text);
        reply.json
    }

    /// A new key with an alias; its id is returned.
    #[track_caller]
    pub fn key(&self, alias: &str) -> String {
        let made = self.call("CreateKey", &json!({}));
        let id = made["KeyMetadata"]["KeyId"]
            .as_str()
            .expect("a key id")
            .to_owned();
        self.call(
            "CreateAlias",
            &json!({ "AliasName": alias, "TargetKeyId": id }),
        );
        id
    }

    /// A new encrypted directory `NAME.lower` under the key `alias`, not mounted.
    #[track_caller]
    pub fn volume(&self, name: &str, alias: &str) -> PathBuf {
        let lower = self.path(format!("{name}.lower"));
        self.init(&lower, alias);
        lower
    }

    /// Makes `lower` an encrypted directory.
    #[track_caller]
    pub fn init(&self, lower: &Path, alias: &str) {
        std::fs::create_dir_all(lower).expect("make the lower directory");
        self.kmsctl(&["fs", "init", path_text(lower), "--key", alias])
            .ok();
    }

    /// Mounts a lower directory on a folder beside it.
    #[track_caller]
    pub fn mount(&self, lower: &Path) -> Mount {
        self.mount_with(lower, &[])
    }

    /// The same with mount options.
    #[track_caller]
    pub fn mount_with(&self, lower: &Path, options: &[&str]) -> Mount {
        let name = lower.file_stem().expect("a lower directory has a name");
        let point = self.path(Path::new(name).with_extension("plain"));
        Mount::start(lower, &point, &self.daemon.socket(), options)
    }
}
