//! What a file system tells about the use of its files.

use serde::Serialize;

use crate::enums::wire_enum;
use crate::id::ResourceId;
use crate::members::Text;
use crate::request::{KEY_ID, requests};

const NAME: Text = Text::len(1, 32).matching("[A-Z0-9_]+", |c| {
    c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'
});

wire_enum! {
    /// How an access to a file ended.
    AccessOutcome { Allowed = "ALLOWED", Denied = "DENIED", Failed = "FAILED", }
}

requests! {
    /// Records that a file or directory of a policy was opened, or that it was refused. A service says it on behalf of the
    /// user; the record of this request is the record of the access.
    RecordFileAccessRequest {
        /// The volume.
        volume_id: ResourceId = "VolumeId" id();
        /// The policy that the object is under.
        policy_id: ResourceId = "PolicyId" id();
        /// The key of the policy; refused if it is another one.
        key_id: Option<String> = "KeyId" opt_text(KEY_ID);
        /// The operation on the object, by its FUSE name: `OPEN`, `OPENDIR`, `CREATE`, ...
        operation: String = "Operation" text(NAME);
        /// For what a file was opened: `READ`, `WRITE`, `READ_WRITE` or `EXECUTE`.
        access_mode: Option<String> = "AccessMode" opt_text(NAME);
        /// Inode number of the object in the mount (`ls -i`); for what was refused before the object was found, that of the
        /// directory.
        inode: u64 = "Inode" long();
        /// The user, as the kernel named it; where a mount does not tell users apart that is not the caller.
        user_id: u64 = "UserId" long();
        /// How it ended.
        outcome: Option<AccessOutcome> = "Outcome" opt_enum();
        /// Name of the error, for example `EACCES`.
        error: Option<String> = "Error" opt_text(NAME);
        /// How many times within a second; once when absent.
        count: Option<u32> = "Count" opt_int(1, i32::MAX as u32);
        /// Seconds since 1970-01-01 UTC of the first time, where the record comes later: kmsd was away.
        access_time: Option<u32> = "AccessTime" opt_int(0, i32::MAX as u32);
        /// Accesses before this one that were not recorded: there were too many, or kmsd was away for too long.
        not_recorded: Option<u32> = "NotRecorded" opt_int(0, i32::MAX as u32);
    }
}
