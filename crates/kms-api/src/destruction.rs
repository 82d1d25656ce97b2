//! kmsd's operations on what is destroyed, and on what is known about that before.

use serde::{Deserialize, Serialize};

use crate::id::ResourceId;
use crate::members::Text;
use crate::request::requests;
use crate::response::responses;
use crate::timestamp::Timestamp;

requests! {
    /// Reports what a policy protects, as counted by whoever mounts it.
    ReportPolicyUseRequest {
        /// The volume.
        volume_id: ResourceId = "VolumeId" id();
        /// The policy.
        policy_id: ResourceId = "PolicyId" id();
        /// Number of files.
        files: u64 = "Files" long();
        /// Number of directories.
        directories: u64 = "Directories" long();
        /// Their sizes together.
        bytes: u64 = "Bytes" long();
        /// Where it is, or was, mounted.
        mountpoint: Option<String> = "Mountpoint" opt_text(Text::len(1, 4096));
    }

    /// Destroys the secret of a policy, all generations of it: the tree cannot be opened any more, nor can any copy of it.
    DestroyPolicyRequest {
        /// The volume.
        volume_id: ResourceId = "VolumeId" id();
        /// The policy.
        policy_id: ResourceId = "PolicyId" id();
    }

    /// Destroys older generations of a policy's secret: what is still wrapped under them cannot be opened any more.
    DestroyPolicyGenerationsRequest {
        /// The volume.
        volume_id: ResourceId = "VolumeId" id();
        /// The policy.
        policy_id: ResourceId = "PolicyId" id();
        /// Generations before this one are destroyed; at most the current one.
        before: u64 = "Before" long();
    }

    /// Lists what was destroyed in this store.
    #[derive(Default)]
    ListTombstonesRequest {
        /// Most entries to return, 1 to 1000, 1000 by default.
        limit: Option<u32> = "Limit" opt_int(1, 1000);
        /// Where the previous page ended.
        marker: Option<String> = "Marker" opt_text(Text::len(1, 1024));
    }
}

responses! {
    /// What a policy protected when it was last reported.
    PolicyUse {
        /// Number of files.
        files: u64,
        /// Number of directories.
        directories: u64,
        /// Their sizes together.
        bytes: u64,
        /// Where it was mounted.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        mountpoint: Option<String>,
        /// When it was reported.
        date: Timestamp,
    }

    /// What was destroyed of a policy.
    DestroyPolicyResponse {
        /// The policy.
        policy_id: ResourceId,
        /// How many generations were destroyed by this; 0 when that had been done before.
        destroyed_generations: u64,
        /// Deletion epoch of the store, complete when this is answered.
        deletion_epoch: u64,
    }

    /// Something that was destroyed: a key, a policy, or generations of a policy.
    #[derive(Default)]
    Tombstone {
        /// Id of a key.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        key_id: Option<String>,
        /// Imported materials of the key that were deleted or have expired; none: the key was destroyed.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        key_material_ids: Vec<String>,
        /// Volume of a policy.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        volume_id: Option<ResourceId>,
        /// The policy.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        policy_id: Option<ResourceId>,
        /// The generations whose secrets are destroyed; none: all of them.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        generations: Vec<u32>,
        /// When; absent where it is not known.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        date: Option<Timestamp>,
    }

    /// A page of what was destroyed.
    ListTombstonesResponse {
        /// Name of the store.
        store_id: String,
        /// Deletion epoch of the store.
        deletion_epoch: u64,
        /// What was destroyed.
        tombstones: Vec<Tombstone>,
        /// Marker of the next page.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        next_marker: Option<String>,
        /// Whether there is a next page.
        truncated: bool,
    }
}
