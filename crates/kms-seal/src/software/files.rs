//! The key file and what lies beside it: created for the owner alone, replaced as a whole, synced.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use kms_crypto::{Key, SecretBytes, sha256};

use crate::SealError;

const MAGIC: &[u8; 8] = b"kmsdkey0";
const OWNER_ONLY: u32 = 0o600;

/// The key file's content: `kmsdkey0`, identifier (16), key (32), SHA-256 of all before (32).
pub(super) struct HostKey {
    pub(super) id: [u8; 16],
    pub(super) key: Key<32>,
}

/// Reads the key file; refuses one that others can read.
pub(super) fn read_host_key(path: &Path) -> Result<HostKey, SealError> {
    let io = |source| SealError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(SealError::KeyFileMissing {
                path: path.to_owned(),
            });
        }
        Err(error) => return Err(io(error)),
    };
    let mode = file.metadata().map_err(io)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SealError::KeyFileMode {
            path: path.to_owned(),
            mode,
        });
    }
    // A fixed capacity: growing would leave copies of the key behind.
    let mut content = Vec::with_capacity(256);
    (&mut file)
        .take(256)
        .read_to_end(&mut content)
        .map_err(io)?;
    let content = SecretBytes::from(content);
    let (id, key) = parse(content.expose()).map_err(|reason| SealError::KeyFileDamaged {
        path: path.to_owned(),
        reason,
    })?;
    Ok(HostKey {
        id: *id,
        key: Key::from_slice(key)?,
    })
}

/// Identifier and key of a key file's content.
fn parse(content: &[u8]) -> Result<(&[u8; 16], &[u8; 32]), &'static str> {
    let rest = content
        .strip_prefix(MAGIC)
        .ok_or("it does not begin with `kmsdkey0`")?;
    let (id, rest) = rest.split_first_chunk::<16>().ok_or("it is too short")?;
    let (key, sum) = rest.split_first_chunk::<32>().ok_or("it is too short")?;
    if sha256(&[MAGIC, id, key]) != *sum {
        return Err("its checksum does not fit");
    }
    Ok((id, key))
}

/// Makes a new key file; never overwrites one.
pub(super) fn create_host_key(path: &Path) -> Result<HostKey, SealError> {
    let host = HostKey {
        id: kms_crypto::random_array()?,
        key: Key::random()?,
    };
    let sum = sha256(&[MAGIC, &host.id, host.key.expose()]);
    let content = SecretBytes::from([MAGIC.as_slice(), &host.id, host.key.expose(), &sum].concat());
    write_new(path, content.expose())
        .and_then(|()| sync_directory(path))
        .map_err(|source| SealError::Io {
            path: path.to_owned(),
            source,
        })?;
    Ok(host)
}

/// The content of a small file, `None` if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, SealError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SealError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Puts `content` in place of the file: after a crash there is the old content or the new.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), SealError> {
    let mut new = path.to_owned().into_os_string();
    new.push(".new");
    let new = Path::new(&new);
    remove_if_there(new)
        .and_then(|()| write_new(new, content))
        .and_then(|()| fs::rename(new, path))
        .and_then(|()| sync_directory(path))
        .map_err(|source| SealError::Io {
            path: path.to_owned(),
            source,
        })
}

/// Overwrites the file with zeros and removes it. What the file system or the disk keeps of the old blocks
/// is beyond reach.
pub(super) fn destroy(path: &Path) -> Result<(), SealError> {
    let overwrite = || {
        let mut file = match OpenOptions::new().write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        file.write_all(&vec![0; len])?;
        file.sync_all()?;
        remove_if_there(path)?;
        sync_directory(path)
    };
    overwrite().map_err(|source| SealError::Io {
        path: path.to_owned(),
        source,
    })
}

fn write_new(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}
