//! Uses of keys: `kmsctl encrypt`, `sign`, `data-key` and the like.

use std::collections::BTreeMap;

use clap::Subcommand;

use crate::Context;
use crate::exit::Failure;

mod cipher;
mod data_key;
mod mac;
mod pair;
mod random;
mod secret;
mod sign;

/// A parser of the values of an enumeration of the API, in capitals or not.
macro_rules! wire {
    ($type:ty) => {
        clap::builder::TypedValueParser::try_map(
            clap::builder::PossibleValuesParser::new(<$type>::WIRE),
            |text: String| {
                <$type>::from_wire(&text.to_ascii_uppercase())
                    .ok_or_else(|| format!("`{text}` is no such value"))
            },
        )
    };
}
pub(crate) use wire;

/// The commands that use a key.
#[derive(Debug, Subcommand)]
pub enum CryptoCommand {
    /// Encrypt up to 4096 bytes.
    Encrypt(cipher::EncryptArgs),
    /// Decrypt what `encrypt` made.
    Decrypt(cipher::DecryptArgs),
    /// Decrypt under one key and encrypt under another, without seeing the plaintext.
    ReEncrypt(cipher::ReEncryptArgs),
    /// Make a data key, encrypted under a key and, if asked for, in the clear.
    DataKey(data_key::DataKeyArgs),
    /// Make a pair of data keys: a public key, and a private key encrypted under a key.
    DataKeyPair(pair::DataKeyPairArgs),
    /// Sign a file.
    Sign(sign::SignArgs),
    /// Verify a signature. Ends with exit code 8 when it is wrong.
    Verify(sign::VerifyArgs),
    /// Compute the HMAC of up to 4096 bytes.
    Mac(mac::MacArgs),
    /// Verify an HMAC. Ends with exit code 8 when it is wrong.
    VerifyMac(mac::VerifyMacArgs),
    /// Agree on a secret with the owner of a public key (ECDH).
    Derive(secret::DeriveArgs),
    /// Make a shared secret for the owner of an ML-KEM key.
    Encapsulate(secret::EncapsulateArgs),
    /// Recover a shared secret that `encapsulate` (or anybody with the public key) made.
    Decapsulate(secret::DecapsulateArgs),
    /// Random bytes from kmsd.
    Random(random::RandomArgs),
}

pub(super) fn run(command: &CryptoCommand, context: &Context) -> Result<(), Failure> {
    match command {
        CryptoCommand::Encrypt(args) => cipher::encrypt(args, context),
        CryptoCommand::Decrypt(args) => cipher::decrypt(args, context),
        CryptoCommand::ReEncrypt(args) => cipher::re_encrypt(args, context),
        CryptoCommand::DataKey(args) => data_key::run(args, context),
        CryptoCommand::DataKeyPair(args) => pair::run(args, context),
        CryptoCommand::Sign(args) => sign::sign(args, context),
        CryptoCommand::Verify(args) => sign::verify(args, context),
        CryptoCommand::Mac(args) => mac::generate(args, context),
        CryptoCommand::VerifyMac(args) => mac::verify(args, context),
        CryptoCommand::Derive(args) => secret::derive(args, context),
        CryptoCommand::Encapsulate(args) => secret::encapsulate(args, context),
        CryptoCommand::Decapsulate(args) => secret::decapsulate(args, context),
        CryptoCommand::Random(args) => random::run(args, context),
    }
}

/// An encryption context of the command line.
fn pairs(given: &[(String, String)]) -> BTreeMap<String, String> {
    given.iter().cloned().collect()
}
