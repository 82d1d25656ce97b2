//! `kmsctl data-key-pair`.

use std::path::{Path, PathBuf};

use clap::Args;
use kms_api::{
    Blob, DataKeyPairSpec, GenerateDataKeyPairRequest, GenerateDataKeyPairWithoutPlaintextRequest,
};

use super::super::dry;
use super::super::io::{UseArgs, pem, write};
use super::{pairs, wire};
use crate::Context;
use crate::args::pair;
use crate::exit::{Exit, Failure};

/// `kmsctl data-key-pair`.
#[derive(Debug, Args)]
pub struct DataKeyPairArgs {
    /// The key that the private key is encrypted under, a symmetric one.
    #[arg(long)]
    pub key: String,
    /// Kind of the pair.
    #[arg(long, ignore_case = true, value_parser = wire!(DataKeyPairSpec))]
    pub spec: DataKeyPairSpec,
    /// Encryption context, may be given several times; the same pairs are needed to decrypt.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub context: Vec<(String, String)>,
    /// Write the encrypted private key to this file; `decrypt` gives it back as PKCS #8 in DER.
    #[arg(long = "out", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the public key to this file.
    #[arg(long, value_name = "FILE")]
    pub public_out: Option<PathBuf>,
    /// Also write the private key itself to this file (mode 0600). Without it kmsd does not give it out.
    #[arg(long, value_name = "FILE")]
    pub private_out: Option<PathBuf>,
    /// Give the private key in the answer that --json prints.
    #[arg(long, conflicts_with = "private_out")]
    pub with_plaintext: bool,
    /// Write the keys as DER instead of PEM.
    #[arg(long)]
    pub der: bool,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

pub(super) fn run(args: &DataKeyPairArgs, context: &Context) -> Result<(), Failure> {
    let files = (args.output.as_deref(), args.public_out.as_deref());
    let json = context.output.is_json();
    let to_files = match files {
        (Some(encrypted), Some(public)) => Some((encrypted, public)),
        (None, None) if json && args.private_out.is_none() => None,
        (None | Some(_), None | Some(_)) if args.uses.dry_run => None,
        (_, _) => {
            return Err(Failure::new(
                Exit::Usage,
                "a pair of data keys needs files for both of its parts",
            )
            .next("Give --out FILE and --public-out FILE, or --json alone."));
        }
    };
    if args.with_plaintext && (to_files.is_some() || !json) {
        return Err(
            Failure::new(Exit::Usage, "--with-plaintext is for --json without files")
                .next("Give --private-out FILE instead."),
        );
    }
    let client = &context.client;
    let Some(private) = args
        .private_out
        .as_deref()
        .map(Some)
        .or_else(|| args.with_plaintext.then_some(None))
    else {
        let answer = client.send(GenerateDataKeyPairWithoutPlaintextRequest {
            encryption_context: pairs(&args.context),
            key_id: args.key.clone(),
            key_pair_spec: args.spec,
            grant_tokens: args.uses.grant_tokens.clone(),
            dry_run: args.uses.dry_run,
        });
        let Some(response) = dry::answer(answer, context)? else {
            return Ok(());
        };
        let Some((encrypted, public)) = to_files else {
            return context.output.print("", &response);
        };
        let blob = response.private_key_ciphertext_blob.as_slice();
        write(Some(encrypted), blob, false, false, context)?;
        return write_public(public, &response.public_key, args.der, context);
    };
    let answer = client.send(GenerateDataKeyPairRequest {
        encryption_context: pairs(&args.context),
        key_id: args.key.clone(),
        key_pair_spec: args.spec,
        grant_tokens: args.uses.grant_tokens.clone(),
        dry_run: args.uses.dry_run,
    });
    let Some(response) = dry::answer(answer, context)? else {
        return Ok(());
    };
    let Some((encrypted, public)) = to_files else {
        return context.output.print("", &response);
    };
    // The ciphertext first: a private key whose ciphertext could not be kept must not be used.
    let blob = response.private_key_ciphertext_blob.as_slice();
    write(Some(encrypted), blob, false, false, context)?;
    write_public(public, &response.public_key, args.der, context)?;
    let text = match args.der {
        true => response.private_key_plaintext,
        false => pem("PRIVATE KEY", response.private_key_plaintext.as_slice()),
    };
    write(private, text.as_slice(), false, true, context)
}

/// Writes a public key to a file.
fn write_public(file: &Path, key: &Blob, der: bool, context: &Context) -> Result<(), Failure> {
    match der {
        true => write(Some(file), key.as_slice(), false, false, context),
        false => {
            let text = pem("PUBLIC KEY", key.as_slice());
            write(Some(file), text.as_slice(), false, false, context)
        }
    }
}
