//! `kmsd dev`: a kmsd for developing and testing programs, with the software sealer and access keys of the command line.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use kms_seal::{Profile, SealerKind};
use serde_json::json;
use uuid::Uuid;

use super::{files, new_credential, recovery};
use crate::cli::{DevArgs, DevKey, ProfileName};
use crate::config::{Config, NameOrId};
use crate::engine::{self, FixedKey};
use crate::exit::Failure;
use crate::run::{self, Start};
use crate::{log, place, storage, world};

/// Serves until it is told to end.
pub(crate) fn dev(args: &DevArgs, json: bool) -> Result<(), Failure> {
    let state = State::open(args.state.as_deref())?;
    let config = configure(args, state.path())?;
    log::start(&config.log);
    place::check(&config, None)?;
    if !config.store.directory.join(storage::CATALOGUE).exists() {
        enroll(&config, state.path())?;
    }
    let keys = fixed_keys(args);
    let ready = |urls: &[String]| announce(args, &config, &keys, urls, json);
    let start = Start {
        keys: keys.clone(),
        ready: Some(&ready),
        ..Start::default()
    };
    run::serve(&config, start)
}

/// What is served: everything in one directory, no TPM, no limits on how fast requests come.
fn configure(args: &DevArgs, state: &Path) -> Result<Config, Failure> {
    let mut config = Config::default();
    let mut accounts = args.served_accounts();
    let server = &mut config.server;
    server.account = accounts.remove(0);
    server.accounts = accounts;
    server.region.clone_from(&args.region);
    server.any_region = true;
    server.socket = state.join("kmsd.sock");
    server.socket_mode = "0600".into();
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    if !uid.is_root() {
        // Whoever started it is its administrator.
        server.admin_group = Some(NameOrId::Id(gid.as_raw()));
    }
    config.http.listen = vec![args.listen];
    config.store.directory = state.join("store");
    config.seal.kind = SealerKind::Software;
    config.seal.key_file = Some(state.join("seal.key"));
    config.seal.credential = Some(state.join("credential"));
    config.identity.policies = state.join("policies");
    config.audit.directory = Some(state.join("audit"));
    config.audit.refused_burst = 0;
    // A throw-away log is in memory.
    (config.audit.reserve_mib, config.audit.min_free_mib) = (0, 0);
    let limits = &mut config.limits;
    for rate in [
        &mut limits.symmetric,
        &mut limits.asymmetric,
        &mut limits.key_making,
        &mut limits.management,
        &mut limits.reading,
    ] {
        *rate = 0;
    }
    config.log.level.clone_from(&args.log);
    config.check()?;
    Ok(config)
}

/// Makes the store. The recovery key stays beside it: nothing here is worth more than the directory.
fn enroll(config: &Config, state: &Path) -> Result<(), Failure> {
    files::make_store_directory(&config.store.directory)?;
    let mut sealer = world::sealer(config)?;
    let clock = world::clock(config)?;
    let file = state.join("recovery");
    let kept = recovery::make(Some(&file), Some(&file))?;
    let (credential, _) = new_credential(config, ProfileName::Machine)?;
    engine::enroll(
        &world::engine_config(config),
        sealer.as_mut(),
        Profile::Machine,
        &credential,
        kept.key(),
        clock.as_ref(),
    )?;
    Ok(())
}

/// The access keys, each with its principal.
fn fixed_keys(args: &DevArgs) -> Vec<FixedKey> {
    let accounts = args.served_accounts();
    let home = accounts.first().map(String::as_str).unwrap_or_default();
    let root = format!("arn:aws:iam::{home}:root");
    let fixed = |key: &DevKey| FixedKey {
        id: key.id.clone(),
        secret: key.secret.clone(),
        principal: key.principal.clone().unwrap_or_else(|| root.clone()),
    };
    if args.access_keys.is_empty() {
        let test = || "test".to_owned();
        return vec![FixedKey {
            id: test(),
            secret: zeroize::Zeroizing::new(test()),
            principal: root,
        }];
    }
    args.access_keys.iter().map(fixed).collect()
}

/// Says where it is and how to get there.
fn announce(args: &DevArgs, config: &Config, keys: &[FixedKey], urls: &[String], json: bool) {
    let url = urls.first().map(String::as_str).unwrap_or_default();
    let Some(first) = keys.first() else { return };
    let mut text = String::new();
    if json {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| json!({ "AccessKeyId": key.id, "Principal": key.principal }))
            .collect();
        let said = json!({
            "Endpoint": url, "Socket": config.server.socket, "Region": config.server.region,
            "Account": config.server.account, "State": args.state, "AccessKeys": keys,
        });
        text.push_str(&said.to_string());
        text.push('\n');
    } else {
        let kept = match &args.state {
            Some(state) => format!("Keys are kept in {}.", state.display()),
            None => "Keys are in memory and gone when this ends.".to_owned(),
        };
        text.push_str(&format!(
            "kmsd serves {url} and the socket {}. {kept}\n\
             This is for development: no TPM, and secrets that are known.\n\n\
             export AWS_ENDPOINT_URL_KMS={url}\n\
             export AWS_ACCESS_KEY_ID={}\n\
             export AWS_SECRET_ACCESS_KEY={}\n\
             export AWS_REGION={region} AWS_DEFAULT_REGION={region}\n",
            config.server.socket.display(),
            first.id,
            &**first.secret,
            region = config.server.region,
        ));
        for key in keys.iter().skip(1) {
            text.push_str(&format!("# access key {} is {}\n", key.id, key.principal));
        }
    }
    // Nobody may be reading.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The directory of the state: a given one, or one in memory that goes with the process.
enum State {
    Given(PathBuf),
    ThrownAway(PathBuf),
}

impl State {
    fn open(given: Option<&Path>) -> Result<Self, Failure> {
        let failed = |path: &Path, e: &std::io::Error| {
            Failure::local(
                format_args!("the directory {}", path.display()),
                e,
                "Name another one with --state.",
            )
        };
        match given {
            Some(path) => {
                files::make_store_directory(path)?;
                let path = fs::canonicalize(path).map_err(|e| failed(path, &e))?;
                Ok(Self::Given(path))
            }
            None => {
                let memory = Path::new("/dev/shm");
                let parent = match memory.is_dir() {
                    true => memory.to_owned(),
                    false => std::env::temp_dir(),
                };
                let path = parent.join(format!("kmsd-dev-{}", Uuid::new_v4().simple()));
                // Nobody else's: made here, or it is an error.
                use std::os::unix::fs::DirBuilderExt as _;
                fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&path)
                    .map_err(|e| failed(&path, &e))?;
                Ok(Self::ThrownAway(path))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::ThrownAway(path) => path,
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Self::ThrownAway(path) = self {
            let _ = fs::remove_dir_all(path);
        }
    }
}
