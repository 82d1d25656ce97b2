//! Why a store cannot be opened or kept, with what the operator does next.

use std::path::PathBuf;

use kms_core::backup::BackupError;
use kms_core::domain::DomainError;
use kms_core::sealed::SealedError;
use kms_core::snapshot::SnapshotError;
use kms_core::storage::StorageError;
use kms_core::transfer::TransferError;
use kms_seal::SealError;

use crate::audit::AuditError;
use crate::storage::LockError;

/// A failure of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The sealer failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Another process has the store, or the lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The audit log cannot be used, or is not the one that belongs to the store.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no store.
    #[error("there is no store in {}", .0.display())]
    NotEnrolled(PathBuf),
    /// There is a store already.
    #[error("there is a store in {} already", .0.display())]
    AlreadyEnrolled(PathBuf),
    /// A store is where one is to be restored.
    #[error("there is a store in {} already", .0.display())]
    StoreInTheWay(PathBuf),
    /// Two things that belong together are of different stores.
    #[error("this belongs to the store {found}, not to {expected}")]
    OtherStore {
        /// The store that it names.
        found: String,
        /// The store that it should name.
        expected: String,
    },
    /// A backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The keys of a volume cannot be moved.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The account or Region is not the store's.
    #[error("the store belongs to account {account} in Region {region}, not to what is configured")]
    OtherScope {
        /// The store's account.
        account: String,
        /// The store's Region.
        region: String,
    },
    /// The configured account or Region cannot be used.
    #[error("account must be 12 digits and region 1 to 32 of a-z, 0-9 and -")]
    BadScope,
    /// Rows or wraps were changed, or belong to another store.
    #[error("the store was changed by something other than kmsd, or is damaged: {0}")]
    Tampered(String),
    /// The store is older than the rollback counter says.
    #[error(
        "the store in {} is older than the newest one this host has written (generation {store}, \
         counter {counter}): it was put back from a copy",
        .directory.display()
    )]
    RolledBack {
        /// The store.
        directory: PathBuf,
        /// Its generation.
        store: u64,
        /// The counter.
        counter: u64,
    },
    /// The store is newer than the rollback counter allows.
    #[error(
        "the store in {} is at generation {store} but the rollback counter at {counter}: the \
         TPM's state was put back from a copy",
        .directory.display()
    )]
    CounterBehind {
        /// The store.
        directory: PathBuf,
        /// Its generation.
        store: u64,
        /// The counter.
        counter: u64,
    },
    /// The recovery key is not this store's.
    #[error("this recovery key is not the one that the store in {} was enrolled with", .0.display())]
    WrongRecoveryKey(PathBuf),
    /// There is nothing to accept.
    #[error("the store in {} is not rolled back: there is nothing to accept", .0.display())]
    NotRolledBack(PathBuf),
    /// Files of the store's directory cannot be read or written.
    #[error("cannot access {}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Cryptography or the random generator failed.
    #[error("cryptography failed: {0}")]
    Crypto(String),
    /// A request of the engine to itself was refused.
    #[error("background work was refused: {0}")]
    Refused(kms_api::ApiError),
    /// The engine has been shut down.
    #[error("the engine is shut down")]
    Closed,
}

impl EngineError {
    /// The programs' exit status: those of `kms_seal::SealError` for its failures (34 also for the
    /// rolled-back store, wherever it is noticed), here from 64 up.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Seal(error) => error.exit_code(),
            Self::Lock(_) => 64,
            Self::Storage(_) | Self::Io { .. } => 65,
            Self::NotEnrolled(_) => 66,
            Self::AlreadyEnrolled(_) | Self::StoreInTheWay(_) => 67,
            Self::Backup(_) => 75,
            Self::OtherStore { .. } => 76,
            Self::Transfer(_) => 77,
            Self::OtherScope { .. } | Self::BadScope => 68,
            Self::Tampered(_) => 69,
            Self::RolledBack { .. } => 34,
            Self::CounterBehind { .. } => 70,
            Self::WrongRecoveryKey(_) => 71,
            Self::NotRolledBack(_) => 72,
            Self::Crypto(_) | Self::Refused(_) | Self::Closed => 73,
            Self::Audit(_) => 74,
        }
    }

    /// What the operator does now.
    pub fn next_step(&self) -> String {
        let text = match self {
            Self::Seal(error) => return error.next_step(),
            Self::Audit(error) => error.next_step(),
            Self::Lock(LockError::Held { .. }) => "stop the other kmsd, then start this one",
            Self::Lock(LockError::Io { .. })
            | Self::Storage(StorageError::Io(_))
            | Self::Io { .. } => "check the directory's owner, mode, free space and the kernel log",
            Self::Storage(StorageError::Foreign(_)) => {
                "check `directory` in the configuration; a newer store needs the newer kmsd"
            }
            Self::Storage(_) | Self::Tampered(_) => {
                "put back a backup of the store, then run `kmsd accept-rollback` with the recovery key"
            }
            Self::NotEnrolled(_) => "run `kmsd enroll`",
            Self::AlreadyEnrolled(_) => {
                "start kmsd; to use a new TPM with these keys run `kmsd recover`"
            }
            Self::StoreInTheWay(_) => {
                "start kmsd; or replace it with --replace: what was destroyed in it stays destroyed"
            }
            Self::Transfer(TransferError::NoVolume(_)) => {
                "`kmsctl fs status` shows the ids of volumes"
            }
            Self::Transfer(TransferError::Pending(_)) => {
                "keep the key with `kmsctl key cancel-deletion` (kmsd must run for that), or move nothing of it"
            }
            Self::Transfer(TransferError::OtherScope { .. }) => {
                "move it to a kmsd with the same `server.account` and `server.region`; a new kmsd can be enrolled with them"
            }
            Self::Transfer(TransferError::Destroyed(_)) => {
                "nothing was changed; only a kmsd that never destroyed it can take it in"
            }
            Self::Transfer(TransferError::Differs(_)) => {
                "nothing was changed; whichever of the two hosts changed it later has what the directory needs"
            }
            Self::Transfer(TransferError::Sealed(SealedError::OtherRecoveryKey)) => {
                "export it again with --to this host's recovery recipient"
            }
            Self::Transfer(_) => "use another copy of the file",
            Self::OtherStore { .. } => "name what belongs to the same store",
            Self::Backup(BackupError::Sealed(SealedError::OtherRecoveryKey)) => {
                "use the recovery key that was the store's when the backup was made"
            }
            Self::Backup(_) => {
                "use another copy of the backup; compare its SHA-256 with what was noted when it was made"
            }
            Self::OtherScope { .. } | Self::BadScope => {
                "correct `account` and `region` in the configuration"
            }
            Self::RolledBack { .. } => {
                "put the newest copy of the store back; if it is lost, run `kmsd accept-rollback` with the \
                 recovery key: keys made and disabled since are forgotten and enabled again"
            }
            Self::CounterBehind { .. } => {
                "if a virtual machine was set back with its TPM, put back the store of the same \
                 moment; otherwise run `kmsd accept-rollback` with the recovery key"
            }
            Self::WrongRecoveryKey(_) => "use the recovery key that was written at enrolment",
            Self::NotRolledBack(_) => "start kmsd",
            Self::Crypto(_) | Self::Refused(_) => "see the log",
            Self::Closed => "start kmsd again",
        };
        text.to_owned()
    }
}

impl From<DomainError> for EngineError {
    fn from(error: DomainError) -> Self {
        Self::Tampered(error.to_string())
    }
}

impl From<SnapshotError> for EngineError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Format(_) => Self::Storage(StorageError::Foreign(error.to_string())),
            _ => Self::Tampered(error.to_string()),
        }
    }
}

impl From<kms_crypto::CryptoError> for EngineError {
    fn from(error: kms_crypto::CryptoError) -> Self {
        Self::Crypto(error.to_string())
    }
}
