//! kmsd's operation that makes a backup of its store.

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::members::Text;
use crate::request::requests;
use crate::response::responses;

requests! {
    /// Makes a backup of the store, sealed to the recovery key, or asks for a further part of one.
    #[derive(Default)]
    BackupStoreRequest {
        /// Of the answer before; absent: a new backup is made.
        backup_id: Option<String> = "BackupId" opt_text(Text::len(1, 64));
        /// Where the wanted part begins, in bytes; 0 when absent.
        offset: Option<u32> = "Offset" opt_int(0, 0x7fff_ffff);
    }
}

responses! {
    /// A part of a backup.
    BackupStoreResponse {
        /// For the next part; kept for five minutes, or until the last part was fetched.
        backup_id: String,
        /// Size of the whole file, bytes.
        size: u64,
        /// SHA-256 of the whole file, 64 hexadecimal digits.
        sha256: String,
        /// Name of the store.
        store_id: String,
        /// Revision of the store that is in it.
        store_revision: u64,
        /// Public half of the recovery key that opens it.
        recovery_public_key: String,
        /// The bytes from `Offset` on; at most 4 MiB.
        part: Blob,
    }
}
