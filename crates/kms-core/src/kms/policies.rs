//! GetKeyPolicy, PutKeyPolicy, ListKeyPolicies.

use kms_api::{
    ApiError, Caller, DEFAULT_POLICY_NAME, ErrorCode, GetKeyPolicyRequest, GetKeyPolicyResponse,
    ListKeyPoliciesRequest, ListKeyPoliciesResponse, PutKeyPolicyRequest, Response,
};

use super::{EMPTY, Kms, Outcome, World, pages, reply};
use crate::authz::{Authorized, Details, Document, Permission, Question, Resource};
use crate::ids::Scope;
use crate::policy::{MAX_POLICY_BYTES, PolicyKind};
use crate::rows::{Change, KeyRow, Row};
use crate::states::Action;

impl Kms {
    pub(super) fn put_key_policy(
        &self,
        auth: &Authorized,
        request: &PutKeyPolicyRequest,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        check_policy_name(request.policy_name.as_deref())?;
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Describe, key)?;
        let document = compile(&request.policy, PolicyKind::Key)?;
        if !request.bypass_policy_lockout_safety_check {
            self.check_lockout(key, &document, caller, world)?;
        }
        if key.policy == request.policy {
            return Ok(reply(Response::PutKeyPolicy(EMPTY)));
        }
        let row = KeyRow {
            policy: document.text,
            ..KeyRow::clone(key)
        };
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        let write = self.write(Response::PutKeyPolicy(EMPTY), changes);
        Ok(write.tightening().into())
    }

    pub(super) fn get_key_policy(
        &self,
        auth: &Authorized,
        request: &GetKeyPolicyRequest,
    ) -> Result<Outcome, ApiError> {
        check_policy_name(request.policy_name.as_deref())?;
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Describe, key)?;
        Ok(reply(Response::GetKeyPolicy(GetKeyPolicyResponse {
            policy: key.policy.clone(),
            policy_name: DEFAULT_POLICY_NAME.to_owned(),
        })))
    }

    pub(super) fn list_key_policies(
        &self,
        auth: &Authorized,
        request: &ListKeyPoliciesRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Describe, key)?;
        let list = format!("ListKeyPolicies {}", key.id);
        let after = pages::start(&list, request.marker.as_deref())?;
        let all = std::iter::once(DEFAULT_POLICY_NAME.to_owned())
            .filter(|name| after.as_ref().is_none_or(|after| name > after))
            .map(|name| (name.clone(), name));
        let page = pages::page(&list, request.limit.unwrap_or(100), all);
        Ok(reply(Response::ListKeyPolicies(ListKeyPoliciesResponse {
            policy_names: page.entries,
            next_marker: page.next_marker,
            truncated: page.truncated,
        })))
    }

    /// Refuses a policy under which the caller could not put another one: nobody else would be asked, and the key would
    /// stay as it is for ever.
    pub(super) fn check_lockout(
        &self,
        key: &KeyRow,
        document: &Document,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<(), ApiError> {
        let permission = Permission {
            action: "kms:PutKeyPolicy",
            resource: Resource::Key(key),
            details: Details {
                policy_name: Some(DEFAULT_POLICY_NAME),
                bypass_lockout_check: Some(false),
                ..Details::default()
            },
        };
        let question = Question {
            caller,
            permission: &permission,
            key_policy: Some(document),
            now: world.now,
        };
        let Err(denied) = self.decide(&question, None) else {
            return Ok(());
        };
        let text = format!(
            "The new key policy will not allow you to update the key policy in the future: {} would not be allowed \
             kms:PutKeyPolicy ({denied}). Allow it to a principal of yours, or set BypassPolicyLockoutSafetyCheck.",
            caller.arn
        );
        Err(ApiError::new(ErrorCode::MalformedPolicyDocument, text))
    }

    /// Keys whose stored policy cannot be read any more, so that they deny everyone.
    pub(super) fn unreadable_policies(&self) -> usize {
        let keys = self.snapshot.key_policies.values();
        let keys = keys.filter(|document| document.policy.is_err()).count();
        let identities = self.identity_policies();
        let identities = identities.filter(|(.., document)| document.policy.is_err());
        let rails = self
            .guard_rails()
            .filter(|(_, document)| document.policy.is_err());
        keys + identities.count() + rails.count()
    }
}

/// Compiles a document that somebody wants to put in force.
pub(super) fn compile(text: &str, kind: PolicyKind) -> Result<Document, ApiError> {
    if text.len() > MAX_POLICY_BYTES {
        let text = format!("The policy document is longer than {MAX_POLICY_BYTES} bytes.");
        return Err(ApiError::new(ErrorCode::LimitExceeded, text));
    }
    let document = Document::compile(text, kind);
    match &document.policy {
        Ok(_) => Ok(document),
        Err(error) => Err(ApiError::new(
            ErrorCode::MalformedPolicyDocument,
            error.to_string(),
        )),
    }
}

fn check_policy_name(name: Option<&str>) -> Result<(), ApiError> {
    match name {
        None | Some(DEFAULT_POLICY_NAME) => Ok(()),
        Some("AWS_RAM") => Err(ApiError::validation(
            "The policy AWS_RAM is managed by AWS RAM, which does not exist here.",
        )),
        Some(other) => Err(ApiError::not_found(format!(
            "No such policy exists: {other}"
        ))),
    }
}

/// The policy of keys that are made without one: the account's identity policies decide.
pub(crate) fn default_policy(scope: &Scope) -> String {
    format!(
        concat!(
            r#"{{"Version":"2012-10-17","Id":"key-default-1","Statement":["#,
            r#"{{"Sid":"Enable IAM User Permissions","Effect":"Allow","#,
            r#""Principal":{{"AWS":"arn:aws:iam::{}:root"}},"#,
            r#""Action":"kms:*","Resource":"*"}}]}}"#
        ),
        scope.account
    )
}
