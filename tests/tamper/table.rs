//! The table in docs/THREAT-MODEL.md: every row is carried out, and every manipulation here has a row.

use std::collections::BTreeMap;

use kms_format::ContentMode;

use crate::case::{Baseline, Outcome};
use crate::fuzz::sample::{MODES, sample};
use crate::rows;

const DOCUMENT: &str = include_str!("../../docs/THREAT-MODEL.md");

/// The outcomes of a row, by mode.
pub(crate) struct Row {
    pub(crate) xts: Option<Outcome>,
    pub(crate) gcm: Option<Outcome>,
}

/// Rows begin with their name in backquotes; the outcome is the first word in backquotes of its column.
pub(crate) fn table() -> BTreeMap<&'static str, Row> {
    let rows = DOCUMENT.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split(" | ").collect();
        let [name, _what, xts, gcm] = cells[..] else {
            return None;
        };
        let name = name.strip_suffix('`')?;
        Some((
            name,
            Row {
                xts: outcome(xts),
                gcm: outcome(gcm),
            },
        ))
    });
    let mut table = BTreeMap::new();
    for (name, row) in rows {
        assert!(table.insert(name, row).is_none(), "two rows for {name}");
    }
    table
}

/// None for a manipulation that does not exist in a mode.
fn outcome(cell: &str) -> Option<Outcome> {
    let word = cell.trim_start().strip_prefix('`')?.split('`').next()?;
    let known = Outcome::ALL.iter().find(|(name, _)| *name == word);
    Some(known.unwrap_or_else(|| panic!("no such outcome: {cell}")).1)
}

#[test]
fn every_row_has_a_test_and_every_test_a_row() {
    let table = table();
    assert!(table.len() > 40, "the table is not where it was");
    for name in table.keys() {
        let tested =
            rows::in_process().any(|row| row.0 == *name) || rows::ON_A_MOUNT.contains(name);
        assert!(tested, "no test carries {name} out");
    }
    let names = rows::in_process().map(|row| row.0);
    for name in names.chain(rows::ON_A_MOUNT.iter().copied()) {
        assert!(table.contains_key(name), "no row says what comes of {name}");
    }
}

#[test]
fn every_attack_known_from_others_names_rows_that_exist() {
    let table = table();
    let (_, attacks) = DOCUMENT.split_once("## Attacks known from others").unwrap();
    let (attacks, _) = attacks.split_once("\n## ").unwrap();
    let quoted = attacks.split('`').skip(1).step_by(2);
    let rows = quoted.filter(|word| word.contains('-') && !word.contains(' '));
    let mut count = 0;
    for row in rows {
        assert!(table.contains_key(row), "there is no row {row}");
        count += 1;
    }
    assert!(count > 10, "the section is not where it was");
}

fn carried_out(mode: ContentMode) {
    if !MODES.contains(&mode) {
        return;
    }
    let baseline = Baseline::new(sample(mode));
    let table = table();
    let only = std::env::var("KMS_TESTS_ROW").ok();
    let mut wrong = Vec::new();
    for (name, cases) in rows::in_process() {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        if name.starts_with("xattr-") && !baseline.sample.xattrs {
            continue;
        }
        let row = &table[name];
        let expected = match mode {
            ContentMode::Xts => row.xts,
            ContentMode::Gcm => row.gcm,
        };
        let cases = cases(baseline.sample);
        assert_eq!(
            cases.is_empty(),
            expected.is_none(),
            "{name}: nothing to do, or nothing said"
        );
        for (what, outcome) in baseline.outcomes(cases) {
            if outcome.as_ref().ok().copied() != expected {
                wrong.push(format!("{name}: {what}: {outcome:?}, not {expected:?}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(100)].join("\n")
    );
}

#[test]
fn the_table_is_true_for_xts() {
    carried_out(ContentMode::Xts);
}

#[test]
fn the_table_is_true_for_gcm() {
    carried_out(ContentMode::Gcm);
}

#[test]
fn nothing_of_a_refused_key_is_in_the_view_but_would_be_noticed() {
    use crate::fuzz::sample::MARK;
    let sample = sample(ContentMode::Xts);
    let marked = |view: &crate::fuzz::calls::View| {
        format!("{view:?}").contains(std::str::from_utf8(MARK).unwrap())
            || view.values().any(|seen| {
                seen.content
                    .as_ref()
                    .is_ok_and(|content| content.windows(MARK.len()).any(|window| window == MARK))
            })
    };
    let baseline = Baseline::new(sample);
    assert!(!marked(baseline.view()));
    assert!(baseline.view().contains_key("foreign"));
    let open = crate::fuzz::sample::with_all_keys(sample);
    assert!(marked(&open), "a mount with the key shows the mark");
}
