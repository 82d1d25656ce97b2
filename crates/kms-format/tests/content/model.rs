//! Random programs against a vector of bytes, with stops in between.

use kms_format::ContentMode;

use crate::crash::{self, History};
use crate::lower::Memory;
use crate::ops::Op;
use crate::random::Random;
use crate::{fresh, policy};

/// Runs one program; after each operation the content is compared, and some of the states are checked that a crash
/// at this moment could leave. Gives the number of those.
fn program(mode: ContentMode, seed: u64, length: usize, crashes: u64, moving: bool) -> usize {
    let policy = policy(mode);
    let mut random = Random::new(seed);
    let mut file = fresh(&policy);
    let mut content = Vec::new();
    let mut history = History(vec![Vec::new()]);
    let mut done = Vec::new();
    let mut checked = 0;
    for _ in 0..length {
        let op = if moving {
            Op::random_moving(&mut random, content.len() as u64)
        } else {
            Op::random(&mut random, content.len() as u64)
        };
        let short = format!("{op:?}").chars().take(30).collect::<String>();
        done.push(format!("{} bytes: {short}", content.len()));
        let trail = || {
            format!(
                "mode {mode:?}, seed {seed}, after {:#?}",
                &done[done.len().saturating_sub(12)..]
            )
        };
        let before = file.lower().events().1;
        op.run(&mut file)
            .unwrap_or_else(|fault| panic!("{fault:?}, {}", trail()));
        op.apply(&mut content);
        history.0.push(content.clone());
        // What sync(2) makes durable stays, too; in mode gcm the length of a file in units counts only once its header vouches
        // for it.
        let one_page = file.lower().durable().pages.len() <= 1;
        let kept = mode == ContentMode::Xts || one_page;
        if matches!(op, Op::Sync) || matches!(op, Op::HostSync) && kept {
            history = History(vec![content.clone()]);
        }
        let now = crash::content(&file).unwrap_or_else(|what| panic!("{what}, {}", trail()));
        assert!(now == content, "wrong content, {}", trail());
        let (events, syncs) = file.lower().events();
        if syncs == before || matches!(op, Op::Sync | Op::HostSync) {
            let states = crash::states(&file.lower().durable(), &events, &mut random, crashes);
            for image in states.iter().rev().take(crashes as usize) {
                if let Err(what) = crash::check(&policy, image, &history) {
                    panic!("{what}, {}", trail());
                }
                checked += 1;
            }
        }
        match random.below(30) {
            0 => {
                // Closed and opened again.
                let lower = file.lower().clone();
                file = crash::load(&policy, &lower, false)
                    .unwrap_or_else(|what| panic!("{what}, {}", trail()));
            }
            1 => {
                // The power is cut; from here on the file is what was left.
                let states = crash::states(&file.lower().durable(), &events, &mut random, 3);
                let image = states[random.below(states.len() as u64) as usize].clone();
                file = crash::load(&policy, &Memory::of(image), true)
                    .unwrap_or_else(|what| panic!("{what}, {}", trail()));
                file.settle()
                    .unwrap_or_else(|fault| panic!("{fault:?}, {}", trail()));
                file.sync().unwrap();
                content = crash::content(&file).unwrap();
                history = History(vec![content.clone()]);
                done.push(format!("-- crash {file:?}"));
            }
            _ => {}
        }
    }
    checked
}

/// Seeds that found something: 290, content that sync(2) had made durable in the header page, gone with the first unit.
const FOUND: [u64; 1] = [290];

/// One seed, if KMS_SEED says which; many more than usual with KMS_TESTS_FULL.
fn run(mode: ContentMode, moving: bool) {
    let number = |name| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let most = if std::env::var_os("KMS_TESTS_FULL").is_some() {
        2000
    } else {
        25
    };
    let seeds = number("KMS_SEED").map_or(1..=most, |seed| seed..=seed);
    let checked: usize = seeds
        .chain(FOUND)
        .map(|seed| program(mode, seed, 60, 12, moving))
        .sum();
    println!("{mode:?}: {checked} states checked");
}

#[test]
fn random_programs_in_mode_xts_survive_crashes() {
    run(ContentMode::Xts, false);
}

#[test]
fn random_programs_in_mode_gcm_survive_crashes() {
    run(ContentMode::Gcm, false);
}

#[test]
fn random_programs_in_mode_xts_survive_crashes_while_the_file_gets_new_keys() {
    run(ContentMode::Xts, true);
}

#[test]
fn random_programs_in_mode_gcm_survive_crashes_while_the_file_gets_new_keys() {
    run(ContentMode::Gcm, true);
}
