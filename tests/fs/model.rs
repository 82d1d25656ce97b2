//! Random programs of operations on a mount, against a reference in memory.
//!
//! Generator and reference are those of `kmsfs/src/fs/tests/program`, where the lower file system is simulated and may lose
//! its power. Here everything is real: the kernel, its caches, the lower file system; stops are unmounts and SIGKILL.

#[allow(
    dead_code,
    reason = "shared with the programs on a simulated lower file system"
)]
#[path = "../../kmsfs/src/fs/tests/program/op.rs"]
mod op;
#[allow(
    dead_code,
    reason = "shared with the programs on a simulated lower file system"
)]
#[path = "../../kmsfs/src/fs/tests/program/reference.rs"]
mod reference;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use kms_tests::mount::Mount;
use kms_tests::require;
use kms_tests::world::World;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags};

use self::op::{Op, name, op, target};
use self::reference::{Id, Object, ROOT, Reference, new_dir, put, zero};

/// A volume that is mounted again after each stop; each program has a directory of its own.
struct Stage<'a> {
    world: &'a World,
    lower: PathBuf,
    mount: Option<Mount>,
    programs: usize,
}

impl Stage<'_> {
    fn start_again(&mut self, kill: bool) {
        match self.mount.take() {
            Some(mount) if kill => mount.kill(),
            Some(mount) => mount.unmount(),
            None => {}
        }
        self.mount = Some(self.world.mount(&self.lower));
    }

    fn run(&mut self, ops: &[Op]) {
        if self.mount.is_none() {
            self.start_again(false);
        }
        self.programs += 1;
        let root = self.mount.as_ref().unwrap();
        let root = root.path(format!("program {}", self.programs));
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
        let mut run = Run {
            stage: self,
            root,
            reference: Reference::new(),
            handles: Vec::new(),
        };
        for (number, op) in ops.iter().enumerate() {
            run.step(op, number);
        }
        run.compare("at the end");
        run.handles.clear();
        fs::remove_dir_all(&run.root).unwrap();
    }
}

struct Run<'a, 'b> {
    stage: &'a mut Stage<'b>,
    root: PathBuf,
    reference: Reference,
    handles: Vec<(Id, File)>,
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|at| (seed.wrapping_add(at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

/// 0, or the error number.
fn number_of<T>(done: io::Result<T>) -> i32 {
    match done {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap(),
    }
}

fn expected<T>(done: Result<T, kmsfs::errno::Errno>) -> i32 {
    done.map_or_else(|errno| errno.raw(), |_| 0)
}

fn key(number: usize) -> Vec<u8> {
    let mut key = [b"user.".to_vec(), name(number)].concat();
    key.truncate(255);
    key
}

impl Run<'_, '_> {
    fn at(&self, path: &[Vec<u8>]) -> PathBuf {
        let mut whole = self.root.clone();
        whole.extend(path.iter().map(|name| OsStr::from_bytes(name)));
        whole
    }

    fn path(&self, id: Id) -> PathBuf {
        self.at(&self.reference.path(id).unwrap())
    }

    fn dir(&self, number: usize) -> (Id, PathBuf) {
        let dirs = |object: &Object| matches!(object, Object::Dir(_));
        let id = self.reference.pick(number, dirs).unwrap();
        (id, self.path(id))
    }

    fn file(&self, number: usize) -> Option<(Id, PathBuf)> {
        let files = |object: &Object| matches!(object, Object::File(_));
        let id = self.reference.pick(number, files)?;
        Some((id, self.path(id)))
    }

    fn handle(&self, number: usize) -> Option<(Id, &File)> {
        let count = self.handles.len();
        (count > 0).then(|| {
            let (id, file) = &self.handles[number % count];
            (*id, file)
        })
    }

    fn step(&mut self, op: &Op, number: usize) {
        let (done, expected) = match op {
            Op::Remount => return self.stop(false),
            // The power goes in the crash tests.
            Op::Kill | Op::PowerCut { .. } => return self.stop(true),
            Op::Create { .. } | Op::Mkdir { .. } | Op::Symlink { .. } | Op::Fifo { .. } => {
                self.make(op)
            }
            Op::Link { .. } | Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename { .. } => {
                self.names(op)
            }
            Op::SetXattr { .. } | Op::RemoveXattr { .. } | Op::Chmod { .. } => self.attribute(op),
            _ => self.content(op),
        };
        // More than one thing may be wrong with a rename.
        let ways = [libc::EINVAL, libc::ENOTDIR, libc::EISDIR, libc::ENOTEMPTY];
        let either =
            matches!(op, Op::Rename { .. }) && ways.contains(&done) && ways.contains(&expected);
        assert!(
            done == expected || either,
            "{op:?}, step {number}: errno {done}, not {expected}"
        );
    }

    fn stop(&mut self, kill: bool) {
        self.handles.clear();
        self.stage.start_again(kill);
        self.compare(if kill {
            "after SIGKILL"
        } else {
            "mounted again"
        });
    }

    fn make(&mut self, op: &Op) -> (i32, i32) {
        let (Op::Create { dir, name: number }
        | Op::Mkdir { dir, name: number }
        | Op::Symlink {
            dir, name: number, ..
        }
        | Op::Fifo { dir, name: number }) = op
        else {
            unreachable!("not one that makes something");
        };
        let (dir, folder) = self.dir(*dir);
        let named = name(*number);
        let path = folder.join(OsStr::from_bytes(&named));
        let mode = Mode::from_raw_mode(0o750);
        let (object, mode, done) = match op {
            Op::Create { .. } => {
                let made = rustix::fs::open(
                    &path,
                    rustix::fs::OFlags::RDWR
                        | rustix::fs::OFlags::CREATE
                        | rustix::fs::OFlags::EXCL,
                    mode,
                );
                let made = made.map(|file| {
                    let id = self.reference.nodes.len();
                    self.handles.push((id, File::from(file)));
                });
                let made = made.map_err(io::Error::from);
                (Object::File(vec![Vec::new()]), 0o750, number_of(made))
            }
            Op::Mkdir { .. } => {
                let made = rustix::fs::mkdir(&path, mode).map_err(io::Error::from);
                (new_dir(dir), 0o750, number_of(made))
            }
            Op::Symlink { target: number, .. } => {
                let target = target(*number);
                let made = symlink(OsStr::from_bytes(&target), &path);
                (Object::Symlink(target), 0o777, number_of(made))
            }
            _ => {
                let made = rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0);
                let made = made.map_err(io::Error::from);
                (Object::Fifo, 0o750, number_of(made))
            }
        };
        let id = self.reference.add(object, mode);
        (done, expected(self.reference.insert(dir, &named, id)))
    }

    fn names(&mut self, op: &Op) -> (i32, i32) {
        let join = |folder: &Path, name: &[u8]| folder.join(OsStr::from_bytes(name));
        match op {
            Op::Link {
                file,
                dir,
                name: number,
            } => {
                let ((dir, folder), named) = (self.dir(*dir), name(*number));
                let Some((file, path)) = self.file(*file) else {
                    return (0, 0);
                };
                let done = fs::hard_link(path, join(&folder, &named));
                let owed = self.reference.insert(dir, &named, file);
                (number_of(done), expected(owed))
            }
            Op::Unlink { dir, name: number } => {
                let ((dir, folder), named) = (self.dir(*dir), name(*number));
                let done = fs::remove_file(join(&folder, &named));
                (
                    number_of(done),
                    expected(self.reference.unlink(dir, &named)),
                )
            }
            Op::Rmdir { dir, name: number } => {
                let ((dir, folder), named) = (self.dir(*dir), name(*number));
                let done = fs::remove_dir(join(&folder, &named));
                (number_of(done), expected(self.reference.rmdir(dir, &named)))
            }
            Op::Rename {
                dir,
                name: old,
                to,
                new,
                flags,
            } => {
                let ((dir, from), old) = (self.dir(*dir), name(*old));
                let ((to, into), new) = (self.dir(*to), name(*new));
                let done = rustix::fs::renameat_with(
                    CWD,
                    join(&from, &old),
                    CWD,
                    join(&into, &new),
                    RenameFlags::from_bits_retain(*flags),
                );
                let owed = self.reference.rename(dir, &old, to, &new, *flags);
                (number_of(done.map_err(io::Error::from)), expected(owed))
            }
            _ => unreachable!("not one about names"),
        }
    }

    fn attribute(&mut self, op: &Op) -> (i32, i32) {
        let (Op::SetXattr { object, .. }
        | Op::RemoveXattr { object, .. }
        | Op::Chmod { object, .. }) = op
        else {
            unreachable!("not one about attributes");
        };
        let wanted = |object: &Object| matches!(object, Object::File(_) | Object::Dir(_));
        let id = self.reference.pick(*object, wanted).unwrap();
        let path = self.path(id);
        let node = &mut self.reference.nodes[id];
        match op {
            Op::SetXattr { name, length, .. } => {
                let (key, value) = (key(*name), noise(*length as u64, *length));
                let named = OsStr::from_bytes(&key);
                let done = rustix::fs::setxattr(&path, named, &value, XattrFlags::empty());
                if done == Err(rustix::io::Errno::NOSPC) {
                    // As much as the lower file system takes.
                    return (0, 0);
                }
                node.xattrs.insert(key, value);
                (number_of(done.map_err(io::Error::from)), 0)
            }
            Op::RemoveXattr { name, .. } => {
                let key = key(*name);
                let done = rustix::fs::removexattr(&path, OsStr::from_bytes(&key));
                let known = node.xattrs.remove(&key).is_some();
                let owed = if known { 0 } else { libc::ENODATA };
                (number_of(done.map_err(io::Error::from)), owed)
            }
            Op::Chmod { mode, .. } => {
                node.mode = *mode;
                let done = fs::set_permissions(&path, Permissions::from_mode(*mode));
                (number_of(done), 0)
            }
            _ => unreachable!("not one about attributes"),
        }
    }

    fn content(&mut self, op: &Op) -> (i32, i32) {
        match op {
            Op::Open { file, cut } => {
                let Some((id, path)) = self.file(*file) else {
                    return (0, 0);
                };
                let mut options = OpenOptions::new();
                let file = options.read(true).write(true).truncate(*cut).open(path);
                if *cut {
                    self.reference.change(id, Vec::clear);
                }
                (number_of(file.map(|file| self.handles.push((id, file)))), 0)
            }
            Op::Resize { file, size } => {
                let Some((id, path)) = self.file(*file) else {
                    return (0, 0);
                };
                let file = OpenOptions::new().write(true).open(path);
                self.reference
                    .change(id, |content| content.resize(*size as usize, 0));
                (number_of(file.and_then(|file| file.set_len(*size))), 0)
            }
            Op::SyncDir { dir } => {
                let (_, path) = self.dir(*dir);
                (
                    number_of(File::open(path).and_then(|dir| dir.sync_all())),
                    0,
                )
            }
            Op::SyncAll => {
                self.stage.mount.as_ref().unwrap().sync();
                (0, 0)
            }
            _ => self.with_handle(op),
        }
    }

    fn with_handle(&mut self, op: &Op) -> (i32, i32) {
        let (Op::Close { handle }
        | Op::Write { handle, .. }
        | Op::Punch { handle, .. }
        | Op::Zero { handle, .. }
        | Op::Allocate { handle, .. }
        | Op::Sync { handle }
        | Op::Copy { from: handle, .. }) = op
        else {
            unreachable!("not one with a handle");
        };
        let Some((id, file)) = self.handle(*handle) else {
            return (0, 0);
        };
        let allocate = |how: FallocateFlags, at: u64, length: u64| {
            let done = rustix::fs::fallocate(file, how, at, length);
            number_of(done.map_err(io::Error::from))
        };
        let kept = |keep: bool| match keep {
            true => FallocateFlags::KEEP_SIZE,
            false => FallocateFlags::empty(),
        };
        let grow = |content: &mut Vec<u8>, end: u64| {
            if content.len() < end as usize {
                content.resize(end as usize, 0);
            }
        };
        match op {
            Op::Close { .. } => {
                let at = handle % self.handles.len();
                self.handles.remove(at);
                (0, 0)
            }
            Op::Write {
                at, length, seed, ..
            } => {
                let data = noise(*seed, *length);
                let done = number_of(file.write_all_at(&data, *at));
                self.reference
                    .change(id, |content| put(content, *at, &data));
                (done, 0)
            }
            Op::Punch { at, length, .. } if *length > 0 => {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let done = allocate(how, *at, *length);
                self.reference
                    .change(id, |content| zero(content, *at, *length));
                (done, 0)
            }
            Op::Zero {
                at, length, keep, ..
            } if *length > 0 => {
                let done = allocate(FallocateFlags::ZERO_RANGE | kept(*keep), *at, *length);
                self.reference.change(id, |content| {
                    if !keep {
                        grow(content, at + length);
                    }
                    zero(content, *at, *length);
                });
                (done, 0)
            }
            Op::Allocate {
                at, length, keep, ..
            } if *length > 0 => {
                let done = allocate(kept(*keep), *at, *length);
                if !keep {
                    self.reference
                        .change(id, |content| grow(content, at + length));
                }
                (done, 0)
            }
            Op::Copy {
                to,
                at,
                length,
                new,
                ..
            } => {
                let (other, target) = self.handle(*to).unwrap();
                let source = self.reference.content(id);
                let start = (*at as usize).min(source.len());
                let part = source[start..(start + *length as usize).min(source.len())].to_vec();
                let count = part.len() as u64;
                let overlap = *at < new + count && *new < at + count;
                let (mut from, mut into) = (*at, *new);
                let copied = rustix::fs::copy_file_range(
                    file,
                    Some(&mut from),
                    target,
                    Some(&mut into),
                    *length as usize,
                );
                if id == other && count > 0 && overlap {
                    return (number_of(copied.map_err(io::Error::from)), libc::EINVAL);
                }
                assert_eq!(copied, Ok(part.len()), "{op:?}");
                self.reference
                    .change(other, |content| put(content, *new, &part));
                (0, 0)
            }
            Op::Sync { .. } => (number_of(file.sync_all()), 0),
            _ => (0, 0),
        }
    }

    /// The whole tree, and what handles show.
    fn compare(&self, when: &str) {
        for (path, id) in self.reference.walk() {
            let node = &self.reference.nodes[id];
            let place = self.at(&path);
            let meta = place
                .symlink_metadata()
                .unwrap_or_else(|error| panic!("{when}: {place:?}: {error}"));
            assert_eq!(meta.mode() & 0o7777, node.mode, "{when}: mode of {place:?}");
            let links = self.reference.links(id) as u64;
            assert_eq!(meta.nlink(), links, "{when}: links of {place:?}");
            match &node.object {
                Object::File(_) => {
                    let content = self.reference.content(id);
                    assert_eq!(meta.len(), content.len() as u64, "{when}: {place:?}");
                    let found = fs::read(&place);
                    let found = found.unwrap_or_else(|error| panic!("{when}: {place:?}: {error}"));
                    assert!(&found == content, "{when}: content of {place:?}");
                }
                Object::Dir(dir) => {
                    let mut names: Vec<_> = fs::read_dir(&place)
                        .unwrap()
                        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
                        .collect();
                    names.sort();
                    let owed: Vec<_> = dir.entries.keys().cloned().collect();
                    assert_eq!(names, owed, "{when}: names in {place:?}");
                }
                Object::Symlink(target) => {
                    let found = fs::read_link(&place).unwrap();
                    assert_eq!(found.as_os_str().as_bytes(), target, "{when}: {place:?}");
                }
                Object::Fifo => assert!(meta.file_type().is_fifo(), "{when}: {place:?}"),
            }
            for (key, value) in &node.xattrs {
                let mut found = vec![0; 400];
                let got = rustix::fs::getxattr(&place, OsStr::from_bytes(key), &mut found[..]);
                let got = got.unwrap_or_else(|error| panic!("{when}: {place:?}: {error}"));
                assert!(&found[..got] == value, "{when}: attribute of {place:?}");
            }
        }
        for (id, file) in &self.handles {
            let content = self.reference.content(*id);
            let mut found = vec![0; content.len() + 1];
            let got = file.read_at(&mut found, 0).unwrap();
            assert!(&found[..got] == content, "{when}: through a handle");
        }
        assert_eq!(self.reference.path(ROOT), Some(Vec::new()));
    }
}

fn on_a_stage(mode: &str, test: impl Fn(&RefCell<Stage>)) {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    let lower = crate::volume(&world, &format!("model-{mode}"), mode);
    let stage = RefCell::new(Stage {
        world: &world,
        lower,
        mount: None,
        programs: 0,
    });
    test(&stage);
    let mount = stage.borrow_mut().mount.take();
    mount.unwrap().unmount();
}

fn random_programs(mode: &str) {
    on_a_stage(mode, |stage| {
        let mut runner = TestRunner::new(ProptestConfig {
            cases: if require::full() { 1_000 } else { 25 },
            max_shrink_iters: 300,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let programs = prop::collection::vec(op(), 20..60);
        let done = runner.run(&programs, |ops| {
            stage.borrow_mut().run(&ops);
            Ok(())
        });
        if let Err(what) = done {
            panic!("mode {mode}: {what}");
        }
    });
}

#[test]
fn programs_in_mode_xts() {
    random_programs("xts");
}

#[test]
fn programs_in_mode_gcm() {
    random_programs("gcm");
}

/// Found on the simulated lower file system.
#[test]
fn a_size_that_ends_with_a_page_is_kept_when_kmsfs_is_killed() {
    let write = |at, length| Op::Write {
        handle: 0,
        at,
        length,
        seed: 0,
    };
    let resize = |size| Op::Resize { file: 0, size };
    for mode in crate::modes() {
        on_a_stage(mode, |stage| {
            for ops in [
                vec![write(4064, 4065), resize(12_192)],
                vec![write(0, 4065), resize(8129), resize(8128)],
            ] {
                let mut program = vec![Op::Create { dir: 0, name: 0 }];
                program.extend(ops);
                program.push(Op::Kill);
                stage.borrow_mut().run(&program);
            }
        });
    }
}
