//! Names, links, attributes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::world::{World, me, noise};
use crate::errno::Errno;
use crate::fs::{Caller, Kind, NodeId, SetAttr, SetTime, Timestamp};

fn name(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| [b'a', 0xff, b' ', 0x01, b'z'][(i + length) % 5])
        .collect()
}

/// SEMANTICS: lookup
#[test]
fn names_of_every_length_and_byte() {
    let mut world = World::new();
    for length in 1..=255 {
        let (_, fh) = world.create(NodeId::ROOT, name(length));
        world.fs().release(fh);
    }
    let too_long = vec![b'x'; 256];
    let error = world
        .fs()
        .lookup(&me(), NodeId::ROOT, OsStr::from_bytes(&too_long));
    assert_eq!(error.unwrap_err(), Errno::NAMETOOLONG);
    let mut expected: Vec<_> = (1..=255).map(name).collect();
    expected.sort();
    assert_eq!(world.names(NodeId::ROOT), expected);
    world.remount();
    assert_eq!(world.names(NodeId::ROOT), expected);
    for length in (1..=255).rev() {
        world
            .fs()
            .unlink(&me(), NodeId::ROOT, OsStr::from_bytes(&name(length)))
            .unwrap();
    }
    assert!(world.names(NodeId::ROOT).is_empty());
    // Nothing of the long names is left.
    let left = std::fs::read_dir(world.lower()).unwrap().count();
    assert_eq!(left, 2, "the header and the mark of use");
}

#[test]
fn readdir_resumes_where_it_was() {
    let world = World::new();
    for number in 0..500 {
        let (_, fh) = world.create(NodeId::ROOT, format!("entry-{number}"));
        world.fs().release(fh);
    }
    let fh = world.fs().opendir(&me(), NodeId::ROOT).unwrap();
    let (mut seen, mut offset) = (Vec::new(), 0);
    loop {
        let mut room = 7;
        let before = seen.len();
        world
            .fs()
            .readdirplus(&me(), fh, offset, &mut |item, entry| {
                if room == 0 {
                    return true;
                }
                room -= 1;
                offset = item.offset;
                seen.push(item.name.as_bytes().to_vec());
                if let Some(entry) = entry {
                    assert_eq!(entry.attr.kind, Kind::File);
                    world.fs().forget(entry.node, 1);
                }
                false
            })
            .unwrap();
        if seen.len() == before {
            break;
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 502);
    world.fs().releasedir(fh);
}

/// SEMANTICS: link count of the root
#[test]
fn symlinks_keep_their_targets() {
    let mut world = World::new();
    for length in [1, 15, 16, 713, 714, 2000, 4095] {
        let target = "t".repeat(length);
        let (name, target) = (format!("l{length}"), OsStr::new(&target));
        let entry = world
            .fs()
            .symlink(&me(), NodeId::ROOT, OsStr::new(&name), target)
            .unwrap();
        assert_eq!(entry.attr.size, length as u64);
    }
    let too_long = "t".repeat(4096);
    let refused = world
        .fs()
        .symlink(&me(), NodeId::ROOT, OsStr::new("x"), OsStr::new(&too_long));
    assert_eq!(refused.unwrap_err(), Errno::NAMETOOLONG);
    world.remount();
    for length in [1, 15, 16, 713, 714, 2000, 4095] {
        let entry = world.at(&[&format!("l{length}")]).unwrap();
        assert_eq!(entry.attr.size, length as u64);
        assert_eq!(
            world.fs().readlink(entry.node).unwrap(),
            "t".repeat(length).into_bytes()
        );
        world
            .fs()
            .unlink(&me(), NodeId::ROOT, OsStr::new(&format!("l{length}")))
            .unwrap();
    }
    let records = std::fs::read_dir(world.lower().join(".kmsfs.links"))
        .unwrap()
        .count();
    assert_eq!(records, 0);
    assert_eq!(
        world.fs().getattr(&me(), NodeId::ROOT, None).unwrap().nlink,
        2
    );
}

/// SEMANTICS: link
#[test]
fn hard_links_are_one_node() {
    let world = World::new();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    let node = world.put(NodeId::ROOT, "one", b"content");
    let entry = world
        .fs()
        .link(&me(), node, folder, OsStr::new("two"))
        .unwrap();
    assert_eq!((entry.node, entry.attr.nlink), (node, 2));
    world
        .fs()
        .unlink(&me(), NodeId::ROOT, OsStr::new("one"))
        .unwrap();
    assert_eq!(world.fs().getattr(&me(), node, None).unwrap().nlink, 1);
    assert_eq!(world.get(node).unwrap(), b"content");
    assert_eq!(world.at(&["folder", "two"]).unwrap().node, node);
}

#[test]
fn what_is_open_outlives_its_name() {
    let world = World::new();
    let (entry, fh) = world.create(NodeId::ROOT, "gone");
    world.write(fh, 0, &noise(3, 10_000));
    world
        .fs()
        .unlink(&me(), NodeId::ROOT, OsStr::new("gone"))
        .unwrap();
    world.write(fh, 10_000, &noise(4, 10_000));
    let attr = world.fs().getattr(&me(), entry.node, None).unwrap();
    assert_eq!((attr.size, attr.nlink), (20_000, 0));
    let mut out = vec![0; 20_000];
    assert_eq!(world.fs().read(fh, 0, &mut out), Ok(20_000));
    assert_eq!(out, [noise(3, 10_000), noise(4, 10_000)].concat());
    // A new file, perhaps with the same lower inode number, is another node.
    let (other, other_fh) = world.create(NodeId::ROOT, "gone");
    assert_ne!(other.node, entry.node);
    world.fs().release(fh);
    world.fs().release(other_fh);
    // Closed, but the kernel still knows it: as a local file system has it for an O_PATH descriptor.
    assert_eq!(
        world.fs().getattr(&me(), entry.node, None).unwrap().nlink,
        0
    );
    world.fs().forget(entry.node, 1);
    assert_eq!(
        world.fs().getattr(&me(), entry.node, None).unwrap_err(),
        Errno::STALE
    );
}

#[test]
fn rename_in_all_its_flags() {
    let mut world = World::new();
    let (a, b) = (
        world.mkdir(NodeId::ROOT, "a"),
        world.mkdir(NodeId::ROOT, "b"),
    );
    let long = "n".repeat(255);
    let one = world.put(a, "one", b"1");
    world.put(b, "two", b"2");
    let inner = world.mkdir(a, "inner");
    world.put(inner, &long, b"deep");
    let rename = |world: &World, p, n: &str, q, m: &str, flags| {
        world
            .fs()
            .rename(&me(), p, OsStr::new(n), q, OsStr::new(m), flags)
    };
    assert_eq!(
        rename(&world, a, "one", b, "two", libc::RENAME_NOREPLACE),
        Err(Errno::EXIST)
    );
    assert_eq!(
        rename(&world, a, "one", b, "two", libc::RENAME_WHITEOUT),
        Err(Errno::INVAL)
    );
    rename(&world, a, "one", b, "two", libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(
        world.get(world.at(&["b", "two"]).unwrap().node).unwrap(),
        b"1"
    );
    assert_eq!(
        world.get(world.at(&["a", "one"]).unwrap().node).unwrap(),
        b"2"
    );
    assert_eq!(world.at(&["b", "two"]).unwrap().node, one);
    // Over an empty directory, into another one, with what is in it.
    let target = world.mkdir(b, "target");
    rename(&world, a, "inner", b, "target", 0).unwrap();
    assert_eq!(world.at(&["b", "target"]).unwrap().node, inner);
    assert_eq!(world.fs().getattr(&me(), target, None).unwrap().nlink, 0);
    let made = world.fs().mkdir(&me(), target, OsStr::new("x"), 0o755, 0);
    assert_eq!(made.unwrap_err(), Errno::NOENT);
    // Not over one that is not empty, into itself, or over another kind.
    let full = world.mkdir(b, "full");
    world.put(full, "x", b"");
    world.mkdir(b, "other");
    assert_eq!(
        rename(&world, b, "other", b, "full", 0),
        Err(Errno::NOTEMPTY)
    );
    assert_eq!(
        rename(&world, b, "target", inner, "self", 0),
        Err(Errno::INVAL)
    );
    assert_eq!(rename(&world, b, "other", b, "two", 0), Err(Errno::NOTDIR));
    assert_eq!(rename(&world, b, "two", b, "other", 0), Err(Errno::ISDIR));
    // To and from long names.
    rename(&world, b, "two", b, &long, 0).unwrap();
    rename(&world, b, &long, b, "short", 0).unwrap();
    world.remount();
    let deep = world.at(&["b", "target", &long]).unwrap();
    assert_eq!(world.get(deep.node).unwrap(), b"deep");
    assert_eq!(
        world.get(world.at(&["b", "short"]).unwrap().node).unwrap(),
        b"1"
    );
    assert_eq!(world.at(&["b", "full", "x"]).unwrap().attr.size, 0);
}

/// SEMANTICS: rmdir
#[test]
fn directories_come_and_go() {
    let world = World::new();
    let entry = world
        .fs()
        .mkdir(&me(), NodeId::ROOT, OsStr::new("d"), 0o151, 0o022)
        .unwrap();
    assert_eq!((entry.attr.perm, entry.attr.nlink), (0o151, 2));
    let inside = world.mkdir(entry.node, "inside");
    assert_eq!(
        world.fs().rmdir(&me(), NodeId::ROOT, OsStr::new("d")),
        Err(Errno::NOTEMPTY)
    );
    assert_eq!(
        world.fs().unlink(&me(), entry.node, OsStr::new("inside")),
        Err(Errno::ISDIR)
    );
    world
        .fs()
        .rmdir(&me(), entry.node, OsStr::new("inside"))
        .unwrap();
    assert_eq!(world.fs().getattr(&me(), inside, None).unwrap().nlink, 0);
    world
        .fs()
        .rmdir(&me(), NodeId::ROOT, OsStr::new("d"))
        .unwrap();
    assert_eq!(world.at(&["d"]).unwrap_err(), Errno::NOENT);
}

#[test]
fn attributes_are_set_and_kept() {
    let mut world = World::new();
    let node = world.put(NodeId::ROOT, "file", b"12345");
    let times = Timestamp { secs: -5, nanos: 7 };
    let changes = SetAttr {
        mode: Some(0o4751),
        atime: Some(SetTime::At(times)),
        mtime: Some(SetTime::At(times)),
        ..SetAttr::default()
    };
    let attr = world.fs().setattr(&me(), node, None, &changes).unwrap();
    assert_eq!((attr.perm, attr.mtime, attr.size), (0o4751, times, 5));
    let fh = world
        .fs()
        .open(&me(), node, libc::O_RDWR, false)
        .unwrap()
        .fh;
    assert_eq!(world.fs().write(&me(), fh, 0, &mut [1, 2], true), Ok(2));
    world.fs().release(fh);
    assert_eq!(world.fs().getattr(&me(), node, None).unwrap().perm, 0o751);
    world.remount();
    assert_eq!(world.at(&["file"]).unwrap().attr.perm, 0o751);
}

/// SEMANTICS: create
#[test]
fn others_own_what_they_make() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can give files away
    }
    let world = World::new();
    let alice = Caller {
        uid: 1234,
        gid: 2345,
        pid: 1,
    };
    let owner = |entry: crate::fs::Entry| (entry.attr.uid, entry.attr.gid);
    let fs = world.fs();
    let root = NodeId::ROOT;
    let folder = fs.mkdir(&alice, root, OsStr::new("d"), 0o777, 0).unwrap();
    assert_eq!(owner(folder), (1234, 2345));
    let (file, opened) = fs
        .create(
            &alice,
            root,
            OsStr::new("f"),
            0o6755,
            0o022,
            libc::O_RDWR,
            false,
        )
        .unwrap();
    assert_eq!((owner(file), file.attr.perm), ((1234, 2345), 0o6755));
    fs.release(opened.fh);
    let link = fs
        .symlink(&alice, root, OsStr::new("l"), OsStr::new("t"))
        .unwrap();
    assert_eq!(owner(link), (1234, 2345));
    let fifo = fs
        .mknod(
            &alice,
            root,
            OsStr::new("p"),
            libc::S_IFIFO | 0o666,
            0o022,
            0,
        )
        .unwrap();
    assert_eq!(
        (owner(fifo), fifo.attr.perm, fifo.attr.kind),
        ((1234, 2345), 0o644, Kind::Fifo)
    );
    let device = fs
        .mknod(
            &me(),
            root,
            OsStr::new("n"),
            libc::S_IFCHR | 0o600,
            0,
            0x103,
        )
        .unwrap();
    assert_eq!(device.attr.rdev, 0x103);
    // In a directory with the set-group-id bit the group is the directory's.
    let changes = SetAttr {
        gid: Some(777),
        mode: Some(0o2777),
        ..SetAttr::default()
    };
    fs.setattr(&me(), folder.node, None, &changes).unwrap();
    let (inside, opened) = fs
        .create(
            &alice,
            folder.node,
            OsStr::new("g"),
            0o644,
            0,
            libc::O_RDWR,
            false,
        )
        .unwrap();
    assert_eq!(owner(inside), (1234, 777));
    fs.release(opened.fh);
    let below = fs
        .mkdir(&alice, folder.node, OsStr::new("h"), 0o755, 0)
        .unwrap();
    assert_eq!((owner(below), below.attr.perm), ((1234, 777), 0o2755));
}

#[test]
fn user_attributes_are_encrypted() {
    let mut world = World::new();
    let file = world.put(NodeId::ROOT, "file", b"");
    let folder = world.mkdir(NodeId::ROOT, "folder");
    let long = format!("user.{}", "x".repeat(240));
    for node in [file, folder] {
        for name in ["user.visible-name", long.as_str()] {
            let name = OsStr::new(name);
            world
                .fs()
                .setxattr(&me(), node, name, b"visible-value", libc::XATTR_CREATE)
                .unwrap();
            let again = world
                .fs()
                .setxattr(&me(), node, name, b"", libc::XATTR_CREATE);
            assert_eq!(again, Err(Errno::EXIST));
        }
    }
    world.remount();
    for name in ["file", "folder"] {
        let entry = world.at(&[name]).unwrap();
        let list = world.fs().listxattr(&me(), entry.node).unwrap();
        let mut names: Vec<_> = list
            .split(|b| *b == 0)
            .filter(|n| n.starts_with(b"user."))
            .collect();
        names.sort();
        assert_eq!(names, [b"user.visible-name".as_slice(), long.as_bytes()]);
        let value = world
            .fs()
            .getxattr(&me(), entry.node, OsStr::new(&long))
            .unwrap();
        assert_eq!(value, b"visible-value");
        let lower = world.lower_of(&entry);
        let mut buffer = vec![0; 4096];
        let length = rustix::fs::listxattr(&lower, &mut buffer[..]).unwrap();
        let lower_names = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(!lower_names.contains("visible"), "{lower_names}");
        world
            .fs()
            .removexattr(&me(), entry.node, OsStr::new("user.visible-name"))
            .unwrap();
        let gone = world
            .fs()
            .getxattr(&me(), entry.node, OsStr::new("user.visible-name"));
        assert_eq!(gone, Err(Errno::NODATA));
    }
}

/// SEMANTICS: descriptors
#[test]
fn nodes_and_descriptors_are_given_back() {
    let world = World::new();
    let mut folder = NodeId::ROOT;
    let mut made = Vec::new();
    for depth in 0..50 {
        folder = world.mkdir(folder, &format!("d{depth}"));
        made.push(folder);
    }
    let file = world.put(folder, "file", b"x");
    made.push(file);
    // Headers that wait to be made durable hold their directories.
    world.fs().sync_all().unwrap();
    // In the order in which nobody would forget them: parents first.
    for node in &made {
        world.fs().forget(*node, 1);
    }
    assert_eq!(world.fs().table.len(), 1, "only the root");
    assert_eq!(
        world.fs().getattr(&me(), file, None).unwrap_err(),
        Errno::STALE
    );
    let path: Vec<String> = (0..50).map(|depth| format!("d{depth}")).collect();
    let mut path: Vec<&str> = path.iter().map(String::as_str).collect();
    path.push("file");
    assert_eq!(world.get(world.at(&path).unwrap().node).unwrap(), b"x");
}

#[test]
fn many_threads_in_one_directory() {
    let world = World::new();
    let folder = world.mkdir(NodeId::ROOT, "busy");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let world = &world;
            scope.spawn(move || {
                for round in 0..40 {
                    let (one, two) = (format!("{thread}-{round}"), format!("{thread}-{round}-b"));
                    let node = world.put(folder, &one, one.as_bytes());
                    let (from, to) = (OsStr::new(&one), OsStr::new(&two));
                    world
                        .fs()
                        .rename(&me(), folder, from, folder, to, 0)
                        .unwrap();
                    assert_eq!(world.get(node).unwrap(), one.as_bytes());
                    assert!(!world.names(folder).is_empty());
                    if round % 2 == 0 {
                        world.fs().unlink(&me(), folder, to).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(world.names(folder).len(), 80);
}
