//! Objects found by their number, and objects without a name.

use std::ffi::OsStr;

use super::world::{World, me, noise};
use crate::errno::Errno;
use crate::fs::{NodeId, SetAttr};

const DOT: &str = ".";

#[test]
fn a_forgotten_object_is_found_again_by_its_number() {
    let mut world = World::new();
    let one = world.mkdir(NodeId::ROOT, "one");
    let two = world.mkdir(one, "two");
    let file = world.put(two, "file", b"content");
    let fs = world.fs();
    for node in [file, two, one] {
        fs.forget(node, 1);
    }
    // Nothing else is in memory, so all of them come back from where they were.
    let found = fs.lookup(&me(), file, OsStr::new(DOT)).unwrap();
    assert_eq!((found.node, found.attr.size), (file, 7));
    assert_eq!(world.get(file).unwrap(), b"content");
    let up = fs.lookup(&me(), file, OsStr::new("..")).unwrap();
    assert_eq!(up.node, two);
    // By name it is the same node.
    assert_eq!(world.at(&["one", "two", "file"]).unwrap().node, file);
    let generation = found.generation;
    world.remount();
    let strange = world.fs().lookup(&me(), file, OsStr::new(DOT));
    assert_eq!(strange.unwrap_err(), Errno::STALE);
    assert_ne!(world.at(&["one"]).unwrap().generation, generation);
}

#[test]
fn a_number_never_comes_to_stand_for_another_object() {
    let world = World::new();
    let fs = world.fs();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    let file = world.put(folder, "file", b"1");
    fs.forget(file, 1);
    // Moved: found under the same number at its new place, once somebody has looked there.
    let again = world.at(&["folder", "file"]).unwrap();
    assert_eq!(again.node, file);
    let (old, new) = (OsStr::new("file"), OsStr::new("new"));
    fs.rename(&me(), folder, old, NodeId::ROOT, new, 0).unwrap();
    fs.forget(file, 1);
    assert_eq!(fs.lookup(&me(), file, OsStr::new(DOT)).unwrap().node, file);
    // Removed, and the name and perhaps the lower number taken by others.
    fs.unlink(&me(), NodeId::ROOT, new).unwrap();
    fs.forget(file, 1);
    for _ in 0..20 {
        let other = world.put(NodeId::ROOT, "new", b"2");
        assert_ne!(other, file);
        let found = fs.lookup(&me(), file, OsStr::new(DOT));
        assert_eq!(found.unwrap_err(), Errno::STALE);
        fs.unlink(&me(), NodeId::ROOT, new).unwrap();
        fs.forget(other, 1);
    }
}

#[test]
fn a_file_made_without_a_name_can_get_one() {
    let mut world = World::new();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    let fs = world.fs();
    let (entry, opened) = fs.tmpfile(&me(), folder, 0o640, 0).unwrap();
    assert_eq!((entry.attr.nlink, entry.attr.perm), (0, 0o640));
    world.write(opened.fh, 0, &noise(1, 9000));
    assert!(world.names(folder).is_empty());
    // Another who opens it sees the same content.
    assert_eq!(world.get(entry.node).unwrap(), noise(1, 9000));
    let name = "n".repeat(200);
    let linked = fs
        .link(&me(), entry.node, folder, OsStr::new(&name))
        .unwrap();
    assert_eq!((linked.node, linked.attr.nlink), (entry.node, 1));
    fs.release(opened.fh);
    assert_eq!(world.get(entry.node).unwrap(), noise(1, 9000));
    let (_, lost) = fs.tmpfile(&me(), folder, 0o640, 0).unwrap();
    fs.release(lost.fh);
    world.remount();
    let folder = world.at(&["folder"]).unwrap().node;
    assert_eq!(world.names(folder), [name.as_bytes()]);
    let found = world.at(&["folder", &name]).unwrap();
    assert_eq!(world.get(found.node).unwrap(), noise(1, 9000));
}

#[test]
fn what_lost_its_name_is_there_for_those_who_hold_it() {
    let world = World::new();
    let fs = world.fs();
    let file = world.put(NodeId::ROOT, "file", &noise(3, 5000));
    let link = fs
        .symlink(&me(), NodeId::ROOT, OsStr::new("link"), OsStr::new("to"))
        .unwrap()
        .node;
    for name in ["file", "link"] {
        fs.unlink(&me(), NodeId::ROOT, OsStr::new(name)).unwrap();
    }
    let attr = fs.getattr(&me(), file, None).unwrap();
    assert_eq!((attr.nlink, attr.size), (0, 5000));
    assert_eq!(world.get(file).unwrap(), noise(3, 5000));
    let changes = SetAttr {
        mode: Some(0o600),
        uid: Some(me().uid),
        ..SetAttr::default()
    };
    assert_eq!(fs.setattr(&me(), file, None, &changes).unwrap().perm, 0o600);
    fs.setxattr(&me(), file, OsStr::new("user.a"), b"b", 0)
        .unwrap();
    assert_eq!(
        fs.getxattr(&me(), file, OsStr::new("user.a")).unwrap(),
        b"b"
    );
    assert_eq!(fs.getattr(&me(), link, None).unwrap().nlink, 0);
    assert_eq!(fs.readlink(link).unwrap(), b"to");
    let refused = fs.link(&me(), file, NodeId::ROOT, OsStr::new("back"));
    assert_eq!(refused.unwrap_err(), Errno::NOENT);
    assert!(world.names(NodeId::ROOT).is_empty());
}

#[test]
fn one_name_of_two_may_go_unseen() {
    let mut world = World::new();
    let file = world.put(NodeId::ROOT, "a", b"content");
    world
        .fs()
        .link(&me(), file, NodeId::ROOT, OsStr::new("b"))
        .unwrap();
    world.remount();
    let fs = world.fs();
    // Only one name has been looked up when it is removed.
    let file = world.at(&["a"]).unwrap().node;
    fs.unlink(&me(), NodeId::ROOT, OsStr::new("a")).unwrap();
    assert_eq!(fs.getattr(&me(), file, None).unwrap().nlink, 1);
    assert_eq!(world.get(file).unwrap(), b"content");
    assert_eq!(world.at(&["b"]).unwrap().node, file);
}

#[test]
fn a_tree_deeper_than_the_stack() {
    let mut world = World::new();
    let mut node = NodeId::ROOT;
    for _ in 0..4000 {
        node = world.mkdir(node, "d");
    }
    world.put(node, "file", b"deep");
    world.remount();
    let fs = world.fs();
    // A thread with a small stack, as those that answer requests.
    std::thread::scope(|scope| {
        let walk = std::thread::Builder::new()
            .stack_size(512 * 1024)
            .spawn_scoped(scope, || {
                let mut node = NodeId::ROOT;
                let mut way = Vec::new();
                for _ in 0..4000 {
                    node = fs.lookup(&me(), node, OsStr::new("d")).unwrap().node;
                    way.push(node);
                }
                for node in way.iter().rev() {
                    fs.forget(*node, 1);
                }
                let again = fs.lookup(&me(), node, OsStr::new(DOT)).unwrap();
                assert_eq!(again.node, node);
                let file = fs.lookup(&me(), node, OsStr::new("file")).unwrap();
                assert_eq!(world.get(file.node).unwrap(), b"deep");
            });
        walk.unwrap().join().unwrap();
    });
    // The table is dropped here, with all of it in memory.
    world.unmount();
    let removed = std::process::Command::new("rm")
        .arg("-rf")
        .arg(world.lower())
        .status();
    assert!(removed.unwrap().success());
}
