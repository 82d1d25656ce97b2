//! `kmsd break-glass` and `kmsd split-recovery`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::RecoveryArgs;

/// `kmsd break-glass`.
#[derive(Debug, Args)]
pub struct BreakGlassArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: BreakGlassAction,
    /// Why; it is recorded. Required for everything but `show`.
    #[arg(long, global = true, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Do it without asking at the terminal.
    #[arg(long, global = true)]
    pub yes: bool,
    /// Open the store with the recovery key alone, for a host whose TPM does not answer.
    #[arg(long, global = true)]
    pub without_tpm: bool,
    /// The recovery key, or shares of it.
    #[command(flatten)]
    pub recovery: RecoveryArgs,
}

/// What `break-glass` does.
#[derive(Debug, Subcommand)]
pub enum BreakGlassAction {
    /// Show what keeps root from changing the policies of keys. Changes nothing.
    Show,
    /// Replace the policy of a key.
    #[command(group = clap::ArgGroup::new("new").required(true).args(["policy", "default"]))]
    PutKeyPolicy {
        /// Key id, key ARN, alias name or alias ARN.
        key: String,
        /// File with the new policy.
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// The policy that keys are made with: the account's identity policies decide.
        #[arg(long)]
        default: bool,
    },
    /// Remove an identity policy of the catalogue. (One in a file is removed with the file.)
    DeleteIdentityPolicy {
        /// Whom it is attached to.
        #[arg(value_enum)]
        kind: IdentityKindName,
        /// Name of the user, group, unit or role.
        identity: String,
        /// Name of the policy.
        name: String,
    },
    /// Remove a guard rail of the catalogue. (One in a file is removed with the file.)
    DeleteGuardRail {
        /// Its name.
        name: String,
    },
    /// Enable a key that is disabled.
    EnableKey {
        /// Key id, key ARN, alias name or alias ARN.
        key: String,
    },
    /// Keep a key that waits for its deletion. It is disabled then.
    CancelDeletion {
        /// Key id, key ARN, alias name or alias ARN.
        key: String,
    },
}

/// Kinds of identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum IdentityKindName {
    User,
    Group,
    Unit,
    Role,
}

impl From<IdentityKindName> for kms_core::rows::IdentityKind {
    fn from(name: IdentityKindName) -> Self {
        match name {
            IdentityKindName::User => Self::User,
            IdentityKindName::Group => Self::Group,
            IdentityKindName::Unit => Self::Unit,
            IdentityKindName::Role => Self::Role,
        }
    }
}

/// `kmsd split-recovery`.
#[derive(Debug, Args)]
pub struct SplitArgs {
    /// How many shares to make, up to 255.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..))]
    pub shares: u8,
    /// How many of them give the key back.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u8).range(2..))]
    pub threshold: u8,
    /// Write each share to a file of its own in this directory (mode 0600) instead of the terminal.
    #[arg(long, value_name = "DIRECTORY")]
    pub out_dir: Option<PathBuf>,
    /// Do not compare the key with this host's store, for a key of another host.
    #[arg(long)]
    pub any_store: bool,
    /// The recovery key, or shares of it that are to be replaced.
    #[command(flatten)]
    pub recovery: RecoveryArgs,
}
