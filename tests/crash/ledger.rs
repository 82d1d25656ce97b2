//! What a worker did, in order: from it follows what may be there after a crash, and what must.

use std::sync::Mutex;

/// An object of a worker: its number is used once.
pub(crate) type Object = u32;

/// One operation. Paths are relative to the worker's folder.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create {
        path: String,
        object: Object,
    },
    MakeDir {
        path: String,
        object: Object,
    },
    Symlink {
        path: String,
        object: Object,
        target: String,
    },
    Link {
        from: String,
        to: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Exchange {
        one: String,
        other: String,
    },
    Remove {
        path: String,
    },
    /// `tag` says what is written, see [`crate::content`].
    Write {
        object: Object,
        offset: usize,
        length: usize,
        tag: u32,
    },
    Resize {
        object: Object,
        size: usize,
    },
    Punch {
        object: Object,
        offset: usize,
        length: usize,
    },
    SetXattr {
        object: Object,
        value: u32,
    },
    SyncFile {
        object: Object,
        data_only: bool,
    },
    SyncDir {
        path: String,
    },
    /// A clean unmount, after the load.
    SyncAll,
}

/// One entry of the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) op: Op,
    /// Inode number of a new object, once it is known; otherwise 0.
    pub(crate) ino: u64,
}

/// The operations of one worker. All but the last have returned.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: Mutex<(Vec<Entry>, usize)>,
}

/// How far a worker was at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Operations that had returned.
    pub(crate) returned: usize,
    /// Operations that had begun.
    pub(crate) begun: usize,
}

impl Ledger {
    /// An operation begins.
    pub(crate) fn begin(&self, op: Op) {
        self.entries.lock().unwrap().0.push(Entry { op, ino: 0 });
    }

    /// It has returned successfully; `ino` is that of the object it made, or 0.
    pub(crate) fn returned(&self, ino: u64) {
        let mut entries = self.entries.lock().unwrap();
        if let Some(last) = entries.0.last_mut() {
            last.ino = ino;
        }
        entries.1 = entries.0.len();
    }

    /// All of it was made durable.
    pub(crate) fn all_durable(&self) {
        self.begin(Op::SyncAll);
        self.returned(0);
    }

    pub(crate) fn reach(&self) -> Reach {
        let entries = self.entries.lock().unwrap();
        Reach {
            returned: entries.1,
            begun: entries.0.len(),
        }
    }

    /// The operations that had begun by then.
    pub(crate) fn up_to(&self, begun: usize) -> Vec<Entry> {
        self.entries.lock().unwrap().0[..begun].to_vec()
    }
}
