//! `kmsctl data-key`.

use std::path::{Path, PathBuf};

use clap::Args;
use kms_api::{
    DataKeySpec, GenerateDataKeyRequest, GenerateDataKeyWithoutPlaintextRequest, MAX_RANDOM,
};

use super::super::dry;
use super::super::io::{UseArgs, write};
use super::{pairs, wire};
use crate::Context;
use crate::args::pair;
use crate::exit::{Exit, Failure};

/// `kmsctl data-key`.
#[derive(Debug, Args)]
pub struct DataKeyArgs {
    /// The key, a symmetric one.
    #[arg(long)]
    pub key: String,
    /// Kind of the data key, AES_256 by default.
    #[arg(long, ignore_case = true, value_parser = wire!(DataKeySpec), conflicts_with = "bytes")]
    pub spec: Option<DataKeySpec>,
    /// Length of the data key instead of a kind, 1 to 1024.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RANDOM)))]
    pub bytes: Option<u32>,
    /// Encryption context, may be given several times; the same pairs are needed to decrypt.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub context: Vec<(String, String)>,
    /// Write the encrypted data key to this file instead of standard output; `decrypt` gives it back.
    #[arg(long = "out", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Also write the data key itself to this file (mode 0600; `-`: standard output). Without it kmsd does not give it out.
    #[arg(long, value_name = "FILE")]
    pub plaintext_out: Option<PathBuf>,
    /// Write what goes to files and standard output as base64.
    #[arg(long)]
    pub base64: bool,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

pub(super) fn run(args: &DataKeyArgs, context: &Context) -> Result<(), Failure> {
    let spec = match args.bytes {
        Some(_) => None,
        None => Some(args.spec.unwrap_or(DataKeySpec::Aes256)),
    };
    let encrypted = to(args.output.as_deref());
    let json = context.output.is_json();
    let Some(plain) = args.plaintext_out.as_deref() else {
        let answer = context.client.send(GenerateDataKeyWithoutPlaintextRequest {
            key_id: args.key.clone(),
            encryption_context: pairs(&args.context),
            key_spec: spec,
            number_of_bytes: args.bytes,
            grant_tokens: args.uses.grant_tokens.clone(),
            dry_run: args.uses.dry_run,
        });
        let Some(response) = dry::answer(answer, context)? else {
            return Ok(());
        };
        if json && encrypted.is_none() {
            return context.output.print("", &response);
        }
        let blob = response.ciphertext_blob.as_slice();
        return write(encrypted, blob, args.base64, false, context);
    };
    let plain = to(Some(plain));
    if !json && plain.is_none() && encrypted.is_none() {
        return Err(Failure::new(
            Exit::Usage,
            "the data key and its ciphertext cannot both go to standard output",
        )
        .next("Give --out FILE, or --json for both as base64."));
    }
    let answer = context.client.send(GenerateDataKeyRequest {
        key_id: args.key.clone(),
        encryption_context: pairs(&args.context),
        number_of_bytes: args.bytes,
        key_spec: spec,
        grant_tokens: args.uses.grant_tokens.clone(),
        dry_run: args.uses.dry_run,
    });
    let Some(response) = dry::answer(answer, context)? else {
        return Ok(());
    };
    if json && plain.is_none() && encrypted.is_none() {
        return context.output.print("", &response);
    }
    // The ciphertext first: a data key whose ciphertext could not be kept must not be used.
    let blob = response.ciphertext_blob.as_slice();
    write(encrypted, blob, args.base64, false, context)?;
    write(
        plain,
        response.plaintext.as_slice(),
        args.base64,
        true,
        context,
    )
}

/// The file that is meant; `None` for standard output.
pub(super) fn to(file: Option<&Path>) -> Option<&Path> {
    file.filter(|path| *path != Path::new("-"))
}
