//! Rewrap and moving between policies (FORMAT.md sections 6.1 and 6.2): whatever a stop leaves, the file opens where it is.
//!
//! Here even a page may be torn: each 512-byte sector is old or new.

use std::sync::Arc;

use kms_crypto::Key;
use kms_format::content::{File, Lower as _};
use kms_format::{ContentMode, FileHeader, PolicyId, UnlockedPolicy, VolumeId, file};

use crate::lower::Memory;

type Page = [u8; file::PAGE];

fn policy(number: u8, generation: u8, mode: ContentMode) -> Arc<UnlockedPolicy> {
    let key = |byte| Key::from_slice(&[byte; 32]).unwrap();
    let (volume, id) = (VolumeId([7; 16]), PolicyId([number; 16]));
    let (data, secret) = (key(number * 16 + generation), key(number));
    let generation = u32::from(generation);
    Arc::new(UnlockedPolicy::derive(volume, id, generation, mode, &data, &secret).unwrap())
}

/// A header page with content, and what it takes to change it.
fn page(policy: &Arc<UnlockedPolicy>, length: usize) -> Page {
    let mut file = File::fresh(Memory::default(), Arc::clone(policy));
    file.keys().unwrap();
    file.write(0, &mut vec![0x5a; length]).unwrap();
    file.sync().unwrap();
    let mut page = [0; file::PAGE];
    file.lower().read_at(&mut page, 0).unwrap();
    page
}

/// The pages that a write of `new` over `old` may leave.
fn torn(old: &Page, new: &Page) -> Vec<Page> {
    let differ: Vec<usize> = (0..file::PAGE / 512)
        .filter(|at| old[at * 512..][..512] != new[at * 512..][..512])
        .collect();
    (0..1_usize << differ.len())
        .map(|choice| {
            let mut page = *old;
            for (bit, at) in differ.iter().enumerate() {
                if choice >> bit & 1 == 1 {
                    page[at * 512..][..512].copy_from_slice(&new[at * 512..][..512]);
                }
            }
            page
        })
        .collect()
}

fn opens(page: &Page, policy: &UnlockedPolicy) -> bool {
    FileHeader::open(page, policy).is_ok()
}

/// The page after the file key was wrapped under `to` as well, and the one after the other wrap went.
fn rewrapped(page: &Page, from: &UnlockedPolicy, to: &UnlockedPolicy) -> (Page, Page) {
    let opened = FileHeader::open(page, from).unwrap();
    let mut header = opened.header;
    header.rewrap(to, &opened.keys).unwrap();
    let mut both = *page;
    header.write_slots(&mut both).unwrap();
    header.retire();
    let mut last = both;
    header.write_slots(&mut last).unwrap();
    (both, last)
}

#[test]
fn a_file_opens_at_every_moment_of_a_rewrap() {
    let mut checked = 0;
    for mode in [ContentMode::Xts, ContentMode::Gcm] {
        for length in [0, 100, 3712, 10_000] {
            let keys = [1, 2, 3].map(|generation| policy(1, generation, mode));
            let mut now = page(&keys[0], length);
            // Twice, so that either slot is the one that is replaced.
            for pair in keys.windows(2) {
                let (from, to) = (&pair[0], &pair[1]);
                let (both, last) = rewrapped(&now, from, to);
                for left in torn(&now, &both) {
                    assert!(opens(&left, from), "the old wrap is untouched");
                    checked += 1;
                }
                // An fsync is between the two.
                for left in torn(&both, &last) {
                    assert!(opens(&left, to), "the new wrap is untouched");
                    checked += 1;
                }
                assert!(!opens(&last, from));
                now = last;
            }
        }
    }
    println!("{checked} states checked");
}

#[test]
fn a_file_opens_where_it_is_at_every_moment_of_a_move() {
    let mut checked = 0;
    for mode in [ContentMode::Xts, ContentMode::Gcm] {
        let (here, there) = (policy(1, 1, mode), policy(2, 1, mode));
        let start = page(&here, 10_000);
        let (both, last) = rewrapped(&start, &here, &there);
        // The name is in the source until the rename, which comes after the fsync of the page; then it may be in either
        // directory until both are synced; the source's wrap goes after that.
        let before_rename = (torn(&start, &both), vec![&here]);
        let renaming = (vec![both], vec![&here, &there]);
        let after = (torn(&both, &last), vec![&there]);
        for (pages, places) in [before_rename, renaming, after] {
            for page in &pages {
                for place in &places {
                    assert!(opens(page, place));
                    checked += 1;
                }
            }
        }
        // Orders that are wrong: the name moves before the page is durable, or the wrap goes before the name has moved for good.
        assert!(!torn(&start, &both).iter().all(|page| opens(page, &there)));
        assert!(!torn(&both, &last).iter().all(|page| opens(page, &here)));
    }
    println!("{checked} states checked");
}
