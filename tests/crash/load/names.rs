//! What is done to names.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{CWD, RenameFlags};

use super::Worker;
use crate::ledger::Op;
use crate::tree::{Kind, parent};

impl Worker<'_> {
    pub(super) fn make_dir(&mut self) -> io::Result<()> {
        let Some(path) = self.free_path() else {
            return Ok(());
        };
        let object = self.object(Kind::Dir);
        let at = self.at(&path);
        self.log(Op::MakeDir { path, object }, || {
            fs::create_dir(&at)?;
            Ok(fs::symlink_metadata(&at)?.ino())
        })
    }

    pub(super) fn symlink(&mut self) -> io::Result<()> {
        let Some(path) = self.free_path() else {
            return Ok(());
        };
        let object = self.object(Kind::Symlink);
        // Above 713 bytes the target is in a record.
        let length = *self.random.pick(&[5, 60, 700, 2_000]).unwrap_or(&5);
        let target = format!("{object}-{}", "t".repeat(length));
        let at = self.at(&path);
        let op = Op::Symlink {
            path,
            object,
            target: target.clone(),
        };
        self.log(op, || {
            symlink(target, &at)?;
            Ok(fs::symlink_metadata(&at)?.ino())
        })
    }

    pub(super) fn link(&mut self) -> io::Result<()> {
        let from = if self.random.percent(80) {
            self.some(Kind::File)
        } else {
            self.some(Kind::Symlink)
        };
        let (Some((from, _)), Some(to)) = (from, self.free_path()) else {
            return Ok(());
        };
        let (source, target) = (self.at(&from), self.at(&to));
        self.log(Op::Link { from, to }, || {
            fs::hard_link(source, target).map(|()| 0)
        })
    }

    pub(super) fn is_empty(&self, path: &str) -> bool {
        !self.tree.entries.keys().any(|other| parent(other) == path)
    }

    pub(super) fn rename(&mut self) -> io::Result<()> {
        let kind = match self.random.below(10) {
            0..6 => Kind::File,
            6..9 => Kind::Dir,
            _ => Kind::Symlink,
        };
        let Some((from, object)) = self.some(kind) else {
            return Ok(());
        };
        let over = if kind != Kind::Dir || self.random.percent(30) {
            self.some(kind)
        } else {
            None
        };
        let to = match over {
            Some((path, _)) if self.random.percent(50) => Some(path),
            _ => self.free_path(),
        };
        let Some(to) = to else { return Ok(()) };
        let replaced = self.tree.get(&to);
        let nested = to.starts_with(&format!("{from}/")) || from.starts_with(&format!("{to}/"));
        let same = to == from || (self.tree.entries.contains_key(&to) && replaced == object);
        let occupied = kind == Kind::Dir && !self.is_empty(&to);
        if nested || same || occupied {
            return Ok(());
        }
        let (source, target) = (self.at(&from), self.at(&to));
        self.log(Op::Rename { from, to }, || {
            fs::rename(source, target).map(|()| 0)
        })
    }

    pub(super) fn exchange(&mut self) -> io::Result<()> {
        let kinds = [Kind::File, Kind::Dir];
        let kind = *self.random.pick(&kinds).unwrap_or(&Kind::File);
        let (Some((one, a)), Some((other, b))) = (self.some(kind), self.some(Kind::File)) else {
            return Ok(());
        };
        let below = |up: &str, down: &str| down.starts_with(&format!("{up}/"));
        if a == b || below(&one, &other) || below(&other, &one) {
            return Ok(());
        }
        let (first, second) = (self.at(&one), self.at(&other));
        self.log(Op::Exchange { one, other }, || {
            rustix::fs::renameat_with(CWD, first, CWD, second, RenameFlags::EXCHANGE)?;
            Ok(0)
        })
    }

    pub(super) fn remove(&mut self) -> io::Result<()> {
        let all: Vec<String> = self.tree.entries.keys().cloned().collect();
        let Some(path) = self.random.pick(&all).cloned() else {
            return Ok(());
        };
        let is_dir = self.kinds.get(&self.tree.get(&path)) == Some(&Kind::Dir);
        if is_dir && !self.is_empty(&path) {
            return Ok(());
        }
        let at = self.at(&path);
        self.log(Op::Remove { path }, || {
            if is_dir {
                fs::remove_dir(at)
            } else {
                fs::remove_file(at)
            }
            .map(|()| 0)
        })
    }

    pub(super) fn sync_dir(&mut self) -> io::Result<()> {
        let path = self.folder();
        let at = self.at(&path);
        self.log(Op::SyncDir { path }, || {
            File::open(at)?.sync_all().map(|()| 0)
        })
    }
}
