//! PutIdentityPolicy, GetIdentityPolicy, ListIdentityPolicies, DeleteIdentityPolicy.

use std::collections::BTreeMap;

use kms_api::{
    ApiError, DeleteIdentityPolicyRequest, ErrorCode, GetIdentityPolicyRequest,
    GetIdentityPolicyResponse, IdentityPolicyListEntry, IdentityType, ListIdentityPoliciesRequest,
    ListIdentityPoliciesResponse, PolicySource, PolicyWarningsResponse, PutIdentityPolicyRequest,
    Response, Timestamp,
};

use super::policies::compile;
use super::{EMPTY, Kms, Outcome, World, pages, reply};
use crate::authz::{Authorized, identity_kind};
use crate::policy::PolicyKind;
use crate::rows::{Change, IdentityKind, IdentityPolicyRow, Row, Table, identity_policy_id};

/// Identity policies in the catalogue.
const MAX_POLICIES: usize = 10_000;

impl Kms {
    pub(super) fn put_identity_policy(
        &self,
        auth: &Authorized,
        request: &PutIdentityPolicyRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let document = compile(&request.document, PolicyKind::Identity)?;
        let kind = identity_kind(request.identity_type);
        let identity = &*self.identity_in(&auth.at.scope.account, &request.identity);
        let name = &request.policy_name;
        let id = identity_policy_id(kind, identity, name);
        let known = self.snapshot.identity_policies.get(&id);
        if known.is_none() && self.snapshot.identity_policies.len() >= MAX_POLICIES {
            let text = format!("The limit of {MAX_POLICIES} identity policies is reached.");
            return Err(ApiError::new(ErrorCode::LimitExceeded, text));
        }
        let mut warnings = Vec::new();
        if kind == IdentityKind::Unit && !identity.contains('.') {
            warnings.push(format!(
                "{identity} is not the full name of a systemd unit, such as {identity}.service: it will match nobody."
            ));
        }
        if self.file_policy(kind, identity, name).is_some() {
            warnings.push(format!(
                "A file has a policy of the same name for this {}: both are in force.",
                kind.as_str()
            ));
        }
        let response = Response::PutIdentityPolicy(PolicyWarningsResponse { warnings });
        if known.is_some_and(|row| row.document == request.document) {
            return Ok(reply(response));
        }
        let row = IdentityPolicyRow {
            kind,
            identity: identity.to_owned(),
            name: name.clone(),
            document: document.text,
            updated_ms: world.now.wall_ms,
        };
        let changes = vec![Change::Put(Row::IdentityPolicy(row))];
        Ok(self.write(response, changes).tightening().into())
    }

    pub(super) fn get_identity_policy(
        &self,
        auth: &Authorized,
        request: &GetIdentityPolicyRequest,
    ) -> Result<Outcome, ApiError> {
        let kind = identity_kind(request.identity_type);
        let identity = &*self.identity_in(&auth.at.scope.account, &request.identity);
        let name = &request.policy_name;
        let id = identity_policy_id(kind, identity, name);
        let found = match self.snapshot.identity_policies.get(&id) {
            Some(row) => Some((
                row.document.clone(),
                PolicySource::Catalogue,
                Some(Timestamp::from_millis(row.updated_ms)),
            )),
            None => self
                .file_policy(kind, identity, name)
                .map(|text| (text.to_owned(), PolicySource::File, None)),
        };
        let (document, source, last_updated_date) = found.ok_or_else(|| none(&id))?;
        Ok(reply(Response::GetIdentityPolicy(
            GetIdentityPolicyResponse {
                identity_type: request.identity_type,
                identity: request.identity.clone(),
                policy_name: name.clone(),
                document,
                source,
                last_updated_date,
            },
        )))
    }

    pub(super) fn list_identity_policies(
        &self,
        auth: &Authorized,
        request: &ListIdentityPoliciesRequest,
    ) -> Result<Outcome, ApiError> {
        let list = format!(
            "ListIdentityPolicies {} {}",
            request.identity_type.map_or("", IdentityType::as_str),
            request.identity.as_deref().unwrap_or_default()
        );
        let after = pages::start(&list, request.marker.as_deref())?;
        let catalogue = self.snapshot.identity_policies.values().map(|row| {
            let date = Some(Timestamp::from_millis(row.updated_ms));
            entry(
                row.kind,
                &row.identity,
                &row.name,
                PolicySource::Catalogue,
                date,
            )
        });
        let files = self.file_policies.attached.identities();
        let files = files
            .map(|(kind, identity, name, _)| entry(kind, identity, name, PolicySource::File, None));
        let own = auth.at.scope.account.as_str();
        let here = |(place, mut entry): (String, IdentityPolicyListEntry)| {
            let (account, name) = self.account_of_identity(&entry.identity);
            (account == own).then(|| name.to_owned()).map(|name| {
                entry.identity = name;
                (place, entry)
            })
        };
        let wanted = |entry: &IdentityPolicyListEntry| {
            request
                .identity_type
                .is_none_or(|kind| kind == entry.identity_type)
                && request
                    .identity
                    .as_ref()
                    .is_none_or(|name| *name == entry.identity)
        };
        let all: BTreeMap<String, IdentityPolicyListEntry> = catalogue
            .chain(files)
            .filter_map(here)
            .filter(|(place, entry)| {
                wanted(entry) && after.as_ref().is_none_or(|after| place > after)
            })
            .collect();
        let page = pages::page(&list, request.limit.unwrap_or(100), all.into_iter());
        Ok(reply(Response::ListIdentityPolicies(
            ListIdentityPoliciesResponse {
                policies: page.entries,
                next_marker: page.next_marker,
                truncated: page.truncated,
            },
        )))
    }

    pub(super) fn delete_identity_policy(
        &self,
        auth: &Authorized,
        request: &DeleteIdentityPolicyRequest,
    ) -> Result<Outcome, ApiError> {
        let kind = identity_kind(request.identity_type);
        let identity = &*self.identity_in(&auth.at.scope.account, &request.identity);
        let name = &request.policy_name;
        let id = identity_policy_id(kind, identity, name);
        if !self.snapshot.identity_policies.contains_key(&id) {
            return Err(match self.file_policy(kind, identity, name) {
                Some(_) => ApiError::new(
                    ErrorCode::UnsupportedOperation,
                    format!("The identity policy {id} is a file: remove the file and reload."),
                ),
                None => none(&id),
            });
        }
        let changes = vec![Change::Remove(Table::IdentityPolicy, id)];
        let write = self.write(Response::DeleteIdentityPolicy(EMPTY), changes);
        Ok(write.tightening().into())
    }

    fn file_policy(&self, kind: IdentityKind, identity: &str, name: &str) -> Option<&str> {
        let mut of = self.file_policies.attached.of(kind, identity);
        of.find(|(known, _)| *known == name)
            .map(|(_, document)| document.text.as_str())
    }
}

fn none(id: &str) -> ApiError {
    ApiError::not_found(format!("The identity policy {id} does not exist"))
}

/// The wire's word for a kind of identity.
pub(super) fn wire_kind(kind: IdentityKind) -> IdentityType {
    match kind {
        IdentityKind::User => IdentityType::User,
        IdentityKind::Group => IdentityType::Group,
        IdentityKind::Unit => IdentityType::Unit,
        IdentityKind::Role => IdentityType::Role,
    }
}

fn entry(
    kind: IdentityKind,
    identity: &str,
    name: &str,
    source: PolicySource,
    last_updated_date: Option<Timestamp>,
) -> (String, IdentityPolicyListEntry) {
    let place = format!("{} {source}", identity_policy_id(kind, identity, name));
    let entry = IdentityPolicyListEntry {
        identity_type: wire_kind(kind),
        identity: identity.to_owned(),
        policy_name: name.to_owned(),
        source,
        last_updated_date,
    };
    (place, entry)
}
