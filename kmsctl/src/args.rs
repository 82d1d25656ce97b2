//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::access::{GuardRailArgs, KeyPolicyCommand, TagArgs, UntagArgs, WhoCanArgs};
use crate::commands::access_key::AccessKeyArgs;
use crate::commands::approval::ApprovalArgs;
use crate::commands::audit::AuditArgs;
use crate::commands::aws_config::AwsConfigArgs;
use crate::commands::crypto::CryptoCommand;
use crate::commands::events::EventsArgs;
use crate::commands::fs::FsArgs;
use crate::commands::grant::GrantArgs;
use crate::commands::iam::IamArgs;
use crate::commands::key::create::CreateArgs;
use crate::commands::key::material::{DeleteMaterialArgs, ImportArgs, ParametersArgs, WrappedArgs};
use crate::commands::key::multi_region::ReplicateArgs;
use crate::commands::key::public::PublicKeyArgs;
use crate::commands::lease::LeaseArgs;
use crate::commands::lint::LintArgs;
use crate::commands::policy::PolicyArgs;
use crate::commands::store::StoreArgs;
use crate::commands::usage::UsageArgs;
use crate::commands::why::WhyArgs;
use crate::exit;

/// Administers kmsd and kmsfs.
#[derive(Debug, Parser)]
#[command(name = "kmsctl", version, propagate_version = true, after_help = exit::TABLE)]
pub struct Cli {
    /// The socket of kmsd.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "KMSD_SOCKET",
        default_value = kms_api::client::DEFAULT_SOCKET
    )]
    pub socket: PathBuf,
    /// The Region to ask in: one of `server.regions` of kmsd's configuration; its own without it.
    #[arg(long, global = true, value_name = "REGION", env = "KMSD_REGION", value_parser = region)]
    pub region: Option<String>,
    /// The account to ask in, as its root principal or an administrator: one of `server.accounts` of kmsd's configuration; its
    /// own without it.
    #[arg(
        long = "as-account",
        id = "as_account",
        global = true,
        value_name = "ACCOUNT",
        env = "KMSD_ACCOUNT",
        value_parser = account
    )]
    pub account: Option<String>,
    /// Ask a kmsd of the network: https://HOST:PORT. Requests are signed with the access key in AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY.
    #[arg(long, global = true, value_name = "URL", env = "KMSD_ENDPOINT")]
    pub endpoint: Option<String>,
    /// With --endpoint: file with the authorities to trust, PEM, instead of the host's.
    #[arg(long, global = true, value_name = "FILE", env = "AWS_CA_BUNDLE")]
    pub ca_file: Option<PathBuf>,
    /// Print results (and errors, on standard error) as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Seconds to wait for an answer of kmsd.
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub timeout: u64,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

fn region(text: &str) -> Result<String, &'static str> {
    match kms_api::Scope::is_region(text) {
        true => Ok(text.to_owned()),
        false => Err("a Region has 1 to 32 lower-case letters, digits and hyphens"),
    }
}

fn account(text: &str) -> Result<String, &'static str> {
    match kms_api::Scope::is_account(text) {
        true => Ok(text.to_owned()),
        false => Err("an account has 12 digits"),
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how kmsd is.
    Status,
    /// Show who kmsd takes the caller for: principals, groups, unit, executable.
    Whoami,
    /// Create and manage keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Give keys names.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Limit what anybody may do.
    GuardRail(GuardRailArgs),
    /// List who may do something on a key, and why.
    WhoCan(WhoCanArgs),
    /// Explain what decided about a request in the audit log, and what would change it.
    Why(WhyArgs),
    /// Let principals use a key, for a while or for good.
    Grant(GrantArgs),
    /// Check policy documents, and begin new ones.
    Policy(PolicyArgs),
    /// Access keys: what signs requests that come over the network.
    AccessKey(AccessKeyArgs),
    /// Services that rely on answers of kmsd for a while.
    Lease(LeaseArgs),
    /// Requests that wait for the approval of others.
    Approval(ApprovalArgs),
    /// Look for what AWS Config and Security Hub would complain about. Ends with exit code 17 when there is something.
    Lint(LintArgs),
    /// Print what programs that speak AWS KMS need in their environment to use kmsd.
    AwsConfig(AwsConfigArgs),
    /// Use keys: encrypt, sign, data keys and the like.
    #[command(flatten)]
    Crypto(CryptoCommand),
    /// Encrypted directories.
    Fs(FsArgs),
    /// The TPM and the root key (runs the kmsd program).
    #[command(subcommand)]
    Tpm(TpmCommand),
    /// The audit log.
    Audit(AuditArgs),
    /// Policies of users, groups, units and roles, and the policy files.
    Iam(IamArgs),
    /// Show what kmsd tells of: rotations, deletions, bursts of denials and the like.
    Events(EventsArgs),
    /// Count calls from the audit log, and estimate what they would have cost at AWS.
    Usage(UsageArgs),
    /// Change a policy or a key past every policy, while kmsd is stopped (runs the kmsd program).
    #[command(disable_help_flag = true)]
    BreakGlass(Passed),
    /// Backups of kmsd's store, and what was destroyed in it.
    Store(StoreArgs),
    /// The recovery key: a new one, or shares of it (runs the kmsd program).
    #[command(subcommand)]
    Recovery(RecoveryCommand),
    /// List the exit codes.
    ExitCodes,
}

/// `kmsctl key …`. KEY is a key id, key ARN, alias name (`alias/NAME`) or alias ARN.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create a key and print its id.
    Create(CreateArgs),
    /// List all keys with their states and names.
    List,
    /// Describe a key.
    Describe {
        /// The key.
        key: String,
    },
    /// Enable a key.
    Enable {
        /// The key.
        key: String,
    },
    /// Disable a key: nothing can be encrypted or decrypted with it until it is enabled.
    Disable {
        /// The key.
        key: String,
    },
    /// Make new key material now; what was encrypted before still decrypts.
    Rotate {
        /// The key.
        key: String,
    },
    /// List the versions of the key material.
    Rotations {
        /// The key.
        key: String,
    },
    /// Rotate automatically from now on.
    EnableRotation {
        /// The key.
        key: String,
        /// Period, 90 to 2560.
        #[arg(long, value_name = "DAYS", default_value_t = 365)]
        days: u32,
    },
    /// End automatic rotation.
    DisableRotation {
        /// The key.
        key: String,
    },
    /// Destroy a key after a waiting period. What it encrypted is then lost for ever.
    ScheduleDeletion {
        /// The key.
        key: String,
        /// Waiting period, 7 to 30.
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        days: u32,
        /// Do it without asking at the terminal.
        #[arg(long)]
        yes: bool,
    },
    /// Show what would be lost with a key: the directories that hang on it, and its last use.
    PreviewDeletion {
        /// The key.
        key: String,
    },
    /// Replace the description of a key.
    SetDescription {
        /// The key.
        key: String,
        /// Free text, up to 8192 characters.
        text: String,
    },
    /// Show when a key was last used with success, and for what.
    LastUsage {
        /// The key.
        key: String,
    },
    /// Show whether and when a key is rotated automatically.
    RotationStatus {
        /// The key.
        key: String,
    },
    /// Make a replica of a multi-Region primary key in another Region and print its ARN.
    Replicate(ReplicateArgs),
    /// Make the replica in another Region the primary key.
    SetPrimaryRegion {
        /// The primary key.
        key: String,
        /// The Region of the replica.
        #[arg(long, value_name = "REGION")]
        to: String,
    },
    /// Import key material from a file: kmsctl wraps it for kmsd.
    Import(ImportArgs),
    /// Get what key material is wrapped with, to wrap it elsewhere.
    ImportParameters(ParametersArgs),
    /// Import key material that was wrapped elsewhere.
    ImportWrapped(WrappedArgs),
    /// Delete imported key material at once.
    DeleteMaterial(DeleteMaterialArgs),
    /// Write the public key of an asymmetric key.
    PublicKey(PublicKeyArgs),
    /// Read and replace the policy of a key: who may use and manage it.
    #[command(subcommand)]
    Policy(KeyPolicyCommand),
    /// Give a key tags, and new values to those it has.
    Tag(TagArgs),
    /// Take tags from a key.
    Untag(UntagArgs),
    /// List the tags of a key.
    Tags {
        /// The key.
        key: String,
    },
    /// Cancel the destruction of a key. It is disabled afterwards.
    CancelDeletion {
        /// The key.
        key: String,
    },
}

/// `kmsctl alias …`.
#[derive(Debug, Subcommand)]
pub enum AliasCommand {
    /// Name a key.
    Create {
        /// `alias/NAME`.
        alias: String,
        /// The key.
        key: String,
    },
    /// Point a name at another key.
    Update {
        /// `alias/NAME`.
        alias: String,
        /// The key.
        key: String,
    },
    /// Remove a name; the key stays.
    Delete {
        /// `alias/NAME`.
        alias: String,
    },
    /// List names.
    List {
        /// Only those of this key.
        #[arg(long)]
        key: Option<String>,
    },
}

/// `kmsctl tpm …`: the arguments are passed to kmsd as they are (`kmsd enroll --help`).
#[derive(Debug, Subcommand)]
pub enum TpmCommand {
    /// Seal a new root key to the TPM and make the recovery key.
    #[command(disable_help_flag = true)]
    Enroll(Passed),
    /// Show the TPM, or the software sealer.
    #[command(disable_help_flag = true)]
    Status(Passed),
    /// Open the store with the recovery key and seal it to this host's TPM.
    #[command(disable_help_flag = true)]
    Recover(Passed),
    /// Let the store be opened in one more measured state (PCRs).
    #[command(disable_help_flag = true)]
    Approve(Passed),
    /// Accept a store that is older than the newest one of this host.
    #[command(disable_help_flag = true)]
    AcceptRollback(Passed),
    /// Remove this store's enrolment from the TPM. Only the recovery key opens the store then.
    #[command(disable_help_flag = true)]
    Unenroll(Passed),
}

/// `kmsctl recovery …`: the arguments are passed to kmsd as they are (`kmsd split-recovery --help`, `kmsd rotate-recovery --help`).
#[derive(Debug, Subcommand)]
pub enum RecoveryCommand {
    /// Make a new recovery key; the former one ends with the next deletion epoch, or at once with --end-former.
    #[command(disable_help_flag = true)]
    Rotate(Passed),
    /// Split the recovery key into shares, some of which give it back.
    #[command(disable_help_flag = true)]
    Split(Passed),
}

/// Arguments for another program.
#[derive(Debug, Args)]
pub struct Passed {
    /// Arguments of kmsd.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGUMENTS"
    )]
    pub arguments: Vec<OsString>,
}

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected NAME=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_kmsd_pass_through() {
        let cli = Cli::try_parse_from([
            "kmsctl",
            "tpm",
            "enroll",
            "--config",
            "/x",
            "--recovery-out",
            "r",
            "--json",
        ])
        .unwrap();
        let Command::Tpm(TpmCommand::Enroll(passed)) = cli.command else {
            panic!()
        };
        assert_eq!(
            passed.arguments,
            ["--config", "/x", "--recovery-out", "r", "--json"]
        );
    }
}
