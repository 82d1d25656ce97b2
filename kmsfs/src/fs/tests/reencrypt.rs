//! New keys for files that are in use, and whatever may stop that.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use kms_format::{ContentMode, FileHeader, UnlockedPolicy};

use super::world::{World, me, noise};
use crate::backing::sim::{Every, LowerFs, Model};
use crate::check::{Severity, check_open};
use crate::errno::Errno;
use crate::fs::reencrypt::Reencrypted;
use crate::fs::{Fs, FsResult, NodeId};
use crate::inode::Node;
use crate::volume::Keys;

const MODES: [ContentMode; 2] = [ContentMode::Xts, ContentMode::Gcm];
/// Inline, one unit, several chunks.
const SIZES: [usize; 6] = [0, 100, 3712, 3713, 9000, 2_500_000];

/// The next generation of the policy of the root.
fn next(world: &World) -> Arc<UnlockedPolicy> {
    let root = world.fs().table.get(NodeId::ROOT).unwrap();
    let policy = Arc::clone(&world.fs().context(&root).unwrap().policy);
    world.keys.rotate(&policy)
}

fn node(fs: &Fs, name: &str) -> Arc<Node> {
    let found = fs.lookup(&me(), NodeId::ROOT, OsStr::new(name)).unwrap();
    fs.table.get(found.node).unwrap()
}

/// All of it. Gives the bytes that were written anew; None if there was nothing to do.
fn reencrypt(fs: &Fs, node: &Arc<Node>, to: &Arc<UnlockedPolicy>) -> FsResult<Option<u64>> {
    let Some(mut work) = fs.reencrypt_file(node, to)? else {
        return Ok(None);
    };
    let mut sum = 0;
    loop {
        match work.step()? {
            Reencrypted::More { bytes, .. } => sum += bytes,
            Reencrypted::Done { bytes } => return Ok(Some(sum + bytes)),
        }
    }
}

fn set(fs: &Fs, node: NodeId, name: &str, value: &[u8]) {
    fs.setxattr(&me(), node, OsStr::new(name), value, 0)
        .unwrap();
}

/// Name and value of each attribute.
fn attributes(fs: &Fs, node: NodeId) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let list = fs.listxattr(&me(), node).unwrap();
    let names: Vec<_> = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .collect();
    let found: BTreeMap<_, _> = names
        .iter()
        .map(|name| {
            let value = fs.getxattr(&me(), node, OsStr::from_bytes(name)).unwrap();
            (name.to_vec(), value)
        })
        .collect();
    assert_eq!(found.len(), names.len(), "a name is listed twice");
    found
}

/// A name that has to be stored as a hash.
fn long() -> String {
    format!("user.{}", "n".repeat(200))
}

/// What the header says, and that its lower file opens under no generation but this.
fn only(world: &World, name: &str, to: &UnlockedPolicy) {
    let page = std::fs::read(world.lower_of(&world.at(&[name]).unwrap())).unwrap();
    let header = FileHeader::decode(&page[..4096]).unwrap();
    assert_eq!(header.reencrypted(), None);
    assert!(
        header
            .wraps()
            .all(|wrap| wrap.generation == to.generation())
    );
    let opened = FileHeader::open(&page[..4096], to).unwrap();
    assert_eq!(opened.header.lineage(), (to.policy(), to.generation()));
}

#[test]
fn files_of_all_sizes_get_new_keys_with_their_attributes() {
    for mode in MODES {
        let mut world = World::with(mode);
        for (number, size) in SIZES.iter().enumerate() {
            for attributes in [false, true] {
                let name = format!("{size} {attributes}");
                let node = world.put(NodeId::ROOT, &name, &noise(number as u64, *size));
                if attributes {
                    set(world.fs(), node, "user.one", b"first");
                    set(world.fs(), node, &long(), b"second");
                }
            }
        }
        let to = next(&world);
        for (number, size) in SIZES.iter().enumerate() {
            for with in [false, true] {
                let name = format!("{size} {with}");
                let node = node(world.fs(), &name);
                let (before, expected) = (
                    world.at(&[&name]).unwrap().attr,
                    attributes(world.fs(), node.id),
                );
                let done = reencrypt(world.fs(), &node, &to).unwrap();
                let blank = *size == 0 && !with && mode == ContentMode::Xts;
                assert_eq!(done.is_some(), !blank, "{mode:?} {name}");
                if *size > 3712 {
                    assert!(done >= Some(*size as u64), "{mode:?} {name}");
                }
                assert_eq!(reencrypt(world.fs(), &node, &to), Ok(None), "it is done");
                let after = world.at(&[&name]).unwrap().attr;
                assert_eq!((after.size, after.mtime), (before.size, before.mtime));
                assert!(world.get(node.id).unwrap() == noise(number as u64, *size));
                assert_eq!(attributes(world.fs(), node.id), expected);
                if !blank {
                    only(&world, &name, &to);
                }
            }
        }
        world.remount();
        for (number, size) in SIZES.iter().enumerate() {
            let node = node(world.fs(), &format!("{size} true"));
            assert!(world.get(node.id).unwrap() == noise(number as u64, *size));
            assert_eq!(attributes(world.fs(), node.id).len(), 2);
        }
    }
}

#[test]
fn a_file_in_use_changes_under_the_steps() {
    for mode in MODES {
        let mut world = World::with(mode);
        let (entry, fh) = world.create(NodeId::ROOT, "file");
        let mut content = noise(1, 5_000_000);
        world.write(fh, 0, &content);
        set(world.fs(), entry.node, "user.one", b"first");
        let to = next(&world);
        let file = node(world.fs(), "file");
        let mut work = world.fs().reencrypt_file(&file, &to).unwrap().unwrap();
        let mut steps = 0_usize;
        loop {
            let done = work.step().unwrap();
            steps += 1;
            for at in [steps * 1_000_000 - 50_000, 17, 3_000_000] {
                let data = noise(steps as u64, 100_000);
                world.write(fh, at as u64, &data);
                content[at..at + data.len()].copy_from_slice(&data);
            }
            set(world.fs(), entry.node, &format!("user.{steps}"), b"later");
            if steps == 2 {
                world.resize(entry.node, 4_200_001);
                content.truncate(4_200_001);
                let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                world
                    .fs()
                    .fallocate(&me(), fh, 100_000, 3_900_000, punch)
                    .unwrap();
                content[100_000..4_000_000].fill(0);
                world.resize(entry.node, 6_000_000);
                content.resize(6_000_000, 0);
            }
            let mut piece = vec![0; 300_000];
            let at = (steps * 777_777 % 4_000_000) as u64;
            let got = world.fs().read(fh, at, &mut piece).unwrap();
            assert!(piece[..got] == content[at as usize..at as usize + got]);
            world.fs().fsync(fh, false).unwrap();
            if matches!(done, Reencrypted::Done { .. }) {
                break;
            }
        }
        drop(work);
        world.fs().release(fh);
        assert!(world.get(entry.node).unwrap() == content, "{mode:?}");
        assert_eq!(attributes(world.fs(), entry.node).len(), steps + 1);
        drop(file);
        world.remount();
        let again = node(world.fs(), "file");
        assert!(world.get(again.id).unwrap() == content);
        assert_eq!(attributes(world.fs(), again.id).len(), steps + 1);
        only(&world, "file", &to);
    }
}

#[test]
fn an_unmount_in_between_is_taken_up_again() {
    for mode in MODES {
        for crash in [false, true] {
            let mut world = World::with(mode);
            let content = noise(3, 4_000_000);
            let id = world.put(NodeId::ROOT, "file", &content);
            set(world.fs(), id, "user.one", b"first");
            let to = next(&world);
            let file = node(world.fs(), "file");
            let mut work = world.fs().reencrypt_file(&file, &to).unwrap().unwrap();
            work.step().unwrap();
            work.step().unwrap();
            drop(work);
            drop(file);
            if crash {
                world.crash();
            } else {
                world.remount();
            }
            let file = node(world.fs(), "file");
            assert!(world.get(file.id).unwrap() == content);
            assert_eq!(attributes(world.fs(), file.id).len(), 1);
            let rest = reencrypt(world.fs(), &file, &to).unwrap().unwrap();
            assert!(
                rest > 1_000_000 && rest < 2_500_000,
                "{rest}: not all of it again"
            );
            assert!(world.get(file.id).unwrap() == content);
            assert_eq!(attributes(world.fs(), file.id).len(), 1);
            only(&world, "file", &to);
        }
    }
}

#[test]
fn hard_links_are_done_once() {
    let world = World::new();
    let id = world.put(NodeId::ROOT, "one", &noise(1, 10_000));
    world
        .fs()
        .link(&me(), id, NodeId::ROOT, OsStr::new("two"))
        .unwrap();
    let to = next(&world);
    assert_eq!(
        reencrypt(world.fs(), &node(world.fs(), "one"), &to),
        Ok(Some(10_000))
    );
    assert_eq!(
        reencrypt(world.fs(), &node(world.fs(), "two"), &to),
        Ok(None)
    );
    assert!(world.get(id).unwrap() == noise(1, 10_000));
}

/// The keys that are left open nothing of the file.
#[test]
fn damage_stops_it_and_both_keys_stay() {
    let mut world = World::with(ContentMode::Gcm);
    let content = noise(3, 4_000_000);
    world.put(NodeId::ROOT, "file", &content);
    let to = next(&world);
    let lower = world.lower_of(&world.at(&["file"]).unwrap());
    world.unmount();
    let unit = 600_u64;
    let page = |write: Option<[u8; 16]>| {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&lower)
            .unwrap();
        let (mut bytes, at) = ([0; 16], 4096 * (unit + 1) + 100);
        file.read_exact_at(&mut bytes, at).unwrap();
        if let Some(write) = write {
            file.write_all_at(&write, at).unwrap();
        }
        bytes
    };
    let good = page(None);
    page(Some([7; 16]));
    world.remount();
    let file = node(world.fs(), "file");
    assert_eq!(reencrypt(world.fs(), &file, &to), Err(Errno::IO));
    assert_eq!(world.get(file.id), Err(Errno::IO));
    drop(file);
    world.unmount();
    // Put right, it goes on.
    page(Some(good));
    world.remount();
    let file = node(world.fs(), "file");
    assert!(world.get(file.id).unwrap() == content);
    assert!(reencrypt(world.fs(), &file, &to).unwrap().is_some());
    assert!(world.get(file.id).unwrap() == content);
}

/// A simulated world with one file that is durable.
fn simulated(model: Model, mode: ContentMode, size: usize, names: &[&str]) -> World {
    let mut world = World::simulated_with(model, mode);
    let id = world.put(NodeId::ROOT, "file", &noise(9, size));
    for name in names {
        set(world.fs(), id, name, name.as_bytes());
    }
    world.remount();
    world
}

/// What is left after a stop: content and attributes as they were, nothing to complain of, and the work can be ended.
fn judge(left: &LowerFs, world: &World, to: &Arc<UnlockedPolicy>, size: usize, names: usize) {
    let open = || {
        let keys = Arc::clone(&world.keys) as Arc<dyn Keys>;
        Fs::over(left.root(), std::path::Path::new("simulated"), keys, false).unwrap()
    };
    let bad = |when: &str| {
        let report = check_open(left.root(), &*world.keys).unwrap();
        let worse = |severity| severity != Severity::Note;
        let found = report
            .findings
            .iter()
            .find(|finding| worse(finding.severity));
        assert!(found.is_none(), "{when}: {found:?}");
    };
    let right = |fs: &Fs, when: &str| {
        let file = node(fs, "file");
        let fh = fs.open(&me(), file.id, libc::O_RDONLY, false).unwrap().fh;
        let mut content = vec![0; size + 1];
        assert_eq!(fs.read(fh, 0, &mut content), Ok(size), "{when}");
        assert!(content[..size] == noise(9, size), "{when}: content");
        fs.release(fh);
        let found = attributes(fs, file.id);
        assert_eq!(found.len(), names, "{when}: {:?}", found.keys());
        assert!(found.iter().all(|(name, value)| name == value), "{when}");
    };
    bad("as it was left");
    let fs = open();
    right(&fs, "as it was left");
    let file = node(&fs, "file");
    reencrypt(&fs, &file, to).unwrap();
    right(&fs, "when it was ended");
    drop((file, fs));
    let fs = open();
    right(&fs, "mounted again");
    let file = node(&fs, "file");
    assert_eq!(reencrypt(&fs, &file, to), Ok(None));
    drop((file, fs));
    bad("when it was ended");
}

/// Killed between any two calls, and the power cut at each of these moments.
#[test]
fn no_stop_loses_anything() {
    let long = long();
    let mut states = 0;
    for mode in MODES {
        for size in [100, 9000] {
            for names in [&[][..], &["user.one", &long]] {
                let world = simulated(Model::Journal, mode, size, names);
                let to = next(&world);
                let below = world.below().clone();
                below.watch();
                let file = node(world.fs(), "file");
                reencrypt(world.fs(), &file, &to).unwrap();
                let mut known = HashSet::new();
                for stop in below.watched() {
                    let mut check = |left: LowerFs| {
                        if known.insert(left.fingerprint()) {
                            states += 1;
                            judge(&left, &world, &to, size, names.len());
                        }
                    };
                    check(stop.crash(Model::Kill, 0));
                    let mut every = Every::default();
                    while let Some(left) = every.next(&stop, Model::Journal) {
                        check(left);
                    }
                }
            }
        }
    }
    println!("{states} states");
    assert!(states > 60, "{states}");
}

/// Each call fails once: then the file is as it was, or further, and the next try ends it.
#[test]
fn a_failure_can_be_tried_again() {
    use crate::backing::sim::{Failure, Op};
    let long = long();
    for mode in MODES {
        for (size, names) in [
            (100, &[][..]),
            (100, &["user.one", &long]),
            (9000, &["user.one", &long]),
        ] {
            for fail in 0.. {
                let world = simulated(Model::Journal, mode, size, names);
                let to = next(&world);
                let file = node(world.fs(), "file");
                world.below().fail(move |op, number| {
                    let counts = !matches!(op, Op::Open | Op::Stat | Op::Read | Op::List);
                    let now = counts && number == fail + 1;
                    now.then_some(Failure::Errno(rustix::io::Errno::IO))
                });
                let first = reencrypt(world.fs(), &file, &to);
                let failed = world.below().mend() > fail;
                assert_eq!(
                    world.get(file.id).unwrap(),
                    noise(9, size),
                    "{mode:?} {fail}"
                );
                reencrypt(world.fs(), &file, &to).unwrap();
                assert_eq!(
                    world.get(file.id).unwrap(),
                    noise(9, size),
                    "{mode:?} {fail}"
                );
                drop(file);
                let left = world.below().crash(Model::Kill, 0);
                judge(&left, &world, &to, size, names.len());
                if !failed {
                    assert!(fail > 2 && first.is_ok());
                    break;
                }
            }
        }
    }
}
