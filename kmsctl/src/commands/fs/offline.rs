//! Keys without a running kmsd: `kmsd offline`, which reads a store or a backup of one, in a process of its own.

use std::fs::DirBuilder;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use kms_api::client::Client;
use kms_format::volume::VolumeRecord;
use kmsfs::volume::kmsd::KmsdKeys;

use crate::Context;
use crate::commands::tpm;
use crate::exit::{Exit, Failure};

/// How long kmsd may take for one key.
const KEY_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Where the keys come from.
#[derive(Debug, Args)]
pub struct KeySource {
    /// Read the keys out of this store (the directory of kmsd's catalogue, or of a backup of it) instead of asking the
    /// kmsd that runs. Nothing is written to it, nor to the TPM.
    #[arg(long, value_name = "DIRECTORY")]
    pub store: Option<PathBuf>,
    /// Open the store with the recovery key in this file instead of the TPM. A store that is older than the newest one of
    /// its host can be read with it, too.
    #[arg(long, value_name = "FILE", requires = "store")]
    pub recovery_key: Option<PathBuf>,
    /// The same with a share of the recovery key; once for each share.
    #[arg(
        long,
        value_name = "FILE",
        requires = "store",
        conflicts_with = "recovery_key"
    )]
    pub recovery_share: Vec<PathBuf>,
    /// The configuration of kmsd, for its TPM and credential, if it is not at its default place.
    #[arg(long, value_name = "FILE", requires = "store")]
    pub config: Option<PathBuf>,
}

/// What gives out keys, for as long as it is not dropped.
pub(super) struct Source {
    pub(super) keys: KmsdKeys,
    _kmsd: Option<Kmsd>,
}

impl KeySource {
    /// The keys of a volume: of the kmsd that runs, or of a store.
    pub(super) fn open(&self, record: VolumeRecord, context: &Context) -> Result<Source, Failure> {
        let (client, kmsd) = match &self.store {
            None => {
                // Says at once what is wrong if kmsd does not answer at all.
                let status = context.client.send(kms_api::GetStatusRequest {});
                if let Err(error @ kms_api::client::ClientError::Unreachable { .. }) = status {
                    let next = "Start kmsd, or name its store or a backup of it with --store.";
                    return Err(Failure::from(error).next(next));
                }
                (Client::new(context.client.socket()), None)
            }
            Some(store) => {
                let kmsd = Kmsd::start(self, store, context)?;
                (Client::new(kmsd.socket()), Some(kmsd))
            }
        };
        Ok(Source {
            keys: KmsdKeys::new(client, record, KEY_WAIT),
            _kmsd: kmsd,
        })
    }
}

/// A kmsd that answers on a socket in a directory that only this user can enter. Ends when dropped.
struct Kmsd {
    child: Child,
    directory: Private,
}

impl Kmsd {
    fn start(source: &KeySource, store: &Path, context: &Context) -> Result<Kmsd, Failure> {
        let directory =
            Private::make().map_err(|error| Failure::local("a private directory", &error))?;
        let program = tpm::kmsd();
        let mut command = Command::new(&program);
        command.arg("offline").arg("--store").arg(store);
        command.arg("--socket").arg(directory.socket());
        if let Some(config) = &source.config {
            command.arg("--config").arg(config);
        }
        if let Some(key) = &source.recovery_key {
            command.arg("--recovery-from").arg(key);
        }
        for share in &source.recovery_share {
            command.arg("--recovery-share").arg(share);
        }
        if context.output.is_json() {
            command.arg("--json");
        }
        // It ends when its standard input does, however this process ends.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn().map_err(|error| {
            Failure::local(program.display(), &error)
                .next("Install kmsd beside kmsctl or in the PATH.")
        })?;
        let mut kmsd = Kmsd { child, directory };
        let mut line = String::new();
        if let Some(output) = kmsd.child.stdout.take() {
            BufReader::new(output)
                .read_line(&mut line)
                .map_err(|error| Failure::local("kmsd", &error))?;
        }
        if line.trim() == "ready" {
            return Ok(kmsd);
        }
        drop(kmsd.child.stdin.take());
        let status = kmsd.child.wait();
        let status = status.map_err(|error| Failure::local("kmsd", &error))?;
        Err(Failure::new(
            Exit::Local,
            format!("kmsd cannot read the store {}: {status}", store.display()),
        )
        .next("See what kmsd said above."))
    }

    fn socket(&self) -> PathBuf {
        self.directory.socket()
    }
}

impl Drop for Kmsd {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// A directory of mode 0700, removed when dropped.
struct Private(PathBuf);

impl Private {
    fn make() -> io::Result<Private> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = time.map_or(0, |time| time.as_nanos());
        let name = format!("kmsctl-{}-{nanos:x}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Fails if somebody has made it before.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Private(path))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("kmsd.sock")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
