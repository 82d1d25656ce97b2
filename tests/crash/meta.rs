//! The checks of this suite must be able to fail: each of these crashes leaves something that they have to find.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use kms_tests::mount::Mount;
use kms_tests::world::World;
use kms_tests::{require, tree};

use crate::check::Owed;
use crate::content;
use crate::ledger::{Ledger, Op};
use crate::lower::{Kind, Lower};
use crate::power_cut::Rig;
use crate::raw::Cut;
use crate::rig::{self, Mode};

/// A synced file of 10,000 bytes in a synced folder, a power cut, then `meddle` with the lower file.
/// What the check says is returned.
fn damaged(rig: &mut Rig, name: &str, meddle: impl FnOnce(&Path)) -> Result<(), String> {
    let folder = rig.point.join(name);
    let ledger = Ledger::default();
    fs::create_dir(&folder).unwrap();
    let file = File::create_new(folder.join("file")).unwrap();
    file.write_all_at(&content::bytes(1, 0, 10_000), 0).unwrap();
    file.sync_all().unwrap();
    for folder in [&folder, &rig.point] {
        File::open(folder).unwrap().sync_all().unwrap();
    }
    let ino = file.metadata().unwrap().ino();
    let (path, object) = ("file".to_owned(), 1);
    ledger.begin(Op::Create { path, object });
    ledger.returned(ino);
    for op in [
        Op::Write {
            object,
            offset: 0,
            length: 10_000,
            tag: 1,
        },
        Op::SyncFile {
            object,
            data_only: false,
        },
        Op::SyncDir {
            path: String::new(),
        },
    ] {
        ledger.begin(op);
        ledger.returned(0);
    }
    drop(file);
    rig.lower.cut(Cut::Now);
    rig.restart();
    let lower = find(&rig.volume, ino);
    meddle(&lower);
    let owed = Owed {
        folder: name.to_owned(),
        reach: ledger.reach(),
        ledger: &ledger,
    };
    rig.check(&[owed])
        .map(drop)
        .map_err(|wrong| wrong.join("\n"))
}

fn find(volume: &Path, ino: u64) -> PathBuf {
    tree::files(volume)
        .into_iter()
        .find(|path| path.symlink_metadata().unwrap().ino() == ino)
        .expect("the lower file of an inode number")
}

#[test]
fn losses_are_found() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/crash");
    for mode in Mode::ALL {
        let images = rig::image_folder();
        let mut rig = Rig::new(&world, images.path(), Kind::Ext4, mode, 1);
        damaged(&mut rig, "untouched", |_| ()).unwrap();
        let said = damaged(&mut rig, "zeroed page", |lower| {
            let file = OpenOptions::new().write(true).open(lower).unwrap();
            file.write_all_at(&[0; 4096], 8192).unwrap();
        });
        assert!(said.is_err(), "a lost page was not found");
        let said = damaged(&mut rig, "shorter", |lower| {
            let file = OpenOptions::new().write(true).open(lower).unwrap();
            file.set_len(8192).unwrap();
        });
        assert!(said.is_err(), "a lost end was not found");
        let said = damaged(&mut rig, "gone", |lower| fs::remove_file(lower).unwrap());
        assert!(said.unwrap_err().contains("file is missing"));
        let said = damaged(&mut rig, "nameless", |lower| {
            fs::remove_file(lower.with_file_name(".kmsfs")).unwrap();
        });
        assert!(said.unwrap_err().contains("file is missing"));
    }
}

/// With an fsync that does nothing the power cuts of this suite lose what was promised, and say so.
#[test]
fn an_fsync_that_does_nothing_is_found() {
    if !crate::machine_can() || !require::program("strace") {
        return;
    }
    let world = World::start();
    world.key("alias/crash");
    let images = rig::image_folder();
    let mut rig = Rig::new(&world, images.path(), Kind::Ext4, Mode::Xts, crate::seed());
    for point in 1..=20 {
        rig.mount_without_fsync();
        if let Err(wrong) = rig.cut() {
            rig::say(&format!(
                "without fsync, crash point {point} has {} losses",
                wrong.len() - 1
            ));
            return;
        }
    }
    panic!("20 power cuts without fsync, and nothing was missed");
}

/// What these tests make sure of themselves an administrator is told.
#[test]
fn small_blocks_are_warned_of() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/crash");
    let images = rig::image_folder();
    for (block, warned) in [(1024, true), (4096, false)] {
        let image = images.path().join(format!("{block}.img"));
        let lower = Lower::with_blocks(block, Kind::Ext4, &image, None);
        let volume = rig::make_volume(&world, &lower, Mode::Xts);
        let point = world.path(format!("{block}.plain"));
        let mount = Mount::start(&volume, &point, &world.daemon.socket(), &[]);
        let log = mount.log();
        assert_eq!(log.contains("blocks of less than 4096"), warned, "{log}");
        mount.unmount();
    }
}
