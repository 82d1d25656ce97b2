//! Policies to begin with: who administers a key, who uses it, which service does, who looks.

use serde_json::{Value, json};

/// A role that a policy can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Manages keys and who may use them; does not use them itself.
    Administrator,
    /// Encrypts and decrypts, makes data keys, signs and verifies: whatever the key is for.
    User,
    /// Makes data keys and opens them, and nothing else.
    Service,
    /// Sees everything about keys and changes and uses nothing.
    Auditor,
}

/// Managing a key. Neither its use nor CreateGrant, which would give the use away.
const ADMINISTER: &[&str] = &[
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:DeleteImportedKeyMaterial",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:DisableKeyRotation",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyLastUsage",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:GetParametersForImport",
    "kms:GetPublicKey",
    "kms:ImportKeyMaterial",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:ReplicateKey",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
    "kms:UpdatePrimaryRegion",
];

/// A key has those of these that its kind has.
const USE: &[&str] = &[
    "kms:Decapsulate",
    "kms:Decrypt",
    "kms:DeriveSharedSecret",
    "kms:DescribeKey",
    "kms:Encapsulate",
    "kms:Encrypt",
    "kms:GenerateDataKey*",
    "kms:GenerateMac",
    "kms:GetPublicKey",
    "kms:ReEncrypt*",
    "kms:Sign",
    "kms:Verify",
    "kms:VerifyMac",
];

const SERVE: &[&str] = &[
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
];

const LOOK: &[&str] = &[
    "kms:DescribeKey",
    "kms:GetKeyLastUsage",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:GetPublicKey",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
];

/// What concerns no single key, so that only policies of identities can give it.
const ADMINISTER_ACCOUNT: &[&str] = &[
    "kms:CreateKey",
    "kms:ListAliases",
    "kms:ListKeys",
    "kmsd:GetStatus",
];
const USE_ACCOUNT: &[&str] = &["kms:GenerateRandom", "kms:ListAliases"];
const LOOK_ACCOUNT: &[&str] = &[
    "kms:ListAliases",
    "kms:ListKeys",
    "kms:ListRetirableGrants",
    "kmsd:Describe*",
    "kmsd:GetAuditHead",
    "kmsd:GetGuardRail",
    "kmsd:GetIdentityPolicy",
    "kmsd:GetStatus",
    "kmsd:List*",
    "kmsd:LookupEvents",
    "kmsd:SimulatePrincipalPolicy",
    "kmsd:WhoCan",
];

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [
        Self::Administrator,
        Self::User,
        Self::Service,
        Self::Auditor,
    ];

    /// The word for it in commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::User => "user",
            Self::Service => "service",
            Self::Auditor => "auditor",
        }
    }

    /// What it may and may not do.
    pub fn description(self) -> &'static str {
        match self {
            Self::Administrator => {
                "manages keys, who may use them, and their deletion; does not use them itself"
            }
            Self::User => "uses keys for whatever they are for: encrypts, makes data keys, signs",
            Self::Service => "makes data keys and opens them, nothing else",
            Self::Auditor => "sees everything about keys; changes and uses nothing",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Administrator => "Administer the key",
            Self::User => "Use the key",
            Self::Service => "Make and open data keys",
            Self::Auditor => "Look at the key",
        }
    }

    fn on_keys(self) -> &'static [&'static str] {
        match self {
            Self::Administrator => ADMINISTER,
            Self::User => USE,
            Self::Service => SERVE,
            Self::Auditor => LOOK,
        }
    }

    fn on_account(self) -> &'static [&'static str] {
        match self {
            Self::Administrator => ADMINISTER_ACCOUNT,
            Self::User => USE_ACCOUNT,
            Self::Service => &[],
            Self::Auditor => LOOK_ACCOUNT,
        }
    }

    /// A key policy that gives the role to `principals` and leaves the rest to the account's policies of
    /// identities, as the default key policy does.
    pub fn key_policy(self, account: &str, principals: &[String]) -> Value {
        json!({
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "Enable IAM User Permissions",
                    "Effect": "Allow",
                    "Principal": {"AWS": format!("arn:aws:iam::{account}:root")},
                    "Action": "kms:*",
                    "Resource": "*",
                },
                {
                    "Sid": self.title(),
                    "Effect": "Allow",
                    "Principal": {"AWS": principals},
                    "Action": self.on_keys(),
                    "Resource": "*",
                },
            ],
        })
    }

    /// A policy for an identity that gives it the role on `keys` (ARNs).
    pub fn identity_policy(self, keys: &[String]) -> Value {
        let mut statements = vec![json!({
            "Sid": self.title(),
            "Effect": "Allow",
            "Action": self.on_keys(),
            "Resource": keys,
        })];
        if !self.on_account().is_empty() {
            statements.push(json!({
                "Sid": "Where there is no key",
                "Effect": "Allow",
                "Action": self.on_account(),
                "Resource": "*",
            }));
        }
        json!({"Version": "2012-10-17", "Statement": statements})
    }
}

/// A guard rail that keeps everyone from deleting keys.
pub fn no_deletion() -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": "Nobody deletes keys",
            "Effect": "Deny",
            "Action": ["kms:ScheduleKeyDeletion", "kms:DeleteImportedKeyMaterial"],
            "Resource": "*",
        }],
    })
}
