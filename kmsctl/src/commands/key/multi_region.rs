//! `kmsctl key replicate` and `set-primary-region`.

use std::path::PathBuf;

use clap::Args;
use kms_api::*;

use super::super::access::document;
use super::super::key_id;
use super::create::tags;
use crate::Context;
use crate::args::pair;
use crate::exit::Failure;

/// `kmsctl key replicate`.
#[derive(Debug, Args)]
pub struct ReplicateArgs {
    /// The primary key.
    key: String,
    /// The Region of the replica.
    #[arg(long, value_name = "REGION")]
    to: String,
    /// Free text of the replica, up to 8192 characters.
    #[arg(long)]
    description: Option<String>,
    /// A tag of the replica, may be given several times.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = pair)]
    tags: Vec<(String, String)>,
    /// The key policy document of the replica instead of the default one; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Take the policy even if you could not change it again.
    #[arg(long)]
    bypass_lockout_check: bool,
}

pub(super) fn replicate(args: &ReplicateArgs, context: &Context) -> Result<(), Failure> {
    let policy = args.policy.as_deref().map(document).transpose()?;
    let response = context.client.send(ReplicateKeyRequest {
        key_id: key_id(&args.key, context)?,
        replica_region: args.to.clone(),
        policy,
        bypass_policy_lockout_safety_check: args.bypass_lockout_check,
        description: args.description.clone(),
        tags: tags(&args.tags),
    })?;
    let arn = response.replica_key_metadata.arn.clone();
    context.output.print(arn, &response)
}

pub(super) fn set_primary_region(
    key: &str,
    region: &str,
    context: &Context,
) -> Result<(), Failure> {
    context.client.send(UpdatePrimaryRegionRequest {
        key_id: key_id(key, context)?,
        primary_region: region.to_owned(),
    })?;
    context
        .output
        .done(format!("The primary key of {key} is the one in {region}."))
}
