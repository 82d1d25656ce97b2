//! A store made anew from its backup, sealed to this host.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use kms_core::backup::{self, DoubtedAccessKey, Head};
use kms_core::rows::{Change, MetaRow, RawRow, Row, Table};
use kms_core::setmac::SetMac;
use kms_core::storage::RawChange;
use kms_core::tombstones::{self, Tombstones};
use kms_core::{Clock, DomainKeys, Snapshot};
use kms_crypto::{RecoveryPrivateKey, sha256};
use kms_seal::{Credential, Enrollment, Profile, RootSealer, check_generation};

use super::audit::store_event;
use super::enroll::{has_log, outbox_row, remove_former, with_checkpoints, write_catalogue};
use super::open::load;
use super::writer::{encode, verified};
use super::{EngineConfig, EngineError};
use crate::storage::{CATALOGUE, SqliteStorage, StoreLock};

/// What a store is restored from.
pub struct RestoreSource<'a> {
    /// The bytes of the backup.
    pub file: &'a [u8],
    /// The recovery key that it is sealed to.
    pub recovery: &'a RecoveryPrivateKey,
    /// What was destroyed since then, as the lost store had listed it.
    pub tombstones: Option<&'a Tombstones>,
    /// Replace the store that is in the directory. What was destroyed in it stays destroyed.
    pub replace: bool,
}

/// What was found in a backup.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// What it says about itself.
    pub head: Head,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Present if it was opened with the recovery key.
    pub opened: Option<Contents>,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Keys that are not destroyed.
    pub keys: u64,
    /// Volumes.
    pub volumes: u64,
    /// Policies that are not destroyed.
    pub policies: u64,
    /// Secrets: versions of key material and generations of policies. Every one was opened.
    pub secrets: u64,
}

/// What a restore did.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    /// What the backup says about itself.
    pub head: Head,
    /// What the restored store holds.
    pub contents: Contents,
    /// Keys and policies of the backup that were destroyed since, and are not in the store.
    pub buried: u64,
    /// Generation of the store, equal to the counter.
    pub generation: u64,
    /// Where the store is that was replaced.
    pub replaced: Option<PathBuf>,
    /// Access keys of the backup that are not accepted, because nobody knows whether they stood, or because they did not.
    pub access_keys: Vec<DoubtedAccessKey>,
}

/// Looks whether a backup is whole; with the recovery key, whether every secret in it opens.
///
/// # Errors
/// It is none, is damaged, or is for another recovery key.
pub fn verify_backup(
    file: &[u8],
    recovery: Option<&RecoveryPrivateKey>,
) -> Result<VerifyReport, EngineError> {
    let head = backup::inspect(file)?;
    let opened = match recovery {
        Some(key) => Some(Opened::new(file, key)?.contents),
        None => None,
    };
    Ok(VerifyReport {
        head,
        sha256: HEXLOWER.encode(&sha256(&[file])),
        opened,
    })
}

/// A backup whose secrets are all known to open.
struct Opened {
    head: Head,
    rows: BTreeMap<(Table, String), RawRow>,
    snapshot: Snapshot,
    domain: DomainKeys,
    contents: Contents,
}

impl Opened {
    fn new(file: &[u8], key: &RecoveryPrivateKey) -> Result<Self, EngineError> {
        let (head, mut rows) = backup::open(file, key)?;
        // Every store has these; the host's own take their place.
        for row in [Row::Enrollment(Vec::new()), Row::Mac(Vec::new())] {
            rows.push(
                row.encode()
                    .map_err(|e| EngineError::Tampered(e.to_string()))?,
            );
        }
        let snapshot = Snapshot::from_rows(&rows)?;
        if snapshot.meta().store_id != head.store_id {
            return Err(EngineError::Tampered(
                "the backup's head and its rows are of different stores".to_owned(),
            ));
        }
        let mut domain = DomainKeys::new(snapshot.meta());
        for row in snapshot.domains() {
            domain.open_as_recovery(row, key)?;
        }
        let contents = contents(&snapshot, &domain)?;
        let rows = rows
            .into_iter()
            .map(|row| ((row.table, row.id.clone()), row))
            .collect();
        Ok(Self {
            head,
            rows,
            snapshot,
            domain,
            contents,
        })
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), EngineError> {
        for change in changes {
            match encode(change)? {
                RawChange::Put(row) => {
                    self.rows.insert((row.table, row.id.clone()), row);
                }
                RawChange::Remove(table, id) => {
                    self.rows.remove(&(table, id));
                }
            }
            self.snapshot.apply(change);
        }
        Ok(())
    }
}

fn contents(snapshot: &Snapshot, domain: &DomainKeys) -> Result<Contents, EngineError> {
    Ok(Contents {
        keys: snapshot
            .keys()
            .filter(|key| key.destroyed_ms.is_none())
            .count() as u64,
        volumes: snapshot.volumes().count() as u64,
        policies: snapshot
            .policies()
            .filter(|row| row.secret.is_some())
            .count() as u64,
        secrets: backup::check_secrets(snapshot, domain)?,
    })
}

/// Makes the store of a backup in `config.directory`, sealed to `sealer` with a new root secret. It appears under its name
/// in one step, complete.
///
/// # Errors
/// The backup does not open or is of another account or Region, there is a store already, or the sealer or the disk failed. A
/// store that was there is as it was then, but its enrolment may be gone: run it again.
pub fn restore(
    config: &EngineConfig,
    sealer: &mut dyn RootSealer,
    profile: Profile,
    credential: &Credential,
    source: &RestoreSource<'_>,
    clock: &dyn Clock,
) -> Result<RestoreReport, EngineError> {
    let directory = &config.directory;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(io(directory))?;
    let _lock = StoreLock::acquire(directory)?;
    let catalogue = directory.join(CATALOGUE);
    if catalogue.exists() && !source.replace {
        return Err(EngineError::StoreInTheWay(directory.clone()));
    }
    let mut backup = Opened::new(source.file, source.recovery)?;
    let scope = &backup.snapshot.meta().scope;
    if scope.account != config.account || scope.region != config.region {
        let scope = scope.clone();
        return Err(EngineError::OtherScope {
            account: scope.account,
            region: scope.region,
        });
    }
    let former = match catalogue.exists() {
        true => Some(former(config, &catalogue, &backup.head, source.recovery)?),
        false => None,
    };
    let mut buried = 0;
    let lists = [
        former.as_ref().map(tombstones::list),
        source.tombstones.cloned(),
    ];
    for list in lists.into_iter().flatten() {
        if list.store_id != backup.head.store_id {
            return Err(EngineError::OtherStore {
                found: list.store_id,
                expected: backup.head.store_id,
            });
        }
        let (count, changes) = tombstones::bury(&backup.snapshot, &list, clock.read().wall_ms);
        backup.apply(&changes)?;
        buried += count;
    }

    let known = former
        .as_ref()
        .filter(|former| former.meta().revision >= backup.head.revision)
        .filter(|former| is_newest(sealer, former, credential));
    let (access_keys, changes) = backup::doubted_access_keys(&backup.snapshot, known);
    backup.apply(&changes)?;

    let (enrollment, kek) = sealer.enroll(profile, credential)?;
    let enrollment = with_checkpoints(sealer, enrollment);
    let result = (|| {
        let old = backup.snapshot.meta();
        let head = old.audit_head.filter(|_| has_log(config));
        let meta = MetaRow {
            audit_head: head,
            revision: 1,
            generation: sealer.counter(&enrollment)?,
            unanchored: 0,
            elapsed: old.elapsed.moved(&clock.read()),
            revoked: Vec::new(),
            // Whoever relies on answers of before must hear that they do not hold.
            authorization_epoch: old.authorization_epoch.saturating_add(1),
            ..old.clone()
        };
        let generation = meta.generation;
        let disabled = access_keys.iter().filter(|one| !one.deleted).count();
        let mut event = store_event("Restored", clock.read().wall_ms)
            .detail("backupRevision", backup.head.revision)
            .detail("backupTime", backup.head.created_ms)
            .detail("sha256", HEXLOWER.encode(&sha256(&[source.file])))
            .detail("destroyedSince", buried)
            .detail("accessKeysDisabled", disabled)
            .detail("accessKeysDeleted", access_keys.len() - disabled);
        if let Some(lost) = old.audit_head.filter(|_| head.is_none()) {
            event = event
                .detail("formerLogRecords", lost.size)
                .detail("formerLogChain", HEXLOWER.encode(&lost.chain.0));
        }
        let mut changes = vec![
            Change::Put(Row::Meta(Box::new(meta))),
            Change::Put(Row::Enrollment(enrollment.to_json()?)),
        ];
        for row in backup.snapshot.domains() {
            let row = backup.domain.with_host(row, kek.key())?;
            changes.push(Change::Put(Row::Domain(row)));
        }
        if config.audit.is_some() {
            changes.push(Change::Put(outbox_row(&event)));
        }
        backup.apply(&changes)?;
        backup.rows.remove(&(Table::Mac, "store".to_owned()));
        let mut mac = SetMac::new(backup.domain.mac_key(backup.snapshot.meta().domain)?);
        backup.rows.values().for_each(|row| mac.put(row));
        backup.apply(&[Change::Put(Row::Mac(mac.value().to_vec()))])?;
        let contents = contents(&backup.snapshot, &backup.domain)?;

        let replaced = match &former {
            Some(former) => {
                let name = format!("{CATALOGUE}.replaced-{}", former.meta().revision);
                let aside = directory.join(name);
                keep_aside(&catalogue, &aside)?;
                // As in `recover`: the store as it was must not pass for the newest one again.
                remove_former(sealer, former.enrollment());
                Some(aside)
            }
            None => None,
        };
        let rows: Vec<_> = backup.rows.values().cloned().map(RawChange::Put).collect();
        write_catalogue(directory, &rows, &|directory: &Path| {
            std::fs::File::open(directory)?.sync_all()
        })?;
        Ok(RestoreReport {
            head: backup.head.clone(),
            contents,
            buried,
            generation,
            replaced,
            access_keys,
        })
    })();
    if result.is_err()
        && let Err(error) = sealer.remove(&enrollment)
    {
        tracing::warn!(%error, "a failed restore left its counter and epoch secret in the TPM");
    }
    result
}

/// Gives the catalogue a second name, under which it stays when another one takes its own.
fn keep_aside(catalogue: &Path, aside: &Path) -> Result<(), EngineError> {
    use std::os::unix::fs::MetadataExt as _;
    let number = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    match std::fs::hard_link(catalogue, aside) {
        // An attempt before this one came as far as here.
        Err(error)
            if error.kind() == std::io::ErrorKind::AlreadyExists
                && number(catalogue).ok() == number(aside).ok() =>
        {
            Ok(())
        }
        linked => linked.map_err(io(aside)),
    }
}

/// The store that is to be replaced: what was destroyed in it is not to come back.
fn former(
    config: &EngineConfig,
    catalogue: &Path,
    head: &Head,
    recovery: &RecoveryPrivateKey,
) -> Result<Snapshot, EngineError> {
    let mut storage = SqliteStorage::open(catalogue)?;
    let (rows, snapshot) = load(&mut storage, config)?;
    if snapshot.meta().store_id != head.store_id {
        return Err(EngineError::OtherStore {
            found: snapshot.meta().store_id.clone(),
            expected: head.store_id.clone(),
        });
    }
    let mut domain = DomainKeys::new(snapshot.meta());
    for row in snapshot.domains() {
        domain
            .open_as_recovery(row, recovery)
            .map_err(|_| EngineError::WrongRecoveryKey(config.directory.clone()))?;
    }
    verified(&rows, &snapshot, domain.mac_key(snapshot.meta().domain)?)?;
    // One file, without a log beside it that would be taken for the new one's.
    storage.close()?;
    Ok(snapshot)
}

/// Whether a store is not an older copy of itself: the counter that it is sealed with says so, if this host has it.
fn is_newest(sealer: &mut dyn RootSealer, store: &Snapshot, credential: &Credential) -> bool {
    let counter = Enrollment::from_json(store.enrollment()).and_then(|enrollment| {
        // Before a credential is tried that may be another one's.
        sealer.check(&enrollment)?;
        sealer.unseal(&enrollment, credential)?;
        sealer.counter(&enrollment)
    });
    let newest = counter.and_then(|counter| check_generation(store.meta().generation, counter));
    match newest {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "nothing says that the store which is replaced is the newest: its access keys count for nothing");
            false
        }
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::Io { path, source }
}
