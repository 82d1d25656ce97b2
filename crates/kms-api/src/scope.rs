//! Account and Region.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

/// An account and a Region: what every name of AWS's model belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// Twelve decimal digits.
    pub account: String,
    /// For example `local-host-1`.
    pub region: String,
}

impl Scope {
    /// The longest Region name a ciphertext blob can carry.
    pub const MAX_REGION: usize = 32;

    /// A scope, if `account` has twelve digits and `region` is 1 to 32 of `[a-z0-9-]`.
    pub fn new(account: &str, region: &str) -> Option<Self> {
        (Self::is_account(account) && Self::is_region(region)).then(|| Self {
            account: account.to_owned(),
            region: region.to_owned(),
        })
    }

    /// Whether a text is twelve decimal digits.
    pub fn is_account(text: &str) -> bool {
        text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
    }

    /// Whether a text is 1 to 32 of `[a-z0-9-]`.
    pub fn is_region(text: &str) -> bool {
        (1..=Self::MAX_REGION).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }

    /// The account and Region in the ARN of a key or an alias.
    pub fn of_arn(arn: &str) -> Option<Self> {
        let mut parts = arn.strip_prefix("arn:")?.splitn(5, ':').skip(2);
        let (region, account) = (parts.next()?, parts.next()?);
        Self::new(account, region)
    }

    /// `arn:aws:kms:REGION:ACCOUNT:key/ID`, for a key of this account and Region.
    pub fn key_arn(&self, id: &impl Display) -> String {
        format!("arn:aws:kms:{}:{}:key/{id}", self.region, self.account)
    }

    /// `arn:aws:iam::ACCOUNT:root`.
    pub fn root_arn(&self) -> String {
        format!("arn:aws:iam::{}:root", self.account)
    }

    /// `arn:aws:kmsd:REGION:ACCOUNT:LAST`, the name of a thing of kmsd's own.
    pub fn local_arn(&self, last: &str) -> String {
        format!("arn:aws:kmsd:{}:{}:{last}", self.region, self.account)
    }

    /// `arn:aws:kms:REGION:ACCOUNT:alias/NAME`; `name` starts with `alias/`.
    pub fn alias_arn(&self, name: &str) -> String {
        format!("arn:aws:kms:{}:{}:{name}", self.region, self.account)
    }
}
