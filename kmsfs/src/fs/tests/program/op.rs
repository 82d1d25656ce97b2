//! What programs are made of. Numbers choose among what there is at that moment, so that a program stays one when parts of
//! it are taken away.

use proptest::prelude::*;

/// Offsets and sizes near which something changes.
const EDGES: [u64; 14] = [
    0, 1, 15, 16, 17, 3696, 3712, 3713, 4063, 4064, 4080, 4096, 8192, 20_480,
];

/// Names by number: short ones, and some at the borders of their stored forms.
pub(super) fn name(number: usize) -> Vec<u8> {
    let lengths = [1, 1, 1, 16, 17, 160, 161, 255];
    let at = number % lengths.len();
    vec![b"abcdefgh"[at]; lengths[at]]
}

/// Targets of symlinks: within one and in a record.
pub(super) fn target(number: usize) -> Vec<u8> {
    let lengths = [1, 15, 713, 714, 4095];
    vec![b't'; lengths[number % lengths.len()]]
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Create {
        dir: usize,
        name: usize,
    },
    Mkdir {
        dir: usize,
        name: usize,
    },
    Symlink {
        dir: usize,
        name: usize,
        target: usize,
    },
    Fifo {
        dir: usize,
        name: usize,
    },
    Link {
        file: usize,
        dir: usize,
        name: usize,
    },
    Unlink {
        dir: usize,
        name: usize,
    },
    Rmdir {
        dir: usize,
        name: usize,
    },
    Rename {
        dir: usize,
        name: usize,
        to: usize,
        new: usize,
        flags: u32,
    },
    Open {
        file: usize,
        cut: bool,
    },
    Close {
        handle: usize,
    },
    Write {
        handle: usize,
        at: u64,
        length: usize,
        seed: u64,
    },
    Resize {
        file: usize,
        size: u64,
    },
    Punch {
        handle: usize,
        at: u64,
        length: u64,
    },
    Zero {
        handle: usize,
        at: u64,
        length: u64,
        keep: bool,
    },
    Allocate {
        handle: usize,
        at: u64,
        length: u64,
        keep: bool,
    },
    Copy {
        from: usize,
        to: usize,
        at: u64,
        length: u64,
        new: u64,
    },
    SetXattr {
        object: usize,
        name: usize,
        length: usize,
    },
    RemoveXattr {
        object: usize,
        name: usize,
    },
    Chmod {
        object: usize,
        mode: u32,
    },
    Sync {
        handle: usize,
    },
    SyncDir {
        dir: usize,
    },
    SyncAll,
    Remount,
    Kill,
    PowerCut {
        seed: u64,
    },
}

fn position() -> impl Strategy<Value = u64> {
    (0..EDGES.len(), -18_i64..19).prop_map(|(edge, shift)| EDGES[edge].saturating_add_signed(shift))
}

fn place() -> impl Strategy<Value = (usize, usize)> {
    (0..6_usize, 0..8_usize)
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let names = prop_oneof![
        8 => place().prop_map(|(dir, name)| Op::Create { dir, name }),
        5 => place().prop_map(|(dir, name)| Op::Mkdir { dir, name }),
        2 => (place(), 0..5_usize).prop_map(|((dir, name), target)| Op::Symlink { dir, name, target }),
        1 => place().prop_map(|(dir, name)| Op::Fifo { dir, name }),
        2 => (0..6_usize, place()).prop_map(|(file, (dir, name))| Op::Link { file, dir, name }),
        3 => place().prop_map(|(dir, name)| Op::Unlink { dir, name }),
        2 => place().prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        7 => (place(), place(), prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(2)]).prop_map(
            |((dir, name), (to, new), flags)| Op::Rename { dir, name, to, new, flags }),
    ];
    let content = prop_oneof![
        5 => (0..6_usize, prop::bool::weighted(0.2)).prop_map(|(file, cut)| Op::Open { file, cut }),
        2 => (0..6_usize).prop_map(|handle| Op::Close { handle }),
        12 => (0..6_usize, position(), position(), any::<u64>()).prop_map(
            |(handle, at, length, seed)| Op::Write { handle, at, length: length as usize, seed }),
        5 => (0..6_usize, position()).prop_map(|(file, size)| Op::Resize { file, size }),
        2 => (0..6_usize, position(), position())
            .prop_map(|(handle, at, length)| Op::Punch { handle, at, length }),
        1 => (0..6_usize, position(), position(), any::<bool>())
            .prop_map(|(handle, at, length, keep)| Op::Zero { handle, at, length, keep }),
        1 => (0..6_usize, position(), position(), any::<bool>())
            .prop_map(|(handle, at, length, keep)| Op::Allocate { handle, at, length, keep }),
        2 => (0..6_usize, 0..6_usize, position(), position(), position())
            .prop_map(|(from, to, at, length, new)| Op::Copy { from, to, at, length, new }),
    ];
    let rest = prop_oneof![
        2 => (0..12_usize, 0..8_usize, 0..300_usize)
            .prop_map(|(object, name, length)| Op::SetXattr { object, name, length }),
        1 => (0..12_usize, 0..8_usize).prop_map(|(object, name)| Op::RemoveXattr { object, name }),
        1 => (0..12_usize, 0..0o1000_u32).prop_map(|(object, mode)| Op::Chmod { object, mode }),
        4 => (0..6_usize).prop_map(|handle| Op::Sync { handle }),
        3 => (0..6_usize).prop_map(|dir| Op::SyncDir { dir }),
        1 => Just(Op::SyncAll),
        1 => Just(Op::Remount),
        1 => Just(Op::Kill),
        3 => any::<u64>().prop_map(|seed| Op::PowerCut { seed }),
    ];
    prop_oneof![5 => names, 5 => content, 2 => rest]
}

/// Programs on one file: it is opened again after each stop.
pub(super) fn on_one_file() -> impl Strategy<Value = Vec<Op>> {
    const EDGES: [u64; 8] = [0, 1, 3712, 4064, 4096, 8128, 12_192, 20_480];
    let position = || {
        (0..EDGES.len(), -2_i64..3)
            .prop_map(|(edge, shift)| EDGES[edge].saturating_add_signed(shift))
    };
    let (file, handle, open) = (
        0,
        0,
        Op::Open {
            file: 0,
            cut: false,
        },
    );
    let op = prop_oneof![
        3 => Just(open.clone()),
        4 => (position(), position(), any::<u64>()).prop_map(move |(at, length, seed)| {
            Op::Write { handle, at, length: length as usize, seed }
        }),
        4 => position().prop_map(move |size| Op::Resize { file, size }),
        1 => (position(), position()).prop_map(move |(at, length)| Op::Punch { handle, at, length }),
        1 => (position(), position(), any::<bool>())
            .prop_map(move |(at, length, keep)| Op::Allocate { handle, at, length, keep }),
        2 => Just(Op::Sync { handle }),
        1 => Just(Op::Close { handle }),
        1 => Just(Op::Kill),
        3 => any::<u64>().prop_map(|seed| Op::PowerCut { seed }),
    ];
    prop::collection::vec(op, 1..10).prop_map(move |ops| {
        let mut program = vec![Op::Create { dir: 0, name: 0 }];
        for op in ops {
            let stops = matches!(op, Op::Kill | Op::PowerCut { .. });
            program.push(op);
            if stops {
                program.push(open.clone());
            }
        }
        program
    })
}
