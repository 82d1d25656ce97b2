//! Content behind the header page.

use kms_format::ContentMode;

use super::Row;
use crate::case::Case;
use crate::fuzz::sample::{Sample, large};
use crate::fuzz::tree::Tree;

const PAGE: usize = 4096;
const PATH: &str = "folder/large";

pub(super) const ROWS: &[Row] = &[
    ("content-bits", |sample| {
        let places = [0, 13, 30, 32, 2000, 4095];
        let bytes = places
            .into_iter()
            .flat_map(|place| [PAGE + place, 3 * PAGE + place]);
        Case::bits(sample, PATH, &sample.lower(PATH), bytes)
    }),
    ("content-cell-zeroed", |sample| {
        vec![zeroed(sample, 2 * PAGE + 64, 16)]
    }),
    ("content-unit-zeroed", |sample| {
        vec![
            zeroed(sample, 2 * PAGE, PAGE),
            zeroed(sample, PAGE, 3 * PAGE),
        ]
    }),
    ("units-swapped", |sample| {
        let lower = sample.lower(PATH);
        let change = move |tree: &mut Tree| {
            let bytes = tree.at(&lower).bytes().unwrap();
            let (first, second) = bytes[PAGE..3 * PAGE].split_at_mut(PAGE);
            first.swap_with_slice(second);
        };
        vec![Case::new(sample, PATH, change)]
    }),
    ("unit-of-another-file", |sample| {
        let (from, to) = (sample.lower("folder/other large"), sample.lower(PATH));
        vec![Case::new(sample, PATH, move |tree| {
            let unit = tree.at(&from).bytes().unwrap()[PAGE..2 * PAGE].to_vec();
            tree.at(&to).bytes().unwrap()[PAGE..2 * PAGE].copy_from_slice(&unit);
        })]
    }),
    ("unit-older", |sample| {
        let lower = sample.lower(PATH);
        let unit = sample.older.clone().at(&lower).bytes().unwrap()[2 * PAGE..3 * PAGE].to_vec();
        let content = match sample.mode {
            ContentMode::Xts => 4096,
            ContentMode::Gcm => 4064,
        };
        let mut shows = large(false);
        shows[content..2 * content].copy_from_slice(&large(true)[content..2 * content]);
        let change = move |tree: &mut Tree| {
            tree.at(&lower).bytes().unwrap()[2 * PAGE..3 * PAGE].copy_from_slice(&unit);
        };
        vec![Case::new(sample, PATH, change).shows(shows)]
    }),
    ("hole-filled", |sample| {
        let lower = sample.lower("folder/sparse");
        vec![Case::new(sample, "folder/sparse", move |tree| {
            tree.at(&lower).bytes().unwrap()[4 * PAGE..5 * PAGE].fill(9);
        })]
    }),
];

/// Zeros in the lower file, which mode xts shows as zeros.
fn zeroed(sample: &Sample, at: usize, length: usize) -> Case {
    let lower = sample.lower(PATH);
    let mut shows = large(false);
    if sample.mode == ContentMode::Xts {
        shows[at - PAGE..at - PAGE + length].fill(0);
    }
    let change = move |tree: &mut Tree| tree.at(&lower).bytes().unwrap()[at..at + length].fill(0);
    Case::new(sample, PATH, change)
        .shows(shows)
        .what(format!("{length} zeros at {at}"))
}
