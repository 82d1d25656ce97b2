//! What a stop leaves: one state that a seed chooses, or every one there is.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use parking_lot::Mutex;

use super::faults::Faults;
use super::{Body, Id, LowerFs, Meta, Model, Random, State};

/// Decides what of the un-synced is lost.
pub(super) trait Choose {
    /// One of the numbers below `limit`.
    fn below(&mut self, limit: usize) -> usize;

    /// Whether attributes and xattrs are those of the last fsync.
    fn old_attributes(&mut self, now: &Meta, durable: &Meta) -> bool;

    /// Whether a directory keeps nothing from this change on.
    fn stops(&mut self) -> bool;
}

impl Choose for Random {
    fn below(&mut self, limit: usize) -> usize {
        Random::below(self, limit)
    }

    fn old_attributes(&mut self, _now: &Meta, _durable: &Meta) -> bool {
        self.coin()
    }

    fn stops(&mut self) -> bool {
        Random::below(self, 8) == 0
    }
}

/// Every way to choose, one after the other: the choices are the digits of a number that is counted up. Times of day are
/// always the latest.
#[derive(Default)]
pub(crate) struct Every {
    /// What is chosen, and of how many.
    digits: Vec<(usize, usize)>,
    next: usize,
    over: bool,
}

impl Every {
    /// Whether there is another way.
    fn advance(&mut self) -> bool {
        self.digits.truncate(self.next);
        self.next = 0;
        while let Some((chosen, limit)) = self.digits.last_mut() {
            *chosen += 1;
            if chosen < limit {
                return true;
            }
            self.digits.pop();
        }
        false
    }

    /// Each state that a power cut may leave of a tree, in turn; some of them are the same.
    pub(crate) fn next(&mut self, fs: &LowerFs, model: Model) -> Option<LowerFs> {
        if self.over {
            return None;
        }
        let left = fs.state.lock().after_power_cut(model, self);
        self.over = !self.advance();
        Some(fs.with(left))
    }
}

impl Choose for Every {
    fn below(&mut self, limit: usize) -> usize {
        if limit < 2 {
            return 0;
        }
        if self.next == self.digits.len() {
            self.digits.push((0, limit));
        }
        self.next += 1;
        self.digits[self.next - 1].0
    }

    fn old_attributes(&mut self, now: &Meta, durable: &Meta) -> bool {
        let key = |meta: &Meta| (meta.mode, meta.uid, meta.gid, meta.xattrs.clone());
        key(now) != key(durable) && self.below(2) == 1
    }

    fn stops(&mut self) -> bool {
        self.below(2) == 1
    }
}

impl LowerFs {
    /// The tree that the next mount finds: after kill -9, or after a power cut chosen by `seed`.
    pub(crate) fn crash(&self, model: Model, seed: u64) -> LowerFs {
        let state = self.state.lock();
        self.with(match model {
            Model::Kill => state.after_kill(),
            _ => state.after_power_cut(model, &mut Random::new(seed)),
        })
    }

    fn with(&self, state: State) -> LowerFs {
        LowerFs {
            state: Arc::new(Mutex::new(state)),
            template: self.template,
        }
    }

    /// From now on keeps the state before each call that changes or syncs something.
    pub(crate) fn watch(&self) {
        self.state.lock().before = Some(Vec::new());
    }

    /// The states kept since [`LowerFs::watch`] or the last call of this, and the present one.
    pub(crate) fn watched(&self) -> Vec<LowerFs> {
        let mut state = self.state.lock();
        let now = state.copy();
        let before = state.before.replace(Vec::new()).unwrap_or_default();
        drop(state);
        before
            .into_iter()
            .chain([now])
            .map(|state| self.with(state))
            .collect()
    }

    /// From now on an fsync of an object with such a name does nothing.
    pub(crate) fn ignore_syncs(&self, such: fn(&str) -> bool) {
        self.state.lock().ignored = Some(such);
    }

    /// Equal for trees in which names, contents, modes and xattrs are the same.
    pub(crate) fn fingerprint(&self) -> u64 {
        let state = self.state.lock();
        let mut hasher = DefaultHasher::new();
        for (id, inode) in &state.inodes {
            (id, inode.meta.mode, &inode.meta.xattrs).hash(&mut hasher);
            match &inode.body {
                Body::File(content) => content.hash(&mut hasher),
                Body::Dir(entries) => entries.hash(&mut hasher),
                Body::Symlink(target) => target.hash(&mut hasher),
                Body::Other(device) => device.hash(&mut hasher),
            }
        }
        hasher.finish()
    }
}

impl State {
    pub(super) fn copy(&self) -> State {
        State {
            model: self.model,
            before: None,
            ignored: None,
            inodes: self.inodes.clone(),
            removed: self.removed.clone(),
            names: self.names.clone(),
            faults: Faults::default(),
            next: self.next,
            free: self.free.clone(),
            clock: self.clock,
        }
    }

    /// Whether fsyncs of an object are ignored.
    pub(super) fn ignores(&self, id: Id) -> bool {
        let Some(such) = self.ignored else {
            return false;
        };
        self.inodes.values().any(|inode| match &inode.body {
            Body::Dir(entries) => entries
                .from(0)
                .any(|(_, name, known)| known == id && such(name)),
            _ => false,
        })
    }

    fn after_kill(&self) -> State {
        let mut left = self.copy();
        // The cache, and what of it is not on the disk, outlives a process.
        for inode in left.inodes.values_mut() {
            inode.open = 0;
        }
        left.inodes.retain(|_, inode| inode.links > 0);
        left
    }

    fn after_power_cut(&self, model: Model, choose: &mut impl Choose) -> State {
        let mut left = self.copy();
        for inode in left.inodes.values_mut() {
            inode.open = 0;
        }
        for (id, mut inode) in std::mem::take(&mut left.removed) {
            // Another object may have its number by now.
            inode.number = id + 1_000_000;
            left.inodes.insert(id, inode);
        }
        let entries = self.names.after_crash(model, choose);
        for (id, inode) in &mut left.inodes {
            if let Body::Dir(dir) = &mut inode.body {
                dir.replace(entries.get(id).cloned().unwrap_or_default());
            }
        }
        left.count_links();
        for inode in left.inodes.values_mut() {
            if choose.old_attributes(&inode.meta, &inode.durable) {
                inode.meta = inode.durable.clone();
            }
            if let Body::File(content) = &mut inode.body {
                content.crash(choose);
            }
            inode.settle_on_disk();
        }
        left.names.forget_history(&left.inodes);
        left
    }
}
