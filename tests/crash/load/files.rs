//! What is done to files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering;

use rustix::fs::{FallocateFlags, XattrFlags};

use super::{Worker, XATTR};
use crate::content;
use crate::ledger::{Object, Op};
use crate::mapped::Mapper;
use crate::random::Random;
use crate::tree::{Kind, parent};

/// Sizes around every border of the format, and some between.
fn size(random: &mut Random) -> usize {
    const BORDERS: [usize; 11] = [
        0, 16, 1_000, 3_712, 4_064, 4_096, 8_128, 8_192, 12_192, 20_000, 65_536,
    ];
    let border = *random.pick(&BORDERS).unwrap_or(&0);
    (border + random.below(40) as usize).saturating_sub(20)
}

impl Worker<'_> {
    pub(super) fn create_at(&mut self, path: String) -> io::Result<(File, Object)> {
        let object = self.object(Kind::File);
        self.sizes.insert(object, 0);
        let at = self.at(&path);
        let mut made = None;
        self.log(Op::Create { path, object }, || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(at)?;
            let ino = file.metadata()?.ino();
            made = Some(file);
            Ok(ino)
        })?;
        let file = made.ok_or_else(|| io::Error::other("no file"))?;
        Ok((file, object))
    }

    pub(super) fn create(&mut self) -> io::Result<()> {
        let Some(path) = self.free_path() else {
            return Ok(());
        };
        let (file, object) = self.create_at(path)?;
        if self.random.percent(90) {
            let length = size(&mut self.random);
            self.write(&file, object, 0, length)?;
        }
        if self.random.percent(30) {
            self.sync_file(&file, object)?;
        }
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        file: &File,
        object: Object,
        offset: usize,
        length: usize,
    ) -> io::Result<()> {
        let length = length.max(1);
        let tag = self.shared.tags.fetch_add(1, Ordering::Relaxed) + 1;
        let op = Op::Write {
            object,
            offset,
            length,
            tag,
        };
        let bytes = content::bytes(tag, offset, length);
        self.log(op, || file.write_all_at(&bytes, offset as u64).map(|()| 0))?;
        let end = self.sizes.entry(object).or_default();
        *end = (*end).max(offset + length);
        Ok(())
    }

    pub(super) fn sync_file(&mut self, file: &File, object: Object) -> io::Result<()> {
        let data_only = self.random.percent(40);
        self.log(Op::SyncFile { object, data_only }, || {
            if data_only {
                file.sync_data()
            } else {
                file.sync_all()
            }
            .map(|()| 0)
        })
    }

    /// Opens a file and changes its content a few times.
    pub(super) fn change(&mut self) -> io::Result<()> {
        let Some((path, object)) = self.some(Kind::File) else {
            return self.create();
        };
        let at = self.at(&path);
        let file = if self.random.percent(12) {
            // As editors and shells overwrite.
            let mut opened = None;
            self.log(Op::Resize { object, size: 0 }, || {
                let mut options = OpenOptions::new();
                opened = Some(options.read(true).write(true).truncate(true).open(at)?);
                Ok(0)
            })?;
            self.sizes.insert(object, 0);
            opened.ok_or_else(|| io::Error::other("no file"))?
        } else {
            OpenOptions::new().read(true).write(true).open(at)?
        };
        for _ in 0..=self.random.below(4) {
            let now = self.sizes.get(&object).copied().unwrap_or(0);
            let inside = self.random.below(now as u64 + 1) as usize;
            match self.random.below(10) {
                0..3 => {
                    let length = size(&mut self.random).min(now - inside);
                    self.write(&file, object, inside, length)?;
                }
                3..6 => {
                    let length = if self.random.percent(50) {
                        1 + self.random.below(200) as usize
                    } else {
                        size(&mut self.random)
                    };
                    if now + length < 300_000 {
                        self.write(&file, object, now, length)?;
                    }
                }
                6 => {
                    let length = size(&mut self.random);
                    self.write(&file, object, inside, length)?;
                }
                7 => {
                    let size = size(&mut self.random);
                    self.log(Op::Resize { object, size }, || {
                        file.set_len(size as u64).map(|()| 0)
                    })?;
                    self.sizes.insert(object, size);
                }
                8 => {
                    let length = 1 + size(&mut self.random);
                    let op = Op::Punch {
                        object,
                        offset: inside,
                        length,
                    };
                    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    self.log(op, || {
                        rustix::fs::fallocate(&file, how, inside as u64, length as u64)?;
                        Ok(0)
                    })?;
                }
                _ => self.sync_file(&file, object)?,
            }
        }
        if self.random.percent(25) {
            self.sync_file(&file, object)?;
        }
        Ok(())
    }

    pub(super) fn write_mapped(&mut self) -> io::Result<()> {
        let Some((path, object)) = self.some(Kind::File) else {
            return Ok(());
        };
        let now = self.sizes.get(&object).copied().unwrap_or(0);
        if now == 0 {
            return Ok(());
        }
        let offset = self.random.below(now as u64) as usize;
        let length = (1 + self.random.below(9_000) as usize).min(now - offset);
        let tag = self.shared.tags.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = content::bytes(tag, offset, length);
        let at = self.at(&path);
        let op = Op::Write {
            object,
            offset,
            length,
            tag,
        };
        let mut mapper = match self.mapper.take() {
            Some(mapper) => mapper,
            None => Mapper::start()?,
        };
        self.log(op, || mapper.write(&at, offset, &bytes).map(|()| 0))?;
        self.mapper = Some(mapper);
        // msync has made it durable.
        let data_only = true;
        self.log(Op::SyncFile { object, data_only }, || Ok(0))
    }

    pub(super) fn set_xattr(&mut self) -> io::Result<()> {
        let Some((path, object)) = self.some(Kind::File) else {
            return Ok(());
        };
        let value = self.shared.tags.fetch_add(1, Ordering::Relaxed) + 1;
        let at = self.at(&path);
        self.log(Op::SetXattr { object, value }, || {
            let bytes = value.to_le_bytes();
            rustix::fs::setxattr(at, XATTR, &bytes, XattrFlags::empty())?;
            Ok(0)
        })
    }

    /// The way editors and package managers replace a file.
    pub(super) fn save_atomically(&mut self) -> io::Result<()> {
        let (Some((path, _)), Some(temporary)) = (self.some(Kind::File), self.free_path()) else {
            return Ok(());
        };
        let (file, object) = self.create_at(temporary.clone())?;
        let length = size(&mut self.random);
        self.write(&file, object, 0, length)?;
        self.sync_file(&file, object)?;
        let (source, target) = (self.at(&temporary), self.at(&path));
        let folder = parent(&path).to_owned();
        let op = Op::Rename {
            from: temporary,
            to: path,
        };
        self.log(op, || fs::rename(source, target).map(|()| 0))?;
        let at = self.at(&folder);
        self.log(Op::SyncDir { path: folder }, || {
            File::open(at)?.sync_all().map(|()| 0)
        })
    }
}
