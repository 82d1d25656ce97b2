//! Notifications to the kernel: forget cached pages, attributes or names.
//!
//! They are written by one thread of their own and never by a request thread: the kernel answers an
//! invalidation only after requests it waits for, and those need a free request thread.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::mpsc;

use super::abi::{NOTIFY_INC_EPOCH, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, OUT_HEADER};
use crate::fs::NodeId;

/// Size of a notification about a node.
const OUT_HEADER_AND_NODE: u32 = 16 + 24;

/// Something the kernel shall forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// Attributes and all cached pages of a node.
    Node(NodeId),
    /// A name, found or not found, in a directory.
    Name(NodeId, OsString),
}

/// Sends invalidations in the background. Clones feed the same thread, which ends with the last.
#[derive(Clone, Debug)]
pub struct Notifier {
    queue: mpsc::Sender<Invalidation>,
}

impl Notifier {
    pub(super) fn start(connection: OwnedFd) -> io::Result<Notifier> {
        let (queue, work) = mpsc::channel::<Invalidation>();
        std::thread::Builder::new()
            .name("fuse-notify".to_owned())
            .spawn(move || {
                for invalidation in work {
                    let message = encode(&invalidation);
                    match rustix::io::write(&connection, &message) {
                        // The kernel may not know the node or name: nothing to forget then.
                        Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                        Err(rustix::io::Errno::NODEV | rustix::io::Errno::NOTCONN) => return,
                        Err(error) => tracing::warn!(?invalidation, %error, "invalidation failed"),
                    }
                }
            })?;
        Ok(Notifier { queue })
    }

    /// Queues an invalidation and returns at once.
    pub fn send(&self, invalidation: Invalidation) {
        // The thread is gone only when the mount is.
        drop(self.queue.send(invalidation));
    }
}

/// Makes the kernel ask for a node's attributes again; pages stay. Unlike others this may be sent by a request thread:
/// without pages there is nothing to wait for.
pub(super) fn forget_attributes(connection: &OwnedFd, node: NodeId) {
    // A negative offset: attributes only.
    if let Err(error) = forget_range(connection, node, -1) {
        tracing::warn!(node = node.0, %error, "the kernel may show old attributes");
    }
}

/// Makes the kernel write a node's dirty pages and forget all its pages and attributes. Never to be called by a request
/// thread: it ends only after READs, WRITEs and changes of size that are unanswered.
///
/// # Errors
/// The kernel does not take it, for another reason than that it does not know the node.
pub(super) fn forget_pages(connection: &OwnedFd, node: NodeId) -> io::Result<()> {
    forget_range(connection, node, 0)
}

fn forget_range(connection: &OwnedFd, node: NodeId, offset: i64) -> io::Result<()> {
    let mut message =
        super::reply::header_bytes(OUT_HEADER_AND_NODE, NOTIFY_INVAL_INODE, 0).to_vec();
    message.extend(node.0.to_ne_bytes());
    message.extend(offset.to_ne_bytes());
    message.extend(0_i64.to_ne_bytes()); // to the end
    match rustix::io::write(connection, &message) {
        Err(error)
            if !matches!(
                error,
                rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NOTCONN
            ) =>
        {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// Makes the kernel look every name up again. Before Linux 6.16 names stay known; their objects are asked for all the same.
pub(super) fn forget_names(connection: &OwnedFd) {
    let length = u32::try_from(OUT_HEADER).unwrap_or(0);
    let message = super::reply::header_bytes(length, NOTIFY_INC_EPOCH, 0);
    // Older kernels say EINVAL.
    let _ = rustix::io::write(connection, &message);
}

fn encode(invalidation: &Invalidation) -> Vec<u8> {
    let (code, body) = match invalidation {
        Invalidation::Node(node) => {
            let mut body = node.0.to_ne_bytes().to_vec();
            body.extend([0; 16]); // offset 0, length 0: everything
            (NOTIFY_INVAL_INODE, body)
        }
        Invalidation::Name(parent, name) => {
            let mut body = parent.0.to_ne_bytes().to_vec();
            let length = u32::try_from(name.len()).unwrap_or(0);
            body.extend(length.to_ne_bytes());
            body.extend([0; 4]);
            body.extend(name.as_bytes());
            body.push(0);
            (NOTIFY_INVAL_ENTRY, body)
        }
    };
    let length = u32::try_from(OUT_HEADER + body.len()).unwrap_or(0);
    let mut message = super::reply::header_bytes(length, code, 0).to_vec();
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_what_the_kernel_expects() {
        assert_eq!(encode(&Invalidation::Node(NodeId(7))).len(), 16 + 24);
        let name = encode(&Invalidation::Name(NodeId(1), "abc".into()));
        assert_eq!(name.len(), 16 + 16 + 4);
        assert_eq!(name.first(), Some(&36));
    }
}
