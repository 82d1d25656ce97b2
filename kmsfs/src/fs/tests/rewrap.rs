//! Everything onto another generation of its policy key.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use kms_format::{ContentMode, DirHeader, FileHeader, UnlockedPolicy};

use super::world::{World, me, noise};
use crate::errno::{Errno, FsResult};
use crate::fs::{Fs, NodeId};
use crate::jobs::reencrypt::Reencrypt;
use crate::jobs::rewrap::Rewrap;
use crate::jobs::walk::{Control, Position, walk};
use crate::jobs::{Step, Work};

/// Counts, and remembers where it was after so many objects.
#[derive(Default)]
struct Counting {
    seen: u64,
    changed: u64,
    failed: Vec<(String, Errno)>,
    locked: Vec<String>,
    stop_after: Option<u64>,
    position: Position,
}

impl Control for Counting {
    fn done(
        &mut self,
        work: &mut dyn Work,
        result: FsResult<Step>,
        at: &dyn Fn() -> Position,
    ) -> FsResult<()> {
        self.seen += 1;
        self.changed += u64::from(result?.changed);
        self.position = at();
        let _ = work;
        Ok(())
    }

    fn part(&mut self, _bytes: u64) -> bool {
        !self.stopped()
    }

    fn failed(&mut self, lower: String, errno: Errno) {
        self.failed.push((lower, errno));
    }

    fn locked(&mut self, lower: String, _: Errno) {
        self.locked.push(lower);
    }

    fn stopped(&self) -> bool {
        self.stop_after.is_some_and(|limit| self.seen >= limit)
    }
}

fn part(fs: &Fs, to: &Arc<UnlockedPolicy>, from: &[u64], limit: Option<u64>) -> Counting {
    let mut counting = Counting {
        stop_after: limit,
        ..Counting::default()
    };
    let mut work = Rewrap::new(Arc::clone(to));
    let root = fs.policy_root(NodeId::ROOT).unwrap();
    walk(fs, &root, from, &mut work, &mut counting).unwrap();
    work.flush(fs).unwrap();
    fs.leave(&root);
    counting
}

/// As a job does it, in one go: how much was changed.
pub(super) fn rewrap_all(fs: &Fs, to: &Arc<UnlockedPolicy>) -> FsResult<u64> {
    let mut counting = Counting::default();
    let mut work = Rewrap::new(Arc::clone(to));
    let root = fs.policy_root(NodeId::ROOT)?;
    let walked = walk(fs, &root, &[], &mut work, &mut counting);
    let flushed = work.flush(fs);
    fs.leave(&root);
    walked.and(flushed)?;
    fs.sync_lower()?;
    match counting.failed.first() {
        Some((_, errno)) => Err(*errno),
        None => Ok(counting.changed),
    }
}

/// The same onto the generation after that of the root, which has been made.
pub(super) fn rewrap_next(fs: &Fs) -> FsResult<u64> {
    let root = fs.visit(NodeId::ROOT)?;
    let now = Arc::clone(&fs.context_of(&root)?.policy);
    let (volume, policy) = (now.volume(), now.policy());
    let next = fs.keys.policy_key(&volume, &policy, now.generation() + 1)?;
    rewrap_all(fs, &next)
}

fn policy_of(world: &World) -> Arc<UnlockedPolicy> {
    let root = world.fs().visit(NodeId::ROOT).unwrap();
    Arc::clone(&world.fs().context_of(&root).unwrap().policy)
}

/// One of everything: paths of files with their content, of symlinks with their targets.
struct Tree {
    files: Vec<(Vec<&'static str>, Vec<u8>)>,
    links: Vec<(Vec<&'static str>, Vec<u8>)>,
}

fn plant(world: &World) -> Tree {
    let fs = world.fs();
    let long = "l".repeat(200);
    let long: &'static str = long.leak();
    let a = world.mkdir(NodeId::ROOT, "a");
    let b = world.mkdir(a, long);
    let c = world.mkdir(b, "c");
    let mut tree = Tree {
        files: Vec::new(),
        links: Vec::new(),
    };
    for (number, (dir, path)) in [
        (NodeId::ROOT, vec![]),
        (a, vec!["a"]),
        (b, vec!["a", long]),
        (c, vec!["a", long, "c"]),
    ]
    .into_iter()
    .enumerate()
    {
        for (name, length) in [
            ("empty", 0),
            ("inline", 700),
            ("units", 20_000),
            (long, 3713),
        ] {
            if name == long && number == 1 {
                continue;
            }
            let content = noise(number as u64 + length as u64, length);
            world.put(dir, name, &content);
            let mut path = path.clone();
            path.push(name);
            tree.files.push((path, content));
        }
        for (name, length) in [("short link", 20), ("long link", 2000)] {
            let target = vec![b'a' + number as u8; length];
            let name_os = OsStr::new(name);
            fs.symlink(&me(), dir, name_os, OsStr::from_bytes(&target))
                .unwrap();
            let mut path = path.clone();
            path.push(name);
            tree.links.push((path, target));
        }
    }
    // Other names.
    let file = world.at(&["inline"]).unwrap().node;
    fs.link(&me(), file, c, OsStr::new("linked")).unwrap();
    tree.files
        .push((vec!["a", long, "c", "linked"], tree.files[1].1.clone()));
    let link = world.at(&["long link"]).unwrap().node;
    fs.link(&me(), link, a, OsStr::new("link linked")).unwrap();
    tree.links
        .push((vec!["a", "link linked"], tree.links[1].1.clone()));
    let xattr = OsStr::new("user.kept");
    fs.setxattr(&me(), file, xattr, b"value", 0).unwrap();
    fs.setxattr(&me(), a, xattr, b"of a directory", 0).unwrap();
    tree
}

impl Tree {
    fn check(&self, world: &World) {
        for (path, content) in &self.files {
            let node = world.at(path).unwrap().node;
            assert_eq!(world.get(node).unwrap(), *content, "{path:?}");
        }
        for (path, target) in &self.links {
            let node = world.at(path).unwrap().node;
            assert_eq!(world.fs().readlink(node).unwrap(), *target, "{path:?}");
        }
        let xattr = OsStr::new("user.kept");
        let file = world.at(&["inline"]).unwrap().node;
        assert_eq!(world.fs().getxattr(&me(), file, xattr).unwrap(), b"value");
        let dir = world.at(&["a"]).unwrap().node;
        let kept = world.fs().getxattr(&me(), dir, xattr).unwrap();
        assert_eq!(kept, b"of a directory");
    }

    /// Directories, files and symlinks, each object once, and each name of a symlink.
    fn objects(&self) -> u64 {
        // The root and three more; one hard link of a file.
        4 + self.files.len() as u64 - 1 + self.links.len() as u64
    }
}

const MODES: [ContentMode; 2] = [ContentMode::Xts, ContentMode::Gcm];

#[test]
fn everything_opens_without_the_former_generation_afterwards() {
    for mode in MODES {
        let mut world = World::with(mode);
        let tree = plant(&world);
        let old = policy_of(&world);
        let new = world.keys.rotate(&old);
        let changed = rewrap_all(world.fs(), &new).unwrap();
        assert!(changed > 0 && changed <= tree.objects(), "{changed}");
        tree.check(&world);
        assert_eq!(rewrap_all(world.fs(), &new).unwrap(), 0, "a second time");
        world.keys.forget(&old);
        tree.check(&world);
        world.remount();
        tree.check(&world);
        world.crash();
        tree.check(&world);
        // The lineage stays, the wraps are new, and there is one each.
        let entry = world.at(&["a", "units"]).unwrap();
        let page = std::fs::read(world.lower_of(&entry)).unwrap();
        let header = FileHeader::decode(&page[..4096]).unwrap();
        let wraps: Vec<_> = header.wraps().map(|wrap| wrap.generation).collect();
        assert_eq!((header.lineage().1, wraps), (1, vec![2]));
        let lower = world.lower_of(&world.at(&["a"]).unwrap());
        let header = DirHeader::decode(&std::fs::read(lower.join(".kmsfs")).unwrap()).unwrap();
        assert_eq!((header.lineage(), header.generation()), (1, 2));
        // As `fs status --count` sees it.
        let counted = crate::status::count::count(world.lower());
        let counted = &counted[&new.policy()];
        assert_eq!(counted.directories, [(2, 4)].into());
        assert_eq!(counted.symlinks, [(2, tree.links.len() as u64)].into());
        assert_eq!(counted.files[&2] + counted.blank, tree.files.len() as u64);
        assert_eq!(counted.lineage.keys().collect::<Vec<_>>(), ["1"]);
        let content = tree.files.iter().map(|(_, content)| content.len() as u64);
        assert_eq!(counted.bytes_behind(2), content.sum::<u64>());
        assert_eq!((counted.behind(2), counted.behind(3) > 0), (0, true));
        assert_eq!(counted.unreadable, 0);
    }
}

#[test]
fn both_generations_work_side_by_side() {
    let mut world = World::new();
    let tree = plant(&world);
    let old = policy_of(&world);
    let new = world.keys.rotate(&old);
    for limit in 1..tree.objects() {
        part(world.fs(), &new, &[], Some(limit));
        tree.check(&world);
        let name = format!("made after {limit}");
        let dir = world.at(&["a"]).unwrap().node;
        world.put(dir, &name, name.as_bytes());
        world.remount();
        tree.check(&world);
        let node = world.at(&["a", &name]).unwrap().node;
        assert_eq!(world.get(node).unwrap(), name.as_bytes());
    }
}

#[test]
fn a_walk_goes_on_where_it_was_and_sees_everything_once() {
    let world = World::new();
    let tree = plant(&world);
    let old = policy_of(&world);
    let whole = part(world.fs(), &old, &[], None);
    assert_eq!((whole.changed, whole.failed.len()), (0, 0));
    let mut new = world.keys.rotate(&old);
    for step in 1..whole.seen {
        let (mut seen, mut changed) = (0, 0);
        let mut from = Vec::new();
        loop {
            let part = part(world.fs(), &new, &from, Some(step));
            if part.seen == 0 {
                break;
            }
            seen += part.seen;
            changed += part.changed;
            from = part.position;
        }
        // A symlink that was made anew is a new object, which may come once more.
        let links = tree.links.len() as u64;
        assert!((whole.seen..=whole.seen + links).contains(&seen), "{step}");
        assert!(changed >= tree.objects() - 4, "{step}: {changed}");
        assert_eq!(rewrap_all(world.fs(), &new).unwrap(), 0, "by {step}");
        new = world.keys.rotate(&new);
    }
    tree.check(&world);
}

#[test]
fn what_is_open_goes_on_and_is_rewrapped() {
    for mode in MODES {
        let mut world = World::with(mode);
        let (_, large) = world.create(NodeId::ROOT, "large");
        world.write(large, 0, &noise(1, 50_000));
        let (_, small) = world.create(NodeId::ROOT, "small");
        world.write(small, 0, b"before");
        let (_, empty) = world.create(NodeId::ROOT, "empty");
        let old = policy_of(&world);
        let new = world.keys.rotate(&old);
        let mut work = Rewrap::new(Arc::clone(&new));
        let root = world.fs().policy_root(NodeId::ROOT).unwrap();
        walk(world.fs(), &root, &[], &mut work, &mut Counting::default()).unwrap();
        // Between the two pages: both wraps are there.
        world.write(large, 50_000, &noise(2, 50_000));
        world.write(small, 6, b" and between");
        world.write(empty, 0, b"first");
        work.flush(world.fs()).unwrap();
        world.write(large, 100_000, &noise(3, 10_000));
        world.write(small, 18, b" and after");
        for fh in [large, small, empty] {
            world.fs().release(fh);
        }
        world.fs().leave(&root);
        world.keys.forget(&old);
        world.remount();
        let read = |name: &str| world.get(world.at(&[name]).unwrap().node).unwrap();
        let content = [noise(1, 50_000), noise(2, 50_000), noise(3, 10_000)].concat();
        assert!(read("large") == content);
        assert_eq!(read("small"), b"before and between and after");
        assert_eq!(read("empty"), b"first");
    }
}

/// A file without a header that somebody holds open gets its first one under the policy key of the job, not under the one of when
/// it was opened.
#[test]
fn what_is_open_and_empty_goes_on_under_new_keys() {
    for mode in MODES {
        let mut world = World::with(mode);
        let (_, empty) = world.create(NodeId::ROOT, "empty");
        let old = policy_of(&world);
        let new = world.keys.rotate(&old);
        let mut work = Reencrypt::new(Arc::clone(&new));
        let root = world.fs().policy_root(NodeId::ROOT).unwrap();
        walk(world.fs(), &root, &[], &mut work, &mut Counting::default()).unwrap();
        work.flush(world.fs()).unwrap();
        world.write(empty, 0, b"first");
        world.fs().release(empty);
        world.fs().leave(&root);
        world.keys.forget(&old);
        world.remount();
        let found = world.at(&["empty"]).unwrap().node;
        assert_eq!(world.get(found).unwrap(), b"first");
    }
}

/// A directory that has two keys is wrapped anew with both, and ends under the newest generation.
#[test]
fn a_directory_in_the_middle_of_new_keys_is_rewrapped() {
    let mut world = World::new();
    let dir = world.mkdir(NodeId::ROOT, "dir");
    let (_, file) = world.create(dir, "file");
    world.write(file, 0, b"content");
    world.fs().release(file);
    let first = policy_of(&world);
    let second = world.keys.rotate(&first);
    let node = world.fs().table.get(dir).unwrap();
    let stop = Errno::from_raw(libc::EINTR);
    let stopped = world
        .fs()
        .reencrypt_directory(&node, &second, &mut |_| Err(stop));
    assert_eq!(stopped, Err(stop));
    let third = world.keys.rotate(&second);
    let mut work = Reencrypt::new(Arc::clone(&third));
    let root = world.fs().policy_root(NodeId::ROOT).unwrap();
    let mut seen = Counting::default();
    walk(world.fs(), &root, &[], &mut work, &mut seen).unwrap();
    work.flush(world.fs()).unwrap();
    assert!(!world.fs().context(&node).unwrap().header.reencrypting());
    drop(node);
    world.fs().leave(&root);
    world.keys.forget(&first);
    world.keys.forget(&second);
    world.remount();
    let found = world.at(&["dir", "file"]).unwrap().node;
    assert_eq!(world.get(found).unwrap(), b"content");
}

#[test]
fn what_moves_under_the_walk_is_remembered() {
    let world = World::new();
    let tree = plant(&world);
    let fs = world.fs();
    let new = world.keys.rotate(&policy_of(&world));
    fs.watch_moves();
    // Half of it is done; then the other half moves to where the walk has been.
    part(fs, &new, &[], Some(tree.objects() / 2));
    let a = world.at(&["a"]).unwrap().node;
    let there = world.mkdir(NodeId::ROOT, "there");
    for name in ["inline", "units", "short link", "l"] {
        let long = "l".repeat(200);
        let name = if name == "l" { &long } else { name };
        let name = OsStr::new(name);
        fs.rename(&me(), a, name, there, name, 0).unwrap();
    }
    let file = world.at(&["units"]).unwrap().node;
    fs.link(&me(), file, there, OsStr::new("linked")).unwrap();
    let moved = fs.take_moves();
    assert_eq!(moved.len(), 5);
    assert!(fs.moves_over());
    let link = world.at(&["there", "inline"]).unwrap().node;
    fs.rename(
        &me(),
        there,
        OsStr::new("inline"),
        a,
        OsStr::new("inline"),
        0,
    )
    .unwrap();
    assert_eq!(fs.take_moves().len(), 0, "nobody watches any more");
    for node in moved {
        fs.leave(&node);
    }
    world.fs().forget(link, 1);
}

/// A symlink that is made anew leaves its number to whatever is made next.
#[test]
fn what_gets_the_number_of_a_former_symlink_is_not_taken_for_it() {
    let world = World::new();
    let fs = world.fs();
    let make = |name: &str, target: &str| {
        fs.symlink(&me(), NodeId::ROOT, OsStr::new(name), OsStr::new(target))
            .unwrap()
            .node
    };
    // Known to the kernel all the time, and with them what they point to.
    let known: Vec<NodeId> = (0..8)
        .map(|number| make(&format!("old{number}"), "one"))
        .collect();
    rewrap_all(fs, &world.keys.rotate(&policy_of(&world))).unwrap();
    for number in 0..16 {
        let new = make(&format!("new{number}"), "another");
        assert!(!known.contains(&new), "{number}");
        assert_eq!(fs.readlink(new).unwrap(), b"another");
    }
}

#[test]
fn times_and_owners_stay() {
    let world = World::new();
    let tree = plant(&world);
    let label = OsStr::new("trusted.label");
    let link = || world.at(&["short link"]).unwrap().node;
    let labelled = rustix::process::geteuid().is_root()
        && world
            .fs()
            .setxattr(&me(), link(), label, b"kept", 0)
            .is_ok();
    let look = || {
        let mut found = Vec::new();
        let paths = tree.files.iter().chain(&tree.links).map(|(path, _)| path);
        for path in paths.chain([&vec!["a"]]) {
            let attr = world.at(path).unwrap().attr;
            found.push((
                attr.mtime, attr.uid, attr.gid, attr.perm, attr.nlink, attr.size,
            ));
        }
        found
    };
    let before = look();
    std::thread::sleep(std::time::Duration::from_millis(20));
    rewrap_all(world.fs(), &world.keys.rotate(&policy_of(&world))).unwrap();
    assert_eq!(look(), before);
    if labelled {
        let kept = world.fs().getxattr(&me(), link(), label);
        assert_eq!(kept.unwrap(), b"kept");
    }
}

#[test]
fn a_nested_policy_is_left_alone() {
    let world = World::new();
    let inner = world.keys.add(world.volume);
    let a = world.mkdir(NodeId::ROOT, "a");
    world.fs().protect(a, &inner).unwrap();
    world.put(a, "file", b"content");
    let new = world.keys.rotate(&policy_of(&world));
    assert_eq!(rewrap_all(world.fs(), &new).unwrap(), 1, "the root alone");
    // And its own rewrap leaves the one above alone.
    let next = world.keys.rotate(&inner);
    let root = world.fs().policy_root(a).unwrap();
    let mut work = Rewrap::new(Arc::clone(&next));
    let mut counting = Counting::default();
    walk(world.fs(), &root, &[], &mut work, &mut counting).unwrap();
    work.flush(world.fs()).unwrap();
    world.fs().leave(&root);
    assert_eq!(counting.changed, 2);
}

#[test]
fn damage_is_named_and_passed_over() {
    let mut world = World::new();
    let tree = plant(&world);
    let entry = world.at(&["a", "units"]).unwrap();
    let lower = world.lower_of(&entry);
    world.unmount();
    let mut page = std::fs::read(&lower).unwrap();
    page[100] ^= 1;
    std::fs::write(&lower, page).unwrap();
    world.remount();
    let new = world.keys.rotate(&policy_of(&world));
    let counting = part(world.fs(), &new, &[], None);
    let [(path, errno)] = &counting.failed[..] else {
        panic!("{:?}", counting.failed)
    };
    assert_eq!(*errno, Errno::IO);
    assert!(lower.ends_with(path), "{path}");
    // Empty files have no header yet.
    assert!(counting.changed >= tree.objects() - 5);
}
