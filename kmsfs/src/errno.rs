//! Error numbers: what an operation answers when it fails.

use std::fmt;

use kms_format::{FormatError, NameError, SizeError};

/// An error number of Linux, as `errno(3)` lists them. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

/// The result of an operation of the file system.
pub type FsResult<T> = Result<T, Errno>;

macro_rules! numbers {
    ($($name:ident = $value:ident: $doc:literal;)*) => {
        impl Errno {
            $(#[doc = $doc] pub const $name: Errno = Errno(libc::$value);)*
        }
    };
}

numbers! {
    ACCES = EACCES: "Permission denied.";
    BADF = EBADF: "No such handle.";
    BUSY = EBUSY: "In use, or the root of the mount.";
    DQUOT = EDQUOT: "The quota of the lower file system is used up.";
    EXIST = EEXIST: "There is something of that name.";
    FBIG = EFBIG: "Larger than a file can be.";
    INTR = EINTR: "Stopped in the middle.";
    INVAL = EINVAL: "An argument that makes no sense.";
    IO = EIO: "Damaged in the lower tree (the log says what and where), or the lower file system failed.";
    ISDIR = EISDIR: "A directory, where something else is needed.";
    LOOP = ELOOP: "A symlink, where none is followed.";
    MFILE = EMFILE: "Too many open files.";
    NAMETOOLONG = ENAMETOOLONG: "More than 255 bytes of name or 4095 of target.";
    NODATA = ENODATA: "No such extended attribute.";
    NOENT = ENOENT: "Nothing of that name.";
    NOKEY = ENOKEY: "kmsd does not give out the key.";
    NOMEM = ENOMEM: "No memory.";
    NOSPC = ENOSPC: "No room on the lower file system, or in the attributes of an object.";
    NOSYS = ENOSYS: "Not an operation of this file system.";
    NOTDIR = ENOTDIR: "Not a directory.";
    NOTEMPTY = ENOTEMPTY: "The directory is not empty.";
    NOTTY = ENOTTY: "Not a request for this object.";
    NXIO = ENXIO: "No data behind this offset.";
    OPNOTSUPP = EOPNOTSUPP: "Not supported here.";
    PERM = EPERM: "Not allowed.";
    RANGE = ERANGE: "The buffer is too small.";
    ROFS = EROFS: "Mounted read-only.";
    STALE = ESTALE: "The object is gone.";
    TXTBSY = ETXTBSY: "A program that runs.";
    XDEV = EXDEV: "Source and target are under different policies.";
}

impl Errno {
    /// From a positive number of `errno(3)`.
    #[must_use]
    pub const fn from_raw(number: i32) -> Errno {
        Errno(number)
    }

    /// The number, positive.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// Its name in `errno(3)`, `E` and the number if it has none.
    #[must_use]
    pub fn name(self) -> String {
        match nix::errno::Errno::from_raw(self.0) {
            nix::errno::Errno::UnknownErrno => format!("E{}", self.0),
            known => format!("{known:?}"),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Errno {
        Errno(error.raw_os_error())
    }
}

impl From<&FormatError> for Errno {
    /// Damage, and what belongs elsewhere, is EIO (the log says which); what waits for another key ENOKEY.
    fn from(error: &FormatError) -> Errno {
        match error {
            FormatError::OtherGeneration { .. } => Errno::NOKEY,
            FormatError::Size(SizeError::TooLarge { .. }) => Errno::FBIG,
            FormatError::Name(NameError::TooLong(_)) => Errno::NAMETOOLONG,
            FormatError::Name(NameError::Empty | NameError::Invalid) => Errno::INVAL,
            _ => Errno::IO,
        }
    }
}

impl From<FormatError> for Errno {
    fn from(error: FormatError) -> Errno {
        Errno::from(&error)
    }
}

impl From<SizeError> for Errno {
    fn from(error: SizeError) -> Errno {
        Errno::from(&FormatError::Size(error))
    }
}
