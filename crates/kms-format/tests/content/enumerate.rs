//! Each operation of FORMAT.md section 5, from many states and at every border: every state that a stop may leave.

use std::sync::Arc;

use kms_format::content::File;
use kms_format::{ContentMode, UnlockedPolicy};

use crate::crash::{self, History};
use crate::lower::{Event, Image, Memory};
use crate::ops::Op;
use crate::random::Random;
use crate::{fresh, policy};

/// Where something changes: cells, the inline limit, units of both modes.
const SIZES: [u64; 17] = [
    0, 1, 15, 16, 17, 3711, 3712, 3713, 4063, 4064, 4065, 4095, 4096, 4097, 8128, 12_000, 16_300,
];
/// With more states than this of one case a sample is taken.
const LIMIT: u64 = 700;

/// How a file came to be what an operation starts from.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// Never synced.
    New,
    Synced,
    /// Synced, with the second half written anew since.
    Dirty,
    /// Synced, with a hole in the middle.
    Holes,
    /// Synced when it was half as long.
    Grown,
    /// Synced, closed and opened again.
    Opened,
}

const STARTS: [Start; 6] = [
    Start::New,
    Start::Synced,
    Start::Dirty,
    Start::Holes,
    Start::Grown,
    Start::Opened,
];

struct Case<'a> {
    policy: &'a Arc<UnlockedPolicy>,
    random: Random,
    file: File<Memory>,
    content: Vec<u8>,
    history: History,
    /// What was done, for whoever has to look at a failure.
    done: Vec<String>,
}

impl<'a> Case<'a> {
    fn new(policy: &'a Arc<UnlockedPolicy>, seed: u64) -> Case<'a> {
        Case {
            policy,
            random: Random::new(seed),
            file: fresh(policy),
            content: Vec::new(),
            history: History(vec![Vec::new()]),
            done: Vec::new(),
        }
    }

    fn start(&mut self, start: Start, size: u64) {
        let whole = self.random.bytes(size as usize);
        let second = self.random.bytes((size / 2) as usize);
        let half = size - size / 2;
        match start {
            Start::New => self.prepare(&[Op::Write(0, whole)]),
            Start::Synced | Start::Opened => self.prepare(&[Op::Write(0, whole), Op::Sync]),
            Start::Dirty => {
                self.prepare(&[Op::Write(0, whole), Op::Sync, Op::Write(half, second)]);
            }
            Start::Holes => {
                let hole = Op::Punch(size / 4, size / 2);
                self.prepare(&[Op::Write(0, whole), hole, Op::Sync]);
            }
            Start::Grown => {
                let first = whole[..half as usize].to_vec();
                self.prepare(&[Op::Write(0, first), Op::Sync, Op::Write(half, second)]);
            }
        }
        if matches!(start, Start::Opened) {
            let lower = Memory::of(self.file.lower().durable());
            self.file = crash::load(self.policy, &lower, false).unwrap();
        }
    }

    fn prepare(&mut self, ops: &[Op]) {
        for op in ops {
            self.run(op);
        }
    }

    fn run(&mut self, op: &Op) {
        self.done.push(format!("{op:?}").chars().take(40).collect());
        op.run(&mut self.file).unwrap();
        op.apply(&mut self.content);
        self.history.0.push(self.content.clone());
        if matches!(op, Op::Sync) {
            self.history = History(vec![self.content.clone()]);
        }
    }

    /// Runs an operation, and checks each state that a stop during it, or after it, may leave: between any two syncs
    /// of the lower file in it.
    fn check(&mut self, op: &Op) -> Result<usize, String> {
        let mut before = self.history.clone();
        self.file.lower().keep_epochs();
        self.run(op);
        before.0.push(self.content.clone());
        let epochs = self.file.lower().take_epochs();
        let mut checked = 0;
        for (durable, events) in &epochs {
            checked += self.check_states(durable, events, &before)?;
        }
        // Once an fsync is over, what it was called for is owed.
        let (durable, events) = (self.file.lower().durable(), self.file.lower().events().0);
        let after = self.history.clone();
        Ok(checked + self.check_states(&durable, &events, &after)?)
    }

    fn check_states(
        &mut self,
        durable: &Image,
        events: &[Event],
        history: &History,
    ) -> Result<usize, String> {
        let states = crash::states(durable, events, &mut self.random, LIMIT);
        for image in &states {
            crash::check(self.policy, image, history)
                .map_err(|what| format!("{what}, after {:?}", self.done))?;
        }
        Ok(states.len())
    }
}

/// The operations that are tried on a file of this size.
fn operations(random: &mut Random, size: u64) -> Vec<Op> {
    let mut ops = vec![Op::Sync];
    for border in SIZES {
        ops.push(Op::Resize(border));
    }
    for (offset, length) in [
        // Overwrite, append, over the end, behind the end.
        (0, 1),
        (size / 2, 20),
        (size / 3, 5000),
        (size, 1),
        (size, 16),
        (size, 4097),
        (size, 9000),
        (size.saturating_sub(1), 2),
        (size + 1, 5),
        (size + 4064, 30),
        (size + 9000, 30),
        (0, size as usize + 1),
    ] {
        ops.push(Op::Write(offset, random.bytes(length)));
    }
    for (offset, length) in [
        (0, size),
        (1, size),
        (4064, 4064),
        (4000, 8300),
        (size / 2, 16),
        (size.saturating_sub(4096), 4096),
    ] {
        ops.push(Op::Punch(offset, length));
    }
    ops
}

fn enumerate(mode: ContentMode) -> Result<usize, String> {
    let policy = policy(mode);
    let full = std::env::var_os("KMS_TESTS_FULL").is_some();
    let (mut checked, mut seed) = (0, 0);
    for start in STARTS {
        for size in SIZES {
            for number in 0..operations(&mut Random::new(1), size).len() {
                seed += 1;
                // A part of the cases that another part of each run covers.
                if !full && seed % 8 != 0 {
                    continue;
                }
                let mut case = Case::new(&policy, seed);
                case.start(start, size);
                let op = operations(&mut case.random, size).swap_remove(number);
                let case_name = format!("mode {mode:?}, {start:?}, {size} bytes");
                let named = |what| format!("{what}, {case_name}");
                checked += case.check(&op).map_err(named)?;
                // And the fsync after it: what was just done is owed then.
                let named = |what| format!("{what}, {case_name}");
                checked += case.check(&Op::Sync).map_err(named)?;
            }
        }
    }
    Ok(checked)
}

#[test]
fn no_stop_damages_a_file_of_mode_xts() {
    let checked = enumerate(ContentMode::Xts).unwrap_or_else(|what| panic!("{what}"));
    println!("xts: {checked} states checked");
}

#[test]
fn no_stop_damages_a_file_of_mode_gcm() {
    let checked = enumerate(ContentMode::Gcm).unwrap_or_else(|what| panic!("{what}"));
    println!("gcm: {checked} states checked");
}

/// A re-encryption, with another operation between its steps.
fn enumerate_new_keys(mode: ContentMode) -> Result<usize, String> {
    let policy = policy(mode);
    let full = std::env::var_os("KMS_TESTS_FULL").is_some();
    let (mut checked, mut seed) = (0, 0);
    for start in STARTS {
        for size in SIZES {
            for number in 0..operations(&mut Random::new(1), size).len() {
                seed += 1;
                if !full && seed % 23 != 0 {
                    continue;
                }
                let mut case = Case::new(&policy, seed);
                case.start(start, size);
                let op = operations(&mut case.random, size).swap_remove(number);
                let steps = [
                    Op::Begin(2),
                    Op::Step(1),
                    op,
                    Op::Step(1),
                    Op::Reencrypt(2),
                    Op::Sync,
                ];
                for op in &steps {
                    let named = |what| format!("{what}, mode {mode:?}, {start:?}, {size} bytes");
                    checked += case.check(op).map_err(named)?;
                }
            }
        }
    }
    Ok(checked)
}

#[test]
fn no_stop_damages_a_file_of_mode_xts_that_gets_a_new_key() {
    let checked = enumerate_new_keys(ContentMode::Xts).unwrap_or_else(|what| panic!("{what}"));
    println!("xts: {checked} states checked");
}

#[test]
fn no_stop_damages_a_file_of_mode_gcm_that_gets_a_new_key() {
    let checked = enumerate_new_keys(ContentMode::Gcm).unwrap_or_else(|what| panic!("{what}"));
    println!("gcm: {checked} states checked");
}

/// The same, with lower files whose syncs do nothing: the orders that FORMAT.md asks for are not kept then, and that
/// has to be noticed.
#[test]
fn a_wrong_order_is_found() {
    for (mode, size, op) in [
        // The loss is not allowed before it is met.
        (ContentMode::Gcm, 12_000, Op::Resize(100)),
        (ContentMode::Gcm, 12_000, Op::Resize(0)),
        (ContentMode::Gcm, 16_300, Op::Punch(4064, 8128)),
        // The header vouches for, or leaves behind, what is not there yet.
        (ContentMode::Gcm, 3000, Op::Resize(10_000)),
        (ContentMode::Xts, 3000, Op::Resize(10_000)),
        // Content is under a key that no header has yet.
        (ContentMode::Xts, 12_000, Op::Reencrypt(2)),
        (ContentMode::Gcm, 12_000, Op::Reencrypt(2)),
    ] {
        let policy = policy(mode);
        let mut case = Case::new(&policy, 7);
        case.start(Start::Synced, size);
        case.file.lower().ignore_syncs();
        assert!(case.check(&op).is_err(), "{mode:?} {op:?}");
    }
}
