//! Calls of the lower file system that fail: the caller is told, and nothing that was there is lost.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kms_format::ContentMode;
use rustix::io::Errno as Raw;

use super::op::Op;
use super::reference::{Id, Object};
use super::run::Run;
use crate::backing::sim::{Failure, Model, Op as Call};
use crate::errno::{Errno, FsResult};
use crate::fs::tests::world::{World, me};
use crate::fs::{Fs, NodeId};

const ERRNOS: [Raw; 5] = [Raw::IO, Raw::NOSPC, Raw::DQUOT, Raw::ROFS, Raw::STALE];

/// Programs in which every operation is done, on what it is different for.
fn programs() -> Vec<Vec<Op>> {
    let write = |handle, at, length| Op::Write {
        handle,
        at,
        length,
        seed: at + 1,
    };
    let make = |dir, name| {
        [
            Op::Mkdir { dir, name },
            Op::Create {
                dir,
                name: name + 1,
            },
        ]
    };
    let content = vec![
        Op::Create { dir: 0, name: 0 },
        write(0, 0, 100),
        write(0, 100, 1000),
        Op::Resize { file: 0, size: 50 },
        Op::Punch {
            handle: 0,
            at: 10,
            length: 20,
        },
        Op::Sync { handle: 0 },
        write(0, 50, 9000),
        write(0, 9300, 5),
        write(0, 4090, 20),
        Op::Resize {
            file: 0,
            size: 5003,
        },
        Op::Resize {
            file: 0,
            size: 30_001,
        },
        Op::Punch {
            handle: 0,
            at: 4001,
            length: 9002,
        },
        Op::Zero {
            handle: 0,
            at: 29_000,
            length: 9000,
            keep: false,
        },
        Op::Allocate {
            handle: 0,
            at: 38_000,
            length: 10_007,
            keep: false,
        },
        Op::Create { dir: 0, name: 1 },
        write(1, 0, 10_001),
        Op::Copy {
            from: 0,
            to: 1,
            at: 10,
            length: 5000,
            new: 7,
        },
        Op::Sync { handle: 1 },
        Op::Resize { file: 0, size: 0 },
        write(0, 0, 10),
        Op::Resize {
            file: 0,
            size: 100_000,
        },
        Op::Open { file: 1, cut: true },
        Op::SyncAll,
        write(1, 70_000, 3),
    ];
    let mut names = Vec::new();
    names.extend(make(0, 0));
    names.extend(make(1, 5));
    names.extend([
        Op::Create { dir: 0, name: 7 },
        Op::Mkdir { dir: 0, name: 6 },
        Op::Symlink {
            dir: 0,
            name: 2,
            target: 0,
        },
        Op::Symlink {
            dir: 0,
            name: 3,
            target: 4,
        },
        Op::Symlink {
            dir: 1,
            name: 7,
            target: 3,
        },
        Op::Fifo { dir: 0, name: 4 },
        Op::Link {
            file: 0,
            dir: 1,
            name: 2,
        },
        Op::Link {
            file: 0,
            dir: 1,
            name: 3,
        },
        Op::SetXattr {
            object: 1,
            name: 0,
            length: 10,
        },
        Op::SetXattr {
            object: 2,
            name: 0,
            length: 10,
        },
        Op::RemoveXattr { object: 1, name: 0 },
        Op::Chmod {
            object: 1,
            mode: 0o700,
        },
        Op::Chmod {
            object: 2,
            mode: 0o600,
        },
        Op::SyncDir { dir: 0 },
        Op::Rename {
            dir: 0,
            name: 1,
            to: 1,
            new: 4,
            flags: 0,
        },
        Op::Rename {
            dir: 1,
            name: 4,
            to: 0,
            new: 7,
            flags: 0,
        },
        Op::Rename {
            dir: 0,
            name: 7,
            to: 0,
            new: 3,
            flags: 0,
        },
        Op::Rename {
            dir: 0,
            name: 2,
            to: 1,
            new: 2,
            flags: 2,
        },
        Op::Mkdir { dir: 0, name: 5 },
        Op::Rename {
            dir: 1,
            name: 5,
            to: 0,
            new: 5,
            flags: 0,
        },
        Op::Unlink { dir: 1, name: 7 },
        Op::Unlink { dir: 1, name: 3 },
        Op::Rmdir { dir: 0, name: 6 },
        Op::SyncAll,
    ]);
    vec![content, names]
}

/// The file whose content an operation changes.
fn changed_file(before: &Run, op: &Op) -> Option<Id> {
    match op {
        Op::Write { handle, .. }
        | Op::Punch { handle, .. }
        | Op::Zero { handle, .. }
        | Op::Allocate { handle, .. } => before.handle_of(*handle),
        Op::Copy { to, .. } => before.handle_of(*to),
        Op::Resize { file, .. } | Op::Open { file, .. } => {
            let file_only = |object: &Object| matches!(object, Object::File(_));
            before.reference.pick(*file, file_only)
        }
        _ => None,
    }
}

impl Run {
    fn fits(&self) -> bool {
        catch_unwind(AssertUnwindSafe(|| self.compare("after a failure"))).is_ok()
    }

    /// An operation failed: everything else is as before, and this was not done, or done, or, for content, done in part.
    fn after_failure(&mut self, op: &Op, before: super::reference::Reference, file: Option<Id>) {
        let after = std::mem::replace(&mut self.reference, before);
        if let Some(id) = file {
            let (old, new) = (
                self.reference.content(id).clone(),
                after.content(id).clone(),
            );
            let path = self.reference.path(id).unwrap();
            let node = self.enter(&path).unwrap();
            let found = self.world.get(node).unwrap();
            self.world.fs().forget(node, 1);
            // A file may have been cut in part.
            let between = new.len()..=old.len();
            assert!(
                found.len() == new.len()
                    || found.len() == old.len()
                    || between.contains(&found.len()),
                "{op:?}: {} bytes, not from {} to {}",
                found.len(),
                old.len(),
                new.len()
            );
            for (at, byte) in found.iter().enumerate() {
                let sides = [old.get(at), new.get(at)];
                assert!(
                    sides.contains(&Some(byte)),
                    "{op:?}: byte {at} is {byte}, {sides:?}"
                );
            }
            self.reference.change(id, |content| *content = found);
        } else if !self.fits() {
            self.reference = after;
        }
        self.compare(&format!("after {op:?} failed"));
    }

    /// Runs a program in which calls fail as `plan` says. Gives the number of calls that change or sync something.
    fn with_faults(
        mut self,
        ops: &[Op],
        errno: Errno,
        plan: impl FnMut(Call, u64) -> Option<Failure> + Send + 'static,
    ) -> u64 {
        self.world.below().fail(plan);
        for (number, op) in ops.iter().enumerate() {
            let (before, file) = (self.reference.clone(), changed_file(&self, op));
            let (done, expected) = self.call(op, number);
            if done == expected {
                continue;
            }
            assert_eq!(
                (done, expected),
                (Err(errno), Ok(())),
                "{op:?}, step {number}"
            );
            self.after_failure(op, before, file);
        }
        let calls = self.world.below().mend();
        self.compare("when the faults are over");
        self.finish();
        calls
    }
}

#[test]
fn every_call_may_fail_once() {
    for ops in programs() {
        let calls = Run::new(Model::Journal).with_faults(&ops, Errno::IO, |_, _| None);
        assert!(calls > 40, "{calls} calls");
        for errno in ERRNOS {
            for call in 1..=calls {
                let mut failed = false;
                let once = move |_, number| {
                    let now = number == call && !failed;
                    failed |= now;
                    now.then_some(Failure::Errno(errno))
                };
                Run::new(Model::Journal).with_faults(&ops, errno.into(), once);
            }
        }
    }
}

#[test]
fn short_writes_are_gone_on_with() {
    for ops in programs() {
        let half = |call, _| (call == Call::Write).then_some(Failure::Short);
        Run::new(Model::Journal).with_faults(&ops, Errno::IO, half);
    }
}

/// A file that was written and not synced, with two handles.
fn twice_open(run: &Run) -> [crate::fs::FileHandle; 2] {
    let (entry, first) = run.world.create(NodeId::ROOT, "file");
    let opened = run.world.fs().open(&me(), entry.node, libc::O_RDWR, false);
    run.world.write(first, 0, b"content");
    [first, opened.unwrap().fh]
}

fn syncs_fail(run: &Run) {
    let fail = |call, _| (call == Call::Sync).then_some(Failure::Errno(Raw::IO));
    run.world.below().fail(fail);
}

// SEMANTICS: failed fsyncs
#[test]
fn every_handle_is_told_once_that_an_fsync_failed() {
    let run = Run::new(Model::Journal);
    let [first, second] = twice_open(&run);
    let sync = |fh| run.world.fs().fsync(fh, true);
    syncs_fail(&run);
    assert_eq!(sync(first), Err(Errno::IO));
    run.world.below().mend();
    assert_eq!(
        sync(second),
        Err(Errno::IO),
        "the lower error was told to the other"
    );
    assert_eq!([sync(first), sync(second)], [Ok(()), Ok(())]);
}

// SEMANTICS: failed fsyncs
#[test]
fn who_opens_a_file_after_its_length_could_not_be_synced_is_told() {
    let world = World::simulated_with(Model::Journal, ContentMode::Gcm);
    let (entry, fh) = world.create(NodeId::ROOT, "file");
    world.write(fh, 0, &[1; 10_000]);
    world.fs().release(fh);
    world
        .below()
        .fail(|call, _| (call == Call::Sync).then_some(Failure::Errno(Raw::IO)));
    world.fs().lengths.settle();
    world.below().mend();
    let open = || world.fs().open(&me(), entry.node, libc::O_RDWR, false);
    let [first, second] = [open(), open()].map(|opened| opened.unwrap().fh);
    let sync = |fh| world.fs().fsync(fh, true);
    assert_eq!(
        [sync(first), sync(second)],
        [Err(Errno::IO), Err(Errno::IO)],
        "the lower error was told to nobody"
    );
    let later = open().unwrap().fh;
    assert_eq!([sync(first), sync(second), sync(later)], [Ok(()); 3]);
}

/// Does `attempt`, whose fsync fails, then once more; then cuts the power, and looks.
fn retried_and_cut(attempt: impl Fn(&Fs) -> FsResult<()>, look: impl Fn(&Run) -> bool) {
    for seed in 0..40 {
        let mut run = Run::new(Model::Journal);
        syncs_fail(&run);
        assert_eq!(attempt(run.world.fs()), Err(Errno::IO));
        run.world.below().mend();
        attempt(run.world.fs()).unwrap();
        run.world.power_cut(Model::Journal, seed);
        run.world.remount();
        assert!(look(&run), "seed {seed}");
    }
}

fn sync_root(fs: &Fs) -> FsResult<()> {
    let fh = fs.opendir(&me(), NodeId::ROOT)?;
    let done = fs.fsyncdir(fh, false);
    fs.releasedir(fh);
    done
}

#[test]
fn a_header_is_written_again_after_its_fsync_failed() {
    let name = std::ffi::OsStr::new("dir");
    retried_and_cut(
        |fs| {
            let dir = match fs.mkdir(&me(), NodeId::ROOT, name, 0o755, 0) {
                Err(Errno::EXIST) => fs.lookup(&me(), NodeId::ROOT, name)?,
                made => made?,
            };
            sync_root(fs)?;
            fs.mkdir(&me(), dir.node, name, 0o755, 0)?;
            sync_root(fs)?;
            let fh = fs.opendir(&me(), dir.node)?;
            fs.fsyncdir(fh, false)
        },
        |run| run.world.at(&["dir", "dir"]).is_ok(),
    );
}

#[test]
fn a_record_of_a_long_name_is_written_again_after_its_fsync_failed() {
    let name = "n".repeat(200);
    retried_and_cut(
        |fs| {
            fs.mkdir(&me(), NodeId::ROOT, std::ffi::OsStr::new(&name), 0o755, 0)?;
            sync_root(fs)
        },
        |run| {
            let names = run.world.names(NodeId::ROOT);
            names == [name.as_bytes()] && run.world.at(&[&name]).is_ok()
        },
    );
}

#[test]
fn what_is_removed_or_replaced_below_is_stale_and_nothing_worse() {
    let run = Run::new(Model::Journal);
    let entry = run.world.create(NodeId::ROOT, "file").0;
    let open = run
        .world
        .fs()
        .open(&me(), entry.node, libc::O_RDWR, false)
        .unwrap()
        .fh;
    run.world.write(open, 0, b"content");
    let root = run.world.root();
    let mut listing = root.list().unwrap();
    let mut stored = String::new();
    while let Some(lower) = listing.peek().unwrap() {
        if lower.name.len() == 43 {
            stored = String::from_utf8(lower.name.clone()).unwrap();
        }
        listing.advance();
    }
    root.unlink(&stored).unwrap();
    let fs = run.world.fs();
    // Who has it open goes on.
    run.world.write(open, 3, b"more");
    assert_eq!(fs.getattr(&me(), entry.node, None).unwrap().size, 7);
    assert_eq!(run.world.at(&["file"]).unwrap_err(), Errno::NOENT);
    // Another object in its place, which is not a file of ours.
    root.create_file(&stored, 0o600)
        .unwrap()
        .write_at(&[7; 5000], 0)
        .unwrap();
    let other = run.world.at(&["file"]).unwrap();
    assert_ne!(other.node, entry.node);
    assert_eq!(run.world.get(other.node), Err(Errno::IO));
    assert_eq!(fs.getattr(&me(), entry.node, None).unwrap().size, 7);
    fs.release(open);
    fs.unlink(&me(), NodeId::ROOT, std::ffi::OsStr::new("file"))
        .unwrap();
    assert_eq!(run.world.names(NodeId::ROOT), Vec::<Vec<u8>>::new());
}
