//! A changed lower tree, mounted and used: no panic, no hang, no plaintext under a key that was refused.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use kmsfs::errno::FsResult;
use kmsfs::fs::{Fs, Kind, NodeId, SetAttr, SetTime};
use kmsfs::volume::Keys;

use super::calls::{Calls, ROOT};
use super::input::Input;
use super::mutate::mutate;
use super::sample::{MARK, MODES, sample};

/// So many objects of one tree are used: a mutant with more has them many times over.
const OBJECTS: usize = 200;

/// Changes a sample tree as the input says, mounts it, uses everything in it, mounts it again.
pub fn tree(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mode = MODES[input.below(MODES.len())];
    let read_only = input.once_in(8);
    let sample = sample(mode);
    let mut tree = sample.tree.clone();
    mutate(sample, &mut tree, &mut input);
    let folder = super::sample::lower_folder();
    tree.write(folder.path());
    for _ in 0..2 {
        // Refused as a whole is a good answer, too.
        let keys = Arc::clone(&sample.keys) as Arc<dyn Keys>;
        let Ok(fs) = Fs::new(folder.path(), keys, read_only) else {
            return;
        };
        let mut use_of = Use {
            fs: &fs,
            input: Input::new(bytes),
            objects: 0,
        };
        use_of.below(NodeId::ROOT, 0);
    }
}

struct Use<'a> {
    fs: &'a Fs,
    input: Input<'a>,
    objects: usize,
}

/// Nothing that the file system gives out may be what a refused key protects.
fn check(given: &[u8]) {
    assert!(
        !given.windows(MARK.len()).any(|window| window == MARK),
        "plaintext under a refused key"
    );
}

impl Use<'_> {
    fn below(&mut self, folder: NodeId, depth: usize) {
        let Ok(names) = Calls(self.fs).names(folder) else {
            return;
        };
        self.list(folder);
        for name in names {
            check(&name);
            let name = OsStr::from_bytes(&name);
            let Ok(entry) = self.fs.lookup(&ROOT, folder, name) else {
                continue;
            };
            self.objects += 1;
            if self.objects > OBJECTS {
                return;
            }
            let _ = self.fs.getattr(&ROOT, entry.node, None);
            self.attributes(entry.node);
            match entry.attr.kind {
                Kind::File => drop(self.file(entry.node, entry.attr.size)),
                Kind::Symlink => {
                    if let Ok(target) = self.fs.readlink(entry.node) {
                        check(&target);
                    }
                }
                Kind::Directory if depth < 8 => {
                    self.below(entry.node, depth + 1);
                    let _ = self.make(entry.node);
                }
                _ => {}
            }
            let _ = self.change_name(folder, name, entry.attr.kind);
            self.fs.forget(entry.node, 1);
        }
    }

    fn list(&self, folder: NodeId) {
        let Ok(fh) = self.fs.opendir(&ROOT, folder) else {
            return;
        };
        let mut found = Vec::new();
        let _ = self.fs.readdirplus(&ROOT, fh, 0, &mut |item, entry| {
            check(item.name.as_bytes());
            if let Some(entry) = entry {
                found.push(entry.node);
            }
            false
        });
        let _ = self.fs.fsyncdir(fh, false);
        self.fs.releasedir(fh);
        found.into_iter().for_each(|node| self.fs.forget(node, 1));
    }

    fn attributes(&self, node: NodeId) {
        let Ok(list) = self.fs.listxattr(&ROOT, node) else {
            return;
        };
        check(&list);
        for name in list
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            if let Ok(value) = self.fs.getxattr(&ROOT, node, OsStr::from_bytes(name)) {
                check(&value);
            }
        }
        let _ = self
            .fs
            .setxattr(&ROOT, node, OsStr::new("user.new"), b"value", 0);
        let _ = self.fs.removexattr(&ROOT, node, OsStr::new("user.first"));
    }

    fn file(&mut self, node: NodeId, size: u64) -> FsResult<()> {
        let fh = self.fs.open(&ROOT, node, libc::O_RDWR, false)?.fh;
        let mut buffer = vec![0; 64 * 1024];
        for offset in [0, 100, size / 2, size.saturating_sub(40)] {
            buffer.fill(0);
            if let Ok(got) = self.fs.read(fh, offset, &mut buffer) {
                check(&buffer[..got]);
            }
        }
        let _ = self.fs.lseek(fh, 0, libc::SEEK_HOLE);
        let _ = self.fs.lseek(fh, size / 3, libc::SEEK_DATA);
        for _ in 0..4 {
            let offset = self.input.awkward() % (1 << 44);
            let length = 1 + self.input.below(9000);
            let _ = match self.input.byte() % 6 {
                0 => self
                    .fs
                    .write(&ROOT, fh, size.min(1 << 40), &mut vec![7; length], false)
                    .map(drop),
                1 => self
                    .fs
                    .write(&ROOT, fh, offset % (1 << 16), &mut vec![8; length], true)
                    .map(drop),
                2 => self.resize(node, offset),
                3 => {
                    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                    self.fs.fallocate(&ROOT, fh, offset, length as u64, punch)
                }
                4 => self
                    .fs
                    .copy_file_range(&ROOT, fh, 0, fh, 1 << 15, length as u64)
                    .map(drop),
                _ => self.fs.fsync(fh, self.input.once_in(2)),
            };
        }
        buffer.fill(0);
        if let Ok(got) = self.fs.read(fh, 0, &mut buffer) {
            check(&buffer[..got]);
        }
        self.fs.release(fh);
        Ok(())
    }

    fn resize(&self, node: NodeId, size: u64) -> FsResult<()> {
        let changes = SetAttr {
            size: Some(size),
            mtime: Some(SetTime::Now),
            ..SetAttr::default()
        };
        self.fs.setattr(&ROOT, node, None, &changes).map(drop)
    }

    fn make(&self, folder: NodeId) -> FsResult<()> {
        let made = self.fs.mkdir(&ROOT, folder, OsStr::new("made"), 0o755, 0)?;
        let name = OsString::from("x".repeat(200));
        let (_, opened) = self
            .fs
            .create(&ROOT, made.node, &name, 0o644, 0, libc::O_RDWR, false)?;
        self.fs
            .write(&ROOT, opened.fh, 3000, &mut [9; 3000], false)?;
        self.fs.fsync(opened.fh, false)?;
        self.fs.release(opened.fh);
        self.fs
            .symlink(&ROOT, made.node, OsStr::new("link"), OsStr::new("target"))
            .map(drop)
    }

    fn change_name(&mut self, folder: NodeId, name: &OsStr, kind: Kind) -> FsResult<()> {
        match (self.input.byte() % 6, kind) {
            (0, Kind::Directory) => self.fs.rmdir(&ROOT, folder, name),
            (0, _) => self.fs.unlink(&ROOT, folder, name),
            (1, _) => self
                .fs
                .rename(&ROOT, folder, name, folder, OsStr::new("renamed"), 0),
            (2, _) => {
                let new = OsString::from("y".repeat(210));
                self.fs.rename(&ROOT, folder, name, NodeId::ROOT, &new, 0)
            }
            (3, _) => {
                let entry = self.fs.lookup(&ROOT, folder, name)?;
                self.fs
                    .link(&ROOT, entry.node, NodeId::ROOT, OsStr::new("linked"))
                    .map(drop)
            }
            _ => Ok(()),
        }
    }
}
