//! `kmsctl aws-config`: what programs that speak to AWS KMS need in their environment to speak to kmsd instead.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kms_api::{CreateAccessKeyRequest, GetStatusRequest};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::access_key::arn;
use crate::Context;
use crate::exit::{Exit, Failure};

/// How the variables are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// `export NAME='VALUE'`, for sh, bash and zsh.
    Sh,
    /// `set -gx NAME 'VALUE'`.
    Fish,
    /// `NAME=VALUE`, for EnvironmentFile= of systemd, Docker and the like.
    Env,
    /// A profile for ~/.aws/config.
    Profile,
}

/// Arguments of `kmsctl aws-config`.
#[derive(Debug, Args)]
pub struct AwsConfigArgs {
    /// Where kmsd listens, as its certificate names the host: https://HOST:PORT, or http://127.0.0.1:PORT.
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// The file with the certificates of the authority that signed kmsd's (PEM), where the system does not trust it anyway.
    #[arg(long, value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
    /// The Region of the keys, by default kmsd's home Region.
    #[arg(long, value_name = "REGION")]
    pub aws_region: Option<String>,
    /// Also make an access key for user:NAME, role:NAME, root or an ARN, and give it with its secret.
    #[arg(long, value_name = "PRINCIPAL")]
    pub principal: Option<String>,
    /// How to write it.
    #[arg(long, value_enum, default_value_t = Form::Sh)]
    pub form: Form,
}

pub(super) fn run(args: &AwsConfigArgs, context: &Context) -> Result<(), Failure> {
    let endpoint = args.url.trim_end_matches('/');
    if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
        let text = format!("`{endpoint}` is no address of kmsd");
        return Err(Failure::new(Exit::Usage, text).next("Write it as https://HOST:PORT."));
    }
    let bundle = args.ca_bundle.as_deref().map(certificates).transpose()?;
    let region = match &args.aws_region {
        Some(region) => region.clone(),
        None => context.client.send(GetStatusRequest {})?.region,
    };
    // Last: an access key that is made is also given.
    let access_key = match &args.principal {
        Some(principal) => Some(context.client.send(CreateAccessKeyRequest {
            principal_arn: arn(principal, None, context)?,
            description: Some("kmsctl aws-config".to_owned()),
        })?),
        None => None,
    };
    let mut variables = vec![
        ("AWS_ENDPOINT_URL_KMS", endpoint),
        ("AWS_REGION", &region),
        // Older programs know only this name.
        ("AWS_DEFAULT_REGION", &region),
    ];
    if let Some(bundle) = &bundle {
        variables.push(("AWS_CA_BUNDLE", bundle));
        // The SDK for JavaScript knows only Node.js's own.
        variables.push(("NODE_EXTRA_CA_CERTS", bundle));
    }
    // Nothing is asked of the host's cloud for credentials.
    variables.push(("AWS_EC2_METADATA_DISABLED", "true"));
    if let Some(made) = &access_key {
        variables.push(("AWS_ACCESS_KEY_ID", &made.access_key_id));
        variables.push(("AWS_SECRET_ACCESS_KEY", made.secret_access_key.expose()));
    }
    if context.output.is_json() {
        let value: Map<String, Value> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
            .collect();
        return context.output.print("", &value);
    }
    let mut text = Zeroizing::new(written(args.form, &variables));
    if access_key.is_none() && args.form != Form::Profile {
        text.push_str(
            "# AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: `kmsctl access-key create`, or --principal here.\n",
        );
    }
    context.output.write(text.as_bytes())
}

/// The absolute path of a file with certificates.
fn certificates(file: &Path) -> Result<String, Failure> {
    let failed = |error| Failure::local(file.display(), &error);
    let text = std::fs::read(file).map_err(failed)?;
    if !String::from_utf8_lossy(&text).contains("-----BEGIN CERTIFICATE-----") {
        let wrong = format!("{} has no certificate in PEM", file.display());
        return Err(Failure::new(Exit::Invalid, wrong));
    }
    let path = file.canonicalize().map_err(failed)?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::new(Exit::Invalid, format!("{path:?} is no UTF-8")))
}

fn written(form: Form, variables: &[(&str, &str)]) -> String {
    let mut text = String::new();
    if form == Form::Profile {
        text.push_str("[profile kmsd]\nservices = kmsd\n");
        for (name, value) in variables {
            let setting = match *name {
                "AWS_REGION" => "region",
                "AWS_CA_BUNDLE" => "ca_bundle",
                "AWS_ACCESS_KEY_ID" => "aws_access_key_id",
                "AWS_SECRET_ACCESS_KEY" => "aws_secret_access_key",
                _ => continue,
            };
            let _ = writeln!(text, "{setting} = {value}");
        }
        if let Some((_, endpoint)) = variables.first() {
            let _ = write!(
                text,
                "\n[services kmsd]\nkms =\n  endpoint_url = {endpoint}\n"
            );
        }
        return text;
    }
    for (name, value) in variables {
        let _ = match form {
            Form::Sh => writeln!(text, "export {name}='{}'", value.replace('\'', "'\\''")),
            Form::Fish => writeln!(
                text,
                "set -gx {name} '{}'",
                value.replace('\\', "\\\\").replace('\'', "\\'")
            ),
            Form::Env | Form::Profile => writeln!(text, "{name}={value}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIABLES: &[(&str, &str)] = &[
        ("AWS_ENDPOINT_URL_KMS", "https://kms.example:8443"),
        ("AWS_REGION", "local-host-1"),
        ("AWS_CA_BUNDLE", "/etc/it's here/ca.pem"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];

    #[test]
    fn shells_read_back_what_is_written() {
        let text = written(Form::Sh, VARIABLES);
        let script = format!("{text}\nprintf '%s' \"$AWS_CA_BUNDLE\"");
        let said = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert_eq!(said.stdout, b"/etc/it's here/ca.pem");
        let fish = written(Form::Fish, VARIABLES);
        assert!(fish.contains("set -gx AWS_CA_BUNDLE '/etc/it\\'s here/ca.pem'\n"));
        assert!(written(Form::Env, VARIABLES).contains("AWS_REGION=local-host-1\n"));
    }

    #[test]
    fn a_profile_has_a_service_of_its_own() {
        assert_eq!(
            written(Form::Profile, VARIABLES),
            "[profile kmsd]\nservices = kmsd\nregion = local-host-1\nca_bundle = /etc/it's here/ca.pem\n\n\
             [services kmsd]\nkms =\n  endpoint_url = https://kms.example:8443\n"
        );
    }
}
