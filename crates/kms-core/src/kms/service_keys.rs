//! The key that kmsd manages for kmsfs: `alias/aws/kmsfs`, what directories hang on for which nobody names a key.
//!
//! Its name is listed from the beginning. It is made when it is first asked for (DescribeKey, CreatePolicy), belongs to the home place, is rotated every year and has a policy that nobody changes: the account may
//! use and look at it, everybody may use it through kmsfs, and nobody may do anything else, which is how disabling, deleting, tagging
//! and the like are refused.

use kms_api::{AliasListEntry, ApiError, KeySpec, KeyUsage};
use serde_json::json;

use super::{Kms, World};
use crate::clock::{DAY_MS, Due};
use crate::ids::{KeyReference, Scope};
use crate::place::{At, Place};
use crate::rows::{AliasRow, Change, KeyRow, Manager, Origin, Rotation, Row, State};

/// The name of kmsfs's key.
pub const KMSFS_ALIAS: &str = "alias/aws/kmsfs";
const ROTATION_DAYS: u32 = 365;

impl Kms {
    /// Whether a request names kmsfs's key, and it is not there yet.
    pub(crate) fn wants_service_key(&self, at: &impl AsRef<At>, text: &str) -> bool {
        match KeyReference::parse(text, at.as_ref(), |_| None) {
            Ok(KeyReference::Alias(place, name)) => {
                place.is_home()
                    && name == KMSFS_ALIAS
                    && self.snapshot().aliases.get(place, &name).is_none()
            }
            Ok(KeyReference::Key(_)) | Err(_) => false,
        }
    }

    /// The name of kmsfs's key where the key is not there yet.
    pub(super) fn predefined_alias(&self, place: Place) -> Option<AliasListEntry> {
        let known = self.snapshot.aliases.get(place, KMSFS_ALIAS).is_some();
        (place.is_home() && !known).then(|| AliasListEntry {
            alias_name: KMSFS_ALIAS.to_owned(),
            alias_arn: self.snapshot.home().alias_arn(KMSFS_ALIAS),
            target_key_id: None,
            creation_date: None,
            last_updated_date: None,
        })
    }

    /// Makes kmsfs's key.
    pub(super) fn service_key(
        &self,
        at: &At,
        world: &World<'_>,
    ) -> Result<(KeyRow, Vec<Change>), ApiError> {
        let id = self.new_key_id(at.place, false, world)?;
        let material = self.new_material(id, 1, None, world)?;
        let next = Due::after(world.now, u64::from(ROTATION_DAYS) * DAY_MS);
        let key = KeyRow {
            id,
            created_ms: world.now.wall_ms,
            state: State::Enabled,
            description: "Default key that protects my directories when no other key is defined"
                .to_owned(),
            manager: Manager::Service,
            policy: policy(&at.scope),
            current: Some(material.id),
            rotation: Some(Rotation {
                period_days: ROTATION_DAYS,
                next,
            }),
            origin: Origin::AwsKms,
            spec: KeySpec::SymmetricDefault,
            usage: KeyUsage::EncryptDecrypt,
            tags: Vec::new(),
            multi_region: None,
            on_demand_rotations: 0,
            deletion: None,
            pending: None,
            absent: Vec::new(),
            discarded: Vec::new(),
            import_token: None,
            destroyed_ms: None,
        };
        let alias = AliasRow {
            name: KMSFS_ALIAS.to_owned(),
            key: id,
            created_ms: world.now.wall_ms,
            updated_ms: world.now.wall_ms,
        };
        let changes = vec![
            Change::Put(Row::Material(material)),
            Change::Put(Row::Key(Box::new(key.clone()))),
            Change::Put(Row::Alias(alias)),
        ];
        Ok((key, changes))
    }
}

/// The policy of kmsfs's key.
fn policy(scope: &Scope) -> String {
    json!({
        "Version": "2012-10-17",
        "Id": "auto-kmsfs-1",
        "Statement": [
            {
                "Sid": "Allow access through kmsfs for all principals in the account that are authorized to use kmsfs",
                "Effect": "Allow",
                "Principal": {"AWS": "*"},
                "Action": ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
                "Resource": "*",
                "Condition": {"StringEquals": {
                    "kms:CallerAccount": scope.account,
                    "kms:ViaService": format!("kmsfs.{}.amazonaws.com", scope.region),
                }},
            },
            {
                "Sid": "Allow the account to use the key and to look at it",
                "Effect": "Allow",
                "Principal": {"AWS": scope.root_arn()},
                "Action": [
                    "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*",
                    "kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant",
                ],
                "Resource": "*",
            },
        ],
    })
    .to_string()
}
