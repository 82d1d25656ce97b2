//! `kmsctl encrypt`, `kmsctl decrypt` and `kmsctl re-encrypt`.

use clap::Args;
use kms_api::{
    DecryptRequest, DryRunModifier, EncryptRequest, EncryptionAlgorithm, MAX_CIPHERTEXT,
    MAX_PLAINTEXT, ReEncryptRequest,
};

use super::super::dry;
use super::super::io::{DataArgs, Form, UseArgs, read, read_binary, write_answer};
use super::{pairs, wire};
use crate::Context;
use crate::args::pair;
use crate::exit::Failure;

const TOO_LONG: &str =
    "Encrypt larger data with a data key (`kmsctl data-key`), or keep it in a kmsfs directory.";
const NO_BLOB: &str = "Nothing that kmsd made is as long: is this the right file?";

/// `kmsctl encrypt`.
#[derive(Debug, Args)]
pub struct EncryptArgs {
    /// The key.
    #[arg(long)]
    pub key: String,
    /// The algorithm; needed for asymmetric keys.
    #[arg(long, ignore_case = true, value_parser = wire!(EncryptionAlgorithm))]
    pub algorithm: Option<EncryptionAlgorithm>,
    /// Encryption context, may be given several times; the same pairs are needed to decrypt.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub context: Vec<(String, String)>,
    /// Write the ciphertext as base64.
    #[arg(long)]
    pub base64: bool,
    /// Input and output.
    #[command(flatten)]
    pub data: DataArgs,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

/// `kmsctl decrypt`.
#[derive(Debug, Args)]
pub struct DecryptArgs {
    /// The key it must have been made under; by default the ciphertext says which. Needed for asymmetric keys.
    #[arg(long)]
    pub key: Option<String>,
    /// The algorithm; needed for asymmetric keys.
    #[arg(long, ignore_case = true, value_parser = wire!(EncryptionAlgorithm))]
    pub algorithm: Option<EncryptionAlgorithm>,
    /// Encryption context, may be given several times: the pairs given at encryption.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub context: Vec<(String, String)>,
    /// The ciphertext is base64.
    #[arg(long)]
    pub base64: bool,
    /// Read no ciphertext: check only whether --key could be used.
    #[arg(long, requires = "dry_run", requires = "key")]
    pub ignore_ciphertext: bool,
    /// Input and output.
    #[command(flatten)]
    pub data: DataArgs,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

/// `kmsctl re-encrypt`.
#[derive(Debug, Args)]
pub struct ReEncryptArgs {
    /// The key to encrypt under.
    #[arg(long = "to", value_name = "KEY")]
    pub to: String,
    /// The key it must have been made under; by default the ciphertext says which. Needed for asymmetric keys.
    #[arg(long = "from", value_name = "KEY")]
    pub from: Option<String>,
    /// The algorithm it was made with; needed for asymmetric keys.
    #[arg(long, value_name = "ALGORITHM", ignore_case = true, value_parser = wire!(EncryptionAlgorithm))]
    pub from_algorithm: Option<EncryptionAlgorithm>,
    /// The algorithm to encrypt with; needed for asymmetric keys.
    #[arg(long, value_name = "ALGORITHM", ignore_case = true, value_parser = wire!(EncryptionAlgorithm))]
    pub to_algorithm: Option<EncryptionAlgorithm>,
    /// Encryption context of the input, may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub from_context: Vec<(String, String)>,
    /// Encryption context of the output, may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub to_context: Vec<(String, String)>,
    /// Input and output are base64.
    #[arg(long)]
    pub base64: bool,
    /// Read no ciphertext: check only whether the keys could be used.
    #[arg(long, requires = "dry_run", requires = "from")]
    pub ignore_ciphertext: bool,
    /// Input and output.
    #[command(flatten)]
    pub data: DataArgs,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

pub(super) fn encrypt(args: &EncryptArgs, context: &Context) -> Result<(), Failure> {
    let answer = context.client.send(EncryptRequest {
        key_id: args.key.clone(),
        plaintext: read(args.data.input.as_deref(), MAX_PLAINTEXT, TOO_LONG)?,
        encryption_context: pairs(&args.context),
        grant_tokens: args.uses.grant_tokens.clone(),
        encryption_algorithm: args.algorithm,
        dry_run: args.uses.dry_run,
    });
    let Some(response) = dry::answer(answer, context)? else {
        return Ok(());
    };
    let form = Form {
        base64: args.base64,
        ..Form::default()
    };
    let bytes = response.ciphertext_blob.as_slice();
    write_answer(&response, bytes, args.data.output.as_deref(), form, context)
}

pub(super) fn decrypt(args: &DecryptArgs, context: &Context) -> Result<(), Failure> {
    let input = args.data.input.as_deref();
    let ciphertext = match args.ignore_ciphertext {
        true => None,
        false => Some(read_binary(input, args.base64, MAX_CIPHERTEXT, NO_BLOB)?),
    };
    let answer = context.client.send(DecryptRequest {
        ciphertext_blob: ciphertext,
        encryption_context: pairs(&args.context),
        grant_tokens: args.uses.grant_tokens.clone(),
        key_id: args.key.clone(),
        encryption_algorithm: args.algorithm,
        dry_run: args.uses.dry_run,
        dry_run_modifiers: modifiers(args.ignore_ciphertext),
    });
    let Some(response) = dry::answer(answer, context)? else {
        return Ok(());
    };
    let form = Form {
        private: true,
        ..Form::default()
    };
    let bytes = response.plaintext.as_slice();
    write_answer(&response, bytes, args.data.output.as_deref(), form, context)
}

pub(super) fn re_encrypt(args: &ReEncryptArgs, context: &Context) -> Result<(), Failure> {
    let input = args.data.input.as_deref();
    let ciphertext = match args.ignore_ciphertext {
        true => None,
        false => Some(read_binary(input, args.base64, MAX_CIPHERTEXT, NO_BLOB)?),
    };
    let answer = context.client.send(ReEncryptRequest {
        ciphertext_blob: ciphertext,
        source_encryption_context: pairs(&args.from_context),
        source_key_id: args.from.clone(),
        destination_key_id: args.to.clone(),
        destination_encryption_context: pairs(&args.to_context),
        source_encryption_algorithm: args.from_algorithm,
        destination_encryption_algorithm: args.to_algorithm,
        grant_tokens: args.uses.grant_tokens.clone(),
        dry_run: args.uses.dry_run,
        dry_run_modifiers: modifiers(args.ignore_ciphertext),
    });
    let Some(response) = dry::answer(answer, context)? else {
        return Ok(());
    };
    let form = Form {
        base64: args.base64,
        ..Form::default()
    };
    let bytes = response.ciphertext_blob.as_slice();
    write_answer(&response, bytes, args.data.output.as_deref(), form, context)
}

fn modifiers(ignore_ciphertext: bool) -> Vec<DryRunModifier> {
    match ignore_ciphertext {
        true => vec![DryRunModifier::IgnoreCiphertext],
        false => Vec::new(),
    }
}
