//! CreateAlias, UpdateAlias, DeleteAlias, ListAliases.

use std::ops::Bound;

use kms_api::{
    AliasListEntry, ApiError, CreateAliasRequest, DeleteAliasRequest, ErrorCode,
    ListAliasesRequest, ListAliasesResponse, Response, Timestamp, UpdateAliasRequest,
};

use super::{EMPTY, Kms, Outcome, World, pages, reply};
use crate::authz::Authorized;
use crate::ids::KeyReference;
use crate::place::{At, Place};
use crate::rows::{AliasRow, Change, KeyRow, Row, Table, alias_id};
use crate::specs;
use crate::states::Action;

/// What the names of kmsd's own aliases start with.
const RESERVED: &str = "alias/aws/";

impl Kms {
    pub(super) fn create_alias(
        &self,
        auth: &Authorized,
        request: &CreateAliasRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let name = check_name(&request.alias_name)?;
        let key = self.target(auth, &request.target_key_id)?;
        if self.snapshot.aliases.get(key.id.place(), name).is_some() {
            let arn = self.snapshot.scope_of(key.id.place()).alias_arn(name);
            let text = format!("An alias with the name {arn} already exists");
            return Err(ApiError::new(ErrorCode::AlreadyExists, text));
        }
        self.allow(auth, Action::Name, key)?;
        self.check_room(key, world)?;
        let row = AliasRow {
            name: name.to_owned(),
            key: key.id,
            created_ms: world.now.wall_ms,
            updated_ms: world.now.wall_ms,
        };
        Ok(self
            .write(
                Response::CreateAlias(EMPTY),
                vec![Change::Put(Row::Alias(row))],
            )
            .into())
    }

    pub(super) fn update_alias(
        &self,
        auth: &Authorized,
        request: &UpdateAliasRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let name = request.alias_name.as_str();
        let alias = self.own_alias(auth.at.place, name)?;
        let key = self.target(auth, &request.target_key_id)?;
        if let Some(current) = self.snapshot.keys.get(&alias.key) {
            check_alike(name, current, key)?;
        }
        self.allow(auth, Action::Name, key)?;
        if alias.key == key.id {
            return Ok(reply(Response::UpdateAlias(EMPTY)));
        }
        self.check_room(key, world)?;
        let row = AliasRow {
            key: key.id,
            updated_ms: world.now.wall_ms,
            ..AliasRow::clone(alias)
        };
        let write = self.write(
            Response::UpdateAlias(EMPTY),
            vec![Change::Put(Row::Alias(row))],
        );
        Ok(write.tightening().into())
    }

    pub(super) fn delete_alias(
        &self,
        auth: &Authorized,
        request: &DeleteAliasRequest,
    ) -> Result<Outcome, ApiError> {
        let name = request.alias_name.as_str();
        let place = auth.at.place;
        self.own_alias(place, name)?;
        let changes = vec![Change::Remove(Table::Alias, alias_id(place, name))];
        Ok(self
            .write(Response::DeleteAlias(EMPTY), changes)
            .tightening()
            .into())
    }

    pub(super) fn list_aliases(
        &self,
        auth: &Authorized,
        request: &ListAliasesRequest,
    ) -> Result<Outcome, ApiError> {
        let key = request
            .key_id
            .as_deref()
            .map(|text| self.key(auth, text))
            .transpose()?;
        let list = match key {
            Some(key) => format!("ListAliases {}", key.id),
            None => "ListAliases".to_owned(),
        };
        let after = pages::start(&list, request.marker.as_deref())?;
        let limit = request.limit.unwrap_or(50);
        let page = match key {
            None => {
                let predefined = self.predefined_alias(auth.at.place);
                let predefined = predefined.filter(|one| Some(&one.alias_name) > after.as_ref());
                let mut predefined = predefined.map(|one| (one.alias_name.clone(), one));
                let named = self.snapshot.aliases.of(auth.at.place, after);
                let mut named = named.map(|row| self.entry(row)).peekable();
                let rest = std::iter::from_fn(|| {
                    let next = named.peek().map(|(name, _)| name);
                    predefined
                        .take_if(|(name, _)| next.is_none_or(|next| *name < *next))
                        .or_else(|| named.next())
                });
                pages::page(&list, limit, rest)
            }
            Some(key) => {
                let names = self.snapshot.names.get(&key.id);
                let start = after.map_or(Bound::Unbounded, Bound::Excluded);
                let range = (start, Bound::Unbounded);
                let rest = names
                    .into_iter()
                    .flat_map(|names| names.range(range.clone()))
                    .filter_map(|name| self.snapshot.aliases.get(key.id.place(), name))
                    .map(|row| self.entry(row));
                pages::page(&list, limit, rest)
            }
        };
        Ok(reply(Response::ListAliases(ListAliasesResponse {
            aliases: page.entries,
            next_marker: page.next_marker,
            truncated: page.truncated,
        })))
    }

    /// The key that an alias of that name points to, which is to be moved or removed.
    pub(crate) fn alias_target(&self, at: &At, name: &str) -> Result<&KeyRow, ApiError> {
        let alias = self.own_alias(at.place, name)?;
        self.key_by_id(alias.key).map(AsRef::as_ref)
    }

    /// The alias of that name, for what is done to the alias itself; kmsd's own are refused. AWS declares
    /// `InvalidAliasNameException` for CreateAlias alone.
    fn own_alias(&self, place: Place, name: &str) -> Result<&AliasRow, ApiError> {
        check_prefix(name)?;
        let alias = self.snapshot.aliases.get(place, name);
        let alias = alias.ok_or_else(|| self.no_alias(place, name))?;
        if name.starts_with(RESERVED) {
            let arn = self.snapshot.scope_of(place).alias_arn(name);
            let text = format!("{arn} is reserved: it cannot be moved or deleted.");
            return Err(ApiError::new(ErrorCode::InvalidState, text));
        }
        Ok(alias)
    }

    fn entry(&self, row: &AliasRow) -> (String, AliasListEntry) {
        let entry = AliasListEntry {
            alias_name: row.name.clone(),
            alias_arn: self.snapshot.scope_of(row.key.place()).alias_arn(&row.name),
            target_key_id: Some(row.key.to_string()),
            creation_date: Some(Timestamp::from_millis(row.created_ms)),
            last_updated_date: Some(Timestamp::from_millis(row.updated_ms)),
        };
        (row.name.clone(), entry)
    }

    /// The key that an alias is to point to.
    pub(crate) fn target(&self, at: &impl AsRef<At>, text: &str) -> Result<&KeyRow, ApiError> {
        match self.reference(at, text)? {
            KeyReference::Key(id) => self.key_by_id(id).map(AsRef::as_ref),
            KeyReference::Alias(..) => Err(ApiError::validation(
                "Aliases must refer to keys. Not aliases",
            )),
        }
    }

    fn check_room(&self, key: &KeyRow, world: &World<'_>) -> Result<(), ApiError> {
        let most = world.host.settings.quotas.aliases_per_key;
        let count = self
            .snapshot
            .names
            .get(&key.id)
            .map_or(0, |names| names.len());
        if count < most {
            return Ok(());
        }
        let text = format!(
            "The limit of {most} aliases is reached for key {}",
            self.arn(key.id)
        );
        Err(ApiError::new(ErrorCode::LimitExceeded, text))
    }
}

/// Refuses a target that programs which know the name could not use as they used the one until now.
fn check_alike(name: &str, current: &KeyRow, new: &KeyRow) -> Result<(), ApiError> {
    if current.usage != new.usage {
        return Err(ApiError::validation(format!(
            "Alias {name} cannot be changed from a CMK with key usage {} to a CMK with key usage {}. The key usage of \
             the current CMK and the new CMK must be the same.",
            current.usage, new.usage
        )));
    }
    if specs::is_asymmetric(current.spec) != specs::is_asymmetric(new.spec) {
        return Err(ApiError::validation(format!(
            "Alias {name} cannot be changed from a CMK with key spec {} to a CMK with key spec {}. Both must be \
             symmetric or both asymmetric.",
            current.spec, new.spec
        )));
    }
    Ok(())
}

/// Refuses names that no new alias may have.
pub(crate) fn check_name(name: &str) -> Result<&str, ApiError> {
    check_prefix(name)?;
    if name.starts_with(RESERVED) {
        let text = "Alias must not start with the reserved prefix \"alias/aws/\".";
        return Err(ApiError::new(ErrorCode::InvalidAliasName, text));
    }
    Ok(name)
}

fn check_prefix(name: &str) -> Result<(), ApiError> {
    if !name.starts_with("alias/") || name == "alias/" {
        return Err(ApiError::validation(
            "Alias must start with the prefix \"alias/\". Please see \
             https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html",
        ));
    }
    Ok(())
}
