//! New key material, wrapped.

use kms_api::KeySpec;
use kms_crypto::asymmetric::KeyPair;
use kms_crypto::{Key, SecretBytes, hmac_sha256};

use super::{ApiError, Kms, World, no_domain, no_entropy, no_memory};
use crate::domain::Subject;
use crate::entropy;
use crate::ids::{KeyId, MaterialId};
use crate::rows::{Bytes, KeyRow, MaterialRow, RotationKind};
use crate::snapshot::Snapshot;
use crate::specs;

impl Kms {
    /// A new version of a symmetric key's material.
    pub(super) fn new_material(
        &self,
        key: KeyId,
        version: u32,
        rotated: Option<RotationKind>,
        world: &World<'_>,
    ) -> Result<MaterialRow, ApiError> {
        let mut bytes = entropy::array::<32>(world.entropy).map_err(no_entropy)?;
        let material = Key::take(&mut bytes).map_err(no_memory)?;
        let spec = KeySpec::SymmetricDefault;
        let id = material_id_of(&self.material_name(key), material.expose());
        let subject = Subject::Material(key, id, spec);
        let secret = world.domain.wrap(subject, &material).map_err(no_domain)?;
        Ok(MaterialRow {
            key,
            id,
            version,
            created_ms: world.now.wall_ms,
            rotated,
            spec,
            public: None,
            secret,
            import: None,
        })
    }

    /// The material of a new HMAC key.
    pub(super) fn mac_material(
        &self,
        key: KeyId,
        spec: KeySpec,
        world: &World<'_>,
    ) -> Result<MaterialRow, ApiError> {
        let mut bytes = vec![0; specs::mac_key_len(spec).unwrap_or(64)];
        let drawn = world.entropy.fill(&mut bytes);
        let material = SecretBytes::from(bytes);
        drawn.map_err(no_entropy)?;
        self.first_material(key, spec, &material, None, world)
    }

    /// The material of a new asymmetric key.
    pub(super) fn pair_material(
        &self,
        key: &KeyRow,
        pair: &KeyPair,
        world: &World<'_>,
    ) -> Result<MaterialRow, ApiError> {
        let private = pair.to_pkcs8().map_err(no_memory)?;
        let public = Bytes(pair.public_spki().to_vec());
        self.first_material(key.id, key.spec, &private, Some(public), world)
    }

    /// The name of a key in the ids of its material: replicas have the same material, and so the same ids.
    pub(super) fn material_name(&self, key: KeyId) -> String {
        material_name(&self.snapshot, key)
    }

    fn first_material(
        &self,
        key: KeyId,
        spec: KeySpec,
        material: &SecretBytes,
        public: Option<Bytes>,
        world: &World<'_>,
    ) -> Result<MaterialRow, ApiError> {
        let id = material_id_of(&self.material_name(key), material.expose());
        let subject = Subject::Material(key, id, spec);
        let secret = world.domain.wrap_bytes(subject, material.expose());
        Ok(MaterialRow {
            key,
            id,
            version: 1,
            created_ms: world.now.wall_ms,
            rotated: None,
            spec,
            public,
            secret: secret.map_err(no_domain)?,
            import: None,
        })
    }
}

/// The name of a key in the ids of its material.
pub(crate) fn material_name(snapshot: &Snapshot, key: KeyId) -> String {
    match key.is_multi_region() {
        false => snapshot.arn(key),
        true => {
            let scope = snapshot.scope_of(key.place());
            format!("arn:aws:kms::{}:key/{key}", scope.account)
        }
    }
}

/// The id of material: a function of key and material, so that material imported again is recognised.
pub(crate) fn material_id_of(name: &str, material: &[u8]) -> MaterialId {
    MaterialId(hmac_sha256(
        material,
        &[b"kmsd key material id 1\0", name.as_bytes()],
    ))
}
