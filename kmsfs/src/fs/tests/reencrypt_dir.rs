//! Directories that get a new key while they are used.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kms_format::{DirHeader, UnlockedPolicy, names};

use super::world::{World, me, noise};
use crate::check::{Severity, check_open};
use crate::errno::{Errno, FsResult};
use crate::fs::{Fs, NodeId};

const STOP: Errno = Errno::BUSY;

fn policy_of(world: &World, dir: NodeId) -> Arc<UnlockedPolicy> {
    let node = world.fs().table.get(dir).unwrap();
    Arc::clone(&world.fs().context(&node).unwrap().policy)
}

fn reencrypt(world: &World, dir: NodeId, to: &Arc<UnlockedPolicy>) -> FsResult<bool> {
    let node = world.fs().table.get(dir).unwrap();
    world.fs().reencrypt_directory(&node, to, &mut |_| Ok(()))
}

/// Until the first batch of names is over.
fn begin(world: &World, dir: NodeId, to: &Arc<UnlockedPolicy>) {
    let node = world.fs().table.get(dir).unwrap();
    let stopped = world
        .fs()
        .reencrypt_directory(&node, to, &mut |_| Err(STOP));
    assert_eq!(stopped, Err(STOP));
}

fn sound(world: &World) {
    let report = check_open(world.root(), &*world.keys).unwrap();
    let bad = |finding: &&crate::check::Finding| finding.severity != Severity::Note;
    let found = report.findings.iter().find(bad);
    assert!(found.is_none(), "{found:?}");
}

fn many(world: &World, dir: NodeId, count: usize) -> BTreeSet<Vec<u8>> {
    (0..count)
        .map(|number| {
            let name = if number % 5 == 0 {
                format!("{number}{}", "n".repeat(200))
            } else {
                format!("name {number}")
            };
            world.put(dir, &name, name.as_bytes());
            name.into_bytes()
        })
        .collect()
}

fn lower_names(world: &World, dir: NodeId) -> BTreeSet<String> {
    let node = world.fs().table.get(dir).unwrap();
    let dir = world.fs().dirs.get(&node).unwrap();
    let mut listing = dir.list().unwrap();
    let mut found = BTreeSet::new();
    while let Some(entry) = listing.peek().unwrap() {
        if matches!(
            names::classify(&entry.name),
            names::LowerName::Short | names::LowerName::Long
        ) {
            found.insert(String::from_utf8_lossy(&entry.name).into_owned());
        }
        listing.advance();
    }
    found
}

fn header(world: &World, dir: NodeId) -> DirHeader {
    let node = world.fs().table.get(dir).unwrap();
    world.fs().context(&node).unwrap().header.clone()
}

#[test]
fn everything_is_there_and_nothing_of_it_under_the_old_key() {
    let mut world = World::new();
    let dir = world.mkdir(NodeId::ROOT, "dir");
    let names = many(&world, dir, 150);
    let fs = world.fs();
    let attribute = OsStr::new("user.attribute");
    fs.setxattr(&me(), dir, attribute, b"value", 0).unwrap();
    fs.symlink(&me(), dir, OsStr::new("link"), OsStr::new("target"))
        .unwrap();
    let inside = world.mkdir(dir, "inside");
    world.put(inside, "file", b"deep");
    let other = world.keys.add(world.volume);
    let protected = world.mkdir(dir, "protected");
    fs.protect(protected, &other).unwrap();
    world.put(protected, "file", b"under another policy");
    let linked = world.at(&["dir", "name 1"]).unwrap();
    fs.link(&me(), linked.node, dir, OsStr::new("again"))
        .unwrap();
    let before = (world.names(dir), lower_names(&world, dir));
    let times = world.at(&["dir"]).unwrap().attr.mtime;
    let nodes = |world: &World| -> Vec<_> {
        let fs = world.fs();
        before
            .0
            .iter()
            .map(|name| {
                let entry = fs.lookup(&me(), dir, OsStr::from_bytes(name)).unwrap();
                (entry.node, entry.attr.ino)
            })
            .collect()
    };
    let known = nodes(&world);
    let to = world.keys.rotate(&policy_of(&world, dir));

    assert_eq!(reencrypt(&world, dir, &to), Ok(true));
    assert_eq!(reencrypt(&world, dir, &to), Ok(false), "once is enough");
    assert_eq!(world.names(dir), before.0);
    assert_eq!(nodes(&world), known, "the same objects");
    assert!(lower_names(&world, dir).is_disjoint(&before.1));
    assert_eq!(world.at(&["dir"]).unwrap().attr.mtime, times);
    let now = header(&world, dir);
    assert_eq!((now.lineage(), now.reencrypting()), (2, false));
    sound(&world);
    world.remount();
    let dir = world.at(&["dir"]).unwrap().node;
    assert_eq!(world.names(dir), before.0);
    for name in &names {
        let name = std::str::from_utf8(name).unwrap();
        let node = world.at(&["dir", name]).unwrap().node;
        assert_eq!(world.get(node).unwrap(), name.as_bytes());
    }
    let file = world.at(&["dir", "protected", "file"]).unwrap().node;
    assert_eq!(world.get(file).unwrap(), b"under another policy");
    let value = world.fs().getxattr(&me(), dir, attribute);
    assert_eq!(value.unwrap(), b"value");
    assert_eq!(
        world
            .fs()
            .readlink(world.at(&["dir", "link"]).unwrap().node)
            .unwrap(),
        b"target"
    );
}

#[test]
fn the_root_gets_a_new_key_too() {
    let mut world = World::new();
    many(&world, NodeId::ROOT, 20);
    let names = world.names(NodeId::ROOT);
    let to = world.keys.rotate(&policy_of(&world, NodeId::ROOT));
    assert_eq!(reencrypt(&world, NodeId::ROOT, &to), Ok(true));
    world.remount();
    assert_eq!(world.names(NodeId::ROOT), names);
    sound(&world);
}

#[test]
fn half_way_it_can_be_used_like_any_other() {
    let mut world = World::new();
    let mut dir = world.mkdir(NodeId::ROOT, "dir");
    let mut names = many(&world, dir, 200);
    let fs = world.fs();
    let attribute = OsStr::new("user.attribute");
    fs.setxattr(&me(), dir, attribute, b"old", 0).unwrap();
    let to = world.keys.rotate(&policy_of(&world, dir));
    begin(&world, dir, &to);
    assert!(header(&world, dir).reencrypting());
    sound(&world);
    let report = check_open(world.root(), &*world.keys).unwrap();
    let halfway = |finding: &&crate::check::Finding| finding.code == crate::check::Code::Halfway;
    assert_eq!(report.findings.iter().filter(halfway).count(), 1);
    for again in 0..2 {
        let fs = world.fs();
        let listed: BTreeSet<_> = world.names(dir).into_iter().collect();
        assert_eq!(listed, names, "{again}");
        for name in &names {
            let name = OsStr::from_bytes(name);
            let made = fs.mkdir(&me(), dir, name, 0o755, 0);
            assert_eq!(made.unwrap_err(), Errno::EXIST);
            let linked = fs.symlink(&me(), dir, name, name);
            assert_eq!(linked.unwrap_err(), Errno::EXIST);
            let entry = fs.lookup(&me(), dir, name).unwrap();
            assert_eq!(world.get(entry.node).unwrap(), name.as_bytes());
        }
        // Every tenth goes, and every tenth gets another name, which is new or somebody else's.
        let chosen: Vec<_> = names.iter().cloned().collect();
        for (number, name) in chosen.iter().enumerate() {
            let os = OsStr::from_bytes(name);
            match number % 10 {
                3 => {
                    fs.unlink(&me(), dir, os).unwrap();
                    names.remove(name);
                }
                5 => {
                    let onto = &chosen[(number + 1) % chosen.len()];
                    let onto_os = OsStr::from_bytes(onto);
                    fs.rename(&me(), dir, os, dir, onto_os, 0).unwrap();
                    let entry = fs.lookup(&me(), dir, onto_os).unwrap();
                    assert_eq!(world.get(entry.node).unwrap(), *name);
                    // Its content tells its name, here.
                    fs.unlink(&me(), dir, onto_os).unwrap();
                    world.put(dir, std::str::from_utf8(onto).unwrap(), onto);
                    names.remove(name);
                    names.insert(onto.clone());
                }
                7 => {
                    let with = OsStr::from_bytes(&chosen[(number + 1) % chosen.len()]);
                    for _ in 0..2 {
                        let how = libc::RENAME_EXCHANGE;
                        fs.rename(&me(), dir, os, dir, with, how).unwrap();
                    }
                }
                _ => {}
            }
        }
        assert_eq!(fs.getxattr(&me(), dir, attribute).unwrap(), b"old");
        sound(&world);
        world.crash();
        dir = world.at(&["dir"]).unwrap().node;
    }
    let fs = world.fs();
    assert_eq!(
        fs.rmdir(&me(), NodeId::ROOT, OsStr::new("dir")),
        Err(Errno::NOTEMPTY)
    );
    fs.setxattr(&me(), dir, attribute, b"new", libc::XATTR_REPLACE)
        .unwrap();
    assert_eq!(reencrypt(&world, dir, &to), Ok(true));
    assert_eq!(fs.getxattr(&me(), dir, attribute).unwrap(), b"new");
    let listed: BTreeSet<_> = world.names(dir).into_iter().collect();
    assert_eq!(listed, names);
    sound(&world);
    // An older build reads none of it while there are two keys, and all of it afterwards.
    assert_eq!(header(&world, dir).encode().unwrap().len(), 192);
}

#[test]
fn an_empty_one_can_be_removed_and_protected_half_way() {
    let world = World::new();
    let (one, two) = (
        world.mkdir(NodeId::ROOT, "1"),
        world.mkdir(NodeId::ROOT, "2"),
    );
    let to = world.keys.rotate(&policy_of(&world, one));
    let fs = world.fs();
    for dir in [one, two] {
        many(&world, dir, 70);
        begin(&world, dir, &to);
        for name in world.names(dir) {
            fs.unlink(&me(), dir, OsStr::from_bytes(&name)).unwrap();
        }
    }
    let other = world.keys.add(world.volume);
    fs.protect(two, &other).unwrap();
    world.put(two, "file", b"x");
    fs.rmdir(&me(), NodeId::ROOT, OsStr::new("1")).unwrap();
    assert_eq!(world.names(NodeId::ROOT), [b"2"]);
    sound(&world);
}

/// SEMANTICS: lookup
#[test]
fn a_listing_under_way_shows_every_name_once() {
    let world = World::new();
    let dir = world.mkdir(NodeId::ROOT, "dir");
    let names = many(&world, dir, 400);
    let to = world.keys.rotate(&policy_of(&world, dir));
    let fs = world.fs();
    let read = |fh, from: u64, most: usize| -> Vec<(Vec<u8>, u64)> {
        let mut found = Vec::new();
        fs.readdir(fh, from, &mut |item| {
            let full = found.len() == most;
            if !full {
                found.push((item.name.as_bytes().to_vec(), item.offset));
            }
            full
        })
        .unwrap();
        found
    };
    let handles: Vec<_> = (0..20)
        .map(|number| {
            let fh = fs.opendir(&me(), dir).unwrap();
            (fh, read(fh, 0, number * 19))
        })
        .collect();
    let unread = fs.opendir(&me(), dir).unwrap();
    let mut late = Vec::new();
    let node = fs.table.get(dir).unwrap();
    let mut pauses = 0;
    let done = fs.reencrypt_directory(&node, &to, &mut |_| {
        pauses += 1;
        if pauses % 20 != 0 {
            return Ok(());
        }
        let fh = fs.opendir(&me(), dir).unwrap();
        late.push((fh, read(fh, 0, 100)));
        Ok(())
    });
    assert_eq!(done, Ok(true));
    for (fh, first) in handles
        .into_iter()
        .chain(late)
        .chain([(unread, Vec::new())])
    {
        let from = first.last().map_or(0, |(_, offset)| *offset);
        let rest = read(fh, from, usize::MAX);
        let all: Vec<_> = first.iter().chain(&rest).map(|(name, _)| name).collect();
        let once: BTreeSet<_> = all.iter().map(|name| (*name).clone()).collect();
        assert_eq!(all.len(), once.len(), "twice");
        assert_eq!(once.len(), names.len() + 2, "missed");
        // Back to a position of before.
        if let Some((_, offset)) = first.first() {
            assert_eq!(read(fh, *offset, usize::MAX).len(), names.len() + 1);
        }
        // And anew.
        assert_eq!(read(fh, 0, usize::MAX).len(), names.len() + 2);
        fs.releasedir(fh);
    }
}

#[test]
fn a_locked_policy_below_holds_it_up_and_nothing_is_lost() {
    let mut world = World::new();
    let dir = world.mkdir(NodeId::ROOT, "dir");
    many(&world, dir, 10);
    let protected = world.mkdir(dir, "protected");
    let other = world.keys.add(world.volume);
    world.fs().protect(protected, &other).unwrap();
    world.put(protected, "file", b"x");
    let to = world.keys.rotate(&policy_of(&world, dir));
    world.keys.forget(&other);
    world.remount();
    let dir = world.at(&["dir"]).unwrap().node;
    assert_eq!(reencrypt(&world, dir, &to), Err(Errno::BUSY));
    assert!(header(&world, dir).reencrypting());
    assert_eq!(world.names(dir).len(), 11);
    world.keys.put_back(other);
    world.remount();
    let read = |world: &World| {
        let file = world.at(&["dir", "protected", "file"]).unwrap().node;
        world.get(file).unwrap()
    };
    assert_eq!(read(&world), b"x");
    let dir = world.at(&["dir"]).unwrap().node;
    assert_eq!(reencrypt(&world, dir, &to), Ok(true));
    world.remount();
    assert_eq!(read(&world), b"x");
    sound(&world);
}

#[test]
fn a_destroyed_policy_below_holds_nothing_up_and_keeps_its_place() {
    let mut world = World::new();
    let dir = world.mkdir(NodeId::ROOT, "dir");
    many(&world, dir, 10);
    let protected = world.mkdir(dir, "protected");
    let other = world.keys.add(world.volume);
    world.fs().protect(protected, &other).unwrap();
    world.put(protected, "file", b"x");
    let mut to = world.keys.rotate(&policy_of(&world, dir));
    world.keys.destroy(&other);
    // Again and again: each time it is admitted by the key of then.
    for _ in 0..2 {
        world.remount();
        let dir = world.at(&["dir"]).unwrap().node;
        assert_eq!(reencrypt(&world, dir, &to), Ok(true));
        assert!(!header(&world, dir).reencrypting());
        assert_eq!(world.names(dir).len(), 11);
        world.remount();
        let protected = world.at(&["dir", "protected"]).unwrap().node;
        let node = world.fs().table.get(protected).unwrap();
        assert_eq!(world.fs().unlock_at(&node), Err(Errno::NOKEY));
        assert!(world.fs().has_own_policy(&node));
        assert_eq!(world.fs().policy_of(&node), Some(other.policy()));
        let dir = world.at(&["dir"]).unwrap().node;
        to = world.keys.rotate(&policy_of(&world, dir));
    }
}

#[test]
fn an_object_is_found_again_by_its_number_after_its_lower_name_changed() {
    let world = World::new();
    let dir = world.mkdir(NodeId::ROOT, "dir");
    let (known, forgotten) = (
        world.put(dir, "known", b"1"),
        world.put(dir, "forgotten", b"2"),
    );
    world.fs().forget(forgotten, 1);
    let to = world.keys.rotate(&policy_of(&world, dir));
    assert_eq!(reencrypt(&world, dir, &to), Ok(true));
    for (node, content) in [(known, b"1"), (forgotten, b"2")] {
        let found = world.fs().lookup(&me(), node, OsStr::new("."));
        assert_eq!(found.unwrap().node, node);
        assert_eq!(world.get(node).unwrap(), content);
    }
}

/// What one user of the directory does, and what it has to find.
fn work(world: &World, dir: NodeId, mine: usize, done: &AtomicBool) -> BTreeMap<String, Vec<u8>> {
    let fs: &Fs = world.fs();
    let mut files = BTreeMap::new();
    let mut round = 0_usize;
    while !done.load(Ordering::Relaxed) || round < 50 {
        let long = if round.is_multiple_of(3) {
            "l".repeat(180)
        } else {
            String::new()
        };
        let name = format!("{mine}-{}{long}", round % 40);
        let os = OsStr::new(&name);
        // The kernel repeats what is stale.
        let retried = |work: &dyn Fn() -> FsResult<()>| {
            let mut result = work();
            for _ in 0..5 {
                if result != Err(Errno::STALE) {
                    break;
                }
                result = work();
            }
            result.unwrap_or_else(|errno| panic!("{name}: {errno}"));
        };
        if files.contains_key(&name) {
            let entry = fs.lookup(&me(), dir, os).unwrap();
            assert_eq!(world.get(entry.node).unwrap(), files[&name]);
            fs.forget(entry.node, 1);
            if round.is_multiple_of(2) {
                retried(&|| fs.unlink(&me(), dir, os));
                files.remove(&name);
            } else {
                let new = format!("{mine}-moved-{}", round % 7);
                retried(&|| fs.rename(&me(), dir, os, dir, OsStr::new(&new), 0));
                let content = files.remove(&name).unwrap();
                files.insert(new, content);
            }
        } else {
            assert_eq!(fs.lookup(&me(), dir, os).unwrap_err(), Errno::NOENT);
            let content = noise((round * 7 + mine) as u64, 100);
            retried(&|| {
                let flags = libc::O_RDWR | libc::O_EXCL;
                let made = fs.create(&me(), dir, os, 0o644, 0, flags, false)?;
                world.write(made.1.fh, 0, &content);
                fs.release(made.1.fh);
                fs.forget(made.0.node, 1);
                Ok(())
            });
            files.insert(name.clone(), content);
        }
        if round.is_multiple_of(10) {
            let listed = world.names(dir);
            let once: BTreeSet<_> = listed.iter().collect();
            assert_eq!(once.len(), listed.len(), "twice");
            for name in files.keys() {
                assert!(
                    once.contains(&name.clone().into_bytes()),
                    "{name} is missed"
                );
            }
        }
        round += 1;
    }
    files
}

#[test]
fn users_work_in_it_while_it_gets_one_key_after_the_other() {
    let mut world = World::new();
    let dir = world.mkdir(NodeId::ROOT, "dir");
    let names = many(&world, dir, 300);
    let done = AtomicBool::new(false);
    let files = std::thread::scope(|scope| {
        let users: Vec<_> = (0..3)
            .map(|mine| {
                let (world, done) = (&world, &done);
                scope.spawn(move || work(world, dir, mine, done))
            })
            .collect();
        let mut policy = policy_of(&world, dir);
        let reencrypted = (0..4).try_for_each(|_| {
            policy = world.keys.rotate(&policy);
            reencrypt(&world, dir, &policy).map(drop)
        });
        done.store(true, Ordering::Relaxed);
        let files = users.into_iter().flat_map(|user| user.join().unwrap());
        let files: BTreeMap<_, _> = files.collect();
        assert_eq!(reencrypted, Ok(()));
        files
    });
    sound(&world);
    world.remount();
    let dir = world.at(&["dir"]).unwrap().node;
    assert_eq!(world.names(dir).len(), files.len() + names.len());
    for (name, content) in files {
        let node = world.at(&["dir", &name]).unwrap().node;
        assert_eq!(world.get(node).unwrap(), content);
    }
}
