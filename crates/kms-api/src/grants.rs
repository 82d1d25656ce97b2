//! Grants: the five operations of AWS KMS, and kmsd's own for grants that end by themselves.

mod members;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::enums::GrantOperation;
use crate::error::ApiError;
use crate::members::{FromMembers, Members, Text};
use crate::recorded;
use crate::request::{KEY_ID, MARKER, requests};
use crate::response::responses;
use crate::timestamp::Timestamp;

/// Pairs in one constraint on the encryption context.
pub const MAX_CONSTRAINT_PAIRS: usize = 8;
/// Characters of one value in a constraint on the encryption context.
pub const MAX_CONSTRAINT_VALUE: usize = 384;
/// Longest life of a temporary grant, in seconds (ten years).
pub const MAX_GRANT_SECONDS: u32 = 315_360_000;

const PRINCIPAL: Text = Text::len(1, 256).matching("^[\\w+=,.@:/-]+$", |c| {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '=' | ',' | '.' | '@' | ':' | '/' | '-')
});
const NAME: Text = Text::len(1, 256).matching("^[a-zA-Z0-9:/_-]+$", |c| {
    c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '_' | '-')
});
const GRANT_ID: Text = Text::len(1, 128);
const TOKEN: Text = Text::len(1, 8192);

/// What a request made under a grant must fulfil besides being listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GrantConstraints {
    /// Pairs that its encryption context must have.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub encryption_context_subset: Option<BTreeMap<String, String>>,
    /// What its encryption context must be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub encryption_context_equals: Option<BTreeMap<String, String>>,
    /// The resource it must be made on behalf of (`aws:SourceArn`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_arn: Option<String>,
}

impl GrantConstraints {
    /// Whether nothing is constrained.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

requests! {
    /// Adds a grant to a key.
    #[derive(Default)]
    CreateGrantRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// ARN of the principal that may use the grant; exactly one of this and
        /// `GranteeServicePrincipal`.
        grantee_principal: Option<String> = "GranteePrincipal" opt_text(PRINCIPAL);
        /// ARN of the principal that may retire the grant.
        retiring_principal: Option<String> = "RetiringPrincipal" opt_text(PRINCIPAL);
        /// What the grant allows.
        operations: Vec<GrantOperation> = "Operations" grant_operations();
        /// Under which conditions.
        constraints: Option<GrantConstraints> = "Constraints" grant_constraints();
        /// Grant tokens.
        grant_tokens: Vec<String> = "GrantTokens" grant_tokens();
        /// A repeated request with the same name and members finds the grant of the first.
        name: Option<String> = "Name" opt_text(NAME);
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
        /// The service that may use the grant.
        grantee_service_principal: Option<String> = "GranteeServicePrincipal" service_principal();
        /// The service that may retire the grant.
        retiring_service_principal: Option<String> = "RetiringServicePrincipal" service_principal();
    } [|request, _| request.check()]

    /// Lists the grants on a key.
    #[derive(Default)]
    ListGrantsRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Most entries to return, 1 to 100, 50 by default.
        limit: Option<u32> = "Limit" opt_int(1, 100);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
        /// Only this grant.
        grant_id: Option<String> = "GrantId" opt_text(GRANT_ID);
        /// Only grants to this principal.
        grantee_principal: Option<String> = "GranteePrincipal" opt_text(PRINCIPAL);
        /// Only grants to this service.
        grantee_service_principal: Option<String> = "GranteeServicePrincipal" service_principal();
    } [|request, _| at_most_one(
        request.grantee_principal.as_ref(),
        request.grantee_service_principal.as_ref(),
        "GranteePrincipal",
        "GranteeServicePrincipal",
    )]

    /// Lists the grants, on any key, that name a principal as the one that may retire them.
    #[derive(Default)]
    ListRetirableGrantsRequest {
        /// Most entries to return, 1 to 100, 50 by default.
        limit: Option<u32> = "Limit" opt_int(1, 100);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
        /// ARN of the principal; exactly one of this and `RetiringServicePrincipal`.
        retiring_principal: Option<String> = "RetiringPrincipal" opt_text(PRINCIPAL);
        /// The service.
        retiring_service_principal: Option<String> = "RetiringServicePrincipal" service_principal();
    } [|request, _| {
        if request.retiring_principal.is_none() && request.retiring_service_principal.is_none() {
            return Err(ApiError::validation(
                "You must specify either RetiringPrincipal or RetiringServicePrincipal.",
            ));
        }
        at_most_one(
            request.retiring_principal.as_ref(),
            request.retiring_service_principal.as_ref(),
            "RetiringPrincipal",
            "RetiringServicePrincipal",
        )
    }]

    /// Ends a grant that is no longer needed.
    #[derive(Default)]
    RetireGrantRequest {
        /// A token of the grant; this, or the key and the grant's id.
        grant_token: Option<String> = "GrantToken" opt_text(TOKEN);
        /// Key ARN (a key id is taken too).
        key_id: Option<String> = "KeyId" opt_text(KEY_ID);
        /// The grant.
        grant_id: Option<String> = "GrantId" opt_text(GRANT_ID);
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    } [|request, _| {
        match (&request.grant_token, &request.key_id, &request.grant_id) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => Ok(()),
            _ => Err(ApiError::validation(
                "You must specify either a grant token, or both a key ARN and a grant ID.",
            )),
        }
    }]

    /// Takes a grant away.
    #[derive(Default)]
    RevokeGrantRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// The grant.
        grant_id: String = "GrantId" text(GRANT_ID);
        /// Only check whether the call would succeed.
        dry_run: bool = "DryRun" flag();
    }

    /// ListGrants, with what AWS's answer has no member for.
    #[derive(Default)]
    DescribeGrantsRequest {
        /// Key id or key ARN.
        key_id: String = "KeyId" text(KEY_ID);
        /// Most entries to return, 1 to 100, 50 by default.
        limit: Option<u32> = "Limit" opt_int(1, 100);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
        /// Only this grant.
        grant_id: Option<String> = "GrantId" opt_text(GRANT_ID);
        /// Only grants to this principal (or service principal).
        grantee_principal: Option<String> = "GranteePrincipal" opt_text(PRINCIPAL);
    }
}

/// CreateGrant for a grant that retires itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CreateTemporaryGrantRequest {
    /// The grant.
    #[serde(flatten)]
    pub grant: CreateGrantRequest,
    /// Its life from now, 1 second to ten years.
    #[serde(rename = "ExpiresInSeconds")]
    pub expires_in_seconds: u32,
}

impl CreateTemporaryGrantRequest {
    pub(crate) fn recorded(&self) -> recorded::Members {
        let mut members = self.grant.recorded();
        recorded::add(&mut members, "ExpiresInSeconds", &self.expires_in_seconds);
        members
    }

    pub(crate) fn grant_tokens(&self) -> &[String] {
        &self.grant.grant_tokens
    }
}

impl FromMembers for CreateTemporaryGrantRequest {
    fn from_members(members: &mut Members) -> Result<Self, ApiError> {
        let expires = members.opt_int("ExpiresInSeconds", 1, MAX_GRANT_SECONDS)?;
        if expires.is_none() {
            members.missing("ExpiresInSeconds");
        }
        Ok(Self {
            grant: CreateGrantRequest::from_members(members)?,
            expires_in_seconds: expires.unwrap_or_default(),
        })
    }
}

responses! {
    /// The new grant, or the one of the same name and members.
    CreateGrantResponse {
        /// Names the grant to the operations that take grant tokens. Opaque, not a secret.
        grant_token: String,
        /// 64 hex digits.
        grant_id: String,
    }

    /// The new grant, or the one of the same name and members.
    CreateTemporaryGrantResponse {
        /// Names the grant to the operations that take grant tokens. Opaque, not a secret.
        grant_token: String,
        /// 64 hex digits.
        grant_id: String,
        /// When the grant ends.
        end_date: Timestamp,
    }

    /// One grant of a list.
    GrantListEntry {
        /// Key ARN.
        key_id: String,
        /// 64 hex digits.
        grant_id: String,
        /// Empty for a grant without one.
        #[serde(default)]
        name: String,
        /// When it was created.
        creation_date: Timestamp,
        /// ARN, or the service's name.
        grantee_principal: String,
        /// ARN.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        retiring_principal: Option<String>,
        /// ARN of the account's root.
        issuing_account: String,
        /// What it allows.
        operations: Vec<GrantOperation>,
        /// Under which conditions.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        constraints: Option<GrantConstraints>,
        /// The service that may use it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        grantee_service_principal: Option<String>,
        /// The service that may retire it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        retiring_service_principal: Option<String>,
    }

    /// A page of grants.
    ListGrantsResponse {
        /// The grants.
        grants: Vec<GrantListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }

    /// One grant, with kmsd's own members.
    GrantDescription {
        /// As ListGrants has it.
        #[serde(flatten)]
        entry: GrantListEntry,
        /// When it retires itself.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        end_date: Option<Timestamp>,
        /// The grant whose CreateGrant permission made it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        parent_grant_id: Option<String>,
    }

    /// A page of grants.
    DescribeGrantsResponse {
        /// The grants.
        grants: Vec<GrantDescription>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }
}

impl CreateGrantRequest {
    /// The principal or service that may use the grant.
    pub fn grantee(&self) -> Option<&str> {
        self.grantee_principal
            .as_deref()
            .or(self.grantee_service_principal.as_deref())
    }

    /// The principal or service that may retire it.
    pub fn retiring(&self) -> Option<&str> {
        self.retiring_principal
            .as_deref()
            .or(self.retiring_service_principal.as_deref())
    }

    fn check(&self) -> Result<(), ApiError> {
        let refuse = |text: &str| Err(ApiError::validation(text));
        if self.grantee().is_none() {
            return refuse("You must specify either GranteePrincipal or GranteeServicePrincipal.");
        }
        at_most_one(
            self.grantee_principal.as_ref(),
            self.grantee_service_principal.as_ref(),
            "GranteePrincipal",
            "GranteeServicePrincipal",
        )?;
        at_most_one(
            self.retiring_principal.as_ref(),
            self.retiring_service_principal.as_ref(),
            "RetiringPrincipal",
            "RetiringServicePrincipal",
        )?;
        if self.grantee_service_principal.is_some() {
            let source = self
                .constraints
                .as_ref()
                .and_then(|constraints| constraints.source_arn.as_ref());
            if source.is_none() {
                return refuse(
                    "You must specify a SourceArn grant constraint with GranteeServicePrincipal.",
                );
            }
            if self.retiring().is_none() {
                return refuse(
                    "You must specify either RetiringPrincipal or RetiringServicePrincipal with \
                     GranteeServicePrincipal.",
                );
            }
        }
        Ok(())
    }
}

fn at_most_one(
    one: Option<&String>,
    other: Option<&String>,
    name: &str,
    other_name: &str,
) -> Result<(), ApiError> {
    if one.is_some() && other.is_some() {
        return Err(ApiError::validation(format!(
            "You can specify either {name} or {other_name}, but not both."
        )));
    }
    Ok(())
}
