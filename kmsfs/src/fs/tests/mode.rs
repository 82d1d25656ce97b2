//! Files that get another content mode while they are in use, and whatever may stop that.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kms_format::{ContentMode, FileHeader, UnlockedPolicy, names};

use super::world::{World, me, noise};
use crate::backing::sim::{Every, Failure, LowerFs, Model, Op};
use crate::check::{Code, Severity, check_open, check_with};
use crate::errno::{Errno, FsResult};
use crate::fs::{Fs, NodeId};
use crate::inode::Node;
use crate::volume::Keys;

/// From and to.
const WAYS: [(ContentMode, ContentMode); 2] = [
    (ContentMode::Xts, ContentMode::Gcm),
    (ContentMode::Gcm, ContentMode::Xts),
];
/// Inline, one unit, several chunks.
const SIZES: [usize; 7] = [0, 100, 3712, 3713, 9000, 65536, 700_001];

/// Names of objects whose syncs do nothing.
type Lie = fn(&str) -> bool;

fn root_policy(fs: &Fs) -> Arc<UnlockedPolicy> {
    let root = fs.table.get(NodeId::ROOT).unwrap();
    Arc::clone(&fs.context(&root).unwrap().policy)
}

/// The next generation of the policy of the root, in another mode; new files are of that.
fn next(world: &World, mode: ContentMode) -> Arc<UnlockedPolicy> {
    let to = world.keys.rotate_to(&root_policy(world.fs()), mode);
    let root = world.fs().table.get(NodeId::ROOT).unwrap();
    assert_eq!(world.fs().rewrap_directory(&root, &to), Ok(true));
    to
}

fn node(fs: &Fs, name: &str) -> Arc<Node> {
    let found = fs.lookup(&me(), NodeId::ROOT, OsStr::new(name)).unwrap();
    fs.table.get(found.node).unwrap()
}

fn convert(fs: &Fs, node: &Arc<Node>, to: &Arc<UnlockedPolicy>) -> FsResult<bool> {
    fs.convert_file(node, to, &mut |_| true)
}

fn set(fs: &Fs, node: NodeId, name: &str, value: &[u8]) {
    fs.setxattr(&me(), node, OsStr::new(name), value, 0)
        .unwrap();
}

/// Name and value of each attribute.
fn attributes(fs: &Fs, node: NodeId) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let list = fs.listxattr(&me(), node).unwrap();
    let names = list.split(|byte| *byte == 0);
    let names = names.filter(|name| !name.is_empty());
    names
        .map(|name| {
            let value = fs.getxattr(&me(), node, OsStr::from_bytes(name)).unwrap();
            (name.to_vec(), value)
        })
        .collect()
}

fn long() -> String {
    format!("user.{}", "n".repeat(200))
}

/// What the header says, and that the lower file opens under no generation but this.
fn only(world: &World, name: &str, to: &UnlockedPolicy) {
    let page = std::fs::read(world.lower_of(&world.at(&[name]).unwrap())).unwrap();
    let opened = FileHeader::open(&page[..4096], to).unwrap();
    let header = opened.header;
    assert_eq!((header.mode(), header.copy()), (to.mode(), None));
    assert_eq!(header.lineage(), (to.policy(), to.generation()));
    assert!(
        header
            .wraps()
            .all(|wrap| wrap.generation == to.generation())
    );
}

fn no_copies(world: &World) {
    let left = std::fs::read_dir(world.lower().join(names::COPIES));
    assert_eq!(left.map_or(0, Iterator::count), 0);
}

/// A lookup asks for the lower size before the file gets the other mode, and wants to know what it means afterwards.
#[test]
fn a_lower_size_of_before_is_not_read_in_the_mode_of_after() {
    for (from, mode) in WAYS {
        let world = World::with(from);
        let fs = world.fs();
        for size in SIZES {
            let name = size.to_string();
            world.put(NodeId::ROOT, &name, &noise(1, size));
        }
        let root = fs.table.get(NodeId::ROOT).unwrap();
        let before: Vec<_> = SIZES
            .iter()
            .map(|size| {
                let node = node(fs, &size.to_string());
                let lower = node.places().first().unwrap().name.to_string();
                (node, fs.dirs.get(&root).unwrap().stat_at(&lower).unwrap())
            })
            .collect();
        let to = next(&world, mode);
        for (size, (node, stat)) in SIZES.iter().zip(&before) {
            convert(fs, node, &to).unwrap();
            assert_eq!(fs.plain_size(node, stat), Ok(*size as u64), "{mode:?}");
        }
    }
}

#[test]
fn files_of_all_sizes_get_the_other_mode_with_their_attributes() {
    for (from, mode) in WAYS {
        let mut world = World::with(from);
        for (number, size) in SIZES.iter().enumerate() {
            for with in [false, true] {
                let name = format!("{size} {with}");
                let node = world.put(NodeId::ROOT, &name, &noise(number as u64, *size));
                if with {
                    set(world.fs(), node, "user.one", b"first");
                    set(world.fs(), node, &long(), b"second");
                }
            }
        }
        let to = next(&world, mode);
        for (number, size) in SIZES.iter().enumerate() {
            for with in [false, true] {
                let name = format!("{size} {with}");
                let node = node(world.fs(), &name);
                let before = world.at(&[&name]).unwrap().attr;
                assert_eq!(before.size, *size as u64, "{from:?} {name}");
                let expected = attributes(world.fs(), node.id);
                assert_eq!(convert(world.fs(), &node, &to), Ok(true), "{from:?} {name}");
                assert_eq!(convert(world.fs(), &node, &to), Ok(false), "it is done");
                let after = world.at(&[&name]).unwrap().attr;
                assert_eq!(
                    (after.size, after.mtime, after.ino),
                    (before.size, before.mtime, before.ino)
                );
                assert!(world.get(node.id).unwrap() == noise(number as u64, *size));
                assert_eq!(attributes(world.fs(), node.id), expected);
                if *size > 0 || with {
                    only(&world, &name, &to);
                }
            }
        }
        no_copies(&world);
        world.remount();
        for (number, size) in SIZES.iter().enumerate() {
            let name = format!("{size} true");
            let node = node(world.fs(), &name);
            assert_eq!(world.size(node.id), *size as u64);
            assert!(world.get(node.id).unwrap() == noise(number as u64, *size));
            assert_eq!(attributes(world.fs(), node.id).len(), 2);
        }
    }
}

/// Before their turn comes, files have the right size without being opened, and can be written, cut and made longer.
#[test]
fn both_modes_live_side_by_side() {
    for (from, mode) in WAYS {
        let mut world = World::with(from);
        for size in SIZES {
            world.put(NodeId::ROOT, &size.to_string(), &noise(1, size));
        }
        world.put(NodeId::ROOT, "never written", b"");
        let (held, fh) = world.create(NodeId::ROOT, "held");
        let to = next(&world, mode);
        world.put(NodeId::ROOT, "new", &noise(2, 10_000));
        only(&world, "new", &to);
        // One that was made, and not written to, before.
        world.write(fh, 0, b"late");
        world.fs().release(fh);
        assert_eq!(world.get(held.node).unwrap(), b"late");
        world.put(NodeId::ROOT, "empty", b"");
        world.unmount();
        let report = check_open(world.root(), &*world.keys).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        world.remount();
        for size in SIZES {
            let found = world.at(&[&size.to_string()]).unwrap();
            assert_eq!(found.attr.size, size as u64, "{from:?}");
            assert!(world.get(found.node).unwrap() == noise(1, size));
            world.resize(found.node, size as u64 + 5000);
            world.resize(found.node, size as u64 / 2);
            assert!(world.get(found.node).unwrap() == noise(1, size)[..size / 2]);
        }
        world.remount();
        for size in SIZES {
            let found = world.at(&[&size.to_string()]).unwrap();
            assert_eq!(found.attr.size, size as u64 / 2, "{from:?}");
        }
        assert_eq!(world.at(&["new"]).unwrap().attr.size, 10_000);
        for name in ["held", "empty", "new", "never written"] {
            let file = node(world.fs(), name);
            let before = world.get(file.id).unwrap();
            convert(world.fs(), &file, &to).unwrap();
            assert_eq!(world.get(file.id).unwrap(), before);
        }
    }
}

/// What others do to a file while it is copied is in it afterwards, through descriptors that were open all the time.
#[test]
fn a_file_in_use_changes_under_the_copy() {
    for (from, mode) in WAYS {
        let mut world = World::with(from);
        let (entry, fh) = world.create(NodeId::ROOT, "file");
        world
            .fs()
            .link(&me(), entry.node, NodeId::ROOT, OsStr::new("other name"))
            .unwrap();
        let mut content = noise(1, 1_500_000);
        world.write(fh, 0, &content);
        set(world.fs(), entry.node, "user.one", b"first");
        let to = next(&world, mode);
        let file = node(world.fs(), "file");
        let mut steps = 0_usize;
        let done = world.fs().convert_file(&file, &to, &mut |_| {
            steps += 1;
            if steps > 60 {
                return true;
            }
            for at in [steps * 20_000, 17, 900_000] {
                let data = noise(steps as u64, 10_000);
                world.write(fh, at as u64, &data);
                content[at..at + data.len()].copy_from_slice(&data);
            }
            set(
                world.fs(),
                entry.node,
                &format!("user.{}", steps % 5),
                b"later",
            );
            if steps.is_multiple_of(20) {
                let size = 1_200_001 + steps;
                world.resize(entry.node, size as u64);
                content.truncate(size);
                let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                world
                    .fs()
                    .fallocate(&me(), fh, 100_000, 400_000, punch)
                    .unwrap();
                content[100_000..500_000].fill(0);
                world.resize(entry.node, 1_500_000 + steps as u64);
                content.resize(1_500_000 + steps, 0);
            }
            world.fs().fsync(fh, false).unwrap();
            true
        });
        assert_eq!(done, Ok(true));
        assert!(steps > 60);
        world.write(fh, 5, b"afterwards");
        content[5..15].copy_from_slice(b"afterwards");
        world.fs().fsync(fh, false).unwrap();
        world.fs().release(fh);
        assert!(world.get(entry.node).unwrap() == content, "{from:?}");
        assert_eq!(attributes(world.fs(), entry.node).len(), 6);
        drop(file);
        world.remount();
        for name in ["file", "other name"] {
            let again = node(world.fs(), name);
            assert!(world.get(again.id).unwrap() == content);
            assert_eq!(attributes(world.fs(), again.id).len(), 6);
            assert_eq!(convert(world.fs(), &again, &to), Ok(false));
        }
        only(&world, "file", &to);
        no_copies(&world);
    }
}

/// Whoever reads a file goes on while it is copied, and while the copy is put in place.
#[test]
fn readers_see_the_same_all_the_time() {
    const SIZE: usize = 20_000_000;
    let content = noise(5, SIZE);
    for (from, mode) in WAYS {
        let world = World::with(from);
        let id = world.put(NodeId::ROOT, "file", &content);
        let to = next(&world, mode);
        let file = node(world.fs(), "file");
        let fh = world.fs().open(&me(), id, libc::O_RDONLY, false);
        let fh = fh.unwrap().fh;
        let (over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for reader in 1..4 {
                let (over, reads, content, fs) = (&over, &reads, &content, world.fs());
                scope.spawn(move || {
                    let mut piece = vec![0; 100_000];
                    while !over.load(Ordering::SeqCst) {
                        let round = reads.fetch_add(1, Ordering::SeqCst);
                        let at = round * reader * 77_777 % SIZE;
                        let got = fs.read(fh, at as u64, &mut piece).unwrap();
                        assert_eq!(got, piece.len().min(SIZE - at));
                        assert!(piece[..got] == content[at..at + got]);
                        let size = fs.getattr(&me(), id, None).unwrap().size;
                        assert_eq!(size, SIZE as u64);
                    }
                });
            }
            let done = convert(world.fs(), &file, &to);
            over.store(true, Ordering::SeqCst);
            assert_eq!(done, Ok(true));
        });
        assert!(reads.load(Ordering::SeqCst) > 3);
        world.fs().release(fh);
        assert!(world.get(id).unwrap() == content);
    }
}

#[test]
fn holes_stay_holes() {
    const HOLE: u64 = 3 << 20;
    for (from, mode) in WAYS {
        let world = World::with(from);
        let (entry, fh) = world.create(NodeId::ROOT, "file");
        for part in 0..4 {
            world.write(fh, part * HOLE, b"data");
        }
        world.resize(entry.node, 5 * HOLE);
        world.fs().fsync(fh, false).unwrap();
        let to = next(&world, mode);
        convert(world.fs(), &node(world.fs(), "file"), &to).unwrap();
        let attr = world.fs().getattr(&me(), entry.node, None).unwrap();
        assert_eq!(attr.size, 5 * HOLE);
        assert!(attr.blocks * 512 < 200_000, "{} blocks", attr.blocks);
        for part in 0..4 {
            // Units of the two modes do not begin at the same bytes: one beside a hole may be in both.
            let from = part * HOLE + (64 << 10);
            let found = world.fs().lseek(fh, from, libc::SEEK_DATA);
            let expected = if part < 3 {
                Ok((part + 1) * HOLE)
            } else {
                Err(Errno::NXIO)
            };
            // Or up to a unit before.
            let near = |at: u64| at.next_multiple_of(64 << 10);
            assert_eq!(found.map(near), expected.map(near));
            let mut data = [1; 6];
            world.fs().read(fh, part * HOLE, &mut data).unwrap();
            assert_eq!(&data, b"data\0\0");
        }
        world.fs().release(fh);
    }
}

/// More holes than a header of mode gcm lists: some are filled.
#[test]
fn many_holes_become_fewer() {
    const STEP: usize = 40_000;
    const PIECES: usize = 500;
    let mut world = World::with(ContentMode::Xts);
    let (entry, fh) = world.create(NodeId::ROOT, "file");
    let mut content = vec![0; STEP * PIECES];
    for piece in 0..PIECES {
        let data = noise(piece as u64, 5000);
        world.write(fh, (piece * STEP) as u64, &data);
        content[piece * STEP..][..5000].copy_from_slice(&data);
    }
    world.resize(entry.node, content.len() as u64);
    world.fs().release(fh);
    let to = next(&world, ContentMode::Gcm);
    let file = node(world.fs(), "file");
    assert_eq!(convert(world.fs(), &file, &to), Ok(true));
    drop(file);
    world.remount();
    let file = world.at(&["file"]).unwrap();
    assert!(world.get(file.node).unwrap() == content);
    assert!(file.attr.blocks * 512 < content.len() as u64 * 3 / 4);
}

/// In mode gcm a byte that somebody changes below is noticed, also in a file that was of mode xts before.
#[test]
fn what_was_not_authenticated_is_so_afterwards() {
    let mut world = World::with(ContentMode::Xts);
    let node_id = world.put(NodeId::ROOT, "file", &noise(1, 50_000));
    let to = next(&world, ContentMode::Gcm);
    let lower = world.lower_of(&world.at(&["file"]).unwrap());
    let old = std::fs::read(&lower).unwrap();
    convert(world.fs(), &node(world.fs(), "file"), &to).unwrap();
    assert!(world.get(node_id).unwrap() == noise(1, 50_000));
    world.unmount();
    let good = std::fs::read(&lower).unwrap();
    for at in [4096 + 100, 4096 * 5 + 9] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&lower, &bad).unwrap();
        world.remount();
        let file = node(world.fs(), "file");
        assert_eq!(world.get(file.id), Err(Errno::IO));
        drop(file);
        world.unmount();
    }
    // Without the generation that it was under, the file of before does not open any more.
    std::fs::write(&lower, &old).unwrap();
    world.keys.forget_older(&to);
    world.remount();
    let file = node(world.fs(), "file");
    assert!(world.get(file.id).is_err());
}

#[test]
fn a_damaged_file_stays_as_it_is() {
    let mut world = World::with(ContentMode::Gcm);
    world.put(NodeId::ROOT, "file", &noise(1, 50_000));
    let lower = world.lower_of(&world.at(&["file"]).unwrap());
    world.unmount();
    let good = std::fs::read(&lower).unwrap();
    let mut bad = good.clone();
    bad[4096 * 3] ^= 1;
    std::fs::write(&lower, &bad).unwrap();
    world.remount();
    let to = next(&world, ContentMode::Xts);
    let file = node(world.fs(), "file");
    assert_eq!(convert(world.fs(), &file, &to), Err(Errno::IO));
    no_copies(&world);
    drop(file);
    world.unmount();
    assert!(std::fs::read(&lower).unwrap() == bad);
    std::fs::write(&lower, &good).unwrap();
    world.remount();
    let file = node(world.fs(), "file");
    assert_eq!(convert(world.fs(), &file, &to), Ok(true));
    assert!(world.get(file.id).unwrap() == noise(1, 50_000));
}

/// Told to stop, it leaves everything as it was.
#[test]
fn it_can_be_stopped_in_the_middle() {
    for (from, mode) in WAYS {
        let world = World::with(from);
        let content = noise(1, 1_000_000);
        let id = world.put(NodeId::ROOT, "file", &content);
        let to = next(&world, mode);
        let file = node(world.fs(), "file");
        let mut steps = 0;
        let stopped = world.fs().convert_file(&file, &to, &mut |_| {
            steps += 1;
            steps < 4
        });
        assert_eq!((stopped, steps), (Err(Errno::INTR), 4));
        no_copies(&world);
        assert!(world.get(id).unwrap() == content);
        assert_eq!(convert(world.fs(), &file, &to), Ok(true));
        assert!(world.get(id).unwrap() == content);
    }
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

fn open(left: &LowerFs, world: &World, read_only: bool) -> Fs {
    let keys = Arc::clone(&world.keys) as Arc<dyn Keys>;
    Fs::over(left.root(), Path::new("simulated"), keys, read_only).unwrap()
}

/// What is left after a stop: content and attributes as they were, nothing to complain of, and the work can be ended.
fn judge(left: &LowerFs, world: &World, to: &Arc<UnlockedPolicy>, size: usize, names: usize) {
    let sound = |when: &str| {
        let report = check_open(left.root(), &*world.keys).unwrap();
        let mut findings = report.findings.iter();
        let found = findings.find(|finding| finding.severity != Severity::Note);
        assert!(found.is_none(), "{when}: {found:?}");
        report
    };
    let right = |fs: &Fs, when: &str| {
        let file = node(fs, "file");
        assert_eq!(fs.attr_of(&file).unwrap().size, size as u64, "{when}");
        let fh = fs.open(&me(), file.id, libc::O_RDONLY, false).unwrap().fh;
        let mut content = vec![0; size + 1];
        assert_eq!(fs.read(fh, 0, &mut content), Ok(size), "{when}");
        assert!(content[..size] == noise(9, size), "{when}: content");
        fs.release(fh);
        let found = attributes(fs, file.id);
        assert_eq!(found.len(), names, "{when}: {:?}", found.keys());
        assert!(found.iter().all(|(name, value)| name == value), "{when}");
    };
    let found = sound("as it was left").findings;
    right(&open(left, world, true), "read-only");
    if found.iter().any(|finding| finding.code == Code::InCopy) {
        // What the next mount does is done by a repair, too.
        let repaired = left.crash(Model::Kill, 0);
        check_with(repaired.root(), &*world.keys, true).unwrap();
        let again = check_open(repaired.root(), &*world.keys).unwrap().findings;
        let copies = |code| matches!(code, Code::InCopy | Code::CopyOrphan);
        assert!(
            !again.iter().any(|finding| copies(finding.code)),
            "{again:?}"
        );
        right(&open(&repaired, world, true), "repaired");
    }
    let fs = open(left, world, false);
    right(&fs, "as it was left");
    let root = fs.table.get(NodeId::ROOT).unwrap();
    fs.rewrap_directory(&root, to).unwrap();
    let file = node(&fs, "file");
    convert(&fs, &file, to).unwrap();
    right(&fs, "when it was ended");
    fs.drop_copies(Some(to.policy())).unwrap();
    drop((file, root, fs));
    let fs = open(left, world, false);
    right(&fs, "mounted again");
    let file = node(&fs, "file");
    assert_eq!(convert(&fs, &file, to), Ok(false));
    drop((file, fs));
    let report = sound("when it was ended");
    let copies = |code| matches!(code, Code::CopyOrphan | Code::InCopy);
    assert!(report.findings.iter().all(|finding| !copies(finding.code)));
}

/// All states that stops may leave; `lie` names objects whose syncs do nothing.
fn every_stop(
    model: Model,
    (from, mode): (ContentMode, ContentMode),
    (size, names): (usize, &[&str]),
    lie: Option<Lie>,
) -> usize {
    let world = simulated(model, from, size, names);
    let to = next(&world, mode);
    world.fs().sync_all().unwrap();
    let below = world.below().clone();
    if let Some(lie) = lie {
        below.ignore_syncs(lie);
    }
    below.watch();
    let file = node(world.fs(), "file");
    convert(world.fs(), &file, &to).unwrap();
    let mut known = HashSet::new();
    for stop in below.watched() {
        let mut check = |left: LowerFs| {
            if known.insert(left.fingerprint()) {
                judge(&left, &world, &to, size, names.len());
            }
        };
        check(stop.crash(Model::Kill, 0));
        let mut every = Every::default();
        while let Some(left) = every.next(&stop, model) {
            check(left);
        }
    }
    known.len()
}

/// Killed between any two calls, and the power cut at each of these moments.
#[test]
fn no_stop_loses_anything() {
    let long = long();
    for way in WAYS {
        for what in [
            (100, &[][..]),
            (100, &["user.one"]),
            (5000, &[]),
            (5000, &["user.one", &long]),
        ] {
            let states = every_stop(Model::Journal, way, what, None);
            println!("{way:?} {what:?}: {states} states");
            assert!(states > if what == (100, &[][..]) { 3 } else { 15 });
        }
        let states = every_stop(Model::Posix, way, (5000, &["user.one"]), None);
        assert!(states > 15);
    }
}

/// Were the copy, or its name, not durable before the file becomes it, a power cut would lose content.
#[test]
fn the_copy_has_to_be_durable_before_the_file_is_in_it() {
    let lies: [(Model, Lie); 2] = [
        (Model::Journal, |name| name.starts_with(".kmsfs.t.")),
        (Model::Posix, |name| name == names::COPIES),
    ];
    for (model, lie) in lies {
        let found = std::panic::catch_unwind(|| every_stop(model, WAYS[0], (5000, &[]), Some(lie)));
        assert!(found.is_err(), "{model:?}: nothing was found");
    }
}

/// Each call fails once: then the file is as it was, or in its copy, can be read, and the next try ends it.
#[test]
fn a_failure_can_be_tried_again() {
    let long = long();
    for (from, mode) in WAYS {
        for (size, names) in [
            (100, &[][..]),
            (100, &["user.one"]),
            (9000, &["user.one", &long]),
        ] {
            for fail in 0.. {
                let world = simulated(Model::Journal, from, size, names);
                let to = next(&world, mode);
                let file = node(world.fs(), "file");
                let held = world.fs().open(&me(), file.id, libc::O_RDONLY, false);
                let held = held.unwrap().fh;
                world.below().fail(move |op, number| {
                    let counts = !matches!(op, Op::Open | Op::Stat | Op::Read | Op::List);
                    let now = counts && number == fail + 1;
                    now.then_some(Failure::Errno(rustix::io::Errno::IO))
                });
                let first = convert(world.fs(), &file, &to);
                let failed = world.below().mend() > fail;
                let mut content = vec![0; size + 1];
                assert_eq!(
                    world.fs().read(held, 0, &mut content),
                    Ok(size),
                    "{from:?} {size} {fail} {first:?}"
                );
                assert!(content[..size] == noise(9, size));
                world.fs().release(held);
                assert_eq!(world.get(file.id).unwrap(), noise(9, size));
                convert(world.fs(), &file, &to).unwrap();
                assert_eq!(world.get(file.id).unwrap(), noise(9, size));
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
