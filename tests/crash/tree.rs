//! The names of one worker, as they were after each of its operations.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::ledger::{Entry, Object, Op, Reach};

/// The worker's own folder.
pub(crate) const ROOT: Object = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
}

/// What is known of an object.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) kind: Kind,
    /// 0 if its making had not returned.
    pub(crate) ino: u64,
    pub(crate) target: Option<String>,
}

/// What an object looked like from outside.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) ino: u64,
    pub(crate) target: Option<String>,
}

/// Names and the objects they stand for.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    pub(crate) entries: BTreeMap<String, Object>,
}

impl Tree {
    pub(crate) fn get(&self, path: &str) -> Object {
        self.entries.get(path).copied().unwrap_or(ROOT)
    }

    pub(crate) fn parent(&self, path: &str) -> Object {
        self.get(parent(path))
    }

    /// Carries out an operation on names; gives the folders whose entries it changed.
    pub(crate) fn apply(&mut self, op: &Op) -> Vec<Object> {
        match op {
            Op::Create { path, object }
            | Op::MakeDir { path, object }
            | Op::Symlink { path, object, .. } => {
                self.entries.insert(path.clone(), *object);
                vec![self.parent(path)]
            }
            Op::Link { from, to } => {
                let object = self.get(from);
                self.entries.insert(to.clone(), object);
                vec![self.parent(to)]
            }
            Op::Rename { from, to } => {
                let touched = vec![self.parent(from), self.parent(to)];
                let moved = self.take(from);
                self.entries.remove(to);
                self.put(to, moved);
                touched
            }
            Op::Exchange { one, other } => {
                let touched = vec![self.parent(one), self.parent(other)];
                let (first, second) = (self.take(one), self.take(other));
                self.put(other, first);
                self.put(one, second);
                touched
            }
            Op::Remove { path } => {
                self.entries.remove(path);
                vec![self.parent(path)]
            }
            _ => Vec::new(),
        }
    }

    /// A subtree, with what follows its own path.
    fn take(&mut self, path: &str) -> Vec<(String, Object)> {
        let inside = |key: &str| {
            key.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let keys: Vec<String> = self
            .entries
            .keys()
            .filter(|key| inside(key))
            .cloned()
            .collect();
        keys.into_iter()
            .filter_map(|key| {
                let object = self.entries.remove(&key)?;
                Some((key[path.len()..].to_owned(), object))
            })
            .collect()
    }

    fn put(&mut self, path: &str, subtree: Vec<(String, Object)>) {
        for (rest, object) in subtree {
            self.entries.insert(format!("{path}{rest}"), object);
        }
    }

    /// The paths of an object.
    pub(crate) fn paths(&self, object: Object) -> impl Iterator<Item = &String> {
        self.entries
            .iter()
            .filter(move |(_, found)| **found == object)
            .map(|(path, _)| path)
    }

    /// The folders above a path, the worker's own not among them.
    fn above<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, Object)> {
        let next = |path: &&'a str| Some(parent(path)).filter(|up| !up.is_empty());
        std::iter::successors(next(&path), next).map(|up| (up, self.get(up)))
    }
}

pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// What is owed of a worker's names.
pub(crate) struct Names {
    /// The state after this many operations must be there, or a later one.
    floor: usize,
    /// Folders whose header is durable: what is in them can be named.
    durable: HashSet<Object>,
    pub(crate) objects: HashMap<Object, Known>,
}

impl Names {
    /// What follows from what a worker did.
    ///
    /// ext4 and XFS keep changes of names in the order in which they were made: a later one is never
    /// durable without an earlier one. So what is there after a crash is the state after some number of operations.
    pub(crate) fn owed(entries: &[Entry], reach: Reach) -> Names {
        let mut names = Names {
            floor: 0,
            durable: HashSet::from([ROOT]),
            objects: HashMap::new(),
        };
        let mut tree = Tree::default();
        let mut last_change: HashMap<Object, usize> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            names.learn(entry);
            let counts = index < reach.returned;
            match &entry.op {
                // Whatever leads to what was synced must be durable before the move.
                Op::Link { from, to } | Op::Rename { from, to } if counts => {
                    names.moved(&tree, from, to);
                }
                Op::Exchange { one, other } if counts => {
                    names.moved(&tree, one, other);
                    names.moved(&tree, other, one);
                }
                Op::SyncFile { object, .. } if counts => {
                    for path in tree.paths(*object) {
                        names.durable.extend(tree.above(path).map(|(_, dir)| dir));
                    }
                    let made = last_change.get(object).copied().unwrap_or(0);
                    names.floor = names.floor.max(made);
                }
                Op::SyncDir { path } if counts => {
                    let dir = tree.get(path);
                    names.durable.insert(dir);
                    names.durable.extend(tree.above(path).map(|(_, dir)| dir));
                    let inside = tree.entries.iter().filter(|(at, _)| parent(at) == path);
                    let inside = inside.map(|(_, object)| *object);
                    names.durable.extend(inside);
                    let changed = last_change.get(&dir).copied().unwrap_or(0);
                    names.floor = names.floor.max(changed);
                }
                Op::SyncAll => {
                    names.durable.extend(tree.entries.values());
                    names.floor = index;
                }
                _ => {}
            }
            for dir in tree.apply(&entry.op) {
                last_change.insert(dir, index + 1);
            }
            if let Op::Create { object, .. } = &entry.op {
                last_change.insert(*object, index + 1);
            }
        }
        names
    }

    fn moved(&mut self, tree: &Tree, from: &str, to: &str) {
        let (from, target) = (tree.parent(from), tree.parent(to));
        if from != target && self.durable.contains(&from) {
            self.durable.insert(target);
            self.durable.extend(tree.above(to).map(|(_, dir)| dir));
        }
    }

    fn learn(&mut self, entry: &Entry) {
        let (object, kind, target) = match &entry.op {
            Op::Create { object, .. } => (object, Kind::File, None),
            Op::MakeDir { object, .. } => (object, Kind::Dir, None),
            Op::Symlink { object, target, .. } => (object, Kind::Symlink, Some(target.clone())),
            _ => return,
        };
        let ino = entry.ino;
        self.objects.insert(*object, Known { kind, ino, target });
    }

    /// The state that is there: after how many operations, and its names. An error says what is wrong with
    /// the state that fits best.
    pub(crate) fn find(
        &self,
        entries: &[Entry],
        seen: &BTreeMap<String, Seen>,
    ) -> Result<(usize, Tree), String> {
        let mut tree = Tree::default();
        let mut best: Option<(usize, Vec<String>)> = None;
        for done in 0..=entries.len() {
            if done >= self.floor {
                let wrong = self.differences(&tree, seen);
                if wrong.is_empty() {
                    return Ok((done, tree));
                }
                if best
                    .as_ref()
                    .is_none_or(|(_, least)| wrong.len() < least.len())
                {
                    best = Some((done, wrong));
                }
            }
            if let Some(entry) = entries.get(done) {
                tree.apply(&entry.op);
            }
        }
        let (done, wrong) = best.unwrap_or_default();
        let from = done.saturating_sub(6);
        let last: Vec<String> = entries[from..(done + 3).min(entries.len())]
            .iter()
            .enumerate()
            .map(|(number, entry)| format!("  {}: {entry:?}", from + number))
            .collect();
        Err(format!(
            "the names are in none of the states {}..={}; nearest to that after {done} operations:\n  {}\n around it:\n{}",
            self.floor,
            entries.len(),
            wrong.join("\n  "),
            last.join("\n"),
        ))
    }

    fn differences(&self, tree: &Tree, seen: &BTreeMap<String, Seen>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (path, seen) in seen {
            match tree
                .entries
                .get(path)
                .and_then(|object| self.objects.get(object))
            {
                None => wrong.push(format!("{path} is there")),
                Some(known) => {
                    let same = known.kind == seen.kind
                        && (known.ino == 0 || known.ino == seen.ino)
                        && known.target == seen.target;
                    if !same {
                        wrong.push(format!("{path} is {seen:?}, not {known:?}"));
                    }
                }
            }
        }
        let holds = |folder: &str| {
            let inside = format!("{folder}/");
            seen.range(inside.clone()..)
                .next()
                .is_some_and(|(path, _)| path.starts_with(&inside))
        };
        for path in tree.entries.keys().filter(|path| !seen.contains_key(*path)) {
            // A folder whose header was never durable may have lost what was in it, all of it.
            let lost = tree.above(path).any(|(up, dir)| {
                !self.durable.contains(&dir) && seen.contains_key(up) && !holds(up)
            });
            if !lost {
                wrong.push(format!("{path} is missing"));
            }
        }
        wrong
    }
}
