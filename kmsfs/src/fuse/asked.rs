//! What a request asks for, as far as a revocation has to know.

use super::abi::{self, fattr, op};
use super::request::{Arguments, Header, Truncated};
use crate::fs::{FileHandle, NodeId};
use crate::revoke::marks::{Asked, Class};

/// Of a request; one that is cut short is refused by whoever carries it out.
pub(super) fn asked(header: &Header, arguments: Arguments<'_>) -> Asked {
    let mut asked = Asked {
        class: class(header.opcode),
        uid: header.uid,
        node: NodeId(header.node),
        other: None,
        handles: [None; 2],
    };
    let _ = fill(&mut asked, header.opcode, arguments);
    asked
}

fn class(opcode: u32) -> Class {
    match opcode {
        op::READ => Class::Read,
        op::WRITE => Class::Write { cached: false },
        op::SETATTR => Class::SetAttr,
        op::GETATTR | op::STATX => Class::GetAttr,
        op::LOOKUP => Class::Lookup,
        op::OPEN | op::OPENDIR | op::CREATE | op::TMPFILE => Class::Open,
        op::READDIR | op::READDIRPLUS | op::READLINK | op::GETXATTR | op::LISTXATTR | op::LSEEK => {
            Class::Show
        }
        op::SYMLINK
        | op::MKNOD
        | op::MKDIR
        | op::UNLINK
        | op::RMDIR
        | op::RENAME
        | op::RENAME2
        | op::LINK
        | op::FSYNC
        | op::FSYNCDIR
        | op::SETXATTR
        | op::REMOVEXATTR
        | op::FALLOCATE
        | op::COPY_FILE_RANGE
        | op::COPY_FILE_RANGE_64
        | op::IOCTL => Class::Change,
        _ => Class::Exempt,
    }
}

fn fill(asked: &mut Asked, opcode: u32, mut a: Arguments<'_>) -> Result<(), Truncated> {
    match opcode {
        op::READ
        | op::READDIR
        | op::READDIRPLUS
        | op::LSEEK
        | op::FSYNC
        | op::FSYNCDIR
        | op::FALLOCATE
        | op::IOCTL => asked.handles[0] = Some(FileHandle(a.u64()?)),
        op::WRITE => {
            asked.handles[0] = Some(FileHandle(a.u64()?));
            a.skip(12)?;
            let cached = a.u32()? & abi::WRITE_CACHE != 0;
            asked.class = Class::Write { cached };
        }
        op::SETATTR => {
            let by_handle = a.u32()? & fattr::FH != 0;
            a.skip(4)?;
            asked.handles[0] = Some(FileHandle(a.u64()?)).filter(|_| by_handle);
        }
        op::GETATTR | op::STATX => {
            let by_handle = a.u32()? & abi::GETATTR_FH != 0;
            a.skip(4)?;
            asked.handles[0] = Some(FileHandle(a.u64()?)).filter(|_| by_handle);
        }
        op::RENAME | op::RENAME2 | op::LINK => asked.other = Some(NodeId(a.u64()?)),
        op::COPY_FILE_RANGE | op::COPY_FILE_RANGE_64 => {
            asked.handles[0] = Some(FileHandle(a.u64()?));
            a.skip(8)?;
            asked.other = Some(NodeId(a.u64()?));
            asked.handles[1] = Some(FileHandle(a.u64()?));
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(opcode: u32, fields: &[u64]) -> Vec<u8> {
        let length = u32::try_from(abi::IN_HEADER + 8 * fields.len()).unwrap();
        let mut message = Vec::new();
        for field in [length, opcode] {
            message.extend(field.to_ne_bytes());
        }
        for field in [1_u64, 5] {
            message.extend(field.to_ne_bytes());
        }
        for field in [1000_u32, 100, 4242, 0] {
            message.extend(field.to_ne_bytes());
        }
        for field in fields {
            message.extend(field.to_ne_bytes());
        }
        message
    }

    fn of(opcode: u32, fields: &[u64]) -> Asked {
        let message = message(opcode, fields);
        let (header, arguments) = Header::parse(&message).unwrap();
        asked(&header, arguments)
    }

    #[test]
    fn handles_and_second_nodes_are_found() {
        let read = of(op::READ, &[7, 0, 4096]);
        assert_eq!((read.class, read.node), (Class::Read, NodeId(5)));
        assert_eq!(read.handles, [Some(FileHandle(7)), None]);
        // The fourth field holds the size below and the flags above.
        let cached = of(op::WRITE, &[7, 0, 1 << 32]);
        assert_eq!(cached.class, Class::Write { cached: true });
        assert_eq!(
            of(op::WRITE, &[7, 0, 4096]).class,
            Class::Write { cached: false }
        );
        let by_handle = of(op::SETATTR, &[u64::from(fattr::FH), 9]);
        assert_eq!(by_handle.handles, [Some(FileHandle(9)), None]);
        assert_eq!(of(op::SETATTR, &[0, 9]).handles, [None, None]);
        let copy = of(op::COPY_FILE_RANGE, &[1, 0, 2, 3, 0, 10]);
        assert_eq!(copy.handles, [Some(FileHandle(1)), Some(FileHandle(3))]);
        assert_eq!(copy.other, Some(NodeId(2)));
        assert_eq!(of(op::RENAME, &[6]).other, Some(NodeId(6)));
        assert_eq!(of(op::RELEASE, &[6]).class, Class::Exempt);
        assert_eq!(of(op::READ, &[]).handles, [None, None]);
    }
}
