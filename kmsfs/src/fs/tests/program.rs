//! Random programs of operations on a whole tree, against a reference in memory.
//!
//! The lower file system is simulated: programs are quick, and a power cut can leave any state that it may. A program that
//! fails is shrunk; each that found something is kept below, by the name of what it found.

mod faults;
mod op;
mod reference;
mod run;
mod survival;

use proptest::prelude::*;

use self::op::{Op, op};
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
