//! `kmsd verify-backup`, `restore`, `rotate-recovery`, `export-volume` and `import-volume`.

use std::path::PathBuf;

use clap::Args;

use super::{ProfileName, RecoveryArgs};

/// `kmsd verify-backup`.
#[derive(Debug, Args)]
pub struct VerifyBackupArgs {
    /// The backup.
    pub file: PathBuf,
    /// With a recovery key every secret in it is opened; without, only damage is found.
    #[command(flatten)]
    pub recovery: RecoveryArgs,
}

/// `kmsd restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup.
    pub file: PathBuf,
    /// How the root key is protected besides by the TPM.
    #[arg(long, value_enum, default_value_t = ProfileName::Machine)]
    pub profile: ProfileName,
    /// What was destroyed since the backup, as `kmsctl store tombstones` listed it: it is not brought back.
    #[arg(long, value_name = "FILE")]
    pub tombstones: Option<PathBuf>,
    /// Replace the store that is there. What was destroyed in it is not brought back; it is kept beside the new one.
    #[arg(long)]
    pub replace: bool,
    /// Refuse any other file than the one with this SHA-256, as it was printed when the backup was made.
    #[arg(long, value_name = "DIGEST")]
    pub sha256: Option<String>,
    /// Where the recovery key comes from.
    #[command(flatten)]
    pub recovery: RecoveryArgs,
}

/// `kmsd rotate-recovery`.
#[derive(Debug, Args)]
pub struct RotateRecoveryArgs {
    /// Write the new recovery key to this file (mode 0600) instead of the terminal. Move it away
    /// from this host afterwards.
    #[arg(long, value_name = "FILE")]
    pub recovery_out: Option<PathBuf>,
    /// Prove with this file, instead of typing, that the new recovery key was kept.
    #[arg(long, value_name = "FILE", requires = "recovery_out")]
    pub verify_from: Option<PathBuf>,
    /// End the former recovery key now, with a deletion epoch of its own. Without this it ends with the next one.
    #[arg(long)]
    pub end_former: bool,
}

/// `kmsd export-volume`.
#[derive(Debug, Args)]
pub struct ExportVolumeArgs {
    /// The volume's id, as `kmsctl fs status` shows it.
    pub volume: String,
    /// The other host's recovery recipient (`KMSD-RECIPIENT-1-...`), as `kmsctl status` shows it there.
    #[arg(long, value_name = "RECIPIENT")]
    pub to: String,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `kmsd import-volume`.
#[derive(Debug, Args)]
pub struct ImportVolumeArgs {
    /// The file that `export-volume` wrote on the other host.
    pub file: PathBuf,
    /// This host's recovery key.
    #[command(flatten)]
    pub recovery: RecoveryArgs,
}
