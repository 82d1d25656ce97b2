//! What each command does.

use kms_api::{DescribeKeyRequest, KeyMetadata};

use crate::Context;
use crate::args::{Command, RecoveryCommand};
use crate::exit::{self, Exit, Failure};

pub(crate) mod access;
pub(crate) mod access_key;
mod alias;
pub(crate) mod approval;
pub(crate) mod audit;
pub(crate) mod aws_config;
mod confirm;
pub(crate) mod crypto;
mod dry;
pub(crate) mod events;
pub(crate) mod fs;
pub(crate) mod grant;
pub(crate) mod iam;
mod io;
pub(crate) mod key;
pub(crate) mod lease;
pub(crate) mod lint;
mod loss;
pub(crate) mod policy;
mod simulate;
mod status;
pub(crate) mod store;
mod tpm;
pub(crate) mod usage;
mod whoami;
pub(crate) mod why;

/// Carries out a command, and says how kmsctl ends when it succeeded.
pub(crate) fn run(command: &Command, context: &Context) -> Result<Exit, Failure> {
    let done = match command {
        Command::Status => status::run(context),
        Command::Whoami => whoami::run(context),
        Command::Key(command) => key::run(command, context),
        Command::Alias(command) => alias::run(command, context),
        Command::GuardRail(args) => access::guard_rail(args, context),
        Command::WhoCan(args) => access::who_can(args, context),
        Command::Why(args) => why::run(args, context),
        Command::Grant(args) => grant::run(args, context),
        Command::AccessKey(args) => access_key::run(args, context),
        Command::Lease(args) => lease::run(args, context),
        Command::Approval(args) => approval::run(args, context),
        Command::Policy(args) => return policy::run(args, context),
        Command::Lint(args) => return lint::run(args, context),
        Command::AwsConfig(args) => aws_config::run(args, context),
        Command::Crypto(command) => crypto::run(command, context),
        Command::Audit(args) => return audit::run(args, context),
        Command::Fs(args) => return fs::run(args, context),
        Command::Tpm(command) => tpm::run(command, context),
        Command::Iam(args) => iam::run(args, context),
        Command::Events(args) => events::run(args, context),
        Command::Usage(args) => usage::run(args, context),
        Command::BreakGlass(args) => tpm::pass("break-glass", &args.arguments, context),
        Command::Recovery(RecoveryCommand::Split(args)) => {
            tpm::pass("split-recovery", &args.arguments, context)
        }
        Command::Recovery(RecoveryCommand::Rotate(args)) => {
            tpm::pass("rotate-recovery", &args.arguments, context)
        }
        Command::Store(args) => store::run(args, context),
        Command::ExitCodes => context.output.print(exit::TABLE, &exit::TABLE),
    };
    done.map(|()| Exit::Success)
}

/// Describes a key given in any form.
pub(crate) fn describe(key: &str, context: &Context) -> Result<KeyMetadata, Failure> {
    let request = DescribeKeyRequest {
        key_id: key.to_owned(),
        grant_tokens: Vec::new(),
    };
    Ok(context.client.send(request)?.key_metadata)
}

/// The key id of a key given in any form: the operations that manage keys take no alias.
pub(crate) fn key_id(key: &str, context: &Context) -> Result<String, Failure> {
    if key.starts_with("alias/") || key.contains(":alias/") {
        return Ok(describe(key, context)?.key_id);
    }
    Ok(key.to_owned())
}
