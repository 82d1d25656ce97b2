//! `user.` attributes of an object that may have two keys: while it gets a new one, each attribute is under one of them, or
//! under both.

use kms_format::{DirKeys, FormatError, XattrKeys, xattr};

use super::content::{Fault, OpenFile};
use super::xattr::encrypted;
use crate::backing::xattr::Target;
use crate::errno::{Errno, FsResult};

/// The keys that an object's attributes may be under.
pub(crate) struct AttributeKeys {
    now: XattrKeys,
    former: Option<XattrKeys>,
}

impl AttributeKeys {
    /// Of a directory.
    pub(crate) fn of_directory(keys: &DirKeys) -> Result<AttributeKeys, FormatError> {
        Ok(AttributeKeys {
            now: keys.xattrs()?,
            former: keys.former().map(DirKeys::xattrs).transpose()?,
        })
    }

    /// Of a file, if it has any keys yet.
    pub(crate) fn of_file(file: &OpenFile) -> Result<Option<AttributeKeys>, FormatError> {
        let Some(now) = file.existing_keys() else {
            return Ok(None);
        };
        let former = file.former_keys().map(|keys| keys.xattrs()).transpose()?;
        let now = now.xattrs()?;
        Ok(Some(AttributeKeys { now, former }))
    }

    /// What is under the new key counts.
    fn each(&self) -> impl Iterator<Item = &XattrKeys> {
        [Some(&self.now), self.former.as_ref()]
            .into_iter()
            .flatten()
    }

    /// The value of an attribute.
    pub(crate) fn get(&self, target: &Target<'_>, name: &[u8]) -> Result<Vec<u8>, Fault> {
        for keys in self.each() {
            let lower = xattr::encrypt_name(keys, name)?;
            match target.get(lower.as_str().as_bytes()) {
                Err(Errno::NODATA) => {}
                value => return Ok(xattr::open_value(keys, &lower, &value?)?),
            }
        }
        Err(Errno::NODATA.into())
    }

    /// Sets an attribute under the new key. The one under the old key stays until all are moved: it does not count any more,
    /// and without it a crash could leave neither.
    pub(crate) fn set(
        &self,
        target: &Target<'_>,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), Fault> {
        let flags = match &self.former {
            Some(former) if flags != 0 && held(target, former, name)? => {
                if flags & libc::XATTR_CREATE != 0 {
                    return Err(Errno::EXIST.into());
                }
                0
            }
            _ => flags,
        };
        let lower = xattr::encrypt_name(&self.now, name)?;
        let sealed = xattr::seal_value(&self.now, name, &lower, value)?;
        Ok(target.set(lower.as_str().as_bytes(), &sealed, flags)?)
    }

    /// Removes an attribute: first what does not count.
    pub(crate) fn remove(&self, target: &Target<'_>, name: &[u8]) -> Result<(), Fault> {
        let mut removed = Err(Errno::NODATA);
        for keys in self.former.iter().chain([&self.now]) {
            let lower = xattr::encrypt_name(keys, name)?;
            match target.remove(lower.as_str().as_bytes()) {
                Err(Errno::NODATA) => {}
                done => removed = done,
            }
        }
        Ok(removed?)
    }

    /// The plain name of a lower attribute. Its value is asked for if the name is in there.
    pub(crate) fn name(
        &self,
        lower: &[u8],
        value: impl FnOnce() -> FsResult<Vec<u8>>,
    ) -> Result<Vec<u8>, Fault> {
        if !xattr::is_long(lower) {
            return Ok(self.first(|keys| xattr::decrypt_name(keys, lower))?);
        }
        let value = value()?;
        Ok(self.first(|keys| xattr::decrypt_long_name(keys, lower, &value))?)
    }

    /// Plain name and value of a lower attribute.
    pub(crate) fn open(
        &self,
        lower: &[u8],
        value: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), FormatError> {
        self.first(|keys| {
            let plain = if xattr::is_long(lower) {
                xattr::decrypt_long_name(keys, lower, value)?
            } else {
                xattr::decrypt_name(keys, lower)?
            };
            let lower = xattr::encrypt_name(keys, &plain)?;
            Ok((plain, xattr::open_value(keys, &lower, value)?))
        })
    }

    /// Whether a lower attribute is under the old key, and one of the same name under the new one: it does not count.
    pub(crate) fn is_stale(&self, target: &Target<'_>, lower: &[u8]) -> Result<bool, Fault> {
        let Some(former) = &self.former else {
            return Ok(false);
        };
        match plain_name(former, target, lower) {
            Ok(plain) => held(target, &self.now, &plain),
            Err(Fault::Damage(error)) if error.is_of_the_bytes() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Brings everything that is under the old key under the new one, durably: nothing is removed before what replaces it is on
    /// the disk. `sync` makes the attributes durable. What neither key opens stays as it is.
    pub(crate) fn move_all(
        &self,
        target: &Target<'_>,
        sync: impl Fn() -> FsResult<()>,
    ) -> Result<(), Fault> {
        let Some(former) = &self.former else {
            return Ok(());
        };
        let mut moved = Vec::new();
        for lower in encrypted(target)? {
            let plain = match plain_name(former, target, &lower) {
                Ok(plain) => plain,
                // Under the new key, or damaged.
                Err(Fault::Damage(error)) if error.is_of_the_bytes() => continue,
                Err(fault) => return Err(fault),
            };
            if !held(target, &self.now, &plain)? {
                let value = self.get(target, &plain)?;
                match self.set(target, &plain, &value, 0) {
                    // There is no room for both: those that were moved make some.
                    Err(Fault::Lower(Errno::NOSPC | Errno::DQUOT)) if !moved.is_empty() => {
                        drop_moved(target, &mut moved, &sync)?;
                        self.set(target, &plain, &value, 0)?;
                    }
                    done => done?,
                }
            }
            moved.push(lower);
        }
        drop_moved(target, &mut moved, &sync)
    }

    fn first<T>(
        &self,
        open: impl Fn(&XattrKeys) -> Result<T, FormatError>,
    ) -> Result<T, FormatError> {
        match (open(&self.now), &self.former) {
            (Err(error), Some(former)) if error.is_of_the_bytes() => match open(former) {
                Err(other) if other.is_of_the_bytes() => Err(error),
                opened => opened,
            },
            (opened, _) => opened,
        }
    }
}

/// Removes attributes under the old key that are under the new one, too.
fn drop_moved(
    target: &Target<'_>,
    moved: &mut Vec<Vec<u8>>,
    sync: impl Fn() -> FsResult<()>,
) -> Result<(), Fault> {
    if moved.is_empty() {
        return Ok(());
    }
    sync()?;
    for lower in moved.drain(..) {
        target.remove(&lower)?;
    }
    Ok(sync()?)
}

fn plain_name(keys: &XattrKeys, target: &Target<'_>, lower: &[u8]) -> Result<Vec<u8>, Fault> {
    Ok(if xattr::is_long(lower) {
        xattr::decrypt_long_name(keys, lower, &target.get(lower)?)?
    } else {
        xattr::decrypt_name(keys, lower)?
    })
}

/// Whether there is an attribute of this name under this key.
fn held(target: &Target<'_>, keys: &XattrKeys, name: &[u8]) -> Result<bool, Fault> {
    let lower = xattr::encrypt_name(keys, name)?;
    match target.get(lower.as_str().as_bytes()) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
