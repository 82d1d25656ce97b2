//! Random programs of operations on a whole tree, against a reference in memory.
//!
//! The lower file system is simulated: programs are quick, and a power cut can leave any state that it may. A program that
//! fails is shrunk; each that found something is kept below, by the name of what it found.

mod faults;
mod op;
mod reference;
mod run;
mod survival;

use kms_format::ContentMode;
use proptest::prelude::*;

use self::op::{Op, on_one_file, op};
use self::run::Run;
use crate::backing::sim::Model;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn run(model: Model, ops: &[Op]) {
    Run::new(model).all(ops);
}

proptest! {
    #![proptest_config(config(700))]

    #[test]
    fn programs_do_what_they_say_over_a_journal(ops in prop::collection::vec(op(), 1..60)) {
        run(Model::Journal, &ops);
    }

    #[test]
    fn programs_do_what_they_say_over_the_least_posix_promises(ops in prop::collection::vec(op(), 1..60)) {
        run(Model::Posix, &ops);
    }

    #[test]
    fn one_file_is_what_it_was_after_many_stops(ops in on_one_file()) {
        run(Model::Journal, &ops);
    }
}

/// A program and then a power cut, of many that are possible.
fn cut_after(model: Model, ops: &[Op]) {
    for seed in 0..60 {
        run(model, &[ops, &[Op::PowerCut { seed }]].concat());
    }
}

#[test]
fn the_name_of_a_target_record_is_durable_before_its_symlink() {
    let (dir, name, target) = (0, 0, 3);
    cut_after(Model::Posix, &[Op::Symlink { dir, name, target }]);
}

#[test]
fn a_target_record_outlives_its_symlink() {
    let (dir, name, target) = (1, 0, 3);
    let mut ops = vec![
        Op::Mkdir { dir: 0, name: 0 },
        Op::Symlink { dir, name, target },
        Op::SyncAll,
        Op::Unlink { dir, name },
    ];
    cut_after(Model::Posix, &ops);
    ops.pop();
    ops.extend([
        Op::Create { dir, name: 1 },
        Op::Rename {
            dir,
            name: 1,
            to: dir,
            new: name,
            flags: 0,
        },
    ]);
    cut_after(Model::Posix, &ops);
}

/// SEMANTICS: syncfs
#[test]
fn what_syncfs_made_durable_survives_a_conversion() {
    let (handle, seed) = (0, 1);
    let write = |at| Op::Write {
        handle,
        at,
        length: 1,
        seed,
    };
    cut_after(
        Model::Journal,
        &[
            Op::Create { dir: 0, name: 0 },
            write(0),
            Op::SyncAll,
            write(4096),
        ],
    );
}

#[test]
fn a_directory_that_the_kernel_forgot_gets_its_header_synced() {
    // Nothing but the header's wait refers to it after mkdir.
    let (mkdir, create) = (
        Op::Mkdir { dir: 0, name: 0 },
        Op::Create { dir: 1, name: 0 },
    );
    cut_after(
        Model::Journal,
        &[mkdir.clone(), create.clone(), Op::SyncDir { dir: 0 }],
    );
    cut_after(Model::Journal, &[mkdir, create, Op::Sync { handle: 0 }]);
}

#[test]
fn a_header_of_before_a_kill_is_synced_with_what_comes_after() {
    cut_after(
        Model::Journal,
        &[
            Op::Mkdir { dir: 0, name: 0 },
            Op::Kill,
            Op::Create { dir: 1, name: 0 },
            Op::Sync { handle: 0 },
        ],
    );
}

/// What was found in one mode is tried in both.
const MODES: [ContentMode; 2] = [ContentMode::Xts, ContentMode::Gcm];

#[test]
fn pages_whose_header_was_lost_do_not_come_back_under_the_next() {
    let (handle, at) = (0, 0);
    let write = |length| Op::Write {
        handle,
        at,
        length,
        seed: 0,
    };
    for mode in MODES {
        for seed in 0..400 {
            let ops = [
                Op::Create { dir: 0, name: 0 },
                Op::SyncDir { dir: 0 },
                write(20_480),
                Op::PowerCut { seed },
                Op::Open {
                    file: 0,
                    cut: false,
                },
                write(8128),
                Op::PowerCut { seed: seed + 1000 },
            ];
            Run::with(Model::Journal, mode).all(&ops);
        }
    }
}

#[test]
fn a_size_that_ends_with_a_page_is_kept_when_kmsfs_is_killed() {
    let write = |at, length| Op::Write {
        handle: 0,
        at,
        length,
        seed: 0,
    };
    let resize = |size| Op::Resize { file: 0, size };
    let programs = [
        // The last unit is sealed with one byte, and then reaches to its end.
        vec![write(4064, 4065), resize(12_192)],
        vec![write(0, 4065), resize(8129), resize(8128)],
    ];
    for mode in MODES {
        for program in &programs {
            let mut ops = vec![Op::Create { dir: 0, name: 0 }];
            ops.extend(program.iter().cloned());
            ops.push(Op::Kill);
            Run::with(Model::Journal, mode).all(&ops);
        }
    }
}

#[test]
fn a_file_that_left_its_header_page_and_was_emptied_is_no_alarm() {
    let write = Op::Write {
        handle: 0,
        at: 3706,
        length: 16,
        seed: 0,
    };
    for mode in MODES {
        for seed in 0..200 {
            let ops = [
                Op::Create { dir: 0, name: 0 },
                Op::Resize { file: 0, size: 15 },
                write.clone(),
                Op::Open { file: 0, cut: true },
                Op::PowerCut { seed },
            ];
            Run::with(Model::Journal, mode).all(&ops);
        }
    }
}
