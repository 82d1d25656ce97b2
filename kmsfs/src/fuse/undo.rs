//! Replies that are not sent: what they would have given the kernel is taken back.

use super::abi::{OUT_HEADER, op};
use super::reply::ENTRY;
use crate::fs::{FileHandle, Fs, NodeId};

/// Size of `fuse_dirent` before the name.
const DIRENT: usize = 24;

/// The nodes that a reply names, each with a reference for the kernel.
pub(super) fn nodes(opcode: u32, reply: &[u8]) -> Vec<NodeId> {
    let Some(body) = succeeded(reply) else {
        return Vec::new();
    };
    let mut nodes = match opcode {
        op::LOOKUP | op::MKNOD | op::MKDIR | op::SYMLINK | op::LINK | op::CREATE | op::TMPFILE => {
            vec![number(body, 0)]
        }
        op::READDIRPLUS => {
            let mut nodes = Vec::new();
            let mut rest = body;
            while rest.len() >= ENTRY + DIRENT {
                nodes.push(number(rest, 0));
                let length = rest
                    .get(ENTRY + 16..)
                    .and_then(|bytes| bytes.first_chunk())
                    .map_or(0, |bytes| u32::from_ne_bytes(*bytes));
                let length = usize::try_from(length).unwrap_or(0);
                let record = (ENTRY + DIRENT + length).next_multiple_of(8);
                rest = rest.get(record..).unwrap_or_default();
            }
            nodes
        }
        _ => Vec::new(),
    };
    // No such name, or not looked up.
    nodes.retain(|node| *node != 0);
    nodes.into_iter().map(NodeId).collect()
}

/// The handle that a reply gives.
fn handle(opcode: u32, reply: &[u8]) -> Option<FileHandle> {
    let body = succeeded(reply)?;
    match opcode {
        op::OPEN | op::OPENDIR => Some(FileHandle(number(body, 0))),
        op::CREATE | op::TMPFILE => Some(FileHandle(number(body, ENTRY))),
        _ => None,
    }
}

/// Takes back what a reply that is not sent would have given.
pub(super) fn take_back(fs: &Fs, opcode: u32, reply: &[u8]) {
    if let Some(handle) = handle(opcode, reply) {
        if opcode == op::OPENDIR {
            fs.releasedir(handle);
        } else {
            fs.release(handle);
        }
    }
    for node in nodes(opcode, reply) {
        fs.forget(node, 1);
    }
}

/// The body of a reply that is no error.
pub(super) fn succeeded(reply: &[u8]) -> Option<&[u8]> {
    let error = reply.get(4..8)?;
    let body = reply.get(OUT_HEADER..)?;
    (error == [0; 4]).then_some(body)
}

fn number(body: &[u8], offset: usize) -> u64 {
    let bytes = body.get(offset..).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::reply::{Body, put_header};
    use super::*;
    use crate::fs::{Attr, Entry, Kind, Timestamp};

    fn entry(node: u64) -> Entry {
        let never = Timestamp::default();
        Entry {
            node: NodeId(node),
            generation: 1,
            attr: Attr {
                ino: 5,
                size: 6,
                blocks: 0,
                atime: never,
                mtime: never,
                ctime: never,
                kind: Kind::File,
                perm: 0o644,
                nlink: 1,
                uid: 0,
                gid: 0,
                rdev: 0,
                blksize: 4096,
            },
            gate: false,
        }
    }

    fn sent(body: Body, error: i32) -> Vec<u8> {
        let mut reply = body.into_buffer();
        let length = reply.len();
        put_header(&mut reply, length, error, 3);
        reply
    }

    #[test]
    fn what_a_reply_gives_is_found_in_it() {
        let ttl = Duration::from_secs(1);
        let mut body = Body::start(Vec::new());
        body.entry(&entry(77), ttl);
        body.u64(9).u32(0).u32(0);
        let reply = sent(body, 0);
        assert_eq!(nodes(op::CREATE, &reply), [NodeId(77)]);
        assert_eq!(handle(op::CREATE, &reply), Some(FileHandle(9)));
        assert_eq!(nodes(op::GETATTR, &reply), []);
        let mut body = Body::start(Vec::new());
        for (node, name) in [(1, &b"."[..]), (40, b"a name"), (41, b"12345678")] {
            if node == 1 {
                body.bytes(&[0; ENTRY]);
            } else {
                body.entry(&entry(node), ttl);
            }
            assert!(body.dirent(4096, node, 1, 8, name));
        }
        let reply = sent(body, 0);
        assert_eq!(nodes(op::READDIRPLUS, &reply), [NodeId(40), NodeId(41)]);
        let mut body = Body::start(Vec::new());
        body.u64(9).u32(0).u32(0);
        assert_eq!(handle(op::OPEN, &sent(body, 0)), Some(FileHandle(9)));
        let failed = sent(Body::start(Vec::new()), -2);
        assert_eq!(nodes(op::LOOKUP, &failed), []);
        assert_eq!(handle(op::OPEN, &failed), None);
    }
}
