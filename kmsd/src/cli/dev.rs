//! `kmsd dev`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use kms_core::ids::Scope;
use zeroize::Zeroizing;

/// `kmsd dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Loopback address and port to serve plain HTTP on; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4599")]
    pub listen: SocketAddr,
    /// Keep keys, policies and the audit log in this directory, and go on with what is there. Without it they are in memory and
    /// gone with the process.
    #[arg(long, value_name = "DIRECTORY")]
    pub state: Option<PathBuf>,
    /// An account that is served, 12 digits; once for each. Those of access keys are served anyway.
    #[arg(long = "account", value_name = "ACCOUNT", value_parser = account)]
    pub accounts: Vec<String>,
    /// An access key: its id, its secret, and whose it is: an account (then its root principal) or the ARN of a user or role.
    /// Once for each [default: test:test, the root principal of the first account]
    #[arg(long = "access-key", value_name = "ID:SECRET[:PRINCIPAL]")]
    pub access_keys: Vec<DevKey>,
    /// Region of requests over the Unix socket. Over HTTP every Region is served, each with keys of its own.
    #[arg(long, value_name = "REGION", default_value = "us-east-1", value_parser = region)]
    pub region: String,
    /// How much is logged on standard error: `error`, `warn`, `info`, `debug`, or a filter.
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    pub log: String,
}

/// The account where none is named.
pub const DEV_ACCOUNT: &str = "000000000000";

impl DevArgs {
    /// The accounts that are served, the one of the Unix socket first.
    pub fn served_accounts(&self) -> Vec<String> {
        let named = self.accounts.iter().cloned();
        let principals = self.access_keys.iter().filter_map(DevKey::account);
        let mut all: Vec<String> = Vec::new();
        for account in named.chain(principals) {
            if !all.contains(&account) {
                all.push(account);
            }
        }
        if all.is_empty() {
            all.push(DEV_ACCOUNT.to_owned());
        }
        all
    }
}

/// An access key of the command line.
#[derive(Clone)]
pub struct DevKey {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: Zeroizing<String>,
    /// Whose it is; the root principal of the first account where nothing is said.
    pub principal: Option<String>,
}

impl std::fmt::Debug for DevKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevKey")
            .field("id", &self.id)
            .field("principal", &self.principal)
            .finish_non_exhaustive()
    }
}

impl DevKey {
    /// The account of its principal.
    fn account(&self) -> Option<String> {
        let arn = self.principal.as_ref()?;
        arn.split(':').nth(4).map(str::to_owned)
    }
}

impl FromStr for DevKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let (id, secret) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        if id.is_empty() || secret.is_empty() {
            return Err("an access key is written ID:SECRET or ID:SECRET:PRINCIPAL".to_owned());
        }
        if !id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return Err(format!(
                "`{id}` is no id of an access key: letters, digits and _ make one"
            ));
        }
        let principal = parts.next().map(principal).transpose()?;
        Ok(Self {
            id: id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            principal,
        })
    }
}

/// An account's root principal, or a principal by its ARN.
fn principal(text: &str) -> Result<String, String> {
    if Scope::is_account(text) {
        return Ok(format!("arn:aws:iam::{text}:root"));
    }
    let parts = text
        .strip_prefix("arn:aws:iam::")
        .and_then(|rest| rest.split_once(':'));
    match parts {
        Some((account, last)) if Scope::is_account(account) => {
            let name = last
                .strip_prefix("user/")
                .or_else(|| last.strip_prefix("role/"));
            if last == "role/unit" || last.starts_with("role/unit/") {
                return Err(format!(
                    "`{text}` stands for systemd units, and no access key does"
                ));
            }
            if last == "root" || name.is_some_and(|name| !name.is_empty()) {
                return Ok(text.to_owned());
            }
        }
        _ => {}
    }
    Err(format!(
        "`{text}` is neither an account (12 digits) nor arn:aws:iam::ACCOUNT:user/NAME, :role/NAME or :root"
    ))
}

fn account(text: &str) -> Result<String, String> {
    match Scope::is_account(text) {
        true => Ok(text.to_owned()),
        false => Err("an account has 12 digits".to_owned()),
    }
}

fn region(text: &str) -> Result<String, String> {
    match Scope::is_region(text) {
        true => Ok(text.to_owned()),
        false => Err("a Region is 1 to 32 lower-case letters, digits and hyphens".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_keys_name_an_account_or_a_principal_or_nothing() {
        let key: DevKey = "test:se/cr+et".parse().unwrap();
        assert_eq!((&*key.id, &**key.secret), ("test", "se/cr+et"));
        assert_eq!(key.principal, None);
        let key: DevKey = "a:b:111122223333".parse().unwrap();
        assert_eq!(key.principal.unwrap(), "arn:aws:iam::111122223333:root");
        let arn = "arn:aws:iam::111122223333:user/eve";
        let key: DevKey = format!("a:b:{arn}").parse().unwrap();
        assert_eq!(key.principal.as_deref(), Some(arn));
        for text in [
            "",
            "a",
            "a:",
            ":b",
            "a b:c",
            "a:b:",
            "a:b:1234",
            "a:b:arn:aws:iam::1:root",
            "a:b:arn:aws:iam::111122223333:user/",
            "a:b:arn:aws:iam::111122223333:group/x",
            "a:b:arn:aws:iam::111122223333:role/unit",
            "a:b:arn:aws:iam::111122223333:role/unit/x.service",
        ] {
            assert!(text.parse::<DevKey>().is_err(), "{text}");
        }
    }
}
