//! The file system as it should be, in memory.

use std::collections::BTreeMap;

use crate::errno::{Errno, FsResult};

/// An object; numbers are never used twice.
pub(super) type Id = usize;

pub(super) const ROOT: Id = 0;

#[derive(Clone, Debug)]
pub(super) enum Object {
    /// What it was, from the last fsync on; the last is what it is.
    File(Vec<Vec<u8>>),
    Dir(Dir),
    Symlink(Vec<u8>),
    Fifo,
}

#[derive(Clone, Debug)]
pub(super) struct Dir {
    pub(super) entries: BTreeMap<Vec<u8>, Id>,
    pub(super) parent: Id,
    /// Its names are durable.
    pub(super) clean: bool,
    /// Its header is durable.
    pub(super) safe: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) object: Object,
    pub(super) mode: u32,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A tree. Objects without a name stay in it.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub(super) nodes: Vec<Node>,
}

impl Reference {
    pub(super) fn new() -> Reference {
        let mut reference = Reference { nodes: Vec::new() };
        reference.add(new_dir(ROOT), 0o755);
        reference.all_synced();
        reference
    }

    pub(super) fn add(&mut self, object: Object, mode: u32) -> Id {
        self.nodes.push(Node {
            object,
            mode,
            xattrs: BTreeMap::new(),
        });
        self.nodes.len() - 1
    }

    pub(super) fn dir(&self, id: Id) -> &Dir {
        match &self.nodes[id].object {
            Object::Dir(dir) => dir,
            other => panic!("not a directory: {other:?}"),
        }
    }

    pub(super) fn dir_mut(&mut self, id: Id) -> &mut Dir {
        match &mut self.nodes[id].object {
            Object::Dir(dir) => dir,
            other => panic!("not a directory: {other:?}"),
        }
    }

    pub(super) fn is_dir(&self, id: Id) -> bool {
        matches!(self.nodes[id].object, Object::Dir(_))
    }

    pub(super) fn history(&mut self, id: Id) -> &mut Vec<Vec<u8>> {
        match &mut self.nodes[id].object {
            Object::File(history) => history,
            other => panic!("not a file: {other:?}"),
        }
    }

    pub(super) fn content(&self, id: Id) -> &Vec<u8> {
        match &self.nodes[id].object {
            Object::File(history) => history.last().unwrap(),
            other => panic!("not a file: {other:?}"),
        }
    }

    /// A new state of a file.
    pub(super) fn change(&mut self, id: Id, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.content(id).clone();
        change(&mut content);
        self.history(id).push(content);
    }

    /// Everything reachable, with its path from the root; each object once for each name.
    pub(super) fn walk(&self) -> Vec<(Vec<Vec<u8>>, Id)> {
        let mut found = vec![(Vec::new(), ROOT)];
        let mut next = 0;
        while next < found.len() {
            let (path, id) = found[next].clone();
            if let Object::Dir(dir) = &self.nodes[id].object {
                for (name, child) in &dir.entries {
                    found.push(([path.clone(), vec![name.clone()]].concat(), *child));
                }
            }
            next += 1;
        }
        found
    }

    /// The `number`th of the objects that are `wanted`, counted round and round.
    pub(super) fn pick(&self, number: usize, wanted: impl Fn(&Object) -> bool) -> Option<Id> {
        let mut ids: Vec<_> = self.walk().into_iter().map(|(_, id)| id).collect();
        ids.retain(|id| wanted(&self.nodes[*id].object));
        ids.sort_unstable();
        ids.dedup();
        (!ids.is_empty()).then(|| ids[number % ids.len()])
    }

    pub(super) fn path(&self, id: Id) -> Option<Vec<Vec<u8>>> {
        self.walk()
            .into_iter()
            .find(|(_, found)| *found == id)
            .map(|(path, _)| path)
    }

    pub(super) fn links(&self, id: Id) -> usize {
        match &self.nodes[id].object {
            Object::Dir(dir) => 2 + dir.entries.values().filter(|id| self.is_dir(**id)).count(),
            _ => self.walk().iter().filter(|(_, found)| *found == id).count(),
        }
    }

    pub(super) fn find(&self, dir: Id, name: &[u8]) -> FsResult<Id> {
        self.dir(dir).entries.get(name).copied().ok_or(Errno::NOENT)
    }

    pub(super) fn insert(&mut self, dir: Id, name: &[u8], id: Id) -> FsResult<()> {
        if self.find(dir, name).is_ok() {
            return Err(Errno::EXIST);
        }
        self.set(dir, name, Some(id));
        Ok(())
    }

    fn set(&mut self, dir: Id, name: &[u8], id: Option<Id>) {
        let at = self.dir_mut(dir);
        at.clean = false;
        match id {
            Some(id) => at.entries.insert(name.to_vec(), id),
            None => at.entries.remove(name),
        };
        if let Some(Object::Dir(child)) = id.map(|id| &mut self.nodes[id].object) {
            child.parent = dir;
        }
    }

    pub(super) fn unlink(&mut self, dir: Id, name: &[u8]) -> FsResult<()> {
        if self.is_dir(self.find(dir, name)?) {
            return Err(Errno::ISDIR);
        }
        self.set(dir, name, None);
        Ok(())
    }

    pub(super) fn rmdir(&mut self, dir: Id, name: &[u8]) -> FsResult<()> {
        let id = self.find(dir, name)?;
        if !self.is_dir(id) {
            return Err(Errno::NOTDIR);
        }
        if !self.dir(id).entries.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.set(dir, name, None);
        Ok(())
    }

    pub(super) fn is_below(&self, mut id: Id, above: Id) -> bool {
        loop {
            if id == above {
                return true;
            }
            if id == ROOT {
                return false;
            }
            id = self.dir(id).parent;
        }
    }

    pub(super) fn rename(
        &mut self,
        dir: Id,
        name: &[u8],
        to: Id,
        new: &[u8],
        flags: u32,
    ) -> FsResult<()> {
        let source = self.find(dir, name)?;
        let target = self.find(to, new).ok();
        let exchange = flags == libc::RENAME_EXCHANGE;
        match target {
            Some(_) if flags == libc::RENAME_NOREPLACE => return Err(Errno::EXIST),
            None if exchange => return Err(Errno::NOENT),
            Some(target) if target == source => return Ok(()),
            _ => {}
        }
        if self.is_dir(source) && self.is_below(to, source) {
            return Err(Errno::INVAL);
        }
        if let Some(target) = target {
            if exchange {
                if self.is_dir(target) && self.is_below(dir, target) {
                    return Err(Errno::INVAL);
                }
                self.set(dir, name, Some(target));
                self.set(to, new, Some(source));
                return Ok(());
            }
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.dir(target).entries.is_empty() => {
                    return Err(Errno::NOTEMPTY);
                }
                _ => {}
            }
        }
        self.set(dir, name, None);
        self.set(to, new, Some(source));
        Ok(())
    }

    /// The headers of a directory and of all above it are durable.
    pub(super) fn secure(&mut self, mut dir: Id) {
        loop {
            self.dir_mut(dir).safe = true;
            if dir == ROOT {
                return;
            }
            dir = self.dir(dir).parent;
        }
    }

    pub(super) fn sync_file(&mut self, id: Id) {
        let last = self.content(id).clone();
        *self.history(id) = vec![last];
    }

    pub(super) fn all_synced(&mut self) {
        for id in 0..self.nodes.len() {
            match &mut self.nodes[id].object {
                Object::File(_) => self.sync_file(id),
                Object::Dir(dir) => (dir.clean, dir.safe) = (true, true),
                Object::Symlink(_) | Object::Fifo => {}
            }
        }
    }
}

pub(super) fn new_dir(parent: Id) -> Object {
    Object::Dir(Dir {
        entries: BTreeMap::new(),
        parent,
        clean: false,
        safe: false,
    })
}

/// Zeros in `[at, at + length)`, within the end.
pub(super) fn zero(content: &mut [u8], at: u64, length: u64) {
    let limit = content.len();
    let place = |position: u64| (position as usize).min(limit);
    content[place(at)..place(at + length)].fill(0);
}

/// Bytes at a position, which extend the file if need be.
pub(super) fn put(content: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let (at, end) = (at as usize, at as usize + bytes.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}
