//! The fuzz targets with bytes from seeds. A failure names the seed: `KMS_TESTS_SEED` runs that one alone.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::fuzz::{exercise, input, records};

/// How long one input may take before it counts as a hang.
const PATIENCE: Duration = Duration::from_secs(60);

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts the panics of all threads, those that a file system started among them.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            // Those of tests, which have `::` in their names, are failures anyway.
            if !thread::current()
                .name()
                .is_some_and(|name| name.contains("::"))
            {
                PANICS.fetch_add(1, Ordering::AcqRel);
            }
            before(info);
        }));
    });
}

/// `make test-full` runs this many times as many.
fn seeds(count: u64) -> Vec<u64> {
    if let Some(seed) = std::env::var("KMS_TESTS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        return vec![seed];
    }
    let full = std::env::var_os("KMS_TESTS_FULL").is_some();
    (0..if full { 20 * count } else { count }).collect()
}

/// Gives `body` inputs of at most `most` bytes, each within [`PATIENCE`].
fn run(name: &str, body: fn(&[u8]), most: usize, seeds: Vec<u64>) {
    count_panics();
    let panics = PANICS.load(Ordering::Acquire);
    let (said, heard) = mpsc::channel();
    let worker = thread::spawn(move || {
        for seed in seeds {
            let _ = said.send((seed, None));
            let length =
                8 + usize::try_from(seed.wrapping_mul(2_654_435_761) % most as u64).unwrap();
            let bytes = input::from_seed(seed, length);
            let failed = catch_unwind(AssertUnwindSafe(|| body(&bytes))).is_err();
            let _ = said.send((seed, Some(failed)));
        }
    });
    let mut at = 0;
    let mut failed = Vec::new();
    loop {
        match heard.recv_timeout(PATIENCE) {
            Ok((seed, None)) => at = seed,
            Ok((seed, Some(true))) => failed.push(seed),
            Ok((_, Some(false))) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("{name}: seed {at} takes more than {PATIENCE:?}")
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    worker.join().unwrap();
    assert!(failed.is_empty(), "{name}: seeds {failed:?}");
    let more = PANICS.load(Ordering::Acquire) - panics;
    assert_eq!(more, 0, "{name}: a thread in the background panicked");
}

#[test]
fn parsers_take_any_bytes() {
    for (name, body) in records::TARGETS {
        run(name, *body, 2_000, seeds(2_000));
    }
}

#[test]
fn changed_lower_trees_are_used_without_harm() {
    run("tree", exercise::tree, 200, seeds(1_500));
    let high = high_water();
    assert!(
        high < 1 << 30,
        "{high} bytes of memory were in use at some time"
    );
}

/// The most memory this process had, in bytes.
fn high_water() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}
