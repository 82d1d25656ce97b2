//! `kmsctl random`.

use std::path::PathBuf;

use clap::Args;
use kms_api::{GenerateRandomRequest, MAX_RANDOM};

use super::super::io::{Form, write_answer};
use crate::Context;
use crate::exit::Failure;

/// `kmsctl random`.
#[derive(Debug, Args)]
pub struct RandomArgs {
    /// How many, 1 to 1024.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RANDOM)))]
    pub bytes: u32,
    /// Write them as base64.
    #[arg(long)]
    pub base64: bool,
    /// Write to this file (mode 0600) instead of standard output.
    #[arg(long = "out", value_name = "FILE")]
    pub output: Option<PathBuf>,
}

pub(super) fn run(args: &RandomArgs, context: &Context) -> Result<(), Failure> {
    let response = context.client.send(GenerateRandomRequest {
        number_of_bytes: Some(args.bytes),
        custom_key_store_id: None,
    })?;
    let form = Form {
        base64: args.base64,
        private: true,
    };
    let bytes = response.plaintext.as_slice();
    write_answer(&response, bytes, args.output.as_deref(), form, context)
}
