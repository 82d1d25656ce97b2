//! `kmsctl key create`.

use std::path::PathBuf;

use clap::Args;
use kms_api::*;

use super::super::access::document;
use super::super::crypto::wire;
use crate::Context;
use crate::args::pair;
use crate::exit::Failure;

/// `kmsctl key create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Free text, up to 8192 characters.
    #[arg(long, default_value = "")]
    pub description: String,
    /// Also give it this name (`alias/NAME`).
    #[arg(long, value_name = "ALIAS")]
    pub alias: Option<String>,
    /// Also rotate it automatically every so many days (90 to 2560).
    #[arg(long, value_name = "DAYS")]
    pub rotation_days: Option<u32>,
    /// Kind of key, SYMMETRIC_DEFAULT by default.
    #[arg(long, ignore_case = true, value_parser = wire!(KeySpec))]
    pub spec: Option<KeySpec>,
    /// What it is for; not needed for kinds that have only one use.
    #[arg(long, ignore_case = true, value_parser = wire!(KeyUsage))]
    pub usage: Option<KeyUsage>,
    /// Where the material comes from: with EXTERNAL it is empty until `key import`.
    #[arg(long, ignore_case = true, value_parser = wire!(Origin))]
    pub origin: Option<Origin>,
    /// Make it the primary of a multi-Region key.
    #[arg(long)]
    pub multi_region: bool,
    /// A tag, may be given several times.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = pair)]
    pub tags: Vec<(String, String)>,
    /// The key policy document instead of the default one; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Take the policy even if you could not change it again.
    #[arg(long)]
    pub bypass_lockout_check: bool,
}

pub(super) fn create(args: &CreateArgs, context: &Context) -> Result<(), Failure> {
    let policy = args.policy.as_deref().map(document).transpose()?;
    let request = CreateKeyRequest {
        policy,
        description: Some(args.description.clone()),
        key_usage: args.usage.or_else(|| args.spec.and_then(only_usage)),
        key_spec: args.spec,
        origin: args.origin,
        bypass_policy_lockout_safety_check: args.bypass_lockout_check,
        tags: tags(&args.tags),
        multi_region: args.multi_region,
        ..CreateKeyRequest::default()
    };
    let created = context.client.send(request)?;
    let id = created.key_metadata.key_id.clone();
    // The key is there whatever happens now: say so, or it would be forgotten.
    let keep = |failure: Failure| Failure {
        message: format!("key {id} was created, but: {}", failure.message),
        ..failure
    };
    if let Some(days) = args.rotation_days {
        let request = EnableKeyRotationRequest {
            key_id: id.clone(),
            rotation_period_in_days: Some(days),
        };
        context.client.send(request).map_err(|e| keep(e.into()))?;
    }
    if let Some(name) = &args.alias {
        let request = CreateAliasRequest {
            alias_name: name.clone(),
            target_key_id: id.clone(),
        };
        context.client.send(request).map_err(|e| keep(e.into()))?;
    }
    context.output.print(&id, &created)
}

/// Tags of the command line.
pub(super) fn tags(given: &[(String, String)]) -> Vec<Tag> {
    given
        .iter()
        .map(|(name, value)| Tag {
            tag_key: name.clone(),
            tag_value: value.clone(),
        })
        .collect()
}

/// The use of a kind of key that has only one. AWS wants it said all the same.
fn only_usage(spec: KeySpec) -> Option<KeyUsage> {
    match spec {
        KeySpec::SymmetricDefault => Some(KeyUsage::EncryptDecrypt),
        KeySpec::Hmac224 | KeySpec::Hmac256 | KeySpec::Hmac384 | KeySpec::Hmac512 => {
            Some(KeyUsage::GenerateVerifyMac)
        }
        KeySpec::EccSecgP256k1
        | KeySpec::EccNistEdwards25519
        | KeySpec::MlDsa44
        | KeySpec::MlDsa65
        | KeySpec::MlDsa87 => Some(KeyUsage::SignVerify),
        KeySpec::MlKem512 | KeySpec::MlKem768 | KeySpec::MlKem1024 => {
            Some(KeyUsage::EncapsulateDecapsulate)
        }
        KeySpec::Rsa2048
        | KeySpec::Rsa3072
        | KeySpec::Rsa4096
        | KeySpec::EccNistP256
        | KeySpec::EccNistP384
        | KeySpec::EccNistP521
        | KeySpec::Sm2 => None,
    }
}
