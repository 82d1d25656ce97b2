//! Shares of the recovery key: made, read from files, typed.

use std::path::{Path, PathBuf};

use kms_crypto::{RecoveryPrivateKey, RecoveryShare, ShareError};
use serde_json::json;
use zeroize::Zeroizing;

use super::files;
use crate::cli::SplitArgs;
use crate::config::Config;
use crate::engine;
use crate::exit::{self, Failure};
use crate::{terminal, world};

/// `kmsd split-recovery`.
pub(crate) fn split(config: &Config, args: &SplitArgs, json: bool) -> Result<(), Failure> {
    let key = super::recovery_key(&args.recovery)?;
    if !args.any_store {
        engine::check_recovery(&world::engine_config(config), &key)?;
    }
    if args.out_dir.is_none() && !terminal::is_interactive() {
        return Err(Failure::recovery(
            "nobody is at a terminal to keep the shares",
            "Run it in a terminal, or name a directory with --out-dir.",
        ));
    }
    let shares = kms_crypto::split(&key, args.threshold, args.shares).map_err(|error| Failure {
        status: exit::USAGE,
        message: error.to_string(),
        next_step: "Choose --threshold and --shares anew.".to_owned(),
    })?;
    let mut made = Vec::new();
    for share in &shares {
        let done = match &args.out_dir {
            Some(directory) => write(directory, share).map(|(path, file)| made.push((path, file))),
            None => show(share),
        };
        if let Err(failure) = done {
            made.into_iter().for_each(|(_, file)| file.undo());
            return Err(failure);
        }
    }
    let set = shares.first().map(RecoveryShare::set).unwrap_or_default();
    let paths: Vec<_> = made.iter().map(|(path, _)| path).collect();
    if json {
        let value = json!({
            "Set": set, "Shares": args.shares, "Threshold": args.threshold, "Files": paths,
        });
        println!("{value}");
        return Ok(());
    }
    for path in paths {
        println!("{}", path.display());
    }
    println!(
        "Set {set}: {} shares, any {} of which give the recovery key. Give each to another keeper, off this host,\n\
         and destroy the key itself: with it nobody needs the shares.",
        args.shares, args.threshold
    );
    Ok(())
}

fn write(directory: &Path, share: &RecoveryShare) -> Result<(PathBuf, files::Made), Failure> {
    let name = format!("share-{}-{:03}", share.set(), share.number());
    let path = directory.join(name);
    crate::place::check_file("--out-dir", &path)?;
    let line = Zeroizing::new([share.to_text().expose(), b"\n"].concat());
    let made = files::write_secret(&path, &line, "the share")?;
    Ok((path, made))
}

fn show(share: &RecoveryShare) -> Result<(), Failure> {
    let text = share.to_text();
    terminal::say(&Zeroizing::new(format!(
        "Share {} of {}, set {}:\n\n    {}\n",
        share.number(),
        share.total(),
        share.set(),
        String::from_utf8_lossy(text.expose())
    )))
}

/// The key that the shares in these files give.
pub(super) fn read(paths: &[PathBuf]) -> Result<RecoveryPrivateKey, Failure> {
    let mut shares = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|e| {
                let what = format!("the share {}", path.display());
                Failure::local(
                    what,
                    &e,
                    "Name a file that holds a share of the recovery key.",
                )
            })?;
        let share = RecoveryShare::from_text(&text).map_err(|e| {
            Failure::recovery(
                format!("{} does not hold a share: {e}", path.display()),
                "Compare it with the share as it was written down, or take another keeper's instead.",
            )
        })?;
        shares.push(share);
    }
    let combined = kms_crypto::combine(&shares.iter().collect::<Vec<_>>());
    let combined = combined.map_err(|error| refused(&error, paths, &shares))?;
    for position in combined.altered {
        if let Some(path) = paths.get(position) {
            tracing::warn!(
                share = %path.display(),
                "this share was altered; it was not needed, but nobody can rely on it: split the key anew"
            );
        }
    }
    Ok(combined.key)
}

fn refused(error: &ShareError, paths: &[PathBuf], shares: &[RecoveryShare]) -> Failure {
    let position = match error {
        ShareError::OtherSet { position } | ShareError::Repeated { position, .. } => {
            Some(*position)
        }
        _ => None,
    };
    let of = position.and_then(|position| {
        let (path, share) = (paths.get(position)?, shares.get(position)?);
        Some(format!("{} (set {}): ", path.display(), share.set()))
    });
    let next = match error {
        ShareError::Missing { .. } => "Give more shares of the set with --recovery-share.",
        ShareError::OtherSet { .. } => {
            "Take only shares of one set; its name is in each file's name."
        }
        ShareError::Repeated { .. } => "Name each share once.",
        ShareError::Altered => {
            "Give one or more shares in addition: then the altered one is found and named."
        }
        _ => "Run it again; if it stays, the system's random generator or memory fails.",
    };
    Failure::recovery(format!("{}{error}", of.unwrap_or_default()), next)
}

/// Asks for the shares that are still needed.
pub(super) fn ask_more(first: RecoveryShare) -> Result<RecoveryPrivateKey, Failure> {
    let mut shares = vec![first];
    loop {
        match kms_crypto::combine(&shares.iter().collect::<Vec<_>>()) {
            Ok(combined) => return Ok(combined.key),
            Err(ShareError::Missing { needed, got }) => {
                let prompt = format!("Share {} of the {needed} that are needed: ", got + 1);
                match RecoveryShare::from_text(&terminal::ask(&prompt)?) {
                    Ok(share) => shares.push(share),
                    Err(error) => terminal::say(&format!("That is not a share: {error}."))?,
                }
            }
            Err(error @ (ShareError::OtherSet { .. } | ShareError::Repeated { .. })) => {
                terminal::say(&format!("{error}."))?;
                shares.pop();
            }
            Err(error) => return Err(refused(&error, &[], &shares)),
        }
    }
}
