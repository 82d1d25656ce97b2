//! Which answered requests are accesses that a policy may want recorded.

use super::abi::op;
use super::request::Header;
use super::undo;
use crate::access::opens::{Access, is_denial};
use crate::errno::Errno;
use crate::fs::{Fs, NodeId};

/// `FMODE_EXEC`: the kernel opens a program to run it.
const EXECUTE: u32 = 0x20;

/// The access that `reply` is the answer to, if a policy may want it recorded: every open, and of anything else what was denied.
pub(super) fn access(fs: &Fs, header: &Header, message: &[u8], reply: &[u8]) -> Option<Access> {
    let error = error_of(reply);
    // Of almost every request this is all that is done.
    let operation = name_of(header.opcode, error)?;
    let opens = fs.opens()?;
    let node = fs.node(NodeId(header.node)).ok()?;
    let policy = fs.policy_of(&node).filter(|policy| opens.wants(policy))?;
    // What was made, or else what was named, which for a new file is its directory.
    let made = undo::nodes(header.opcode, reply).first().copied();
    let object = made.and_then(|made| fs.node(made).ok()).unwrap_or(node);
    let mode = match header.opcode {
        op::OPEN | op::CREATE => {
            let (_, mut arguments) = Header::parse(message).ok()?;
            arguments.u32().ok().map(mode_of)
        }
        _ => None,
    };
    Some(Access {
        policy,
        uid: header.uid,
        gid: header.gid,
        pid: header.pid,
        operation,
        mode,
        inode: object.lower.ino(),
        error: error.map(Errno::raw),
    })
}

/// Notes an access whose reply was sent.
pub(super) fn note(fs: &Fs, access: Option<Access>) {
    if let (Some(opens), Some(access)) = (fs.opens(), access) {
        opens.note(access);
    }
}

fn error_of(reply: &[u8]) -> Option<Errno> {
    let bytes = reply.get(4..).and_then(|bytes| bytes.first_chunk())?;
    let error = i32::from_ne_bytes(*bytes);
    (error != 0).then(|| Errno::from_raw(error.saturating_neg()))
}

/// The name of an access; none for what is not one. Looking for a name and asking for attributes come before every open: only
/// who was denied them did not come further.
fn name_of(opcode: u32, error: Option<Errno>) -> Option<&'static str> {
    let denied = error.is_some_and(is_denial);
    Some(match opcode {
        op::OPEN => "OPEN",
        op::OPENDIR => "OPENDIR",
        op::CREATE => "CREATE",
        op::TMPFILE => "TMPFILE",
        _ if !denied => return None,
        op::LOOKUP => "LOOKUP",
        op::GETATTR | op::STATX => "GETATTR",
        op::SETATTR => "SETATTR",
        op::READLINK => "READLINK",
        op::MKNOD => "MKNOD",
        op::MKDIR => "MKDIR",
        op::SYMLINK => "SYMLINK",
        op::LINK => "LINK",
        op::UNLINK => "UNLINK",
        op::RMDIR => "RMDIR",
        op::RENAME | op::RENAME2 => "RENAME",
        op::READ => "READ",
        op::WRITE => "WRITE",
        op::READDIR | op::READDIRPLUS => "READDIR",
        _ => return None,
    })
}

fn mode_of(flags: u32) -> &'static str {
    match flags.cast_signed() & libc::O_ACCMODE {
        libc::O_RDONLY if flags & EXECUTE != 0 => "EXECUTE",
        libc::O_RDONLY => "READ",
        libc::O_WRONLY => "WRITE",
        _ => "READ_WRITE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_open_is_an_access_and_of_the_rest_what_was_denied() {
        let (denied, missing) = (Some(Errno::ACCES), Some(Errno::NOENT));
        assert_eq!(name_of(op::OPEN, None), Some("OPEN"));
        assert_eq!(name_of(op::OPEN, missing), Some("OPEN"));
        assert_eq!(name_of(op::LOOKUP, None), None);
        assert_eq!(name_of(op::LOOKUP, missing), None);
        assert_eq!(name_of(op::LOOKUP, denied), Some("LOOKUP"));
        assert_eq!(name_of(op::STATFS, denied), None);
    }

    #[test]
    fn the_flags_say_what_for() {
        let flags = |flags: i32| mode_of(flags.cast_unsigned());
        assert_eq!(flags(libc::O_RDONLY | libc::O_CLOEXEC), "READ");
        assert_eq!(flags(libc::O_WRONLY | libc::O_APPEND), "WRITE");
        assert_eq!(flags(libc::O_RDWR), "READ_WRITE");
        assert_eq!(mode_of(EXECUTE), "EXECUTE");
    }
}
