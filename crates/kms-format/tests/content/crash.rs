//! Which states a crash may leave, and what has to be true of a file in each of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use kms_format::content::File;
use kms_format::{ContentMode, UnlockedPolicy, gcm};

use crate::lower::{Event, Image, Memory, Page, apply};
use crate::random::Random;

/// What a file contained, from the last fsync on: its content then, and after each operation since.
#[derive(Debug, Clone)]
pub(crate) struct History(pub(crate) Vec<Vec<u8>>);

/// Every state that a stop may leave: each prefix of what happened (the process was killed), and every choice of page
/// versions and size (the power was cut).
pub(crate) fn states(
    durable: &Image,
    events: &[Event],
    random: &mut Random,
    limit: u64,
) -> Vec<Image> {
    let mut found = Vec::new();
    let mut image = durable.clone();
    found.push(image.clone());
    let mut sizes = vec![durable.size];
    let mut versions: BTreeMap<u64, Vec<Option<Page>>> = BTreeMap::new();
    for event in events {
        apply(&mut image, event);
        found.push(image.clone());
        match event {
            Event::Size(size) if !sizes.contains(size) => sizes.push(*size),
            Event::Size(_) => {}
            Event::Page(index, page) => {
                let old = durable.pages.get(index).cloned();
                let known = versions.entry(*index).or_insert_with(|| vec![old]);
                let new = Some(page.clone());
                if !known.contains(&new) {
                    known.push(new);
                }
            }
        }
    }
    let total = versions.values().fold(sizes.len() as u64, |total, pages| {
        total.saturating_mul(pages.len() as u64)
    });
    let mut build = |mut pick: Box<dyn FnMut(usize) -> usize + '_>| {
        let mut image = durable.clone();
        image.size = sizes[pick(sizes.len())];
        for (index, pages) in &versions {
            match &pages[pick(pages.len())] {
                Some(page) => {
                    image.pages.insert(*index, page.clone());
                }
                None => {
                    image.pages.remove(index);
                }
            }
        }
        found.push(image);
    };
    if total <= limit {
        for number in 0..total {
            let mut rest = number;
            build(Box::new(move |count| {
                let picked = rest % count as u64;
                rest /= count as u64;
                picked as usize
            }));
        }
    } else {
        for _ in 0..limit {
            build(Box::new(|count| random.below(count as u64) as usize));
        }
    }
    found
}

/// Opens a state as after an unclean stop and checks everything that is promised of it.
pub(crate) fn check(
    policy: &Arc<UnlockedPolicy>,
    image: &Image,
    history: &History,
) -> Result<(), String> {
    let lower = Memory::of(image.clone());
    let mut file = load(policy, &lower, true)?;
    let seen = content(&file).map_err(|what| format!("{file:?}: {what}"))?;
    file.settle()
        .map_err(|fault| format!("settle: {fault:?}"))?;
    if content(&file)? != seen {
        return Err("settling changed the content".to_owned());
    }
    promised(policy.mode(), history, &seen)?;
    drop(file);
    // From here on the stop counts as clean.
    let mut file = load(policy, &lower, false).map_err(|fault| format!("settled, then {fault}"))?;
    if content(&file)? != seen {
        return Err("settled, and then it was another content".to_owned());
    }
    usable(policy, &mut file, seen).map_err(|what| format!("not usable: {what}"))
}

pub(crate) fn load(
    policy: &Arc<UnlockedPolicy>,
    lower: &Memory,
    unclean: bool,
) -> Result<File<Memory>, String> {
    File::load(lower.clone(), true, unclean, policy, |generation| {
        Ok(crate::policy_at(policy.mode(), generation))
    })
    .map_err(|fault| format!("load: {fault:?}"))
}

pub(crate) fn content(file: &File<Memory>) -> Result<Vec<u8>, String> {
    let mut all = vec![0xee; file.size() as usize + 100];
    let got = file
        .read(0, &mut all)
        .map_err(|fault| format!("read: {fault:?}"))?;
    if got as u64 != file.size() {
        return Err(format!("read {got} of {} bytes", file.size()));
    }
    all.truncate(got);
    Ok(all)
}

/// Each byte is one that it was since the last fsync, or zero where there was none; the size likewise.
fn promised(mode: ContentMode, history: &History, seen: &[u8]) -> Result<(), String> {
    let History(all) = history;
    let least = all.iter().map(Vec::len).min().unwrap_or(0);
    let most = all.iter().map(Vec::len).max().unwrap_or(0);
    // A write that was stopped before its size was set leaves a whole number of cells, or of units.
    let most_seen = match mode {
        ContentMode::Xts => most + 15,
        ContentMode::Gcm => most.next_multiple_of(gcm::CONTENT),
    };
    if seen.len() < least || seen.len() > most_seen {
        return Err(format!("{} bytes, not {least} to {most}", seen.len()));
    }
    let synced = all[0].len();
    for (at, byte) in seen.iter().enumerate() {
        if mode == ContentMode::Xts && at >= least.min(synced) {
            // Undefined.
            continue;
        }
        let was = |content: &Vec<u8>| content.get(at).copied().unwrap_or(0) == *byte;
        if !(all.iter().any(was) || at >= least && *byte == 0) {
            return Err(format!("byte {at} of {}: {byte:#x}", seen.len()));
        }
    }
    Ok(())
}

/// Writes to it, reads it back, and finds it in order after the next stop, clean or not.
fn usable(
    policy: &Arc<UnlockedPolicy>,
    file: &mut File<Memory>,
    mut content: Vec<u8>,
) -> Result<(), String> {
    let fault = |fault| format!("{fault:?}");
    let end = content.len();
    for (at, length) in [(end + 5000, 10), (end / 2, 100), (end, 1)] {
        if content.len() < at + length {
            content.resize(at + length, 0);
        }
        content[at..at + length].fill(0x5a);
        file.write(at as u64, &mut vec![0x5a; length])
            .map_err(fault)?;
    }
    if self::content(file).map_err(|what| format!("after writing: {what}"))? != content {
        return Err("it does not hold what was written".to_owned());
    }
    file.sync().map_err(fault)?;
    let lower = Memory::of(file.lower().durable());
    for unclean in [false, true] {
        let file = load(policy, &lower, unclean)?;
        if self::content(&file)? != content {
            return Err("it does not hold what was synced".to_owned());
        }
    }
    Ok(())
}
