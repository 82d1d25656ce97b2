//! What two operations at the same time, or one that was cut short, must not do to each other.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kms_format::names;
use rustix::fs::RenameFlags;

use super::world::{World, me, noise};
use crate::errno::Errno;
use crate::fs::{Caller, NodeId, SetAttr, SetTime, Timestamp};

#[test]
fn a_name_made_for_other_keys_is_not_made() {
    let world = World::new();
    let fs = world.fs();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    world.put(NodeId::ROOT, "file", b"x");
    // As in a create that waits while the directory gets a policy of its own.
    let early = fs.named(folder, OsStr::new("early")).unwrap();
    let own = world.keys.add(world.volume);
    fs.protect(folder, &own).unwrap();
    let made = fs.making(&early, |dir, stored| dir.create_file(stored, 0o600));
    assert_eq!(made.unwrap_err(), Errno::STALE);
    assert!(world.names(folder).is_empty());
    world.put(folder, "late", b"y");
    assert_eq!(world.names(folder), [b"late"]);
}

#[test]
fn a_first_long_target_cut_short_does_not_spoil_the_next() {
    let world = World::new();
    std::fs::create_dir(world.lower().join(".kmsfs.links")).unwrap();
    let target = "t".repeat(2000);
    let made = world
        .fs()
        .symlink(&me(), NodeId::ROOT, OsStr::new("link"), OsStr::new(&target));
    let found = world.fs().readlink(made.unwrap().node).unwrap();
    assert_eq!(found, target.as_bytes());
}

#[test]
fn an_attribute_leaves_the_time_of_an_empty_file() {
    let world = World::new();
    let fs = world.fs();
    let node = world.put(NodeId::ROOT, "file", b"");
    let long_ago = Timestamp {
        secs: 1_000_000_000,
        nanos: 5,
    };
    let changes = SetAttr {
        mtime: Some(SetTime::At(long_ago)),
        ..SetAttr::default()
    };
    fs.setattr(&me(), node, None, &changes).unwrap();
    fs.setxattr(&me(), node, OsStr::new("user.a"), b"b", 0)
        .unwrap();
    assert_eq!(fs.getattr(&me(), node, None).unwrap().mtime, long_ago);
}

#[test]
fn an_object_is_found_while_it_is_renamed() {
    let world = World::new();
    let fs = world.fs();
    let folders = [
        world.mkdir(NodeId::ROOT, "one"),
        world.mkdir(NodeId::ROOT, "two"),
    ];
    let node = world.put(folders[0], "file", b"x");
    let name = OsStr::new("file");
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..4000 {
                let (from, to) = (folders[turn % 2], folders[(turn + 1) % 2]);
                fs.rename(&me(), from, name, to, name, 0).unwrap();
            }
            end.store(true, Ordering::Release);
        });
        while !end.load(Ordering::Acquire) {
            fs.getattr(&me(), node, None).unwrap();
            let opened = fs.open(&me(), node, libc::O_RDONLY, false).unwrap();
            fs.release(opened.fh);
        }
    });
}

#[test]
fn set_id_bits_go_with_every_change_and_the_kernel_is_told() {
    let world = World::new();
    let fs = world.fs();
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    fs.on_change(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let other = Caller {
        uid: 4242,
        gid: 4242,
        pid: 1,
    };
    let node = world.put(NodeId::ROOT, "file", &noise(1, 5000));
    let fh = fs
        .open(&me(), node, libc::O_RDWR | libc::O_NOATIME, false)
        .unwrap()
        .fh;
    let source = world.put(NodeId::ROOT, "source", &noise(2, 5000));
    let source = fs
        .open(&me(), source, libc::O_RDONLY | libc::O_NOATIME, false)
        .unwrap()
        .fh;
    let mode = || fs.getattr(&me(), node, None).unwrap().perm;
    for way in 0..4 {
        let changes = SetAttr {
            mode: Some(0o6755),
            ..SetAttr::default()
        };
        fs.setattr(&me(), node, None, &changes).unwrap();
        assert_eq!(mode(), 0o6755);
        match way {
            0 => drop(fs.write(&other, fh, 0, &mut [1; 10], true).unwrap()),
            1 => fs.fallocate(&other, fh, 0, 9000, 0).unwrap(),
            2 => drop(fs.copy_file_range(&other, source, 0, fh, 0, 10).unwrap()),
            _ => drop(
                fs.open(&other, node, libc::O_WRONLY | libc::O_TRUNC, true)
                    .unwrap(),
            ),
        }
        assert_eq!(mode(), 0o755, "way {way}");
        assert_eq!(told.load(Ordering::Relaxed), way + 1, "way {way}");
    }
}

#[test]
fn a_file_gets_another_name_while_its_lower_name_changes() {
    let world = World::new();
    let [dir, other] = ["dir", "other"].map(|name| world.mkdir(NodeId::ROOT, name));
    let file = world.put(dir, "name", b"content");
    let fs = world.fs();
    let parent = fs.table.get(dir).unwrap();
    let lower = fs.dirs.get(&parent).unwrap();
    let node = fs.table.get(file).unwrap();
    let old = node.place().unwrap().name;
    let new = names::encrypt(
        &fs.context(&parent).unwrap().keys,
        b"under a new key",
        names::LOWER_MAX,
    )
    .unwrap();
    let linked = std::thread::scope(|scope| {
        // As it is brought under the new key, stopped in the middle.
        let alone = parent.directory().unwrap().entries.write();
        lower
            .rename(&old, &lower, new.stored(), RenameFlags::NOREPLACE)
            .unwrap();
        let linking = scope.spawn(|| fs.link(&me(), file, other, OsStr::new("again")));
        for _ in 0..50 {
            if !linking.is_finished() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        fs.table.renamed(node.lower, &parent, &old, new.stored());
        drop(alone);
        linking.join().unwrap()
    });
    assert_eq!(linked.map(|entry| entry.attr.nlink), Ok(2));
}
