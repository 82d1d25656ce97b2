//! kmsd's own operations on access keys: what signs requests that come over the network.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::enums::wire_enum;
use crate::members::Text;
use crate::request::{Absent, MARKER, requests};
use crate::response::responses;
use crate::timestamp::Timestamp;

/// Access keys that one principal may have at a time.
pub const MAX_ACCESS_KEYS: usize = 10;

const PRINCIPAL: Text = Text::len(20, 2048);
/// Ids are 20 characters; others may have been configured.
const ACCESS_KEY_ID: Text =
    Text::len(16, 128).matching("[\\w]+", |c| c.is_ascii_alphanumeric() || c == '_');

wire_enum! {
    /// Whether requests that an access key signed are accepted.
    AccessKeyStatus { Active = "Active", Inactive = "Inactive", }
}

impl Absent for AccessKeyStatus {}

requests! {
    /// Makes an access key.
    CreateAccessKeyRequest {
        /// As whom its requests act: `arn:aws:iam::ACCOUNT:user/NAME`, `…:role/NAME`, or `…:root`.
        principal_arn: String = "PrincipalArn" text(PRINCIPAL);
        /// What it is for, up to 256 characters.
        description: Option<String> = "Description" opt_text(Text::len(0, 256));
    }

    /// Lists access keys, without their secrets.
    #[derive(Default)]
    ListAccessKeysRequest {
        /// Only those of this principal.
        principal_arn: Option<String> = "PrincipalArn" opt_text(PRINCIPAL);
        /// Most entries to return, 1 to 1000, 100 by default.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
    }

    /// Disables an access key, or enables it again.
    UpdateAccessKeyRequest {
        /// Its id.
        access_key_id: String = "AccessKeyId" text(ACCESS_KEY_ID);
        /// What it is to be.
        status: AccessKeyStatus = "Status" required_enum(AccessKeyStatus::Active);
    }

    /// Deletes an access key.
    DeleteAccessKeyRequest {
        /// Its id.
        access_key_id: String = "AccessKeyId" text(ACCESS_KEY_ID);
    }
}

responses! {
    /// An access key; nobody gets its secret again.
    CreateAccessKeyResponse {
        /// Its id.
        access_key_id: String,
        /// Its secret.
        secret_access_key: SecretText,
        /// As whom its requests act.
        principal_arn: String,
        /// `Active`.
        status: AccessKeyStatus,
        /// When it was made.
        create_date: Timestamp,
    }

    /// An access key in a list.
    AccessKeyListEntry {
        /// Its id.
        access_key_id: String,
        /// As whom its requests act.
        principal_arn: String,
        /// Whether its requests are accepted.
        status: AccessKeyStatus,
        /// What it is for.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        description: Option<String>,
        /// When it was made.
        create_date: Timestamp,
        /// When a request that it signed was accepted last; absent for one that was not used.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        last_used_date: Option<Timestamp>,
    }

    /// A page of access keys.
    ListAccessKeysResponse {
        /// The access keys.
        access_keys: Vec<AccessKeyListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }
}

/// A text that is a secret: wiped when dropped, and never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes ownership of the text.
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The secret.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText")
    }
}

impl Serialize for SecretText {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| Self(Zeroizing::new(text)))
    }
}
