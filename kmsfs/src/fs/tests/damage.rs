//! Lower trees that were damaged, and policies.

use std::ffi::OsStr;
use std::fs;

use super::world::{World, me, noise};
use crate::errno::Errno;
use crate::fs::NodeId;

#[test]
fn damaged_file_headers_are_refused() {
    let mut world = World::new();
    let (small, large) = (b"small".to_vec(), noise(1, 20_000));
    world.put(NodeId::ROOT, "small", &small);
    world.put(NodeId::ROOT, "large", &large);
    for (name, content) in [("small", small), ("large", large)] {
        let lower = world.lower_of(&world.at(&[name]).unwrap());
        for position in [
            0, 8, 11, 16, 40, 52, 56, 72, 80, 92, 128, 160, 300, 3968, 4000,
        ] {
            world.unmount();
            let good = fs::read(&lower).unwrap();
            let mut bad = good.clone();
            bad[position] ^= 4;
            fs::write(&lower, &bad).unwrap();
            world.remount();
            let entry = world.at(&[name]).unwrap();
            match world.get(entry.node) {
                // Bytes that no reader looks at, or the other slot.
                Ok(found) => assert_eq!(found, content, "{name}, byte {position}"),
                Err(errno) => assert_eq!(errno, Errno::IO, "{name}, byte {position}"),
            }
            world.unmount();
            fs::write(&lower, &good).unwrap();
            world.remount();
        }
        assert_eq!(world.get(world.at(&[name]).unwrap().node).unwrap(), content);
    }
}

#[test]
fn cut_files_never_panic_and_can_be_removed() {
    for length in [0, 1, 100, 4095, 4096, 4097, 4100, 8192, 15_000] {
        let mut world = World::new();
        let content = noise(1, 20_000);
        world.put(NodeId::ROOT, "file", &content);
        let lower = world.lower_of(&world.at(&["file"]).unwrap());
        world.unmount();
        fs::File::options()
            .write(true)
            .open(&lower)
            .unwrap()
            .set_len(length)
            .unwrap();
        world.remount();
        let entry = world.at(&["file"]).unwrap();
        match world.get(entry.node) {
            Ok(found) => assert!(content.starts_with(&found), "{length}"),
            Err(errno) => assert_eq!(errno, Errno::IO, "{length}"),
        }
        world
            .fs()
            .unlink(&me(), NodeId::ROOT, OsStr::new("file"))
            .unwrap();
    }
}

#[test]
fn objects_of_another_volume_are_refused() {
    let (mut world, other) = (World::new(), World::new());
    world.put(NodeId::ROOT, "file", b"mine");
    other.put(NodeId::ROOT, "file", b"foreign");
    let mine = world.lower_of(&world.at(&["file"]).unwrap());
    let foreign = other.lower_of(&other.at(&["file"]).unwrap());
    let folder = world.mkdir(NodeId::ROOT, "folder");
    world.put(folder, "inside", b"");
    let folder = world.lower_of(&world.at(&["folder"]).unwrap());
    world.unmount();
    fs::copy(foreign, mine).unwrap();
    fs::copy(other.lower().join(".kmsfs"), folder.join(".kmsfs")).unwrap();
    world.remount();
    assert_eq!(world.get(world.at(&["file"]).unwrap().node), Err(Errno::IO));
    assert_eq!(world.at(&["folder", "inside"]).unwrap_err(), Errno::IO);
}

#[test]
fn damaged_directory_headers_close_the_directory() {
    let mut world = World::new();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    world.put(folder, "file", b"x");
    let header = world
        .lower_of(&world.at(&["folder"]).unwrap())
        .join(".kmsfs");
    let good = fs::read(&header).unwrap();
    let harms = (0..192)
        .step_by(7)
        .map(|position| {
            let mut bad = good.clone();
            bad[position] ^= 0x10;
            bad
        })
        .chain([1, 100, 191].map(|length| good[..length].to_vec()))
        .chain([[good.as_slice(), b"x"].concat(), Vec::new()]);
    for bad in harms {
        world.unmount();
        fs::write(&header, &bad).unwrap();
        world.remount();
        let error = world.at(&["folder", "file"]).unwrap_err();
        assert!(
            matches!(error, Errno::IO | Errno::NOKEY),
            "{error} for {bad:?}"
        );
        assert!(world.at(&["folder"]).is_ok());
    }
    world.unmount();
    fs::write(&header, &good).unwrap();
    world.remount();
    assert_eq!(world.at(&["folder", "file"]).unwrap().attr.size, 1);
}

#[test]
fn foreign_names_are_not_shown() {
    let mut world = World::new();
    world.put(NodeId::ROOT, "file", b"x");
    world.unmount();
    for name in [
        "plain",
        "=",
        "AAAA",
        &"B".repeat(43),
        &format!("={}", "A".repeat(43)),
        ".kmsfs.t.0011223344556677",
    ] {
        fs::write(world.lower().join(name), "whatever").unwrap();
    }
    world.remount();
    assert_eq!(world.names(NodeId::ROOT), [b"file"]);
    assert!(
        !world.lower().join(".kmsfs.t.0011223344556677").exists(),
        "cleaned up"
    );
    assert!(world.lower().join("plain").exists(), "not ours");
}

#[test]
fn a_directory_under_its_own_policy() {
    let mut world = World::new();
    let secret = world.mkdir(NodeId::ROOT, "secret");
    let policy = world.keys.add(world.volume);
    let busy = world.mkdir(NodeId::ROOT, "busy");
    let inside = world.put(busy, "x", b"");
    assert_eq!(world.fs().protect(busy, &policy), Err(Errno::NOTEMPTY));
    assert_eq!(world.fs().protect(NodeId::ROOT, &policy), Err(Errno::BUSY));
    assert_eq!(world.fs().protect(inside, &policy), Err(Errno::NOTDIR));
    world.fs().protect(secret, &policy).unwrap();
    let below = world.mkdir(secret, "below");
    world.put(below, "file", b"under the other key");
    // Nothing crosses the border.
    let outside = world.put(NodeId::ROOT, "outside", b"");
    let (root, name) = (NodeId::ROOT, OsStr::new("outside"));
    assert_eq!(
        world.fs().rename(&me(), root, name, secret, name, 0),
        Err(Errno::XDEV)
    );
    assert_eq!(
        world.fs().link(&me(), outside, secret, name).unwrap_err(),
        Errno::XDEV
    );
    let moved = world
        .fs()
        .rename(&me(), root, OsStr::new("secret"), busy, OsStr::new("s"), 0);
    assert_eq!(moved, Err(Errno::XDEV));
    world
        .fs()
        .rename(
            &me(),
            root,
            OsStr::new("secret"),
            root,
            OsStr::new("named"),
            0,
        )
        .unwrap();
    // Without its key it can be seen and nothing else.
    world.keys.forget(&policy);
    world.remount();
    let entry = world.at(&["named"]).unwrap();
    assert_eq!(world.at(&["named", "below"]).unwrap_err(), Errno::NOKEY);
    assert_eq!(
        world.fs().opendir(&me(), entry.node).unwrap_err(),
        Errno::NOKEY
    );
    assert!(world.at(&["busy", "x"]).is_ok());
    world.keys.put_back(policy);
    let file = world.at(&["named", "below", "file"]).unwrap();
    assert_eq!(world.get(file.node).unwrap(), b"under the other key");
    // A policy root that its parent did not admit.
    let lower = world.lower_of(&world.at(&["named"]).unwrap());
    let busy = world.lower_of(&world.at(&["busy"]).unwrap());
    world.unmount();
    fs::copy(lower.join(".kmsfs"), busy.join(".kmsfs")).unwrap();
    world.remount();
    assert_eq!(world.at(&["busy", "x"]).unwrap_err(), Errno::NOENT);
}
