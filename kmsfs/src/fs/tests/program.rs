//! Random programs of operations on a whole tree, against a reference in memory.
//!
//! The lower file system is simulated: programs are quick, and a power cut can leave any state that it may. A program that
//! fails is shrunk; each that found something is kept below, by the name of what it found.

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
    #![proptest_config(config(400))]

    #[test]
    fn programs_do_what_they_say_over_a_journal(ops in prop::collection::vec(op(), 1..60)) {
        run(Model::Journal, &ops);
    }

    #[test]
    fn programs_do_what_they_say_over_the_least_posix_promises(ops in prop::collection::vec(op(), 1..60)) {
        run(Model::Posix, &ops);
    }
}
