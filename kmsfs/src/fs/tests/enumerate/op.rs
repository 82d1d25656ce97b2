//! Operations on paths.

use std::ffi::OsStr;
use std::sync::Arc;

use kms_format::UnlockedPolicy;

use super::tree::{enter, parent};
use crate::errno::Errno;
use crate::fs::tests::rewrap::rewrap_next;
use crate::fs::tests::world::me;
use crate::fs::{FileHandle, Fs, FsResult, NodeId};

/// The one that is set.
pub(super) const ATTRIBUTE: &str = "user.attribute";

/// Files hold the bytes given with them, which are different for each, so that they can be told apart wherever they are.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Mkdir(String),
    /// Made, and written if there is something to write.
    Put(String, &'static str),
    /// The same with a file that gets its name last.
    Tmpfile(String, &'static str),
    /// The target has so many bytes.
    Symlink(String, usize),
    Rename(String, String),
    Exchange(String, String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Protect(String),
    /// A new key for a directory, which stays what it is.
    Reencrypt(String),
    /// The same, but it stops after some names.
    Begin(String),
    /// Sets an attribute.
    Attribute(String),
    SyncDir(String),
    SyncFile(String),
    /// Everything under the policy of the root onto the next generation.
    Rewrap,
}

impl Op {
    pub(super) fn run(&self, fs: &Fs, policy: &Arc<UnlockedPolicy>) -> FsResult<()> {
        let at = |path: &str| -> FsResult<_> { enter(fs, parent(path)) };
        match self {
            Op::Mkdir(path) => fs.mkdir(&me(), at(path)?, last(path), 0o755, 0).map(drop),
            Op::Put(path, content) => {
                let flags = libc::O_RDWR | libc::O_EXCL;
                let made = fs.create(&me(), at(path)?, last(path), 0o644, 0, flags, false);
                write(fs, made?.1.fh, content)
            }
            Op::Tmpfile(path, content) => {
                let (entry, opened) = fs.tmpfile(&me(), at(path)?, 0o644, 0)?;
                let linked = fs
                    .write(&me(), opened.fh, 0, &mut content.as_bytes().to_vec(), false)
                    .and_then(|_| fs.link(&me(), entry.node, at(path)?, last(path)));
                fs.release(opened.fh);
                linked.map(drop)
            }
            Op::Symlink(path, length) => {
                let target = format!("{}{path}", "t".repeat(*length));
                let target = &target[path.len()..];
                let made = fs.symlink(&me(), at(path)?, last(path), OsStr::new(&target));
                made.map(drop)
            }
            Op::Rename(from, to) => rename(fs, from, to, 0),
            Op::Exchange(from, to) => rename(fs, from, to, libc::RENAME_EXCHANGE),
            Op::Link(from, to) => fs
                .link(&me(), enter(fs, from)?, at(to)?, last(to))
                .map(drop),
            Op::Unlink(path) => fs.unlink(&me(), at(path)?, last(path)),
            Op::Rmdir(path) => fs.rmdir(&me(), at(path)?, last(path)),
            Op::Protect(path) => fs.protect(enter(fs, path)?, policy),
            Op::Reencrypt(path) => reencrypt(fs, enter(fs, path)?, &mut |_| Ok(())).map(drop),
            Op::Begin(path) => match reencrypt(fs, enter(fs, path)?, &mut |_| Err(Errno::BUSY)) {
                Err(Errno::BUSY) => Ok(()),
                done => done.map(drop),
            },
            Op::Attribute(path) => {
                let node = enter(fs, path)?;
                fs.setxattr(&me(), node, OsStr::new(ATTRIBUTE), path.as_bytes(), 0)
            }
            Op::Rewrap => rewrap_next(fs).map(drop),
            Op::SyncDir(path) => {
                let fh = fs.opendir(&me(), enter(fs, path)?)?;
                let done = fs.fsyncdir(fh, false);
                fs.releasedir(fh);
                done
            }
            Op::SyncFile(path) => {
                let fh = fs.open(&me(), enter(fs, path)?, libc::O_RDWR, false)?.fh;
                let done = fs.fsync(fh, false);
                fs.release(fh);
                done
            }
        }
    }
}

/// A key of the generation behind the first.
pub(super) fn reencrypt(
    fs: &Fs,
    node: NodeId,
    pause: &mut dyn FnMut(u64) -> FsResult<()>,
) -> FsResult<bool> {
    let node = fs.table.get(node)?;
    let policy = Arc::clone(&fs.context(&node)?.policy);
    let to = fs.keys.policy_key(&policy.volume(), &policy.policy(), 2)?;
    fs.reencrypt_directory(&node, &to, pause)
}

fn last(path: &str) -> &OsStr {
    OsStr::new(path.rsplit('/').next().unwrap_or(path))
}

fn write(fs: &Fs, fh: FileHandle, content: &str) -> FsResult<()> {
    let written = if content.is_empty() {
        Ok(0)
    } else {
        fs.write(&me(), fh, 0, &mut content.as_bytes().to_vec(), false)
    };
    fs.release(fh);
    written.map(drop)
}

fn rename(fs: &Fs, from: &str, to: &str, flags: u32) -> FsResult<()> {
    let (old, new) = (enter(fs, parent(from))?, enter(fs, parent(to))?);
    fs.rename(&me(), old, last(from), new, last(to), flags)
}
