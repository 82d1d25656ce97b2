//! `kmsctl derive`, `kmsctl encapsulate` and `kmsctl decapsulate`: shared secrets.

use std::path::PathBuf;

use clap::Args;
use kms_api::{
    DecapsulateRequest, DeriveSharedSecretRequest, EncapsulateRequest, EncapsulationAlgorithm,
    KeyAgreementAlgorithm, MAX_CIPHERTEXT, MAX_PUBLIC_KEY,
};

use super::super::dry;
use super::super::io::{DataArgs, Form, UseArgs, der, read, read_binary, write, write_answer};
use super::data_key::to;
use crate::Context;
use crate::exit::{Exit, Failure};

/// `kmsctl derive`.
#[derive(Debug, Args)]
pub struct DeriveArgs {
    /// The key, one for key agreement.
    #[arg(long)]
    pub key: String,
    /// The file with the other party's public key, PEM or DER (SubjectPublicKeyInfo), on the curve of the key.
    #[arg(long, value_name = "FILE")]
    pub public_key: PathBuf,
    /// Write the secret as base64.
    #[arg(long)]
    pub base64: bool,
    /// Write the secret to this file (mode 0600) instead of standard output. Give it to a key derivation function before use.
    #[arg(long = "out", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

/// `kmsctl encapsulate`.
#[derive(Debug, Args)]
pub struct EncapsulateArgs {
    /// The key, an ML-KEM key.
    #[arg(long)]
    pub key: String,
    /// Write what the owner of the key is to be sent to this file instead of standard output.
    #[arg(long = "out", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the secret to this file (mode 0600; `-`: standard output).
    #[arg(long, value_name = "FILE")]
    pub secret_out: Option<PathBuf>,
    /// Write both as base64.
    #[arg(long)]
    pub base64: bool,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

/// `kmsctl decapsulate`.
#[derive(Debug, Args)]
pub struct DecapsulateArgs {
    /// The key, an ML-KEM key.
    #[arg(long)]
    pub key: String,
    /// Input and output are base64.
    #[arg(long)]
    pub base64: bool,
    /// Input and output.
    #[command(flatten)]
    pub data: DataArgs,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

pub(super) fn derive(args: &DeriveArgs, context: &Context) -> Result<(), Failure> {
    let hint = "No public key is as long: is this the right file?";
    // PEM is longer than its DER.
    let bytes = read(Some(&args.public_key), 2 * MAX_PUBLIC_KEY, hint)?;
    let name = args.public_key.display().to_string();
    let answer = context.client.send(DeriveSharedSecretRequest {
        key_id: args.key.clone(),
        key_agreement_algorithm: KeyAgreementAlgorithm::Ecdh,
        public_key: der(&name, "PUBLIC KEY", bytes)?,
        grant_tokens: args.uses.grant_tokens.clone(),
        dry_run: args.uses.dry_run,
    });
    let Some(response) = dry::answer(answer, context)? else {
        return Ok(());
    };
    let form = Form {
        base64: args.base64,
        private: true,
    };
    let bytes = response.shared_secret.as_slice();
    write_answer(&response, bytes, args.output.as_deref(), form, context)
}

pub(super) fn encapsulate(args: &EncapsulateArgs, context: &Context) -> Result<(), Failure> {
    let (sent, secret) = (to(args.output.as_deref()), to(args.secret_out.as_deref()));
    let json = context.output.is_json();
    if !json
        && !args.uses.dry_run
        && (args.secret_out.is_none() || (sent.is_none() && secret.is_none()))
    {
        return Err(Failure::new(
            Exit::Usage,
            "the secret and what is sent of it go to two places",
        )
        .next("Give --secret-out FILE and --out FILE (one of them may be `-`), or --json."));
    }
    let answer = context.client.send(EncapsulateRequest {
        key_id: args.key.clone(),
        encapsulation_algorithm: EncapsulationAlgorithm::MlKem,
        grant_tokens: args.uses.grant_tokens.clone(),
        dry_run: args.uses.dry_run,
    });
    let Some(response) = dry::answer(answer, context)? else {
        return Ok(());
    };
    if json && sent.is_none() && secret.is_none() {
        return context.output.print("", &response);
    }
    let blob = response.shared_secret_ciphertext_blob.as_slice();
    write(sent, blob, args.base64, false, context)?;
    write(
        secret,
        response.shared_secret.as_slice(),
        args.base64,
        true,
        context,
    )
}

pub(super) fn decapsulate(args: &DecapsulateArgs, context: &Context) -> Result<(), Failure> {
    let blob = read_binary(
        args.data.input.as_deref(),
        args.base64,
        MAX_CIPHERTEXT,
        "Nothing that `encapsulate` makes is as long: is this the right file?",
    )?;
    let answer = context.client.send(DecapsulateRequest {
        key_id: args.key.clone(),
        shared_secret_ciphertext_blob: blob,
        encapsulation_algorithm: EncapsulationAlgorithm::MlKem,
        grant_tokens: args.uses.grant_tokens.clone(),
        dry_run: args.uses.dry_run,
    });
    let Some(response) = dry::answer(answer, context)? else {
        return Ok(());
    };
    let form = Form {
        base64: args.base64,
        private: true,
    };
    let bytes = response.shared_secret.as_slice();
    write_answer(&response, bytes, args.data.output.as_deref(), form, context)
}
