//! What the first mount after an unclean stop mends.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use kms_format::names;
use kms_tests::world::World;
use rustix::fs::XattrFlags;

use super::super::WORKERS;
use super::{Script, Steps, bytes, long};

/// A tree that a crash left.
fn crashed(world: &World, worker: usize) -> PathBuf {
    let lower = world.volume(&format!("kill-recovery{worker}"), "alias/kill");
    let mount = world.mount(&lower);
    fs::write(mount.path("kept"), bytes(1, 10_000)).expect("write");
    fs::create_dir(mount.path("lost")).expect("mkdir");
    fs::write(mount.path("lost/entry"), "x").expect("write");
    fs::create_dir(mount.path("bare")).expect("mkdir");
    fs::create_dir(mount.path("emptied")).expect("mkdir");
    for name in ["longer", "blank", &long("s")] {
        fs::write(mount.path(name), "small").expect("write");
    }
    for name in ["bare", "blank"] {
        let create = XattrFlags::CREATE;
        rustix::fs::setxattr(mount.path(name), "user.own", b"value", create).expect("setxattr");
    }
    let long = long("s");
    let numbers = ["lost", "bare", "emptied", "longer", "blank", &long].map(|name| {
        let meta = mount.path(name).symlink_metadata();
        meta.expect("just made").ino()
    });
    mount.unmount();
    fs::write(lower.join(".kmsfs.unclean"), "").expect("the mark");
    fs::write(lower.join(".kmsfs.t.0011223344556677"), "left").expect("a temporary file");
    let find = |number: u64| {
        fs::read_dir(&lower)
            .expect("the lower root")
            .map(|entry| entry.expect("an entry").path())
            .find(|path| path.symlink_metadata().expect("it").ino() == number)
            .expect("every object has a lower one")
    };
    let [lost, bare, emptied, longer, blank, unnamed] = numbers.map(find);
    // Headers that did not reach the disk, a size that did not, and a header page that did not.
    fs::write(lost.join(".kmsfs"), "").expect("empty the header");
    fs::remove_file(bare.join(".kmsfs")).expect("remove the header");
    let open = |path: &Path| OpenOptions::new().write(true).open(path).expect("open");
    open(&longer).set_len(100_000).expect("set the size");
    open(&blank)
        .write_all_at(&[0; 4096], 0)
        .expect("blank the header");
    // What unfinished operations leave: a temporary file, and half the record of a long name.
    fs::write(emptied.join(".kmsfs.t.8899aabbccddeeff"), "left").expect("a temporary file");
    fs::remove_file(&unnamed).expect("remove the entry");
    let stored = unnamed.file_name().expect("a name").as_encoded_bytes();
    let record = names::sidecar_name(stored).expect("a long name has a record");
    open(&lower.join(record))
        .set_len(20)
        .expect("cut the record");
    lower
}

pub(in super::super) fn recovery(world: &World) -> Script {
    let lowers = (0..WORKERS).map(|worker| crashed(world, worker)).collect();
    let mut steps = Steps(Vec::new());
    steps.add("rmdir with a temporary file", |stage| {
        fs::remove_dir(stage.at("emptied"))
    });
    steps.add("create where half a record is", |stage| {
        File::create_new(stage.at(&long("s"))).map(drop)
    });
    steps.add("look", |stage| look(&stage.root));
    Script {
        prepare: |root| {
            fs::write(root.join("kept"), bytes(1, 10_000)).expect("write");
            for name in ["lost", "bare", "emptied"] {
                fs::create_dir(root.join(name)).expect("mkdir");
            }
            fs::write(root.join("longer"), "small").expect("write");
            fs::write(root.join("blank"), "").expect("write");
        },
        ..Script::new("recovery", lowers, steps)
    }
}

/// Looks everything up and reads it.
fn look(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.symlink_metadata()?.is_dir() {
            look(&path)?;
        } else {
            fs::read(&path)?;
        }
    }
    Ok(())
}
