//! Requests whose caller loses access while they are carried out.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kms_format::{PolicyId, VolumeId};

use super::super::abi::{IN_HEADER, op};
use super::*;
use crate::access::Access;
use crate::errno::FsResult;
use crate::fs::tests::world::{World, me};
use crate::fs::{Caller, NodeId};

/// Lets everybody in the first time; then what was decided is forgotten, and this is the answer.
struct Changing {
    asked: AtomicU64,
    then: FsResult<()>,
}

impl Access for Changing {
    fn may_use(&self, _: &Caller, _: &VolumeId, _: &PolicyId) -> FsResult<()> {
        match self.asked.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(()),
            _ => self.then,
        }
    }

    fn decisions(&self) -> u64 {
        self.asked.load(Ordering::SeqCst).min(1)
    }

    fn per_user(&self) -> bool {
        true
    }
}

/// A CREATE with O_EXCL, answered by one thread and those that wait. Gives the error of the reply, and its body.
fn create(then: FsResult<()>) -> (World, Arc<Fs>, i32, Vec<u8>) {
    let mut world = World::new();
    world.unmount();
    let access = Arc::new(Changing {
        asked: AtomicU64::new(0),
        then,
    });
    let fs = Arc::new(world.open().unwrap().with_access(access));
    let (kernel, connection) = UnixStream::pair().unwrap();
    let ttl = Duration::from_secs(1);
    let dispatcher = Dispatcher::new(Arc::clone(&fs), ttl, MAX_IO, false);
    let shared = Shared::new(OwnedFd::from(connection), Arc::clone(&fs), dispatcher, 1);
    let shared = Arc::new(shared);
    let mut message = Vec::new();
    let flags = (libc::O_RDWR | libc::O_EXCL | libc::O_CREAT).cast_unsigned();
    let length = u32::try_from(IN_HEADER + 16 + 4).unwrap();
    message.extend(length.to_ne_bytes());
    message.extend(op::CREATE.to_ne_bytes());
    message.extend(7_u64.to_ne_bytes());
    message.extend(NodeId::ROOT.0.to_ne_bytes());
    for field in [me().uid, me().gid, 1, 0, flags, libc::S_IFREG | 0o600, 0, 0] {
        message.extend(field.to_ne_bytes());
    }
    message.extend(b"new\0");
    let worker = Worker {
        number: 0,
        waits: false,
    };
    shared.process(worker, &mut message, &mut Scratch::new(MAX_IO));
    let mut reply = vec![0; 4096];
    let mut kernel = kernel;
    kernel
        .set_read_timeout(Some(Duration::from_secs(120)))
        .unwrap();
    let length = kernel.read(&mut reply).unwrap();
    reply.truncate(length);
    let error = i32::from_ne_bytes(reply[4..8].try_into().unwrap());
    shared.close();
    (world, fs, error, reply.split_off(OUT_HEADER))
}

#[test]
fn a_file_made_while_its_maker_lost_access_is_not_given_to_them() {
    let (_world, fs, error, body) = create(Err(Errno::ACCES));
    assert_eq!((error, body.len()), (-libc::EACCES, 0));
    assert!(fs.all_handles().is_empty());
    // It was made, and is nobody's.
    fs.lookup(&me(), NodeId::ROOT, OsStr::new("new")).unwrap();
}

#[test]
fn and_it_is_given_once_if_they_have_not() {
    let (_world, fs, error, body) = create(Ok(()));
    assert_eq!(error, 0);
    assert!(!body.is_empty());
    assert_eq!(fs.all_handles().len(), 1);
}
