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
}
