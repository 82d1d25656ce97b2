//! What a crash leaves.

use std::ffi::OsStr;
use std::fs;
use std::sync::Arc;

use super::world::{FixedKeys, World, me, noise};
use crate::errno::Errno;
use crate::fs::{Fs, NodeId};

/// SEMANTICS: after an unclean stop
#[test]
fn a_killed_mount_is_found_as_it_was() {
    let mut world = World::new();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    world.put(folder, "small", b"small");
    world.put(folder, "large", &noise(1, 100_000));
    let (_, fh) = world.create(folder, "open");
    world.write(fh, 0, &noise(2, 5000));
    world.crash();
    assert!(world.lower().join(".kmsfs.unclean").exists());
    assert_eq!(
        world
            .get(world.at(&["folder", "small"]).unwrap().node)
            .unwrap(),
        b"small"
    );
    assert_eq!(
        world
            .get(world.at(&["folder", "large"]).unwrap().node)
            .unwrap(),
        noise(1, 100_000)
    );
    assert_eq!(
        world
            .get(world.at(&["folder", "open"]).unwrap().node)
            .unwrap(),
        noise(2, 5000)
    );
    world.unmount();
    assert!(!world.lower().join(".kmsfs.unclean").exists());
}

#[test]
fn a_mount_that_fails_leaves_the_mark_of_an_unclean_stop() {
    let mut world = World::new();
    world.unmount();
    let mark = world.lower().join(".kmsfs.unclean");
    fs::write(&mark, "").unwrap();
    let no_keys = Arc::new(FixedKeys::default());
    assert!(Fs::new(world.lower(), no_keys, false).is_err());
    assert!(mark.exists());
}

#[test]
fn sizes_follow_the_header_after_a_crash() {
    let mut world = World::new();
    world.put(NodeId::ROOT, "file", b"inline content");
    let lower = world.lower_of(&world.at(&["file"]).unwrap());
    world.unmount();
    // As if killed between the units and the header of a growing file.
    fs::write(world.lower().join(".kmsfs.unclean"), "").unwrap();
    let mut bytes = fs::read(&lower).unwrap();
    bytes.truncate(4096);
    bytes.extend(noise(1, 8192));
    fs::write(&lower, &bytes).unwrap();
    world.remount();
    let entry = world.at(&["file"]).unwrap();
    assert_eq!(entry.attr.size, 14);
    assert_eq!(world.get(entry.node).unwrap(), b"inline content");
    world.resize(entry.node, 5000);
    let content = world.get(entry.node).unwrap();
    assert_eq!(content[..14], *b"inline content");
    assert!(
        content[14..].iter().all(|byte| *byte == 0),
        "nothing of the unfinished write"
    );
}

/// SEMANTICS: clean unmount
#[test]
fn a_clean_stop_after_a_crash_leaves_no_wrong_size() {
    let mut world = World::new();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    let below = world.mkdir(folder, "below");
    let own = world.keys.add(world.volume);
    world.fs().protect(below, &own).unwrap();
    for parent in [folder, below] {
        world.put(parent, "file", b"inline content");
    }
    let paths: [&[&str]; 2] = [&["folder", "file"], &["folder", "below", "file"]];
    let lower = paths.map(|path| world.lower_of(&world.at(path).unwrap()));
    world.unmount();
    // As if killed after the header of an empty file was written and before the file was cut.
    let mark = world.lower().join(".kmsfs.unclean");
    fs::write(&mark, "").unwrap();
    for lower in &lower {
        let file = fs::OpenOptions::new().write(true).open(lower).unwrap();
        file.set_len(100_000).unwrap();
    }
    // Mounted and unmounted without a look at the files; one of them could not be settled anyway.
    let own = world.keys.forget(&own);
    world.remount();
    world.unmount();
    assert!(mark.exists());
    world.keys.put_back(own);
    world.remount();
    world.unmount();
    assert!(!mark.exists());
    world.remount();
    for path in paths {
        assert_eq!(world.at(path).unwrap().attr.size, 14);
    }
}

#[test]
fn an_empty_directory_without_header_is_repaired() {
    for header in [
        None,
        Some(Vec::new()),
        Some(vec![0; 192]),
        Some(b"KMSFSDIR".to_vec()),
    ] {
        let mut world = World::new();
        world.mkdir(NodeId::ROOT, "folder");
        let lower = world
            .lower_of(&world.at(&["folder"]).unwrap())
            .join(".kmsfs");
        world.unmount();
        match &header {
            None => fs::remove_file(&lower).unwrap(),
            Some(bytes) => fs::write(&lower, bytes).unwrap(),
        }
        world.remount();
        let folder = world.at(&["folder"]).unwrap().node;
        world.put(folder, "file", b"x");
        world.remount();
        assert_eq!(world.at(&["folder", "file"]).unwrap().attr.size, 1);
    }
}

/// SEMANTICS: lost headers
#[test]
fn entries_that_were_never_synced_are_set_aside() {
    let mut world = World::new();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    world.put(folder, "file", b"x");
    let header = world
        .lower_of(&world.at(&["folder"]).unwrap())
        .join(".kmsfs");
    world.unmount();
    fs::write(&header, "").unwrap();
    // Without a crash this is damage.
    world.remount();
    assert_eq!(world.at(&["folder", "file"]).unwrap_err(), Errno::IO);
    world.unmount();
    fs::write(world.lower().join(".kmsfs.unclean"), "").unwrap();
    world.remount();
    assert_eq!(world.at(&["folder", "file"]).unwrap_err(), Errno::NOENT);
    assert_eq!(
        fs::read_dir(world.lower().join(".kmsfs.lost"))
            .unwrap()
            .count(),
        1
    );
    world
        .fs()
        .rmdir(&me(), NodeId::ROOT, OsStr::new("folder"))
        .unwrap();
}

/// SEMANTICS: fsync, fsync of a directory, directory headers
#[test]
fn syncing_takes_the_headers_along() {
    let world = World::new();
    let (a, other) = (
        world.mkdir(NodeId::ROOT, "a"),
        world.mkdir(NodeId::ROOT, "other"),
    );
    let b = world.mkdir(a, "b");
    let waits = |node: NodeId| world.fs().headers.waits(node);
    assert!(waits(a) && waits(b) && waits(other));
    let (_, fh) = world.create(b, "file");
    world.fs().fsync(fh, true).unwrap();
    assert!(!waits(a) && !waits(b) && waits(other));
    let c = world.mkdir(b, "c");
    let handle = world.fs().opendir(&me(), b).unwrap();
    world.fs().fsyncdir(handle, false).unwrap();
    assert!(!waits(c) && waits(other));
    // And on their own within 5 s.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while waits(other) {
        assert!(
            std::time::Instant::now() < deadline,
            "not durable after 5 s"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// SEMANTICS: moves
#[test]
fn what_was_synced_moves_only_below_durable_headers() {
    let world = World::new();
    let fs = world.fs();
    let waits = |node: NodeId| fs.headers.waits(node);
    let old = world.mkdir(NodeId::ROOT, "old");
    let (file, name) = (world.put(old, "file", b"x"), OsStr::new("file"));
    let fh = fs.open(&me(), file, libc::O_RDONLY, false).unwrap().fh;
    fs.fsync(fh, false).unwrap();
    let above = world.mkdir(NodeId::ROOT, "above");
    let new = world.mkdir(above, "new");
    fs.rename(&me(), old, name, new, name, 0).unwrap();
    assert!(!waits(above) && !waits(new));
    let linked = world.mkdir(NodeId::ROOT, "linked");
    fs.link(&me(), file, linked, name).unwrap();
    assert!(!waits(linked));
    // What was never synced may be lost: no fsync for it.
    let fresh = world.mkdir(NodeId::ROOT, "fresh");
    world.put(fresh, "other", b"y");
    let target = world.mkdir(NodeId::ROOT, "target");
    let other = OsStr::new("other");
    fs.rename(&me(), fresh, other, target, other, 0).unwrap();
    assert!(waits(fresh) && waits(target));
}

#[test]
fn a_directory_without_header_is_settled_before_the_mark_goes() {
    let mut world = World::new();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    world.put(folder, "file", b"x");
    let header = world
        .lower_of(&world.at(&["folder"]).unwrap())
        .join(".kmsfs");
    world.unmount();
    fs::write(&header, "").unwrap();
    fs::write(world.lower().join(".kmsfs.unclean"), "").unwrap();
    // Mounted and unmounted without a look at it.
    world.remount();
    world.unmount();
    assert!(!world.lower().join(".kmsfs.unclean").exists());
    world.remount();
    assert_eq!(world.at(&["folder", "file"]).unwrap_err(), Errno::NOENT);
}
