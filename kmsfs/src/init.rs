//! A new volume: registered with kmsd, then a root directory header, then the volume record.
//!
//! The record is written last, so that it is there only when everything else is. An initialisation
//! that was interrupted leaves at most a header, and can simply be repeated.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use kms_api::CreateVolumeRequest;
use kms_api::client::{Client, ClientError};
use kms_format::volume::VolumeRecord;
use kms_format::{ContentMode, DirHeader, FormatError, PolicyId, VolumeId};

use crate::mount::lock::{LockError, LowerLock};
use crate::volume::kmsd::{CreateError, create_policy};
use crate::volume::record::{NAME as RECORD, RecordFile};
use crate::volume::refusal::VolumeError;

/// The header of every lower directory.
pub const HEADER: &str = ".kmsfs";
/// What an initialisation that did not finish may leave.
const LEFTOVERS: [&str; 3] = [HEADER, ".kmsfs.new", ".kmsfs.volume.new"];

/// What was made.
#[derive(Clone, Debug)]
pub struct NewVolume {
    /// The volume.
    pub volume: VolumeId,
    /// The policy of its root directory.
    pub policy: PolicyId,
    /// ARN of the key.
    pub key_arn: String,
}

/// Why no volume was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// It is one already.
    #[error("{} is a kmsfs volume already; mount it with `kmsfs mount`", .0.display())]
    Already(PathBuf),
    /// There is something in it.
    #[error("{path} is not empty: it holds {found}; initialise an empty directory, then copy the files in through the mount", path = path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// The first thing found.
        found: String,
    },
    /// Somebody uses the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// kmsd refuses or cannot be reached.
    #[error("{0}")]
    Kmsd(#[from] ClientError),
    /// kmsd's answer cannot be used.
    #[error("{0}")]
    Policy(String),
    /// The root directory header.
    #[error("cannot make the root directory header: {0}")]
    Format(#[from] FormatError),
    /// The volume record.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The lower file system.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes the empty directory `lower` a volume whose root is under `key` (id, ARN or alias).
///
/// # Errors
/// See [`InitError`]. The directory is then as empty as before, or holds a header that the next
/// attempt replaces.
pub fn init(
    client: &Client,
    lower: &Path,
    key: &str,
    label: &str,
    mode: ContentMode,
) -> Result<NewVolume, InitError> {
    let _lock = LowerLock::take(lower)?;
    check_empty(lower)?;
    let volume = client.send(CreateVolumeRequest {
        label: (!label.is_empty()).then(|| label.to_owned()),
    })?;
    let volume = VolumeId(volume.volume_id.0);
    let new = create_policy(client, volume, key, mode).map_err(|error| match error {
        CreateError::Kmsd(error) => InitError::Kmsd(error),
        CreateError::Unusable(_) => InitError::Policy(error.to_string()),
    })?;
    let (header, _keys) = DirHeader::create_root(&new.unlocked.policy)?;
    write_header(lower, &header.encode()?).map_err(|source| InitError::Io {
        path: lower.join(HEADER),
        source,
    })?;
    let policy = new.record.policy;
    let record = VolumeRecord {
        volume,
        label: label.to_owned(),
        policies: vec![new.record],
    };
    let file = RecordFile::in_directory(lower)?;
    if let Err(error) = file.replace(&record) {
        file.remove();
        return Err(error.into());
    }
    Ok(NewVolume {
        volume,
        policy,
        key_arn: new.unlocked.key_arn,
    })
}

/// The policy of a volume's root directory and the generation of its key, as its header names them.
///
/// # Errors
/// The header is missing or damaged.
pub fn root_policy(lower: &Path) -> Result<(PolicyId, u32), VolumeError> {
    let path = lower.join(HEADER);
    let root = |what: String| VolumeError::Root {
        path: path.clone(),
        what,
    };
    let bytes = std::fs::read(&path).map_err(|error| root(error.to_string()))?;
    let header = DirHeader::decode(&bytes).map_err(|error| root(error.to_string()))?;
    Ok((header.policy(), header.generation()))
}

fn check_empty(lower: &Path) -> Result<(), InitError> {
    let io = |source| InitError::Io {
        path: lower.to_owned(),
        source,
    };
    for item in std::fs::read_dir(lower).map_err(io)? {
        let name = item.map_err(io)?.file_name();
        if name == OsStr::new(RECORD) {
            return Err(InitError::Already(lower.to_owned()));
        }
        // Every new ext4 has one; it belongs to the file system and is not shown in the mount.
        let ours = LEFTOVERS
            .iter()
            .any(|leftover| name == OsStr::new(leftover));
        if !ours && name != OsStr::new("lost+found") {
            return Err(InitError::NotEmpty {
                path: lower.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

/// Durably: the record that follows says that it is there.
fn write_header(lower: &Path, header: &[u8]) -> io::Result<()> {
    let temporary = lower.join(".kmsfs.new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(header)?;
    file.sync_all()?;
    std::fs::rename(&temporary, lower.join(HEADER))?;
    std::fs::File::open(lower)?.sync_all()
}
