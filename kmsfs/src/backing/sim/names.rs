//! Directories of the simulation, and what a power cut makes of changes in them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher};

use super::crash::Choose;
use super::{Body, Id, Inode, Model};

type Listed = BTreeMap<String, Id>;

/// The entries of one directory. Each has a position that stays.
#[derive(Clone)]
pub(super) struct Entries {
    pub(super) parent: Id,
    names: Listed,
    positions: BTreeMap<u64, String>,
    next: u64,
}

impl Entries {
    pub(super) fn below(parent: Id) -> Entries {
        Entries {
            parent,
            names: Listed::new(),
            positions: BTreeMap::new(),
            // Behind those of `.` and `..`.
            next: 3,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Id> {
        self.names.get(name).copied()
    }

    pub(super) fn hash(&self, hasher: &mut impl Hasher) {
        self.names.hash(hasher);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn children(&self) -> impl Iterator<Item = Id> + '_ {
        self.names.values().copied()
    }

    /// With their positions, behind one.
    pub(super) fn from(&self, position: u64) -> impl Iterator<Item = (u64, &str, Id)> {
        self.positions
            .range(position + 1..)
            .filter_map(|(at, name)| Some((*at, name.as_str(), self.get(name)?)))
    }

    pub(super) fn set(&mut self, name: &str, id: Option<Id>) {
        match id {
            Some(id) => {
                if self.names.insert(name.to_owned(), id).is_none() {
                    self.positions.insert(self.next, name.to_owned());
                    self.next += 1;
                }
            }
            None => {
                self.names.remove(name);
                self.positions.retain(|_, known| known != name);
            }
        }
    }

    pub(super) fn replace(&mut self, names: Listed) {
        *self = Entries::below(self.parent);
        for (name, id) in names {
            self.set(&name, Some(id));
        }
    }
}

/// What happened to names, all of it or none of it.
#[derive(Clone)]
pub(super) struct Event {
    /// Directory, name, and the object that has it now.
    changes: Vec<(Id, String, Option<Id>)>,
    durable: bool,
}

/// The history of names since they were last all on the disk.
#[derive(Clone, Default)]
pub(super) struct Names {
    on_disk: BTreeMap<Id, Listed>,
    events: Vec<Event>,
}

impl Names {
    pub(super) fn forget_history(&mut self, inodes: &BTreeMap<Id, Inode>) {
        self.events.clear();
        self.on_disk = inodes
            .iter()
            .filter_map(|(id, inode)| match &inode.body {
                Body::Dir(entries) => Some((*id, entries.names.clone())),
                _ => None,
            })
            .collect();
    }

    pub(super) fn happened(&mut self, changes: Vec<(Id, String, Option<Id>)>) {
        self.events.push(Event {
            changes,
            durable: false,
        });
    }

    /// The names in one directory reach the disk, and with them whatever else their events changed, and everything
    /// before that.
    pub(super) fn sync(&mut self, dir: Id) {
        let mut reached = BTreeSet::from([dir]);
        for event in self.events.iter_mut().rev() {
            if event.changes.iter().any(|(dir, ..)| reached.contains(dir)) {
                event.durable = true;
                reached.extend(event.changes.iter().map(|(dir, ..)| *dir));
            }
        }
    }

    pub(super) fn sync_all(&mut self) {
        for event in &mut self.events {
            event.durable = true;
        }
    }

    pub(super) fn after_crash(
        &self,
        model: Model,
        choose: &mut impl Choose,
    ) -> BTreeMap<Id, Listed> {
        let mut left = self.on_disk.clone();
        let durable = self.events.iter().rposition(|event| event.durable);
        let durable = durable.map_or(0, |last| last + 1);
        let cut = match model {
            Model::Journal => durable + choose.below(self.events.len() - durable + 1),
            Model::Kill | Model::Posix => durable,
        };
        let mut stopped = BTreeSet::new();
        for (number, event) in self.events.iter().enumerate() {
            let kept = match model {
                Model::Kill => true,
                Model::Journal => number < cut,
                Model::Posix => {
                    let dirs = || event.changes.iter().map(|(dir, ..)| *dir);
                    let kept = event.durable
                        || (!dirs().any(|dir| stopped.contains(&dir)) && !choose.stops());
                    if !kept {
                        stopped.extend(dirs());
                    }
                    kept
                }
            };
            if kept {
                for (dir, name, id) in &event.changes {
                    let names = left.entry(*dir).or_default();
                    match id {
                        Some(id) => names.insert(name.clone(), *id),
                        None => names.remove(name),
                    };
                }
            }
        }
        left
    }
}
