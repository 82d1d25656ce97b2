//! The command line of kmsd.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kms_seal::Profile;

use crate::exit;

mod break_glass;
mod dev;
mod store;
mod tls;

pub use break_glass::{BreakGlassAction, BreakGlassArgs, SplitArgs};
pub use dev::{DEV_ACCOUNT, DevArgs, DevKey};
pub use store::{
    ExportVolumeArgs, ImportVolumeArgs, RestoreArgs, RotateRecoveryArgs, VerifyBackupArgs,
};

pub use tls::{ClientArgs, PlaceArgs, ServerArgs, TlsArgs, TlsCommand};

/// A key management daemon with the AWS KMS API, its root key sealed to a TPM 2.0.
///
/// Without a command it serves requests until it is told to end.
#[derive(Debug, Parser)]
#[command(name = "kmsd", version, propagate_version = true, after_help = exit::TABLE)]
#[command(
    args_conflicts_with_subcommands = false,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// The configuration [default: /etc/kmsd/kmsd.toml if it is there, else the defaults].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Only check the configuration.
    #[arg(long)]
    pub check_config: bool,
    /// Start although the audit log lacks records that the store knows of, or is damaged. It is recorded.
    #[arg(long)]
    pub accept_audit_gap: bool,
    /// Print results as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What kmsd does besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Seal a new root key, make an empty store and its recovery key.
    Enroll(EnrollArgs),
    /// Open the store with the recovery key and seal it to this host's TPM; all keys are kept.
    Recover(RecoverArgs),
    /// Accept a store that is older than the newest one of this host. Needs the recovery key.
    AcceptRollback(RecoveryArgs),
    /// Let the store be opened in one more measured state (PCRs): the present one, or a coming one.
    Approve(ApproveArgs),
    /// Remove this store's enrolment from the TPM. Only the recovery key opens the store then.
    Unenroll(UnenrollArgs),
    /// Show the TPM, or the software sealer.
    TpmStatus,
    /// Change a policy or a key past every policy, while kmsd is stopped. It is recorded.
    BreakGlass(BreakGlassArgs),
    /// Split the recovery key into shares, some of which give it back.
    SplitRecovery(SplitArgs),
    /// Look whether a backup of a store is whole and, with the recovery key, whether everything in it opens.
    VerifyBackup(VerifyBackupArgs),
    /// Make the store of a backup, sealed to this host's TPM. Needs the recovery key.
    Restore(RestoreArgs),
    /// Make a new recovery key. The former one ends with the next deletion epoch, or at once.
    RotateRecovery(RotateRecoveryArgs),
    /// Write the keys of one volume to a file that only another host's recovery key opens.
    ExportVolume(ExportVolumeArgs),
    /// Take in the keys of a volume of another host. Needs this host's recovery key.
    ImportVolume(ImportVolumeArgs),
    /// Make certificates for the TLS listener.
    Tls(TlsArgs),
    /// Serve the AWS KMS API over HTTP on this host for developing and testing programs: no TPM, keys in memory, every Region.
    Dev(DevArgs),
    /// Answer GetPolicy and Decrypt from a store that is only read; started by kmsctl.
    #[command(hide = true)]
    Offline(OfflineArgs),
}

/// What stands behind the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileName {
    /// 32 random bytes in a file that the service manager delivers: starts without anyone there.
    Machine,
    /// A PIN that someone types at each start; the TPM locks when it is guessed wrong.
    Pin,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::Machine => Self::Machine,
            ProfileName::Pin => Self::Pin,
        }
    }
}

/// `kmsd enroll`.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// How the root key is protected besides by the TPM.
    #[arg(long, value_enum, default_value_t = ProfileName::Machine)]
    pub profile: ProfileName,
    /// Write the recovery key to this file (mode 0600) instead of the terminal. Move it away
    /// from this host afterwards: whoever has it and a copy of the store has every key.
    #[arg(long, value_name = "FILE")]
    pub recovery_out: Option<PathBuf>,
    /// Prove with this file, instead of typing, that the recovery key was kept.
    #[arg(long, value_name = "FILE", requires = "recovery_out")]
    pub verify_from: Option<PathBuf>,
}

/// Where the recovery key comes from.
#[derive(Debug, Args)]
pub struct RecoveryArgs {
    /// Read the recovery key from this file instead of asking for it.
    #[arg(long, global = true, value_name = "FILE")]
    pub recovery_from: Option<PathBuf>,
    /// Read a share of the recovery key from this file; once for each share.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "recovery_from"
    )]
    pub recovery_share: Vec<PathBuf>,
}

/// `kmsd approve`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// A register and its value (64 hex digits, SHA-256 bank) in the coming state; once for each
    /// register that is to be checked. Without any, the present state is approved.
    #[arg(long = "pcr", value_name = "NUMBER=VALUE", value_parser = crate::commands::parse_pcr)]
    pub pcrs: Vec<(u32, [u8; 32])>,
}

/// `kmsd unenroll`.
#[derive(Debug, Args)]
pub struct UnenrollArgs {
    /// Do it without asking for the store's name at the terminal.
    #[arg(long)]
    pub yes_destroy: bool,
}

/// `kmsd recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// How the root key is protected besides by the TPM.
    #[arg(long, value_enum, default_value_t = ProfileName::Machine)]
    pub profile: ProfileName,
    /// Where the recovery key comes from.
    #[command(flatten)]
    pub recovery: RecoveryArgs,
}

/// `kmsd offline`.
#[derive(Debug, Args)]
pub struct OfflineArgs {
    /// The directory of the store, or of a backup of it, instead of the configured one.
    #[arg(long, value_name = "DIRECTORY")]
    pub store: Option<PathBuf>,
    /// The socket to make, in an empty directory that only this user may enter.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Open the store with this recovery key, without a TPM.
    #[command(flatten)]
    pub recovery: RecoveryArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_may_stand_before_or_after_the_command() {
        for line in ["kmsd --config x enroll", "kmsd enroll --config x"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.config, Some("x".into()));
        }
        let line = "kmsd enroll --verify-from x";
        assert!(
            Cli::try_parse_from(line.split(' ')).is_err(),
            "needs --recovery-out"
        );
    }
}
