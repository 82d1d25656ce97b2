//! GetParametersForImport, ImportKeyMaterial, DeleteImportedKeyMaterial, and the end of material that expires.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use kms_api::{
    ApiError, Blob, DeleteImportedKeyMaterialRequest, DeleteImportedKeyMaterialResponse, ErrorCode,
    ExpirationModel, GetParametersForImportRequest, GetParametersForImportResponse,
    ImportKeyMaterialRequest, ImportKeyMaterialResponse, ImportType, KeyMetadata, KeySpec,
    Response, Timestamp,
};

use super::{
    EMPTY, Effect, Kms, Outcome, World, Write, material_id_of, no_domain, no_entropy, no_memory,
    reply,
};
use crate::authz::Authorized;
use crate::clock::{DAY_MS, Due, Dueness, Now};
use crate::domain::Subject;
use crate::entropy;
use crate::ids::{KeyId, MaterialId};
use crate::import::{MAX_DAYS, Material, TOKEN_MS, Token, Wrapped, check_wrapping};
use crate::rows::{
    AbsentMaterial, Bytes, Change, Imported, KeyRow, MaterialRow, MetaRow, Origin, Row, State,
    Table, material_id,
};
use crate::snapshot::Snapshot;
use crate::states::Action;

/// Imported material whose time is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Both clocks say so.
    pub due: Vec<(KeyId, MaterialId)>,
    /// Only one of the clocks says so: the keys cannot be used, nothing is destroyed, and somebody should look at the clock.
    pub clocks_disagree: Vec<KeyId>,
}

impl Kms {
    pub(super) fn get_parameters_for_import(
        &self,
        auth: &Authorized,
        request: &GetParametersForImportRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::ImportParameters, key)?;
        let spec = check_wrapping(
            request.wrapping_algorithm,
            request.wrapping_key_spec,
            key.spec,
        )?;
        let Some(pair) = world.pair_of(spec) else {
            return Ok(Outcome::MakePair(spec));
        };
        let arn = self.arn(key.id);
        let token = Token {
            id: entropy::array(world.entropy).map_err(no_entropy)?,
            algorithm: request.wrapping_algorithm,
            spec: request.wrapping_key_spec,
            ends: Due::after(world.now, TOKEN_MS),
            private: pair.to_pkcs8().map_err(no_memory)?,
        };
        let response = GetParametersForImportResponse {
            import_token: token.seal(&arn, world.domain).map_err(no_domain)?,
            key_id: arn,
            public_key: Blob::from(pair.public_spki()),
            parameters_valid_to: Timestamp::from_millis(token.ends.wall_ms),
        };
        // The former token counts no more.
        let row = KeyRow {
            import_token: Some(HEXLOWER.encode(&token.id)),
            ..KeyRow::clone(key)
        };
        let changes = vec![Change::Put(Row::Key(Box::new(row)))];
        let response = Response::GetParametersForImport(response);
        Ok(self.write(response, changes).into())
    }

    pub(super) fn import_key_material(
        &self,
        auth: &Authorized,
        request: &ImportKeyMaterialRequest,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::Import, key)?;
        check_members(request, key, world.now)?;
        let invalid = || ApiError::bare(ErrorCode::InvalidImportToken);
        let token = Token::open(
            request.import_token.as_slice(),
            &self.arn(key.id),
            world.domain,
        )
        .ok_or_else(invalid)?;
        if key.import_token.as_deref() != Some(&HEXLOWER.encode(&token.id)) {
            return Err(invalid());
        }
        if token.has_ended(world.now) {
            return Err(ApiError::bare(ErrorCode::ExpiredImportToken));
        }
        match world.imported() {
            Some(material) => self.imported(key, request, material, world),
            None => Ok(Outcome::Unwrap(Box::new(Wrapped::new(
                token, request, key.spec,
            )))),
        }
    }

    /// Material that came out of its wrapping and is of the key's kind.
    fn imported(
        &self,
        key: &KeyRow,
        request: &ImportKeyMaterialRequest,
        material: &Material,
        world: &World<'_>,
    ) -> Result<Outcome, ApiError> {
        let arn = self.arn(key.id);
        let id = material_id_of(&self.material_name(key.id), material.secret.expose());
        let incorrect = |text: String| Err(ApiError::new(ErrorCode::IncorrectKeyMaterial, text));
        if let Some(named) = &request.key_material_id
            && *named != id.to_string()
        {
            return incorrect(format!(
                "The key material is not the one with the id {named}."
            ));
        }
        let here = self.snapshot.materials(key.id).find(|row| row.id == id);
        let absent = key.absent.iter().find(|one| one.id == id);
        let known = here.is_some() || absent.is_some();
        let first = key.current.is_none() && key.pending.is_none();
        let new = match request.import_type {
            Some(kind) => kind == ImportType::New,
            None => first,
        };
        if new && known && key.pending != Some(id) {
            return incorrect(format!(
                "The key material is associated with {arn} already."
            ));
        }
        if !new && !known {
            return incorrect(format!(
                "The key material is none that was imported into {arn} before."
            ));
        }
        if !known && !first && key.spec != KeySpec::SymmetricDefault {
            return incorrect(format!("The key material of {arn} cannot be changed."));
        }
        if !known && key.multi_region.is_some() {
            self.check_family(key, id, first)?;
        }
        if let Some(pending) = key.pending.filter(|pending| !known && *pending != id) {
            let text = format!(
                "New key material (id: {id}) cannot be imported into KMS key {}, because another key material (id: \
                 {pending}) is pending rotation.",
                key.id
            );
            return Err(ApiError::new(ErrorCode::InvalidState, text));
        }

        let last = self.snapshot.materials(key.id).map(|row| row.version);
        let last = last.chain(key.absent.iter().map(|one| one.version)).max();
        let former = here.and_then(|row| row.import.as_ref()?.description.clone());
        let former = former.or_else(|| absent.and_then(|one| one.description.clone()));
        let described = request.key_material_description.clone();
        let subject = Subject::Material(key.id, id, key.spec);
        let secret = match key.spec {
            KeySpec::SymmetricDefault => {
                let bytes = kms_crypto::Key::from_slice(material.secret.expose());
                world.domain.wrap(subject, &bytes.map_err(no_memory)?)
            }
            _ => world.domain.wrap_bytes(subject, material.secret.expose()),
        };
        let row = MaterialRow {
            key: key.id,
            id,
            version: match (here, absent) {
                (Some(row), _) => row.version,
                (None, Some(one)) => one.version,
                (None, None) => last.unwrap_or(0).saturating_add(1),
            },
            created_ms: match (here, absent) {
                (Some(row), _) => row.created_ms,
                (None, Some(one)) => one.created_ms,
                (None, None) => world.now.wall_ms,
            },
            rotated: here
                .and_then(|row| row.rotated)
                .or_else(|| absent.and_then(|one| one.rotated)),
            spec: key.spec,
            public: material.public.clone().map(Bytes),
            secret: secret.map_err(no_domain)?,
            import: Some(Imported {
                description: described.or(former),
                expires: request.valid_to.map(|at| due_at(at.millis(), world.now)),
            }),
        };
        let mut key = key.clone();
        key.absent.retain(|one| one.id != id);
        match key.current {
            None => key.current = Some(id),
            Some(_) if !known => key.pending = Some(id),
            Some(_) => {}
        }
        if key.state == State::PendingImport && key.absent.is_empty() && key.current.is_some() {
            key.state = State::Enabled;
        }
        let response = ImportKeyMaterialResponse {
            key_id: Some(arn),
            key_material_id: (key.spec == KeySpec::SymmetricDefault).then(|| id.to_string()),
        };
        let changes = vec![
            Change::Put(Row::Material(row)),
            Change::Put(Row::Key(Box::new(key))),
        ];
        Ok(self
            .write(Response::ImportKeyMaterial(response), changes)
            .into())
    }

    /// The keys of one id have one material, which comes into the primary key first.
    fn check_family(&self, key: &KeyRow, id: MaterialId, first: bool) -> Result<(), ApiError> {
        if !first {
            return Err(ApiError::new(
                ErrorCode::UnsupportedOperation,
                "New key material cannot be imported into a multi-Region key by this kmsd.",
            ));
        }
        let known = self.snapshot.family(key.id).any(|member| {
            member.current == Some(id) || member.absent.iter().any(|one| one.id == id)
        });
        if !known && !self.is_primary(key) {
            return Err(ApiError::new(
                ErrorCode::IncorrectKeyMaterial,
                "The key material is none that was imported into the primary key.",
            ));
        }
        Ok(())
    }

    /// What a replica of a key has to get for itself.
    pub(super) fn to_be_imported(&self, key: &KeyRow) -> Vec<AbsentMaterial> {
        let here = self.snapshot.materials(key.id);
        let lasting = here.filter(|row| key.pending != Some(row.id));
        let mut all: Vec<_> = lasting.map(|row| absent(row)).collect();
        all.extend(key.absent.iter().cloned());
        all
    }

    pub(super) fn delete_imported_key_material(
        &self,
        auth: &Authorized,
        request: &DeleteImportedKeyMaterialRequest,
    ) -> Result<Outcome, ApiError> {
        let key = self.key(auth, &request.key_id)?;
        self.allow(auth, Action::DeleteMaterial, key)?;
        let named = match &request.key_material_id {
            None => key.current,
            Some(text) => {
                let known = self.snapshot.materials(key.id).map(|row| row.id);
                let mut known = known.chain(key.absent.iter().map(|one| one.id));
                let found = known.find(|id| id.to_string() == *text);
                Some(found.ok_or_else(|| {
                    let arn = self.arn(key.id);
                    ApiError::not_found(format!("Key material '{text}' of {arn} does not exist"))
                })?)
            }
        };
        let symmetric = key.spec == KeySpec::SymmetricDefault;
        let response = Response::DeleteImportedKeyMaterial(DeleteImportedKeyMaterialResponse {
            key_id: Some(self.arn(key.id)),
            key_material_id: named.filter(|_| symmetric).map(|id| id.to_string()),
        });
        let changes = named.map(|id| without(&self.snapshot, key, &[id]));
        let changes = changes.unwrap_or_default();
        if changes.is_empty() {
            let meta = &self.snapshot.meta;
            // Who asks again after a failure in the middle of it waits for its end as well.
            if !meta.epoch_owed && meta.epoch_change.is_none() {
                return Ok(reply(response));
            }
        }
        Ok(self.destroying_material(response, [key.id], changes).into())
    }

    /// Materials that expired.
    pub fn materials_expired(&self, now: Now) -> Expired {
        let mut found = Expired::default();
        let external = self.snapshot.keys.values();
        let external =
            external.filter(|key| key.origin == Origin::External && key.state != State::Destroyed);
        for key in external {
            for row in self.snapshot.materials(key.id) {
                let expires = row.import.as_ref().and_then(|import| import.expires);
                match expires.map(|due| due.at(now)) {
                    Some(Dueness::Due) => found.due.push((key.id, row.id)),
                    Some(Dueness::ClocksDisagree) => found.clocks_disagree.push(key.id),
                    Some(Dueness::NotYet) | None => {}
                }
            }
        }
        found
    }

    /// Whether a key that could be used otherwise has material that has expired by one of the clocks: destroying it takes
    /// both, but nobody uses it any more. What waits for RotateKeyOnDemand is not needed yet.
    pub(super) fn has_lapsed(&self, key: &KeyRow, now: Now) -> bool {
        let usable = matches!(key.state, State::Enabled | State::Updating);
        if key.origin != Origin::External || !usable {
            return false;
        }
        let mut ends = self.ends_of_material(key);
        ends.any(|due| due.at(now) != Dueness::NotYet)
    }

    /// Milliseconds until the first of a key's materials expires by the first of the clocks; those that have are not counted.
    pub(super) fn expires_in_ms(&self, key: KeyId, now: Now) -> Option<u64> {
        let key = self.live_key(key)?;
        let ends = self.ends_of_material(key);
        let ends = ends.filter(|due| due.at(now) == Dueness::NotYet);
        ends.map(|due| due.left_ms(now)).min()
    }

    fn ends_of_material(&self, key: &KeyRow) -> impl Iterator<Item = Due> {
        let pending = key.pending;
        let rows = self.snapshot.materials(key.id);
        let lasting = rows.filter(move |row| pending != Some(row.id));
        lasting.filter_map(|row| row.import.as_ref()?.expires)
    }

    /// Deletes all materials that have expired by both clocks, in one transaction; nothing where there are none.
    pub fn expire(&self, now: Now) -> Outcome {
        let mut expired: BTreeMap<KeyId, Vec<MaterialId>> = BTreeMap::new();
        for (key, material) in self.materials_expired(now).due {
            expired.entry(key).or_default().push(material);
        }
        let mut changes = Vec::new();
        for (key, materials) in &expired {
            let key = self.live_key(*key);
            changes.extend(
                key.into_iter()
                    .flat_map(|key| without(&self.snapshot, key, materials)),
            );
        }
        let response = Response::EnableKey(EMPTY);
        if changes.is_empty() {
            return reply(response);
        }
        self.destroying_material(response, expired.into_keys(), changes)
            .into()
    }

    /// The material is gone with the transaction; the epoch that it owes takes it from older copies of the store.
    fn destroying_material(
        &self,
        response: Response,
        keys: impl IntoIterator<Item = KeyId>,
        changes: Vec<Change>,
    ) -> Write {
        let meta = &self.snapshot.meta;
        let meta = MetaRow {
            epoch_owed: meta.epoch_owed || !changes.is_empty(),
            ..meta.clone()
        };
        let mut all = vec![Change::Put(Row::Meta(Box::new(meta)))];
        all.extend(changes);
        let mut write = self.write(response, all).tightening();
        write.effects.extend(keys.into_iter().map(Effect::Forget));
        write.effects.push(Effect::DeletionEpoch);
        write
    }

    /// What DescribeKey says of imported material.
    pub(super) fn expiration(&self, key: &KeyRow, metadata: &mut KeyMetadata) {
        if key.origin != Origin::External {
            return;
        }
        let rows = self.snapshot.materials(key.id);
        let mut lasting = rows.filter(|row| key.pending != Some(row.id)).peekable();
        if lasting.peek().is_none() {
            return;
        }
        let ends = lasting.filter_map(|row| row.import.as_ref()?.expires);
        let first = ends.map(|due| due.wall_ms).min();
        metadata.valid_to = first.map(Timestamp::from_millis);
        metadata.expiration_model = Some(match first {
            Some(_) => ExpirationModel::Expires,
            None => ExpirationModel::DoesNotExpire,
        });
    }
}

/// Takes materials out of the rows of a key; nothing changes where none of them is there.
pub(crate) fn without(snapshot: &Snapshot, key: &KeyRow, materials: &[MaterialId]) -> Vec<Change> {
    let mut new = key.clone();
    let mut changes = Vec::new();
    for row in snapshot.materials(key.id) {
        if !materials.contains(&row.id) {
            continue;
        }
        changes.push(Change::Remove(Table::Material, material_id(key.id, row.id)));
        if key.pending == Some(row.id) {
            // It never was the key's for good.
            new.pending = None;
            continue;
        }
        new.absent.push(absent(row));
        if !matches!(
            new.state,
            State::PendingDeletion | State::PendingReplicaDeletion
        ) {
            new.state = State::PendingImport;
        }
    }
    if !changes.is_empty() {
        changes.push(Change::Put(Row::Key(Box::new(new))));
    }
    changes
}

fn absent(row: &MaterialRow) -> AbsentMaterial {
    AbsentMaterial {
        id: row.id,
        version: row.version,
        created_ms: row.created_ms,
        rotated: row.rotated,
        description: row.import.as_ref().and_then(|one| one.description.clone()),
    }
}

/// A moment of the wall clock by both clocks.
pub(crate) fn due_at(wall_ms: i64, now: Now) -> Due {
    let span = u64::try_from(wall_ms.saturating_sub(now.wall_ms)).unwrap_or(0);
    Due {
        wall_ms,
        elapsed_ms: now.elapsed_ms.saturating_add(span),
    }
}

fn check_members(
    request: &ImportKeyMaterialRequest,
    key: &KeyRow,
    now: Now,
) -> Result<(), ApiError> {
    if key.spec != KeySpec::SymmetricDefault {
        let given = [
            ("ImportType", request.import_type.is_some()),
            (
                "KeyMaterialDescription",
                request.key_material_description.is_some(),
            ),
            ("KeyMaterialId", request.key_material_id.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
            return Err(ApiError::validation(format!(
                "{name} can be specified for symmetric encryption keys only."
            )));
        }
    }
    let Some(valid_to) = request.valid_to.map(Timestamp::millis) else {
        return Ok(());
    };
    let most = i64::try_from(MAX_DAYS * DAY_MS).unwrap_or(i64::MAX);
    if valid_to <= now.wall_ms || valid_to > now.wall_ms.saturating_add(most) {
        return Err(ApiError::validation(format!(
            "ValidTo must be in the future, and at most {MAX_DAYS} days from now."
        )));
    }
    Ok(())
}
