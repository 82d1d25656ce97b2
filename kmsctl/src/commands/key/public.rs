//! `kmsctl key public-key`.

use std::path::PathBuf;

use clap::Args;
use kms_api::GetPublicKeyRequest;

use super::super::io::{pem, write};
use crate::Context;
use crate::exit::Failure;

/// `kmsctl key public-key`.
#[derive(Debug, Args)]
pub struct PublicKeyArgs {
    /// The key, an asymmetric one.
    pub key: String,
    /// Write DER (SubjectPublicKeyInfo) instead of PEM.
    #[arg(long)]
    pub der: bool,
    /// Write to this file instead of standard output.
    #[arg(long = "out", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// A grant token (of `grant create`), may be given several times.
    #[arg(long = "grant-token", value_name = "TOKEN")]
    pub grant_tokens: Vec<String>,
}

pub(super) fn run(args: &PublicKeyArgs, context: &Context) -> Result<(), Failure> {
    let response = context.client.send(GetPublicKeyRequest {
        key_id: args.key.clone(),
        grant_tokens: args.grant_tokens.clone(),
    })?;
    let output = args.output.as_deref();
    if context.output.is_json() && output.is_none() {
        return context.output.print("", &response);
    }
    let key = match args.der {
        true => response.public_key,
        false => pem("PUBLIC KEY", response.public_key.as_slice()),
    };
    write(output, key.as_slice(), false, false, context)
}
