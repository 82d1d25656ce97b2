//! CreateAccessKey, ListAccessKeys, UpdateAccessKey, DeleteAccessKey.

use std::collections::HashMap;
use std::sync::Arc;

use data_encoding::{BASE32_NOPAD, BASE64};
use kms_api::{
    AccessKeyListEntry, AccessKeyStatus, ApiError, Caller, CallerRole, CreateAccessKeyRequest,
    CreateAccessKeyResponse, ErrorCode, ListAccessKeysRequest, ListAccessKeysResponse,
    MAX_ACCESS_KEYS, Response, SecretText, Timestamp, UpdateAccessKeyRequest,
};
use kms_crypto::Key;
use parking_lot::RwLock;
use zeroize::Zeroizing;

use super::{EMPTY, Kms, Outcome, World, no_domain, no_entropy, no_memory, pages, reply};
use crate::authz::Authorized;
use crate::domain::{DomainError, DomainKeys, Subject};
use crate::entropy;
use crate::ids::Scope;
use crate::place::Served;
use crate::rows::{AccessKeyRow, Change, Row, Table};

/// Access keys in the catalogue.
const MAX_KEYS: usize = 10_000;
/// Bytes of the random value that make the secret: 40 characters of base64.
const SECRET_BYTES: usize = 30;
/// What is written down of a use is at most this old, in milliseconds: an hour.
const USE_INTERVAL_MS: i64 = 3_600_000;

/// When access keys were used last: milliseconds of the wall clock by their ids, since the start.
#[derive(Debug, Default)]
pub struct AccessKeyUses(RwLock<HashMap<String, i64>>);

impl AccessKeyUses {
    /// A request that the access key signed was accepted.
    pub fn note(&self, id: &str, now_ms: i64) {
        // To the second: who signs thousands of requests in one takes no lock that others wait for.
        let known = self.0.read().get(id).copied();
        if known.is_none_or(|known| now_ms.saturating_sub(known) >= 1000) {
            self.0.write().insert(id.to_owned(), now_ms);
        }
    }

    fn of(&self, row: &AccessKeyRow) -> Option<i64> {
        self.0.read().get(&row.id).copied().max(row.used_ms)
    }
}

impl AccessKeyRow {
    /// The secret, 40 characters.
    ///
    /// # Errors
    /// The row is damaged.
    pub fn open(&self, domain: &DomainKeys) -> Result<Zeroizing<String>, DomainError> {
        let subject = Subject::AccessKey(&self.id, &self.principal);
        Ok(secret_text(&domain.unwrap(subject, &self.secret)?))
    }
}

fn secret_text(key: &Key<32>) -> Zeroizing<String> {
    let bytes = key.expose().get(..SECRET_BYTES).unwrap_or_default();
    Zeroizing::new(BASE64.encode(bytes))
}

impl Kms {
    pub(super) fn create_access_key(
        &self,
        _auth: &Authorized,
        request: &CreateAccessKeyRequest,
        caller: &Caller,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let principal = &request.principal_arn;
        check_principal(principal, self.snapshot.home(), &self.served)?;
        // Who can make one for somebody else can be somebody else: past key policies, and as one's own approver.
        let whose = matches!(caller.role, CallerRole::Root | CallerRole::Internal);
        if !whose && !is_own(principal, caller) {
            return Err(ApiError::new(
                ErrorCode::AccessDenied,
                format!(
                    "User: {} is not authorized to perform: kmsd:CreateAccessKey on resource: {principal} because only \
                     the account's root principal makes access keys for others; everybody else for \
                     their own principal",
                    caller.arn
                ),
            ));
        }
        let keys = &self.snapshot.access_keys;
        let own = keys.values().filter(|row| row.principal == *principal);
        if own.count() >= MAX_ACCESS_KEYS {
            return Err(ApiError::new(
                ErrorCode::LimitExceeded,
                format!(
                    "{principal} has {MAX_ACCESS_KEYS} access keys, which is the limit: delete one that is not used."
                ),
            ));
        }
        if keys.len() >= MAX_KEYS {
            let text = format!("The limit of {MAX_KEYS} access keys is reached.");
            return Err(ApiError::new(ErrorCode::LimitExceeded, text));
        }
        let random: [u8; 10] = entropy::array(world.entropy).map_err(no_entropy)?;
        let id = format!("AKIA{}", BASE32_NOPAD.encode(&random));
        let mut bytes = Zeroizing::new([0; 32]);
        world.entropy.fill(&mut *bytes).map_err(no_entropy)?;
        let secret = Key::from_slice(&*bytes).map_err(no_memory)?;
        let wrapped = world
            .domain
            .wrap(Subject::AccessKey(&id, principal), &secret)
            .map_err(no_domain)?;
        let row = AccessKeyRow {
            id: id.clone(),
            principal: principal.clone(),
            secret: wrapped,
            enabled: true,
            description: request.description.clone(),
            creator: caller.arn.to_string(),
            created_ms: world.now.wall_ms,
            used_ms: None,
        };
        let response = Response::CreateAccessKey(CreateAccessKeyResponse {
            access_key_id: id,
            secret_access_key: SecretText::new(secret_text(&secret)),
            principal_arn: principal.clone(),
            status: AccessKeyStatus::Active,
            create_date: Timestamp::from_millis(row.created_ms),
        });
        let changes = vec![Change::Put(Row::AccessKey(Box::new(row)))];
        Ok(self.write(response, changes).into())
    }

    pub(super) fn list_access_keys(
        &self,
        _auth: &Authorized,
        request: &ListAccessKeysRequest,
    ) -> Result<Outcome, ApiError> {
        let principal = request.principal_arn.as_deref();
        let list = format!("ListAccessKeys {}", principal.unwrap_or_default());
        let after = pages::start(&list, request.marker.as_deref())?;
        let keys = self.snapshot.access_keys.values();
        let keys = keys
            .filter(|row| principal.is_none_or(|wanted| row.principal == wanted))
            .filter(|row| after.as_ref().is_none_or(|after| row.id > *after))
            .map(|row| (row.id.clone(), self.access_key_entry(row)));
        let page = pages::page(&list, request.limit.unwrap_or(100), keys);
        Ok(reply(Response::ListAccessKeys(ListAccessKeysResponse {
            access_keys: page.entries,
            next_marker: page.next_marker,
            truncated: page.truncated,
        })))
    }

    fn access_key_entry(&self, row: &AccessKeyRow) -> AccessKeyListEntry {
        AccessKeyListEntry {
            access_key_id: row.id.clone(),
            principal_arn: row.principal.clone(),
            status: status(row),
            description: row.description.clone(),
            create_date: Timestamp::from_millis(row.created_ms),
            last_used_date: self.access_key_uses.of(row).map(Timestamp::from_millis),
        }
    }

    pub(super) fn update_access_key(
        &self,
        _auth: &Authorized,
        request: &UpdateAccessKeyRequest,
    ) -> Result<Outcome, ApiError> {
        let row = self.existing(&request.access_key_id)?;
        let response = Response::UpdateAccessKey(EMPTY);
        if status(row) == request.status {
            return Ok(reply(response));
        }
        let enabled = request.status == AccessKeyStatus::Active;
        let row = AccessKeyRow {
            enabled,
            ..AccessKeyRow::clone(row)
        };
        let changes = vec![Change::Put(Row::AccessKey(Box::new(row)))];
        let write = self.write(response, changes);
        Ok(match enabled {
            true => write,
            false => write.tightening(),
        }
        .into())
    }

    pub(super) fn delete_access_key(
        &self,
        _auth: &Authorized,
        id: &str,
    ) -> Result<Outcome, ApiError> {
        let row = self.existing(id)?;
        let changes = vec![Change::Remove(Table::AccessKey, row.id.clone())];
        let write = self.write(Response::DeleteAccessKey(EMPTY), changes);
        Ok(write.tightening().into())
    }

    fn existing(&self, id: &str) -> Result<&Arc<AccessKeyRow>, ApiError> {
        let row = self.snapshot.access_keys.get(id);
        row.ok_or_else(|| {
            ApiError::not_found(format!("The Access Key with id {id} cannot be found."))
        })
    }

    /// Where accepted requests are noted.
    pub fn access_key_uses(&self) -> &Arc<AccessKeyUses> {
        &self.access_key_uses
    }

    /// Rows whose last use is to be written down. Changes nothing of what somebody is allowed.
    pub fn used_access_keys(&self) -> Vec<Change> {
        let keys = self.snapshot.access_keys.values();
        keys.filter_map(|row| {
            let used = self.access_key_uses.of(row)?;
            let known = row.used_ms.unwrap_or(i64::MIN);
            (used.saturating_sub(known) >= USE_INTERVAL_MS).then(|| {
                Change::Put(Row::AccessKey(Box::new(AccessKeyRow {
                    used_ms: Some(used),
                    ..AccessKeyRow::clone(row)
                })))
            })
        })
        .collect()
    }
}

fn status(row: &AccessKeyRow) -> AccessKeyStatus {
    match row.enabled {
        true => AccessKeyStatus::Active,
        false => AccessKeyStatus::Inactive,
    }
}

/// Whether it is the caller itself. A role that a rule gives to a user of this host is not: the rule may ask for a unit or an
/// executable, and may be taken away.
fn is_own(principal: &str, caller: &Caller) -> bool {
    let acts_as = |own: &Arc<str>| **own == *principal;
    caller.via.is_none()
        && (*caller.arn == *principal
            || (caller.network.is_some() && caller.principals.iter().any(acts_as)))
}

/// Whether an access key can be for it.
///
/// # Errors
/// It cannot.
fn check_principal(principal: &str, home: &Scope, served: &Served) -> Result<(), ApiError> {
    let refused = |why: &str| {
        Err(ApiError::validation(format!(
            "{principal} cannot have access keys: {why}."
        )))
    };
    let Some((account, last)) = principal
        .strip_prefix("arn:aws:iam::")
        .and_then(|rest| rest.split_once(':'))
    else {
        return refused("it is not arn:aws:iam::ACCOUNT:user/NAME, :role/NAME or :root");
    };
    if !served.has_account(home, account) {
        return refused("this kmsd does not serve its account");
    }
    let is_name = |name: &str| {
        (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte))
    };
    match (last, last.split_once('/')) {
        ("root", _) => Ok(()),
        // Its sessions would be `assumed-role/unit/ACCESS-KEY-ID`, and patterns for units name them.
        (_, Some(("role", name))) if name == "unit" || name.starts_with("unit/") => {
            refused("the kernel says which systemd unit a process is in, and no key")
        }
        (_, Some(("user" | "role", name))) if is_name(name) => Ok(()),
        _ => refused("its name has 1 to 64 letters, digits and characters of _+=,.@-"),
    }
}
