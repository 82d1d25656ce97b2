//! Content: read, write, fsync, fallocate, lseek, copy_file_range.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kms_format::content::{Synced, Ticket};

use super::content::Unchanged;
use super::{Caller, FileHandle, Fs, FsResult};
use crate::backing::LowerFile;
use crate::errno::Errno;
use crate::inode::Node;

/// How much copy_file_range moves at a time.
const CHUNK: usize = 1 << 20;
/// How much it moves in one call, so that others get their turn.
const MOST: u64 = 64 << 20;

impl Fs {
    /// Reads into `out`; fewer bytes only at the end of the file. `out` is used as room to decrypt in: bytes behind what is
    /// returned are undefined.
    ///
    /// # Errors
    /// `EBADF`; what the lower file system says.
    pub fn read(&self, fh: FileHandle, offset: u64, out: &mut [u8]) -> FsResult<usize> {
        let handle = self.handles.get(fh)?;
        let body = handle.node.file()?.read();
        let open = body.opened()?;
        let read = open.read(offset, out);
        if handle.counts(self.started.elapsed().as_secs() + 1) {
            self.accessed(&handle.node, open.lower(), false);
        }
        read.map_err(|fault| self.fault(&handle.node, fault))
    }

    /// Writes all of `data`, which is encrypted where it is: it is not plain text afterwards.
    ///
    /// # Errors
    /// `EBADF`, `EFBIG`; what the lower file system says. The size is as before then.
    pub fn write(
        &self,
        caller: &Caller,
        fh: FileHandle,
        offset: u64,
        data: &mut [u8],
        kill_suidgid: bool,
    ) -> FsResult<usize> {
        let _writing = self.check_writable()?;
        let handle = self.handles.get(fh)?;
        let node = &handle.node;
        let mut body = node.file()?.write();
        let open = body.opened_mut()?;
        open.write(offset, data)
            .map_err(|fault| self.fault(node, fault))?;
        if kill_suidgid {
            let lower = Arc::clone(open.lower());
            drop(body);
            self.kill_suidgid(caller, node, &lower)?;
        }
        Ok(data.len())
    }

    /// Makes a file durable, and the header of every directory above it.
    ///
    /// # Errors
    /// What the lower file system says.
    pub fn fsync(&self, fh: FileHandle, datasync: bool) -> FsResult<()> {
        let handle = self.handles.get(fh)?;
        let node = &handle.node;
        // What was frozen is durable, but a header that is to say how long the file is has to wait.
        let _writing = match self.may_change() {
            None if !self.read_only && node.file()?.read().opened()?.unfinished() => {
                Some(self.check_writable()?)
            }
            writing => writing,
        };
        let (lower, ticket) = {
            let mut body = node.file()?.write();
            let open = body.opened_mut()?;
            let ticket = open.begin_sync().map_err(|fault| self.fault(node, fault))?;
            (Arc::clone(open.lower()), ticket)
        };
        for place in node.places() {
            self.headers.flush_above(&place.parent)?;
        }
        let done = if datasync {
            lower.sync_data()
        } else {
            lower.sync()
        };
        let done = match ticket {
            Some(ticket) => done.and_then(|()| self.finish_sync(node, &lower, ticket)),
            None => done,
        };
        let mut body = node.file()?.write();
        if let Err(errno) = done {
            body.failures.count += 1;
            body.failures.last = Some(errno);
        }
        let count = body.failures.count;
        match body.failures.last {
            Some(errno) if handle.failures_told.swap(count, Ordering::AcqRel) != count => {
                body.failures.untold = false;
                Err(errno)
            }
            _ => done,
        }
    }

    /// The content that a ticket stands for is durable: the header may vouch for it.
    fn finish_sync(&self, node: &Arc<Node>, lower: &LowerFile, ticket: Ticket) -> FsResult<()> {
        let mut body = node.file()?.write();
        let open = body.opened_mut()?;
        let unchanged = Unchanged::note(lower)?;
        let finished = match open.finish_sync(ticket) {
            Ok(Synced::Done) => return Ok(()),
            Ok(Synced::Header) => {
                unchanged.put_back(lower);
                drop(body);
                return lower.sync_data();
            }
            Ok(Synced::Again) => {
                let synced = open.sync();
                unchanged.put_back(lower);
                synced
            }
            Err(fault) => Err(fault),
        };
        finished.map_err(|fault| self.fault(node, fault))
    }

    /// Makes a directory's entries durable, with the headers of the directories among them and above.
    ///
    /// # Errors
    /// What the lower file system says.
    pub fn fsyncdir(&self, fh: FileHandle, _datasync: bool) -> FsResult<()> {
        let handle = self.handles.get(fh)?;
        self.headers.flush_below(&handle.node)?;
        self.headers.flush_above(&handle.node)?;
        self.dirs.get(&handle.node)?.sync()
    }

    /// Reserves space (mode 0 and FALLOC_FL_KEEP_SIZE), or turns a range into zeros (FALLOC_FL_PUNCH_HOLE,
    /// FALLOC_FL_ZERO_RANGE).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for other modes; what the lower file system says.
    pub fn fallocate(
        &self,
        caller: &Caller,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> FsResult<()> {
        let _writing = self.check_writable()?;
        if length == 0 {
            return Err(Errno::INVAL);
        }
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        let handle = self.handles.get(fh)?;
        let node = &handle.node;
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let mut body = node.file()?.write();
        let open = body.opened_mut()?;
        let done = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => open.allocate(offset, length, keep),
            libc::FALLOC_FL_PUNCH_HOLE if keep => open.punch(offset, length),
            libc::FALLOC_FL_ZERO_RANGE => open.punch(offset, length).and_then(|()| {
                if keep || end <= open.size() {
                    Ok(())
                } else {
                    open.resize(end)
                }
            }),
            _ => return Err(Errno::OPNOTSUPP),
        };
        done.map_err(|fault| self.fault(node, fault))?;
        let lower = Arc::clone(open.lower());
        drop(body);
        self.kill_for(caller, node, &lower)
    }

    /// Takes the set-id bits away after a change for which the kernel leaves that to us without saying whether the
    /// caller may keep them: root may.
    fn kill_for(&self, caller: &Caller, node: &Arc<Node>, lower: &LowerFile) -> FsResult<()> {
        if caller.uid == 0 {
            return Ok(());
        }
        self.kill_suidgid(caller, node, lower)
    }

    /// Finds data (SEEK_DATA) or a hole (SEEK_HOLE).
    ///
    /// # Errors
    /// `ENXIO` behind the end of the file or its last data, `EINVAL` for another `whence`.
    pub fn lseek(&self, fh: FileHandle, offset: u64, whence: i32) -> FsResult<u64> {
        let handle = self.handles.get(fh)?;
        let body = handle.node.file()?.read();
        let open = body.opened()?;
        let found = match whence {
            libc::SEEK_DATA => open.seek_data(offset),
            libc::SEEK_HOLE => open.seek_hole(offset),
            _ => return Err(Errno::INVAL),
        };
        found.map_err(|fault| self.fault(&handle.node, fault))
    }

    /// Copies from one file to another, or within one, here instead of in the caller. Returns how much, which may be less.
    ///
    /// # Errors
    /// `EINVAL` for overlapping ranges of one file; what reading and writing say.
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        source: FileHandle,
        from: u64,
        target: FileHandle,
        to: u64,
        length: u64,
    ) -> FsResult<u64> {
        let _writing = self.check_writable()?;
        let (source, target) = (self.handles.get(source)?, self.handles.get(target)?);
        let length = length.min(MOST);
        let overlap = from < to.saturating_add(length) && to < from.saturating_add(length);
        if Arc::ptr_eq(&source.node, &target.node) && overlap {
            return Err(Errno::INVAL);
        }
        // Up to where the source ends now: within one file the copy may extend it.
        let length = length.min(
            source
                .node
                .file()?
                .read()
                .opened()?
                .size()
                .saturating_sub(from),
        );
        let mut buffer = vec![0; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK))];
        let mut done = 0;
        while done < length {
            let want = usize::try_from(length - done)
                .unwrap_or(CHUNK)
                .min(buffer.len());
            let part = buffer.get_mut(..want).unwrap_or_default();
            let moved = self
                .read_node(&source.node, from + done, part)
                .and_then(|got| {
                    let part = part.get_mut(..got).unwrap_or_default();
                    self.write_node(&target.node, to + done, part).map(|()| got)
                });
            match moved {
                Ok(0) => break,
                Ok(got) => done += got as u64,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        if done > 0 {
            let lower = Arc::clone(target.node.file()?.read().opened()?.lower());
            self.kill_for(caller, &target.node, &lower)?;
        }
        Ok(done)
    }

    fn read_node(&self, node: &Arc<Node>, offset: u64, out: &mut [u8]) -> FsResult<usize> {
        let body = node.file()?.read();
        body.opened()?
            .read(offset, out)
            .map_err(|fault| self.fault(node, fault))
    }

    fn write_node(&self, node: &Arc<Node>, offset: u64, data: &mut [u8]) -> FsResult<()> {
        let mut body = node.file()?.write();
        body.opened_mut()?
            .write(offset, data)
            .map_err(|fault| self.fault(node, fault))
    }
}
