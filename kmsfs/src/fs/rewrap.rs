//! Directories, files and symlinks onto another generation of their policy key (FORMAT.md section 6.1), while they are in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::file::Wrap;
use kms_format::names;
use kms_format::symlink::{self, SealedTarget, StoredTarget};
use kms_format::{FormatError, UnlockedPolicy};
use rustix::fs::{RenameFlags, Timespec, Timestamps};

use super::content::{OpenFile, Unchanged};
use super::{Fault, Fs, FsResult};
use crate::backing::xattr::Target;
use crate::backing::{Dir, LowerId, Stat};
use crate::errno::Errno;
use crate::inode::{Context, Node};

/// A file whose header has a second wrap now. It stays open until the first one is taken away.
pub(crate) struct Rewrapped {
    node: Arc<Node>,
    to: Arc<UnlockedPolicy>,
}

impl Rewrapped {
    /// Whether it is this one.
    pub(crate) fn is(&self, node: &Arc<Node>) -> bool {
        Arc::ptr_eq(&self.node, node)
    }
}

/// A symlink that was made anew, for its other names.
pub(crate) struct Renewed {
    pub(crate) dir: Arc<Node>,
    pub(crate) name: Box<str>,
    pub(crate) lower: LowerId,
}

/// What became of a symlink.
pub(crate) enum Link {
    /// It hangs on the newest generation already.
    UpToDate,
    Renewed {
        new: Renewed,
        /// Its old record, which nothing needs any more once the new name is durable.
        garbage: Option<String>,
        /// There are other names of the old one.
        more: bool,
    },
}

impl Fs {
    /// The directory key under `to`. What is made in the directory from now on hangs on that. Not durable on return. False if there was
    /// nothing to do.
    pub(crate) fn rewrap_directory(
        &self,
        node: &Arc<Node>,
        to: &Arc<UnlockedPolicy>,
    ) -> FsResult<bool> {
        let _writing = self.check_writable()?;
        self.context(node)?;
        let directory = node.directory()?;
        let _alone = directory.entries.write();
        if directory.dead.load(Ordering::Acquire) {
            return Err(Errno::STALE);
        }
        let dir = self.dirs.get(node)?;
        let mut slot = directory.context.write();
        // Locked meanwhile, for example: whoever uses it next asks for the key, and so does the next attempt.
        let Some(now) = slot.as_ref() else {
            return Err(Errno::from_raw(libc::EAGAIN));
        };
        if now.header.generation() == to.generation() {
            return Ok(false);
        }
        let mut header = now.header.clone();
        let damaged = |error: &FormatError| self.damaged(node, names::DIR_HEADER, error);
        header.rewrap(to, &now.keys).map_err(|e| damaged(&e))?;
        // Opens what is about to be written, before it is.
        let keys = header.unlock(to).map_err(|e| damaged(&e))?;
        let bytes = header.encode().map_err(|e| Errno::from(&e))?;
        let before = dir.stat()?;
        if let Err(errno) = self.replace_lazily(&dir, names::DIR_HEADER, &bytes) {
            // Whichever header is there now is read at the next use.
            *slot = None;
            return Err(errno);
        }
        *slot = Some(Arc::new(Context {
            header,
            keys,
            policy: Arc::clone(to),
        }));
        drop(slot);
        // Nothing that users can see has changed in it.
        let _ = dir.set_times(&modified(&before));
        Ok(true)
    }

    /// As [`Fs::replace`], but the new name need not be durable: the old file will do.
    fn replace_lazily(&self, dir: &Dir, name: &str, bytes: &[u8]) -> FsResult<()> {
        let temporary = names::temporary().map_err(|e| Errno::from(&e))?;
        self.temporaries.lock().push(temporary.clone());
        let replaced = dir.write_small(&temporary, bytes).and_then(|file| {
            file.sync()?;
            dir.rename(&temporary, dir, name, RenameFlags::empty())
        });
        if replaced.is_err() {
            let _ = dir.unlink(&temporary);
        }
        self.temporaries.lock().retain(|used| *used != temporary);
        replaced
    }

    /// The file key under `to` as well. None if there was nothing to do.
    pub(crate) fn rewrap_file(
        &self,
        node: &Arc<Node>,
        to: &Arc<UnlockedPolicy>,
    ) -> FsResult<Option<Rewrapped>> {
        let _writing = self.check_writable()?;
        self.acquire(node, true)?;
        let wrapped = self.wrap_under(node, to);
        match wrapped {
            Ok(true) => {
                self.table.hold(node);
                Ok(Some(Rewrapped {
                    node: Arc::clone(node),
                    to: Arc::clone(to),
                }))
            }
            Ok(false) => {
                self.give_up(node);
                Ok(None)
            }
            Err(errno) => {
                self.give_up(node);
                Err(errno)
            }
        }
    }

    /// True if the former wrap is to go.
    fn wrap_under(&self, node: &Arc<Node>, to: &Arc<UnlockedPolicy>) -> FsResult<bool> {
        let foreign = {
            let body = node.file()?.read();
            let spare = body.opened()?.spare_wrap();
            spare.is_some_and(|wrap| wrap.policy != to.policy())
        };
        if foreign {
            // Left from a move into this policy. A power cut may still undo that, and then it would be needed.
            self.sync_lower()?;
        }
        let mut body = node.file()?.write();
        let open = body.opened_mut()?;
        if open.policy().policy() != to.policy() {
            // Moved out of the policy just now.
            return Ok(false);
        }
        if open.reencrypting() {
            return Err(Errno::BUSY);
        }
        let fault = |fault| self.fault(node, fault);
        if open.blank() || open.opens_under(to) {
            open.adopt(to).map_err(fault)?;
            return Ok(former(open, to).is_some());
        }
        let unchanged = Unchanged::note(open.lower())?;
        let wrapped = open.add_wrap(to).and_then(|()| open.adopt(to));
        unchanged.put_back(open.lower());
        wrapped.map_err(fault)?;
        // Part of the content becomes durable with the page.
        open.mark_synced();
        Ok(true)
    }

    /// The former wrap of a file away. `durable`: the page with the new one is on the disk; otherwise both stay, which is legal.
    pub(crate) fn retire_wrap(&self, wrapped: Rewrapped, durable: bool) -> FsResult<()> {
        let node = Arc::clone(&wrapped.node);
        let retired = if durable {
            (|| {
                let _writing = self.check_writable()?;
                let mut body = node.file()?.write();
                let open = body.opened_mut()?;
                if open.reencrypting() || former(open, &wrapped.to).is_none() {
                    // Another wrap has taken its place.
                    return Ok(());
                }
                let unchanged = Unchanged::note(open.lower())?;
                let retired = open.drop_spare_wrap();
                let retired = retired.map_err(|fault| self.fault(&node, fault));
                unchanged.put_back(open.lower());
                retired
            })()
        } else {
            Ok(())
        };
        self.give_up(&node);
        self.leave(&node);
        retired
    }

    /// A symlink made anew under `to`, in the place of the old one. `known` is a name that the same old one had and that was renewed
    /// already: this one becomes another name of that.
    pub(crate) fn rewrap_symlink(
        &self,
        dir: &Arc<Node>,
        name: &str,
        node: &Arc<Node>,
        known: Option<&Renewed>,
        to: &Arc<UnlockedPolicy>,
    ) -> FsResult<Link> {
        let _writing = self.check_writable()?;
        let context = self.context(dir)?;
        let lower = self.dirs.get(dir)?;
        let _alone = dir.directory()?.entries.write();
        // Until the old one has lost this name nobody gives it another: its record goes with what is its last name here.
        let _links = node.links.lock();
        let stat = lower.stat_at(name)?;
        if LowerId::of(&stat) != node.lower {
            return Err(Errno::STALE);
        }
        let stored = lower.read_link(name)?;
        let parsed = StoredTarget::parse(&stored);
        let target = parsed.map_err(|error| self.damaged(dir, name, &error))?;
        if target.generation() == to.generation() {
            return Ok(Link::UpToDate);
        }
        let before = lower.stat()?;
        let temporary = names::temporary().map_err(|e| Errno::from(&e))?;
        self.temporaries.lock().push(temporary.clone());
        let made = self
            .link_again(&lower, &temporary, known)
            .map_or_else(
                || self.make_again(&lower, (name, &temporary), &context, &stored, &stat, to),
                Ok,
            )
            .and_then(|()| lower.stat_at(&temporary))
            .and_then(|new| {
                // Its number may be given to something else at once, which must not be taken for it.
                let last = stat.st_nlink == 1;
                if last {
                    self.table.unhash(node);
                }
                let renamed = lower.rename(&temporary, &lower, name, RenameFlags::empty());
                if renamed.is_err() && last {
                    self.table.rehash(node);
                }
                renamed.map(|()| LowerId::of(&new))
            });
        if made.is_err() {
            let _ = lower.unlink(&temporary);
        }
        self.temporaries.lock().retain(|used| *used != temporary);
        let new = made?;
        // Nothing that users can see has changed in it.
        let _ = lower.set_times(&modified(&before));
        // Whoever knows the old one by this name finds it gone, and looks it up again.
        self.table.remove_place(node, dir, name);
        let more = stat.st_nlink > 1;
        Ok(Link::Renewed {
            new: Renewed {
                dir: Arc::clone(dir),
                name: name.into(),
                lower: new,
            },
            garbage: target.record_name().filter(|_| !more),
            more,
        })
    }

    /// Another name of a symlink that was made anew, if that is still where it was.
    fn link_again(&self, dir: &Dir, temporary: &str, known: Option<&Renewed>) -> Option<()> {
        let known = known?;
        let from = self.dirs.get(&known.dir).ok()?;
        from.link(&known.name, dir, temporary).ok()?;
        let linked = dir.stat_at(temporary).ok();
        if linked.is_some_and(|stat| LowerId::of(&stat) == known.lower) {
            return Some(());
        }
        let _ = dir.unlink(temporary);
        None
    }

    fn make_again(
        &self,
        dir: &Dir,
        (name, temporary): (&str, &str),
        context: &Context,
        stored: &[u8],
        stat: &Stat,
        to: &Arc<UnlockedPolicy>,
    ) -> FsResult<()> {
        let plain = self
            .open_target(context, stored)
            .map_err(|fault| match fault {
                Fault::Lower(errno) => errno,
                _ => Errno::IO,
            })?;
        let sealed = symlink::seal(to, &plain).map_err(|error| Errno::from(&error))?;
        let target = match &sealed {
            SealedTarget::Inline(target) => target,
            SealedTarget::Recorded {
                stored,
                name,
                record,
            } => {
                let links = self.links_dir()?;
                let written = links
                    .write_small(name, record)
                    .and_then(|file| file.sync())
                    .and_then(|()| links.sync());
                if let Err(errno) = written {
                    let _ = links.unlink(name);
                    return Err(errno);
                }
                stored
            }
        };
        dir.make_symlink(temporary, target)?;
        if self.privileged {
            dir.set_owner_at(temporary, Some(stat.st_uid), Some(stat.st_gid))?;
        }
        copy_attributes(dir, name, temporary)?;
        dir.set_times_at(temporary, &all_times(stat))
    }

    /// Removes records of long targets that no symlink refers to any more.
    pub(crate) fn drop_link_records(&self, records: &[String]) -> FsResult<()> {
        if records.is_empty() {
            return Ok(());
        }
        let _writing = self.check_writable()?;
        let links = self.links_dir()?;
        for name in records {
            match links.unlink(name) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The generation that a symlink hangs on.
    pub(crate) fn symlink_generation(&self, dir: &Arc<Node>, name: &str) -> FsResult<u32> {
        let stored = self.dirs.get(dir)?.read_link(name)?;
        StoredTarget::parse(&stored)
            .map(|target| target.generation())
            .map_err(|error| self.damaged(dir, name, &error))
    }
}

/// Extended attributes of a symlink, which are plain.
fn copy_attributes(dir: &Dir, from: &str, to: &str) -> FsResult<()> {
    let (from, to) = (Target::Named(dir, from), Target::Named(dir, to));
    let names = match from.list() {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        names => names?,
    };
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let value = from.get(name)?;
        if to.get(name).is_ok_and(|there| there == value) {
            // The lower file system labels what is new itself.
            continue;
        }
        to.set(name, &value, 0)?;
    }
    Ok(())
}

/// The wrap of an earlier generation of the same policy, once the file opens under `to`.
fn former(open: &OpenFile, to: &UnlockedPolicy) -> Option<Wrap> {
    open.spare_wrap()
        .filter(|wrap| wrap.policy == to.policy() && wrap.generation != to.generation())
}

fn modified(stat: &Stat) -> Timestamps {
    let all = all_times(stat);
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        ..all
    }
}

#[allow(
    clippy::unnecessary_cast,
    reason = "the fields have other types on other architectures"
)]
fn all_times(stat: &Stat) -> Timestamps {
    let time = |secs: i64, nanos: u64| Timespec {
        tv_sec: secs,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
