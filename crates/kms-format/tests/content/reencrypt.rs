//! New file keys and new content in place (FORMAT.md section 6.3): nothing is lost, and the old key opens nothing any more.

use std::sync::Arc;

use kms_format::content::{File, Lower as _};
use kms_format::{ContentMode, FileHeader, UnlockedPolicy, file};

use crate::crash::{self, History, content, load};
use crate::lower::Memory;
use crate::ops::{Op, reencrypt};
use crate::random::Random;
use crate::{fresh, policy, policy_at};

const MODES: [ContentMode; 2] = [ContentMode::Xts, ContentMode::Gcm];

fn filled(policy: &Arc<UnlockedPolicy>, length: usize) -> (File<Memory>, Vec<u8>) {
    let data = Random::new(length as u64).bytes(length);
    let mut file = fresh(policy);
    file.keys().unwrap();
    if length > 0 {
        file.write(0, &mut data.clone()).unwrap();
    }
    file.sync().unwrap();
    (file, data)
}

fn page(file: &File<Memory>) -> [u8; file::PAGE] {
    let mut page = [0; file::PAGE];
    file.lower().read_at(&mut page, 0).unwrap();
    page
}

#[test]
fn everything_is_under_the_new_key_and_nothing_under_the_old_one() {
    for mode in MODES {
        for length in [0, 1, 3712, 3713, 4064, 4096, 4100, 16_000, 1_300_000] {
            let (old, new) = (policy(mode), policy_at(mode, 2));
            let (mut file, data) = filled(&old, length);
            let before = page(&file);
            let former = FileHeader::open(&before, &old).unwrap().keys;
            let mut lower_before = vec![0; length + 100_000];
            let got = file.lower().read_at(&mut lower_before, 4096).unwrap();
            assert!(file.is_behind(&new));
            reencrypt(&mut file, 2).unwrap();
            assert!(!file.is_behind(&new) && !file.reencrypting());
            assert_eq!(content(&file).unwrap(), data);
            // What is durable is the header that knows only the new key.
            let durable = Memory::of(file.lower().durable());
            let mut after = [0; file::PAGE];
            durable.read_at(&mut after, 0).unwrap();
            let opened = FileHeader::open(&after, &new).unwrap();
            assert_eq!(opened.header.lineage(), (new.policy(), 2));
            assert!(opened.header.wraps().all(|wrap| wrap.generation == 2));
            assert!(FileHeader::open(&after, &old).is_err());
            assert!(opened.header.open_body(&former, &after).is_err());
            let mut lower_after = vec![0; length + 100_000];
            assert_eq!(durable.read_at(&mut lower_after, 4096).unwrap(), got);
            let cells = |bytes: &[u8]| bytes[..got].chunks_exact(16).map(<[u8]>::to_vec).collect();
            let (one, two): (Vec<_>, Vec<_>) = (cells(&lower_before), cells(&lower_after));
            let same = one
                .iter()
                .zip(&two)
                .filter(|(a, b)| a == b && a.iter().any(|byte| *byte != 0));
            assert_eq!(same.count(), 0, "{mode:?} {length}: a cell is as it was");
            // In the end a file like any other: a reader that knows nothing of re-encryptions opens it.
            let now = page(&file);
            assert_eq!(now[64..72], [0; 8]);
            assert_eq!(FileHeader::decode(&now).unwrap().wraps().count(), 1);
            assert!(!FileHeader::decode(&now).unwrap().has_unusable_slot());
            let again = load(&new, &durable, true).unwrap();
            assert_eq!(content(&again).unwrap(), data);
        }
    }
}

#[test]
fn holes_stay_holes() {
    for mode in MODES {
        let (mut file, _) = filled(&policy(mode), 10_000);
        file.resize(40_000_000).unwrap();
        file.write(30_000_000, &mut [7; 10_000]).unwrap();
        let (before, pages) = (content(&file).unwrap(), file.lower().pages());
        reencrypt(&mut file, 2).unwrap();
        assert_eq!(content(&file).unwrap(), before);
        assert_eq!(file.lower().pages(), pages);
        let data = file.seek_data(20_000_000).unwrap();
        assert!(data > 29_990_000 && data <= 30_000_000, "{data}");
    }
}

#[test]
fn a_file_is_read_and_written_between_the_steps() {
    for mode in MODES {
        let (mut file, mut data) = filled(&policy(mode), 100_000);
        file.begin_reencryption(&policy_at(mode, 2)).unwrap();
        let mut at = 0_u64;
        loop {
            let progress = file.reencrypt_step(3).unwrap();
            assert_eq!(content(&file).unwrap(), data);
            // Before, around and behind the watermark.
            for offset in [at.saturating_sub(9000), at, at + 20_000] {
                let op = Op::Write(offset, vec![at as u8 | 1; 5000]);
                op.run(&mut file).unwrap();
                op.apply(&mut data);
            }
            assert_eq!(content(&file).unwrap(), data);
            let lower = file.lower().clone();
            assert_eq!(
                content(&load(&policy_at(mode, 2), &lower, false).unwrap()).unwrap(),
                data
            );
            if !matches!(progress, kms_format::content::Progress::More { .. }) {
                break;
            }
            at += 12_000;
        }
        while !file.end_reencryption().unwrap() {
            file.reencrypt_step(100).unwrap();
        }
        assert_eq!(content(&file).unwrap(), data);
    }
}

/// As long as a re-encryption is under way, readers of format 1 that do not know of it refuse the file.
#[test]
fn half_done_files_are_not_for_readers_that_know_nothing_of_it() {
    for mode in MODES {
        let (mut file, data) = filled(&policy(mode), 100_000);
        file.begin_reencryption(&policy_at(mode, 2)).unwrap();
        file.reencrypt_step(3).unwrap();
        let half = page(&file);
        assert_ne!(half[64..72], [0; 8], "reserved in format 1");
        // Closed, opened by one who goes on with it.
        let lower = file.lower().clone();
        let mut file = load(&policy_at(mode, 2), &lower, false).unwrap();
        assert!(file.reencrypting() && file.former_keys().is_some());
        assert_eq!(content(&file).unwrap(), data);
        reencrypt(&mut file, 2).unwrap();
        assert_eq!(content(&file).unwrap(), data);
    }
}

/// Neither watermark, nor roles of slots, nor the window can be altered without being noticed.
#[test]
fn what_steers_a_half_done_file_is_authenticated() {
    for mode in MODES {
        let (mut file, _) = filled(&policy(mode), 100_000);
        let new = policy_at(mode, 2);
        file.begin_reencryption(&new).unwrap();
        file.reencrypt_step(3).unwrap();
        let half = page(&file);
        for at in (0..256)
            .chain(3968..4096)
            .filter(|at| !(108..128).contains(at))
        {
            for bit in [1, 0x80] {
                let mut altered = half;
                altered[at] ^= bit;
                let lower = file.lower().clone_of_now();
                lower.write_at(&altered, 0).unwrap();
                let opened = load(&new, &lower, false);
                assert!(opened.is_err(), "byte {at} of a header of mode {mode:?}");
            }
        }
    }
}

/// Killed in a step, then the power goes while another goes on: what the first wrote was never synced.
#[test]
fn what_a_killed_step_left_is_made_durable_before_it_is_built_on() {
    let mut checked = 0;
    for mode in MODES {
        for first in [Op::Begin(2), Op::Step(2)] {
            for second in [Op::Step(1), Op::Write(5000, vec![7; 100]), Op::Resize(9000)] {
                let (mut file, data) = filled(&policy(mode), 30_000);
                if matches!(first, Op::Step(_)) {
                    Op::Begin(2).run(&mut file).unwrap();
                    Op::Step(1).run(&mut file).unwrap();
                }
                file.lower().keep_epochs();
                first.run(&mut file).unwrap();
                let last = (file.lower().durable(), file.lower().events().0);
                let epochs = file.lower().take_epochs();
                for (durable, events) in epochs.iter().chain([&last]) {
                    for count in 0..=events.len() {
                        let lower = Memory::killed(durable, &events[..count]);
                        let mut file = load(&policy_at(mode, 2), &lower, true).unwrap();
                        file.settle().unwrap();
                        lower.keep_epochs();
                        second.run(&mut file).unwrap();
                        let mut changed = data.clone();
                        second.apply(&mut changed);
                        let history = History(vec![data.clone(), changed]);
                        let last = (lower.durable(), lower.events().0);
                        for (durable, events) in lower.take_epochs().iter().chain([&last]) {
                            let random = &mut Random::new(1);
                            for image in crash::states(durable, events, random, 100) {
                                crash::check(&policy(mode), &image, &history).unwrap_or_else(
                                    |what| panic!("{mode:?}, {first:?}, {second:?}: {what}"),
                                );
                                checked += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    println!("{checked} states checked");
}

/// Torn header pages, which the assumption excludes, at each write of one.
#[test]
fn no_torn_header_loses_a_file() {
    let mut checked = 0;
    for mode in MODES {
        for rewrapped in [false, true] {
            let (mut file, data) = filled(&policy(mode), 30_000);
            let first = if rewrapped {
                // Once before, so that the other slot is in use.
                reencrypt(&mut file, 3).unwrap();
                3
            } else {
                1
            };
            file.lower().keep_epochs();
            reencrypt(&mut file, 2).unwrap();
            for (durable, events) in file.lower().take_epochs() {
                let mut image = durable.clone();
                for event in &events {
                    if let crate::lower::Event::Page(0, new) = event
                        && let Some(old) = image.pages.get(&0).cloned()
                    {
                        for torn in torn(&old, new) {
                            let mut left = image.clone();
                            left.pages.insert(0, std::rc::Rc::new(torn));
                            let at = policy_at(mode, first);
                            let opened = load(&at, &Memory::of(left), true)
                                .unwrap_or_else(|what| panic!("{mode:?} {rewrapped}: {what}"));
                            assert_eq!(content(&opened).unwrap(), data);
                            checked += 1;
                        }
                    }
                    crate::lower::apply(&mut image, event);
                }
            }
        }
    }
    println!("{checked} states checked");
}

/// The sectors that hold the slots, with and without the watermark, torn from each other.
fn torn(old: &[u8; 4096], new: &[u8; 4096]) -> Vec<[u8; 4096]> {
    let mix = |last: std::ops::Range<usize>, from: &[u8; 4096], to: &[u8; 4096]| {
        let mut page = *from;
        page[last.clone()].copy_from_slice(&to[last]);
        page
    };
    vec![
        mix(3584..4096, old, new),
        mix(3584..4096, new, old),
        *old,
        *new,
    ]
}

/// Half-done files that another implementation of FORMAT.md has written (fixtures/format1.py).
#[test]
fn what_another_writer_left_half_done_is_read_and_ended() {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../fixtures/format1.json")).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let hex = |value| {
        data_encoding::HEXLOWER
            .decode(text(value).as_bytes())
            .unwrap()
    };
    let key = |value| kms_crypto::Key::from_slice(&hex(value)).unwrap();
    for (name, mode) in [("xts", ContentMode::Xts), ("gcm", ContentMode::Gcm)] {
        let policy = UnlockedPolicy::derive(
            text(&all["volume"]).parse().unwrap(),
            text(&all["policy"]).parse().unwrap(),
            5,
            mode,
            &key(&all["data_key"]),
            &key(&all["secret"]),
        );
        let policy = Arc::new(policy.unwrap());
        let half = &all["half_done"][name];
        let lower = Memory::default();
        lower.write_at(&hex(&half["lower"]), 0).unwrap();
        lower.sync_data().unwrap();
        let plain = hex(&half["plain"]);
        let mut file = load(&policy, &lower, false).unwrap();
        assert_eq!(content(&file).unwrap(), plain, "{name}");
        file.write(5000, &mut [7; 5000]).unwrap();
        let mut expected = plain;
        expected[5000..10_000].fill(7);
        assert_eq!(content(&file).unwrap(), expected, "{name}");
        while !file.end_reencryption().unwrap() {
            file.reencrypt_step(1).unwrap();
        }
        let again = load(&policy, &lower, false).unwrap();
        assert_eq!(content(&again).unwrap(), expected, "{name}");
        assert!(!again.is_behind(&policy) && again.former_keys().is_none());
    }
}
