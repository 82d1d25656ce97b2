//! `kmsctl sign` and `kmsctl verify`.

use std::path::PathBuf;

use clap::Args;
use kms_api::{
    Blob, MAX_CIPHERTEXT, MAX_PLAINTEXT, MessageType, SignRequest, SigningAlgorithm, VerifyRequest,
};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::super::io::{DataArgs, Form, UseArgs, read, read_binary, write_answer};
use super::super::{describe, dry};
use super::wire;
use crate::Context;
use crate::exit::{Exit, Failure};

/// Longest file that is hashed here: all of it is read into memory.
const MAX_FILE: usize = 1 << 30;

/// How a message is signed.
#[derive(Debug, Args)]
pub struct SchemeArgs {
    /// The key.
    #[arg(long)]
    pub key: String,
    /// The algorithm; not needed for keys that have only one.
    #[arg(long, ignore_case = true, value_parser = wire!(SigningAlgorithm))]
    pub algorithm: Option<SigningAlgorithm>,
    /// What the input is: the message (RAW), its digest (DIGEST), or the value mu of ML-DSA (EXTERNAL_MU). By default it is
    /// the message; one of more than 4096 bytes is hashed here, which RSA and ECDSA allow.
    #[arg(long, ignore_case = true, value_parser = wire!(MessageType))]
    pub message_type: Option<MessageType>,
}

/// `kmsctl sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// Key, algorithm and kind of message.
    #[command(flatten)]
    pub scheme: SchemeArgs,
    /// Write the signature as base64.
    #[arg(long)]
    pub base64: bool,
    /// Input and output.
    #[command(flatten)]
    pub data: DataArgs,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

/// `kmsctl verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Key, algorithm and kind of message.
    #[command(flatten)]
    pub scheme: SchemeArgs,
    /// The file with the signature.
    #[arg(long, value_name = "FILE")]
    pub signature: PathBuf,
    /// The signature is base64.
    #[arg(long)]
    pub base64: bool,
    /// Read the message from this file instead of standard input.
    #[arg(long = "in", value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Grant tokens, dry run.
    #[command(flatten)]
    pub uses: UseArgs,
}

pub(super) fn sign(args: &SignArgs, context: &Context) -> Result<(), Failure> {
    let message = read(args.data.input.as_deref(), MAX_FILE, "Sign its digest.")?;
    let algorithm = algorithm(&args.scheme, context)?;
    let (message, message_type) = sent(message, algorithm, args.scheme.message_type)?;
    let answer = context.client.send(SignRequest {
        key_id: args.scheme.key.clone(),
        message,
        message_type,
        grant_tokens: args.uses.grant_tokens.clone(),
        signing_algorithm: algorithm,
        dry_run: args.uses.dry_run,
    });
    let Some(response) = dry::answer(answer, context)? else {
        return Ok(());
    };
    let form = Form {
        base64: args.base64,
        ..Form::default()
    };
    let bytes = response.signature.as_slice();
    write_answer(&response, bytes, args.data.output.as_deref(), form, context)
}

pub(super) fn verify(args: &VerifyArgs, context: &Context) -> Result<(), Failure> {
    let signature = read_binary(
        Some(&args.signature),
        args.base64,
        MAX_CIPHERTEXT,
        "No signature is as long: is this the right file?",
    )?;
    let message = read(args.input.as_deref(), MAX_FILE, "Verify its digest.")?;
    let algorithm = algorithm(&args.scheme, context)?;
    let (message, message_type) = sent(message, algorithm, args.scheme.message_type)?;
    let answer = context.client.send(VerifyRequest {
        key_id: args.scheme.key.clone(),
        message,
        message_type,
        signature,
        signing_algorithm: algorithm,
        grant_tokens: args.uses.grant_tokens.clone(),
        dry_run: args.uses.dry_run,
    });
    match dry::answer(answer, context)? {
        Some(response) => context.output.print("The signature is right.", &response),
        None => Ok(()),
    }
}

/// The algorithm that is asked for, or the only one that the key has.
fn algorithm(args: &SchemeArgs, context: &Context) -> Result<SigningAlgorithm, Failure> {
    if let Some(algorithm) = args.algorithm {
        return Ok(algorithm);
    }
    let algorithms = describe(&args.key, context)?.signing_algorithms;
    match algorithms.as_slice() {
        [one] => Ok(*one),
        [] => Err(Failure::new(
            Exit::Invalid,
            format!("{} is no key that signs", args.key),
        )),
        several => {
            let names: Vec<&str> = several.iter().map(|one| one.as_str()).collect();
            Err(
                Failure::new(Exit::Usage, format!("{} has several algorithms", args.key))
                    .next(format!("Give --algorithm, one of {}.", names.join(", "))),
            )
        }
    }
}

/// What is sent for a message: itself, or its digest when it is too long and the signature is the same.
fn sent(
    message: Blob,
    algorithm: SigningAlgorithm,
    message_type: Option<MessageType>,
) -> Result<(Blob, Option<MessageType>), Failure> {
    if message_type.is_some() || message.len() <= MAX_PLAINTEXT {
        return Ok((message, message_type));
    }
    let bytes = message.as_slice();
    let digest = match algorithm {
        SigningAlgorithm::RsassaPssSha256
        | SigningAlgorithm::RsassaPkcs1Sha256
        | SigningAlgorithm::EcdsaSha256 => Sha256::digest(bytes).to_vec(),
        SigningAlgorithm::RsassaPssSha384
        | SigningAlgorithm::RsassaPkcs1Sha384
        | SigningAlgorithm::EcdsaSha384 => Sha384::digest(bytes).to_vec(),
        SigningAlgorithm::RsassaPssSha512
        | SigningAlgorithm::RsassaPkcs1Sha512
        | SigningAlgorithm::EcdsaSha512 => Sha512::digest(bytes).to_vec(),
        SigningAlgorithm::Sm2Dsa
        | SigningAlgorithm::MlDsaShake256
        | SigningAlgorithm::Ed25519Sha512
        | SigningAlgorithm::Ed25519PhSha512 => {
            return Err(Failure::new(
                Exit::Invalid,
                format!("the message is longer than {MAX_PLAINTEXT} bytes, and {algorithm} signs no digest of it"),
            )
            .next("Sign a digest of the message as a message of its own (and say so to those who verify), or compute mu for ML-DSA and give --message-type EXTERNAL_MU."));
        }
    };
    Ok((Blob::new(digest), Some(MessageType::Digest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_hashed_where_the_signature_is_the_same() {
        let long = || Blob::new(vec![7; MAX_PLAINTEXT + 1]);
        for (algorithm, length) in [
            (SigningAlgorithm::EcdsaSha256, 32),
            (SigningAlgorithm::RsassaPssSha384, 48),
            (SigningAlgorithm::RsassaPkcs1Sha512, 64),
        ] {
            let (message, kind) = sent(long(), algorithm, None).unwrap();
            assert_eq!((message.len(), kind), (length, Some(MessageType::Digest)));
        }
        let short = Blob::new(vec![7; MAX_PLAINTEXT]);
        let (message, kind) = sent(short, SigningAlgorithm::EcdsaSha256, None).unwrap();
        assert_eq!((message.len(), kind), (MAX_PLAINTEXT, None));
        for algorithm in [
            SigningAlgorithm::Ed25519Sha512,
            SigningAlgorithm::Ed25519PhSha512,
            SigningAlgorithm::MlDsaShake256,
        ] {
            let failure = sent(long(), algorithm, None).unwrap_err();
            assert_eq!(failure.exit, Exit::Invalid);
        }
        // What the user says it is, is sent as it is.
        let digest = Some(MessageType::Digest);
        let (message, kind) = sent(long(), SigningAlgorithm::EcdsaSha256, digest).unwrap();
        assert_eq!((message.len(), kind), (MAX_PLAINTEXT + 1, digest));
    }
}
