//! `kmsctl key import` and its single steps: key material that is made elsewhere.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use kms_api::*;
use kms_crypto::asymmetric::{EncryptionScheme, PairSpec, PublicKey};
use kms_crypto::{CryptoError, SecretBytes, fill_random, wrap_kwp};

use super::super::audit::when;
use super::super::confirm::confirm;
use super::super::crypto::wire;
use super::super::io::{der, pem, read, write};
use super::super::{describe, key_id};
use crate::Context;
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::output::time;

/// The longest file with key material: PEM of an RSA key of 4096 bits is a third of it.
const MAX_MATERIAL: usize = 16 * 1024;

/// What is said about material that is imported.
#[derive(Debug, Args)]
pub struct TermsArgs {
    /// Until when it is there: a span such as 90d, or a time such as 2027-01-31. By default it does not expire.
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    pub expires: Option<Timestamp>,
    /// What it is, up to 256 characters.
    #[arg(long, value_name = "TEXT")]
    pub material_description: Option<String>,
    /// NEW_KEY_MATERIAL for the next material of a key that has one already; `key rotate` then puts it in force.
    #[arg(long, ignore_case = true, value_parser = wire!(ImportType))]
    pub import_type: Option<ImportType>,
    /// Which of the key's materials it has to be (see `key rotations`).
    #[arg(long, value_name = "ID")]
    pub material_id: Option<String>,
}

/// `kmsctl key import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The key, made with `key create --origin EXTERNAL`.
    pub key: String,
    /// The file with the material: the bytes of a symmetric or HMAC key, or a private key (PKCS #8, PEM or DER, not encrypted).
    pub file: PathBuf,
    /// Terms of the import.
    #[command(flatten)]
    pub terms: TermsArgs,
}

/// `kmsctl key import-parameters`.
#[derive(Debug, Args)]
pub struct ParametersArgs {
    /// The key, made with `key create --origin EXTERNAL`.
    pub key: String,
    /// How the material will be wrapped.
    #[arg(long, ignore_case = true, default_value = "RSA_AES_KEY_WRAP_SHA_256", value_parser = wire!(WrappingAlgorithm))]
    pub algorithm: WrappingAlgorithm,
    /// Kind of the key to wrap it with.
    #[arg(long, ignore_case = true, default_value = "RSA_4096", value_parser = wire!(WrappingKeySpec))]
    pub spec: WrappingKeySpec,
    /// Write the public key to wrap with to this file, as PEM.
    #[arg(long, value_name = "FILE")]
    pub public_out: Option<PathBuf>,
    /// Write the import token to this file.
    #[arg(long, value_name = "FILE")]
    pub token_out: Option<PathBuf>,
    /// Write DER instead of PEM.
    #[arg(long)]
    pub der: bool,
}

/// `kmsctl key import-wrapped`.
#[derive(Debug, Args)]
pub struct WrappedArgs {
    /// The key.
    pub key: String,
    /// The file with the material, wrapped.
    #[arg(long, value_name = "FILE")]
    pub wrapped: PathBuf,
    /// The file with the import token.
    #[arg(long, value_name = "FILE")]
    pub token: PathBuf,
    /// Terms of the import.
    #[command(flatten)]
    pub terms: TermsArgs,
}

/// `kmsctl key delete-material`.
#[derive(Debug, Args)]
pub struct DeleteMaterialArgs {
    /// The key.
    pub key: String,
    /// Which (see `key rotations`), by default the current one.
    #[arg(long, value_name = "ID")]
    pub material_id: Option<String>,
    /// Do it without asking at the terminal.
    #[arg(long)]
    pub yes: bool,
}

pub(super) fn import(args: &ImportArgs, context: &Context) -> Result<(), Failure> {
    let metadata = describe(&args.key, context)?;
    let hint = "Is this the right file?";
    let bytes = read(Some(&args.file), MAX_MATERIAL, hint)?;
    let (algorithm, spec) = wrapping(metadata.key_spec);
    let material = match algorithm {
        WrappingAlgorithm::RsaesOaepSha256 => bytes,
        _ => der(&args.file.display().to_string(), "PRIVATE KEY", bytes)?,
    };
    let parameters = context.client.send(GetParametersForImportRequest {
        key_id: metadata.key_id.clone(),
        wrapping_algorithm: algorithm,
        wrapping_key_spec: spec,
    })?;
    let wrapped = wrap(
        algorithm,
        parameters.public_key.as_slice(),
        material.as_slice(),
    );
    let wrapped = wrapped.map_err(|error| {
        let text = format!("{} cannot be wrapped: {error}", args.file.display());
        Failure::new(Exit::Invalid, text).next(hint)
    })?;
    send(
        metadata.key_id,
        parameters.import_token,
        Blob::new(wrapped),
        &args.terms,
        context,
    )
}

pub(super) fn parameters(args: &ParametersArgs, context: &Context) -> Result<(), Failure> {
    if !context.output.is_json() && (args.public_out.is_none() || args.token_out.is_none()) {
        let text = "the public key and the token need a file each";
        return Err(Failure::new(Exit::Usage, text)
            .next("Give --public-out FILE and --token-out FILE, or --json."));
    }
    let response = context.client.send(GetParametersForImportRequest {
        key_id: key_id(&args.key, context)?,
        wrapping_algorithm: args.algorithm,
        wrapping_key_spec: args.spec,
    })?;
    if let Some(file) = args.public_out.as_deref() {
        let der = response.public_key.as_slice();
        let armoured = (!args.der).then(|| pem("PUBLIC KEY", der));
        let key = armoured
            .as_ref()
            .map_or(der, |armoured| armoured.as_slice());
        write(Some(file), key, false, false, context)?;
    }
    if let Some(file) = args.token_out.as_deref() {
        let token = response.import_token.as_slice();
        write(Some(file), token, false, false, context)?;
    }
    let until = time(response.parameters_valid_to);
    let human = format!(
        "Wrap the material with the public key ({}) and import it with the token, until {until}.",
        args.algorithm
    );
    context.output.print(human, &response)
}

pub(super) fn wrapped(args: &WrappedArgs, context: &Context) -> Result<(), Failure> {
    let file = |path: &Path| read(Some(path), MAX_CIPHERTEXT, "Is this the right file?");
    send(
        key_id(&args.key, context)?,
        file(&args.token)?,
        file(&args.wrapped)?,
        &args.terms,
        context,
    )
}

pub(super) fn delete(args: &DeleteMaterialArgs, context: &Context) -> Result<(), Failure> {
    let question = format!(
        "Delete the imported material of {} now? What it encrypted can be read again only when the same material is imported again.",
        args.key
    );
    confirm(&question, args.yes)?;
    let response = context.client.send(DeleteImportedKeyMaterialRequest {
        key_id: key_id(&args.key, context)?,
        key_material_id: args.material_id.clone(),
    })?;
    let human = format!(
        "The material is gone; `kmsctl key import {} FILE` brings it back from its file.",
        args.key
    );
    context.output.print(human, &response)
}

fn send(
    key_id: String,
    token: Blob,
    material: Blob,
    terms: &TermsArgs,
    context: &Context,
) -> Result<(), Failure> {
    let model = match terms.expires {
        Some(_) => ExpirationModel::Expires,
        None => ExpirationModel::DoesNotExpire,
    };
    let response = context.client.send(ImportKeyMaterialRequest {
        key_id: key_id.clone(),
        import_token: token,
        encrypted_key_material: material,
        valid_to: terms.expires,
        expiration_model: Some(model),
        import_type: terms.import_type,
        key_material_description: terms.material_description.clone(),
        key_material_id: terms.material_id.clone(),
    })?;
    let until = match terms.expires {
        Some(end) => format!(" until {}", time(end)),
        None => String::new(),
    };
    let human = format!(
        "The material of {key_id} is imported{until}. kmsd cannot give it back: keep it where it was made."
    );
    context.output.print(human, &response)
}

/// How material of a kind is wrapped: what is short by RSA itself, private keys by an AES key that RSA wraps.
fn wrapping(spec: KeySpec) -> (WrappingAlgorithm, WrappingKeySpec) {
    match spec {
        KeySpec::SymmetricDefault
        | KeySpec::Hmac224
        | KeySpec::Hmac256
        | KeySpec::Hmac384
        | KeySpec::Hmac512 => (WrappingAlgorithm::RsaesOaepSha256, WrappingKeySpec::Rsa3072),
        _ => (
            WrappingAlgorithm::RsaAesKeyWrapSha256,
            WrappingKeySpec::Rsa3072,
        ),
    }
}

/// Wraps material as [`wrapping`] says.
fn wrap(
    algorithm: WrappingAlgorithm,
    public: &[u8],
    material: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let public = PublicKey::from_spki(PairSpec::Rsa3072, public)?;
    let scheme = EncryptionScheme::RsaOaepSha256;
    if algorithm == WrappingAlgorithm::RsaesOaepSha256 {
        return public.encrypt(scheme, material);
    }
    let mut bytes = vec![0; 32];
    fill_random(&mut bytes)?;
    let key = SecretBytes::from(bytes);
    let mut wrapped = public.encrypt(scheme, key.expose())?;
    wrapped.extend(wrap_kwp(key.expose(), material)?);
    Ok(wrapped)
}

/// A time to come: a span from now, or a date.
fn expiry(text: &str) -> Result<Timestamp, String> {
    if let Ok(span) = duration::seconds(text) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        return Ok(Timestamp::from_secs(now.saturating_add(i64::from(span))));
    }
    when::seconds(text).map(|at| Timestamp::from_secs(i64::from(at)))
}
