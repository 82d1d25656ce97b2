//! What a power cut may take, and what not.

use super::reference::{Id, Node, Object, ROOT, Reference, new_dir};
use super::run::Run;
use crate::backing::sim::Model;
use crate::errno::Errno;
use crate::fs::tests::world::me;
use crate::fs::{Kind, NodeId};

impl Run {
    pub(super) fn power_cut(&mut self, seed: u64) {
        self.closed_by_a_crash();
        self.world.power_cut(self.model, seed);
        self.world.remount();
        let found = self.read();
        check_durable(&self.reference, ROOT, &found, ROOT, &mut Vec::new());
        if self.model == Model::Journal {
            let mut states = self.states.iter().chain([&self.reference]);
            let fits =
                states.any(|state| same_tree(&self.reference, state, ROOT, &found, ROOT).is_ok());
            if !fits {
                let last = same_tree(&self.reference, &self.reference, ROOT, &found, ROOT);
                panic!(
                    "no moment since the last sync had this tree: {:?}; the last one: {last:?}",
                    found
                        .walk()
                        .iter()
                        .map(|(path, _)| path.clone())
                        .collect::<Vec<_>>()
                );
            }
        }
        // Go on with what is there. Everything on the disk is durable now, but for repairs.
        self.reference = found;
        self.reference.all_synced();
        self.states.clear();
        self.compare("after a power cut");
    }

    /// The whole tree as it is. Nothing in it may fail.
    fn read(&self) -> Reference {
        let fs = self.world.fs();
        let mut found = Reference::new();
        let mut known = std::collections::BTreeMap::new();
        let mut open = vec![(Vec::new(), ROOT)];
        while let Some((path, dir)) = open.pop() {
            let node = self.enter(&path).unwrap();
            let names = self.world.names(node);
            if dir == ROOT {
                found.nodes[ROOT].mode = fs.getattr(&me(), NodeId::ROOT, None).unwrap().perm;
                found.nodes[ROOT].xattrs = self.xattrs(NodeId::ROOT);
            }
            for name in names {
                let path = [path.clone(), vec![name.clone()]].concat();
                let node = match self.enter(&path) {
                    Ok(node) => node,
                    Err(errno) => panic!("{path:?} is listed, and cannot be looked up: {errno}"),
                };
                let attr = fs.getattr(&me(), node, None).unwrap();
                let id = match known
                    .get(&attr.ino)
                    .filter(|_| attr.kind != Kind::Directory)
                {
                    Some(id) => *id,
                    None => {
                        let object = self.object(node, attr.kind, attr.size, &path);
                        let id = found.add(object, attr.perm);
                        found.nodes[id].xattrs = self.xattrs(node);
                        id
                    }
                };
                known.insert(attr.ino, id);
                found.insert(dir, &name, id).unwrap();
                if attr.kind == Kind::Directory {
                    open.push((path, id));
                }
                fs.forget(node, 1);
            }
            fs.forget(node, 1);
        }
        found
    }

    fn object(&self, node: NodeId, kind: Kind, size: u64, path: &[Vec<u8>]) -> Object {
        let failed = |errno: Errno| -> Object { panic!("{path:?}, of {size} bytes: {errno}") };
        match kind {
            Kind::File => match self.world.get(node) {
                Ok(content) => {
                    assert_eq!(content.len() as u64, size, "size of {path:?}");
                    Object::File(vec![content])
                }
                Err(errno) => failed(errno),
            },
            Kind::Directory => new_dir(ROOT),
            Kind::Symlink => match self.world.fs().readlink(node) {
                Ok(target) => Object::Symlink(target),
                Err(errno) => failed(errno),
            },
            _ => Object::Fifo,
        }
    }

    fn xattrs(&self, node: NodeId) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
        use std::os::unix::ffi::OsStrExt as _;
        let fs = self.world.fs();
        let names = fs.listxattr(&me(), node).unwrap();
        names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| {
                let value = fs.getxattr(&me(), node, std::ffi::OsStr::from_bytes(name));
                (name.to_vec(), value.unwrap())
            })
            .collect()
    }
}

/// Along directories whose names are durable: the names are there, and what was synced.
fn check_durable(owed: &Reference, dir: Id, found: &Reference, at: Id, path: &mut Vec<Vec<u8>>) {
    if !owed.dir(dir).clean {
        return;
    }
    let names = |tree: &Reference, dir| tree.dir(dir).entries.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(found, at),
        names(owed, dir),
        "durable names in {path:?}"
    );
    for (name, id) in &owed.dir(dir).entries {
        path.push(name.clone());
        let other = found.find(at, name).unwrap();
        match (&owed.nodes[*id].object, &found.nodes[other].object) {
            (Object::Dir(_), Object::Dir(_)) => check_durable(owed, *id, found, other, path),
            (Object::File(history), Object::File(content)) => {
                if let Err(what) = plausible(history, &content[0]) {
                    panic!("{path:?}: {what}");
                }
            }
            (Object::Symlink(target), Object::Symlink(other)) => assert_eq!(target, other),
            (Object::Fifo, Object::Fifo) => {}
            (one, other) => panic!("{path:?} was {one:?} and is {other:?}"),
        }
        path.pop();
    }
}

/// Whether `found` is the tree `state`, with contents that the files may have.
fn same_tree(
    now: &Reference,
    state: &Reference,
    dir: Id,
    found: &Reference,
    at: Id,
) -> Result<(), String> {
    // A directory whose header was not durable may be found empty.
    if found.dir(at).entries.is_empty() && !now.dir(dir).safe {
        return Ok(());
    }
    let names = |tree: &Reference, dir| tree.dir(dir).entries.keys().cloned().collect::<Vec<_>>();
    if names(found, at) != names(state, dir) {
        return Err(format!(
            "{:?}, not {:?}",
            names(found, at),
            names(state, dir)
        ));
    }
    for (name, id) in &state.dir(dir).entries {
        let other = found.find(at, name).map_err(|errno| errno.to_string())?;
        let node: &Node = &now.nodes[*id];
        match (&node.object, &found.nodes[other].object) {
            (Object::Dir(_), Object::Dir(_)) => same_tree(now, state, *id, found, other)?,
            (Object::File(history), Object::File(content)) => {
                plausible(history, &content[0]).map_err(|what| format!("{name:?}: {what}"))?;
            }
            (Object::Symlink(one), Object::Symlink(other)) if one == other => {}
            (Object::Fifo, Object::Fifo) => {}
            (one, other) => return Err(format!("{name:?} is {other:?}, not {one:?}")),
        }
    }
    Ok(())
}

/// Whether a file that had these contents since its last fsync may be found with this one: what was synced is there, each
/// byte as it was at some moment. Nothing is said of bytes that were not there all the time.
fn plausible(history: &[Vec<u8>], found: &[u8]) -> Result<(), String> {
    let least = history.iter().map(Vec::len).min().unwrap_or(0);
    if let [only] = history
        && found != only
    {
        let differs = found.iter().zip(only).position(|(a, b)| a != b);
        return Err(format!(
            "{} bytes instead of {} synced ones, differ at {differs:?}",
            found.len(),
            only.len()
        ));
    }
    if found.len() < least {
        return Err(format!("{} bytes, never fewer than {least}", found.len()));
    }
    match (0..least).find(|at| !history.iter().any(|content| content[*at] == found[*at])) {
        Some(at) => Err(format!("byte {at} was never {}", found[at])),
        None => Ok(()),
    }
}
