//! Which objects a request touches on behalf of its caller.

use super::abi::{GETATTR_FH, fattr, op};
use super::request::{Arguments, Header, Truncated};
use crate::fs::NodeId;
use crate::revoke::marks::Asked;

/// `O_EXCL`, in the kernel's type.
const O_EXCL: u32 = libc::O_EXCL.cast_unsigned();

/// The nodes whose policy the caller has to be allowed to use. An operation that is not known here needs that of its node.
pub(super) fn touched(
    header: &Header,
    mut a: Arguments<'_>,
) -> Result<[Option<NodeId>; 2], Truncated> {
    let node = Some(NodeId(header.node));
    Ok(match header.opcode {
        // About an open file, which was decided when it was opened; or about nothing that a policy covers.
        op::READ
        | op::WRITE
        | op::RELEASE
        | op::RELEASEDIR
        | op::FSYNC
        | op::FSYNCDIR
        | op::FALLOCATE
        | op::LSEEK
        | op::COPY_FILE_RANGE
        | op::COPY_FILE_RANGE_64
        | op::STATFS
        | op::SYNCFS
        | op::FORGET
        | op::BATCH_FORGET
        | op::INTERRUPT
        | op::DESTROY => [None, None],
        op::GETATTR | op::STATX if a.u32()? & GETATTR_FH != 0 => [None, None],
        // Root sees the same in the lower tree, and has to be able to name what is locked while kmsd is away.
        op::GETATTR | op::STATX if header.uid == 0 => [None, None],
        op::SETATTR if a.u32()? & fattr::FH != 0 => [None, None],
        // Both directories, or the directory and the file that gets a name there.
        op::RENAME | op::RENAME2 | op::LINK => [node, Some(NodeId(a.u64()?))],
        _ => [node, None],
    })
}

/// Whether a reply to this request must not be sent when its caller may not be allowed it any more, and the request be
/// decided, and mostly carried out, again. What was changed is changed.
pub(super) fn is_void(asked: &Asked, message: &[u8]) -> bool {
    let Ok((header, a)) = Header::parse(message) else {
        return false;
    };
    let decided = touched(&header, a).is_ok_and(|nodes| nodes.iter().any(Option::is_some));
    asked.shows() && decided
}

/// Whether a request cannot be carried out again: it makes what must not be there before. Its reply is kept, and sent when its caller is
/// let in once more.
pub(super) fn is_once(message: &[u8]) -> bool {
    Header::parse(message).is_ok_and(|(header, mut a)| {
        header.opcode == op::CREATE && a.u32().is_ok_and(|flags| flags & O_EXCL != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::abi::IN_HEADER;

    fn of(opcode: u32, arguments: &[u8]) -> Result<[Option<NodeId>; 2], Truncated> {
        let length = u32::try_from(IN_HEADER + arguments.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(opcode.to_ne_bytes());
        message.extend(1_u64.to_ne_bytes());
        message.extend(5_u64.to_ne_bytes());
        message.extend([1; 16]);
        message.extend(arguments);
        let (header, arguments) = Header::parse(&message).unwrap();
        touched(&header, arguments)
    }

    #[test]
    fn what_has_a_handle_is_not_asked_again_and_what_has_two_places_is_asked_about_both() {
        let (this, other) = (Some(NodeId(5)), Some(NodeId(9)));
        assert_eq!(of(op::LOOKUP, b"x\0"), Ok([this, None]));
        assert_eq!(of(op::GETATTR, &[0; 16]), Ok([this, None]));
        assert_eq!(of(op::GETATTR, &1_u64.to_ne_bytes()), Ok([None, None]));
        let with_handle = fattr::FH | fattr::SIZE;
        assert_eq!(
            of(op::SETATTR, &with_handle.to_ne_bytes()),
            Ok([None, None])
        );
        assert_eq!(
            of(op::SETATTR, &fattr::SIZE.to_ne_bytes()),
            Ok([this, None])
        );
        for both in [op::RENAME, op::RENAME2, op::LINK] {
            assert_eq!(of(both, &9_u64.to_ne_bytes()), Ok([this, other]));
            assert_eq!(of(both, &[]), Err(Truncated));
        }
        assert_eq!(of(op::READ, &[]), Ok([None, None]));
        // Whatever the kernel thinks of next.
        assert_eq!(of(4711, &[]), Ok([this, None]));
    }
}
