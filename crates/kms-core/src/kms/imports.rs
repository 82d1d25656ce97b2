//! GetParametersForImport, ImportKeyMaterial, DeleteImportedKeyMaterial.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use kms_api::{
    ApiError, Blob, DeleteImportedKeyMaterialRequest, DeleteImportedKeyMaterialResponse, ErrorCode,
    GetParametersForImportRequest, GetParametersForImportResponse, ImportKeyMaterialRequest,
    ImportKeyMaterialResponse, ImportType, KeySpec, Response, Timestamp,
};

use super::{
    Effect, Kms, Outcome, World, Write, material_id_of, no_domain, no_entropy, no_memory, reply,
};
use crate::authz::Authorized;
use crate::clock::{DAY_MS, Due, Now};
use crate::domain::Subject;
use crate::entropy;
use crate::ids::{KeyId, MaterialId};
use crate::import::{MAX_DAYS, Material, TOKEN_MS, Token, Wrapped, check_wrapping};
use crate::rows::{
    AbsentMaterial, Bytes, Change, Imported, KeyRow, MaterialRow, MetaRow, Row, State, Table,
    material_id,
};
use crate::snapshot::Snapshot;
use crate::states::Action;

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
        let lasting = absent.is_some() || (here.is_some() && key.pending != Some(id));
        let waiting = self.pending_of(key);
        let waits = waiting == Some(id);
        let known = lasting || waits;
        let is_replica = !self.is_primary(key);
        let untouched = key.current.is_none() && key.pending.is_none();
        let new = match request.import_type {
            Some(kind) => kind == ImportType::New,
            None => untouched,
        };
        if is_replica && !known {
            return incorrect(
                "The key material is none that was imported into the primary key.".to_owned(),
            );
        }
        // Into a replica that has none yet it comes for the first time.
        if new && lasting && !(is_replica && untouched) {
            return incorrect(format!(
                "The key material is associated with {arn} already."
            ));
        }
        if request.import_type == Some(ImportType::New) && is_replica && waits {
            let text = format!(
                "New key material is imported into the primary key, which has this one: import it into {arn} with the \
                 ImportType EXISTING_KEY_MATERIAL."
            );
            return Err(ApiError::new(ErrorCode::UnsupportedOperation, text));
        }
        if !new && !known {
            return incorrect(format!(
                "The key material is none that was imported into {arn} before."
            ));
        }
        if !known && !untouched && key.spec != KeySpec::SymmetricDefault {
            return incorrect(format!("The key material of {arn} cannot be changed."));
        }
        if let Some(waiting) = waiting.filter(|_| !known) {
            let text = format!(
                "New key material (id: {id}) cannot be imported into KMS key {}, because another key material (id: \
                 {waiting}) is pending rotation.",
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
        let current = self.current_of(key);
        let mut key = key.clone();
        key.absent.retain(|one| one.id != id);
        key.discarded.retain(|one| *one != id);
        if !lasting && (waits || !untouched) {
            key.pending = Some(id);
        } else if key.current.is_none() && current.is_none_or(|current| current == id) {
            key.current = Some(id);
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
                let known = known.chain(key.absent.iter().map(|one| one.id));
                let meta = &self.snapshot.meta;
                // What waited for its rotation is forgotten, but whoever asks again waits for its end, too.
                let unfinished = meta.epoch_owed || meta.epoch_change.is_some();
                let discarded = key.discarded.iter().filter(|_| unfinished);
                let mut known = known.chain(discarded.copied());
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
        let named = named.map(|id| (key.id, vec![id]));
        let write = self.destroying_material(response, named.into_iter().collect());
        let meta = &self.snapshot.meta;
        // Who asks again after a failure in the middle of it waits for its end as well.
        let unfinished = meta.epoch_owed || meta.epoch_change.is_some();
        match write.changes.len() > 1 || unfinished {
            true => Ok(write.into()),
            false => Ok(reply(write.response)),
        }
    }

    /// Takes materials from keys, and what waits for the rotation of a primary key from its replicas too. They are gone with the
    /// transaction; the epoch that it owes takes them from older copies of the store.
    pub(super) fn destroying_material(
        &self,
        response: Response,
        mut doomed: BTreeMap<KeyId, Vec<MaterialId>>,
    ) -> Write {
        self.doom_waiting(&mut doomed);
        let mut changes = Vec::new();
        for (key, materials) in &doomed {
            let key = self.live_key(*key);
            let gone = key.map(|key| without(&self.snapshot, key, materials));
            changes.extend(gone.into_iter().flatten());
        }
        let meta = &self.snapshot.meta;
        let meta = MetaRow {
            epoch_owed: meta.epoch_owed || !changes.is_empty(),
            ..meta.clone()
        };
        changes.insert(0, Change::Put(Row::Meta(Box::new(meta))));
        let mut write = self.write(response, changes).tightening();
        let keys = doomed.into_keys();
        write.effects.extend(keys.map(Effect::Forget));
        write.effects.push(Effect::DeletionEpoch);
        write
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
            if !new.discarded.contains(&row.id) {
                new.discarded.push(row.id);
            }
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

pub(super) fn absent(row: &MaterialRow) -> AbsentMaterial {
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
