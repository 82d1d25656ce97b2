//! `kmsctl mac` and `kmsctl verify-mac`.

use std::path::PathBuf;

use clap::Args;
use kms_api::{GenerateMacRequest, MAX_CIPHERTEXT, MAX_PLAINTEXT, MacAlgorithm, VerifyMacRequest};

use super::super::io::{DataArgs, Form, UseArgs, read, read_binary, write_answer};
use super::super::{describe, dry};
use super::wire;
use crate::Context;
use crate::exit::{Exit, Failure};

const TOO_LONG: &str = "Give the HMAC of a digest of it, which has to be said to those who verify.";

/// `kmsctl mac`.
#[derive(Debug, Args)]
pub struct MacArgs {
    /// The key, an HMAC key.
    #[arg(long)]
    pub key: String,
    /// The algorithm, by default the one that the key has.
    #[arg(long, ignore_case = true, value_parser = wire!(MacAlgorithm))]
    pub algorithm: Option<MacAlgorithm>,
    /// Write the HMAC as base64.
    #[arg(long)]
    pub base64: bool,
    /// Input and output.
    #[command(flatten)]
    pub data: DataArgs,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

/// `kmsctl verify-mac`.
#[derive(Debug, Args)]
pub struct VerifyMacArgs {
    /// The key, an HMAC key.
    #[arg(long)]
    pub key: String,
    /// The algorithm, by default the one that the key has.
    #[arg(long, ignore_case = true, value_parser = wire!(MacAlgorithm))]
    pub algorithm: Option<MacAlgorithm>,
    /// The file with the HMAC.
    #[arg(long, value_name = "FILE")]
    pub mac: PathBuf,
    /// The HMAC is base64.
    #[arg(long)]
    pub base64: bool,
    /// Read the message from this file instead of standard input.
    #[arg(long = "in", value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

pub(super) fn generate(args: &MacArgs, context: &Context) -> Result<(), Failure> {
    let message = read(args.data.input.as_deref(), MAX_PLAINTEXT, TOO_LONG)?;
    let answer = context.client.send(GenerateMacRequest {
        message,
        key_id: args.key.clone(),
        mac_algorithm: algorithm(&args.key, args.algorithm, context)?,
        grant_tokens: args.uses.grant_tokens.clone(),
        dry_run: args.uses.dry_run,
    });
    let Some(response) = dry::answer(answer, context)? else {
        return Ok(());
    };
    let form = Form {
        base64: args.base64,
        ..Form::default()
    };
    let bytes = response.mac.as_slice();
    write_answer(&response, bytes, args.data.output.as_deref(), form, context)
}

pub(super) fn verify(args: &VerifyMacArgs, context: &Context) -> Result<(), Failure> {
    let mac = read_binary(
        Some(&args.mac),
        args.base64,
        MAX_CIPHERTEXT,
        "No HMAC is as long: is this the right file?",
    )?;
    let message = read(args.input.as_deref(), MAX_PLAINTEXT, TOO_LONG)?;
    let answer = context.client.send(VerifyMacRequest {
        message,
        key_id: args.key.clone(),
        mac_algorithm: algorithm(&args.key, args.algorithm, context)?,
        mac,
        grant_tokens: args.uses.grant_tokens.clone(),
        dry_run: args.uses.dry_run,
    });
    match dry::answer(answer, context)? {
        Some(response) => context.output.print("The HMAC is right.", &response),
        None => Ok(()),
    }
}

/// The algorithm that is asked for, or the one of the key: HMAC keys have one.
fn algorithm(
    key: &str,
    asked: Option<MacAlgorithm>,
    context: &Context,
) -> Result<MacAlgorithm, Failure> {
    if let Some(algorithm) = asked {
        return Ok(algorithm);
    }
    let algorithms = describe(key, context)?.mac_algorithms;
    algorithms
        .first()
        .copied()
        .ok_or_else(|| Failure::new(Exit::Invalid, format!("{key} is no HMAC key")))
}
