//! Content against a model: a vector of bytes.

use proptest::prelude::*;

use kms_format::ContentMode;

use super::world::{World, me, noise};
use crate::fs::NodeId;

/// Offsets and sizes near which something changes.
const EDGES: [u64; 15] = [
    0, 1, 15, 16, 17, 3696, 3712, 3713, 4064, 4080, 4096, 4112, 8192, 65536, 131_072,
];

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, length: usize, seed: u64 },
    Resize(u64),
    Punch { at: u64, length: u64 },
    Zero { at: u64, length: u64 },
    Allocate { at: u64, length: u64, keep: bool },
    Copy { from: u64, to: u64, length: u64 },
    Sync,
    Close,
    Remount,
    Crash,
}

fn position() -> impl Strategy<Value = u64> {
    (0..EDGES.len(), -18_i64..19).prop_map(|(edge, shift)| EDGES[edge].saturating_add_signed(shift))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (position(), position(), any::<u64>())
            .prop_map(|(at, length, seed)| Op::Write { at, length: length as usize, seed }),
        4 => position().prop_map(Op::Resize),
        2 => (position(), position()).prop_map(|(at, length)| Op::Punch { at, length }),
        1 => (position(), position()).prop_map(|(at, length)| Op::Zero { at, length }),
        1 => (position(), position(), any::<bool>())
            .prop_map(|(at, length, keep)| Op::Allocate { at, length, keep }),
        2 => (position(), position(), position())
            .prop_map(|(from, to, length)| Op::Copy { from, to, length }),
        1 => Just(Op::Sync),
        2 => Just(Op::Close),
        1 => Just(Op::Remount),
        1 => Just(Op::Crash),
    ]
}

fn run(ops: &[Op]) {
    let mut world = World::new();
    let mut model: Vec<u8> = Vec::new();
    let (mut entry, mut fh) = world.create(NodeId::ROOT, "file");
    for op in ops {
        let fs = world.fs();
        match op {
            Op::Write { at, length, seed } => {
                let data = noise(*seed, *length);
                world.write(fh, *at, &data);
                let end = *at as usize + length;
                if *length > 0 {
                    model.resize(model.len().max(end), 0);
                    model[*at as usize..end].copy_from_slice(&data);
                }
            }
            Op::Resize(size) => {
                world.resize(entry.node, *size);
                model.resize(*size as usize, 0);
            }
            Op::Punch { at, length } | Op::Zero { at, length } if *length > 0 => {
                let punch = matches!(op, Op::Punch { .. });
                let mode = if punch {
                    libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE
                } else {
                    libc::FALLOC_FL_ZERO_RANGE
                };
                fs.fallocate(&me(), fh, *at, *length, mode).unwrap();
                let end = (*at + *length) as usize;
                if !punch {
                    model.resize(model.len().max(end), 0);
                }
                let limit = model.len();
                model[(*at as usize).min(limit)..end.min(limit)].fill(0);
            }
            Op::Allocate { at, length, keep } if *length > 0 => {
                let mode = if *keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                fs.fallocate(&me(), fh, *at, *length, mode).unwrap();
                if !keep {
                    model.resize(model.len().max((*at + *length) as usize), 0);
                }
            }
            Op::Copy { from, to, length } => {
                let overlap = from < &(to + length) && to < &(from + length);
                let copied = fs.copy_file_range(&me(), fh, *from, fh, *to, *length);
                if overlap {
                    assert!(copied.is_err());
                    continue;
                }
                let start = (*from as usize).min(model.len());
                let part = model[start..(start + *length as usize).min(model.len())].to_vec();
                assert_eq!(copied, Ok(part.len() as u64));
                if !part.is_empty() {
                    let end = *to as usize + part.len();
                    model.resize(model.len().max(end), 0);
                    model[*to as usize..end].copy_from_slice(&part);
                }
            }
            Op::Sync => fs.fsync(fh, false).unwrap(),
            Op::Close => {
                fs.release(fh);
                fh = fs.open(&me(), entry.node, libc::O_RDWR, false).unwrap().fh;
            }
            Op::Remount | Op::Crash => {
                if matches!(op, Op::Crash) {
                    world.crash();
                } else {
                    fs.release(fh);
                    world.remount();
                }
                entry = world.at(&["file"]).unwrap();
                assert_eq!(entry.attr.size, model.len() as u64, "after {op:?}");
                fh = world
                    .fs()
                    .open(&me(), entry.node, libc::O_RDWR, false)
                    .unwrap()
                    .fh;
            }
            Op::Punch { .. } | Op::Zero { .. } | Op::Allocate { .. } => {}
        }
        assert_eq!(world.size(entry.node), model.len() as u64, "after {op:?}");
        let found = world.get(entry.node).unwrap();
        if found != model {
            let first = found.iter().zip(&model).position(|(a, b)| a != b);
            panic!(
                "after {op:?}: {} bytes, not {}; first difference at {first:?}",
                found.len(),
                model.len()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn content_is_what_was_written(ops in prop::collection::vec(op(), 1..25)) {
        run(&ops);
    }
}

#[test]
fn a_copy_that_extends_its_source_ends_where_it_ended() {
    run(&[
        Op::Resize(8192),
        Op::Copy {
            from: 8191,
            to: 8202,
            length: 11,
        },
    ]);
}

/// SEMANTICS: truncate
#[test]
fn every_size_near_an_edge_comes_back() {
    let mut world = World::new();
    let mut sizes: Vec<u64> = EDGES
        .iter()
        .flat_map(|edge| (0..4).map(move |shift| (edge + shift).saturating_sub(2)))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in &sizes {
        world.put(
            NodeId::ROOT,
            &format!("f{size}"),
            &noise(*size, *size as usize),
        );
    }
    world.remount();
    for size in &sizes {
        let entry = world.at(&[&format!("f{size}")]).unwrap();
        assert_eq!(entry.attr.size, *size);
        assert_eq!(
            world.get(entry.node).unwrap(),
            noise(*size, *size as usize),
            "{size}"
        );
    }
}

#[test]
fn a_small_file_is_one_lower_page() {
    use std::os::unix::fs::MetadataExt as _;
    let world = World::with(ContentMode::Xts);
    let node = world.put(NodeId::ROOT, "small", b"small content");
    let entry = world.at(&["small"]).unwrap();
    assert_eq!(entry.node, node);
    let meta = world.lower_of(&entry).metadata().unwrap();
    assert_eq!(meta.len(), 4096 + 16 + 3);
    assert!(meta.blocks() <= 8, "{} blocks", meta.blocks());
    assert!(entry.attr.blocks <= 8);
}

/// SEMANTICS: lseek
#[test]
fn holes_are_found() {
    let world = World::with(ContentMode::Xts);
    let (entry, fh) = world.create(NodeId::ROOT, "sparse");
    world.resize(entry.node, 1 << 20);
    world.write(fh, 512 * 1024, &noise(1, 8192));
    let seek = |at, how| world.fs().lseek(fh, at, how);
    assert_eq!(seek(0, libc::SEEK_DATA), Ok(512 * 1024));
    assert_eq!(seek(0, libc::SEEK_HOLE), Ok(0));
    assert_eq!(seek(512 * 1024, libc::SEEK_HOLE), Ok(520 * 1024));
    assert!(seek(520 * 1024, libc::SEEK_DATA).is_err());
    assert!(seek(1 << 20, libc::SEEK_HOLE).is_err());
}

/// SEMANTICS: read
#[test]
fn writers_and_readers_at_once() {
    let world = World::new();
    let (entry, fh) = world.create(NodeId::ROOT, "shared");
    world.write(fh, 0, &vec![0; 64 * 4096]);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let world = &world;
            scope.spawn(move || {
                for round in 0..50_u64 {
                    let block = u64::from(thread) * 16 + round % 16;
                    world.write(fh, block * 4096, &[thread + 1; 4096]);
                    let mut out = vec![0; 4096];
                    assert_eq!(world.fs().read(fh, block * 4096, &mut out), Ok(4096));
                    assert_eq!(out, [thread + 1; 4096]);
                }
            });
        }
    });
    let content = world.get(entry.node).unwrap();
    for (block, bytes) in content.chunks(4096).enumerate() {
        assert!(
            bytes
                .iter()
                .all(|byte| usize::from(*byte) == block / 16 + 1),
            "{block}"
        );
    }
}
