//! CreateGrant, ListGrants, ListRetirableGrants, RetireGrant, RevokeGrant, and kmsd's own CreateTemporaryGrant and
//! DescribeGrants.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use kms_api::{
    ApiError, CreateGrantRequest, CreateGrantResponse, CreateTemporaryGrantRequest,
    CreateTemporaryGrantResponse, DescribeGrantsRequest, DescribeGrantsResponse, ErrorCode,
    GrantConstraints, GrantDescription, GrantListEntry, GrantOperation, KeySpec, ListGrantsRequest,
    ListGrantsResponse, ListRetirableGrantsRequest, Response, RetireGrantRequest,
    RevokeGrantRequest, Timestamp,
};

use super::crypto::dry_run_refusal;
use super::{EMPTY, Kms, Outcome, World, Write, internal, no_entropy, pages, reply};
use crate::authz::{Authorized, Basis};
use crate::clock::{Due, Now};
use crate::entropy;
use crate::grants::{self, principal, token};
use crate::ids::KeyId;
use crate::place::{At, Place};
use crate::rows::{Bytes, Change, GrantRow, KeyRow, Row, Table, grant_id};
use crate::states::Action;

/// Grants that one transaction retires when their time has come.
const BATCH: usize = 256;

impl Kms {
    pub(super) fn create_grant(
        &self,
        auth: &Authorized,
        request: &CreateGrantRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        self.make_grant(auth, request, None, world, |row, token| {
            Response::CreateGrant(CreateGrantResponse {
                grant_token: token,
                grant_id: row.id.clone(),
            })
        })
    }

    pub(super) fn create_temporary_grant(
        &self,
        auth: &Authorized,
        request: &CreateTemporaryGrantRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let life_ms = u64::from(request.expires_in_seconds) * 1000;
        self.make_grant(auth, &request.grant, Some(life_ms), world, |row, token| {
            let end = row.ends.map_or(row.created_ms, |ends| ends.wall_ms);
            Response::CreateTemporaryGrant(CreateTemporaryGrantResponse {
                grant_token: token,
                grant_id: row.id.clone(),
                end_date: Timestamp::from_millis(end),
            })
        })
    }

    fn make_grant(
        &self,
        auth: &Authorized,
        request: &CreateGrantRequest,
        life_ms: Option<u64>,
        world: &World<'_>,
        response: impl Fn(&GrantRow, String) -> Response,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        check_kind(request, key)?;
        self.allow(auth, Action::Grant, key)?;
        for arn in [&request.grantee_principal, &request.retiring_principal]
            .into_iter()
            .flatten()
        {
            principal::check(arn, self.snapshot.home(), &self.served)?;
        }
        let parent = self.parent(auth, key.id)?;
        let issuer = auth.at.scope.root_arn();
        let row = new_row(request, key.id, (parent, issuer), life_ms, world)?;
        let token = |row: &GrantRow| token::make(row, world.entropy).map_err(no_entropy);
        let same = row.name.as_deref().and_then(|name| {
            self.snapshot
                .grants
                .named(key.id, name)
                .find(|old| is_same(old, &row, life_ms) && !grants::ended(old, world.now))
        });
        let most = world.host.settings.quotas.grants_per_key;
        if same.is_none() && self.snapshot.grants.count(key.id) >= most {
            let text = format!(
                "The limit of {most} grants is reached for key {}",
                self.arn(key.id)
            );
            return Err(ApiError::new(ErrorCode::LimitExceeded, text));
        }
        check_dry_run(request.dry_run)?;
        if let Some(same) = same {
            return Ok(reply(response(same, token(same)?)));
        }
        let response = response(&row, token(&row)?);
        let changes = vec![Change::Put(Row::Grant(Box::new(row)))];
        Ok(self.write(response, changes).into())
    }

    /// The grant whose CreateGrant permission is used, if it is one that allows the request.
    fn parent(&self, auth: &Authorized, key: KeyId) -> Result<Option<&Arc<GrantRow>>, ApiError> {
        let Basis::Grant { id } = auth.basis() else {
            return Ok(None);
        };
        match self.snapshot.grants.get(key, id) {
            Some(parent) => Ok(Some(parent)),
            None => Err(internal("The grant that allows the request is gone.")),
        }
    }

    pub(super) fn list_grants(
        &self,
        auth: &Authorized,
        request: &ListGrantsRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Describe, key)?;
        let grantee = request
            .grantee_principal
            .as_deref()
            .or(request.grantee_service_principal.as_deref());
        let page = self.grants_page(
            "ListGrants",
            key,
            (request.grant_id.as_deref(), grantee),
            (request.limit, request.marker.as_deref()),
            world.now,
        )?;
        Ok(reply(Response::ListGrants(ListGrantsResponse {
            grants: page
                .entries
                .into_iter()
                .map(|row| self.entry_of(row))
                .collect(),
            next_marker: page.next_marker,
            truncated: page.truncated,
        })))
    }

    pub(super) fn describe_grants(
        &self,
        auth: &Authorized,
        request: &DescribeGrantsRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Describe, key)?;
        let page = self.grants_page(
            "DescribeGrants",
            key,
            (
                request.grant_id.as_deref(),
                request.grantee_principal.as_deref(),
            ),
            (request.limit, request.marker.as_deref()),
            world.now,
        )?;
        let describe = |row: &GrantRow| GrantDescription {
            entry: self.entry_of(row),
            end_date: row.ends.map(|ends| Timestamp::from_millis(ends.wall_ms)),
            parent_grant_id: row.parent.clone(),
        };
        Ok(reply(Response::DescribeGrants(DescribeGrantsResponse {
            grants: page.entries.into_iter().map(describe).collect(),
            next_marker: page.next_marker,
            truncated: page.truncated,
        })))
    }

    fn grants_page(
        &self,
        operation: &str,
        key: &KeyRow,
        (id, grantee): (Option<&str>, Option<&str>),
        (limit, marker): (Option<u32>, Option<&str>),
        now: Now,
    ) -> Result<pages::Page<&GrantRow>, ApiError> {
        if let Some(id) = id {
            check_id(id)?;
        }
        let list = format!(
            "{operation} {} {} {}",
            key.id,
            id.unwrap_or("*"),
            grantee.unwrap_or("*")
        );
        let after = pages::start(&list, marker)?;
        let rest = self
            .snapshot
            .grants
            .of_key(key.id, after.as_deref())
            .filter(|row| id.is_none_or(|id| row.id == id))
            .filter(|row| grantee.is_none_or(|grantee| row.grantee == grantee))
            .filter(|row| !grants::ended(row, now))
            .map(|row| (row.id.clone(), row.as_ref()));
        Ok(pages::page(&list, limit.unwrap_or(50), rest))
    }

    pub(super) fn list_retirable_grants(
        &self,
        auth: &Authorized,
        request: &ListRetirableGrantsRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let retiring = request
            .retiring_principal
            .as_deref()
            .or(request.retiring_service_principal.as_deref())
            .unwrap_or_default();
        let list = format!("ListRetirableGrants {retiring}");
        let after = match pages::start(&list, request.marker.as_deref())? {
            None => None,
            Some(place) => Some(
                place
                    .split_once('/')
                    .and_then(|(key, id)| Some((KeyId::from_row_id(key).ok()?, id.to_owned())))
                    .ok_or_else(pages::bad_marker)?,
            ),
        };
        // Of the Region: those of a principal of the account whosever keys they are on, those of a service on the account's keys.
        let (place, region) = (auth.at.place, &auth.at.scope.region);
        let is_shown = |of: Place| match request.retiring_principal {
            Some(_) => self.snapshot.scope_of(of).region == *region,
            None => of == place,
        };
        let rest = self
            .snapshot
            .grants
            .retirable(retiring, after)
            .filter(|row| is_shown(row.key.place()))
            .filter(|row| !grants::ended(row, world.now))
            .map(|row| (grant_id(row.key, &row.id), self.entry_of(row)));
        let page = pages::page(&list, request.limit.unwrap_or(50), rest);
        Ok(reply(Response::ListRetirableGrants(ListGrantsResponse {
            grants: page.entries,
            next_marker: page.next_marker,
            truncated: page.truncated,
        })))
    }

    pub(super) fn retire_grant(
        &self,
        auth: &Authorized,
        request: &RetireGrantRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let (key, row) = self.retired(auth, request, world.now)?;
        self.allow(auth, Action::Describe, key)?;
        self.end_grant(row, request.dry_run, Response::RetireGrant(EMPTY))
    }

    pub(super) fn revoke_grant(
        &self,
        auth: &Authorized,
        request: &RevokeGrantRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Describe, key)?;
        let row = match self.grant(key, &request.grant_id, world.now) {
            // The answer to the first call may have been lost, or is still to come.
            Err(_) if self.snapshot.recently_revoked(key.id, &request.grant_id) => {
                check_dry_run(request.dry_run)?;
                return Ok(reply(Response::RevokeGrant(EMPTY)));
            }
            found => found?,
        };
        self.end_grant(row, request.dry_run, Response::RevokeGrant(EMPTY))
    }

    /// The grant that a RetireGrant names, and its key.
    pub(crate) fn retired(
        &self,
        at: &impl AsRef<At>,
        request: &RetireGrantRequest,
        now: Now,
    ) -> Result<(&Arc<KeyRow>, &GrantRow), ApiError> {
        match (&request.grant_token, &request.key_id, &request.grant_id) {
            (Some(token), ..) => {
                let row = self.token(token, now)?;
                Ok((self.key_by_id(row.key)?, row))
            }
            (None, Some(key), Some(id)) => {
                let key = self.key(at, key)?;
                Ok((key, self.grant(key, id, now)?))
            }
            _ => Err(internal("The request names no grant.")),
        }
    }

    /// Refuses grant tokens that are none, and those of grants on keys other than `keys`.
    pub(crate) fn check_tokens(
        &self,
        tokens: &[String],
        keys: &[Option<KeyId>],
        now: Now,
    ) -> Result<(), ApiError> {
        for token in tokens {
            if !keys.contains(&Some(self.token(token, now)?.key)) {
                return Err(bad_token("it is for a grant on another key"));
            }
        }
        Ok(())
    }

    fn token(&self, token: &str, now: Now) -> Result<&GrantRow, ApiError> {
        token::open(&self.snapshot, token)
            .filter(|row| !grants::ended(row, now))
            .ok_or_else(|| bad_token("its grant has ended, or it was not made by this kmsd"))
    }

    fn grant(&self, key: &KeyRow, id: &str, now: Now) -> Result<&GrantRow, ApiError> {
        check_id(id)?;
        self.snapshot
            .grants
            .get(key.id, id)
            .filter(|row| !grants::ended(row, now))
            .map(AsRef::as_ref)
            .ok_or_else(|| ApiError::not_found(format!("Grant ID {id} not found")))
    }

    fn end_grant(
        &self,
        row: &GrantRow,
        dry_run: bool,
        response: Response,
    ) -> Result<Outcome, ApiError> {
        check_dry_run(dry_run)?;
        let changes = vec![Change::Remove(Table::Grant, grant_id(row.key, &row.id))];
        Ok(self.write(response, changes).tightening().into())
    }

    fn entry_of(&self, row: &GrantRow) -> GrantListEntry {
        let constraints = GrantConstraints {
            encryption_context_subset: row.context_subset.clone(),
            encryption_context_equals: row.context_equals.clone(),
            source_arn: row.source_arn.clone(),
        };
        let service = |name: &String| (!is_arn(name)).then(|| name.clone());
        GrantListEntry {
            key_id: self.arn(row.key),
            grant_id: row.id.clone(),
            name: row.name.clone().unwrap_or_default(),
            creation_date: Timestamp::from_millis(row.created_ms),
            grantee_principal: row.grantee.clone(),
            retiring_principal: row.retiring.clone().filter(|name| is_arn(name)),
            issuing_account: row.issuer.clone(),
            operations: row
                .operations
                .iter()
                .filter_map(|name| GrantOperation::from_wire(name))
                .collect(),
            constraints: (!constraints.is_empty()).then_some(constraints),
            grantee_service_principal: service(&row.grantee),
            retiring_service_principal: row.retiring.as_ref().and_then(service),
        }
    }

    /// Grants whose time is over and that are still in the catalogue.
    pub fn grants_ended(&self, now: Now) -> Vec<Arc<GrantRow>> {
        let mut ended = self.snapshot.grants.ended(now);
        ended.truncate(BATCH);
        ended
    }

    /// Removes grants that [`Self::grants_ended`] named. They allow nothing any more, so that this takes nothing from
    /// anybody; it only makes room, and lets those who keep answers know.
    pub fn retire_ended(&self, ended: &[Arc<GrantRow>]) -> Write {
        let changes = ended
            .iter()
            .filter(|row| self.snapshot.grants.get(row.key, &row.id).is_some())
            .map(|row| Change::Remove(Table::Grant, grant_id(row.key, &row.id)))
            .collect();
        self.write(Response::RetireGrant(EMPTY), changes)
    }
}

fn new_row(
    request: &CreateGrantRequest,
    key: KeyId,
    (parent, issuer): (Option<&Arc<GrantRow>>, String),
    life_ms: Option<u64>,
    world: &World<'_>,
) -> Result<GrantRow, ApiError> {
    let constraints = request.constraints.clone().unwrap_or_default();
    let mut operations: Vec<String> = Vec::new();
    for operation in &request.operations {
        let name = operation.as_str();
        if !operations.iter().any(|listed| listed == name) {
            operations.push(name.to_owned());
        }
    }
    let asked = life_ms.map(|life| Due::after(world.now, life));
    let id: [u8; 32] = entropy::array(world.entropy).map_err(no_entropy)?;
    let token_key: [u8; 16] = entropy::array(world.entropy).map_err(no_entropy)?;
    Ok(GrantRow {
        key,
        id: HEXLOWER.encode(&id),
        name: request.name.clone(),
        grantee: request.grantee().unwrap_or_default().to_owned(),
        retiring: request.retiring().map(str::to_owned),
        operations,
        context_equals: constraints.encryption_context_equals,
        // No pairs constrain nothing; an empty Equals means that the context must be empty.
        context_subset: constraints
            .encryption_context_subset
            .filter(|pairs| !pairs.is_empty()),
        source_arn: constraints.source_arn,
        created_ms: world.now.wall_ms,
        issuer,
        parent: parent.map(|parent| parent.id.clone()),
        ends: grants::earlier(asked, parent.and_then(|parent| parent.ends)),
        token_key: Bytes(token_key.to_vec()),
    })
}

/// Whether a repeated request made `new` that had made `old` before.
fn is_same(old: &GrantRow, new: &GrantRow, life_ms: Option<u64>) -> bool {
    let old_life = old
        .ends
        .and_then(|ends| u64::try_from(ends.wall_ms.saturating_sub(old.created_ms)).ok());
    let as_old = GrantRow {
        id: old.id.clone(),
        created_ms: old.created_ms,
        token_key: old.token_key.clone(),
        ends: old.ends,
        ..new.clone()
    };
    as_old == *old && (old.ends == new.ends || (life_ms.is_some() && old_life == life_ms))
}

/// Refuses operations and constraints that keys of this kind do not have.
fn check_kind(request: &CreateGrantRequest, key: &KeyRow) -> Result<(), ApiError> {
    let (spec, usage) = (key.spec, key.usage);
    let wrong: Vec<&str> = request
        .operations
        .iter()
        .filter(|operation| !grants::grantable(**operation, spec, usage))
        .map(|operation| operation.as_str())
        .collect();
    if !wrong.is_empty() {
        return Err(ApiError::validation(format!(
            "Grant operations [{}] are not supported for KMS keys with key spec {spec} and key usage \
             {usage}.",
            wrong.join(", ")
        )));
    }
    let constrains_context = request.constraints.as_ref().is_some_and(|constraints| {
        constraints.encryption_context_equals.is_some()
            || constraints.encryption_context_subset.is_some()
    });
    if constrains_context && spec != KeySpec::SymmetricDefault {
        return Err(ApiError::validation(format!(
            "Encryption context grant constraints are not supported for KMS keys with key spec {spec}."
        )));
    }
    Ok(())
}

fn check_id(id: &str) -> Result<(), ApiError> {
    if id.len() == 64 && HEXLOWER.decode(id.as_bytes()).is_ok() {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::InvalidGrantId,
        format!("Grant ID {id} is not valid."),
    ))
}

fn check_dry_run(dry_run: bool) -> Result<(), ApiError> {
    if dry_run {
        return Err(dry_run_refusal());
    }
    Ok(())
}

fn bad_token(reason: &str) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidGrantToken,
        format!("The grant token is not valid: {reason}."),
    )
}

fn is_arn(name: &str) -> bool {
    name.starts_with("arn:")
}
