//! The lines, one after the other: chain, numbers, and the tree at every mark.

use std::collections::VecDeque;

use super::{Finding, FindingKind, Mark, Place, Source};
use crate::audit::tree::{Edge, leaf_hash};
use crate::audit::{Chain, Record, split};
use crate::rows::Hash;

/// A copy of a line is recognised as one if it follows within so many.
const WINDOW: usize = 4096;
/// More findings help nobody.
const MAX_FINDINGS: usize = 100;

/// Reads a log from its first line to its last.
pub struct LogVerifier {
    marks: VecDeque<Mark>,
    chain: Chain,
    edge: Edge,
    /// Nothing was found yet, so that roots can be compared.
    intact: bool,
    file: String,
    /// Number of its first record, by its name.
    file_first: u64,
    line: u64,
    /// The line before, to name it.
    last: Vec<u8>,
    last_place: Place,
    /// The chain broke between the line before and this one; the next one tells which of the two was altered.
    suspect: Option<[Place; 2]>,
    /// A mark that did not fit, while the next line may still show that one record was altered.
    failed: Option<Mark>,
    /// Where the last mark was that fitted.
    good: u64,
    covered: Option<u64>,
    window: VecDeque<(u64, Hash)>,
    /// Numbers that were left out, and the finding that says so.
    gaps: Vec<(u64, u64, usize)>,
    findings: Vec<Finding>,
    next_in_doubt: bool,
}

/// What a log turned out to be.
#[derive(Clone, Debug)]
pub struct LogReport {
    /// Number that the next record would have.
    pub size: u64,
    /// Chain value of the last record.
    pub chain: Hash,
    /// The last own checkpoint that the lines fit.
    pub covered_by: Option<u64>,
    /// Records after it.
    pub uncovered: u64,
    /// What is wrong, in the order of the log.
    pub findings: Vec<Finding>,
}

impl LogVerifier {
    /// A verifier that compares with these marks.
    #[must_use]
    pub fn new(mut marks: Vec<Mark>) -> Self {
        marks.sort_by_key(|mark| mark.size);
        let mut verifier = Self {
            marks: marks.into(),
            chain: Chain::new(),
            edge: Edge::new(),
            intact: true,
            file: String::new(),
            file_first: 0,
            line: 0,
            last: Vec::new(),
            last_place: Place::default(),
            suspect: None,
            failed: None,
            good: 0,
            covered: None,
            window: VecDeque::new(),
            gaps: Vec::new(),
            findings: Vec::new(),
            next_in_doubt: false,
        };
        verifier.compare();
        verifier
    }

    /// Begins with the record after those of `edge`, because the files before were removed on purpose. That the edge is
    /// the right one shows at the next checkpoint.
    pub fn begin_at(&mut self, edge: Edge) {
        let size = edge.size();
        self.marks.retain(|mark| mark.size > size);
        self.chain = Chain::at(size, Hash::default());
        self.good = size;
        self.edge = edge;
        // What its first line says of the one before cannot be checked.
        self.next_in_doubt = true;
    }

    /// Continues in the file `name`, which by its name begins with record `first`.
    pub fn begin_file(&mut self, name: &str, first: u64) {
        name.clone_into(&mut self.file);
        self.file_first = first;
        self.line = 0;
        if first < self.chain.size() {
            let place = self.place(first);
            let text = format!(
                "{name} begins by its name with record {first}, which an earlier file already has"
            );
            self.find(FindingKind::FileMisplaced, place, text);
        }
    }

    /// Goes on by one line, without its newline.
    pub fn line(&mut self, bytes: &[u8]) {
        self.line = self.line.saturating_add(1);
        let expected = self.chain.size();
        let Some((prev, _, seq)) = split(bytes) else {
            self.settle_suspect(None);
            self.settle_failed(true);
            let mut place = self.place(expected);
            place.event = event_of(bytes);
            let text =
                format!("record {expected} was altered: the line is not in the form of a record");
            self.find(FindingKind::Edited, place, text);
            self.accept(bytes, expected);
            self.next_in_doubt = true;
            return;
        };
        if self.line == 1 && seq == expected && seq != self.file_first {
            let text = format!(
                "{} begins with record {seq}, and by its name with {}",
                self.file, self.file_first
            );
            let place = self.place(seq);
            self.find(FindingKind::FileMisplaced, place, text);
        }
        if seq < expected {
            self.settle_suspect(None);
            self.out_of_order(bytes, seq);
            return;
        }
        if seq > expected {
            self.settle_suspect(None);
            self.settle_failed(false);
            self.left_out(bytes, expected, seq);
            self.accept(bytes, seq);
            return;
        }
        self.settle_suspect(Some(prev));
        if prev == self.chain.value() || self.next_in_doubt {
            self.next_in_doubt = false;
            self.settle_failed(false);
        } else {
            // The record that a failed mark is about is one of the two.
            self.failed = None;
            let mut here = self.place(seq);
            here.event = event_of(bytes);
            let mut before = self.last_place.clone();
            before.event = event_of(&self.last);
            self.intact = false;
            if seq == 0 || before.record.is_none() {
                self.edited(here);
            } else {
                self.suspect = Some([before, here]);
            }
        }
        self.accept(bytes, seq);
    }

    /// A last line without its end: what a crash or a copy of a running log leaves. It is not a record.
    pub fn partial(&mut self, bytes: u64) -> String {
        format!(
            "{} ends with {bytes} bytes that are no whole record: a record that was being written, or a cut one",
            self.file
        )
    }

    /// Everything has been read.
    #[must_use]
    pub fn finish(mut self) -> LogReport {
        self.settle_suspect(None);
        self.settle_failed(false);
        let size = self.chain.size();
        let beyond: Vec<Mark> = self.marks.drain(..).collect();
        let first_own = beyond
            .iter()
            .find(|mark| matches!(mark.source, Source::Checkpoint(_)));
        // Removal and the like have been told already, with better places.
        if let Some(mark) = first_own.or_else(|| beyond.first())
            && self.intact
        {
            let own = matches!(mark.source, Source::Checkpoint(_));
            let kind = if own {
                FindingKind::Truncated
            } else {
                FindingKind::RolledBack
            };
            let mut place = self.place(size);
            place.line = None;
            place.last_record = Some(mark.size.saturating_sub(1));
            place.checkpoint = mark.source.checkpoint();
            let meaning = if own {
                "the end was cut off"
            } else {
                "the log was put back to an earlier time, or its end was cut off"
            };
            let text = format!(
                "the log ends before record {size}, and {} has {} records: {meaning}",
                mark.source, mark.size
            );
            self.find(kind, place, text);
        }
        LogReport {
            size,
            chain: self.chain.value(),
            covered_by: self.covered,
            uncovered: size.saturating_sub(self.good),
            findings: self.findings,
        }
    }

    /// Takes the line as record `seq`, whatever it is.
    fn accept(&mut self, bytes: &[u8], seq: u64) {
        self.chain = Chain::at(seq, self.chain.value());
        self.chain.advance(bytes);
        let leaf = leaf_hash(bytes);
        self.edge.push(leaf);
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back((seq, Hash(leaf)));
        self.last.clear();
        self.last.extend_from_slice(bytes);
        self.last_place = self.place(seq);
        self.compare();
    }

    /// Compares with the marks at this size.
    fn compare(&mut self) {
        while let Some(mark) = self
            .marks
            .pop_front_if(|mark| mark.size <= self.chain.size())
        {
            if !self.intact || self.failed.is_some() {
                continue;
            }
            let root = self.edge.root();
            let fits = mark.size == self.chain.size()
                && mark.chain == self.chain.value()
                && mark.root.is_none_or(|known| known.0 == root);
            if !fits {
                self.failed = Some(mark);
                continue;
            }
            if let Source::Checkpoint(number) = mark.source {
                self.covered = Some(number);
                self.good = mark.size;
            }
        }
    }

    /// A mark did not fit, and the lines by themselves are in order: the chain was made to fit. `broken`: the next line
    /// was altered too, which says nothing about this.
    fn settle_failed(&mut self, broken: bool) {
        let Some(mark) = self.failed.take() else {
            return;
        };
        let (from, to) = (self.good, mark.size.saturating_sub(1));
        let mut place = Place {
            file: self.last_place.file.clone(),
            record: Some(from),
            last_record: Some(to),
            checkpoint: mark.source.checkpoint(),
            ..Place::default()
        };
        if from == to {
            place.line = self.last_place.line;
            place.event = event_of(&self.last);
            place.last_record = None;
        }
        let text = if from == to && !broken {
            format!("record {from} was altered: it does not fit {}", mark.source)
        } else {
            format!(
                "one or more of the records {from} to {to} were altered and the chain was made to fit: they are not those \
                 of {}",
                mark.source
            )
        };
        let kind = if from == to {
            FindingKind::Edited
        } else {
            FindingKind::Rechained
        };
        self.find(kind, place, text);
    }

    /// The chain broke before the line before this one; `next` is what this line says of that one.
    fn settle_suspect(&mut self, next: Option<Hash>) {
        let Some([before, here]) = self.suspect.take() else {
            return;
        };
        // If the line after the break is the one that its successor knows, the line before the break was altered.
        match next {
            Some(prev) if prev != self.chain.value() => {
                self.edited(here);
                self.next_in_doubt = true;
            }
            Some(_) => self.edited(before),
            // Nothing follows that could tell.
            None => {
                let (one, other) = (before.record.unwrap_or_default(), here.record);
                let text = format!(
                    "record {one} or {} was altered: they do not fit each other",
                    other.unwrap_or_default()
                );
                let place = Place {
                    last_record: other,
                    ..before
                };
                self.find(FindingKind::Edited, place, text);
            }
        }
    }

    fn edited(&mut self, place: Place) {
        let record = place.record.unwrap_or_default();
        let text = format!("record {record} was altered: the chain does not fit it");
        self.find(FindingKind::Edited, place, text);
    }

    fn left_out(&mut self, bytes: &[u8], expected: u64, seq: u64) {
        let mut place = self.place(expected);
        place.last_record = Some(seq.saturating_sub(1));
        let after = event_of(bytes).map_or_else(String::new, |event| format!(" (event {event})"));
        let what = if self.line == 1 {
            format!(
                "the records {expected} to {} are missing, before {}: a file was removed, or the end of the file before it",
                seq.saturating_sub(1),
                self.file
            )
        } else {
            format!(
                "the records {expected} to {} are missing, before record {seq}{after}: they were removed",
                seq.saturating_sub(1)
            )
        };
        self.find(FindingKind::Removed, place, what);
        self.gaps.push((
            expected,
            seq.saturating_sub(1),
            self.findings.len().saturating_sub(1),
        ));
    }

    fn out_of_order(&mut self, bytes: &[u8], seq: u64) {
        let mut place = self.place(seq);
        place.event = event_of(bytes);
        let leaf = Hash(leaf_hash(bytes));
        if self.window.contains(&(seq, leaf)) {
            let text = format!("record {seq} is there a second time");
            self.find(FindingKind::Duplicated, place, text);
            return;
        }
        let gap = self
            .gaps
            .iter()
            .find(|(from, to, _)| (*from..=*to).contains(&seq));
        match gap.map(|(_, _, finding)| *finding) {
            // What seemed to be missing only stands elsewhere.
            Some(finding) => {
                let file = self.file.clone();
                if let Some(finding) = self.findings.get_mut(finding)
                    && finding.kind == FindingKind::Removed
                {
                    if finding.place.file.as_ref() == Some(&file) {
                        finding.kind = FindingKind::Reordered;
                        finding.place = place;
                        finding.text =
                            format!("record {seq} is not in its place: the order was changed");
                    } else {
                        finding.kind = FindingKind::FileMisplaced;
                        finding.text = format!(
                            "the records missing here stand in {file}: the files were exchanged"
                        );
                    }
                }
            }
            None => {
                let text = format!(
                    "a line has the number {seq}, which another record has already: it was put in"
                );
                self.find(FindingKind::Duplicated, place, text);
            }
        }
    }

    fn find(&mut self, kind: FindingKind, place: Place, text: String) {
        self.intact = false;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { kind, place, text });
        }
    }

    fn place(&self, record: u64) -> Place {
        Place {
            file: Some(self.file.clone()),
            line: Some(self.line),
            record: Some(record),
            ..Place::default()
        }
    }
}

/// The id of a line's event, as far as it can be read.
fn event_of(line: &[u8]) -> Option<String> {
    let (_, record, _) = split(line)?;
    Record::from_bytes(record)
        .ok()
        .map(|record| record.event_id)
}
