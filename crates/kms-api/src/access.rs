//! kmsd's own operations on who may do what: identity policies, guard rails, and questions about decisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::enums::{Decision, IdentityType, PolicySource};
use crate::members::Text;
use crate::request::{KEY_ID, MARKER, POLICY, requests};
use crate::response::responses;
use crate::timestamp::Timestamp;

/// Names of identities: a user, a group, a unit (`nginx.service`, `getty@tty1.service`) or a role.
const IDENTITY: Text = Text::len(1, 255).matching("[\\w+=,.@:\\\\-]+", |c| {
    c.is_ascii_alphanumeric() || "_+=,.@:\\-".contains(c)
});
/// Names of policies and guard rails, as IAM has them.
const NAME: Text = Text::len(1, 128).matching("[\\w+=,.@-]+", |c| {
    c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)
});

requests! {
    /// Attaches a policy to an identity, or replaces it.
    PutIdentityPolicyRequest {
        /// Kind of identity.
        identity_type: IdentityType = "IdentityType" required_enum(IdentityType::User);
        /// Its name.
        identity: String = "Identity" text(IDENTITY);
        /// Name of the policy.
        policy_name: String = "PolicyName" text(NAME);
        /// The policy document, JSON, up to 32,768 bytes.
        document: String = "Document" text(POLICY);
    }

    /// Reads an identity policy, from the catalogue or a file.
    GetIdentityPolicyRequest {
        /// Kind of identity.
        identity_type: IdentityType = "IdentityType" required_enum(IdentityType::User);
        /// Its name.
        identity: String = "Identity" text(IDENTITY);
        /// Name of the policy.
        policy_name: String = "PolicyName" text(NAME);
    }

    /// Lists identity policies.
    #[derive(Default)]
    ListIdentityPoliciesRequest {
        /// Only those of this kind of identity.
        identity_type: Option<IdentityType> = "IdentityType" opt_enum();
        /// Only those of identities of this name.
        identity: Option<String> = "Identity" opt_text(IDENTITY);
        /// Most entries to return, 1 to 1000, 100 by default.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
    }

    /// Removes an identity policy from the catalogue.
    DeleteIdentityPolicyRequest {
        /// Kind of identity.
        identity_type: IdentityType = "IdentityType" required_enum(IdentityType::User);
        /// Its name.
        identity: String = "Identity" text(IDENTITY);
        /// Name of the policy.
        policy_name: String = "PolicyName" text(NAME);
    }

    /// Sets a guard rail: a policy that limits everyone.
    PutGuardRailRequest {
        /// Its name.
        guard_rail_name: String = "GuardRailName" text(NAME);
        /// The policy document, JSON, up to 32,768 bytes.
        document: String = "Document" text(POLICY);
    }

    /// Reads a guard rail, from the catalogue or a file.
    GetGuardRailRequest {
        /// Its name.
        guard_rail_name: String = "GuardRailName" text(NAME);
    }

    /// Lists guard rails.
    #[derive(Default)]
    ListGuardRailsRequest {
        /// Most entries to return, 1 to 1000, 100 by default.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(MARKER);
    }

    /// Removes a guard rail from the catalogue.
    DeleteGuardRailRequest {
        /// Its name.
        guard_rail_name: String = "GuardRailName" text(NAME);
    }

    /// Asks what would be decided about a request, and why.
    #[derive(Default)]
    SimulatePrincipalPolicyRequest {
        /// Who: a principal's ARN, or `user:NAME`, `group:NAME`, `unit:NAME`, `role:NAME`, `root`.
        principal: String = "Principal" text(Text::len(1, 2048));
        /// What, for example `kms:Decrypt`.
        action: String = "Action" text(Text::len(1, 128));
        /// On which key: key id, key ARN, alias name or alias ARN; none for actions that are on no key.
        key_id: Option<String> = "KeyId" opt_text(KEY_ID);
        /// For actions that are on no key: the ARN of what they are on, `*` by default.
        resource_arn: Option<String> = "ResourceArn" opt_text(Text::len(1, 2048));
        /// The encryption context of the request.
        encryption_context: BTreeMap<String, String> = "EncryptionContext" context();
        /// The service that asks on the principal's behalf (`kms:ViaService`).
        via_service: Option<String> = "ViaService" opt_text(Text::len(1, 256));
        /// More groups the caller is in, besides those that kmsd knows of.
        groups: Vec<String> = "Groups" names();
        /// The systemd unit of the caller.
        unit: Option<String> = "Unit" opt_text(IDENTITY);
        /// The executable of the caller.
        exe: Option<String> = "Exe" opt_text(Text::len(1, 4096));
    }

    /// Asks who may do something on a key.
    WhoCanRequest {
        /// What, for example `kms:Decrypt`.
        action: String = "Action" text(Text::len(1, 128));
        /// Key id, key ARN, alias name or alias ARN.
        key_id: String = "KeyId" text(KEY_ID);
    }
}

responses! {
    /// What was put is in force; this should be looked at.
    #[derive(Default)]
    PolicyWarningsResponse {
        /// Each a sentence.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        warnings: Vec<String>,
    }

    /// An identity policy.
    GetIdentityPolicyResponse {
        /// Kind of identity.
        identity_type: IdentityType,
        /// Its name.
        identity: String,
        /// Name of the policy.
        policy_name: String,
        /// The policy document; as it was given, if it is from the catalogue.
        document: String,
        /// Where it is from.
        source: PolicySource,
        /// When it was put; absent for files.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        last_updated_date: Option<Timestamp>,
    }

    /// One identity policy of a list.
    IdentityPolicyListEntry {
        /// Kind of identity.
        identity_type: IdentityType,
        /// Its name.
        identity: String,
        /// Name of the policy.
        policy_name: String,
        /// Where it is from.
        source: PolicySource,
        /// When it was put; absent for files.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        last_updated_date: Option<Timestamp>,
    }

    /// A page of identity policies.
    ListIdentityPoliciesResponse {
        /// The policies.
        policies: Vec<IdentityPolicyListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }

    /// A guard rail.
    GetGuardRailResponse {
        /// Its name.
        guard_rail_name: String,
        /// The policy document; as it was given, if it is from the catalogue.
        document: String,
        /// Where it is from.
        source: PolicySource,
        /// When it was put; absent for files.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        last_updated_date: Option<Timestamp>,
    }

    /// One guard rail of a list.
    GuardRailListEntry {
        /// Its name.
        guard_rail_name: String,
        /// Where it is from.
        source: PolicySource,
        /// When it was put; absent for files.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        last_updated_date: Option<Timestamp>,
    }

    /// A page of guard rails.
    ListGuardRailsResponse {
        /// The guard rails.
        guard_rails: Vec<GuardRailListEntry>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }

    /// A statement that applies to a request, or a grant that does.
    MatchedStatement {
        /// `key-policy`, `identity-policy:user/alice/NAME`, `guard-rail:NAME` or `grant:ID`.
        document: String,
        /// Its Sid, or its index from 0 where it has none; empty for a grant.
        statement: String,
        /// `Allow` or `Deny`; for a statement of a key policy that hands the decision to the identity policies of the
        /// account, `Delegate`.
        effect: String,
    }

    /// What would be decided.
    SimulatePrincipalPolicyResponse {
        /// The decision.
        decision: Decision,
        /// What decided: as in audit records (`authorizedBy`, `deniedBy`).
        decided_by: String,
        /// The decision in a sentence: for a denial, the text of the error.
        reason: String,
        /// The principals that statements were compared with.
        principals: Vec<String>,
        /// The action.
        action: String,
        /// ARN of what it is on.
        resource: String,
        /// Every statement and grant that applies, in the order in which they are looked at.
        matched_statements: Vec<MatchedStatement>,
    }

    /// Somebody who may, or may not.
    WhoCanEntry {
        /// Principal: an ARN, `user/NAME`, `group/NAME`, `unit/NAME` or `role/NAME`, or `*` for everybody.
        principal: String,
        /// Where that is said: `key-policy`, `identity-policy:user/alice/NAME`, `guard-rail:NAME` or `grant:ID`.
        document: String,
        /// Sid of the statement, or its index from 0 where it has none; empty for a grant.
        statement: String,
        /// The conditions, as JSON; absent where there are none.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        conditions: Option<String>,
    }

    /// Who may do something on a key.
    WhoCanResponse {
        /// The action.
        action: String,
        /// Key ARN.
        resource: String,
        /// Who may, if the conditions hold and nothing in `Denied` applies.
        allowed: Vec<WhoCanEntry>,
        /// Who may not, whatever else allows it.
        denied: Vec<WhoCanEntry>,
        /// Whether identity policies count: the key policy hands this decision to the account.
        delegated: bool,
        /// What else there is to know.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        notes: Vec<String>,
    }
}
