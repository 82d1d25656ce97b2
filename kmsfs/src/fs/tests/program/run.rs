//! Does a program on both sides, and compares.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use kms_format::ContentMode;

use super::op::{Op, name, target};
use super::reference::{Id, Object, ROOT, Reference, new_dir, put, zero};
use crate::backing::sim::Model;
use crate::errno::{Errno, FsResult};
use crate::fs::tests::world::{World, me, noise};
use crate::fs::{Entry, FileHandle, Fs, Kind, NodeId, SetAttr};

/// A program being run.
pub(super) struct Run {
    pub(super) world: World,
    pub(super) model: Model,
    pub(super) reference: Reference,
    /// The trees that a power cut may leave: the last one that is durable, and all since.
    pub(super) states: Vec<Reference>,
    /// Each with the reference to its node that the kernel would hold.
    handles: Vec<(Id, FileHandle, NodeId)>,
    /// There was a power cut.
    lost: bool,
    /// The last operation was an fsync.
    committed: bool,
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

impl Run {
    pub(super) fn new(model: Model) -> Run {
        Run::over(model, World::simulated(model))
    }

    /// In a content mode, whichever is the usual one.
    pub(super) fn with(model: Model, mode: ContentMode) -> Run {
        Run::over(model, World::simulated_with(model, mode))
    }

    fn over(model: Model, world: World) -> Run {
        let reference = Reference::new();
        Run {
            world,
            model,
            states: vec![reference.clone()],
            reference,
            handles: Vec::new(),
            lost: false,
            committed: false,
        }
    }

    pub(super) fn all(mut self, ops: &[Op]) {
        for (number, op) in ops.iter().enumerate() {
            self.step(op, number);
            if self.committed && self.model == Model::Journal {
                self.states.clear();
            }
            self.committed = false;
            self.states.push(self.reference.clone());
        }
        self.compare("at the end");
        self.step(&Op::Remount, ops.len());
    }

    fn fs(&self) -> &Fs {
        self.world.fs()
    }

    /// The node of a path; the caller forgets it.
    pub(super) fn enter(&self, path: &[Vec<u8>]) -> FsResult<NodeId> {
        let mut here = NodeId::ROOT;
        for component in path {
            let next = self.fs().lookup(&me(), here, os(component));
            self.fs().forget(here, 1);
            here = next?.node;
        }
        Ok(here)
    }

    /// Runs `work` on the node of an object that has a name.
    fn on<T>(&self, id: Id, work: impl FnOnce(&Fs, NodeId) -> T) -> T {
        let path = self.reference.path(id).unwrap();
        let node = self.enter(&path).unwrap();
        let done = work(self.fs(), node);
        self.fs().forget(node, 1);
        done
    }

    fn forgetting(&self, entry: FsResult<Entry>) -> FsResult<()> {
        entry.map(|entry| self.fs().forget(entry.node, 1))
    }

    fn pick_dir(&self, number: usize) -> Id {
        self.reference
            .pick(number, |object| matches!(object, Object::Dir(_)))
            .unwrap()
    }

    fn pick_file(&self, number: usize) -> Option<Id> {
        self.reference
            .pick(number, |object| matches!(object, Object::File(_)))
    }

    /// The file that a handle is of.
    pub(super) fn handle_of(&self, number: usize) -> Option<Id> {
        self.handle(number).map(|(id, ..)| id)
    }

    /// A clean unmount keeps everything.
    pub(super) fn finish(mut self) {
        self.remount();
    }

    fn handle(&self, number: usize) -> Option<(Id, FileHandle, NodeId)> {
        let count = self.handles.len();
        (count > 0).then(|| self.handles[number % count])
    }

    fn step(&mut self, op: &Op, number: usize) {
        let (done, expected) = match op {
            Op::Remount => return self.remount(),
            Op::Kill => return self.kill(),
            Op::PowerCut { seed } => return self.power_cut(*seed),
            _ => self.call(op, number),
        };
        // More than one thing may be wrong with a rename.
        let wrong = |done: &FsResult<()>| {
            let ways = [Errno::INVAL, Errno::NOTDIR, Errno::ISDIR, Errno::NOTEMPTY];
            matches!(op, Op::Rename { .. }) && done.is_err_and(|errno| ways.contains(&errno))
        };
        if !(wrong(&done) && wrong(&expected)) {
            assert_eq!(done, expected, "{op:?}, step {number}");
        }
    }

    /// Does an operation on both sides; what came of it, and what should have.
    pub(super) fn call(&mut self, op: &Op, number: usize) -> (FsResult<()>, FsResult<()>) {
        match op {
            Op::SyncAll => {
                let done = self.fs().sync_all();
                self.reference.all_synced();
                self.states.clear();
                (done, Ok(()))
            }
            Op::Create { .. } | Op::Mkdir { .. } | Op::Symlink { .. } | Op::Fifo { .. } => {
                self.make(op)
            }
            Op::Link { .. } | Op::Unlink { .. } | Op::Rmdir { .. } | Op::Rename { .. } => {
                self.names(op)
            }
            Op::SetXattr { .. } | Op::RemoveXattr { .. } | Op::Chmod { .. } => self.attribute(op),
            _ => self.content(op, number),
        }
    }

    fn make(&mut self, op: &Op) -> (FsResult<()>, FsResult<()>) {
        let (dir, named) = match op {
            Op::Create { dir, name }
            | Op::Mkdir { dir, name }
            | Op::Symlink { dir, name, .. }
            | Op::Fifo { dir, name } => (self.pick_dir(*dir), super::op::name(*name)),
            _ => unreachable!("not one that makes something"),
        };
        let object = match op {
            Op::Create { .. } => Object::File(vec![Vec::new()]),
            Op::Mkdir { .. } => new_dir(dir),
            Op::Symlink { target: number, .. } => Object::Symlink(target(*number)),
            _ => Object::Fifo,
        };
        let (mut opened, mode) = (None, 0o750);
        let made = self.on(dir, |fs, node| match &object {
            Object::File(_) => {
                let flags = libc::O_RDWR | libc::O_EXCL;
                fs.create(&me(), node, os(&named), mode, 0, flags, false)
                    .map(|(entry, file)| {
                        opened = Some((file.fh, entry.node));
                        entry
                    })
            }
            Object::Dir(_) => fs.mkdir(&me(), node, os(&named), mode, 0),
            Object::Symlink(target) => fs.symlink(&me(), node, os(&named), os(target)),
            Object::Fifo => fs.mknod(&me(), node, os(&named), libc::S_IFIFO | mode, 0, 0),
        });
        let mode = if matches!(object, Object::Symlink(_)) {
            0o777
        } else {
            mode
        };
        let id = self.reference.add(object, mode);
        let expected = self.reference.insert(dir, &named, id);
        if let Some((fh, node)) = opened {
            self.handles.push((id, fh, node));
            return (made.map(drop), expected);
        }
        (self.forgetting(made), expected)
    }

    fn names(&mut self, op: &Op) -> (FsResult<()>, FsResult<()>) {
        match op {
            Op::Link { file, dir, name } => {
                let (dir, name) = (self.pick_dir(*dir), super::op::name(*name));
                let Some(file) = self.pick_file(*file) else {
                    return (Ok(()), Ok(()));
                };
                let linked = self.on(file, |fs, node| {
                    self.on(dir, |_, dir| fs.link(&me(), node, dir, os(&name)))
                });
                let linked = self.forgetting(linked);
                (linked, self.reference.insert(dir, &name, file))
            }
            Op::Unlink { dir, name } => {
                let (dir, name) = (self.pick_dir(*dir), super::op::name(*name));
                let done = self.on(dir, |fs, node| fs.unlink(&me(), node, os(&name)));
                (done, self.reference.unlink(dir, &name))
            }
            Op::Rmdir { dir, name } => {
                let (dir, name) = (self.pick_dir(*dir), super::op::name(*name));
                let done = self.on(dir, |fs, node| fs.rmdir(&me(), node, os(&name)));
                (done, self.reference.rmdir(dir, &name))
            }
            Op::Rename {
                dir,
                name: old,
                to,
                new,
                flags,
            } => {
                let (dir, old) = (self.pick_dir(*dir), name(*old));
                let (to, new) = (self.pick_dir(*to), name(*new));
                let done = self.on(dir, |fs, from| {
                    self.on(to, |_, to| {
                        fs.rename(&me(), from, os(&old), to, os(&new), *flags)
                    })
                });
                (done, self.reference.rename(dir, &old, to, &new, *flags))
            }
            _ => unreachable!("not one about names"),
        }
    }

    fn attribute(&mut self, op: &Op) -> (FsResult<()>, FsResult<()>) {
        let wanted = |object: &Object| matches!(object, Object::File(_) | Object::Dir(_));
        let number = match op {
            Op::SetXattr { object, .. }
            | Op::RemoveXattr { object, .. }
            | Op::Chmod { object, .. } => *object,
            _ => unreachable!("not one about attributes"),
        };
        let id = self.reference.pick(number, wanted).unwrap();
        let key = |number: usize| [b"user.".to_vec(), name(number)].concat();
        match op {
            Op::SetXattr { name, length, .. } => {
                // With the prefix a name may have 255 bytes.
                let mut key = key(*name);
                key.truncate(255);
                let value = noise(*length as u64, *length);
                let done = self.on(id, |fs, node| fs.setxattr(&me(), node, os(&key), &value, 0));
                self.reference.nodes[id].xattrs.insert(key, value);
                (done, Ok(()))
            }
            Op::RemoveXattr { name, .. } => {
                let mut key = key(*name);
                key.truncate(255);
                let done = self.on(id, |fs, node| fs.removexattr(&me(), node, os(&key)));
                let known = self.reference.nodes[id].xattrs.remove(&key);
                (done, known.map(drop).ok_or(Errno::NODATA))
            }
            Op::Chmod { mode, .. } => {
                let changes = SetAttr {
                    mode: Some(*mode),
                    ..SetAttr::default()
                };
                let done = self.on(id, |fs, node| fs.setattr(&me(), node, None, &changes));
                self.reference.nodes[id].mode = *mode;
                (done.map(drop), Ok(()))
            }
            _ => unreachable!("not one about attributes"),
        }
    }

    fn content(&mut self, op: &Op, number: usize) -> (FsResult<()>, FsResult<()>) {
        let nothing = (Ok(()), Ok(()));
        match op {
            Op::Open { file, cut } => {
                let Some(id) = self.pick_file(*file) else {
                    return nothing;
                };
                let flags = libc::O_RDWR | if *cut { libc::O_TRUNC } else { 0 };
                let node = self.enter(&self.reference.path(id).unwrap()).unwrap();
                let opened = self.fs().open(&me(), node, flags, false);
                if *cut {
                    self.reference.change(id, Vec::clear);
                }
                match opened {
                    Ok(opened) => self.handles.push((id, opened.fh, node)),
                    Err(errno) => {
                        self.fs().forget(node, 1);
                        return (Err(errno), Ok(()));
                    }
                }
            }
            Op::Resize { file, size } => {
                let Some(id) = self.pick_file(*file) else {
                    return nothing;
                };
                let changes = SetAttr {
                    size: Some(*size),
                    ..SetAttr::default()
                };
                let attr = self.on(id, |fs, node| fs.setattr(&me(), node, None, &changes));
                self.reference
                    .change(id, |content| content.resize(*size as usize, 0));
                let same = attr.map(|attr| assert_eq!(attr.size, *size, "step {number}"));
                return (same, Ok(()));
            }
            Op::SyncDir { dir } => {
                let id = self.pick_dir(*dir);
                let done = self.on(id, |fs, node| {
                    let fh = fs.opendir(&me(), node).unwrap();
                    let done = fs.fsyncdir(fh, false);
                    fs.releasedir(fh);
                    done
                });
                if done.is_err() {
                    return (done, Ok(()));
                }
                self.committed = true;
                self.reference.secure(id);
                for child in self.reference.dir(id).entries.clone().into_values() {
                    if self.reference.is_dir(child) {
                        self.reference.dir_mut(child).safe = true;
                    }
                }
                self.reference.dir_mut(id).clean = true;
            }
            _ => return self.with_handle(op, number),
        }
        nothing
    }

    fn with_handle(&mut self, op: &Op, number: usize) -> (FsResult<()>, FsResult<()>) {
        let nothing = (Ok(()), Ok(()));
        let mut done = Ok(());
        let chosen = match op {
            Op::Close { handle }
            | Op::Write { handle, .. }
            | Op::Punch { handle, .. }
            | Op::Zero { handle, .. }
            | Op::Allocate { handle, .. }
            | Op::Sync { handle } => handle,
            Op::Copy { from, .. } => from,
            _ => unreachable!("not one with a handle"),
        };
        let Some((id, fh, node)) = self.handle(*chosen) else {
            return nothing;
        };
        let fs = self.world.fs();
        let allocate = |at, length, mode| fs.fallocate(&me(), fh, at, length, mode);
        match op {
            Op::Close { .. } => {
                fs.release(fh);
                fs.forget(node, 1);
                self.handles.retain(|(_, known, _)| *known != fh);
            }
            Op::Write {
                at, length, seed, ..
            } => {
                let data = noise(*seed, *length);
                let written = fs.write(&me(), fh, *at, &mut data.clone(), false);
                done = written.map(|written| assert_eq!(written, *length, "step {number}"));
                self.reference
                    .change(id, |content| put(content, *at, &data));
            }
            Op::Punch { at, length, .. } if *length > 0 => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                done = allocate(*at, *length, mode);
                self.reference
                    .change(id, |content| zero(content, *at, *length));
            }
            Op::Zero {
                at, length, keep, ..
            } if *length > 0 => {
                let keep_size = if *keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                done = allocate(*at, *length, libc::FALLOC_FL_ZERO_RANGE | keep_size);
                self.reference.change(id, |content| {
                    if !keep && content.len() < (at + length) as usize {
                        content.resize((at + length) as usize, 0);
                    }
                    zero(content, *at, *length);
                });
            }
            Op::Allocate {
                at, length, keep, ..
            } if *length > 0 => {
                let keep_size = if *keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                done = allocate(*at, *length, keep_size);
                self.reference.change(id, |content| {
                    if !keep && content.len() < (at + length) as usize {
                        content.resize((at + length) as usize, 0);
                    }
                });
            }
            Op::Copy {
                to,
                at,
                length,
                new,
                ..
            } => {
                let Some((other, target, _)) = self.handle(*to) else {
                    return nothing;
                };
                let copied = fs.copy_file_range(&me(), fh, *at, target, *new, *length);
                let overlap = at < &(new + length) && new < &(at + length);
                if id == other && overlap {
                    return (copied.map(drop), Err(Errno::INVAL));
                }
                let source = self.reference.content(id);
                let start = (*at as usize).min(source.len());
                let part = source[start..(start + *length as usize).min(source.len())].to_vec();
                let whole = part.len() as u64;
                done = copied.map(|copied| assert_eq!(copied, whole, "step {number}"));
                self.reference
                    .change(other, |content| put(content, *new, &part));
            }
            Op::Sync { .. } => {
                done = fs.fsync(fh, number.is_multiple_of(2));
                if done.is_err() {
                    return (done, Ok(()));
                }
                self.committed = true;
                self.reference.sync_file(id);
                let parents: BTreeSet<_> = self
                    .reference
                    .walk()
                    .into_iter()
                    .filter(|(_, found)| *found == id)
                    .map(|(path, _)| path[..path.len() - 1].to_vec())
                    .collect();
                // Only names that were looked up are known to be such.
                if let [path] = &parents.into_iter().collect::<Vec<_>>()[..] {
                    let parent = self
                        .reference
                        .walk()
                        .into_iter()
                        .find(|(known, _)| known == path);
                    self.reference.secure(parent.unwrap().1);
                }
            }
            _ => {}
        }
        (done, Ok(()))
    }

    fn remount(&mut self) {
        for (_, fh, node) in std::mem::take(&mut self.handles) {
            self.fs().release(fh);
            self.fs().forget(node, 1);
        }
        self.world.remount();
        self.reference.all_synced();
        self.states.clear();
        self.compare("after a remount");
    }

    fn kill(&mut self) {
        self.handles.clear();
        self.world.crash();
        self.compare("after kill -9");
    }

    pub(super) fn closed_by_a_crash(&mut self) {
        self.lost = true;
        self.handles.clear();
    }

    /// Everything that can be seen is as it should be.
    pub(super) fn compare(&self, when: &str) {
        for (path, id) in self.reference.walk() {
            let node = self
                .enter(&path)
                .unwrap_or_else(|errno| panic!("{when}: {errno}: {path:?}"));
            let attr = self.fs().getattr(&me(), node, None).unwrap();
            let expected = &self.reference.nodes[id];
            assert_eq!(attr.perm, expected.mode, "{when}: mode of {path:?}");
            let links = self.reference.links(id);
            // What was set aside after a crash is still a link.
            let more = self.lost && !self.reference.is_dir(id) && attr.nlink as usize > links;
            if id != ROOT && !more {
                assert_eq!(attr.nlink as usize, links, "{when}: links of {path:?}");
            }
            match &expected.object {
                Object::File(history) => {
                    let content = history.last().unwrap();
                    assert_eq!(attr.size, content.len() as u64, "{when}: size of {path:?}");
                    let found = self.world.get(node);
                    let found = found.unwrap_or_else(|errno| panic!("{when}: {errno}: {path:?}"));
                    let differs = found.iter().zip(content).position(|(a, b)| a != b);
                    assert!(
                        found == *content,
                        "{when}: content of {path:?}, from {differs:?} on: {:?}, not {:?}",
                        &found[..found.len().min(40)],
                        &content[..content.len().min(40)]
                    );
                }
                Object::Dir(dir) => {
                    let names: Vec<_> = dir.entries.keys().cloned().collect();
                    assert_eq!(self.world.names(node), names, "{when}: names in {path:?}");
                }
                Object::Symlink(target) => {
                    assert_eq!(attr.size, target.len() as u64, "{when}: size of {path:?}");
                    assert_eq!(
                        self.fs().readlink(node).as_ref(),
                        Ok(target),
                        "{when}: {path:?}"
                    );
                }
                Object::Fifo => assert_eq!(attr.kind, Kind::Fifo, "{when}: {path:?}"),
            }
            let mut listed = Vec::new();
            for (key, value) in &expected.xattrs {
                let found = self.fs().getxattr(&me(), node, os(key));
                assert_eq!(found.as_ref(), Ok(value), "{when}: attribute of {path:?}");
                listed.extend([key.as_slice(), b"\0"].concat());
            }
            let mut names: Vec<_> = self.fs().listxattr(&me(), node).unwrap();
            let mut sorted: Vec<_> = names.split(|byte| *byte == 0).collect();
            sorted.sort_unstable();
            let mut wanted: Vec<_> = listed.split(|byte| *byte == 0).collect();
            wanted.sort_unstable();
            assert_eq!(sorted, wanted, "{when}: attributes of {path:?}");
            names.clear();
            self.fs().forget(node, 1);
        }
    }
}
