//! What a stop owes.

use std::collections::{BTreeMap, BTreeSet};

use super::op::Op;
use super::tree::{Thing, Tree, parent, show};
use crate::backing::sim::Model;

/// The trees there were, and what of them is durable.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    model: Model,
    /// From the one that was durable as a whole on, one for each operation; the last may be under way.
    pub(super) trees: Vec<Tree>,
    /// With one journal, no tree before this can come back.
    start: usize,
    /// The same for the names in one directory.
    since: BTreeMap<String, usize>,
    /// Directories whose headers are durable.
    safe: BTreeSet<String>,
    /// Paths that belonged to more than one object.
    changed: BTreeSet<String>,
    /// Contents that were synced.
    contents: BTreeSet<Vec<u8>>,
}

impl Promise {
    pub(super) fn new(model: Model, durable: Tree) -> Promise {
        let mut promise = Promise {
            model,
            start: 0,
            since: BTreeMap::new(),
            safe: BTreeSet::new(),
            changed: BTreeSet::new(),
            contents: BTreeSet::new(),
            trees: Vec::new(),
        };
        for (path, thing) in &durable {
            match thing {
                Thing::Dir(..) => drop(promise.safe.insert(path.clone())),
                Thing::File(content) => drop(promise.contents.insert(content.clone())),
                Thing::Symlink(_) => {}
            }
        }
        promise.trees.push(durable);
        promise
    }

    fn last(&self) -> usize {
        self.trees.len() - 1
    }

    /// An operation leads to this tree.
    pub(super) fn begins(&mut self, op: &Op, tree: Tree) {
        // A directory stays what it is wherever it goes, and what takes its place is another.
        let moved = |path: &String| match op {
            Op::Rename(from, to) => match (below(path, from), below(path, to)) {
                (Some(rest), _) => Some(format!("{to}{rest}")),
                (None, Some(_)) => None,
                (None, None) => Some(path.clone()),
            },
            Op::Exchange(from, to) => match (below(path, from), below(path, to)) {
                (Some(rest), _) => Some(format!("{to}{rest}")),
                (None, Some(rest)) => Some(format!("{from}{rest}")),
                (None, None) => Some(path.clone()),
            },
            _ => Some(path.clone()),
        };
        let is_dir = |path: &String| matches!(tree.get(path), Some(Thing::Dir(..)));
        self.safe = self.safe.iter().filter_map(moved).filter(is_dir).collect();
        let since = std::mem::take(&mut self.since);
        self.since = since
            .into_iter()
            .filter_map(|(path, number)| Some((moved(&path)?, number)))
            .filter(|(path, _)| is_dir(path))
            .collect();
        match op {
            Op::Rename(from, to) | Op::Exchange(from, to) => {
                self.changed.extend([from.clone(), to.clone()]);
            }
            Op::Rmdir(path) => drop(self.changed.insert(path.clone())),
            _ => {}
        }
        self.trees.push(tree);
    }

    /// The operation that made the last tree has returned.
    pub(super) fn returned(&mut self, op: &Op) {
        let last = self.last();
        let (dir, file) = match op {
            Op::SyncDir(path) | Op::Protect(path) => (path.as_str(), None),
            Op::SyncFile(path) => (parent(path), Some(path)),
            _ => return,
        };
        let mut above = dir;
        loop {
            self.safe.insert(above.to_owned());
            if above.is_empty() {
                break;
            }
            above = parent(above);
        }
        match file {
            Some(file) => {
                if let Some(Thing::File(content)) = self.trees[last].get(file) {
                    self.contents.insert(content.clone());
                }
            }
            None => {
                let below = self.trees[last].iter().filter(|(path, thing)| {
                    !path.is_empty() && parent(path) == dir && matches!(thing, Thing::Dir(..))
                });
                self.safe.extend(below.map(|(path, _)| path.clone()));
                self.since.insert(dir.to_owned(), last);
            }
        }
        self.start = last;
    }

    /// Whether a stop of this kind, after the last operation or in it, may leave a tree.
    pub(super) fn check(&self, how: Model, done: bool, found: &Tree) -> Result<(), String> {
        let last = self.last();
        let fits = match how {
            Model::Kill if done => self.trees[last] == *found,
            // What is made is written after that.
            Model::Kill => {
                let old = &self.trees[last - 1];
                let kept = |(path, thing): (&String, &Thing)| {
                    found.get(path).is_some_and(|found| {
                        thing == found || self.was_being_removed(path, thing, found)
                    })
                };
                (old.len() == found.len() && old.iter().all(kept))
                    || self.same(&self.trees[last], found, false)
            }
            Model::Journal => self.trees[self.start..]
                .iter()
                .any(|tree| self.same(tree, found, true)),
            Model::Posix => return self.names(found).and_then(|()| self.objects(found)),
        };
        if fits {
            return self.objects(found);
        }
        let trees: Vec<_> = self.trees[self.start..].iter().map(show).collect();
        Err(format!("found {}, of {trees:#?}", show(found)))
    }

    /// Whether a tree is this one, but for what was never synced: contents, and after a power cut what is in directories.
    fn same(&self, tree: &Tree, found: &Tree, power_cut: bool) -> bool {
        let lost = |path: &str| {
            // In a directory, whose header was never synced, and which is found empty.
            let mut dir = parent(path);
            while !dir.is_empty() {
                let empty = !found.keys().any(|found| parent(found) == dir);
                if empty && found.contains_key(dir) && !self.safe.contains(dir) {
                    return true;
                }
                dir = parent(dir);
            }
            false
        };
        found.keys().all(|path| tree.contains_key(path))
            && tree.iter().all(|(path, thing)| match found.get(path) {
                Some(other) => {
                    self.plausible(thing, other) || self.was_being_removed(path, thing, other)
                }
                None => power_cut && lost(path),
            })
    }

    /// Whether `found` may be left of an object.
    fn plausible(&self, thing: &Thing, found: &Thing) -> bool {
        match (thing, found) {
            (Thing::File(content), Thing::File(other)) if !self.contents.contains(content) => {
                other.len() <= content.len()
                    && other.iter().zip(content).all(|(a, b)| *a == 0 || a == b)
            }
            _ => thing == found,
        }
    }

    // SEMANTICS: rmdir
    /// A directory whose removal was stopped may be there without its header, and gets its parent's policy. It is empty.
    fn was_being_removed(&self, path: &str, thing: &Thing, found: &Thing) -> bool {
        let goes = self.trees.iter().any(|tree| tree.get(path) != Some(thing));
        goes && matches!(thing, Thing::Dir(..)) && self.trees[0].get("") == Some(found)
    }

    /// Each directory on its own: names that it had all the time since it was synced are there, and no others than it
    /// had.
    fn names(&self, found: &Tree) -> Result<(), String> {
        let mut owed = BTreeSet::from([String::new()]);
        let paths: BTreeSet<_> = self.trees.iter().flat_map(Tree::keys).collect();
        for path in paths.iter().filter(|path| !path.is_empty()) {
            let dir = parent(path);
            if !owed.contains(dir) {
                continue;
            }
            let since = self.since.get(dir).copied().unwrap_or_default();
            let things: Vec<_> = self.trees[since..]
                .iter()
                .map(|tree| tree.get(*path))
                .collect();
            match found.get(*path) {
                None if things.iter().all(Option::is_some) => {
                    return Err(format!("{path:?} is lost: {}", show(found)));
                }
                None => {}
                Some(thing) => {
                    let fits = |one: &&Thing| {
                        self.plausible(one, thing) || self.was_being_removed(path, one, thing)
                    };
                    if !things.iter().flatten().any(fits) {
                        return Err(format!("{path:?} was never so: {}", show(found)));
                    }
                    if things.iter().all(Option::is_some) && !self.changed.contains(*path) {
                        owed.insert((*path).clone());
                    }
                }
            }
        }
        match found.keys().find(|path| !paths.contains(path)) {
            Some(path) => Err(format!("{path:?} was never there: {}", show(found))),
            None => Ok(()),
        }
    }

    /// What was there all the time is there, whatever its name: as often as it was at some time.
    fn objects(&self, found: &Tree) -> Result<(), String> {
        let window = match self.model {
            Model::Posix => &self.trees[..],
            _ => &self.trees[self.start..],
        };
        let count =
            |tree: &Tree, wanted: &Thing| tree.values().filter(|thing| *thing == wanted).count();
        for thing in window[0].values() {
            let synced = match thing {
                Thing::File(content) => self.contents.contains(content),
                Thing::Symlink(_) => true,
                Thing::Dir(..) => false,
            };
            let counts = window.iter().map(|tree| count(tree, thing));
            let (least, most) = (counts.clone().min(), counts.max());
            let now = count(found, thing);
            if synced && (Some(now) < least || Some(now) > most) {
                let thing = show(&Tree::from([(String::new(), thing.clone())]));
                return Err(format!(
                    "{thing} is there {now} times, not {least:?} to {most:?}: {}",
                    show(found)
                ));
            }
        }
        Ok(())
    }
}

/// What is behind `dir` in the path of it, or of something in it.
fn below<'a>(path: &'a str, dir: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(dir)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}
