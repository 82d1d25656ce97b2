//! PutGuardRail, GetGuardRail, ListGuardRails, DeleteGuardRail.

use std::collections::BTreeMap;
use std::sync::Arc;

use kms_api::{
    ApiError, Caller, CallerRole, DeleteGuardRailRequest, ErrorCode, GetGuardRailRequest,
    GetGuardRailResponse, GuardRailListEntry, ListGuardRailsRequest, ListGuardRailsResponse,
    PolicySource, PolicyWarningsResponse, ProcessFacts, PutGuardRailRequest, Response, Timestamp,
};

use super::policies::compile;
use super::{EMPTY, Kms, Outcome, World, pages, reply};
use crate::authz::{
    Authorized, Details, Document, Permission, Question, Resource, guard_rail_resource,
};
use crate::policy::PolicyKind;
use crate::rows::{Change, GuardRailRow, Row, Table};

/// Guard rails in the catalogue. Every one of them is asked with every request.
const MAX_GUARD_RAILS: usize = 20;

impl Kms {
    pub(super) fn put_guard_rail(
        &self,
        _auth: &Authorized,
        request: &PutGuardRailRequest,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let name = &request.guard_rail_name;
        let document = compile(&request.document, PolicyKind::GuardRail)?;
        let known = self.snapshot.guard_rails.get(name);
        if known.is_none() && self.snapshot.guard_rails.len() >= MAX_GUARD_RAILS {
            let text = format!("The limit of {MAX_GUARD_RAILS} guard rails is reached.");
            return Err(ApiError::new(ErrorCode::LimitExceeded, text));
        }
        let mut warnings = Vec::new();
        if !self.removable(name, &document, caller, world) {
            warnings.push(format!(
                "Neither the account's root principal nor you could remove or replace the guard rail {name}: \
                 with kmsd stopped, `kmsctl break-glass` still can."
            ));
        }
        if self.file_policies.attached.guard_rail(name).is_some() {
            warnings
                .push("A file has a guard rail of the same name: both are in force.".to_owned());
        }
        let response = Response::PutGuardRail(PolicyWarningsResponse { warnings });
        if known.is_some_and(|row| row.document == request.document) {
            return Ok(reply(response));
        }
        let row = GuardRailRow {
            name: name.clone(),
            document: document.text,
            updated_ms: world.now.wall_ms,
        };
        let changes = vec![Change::Put(Row::GuardRail(row))];
        Ok(self.write(response, changes).tightening().into())
    }

    /// Whether root or the caller could take a guard rail away again while it is in force.
    fn removable(
        &self,
        name: &str,
        document: &Document,
        caller: &Caller,
        world: &World<'_>,
    ) -> bool {
        let account = &self.snapshot.meta.scope.account;
        let mut root = Caller::new(CallerRole::Root, 0, format!("arn:aws:iam::{account}:root"));
        root.process = Some(Arc::new(ProcessFacts {
            checked: true,
            ..ProcessFacts::default()
        }));
        ["kmsd:DeleteGuardRail", "kmsd:PutGuardRail"]
            .into_iter()
            .any(|action| {
                let permission = Permission {
                    action,
                    resource: Resource::Local(guard_rail_resource(name)),
                    details: Details::default(),
                };
                [&root, caller].into_iter().any(|caller| {
                    let question = Question {
                        caller,
                        permission: &permission,
                        key_policy: None,
                        now: world.now,
                    };
                    self.passes(&question, document)
                })
            })
    }

    pub(super) fn get_guard_rail(
        &self,
        _auth: &Authorized,
        request: &GetGuardRailRequest,
    ) -> Result<Outcome, ApiError> {
        let name = &request.guard_rail_name;
        let found = match self.snapshot.guard_rails.get(name) {
            Some(row) => Some((
                row.document.clone(),
                PolicySource::Catalogue,
                Some(Timestamp::from_millis(row.updated_ms)),
            )),
            None => self
                .file_policies
                .attached
                .guard_rail(name)
                .map(|document| (document.text.clone(), PolicySource::File, None)),
        };
        let (document, source, last_updated_date) = found.ok_or_else(|| none(name))?;
        Ok(reply(Response::GetGuardRail(GetGuardRailResponse {
            guard_rail_name: name.clone(),
            document,
            source,
            last_updated_date,
        })))
    }

    pub(super) fn list_guard_rails(
        &self,
        _auth: &Authorized,
        request: &ListGuardRailsRequest,
    ) -> Result<Outcome, ApiError> {
        let list = "ListGuardRails";
        let after = pages::start(list, request.marker.as_deref())?;
        let catalogue = self.snapshot.guard_rails.values().map(|row| {
            let date = Some(Timestamp::from_millis(row.updated_ms));
            (row.name.as_str(), PolicySource::Catalogue, date)
        });
        let files = self.file_policies.attached.guard_rails();
        let files = files.map(|(name, _)| (name, PolicySource::File, None));
        let all: BTreeMap<String, GuardRailListEntry> = catalogue
            .chain(files)
            .map(|(name, source, last_updated_date)| {
                let entry = GuardRailListEntry {
                    guard_rail_name: name.to_owned(),
                    source,
                    last_updated_date,
                };
                (format!("{name} {source}"), entry)
            })
            .filter(|(place, _)| after.as_ref().is_none_or(|after| place > after))
            .collect();
        let page = pages::page(list, request.limit.unwrap_or(100), all.into_iter());
        Ok(reply(Response::ListGuardRails(ListGuardRailsResponse {
            guard_rails: page.entries,
            next_marker: page.next_marker,
            truncated: page.truncated,
        })))
    }

    pub(super) fn delete_guard_rail(
        &self,
        _auth: &Authorized,
        request: &DeleteGuardRailRequest,
    ) -> Result<Outcome, ApiError> {
        let name = &request.guard_rail_name;
        if !self.snapshot.guard_rails.contains_key(name) {
            return Err(match self.file_policies.attached.guard_rail(name) {
                Some(_) => ApiError::new(
                    ErrorCode::UnsupportedOperation,
                    format!("The guard rail {name} is a file: remove the file and reload."),
                ),
                None => none(name),
            });
        }
        let changes = vec![Change::Remove(Table::GuardRail, name.clone())];
        let write = self.write(Response::DeleteGuardRail(EMPTY), changes);
        Ok(write.tightening().into())
    }
}

fn none(name: &str) -> ApiError {
    ApiError::not_found(format!("The guard rail {name} does not exist"))
}
