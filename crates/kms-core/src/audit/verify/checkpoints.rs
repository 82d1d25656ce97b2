//! The notes: who signed them, whether they follow each other, whether the chip's counter and clock agree.

use super::{Finding, FindingKind, LogReport, Mark, Place, Source};
use crate::audit::attest::{Attestation, TpmTime};
use crate::audit::checkpoint::{Checkpoint, Sealer};
use crate::audit::keys::Keys;
use crate::audit::note::{Note, notes_of};
use crate::rows::Hash;

/// A checkpoint whose signatures hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// The note, with all its signatures.
    pub note: Note,
    /// Which of the keys signed it.
    pub key: usize,
    /// The chip's time; `None` from the software sealer.
    pub time: Option<TpmTime>,
}

/// The checkpoints of a log.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints {
    /// Those whose signatures hold, in the order of the file.
    pub known: Vec<Known>,
    /// What is wrong with them.
    pub findings: Vec<Finding>,
}

/// Verifies one note by itself.
///
/// # Errors
/// What is wrong with it.
pub fn verify_note(keys: &Keys, note: &Note) -> Result<Known, String> {
    let checkpoint = Checkpoint::parse(note.text()).map_err(|error| error.to_string())?;
    if checkpoint.origin != keys.origin {
        return Err(format!(
            "it is of another log ({}), the keys are of {}",
            checkpoint.origin, keys.origin
        ));
    }
    let signed = keys
        .keys()
        .iter()
        .enumerate()
        .find_map(|(place, key)| Some((place, key, key.verifier.verify(note)?)));
    let Some((place, key, outcome)) = signed else {
        return Err(
            "no known key signed it; if this host was enrolled anew, get its new keys.json from a trusted place"
                .to_owned(),
        );
    };
    outcome.map_err(|_| "its signature does not fit: the text was altered".to_owned())?;
    if key.sealer() != checkpoint.sealer {
        return Err("it names another sealer than its key has".to_owned());
    }
    let time = match &key.tpm {
        None => None,
        Some(tpm) => {
            let name = &key.verifier.name;
            let id = tpm.key_id(name).map_err(|error| error.to_string())?;
            let signature = note
                .by(name, id)
                .ok_or("the TPM has not attested it: its key on the host is not enough")?;
            let attestation =
                Attestation::from_bytes(&signature.bytes).map_err(|error| error.to_string())?;
            let qualifying = checkpoint.qualifying();
            let time = tpm.verify(&attestation, &qualifying, checkpoint.counter);
            Some(time.map_err(|error| format!("the TPM's attestation does not hold: {error}"))?)
        }
    };
    Ok(Known {
        checkpoint,
        note: note.clone(),
        key: place,
        time,
    })
}

impl Checkpoints {
    /// Verifies the notes of a file named `name`.
    #[must_use]
    pub fn verify(keys: &Keys, name: &str, bytes: &[u8]) -> Self {
        let mut all = Self::default();
        for (line, note) in notes_of(bytes) {
            let place = Place {
                file: Some(name.to_owned()),
                line: Some(line as u64),
                ..Place::default()
            };
            let verified = note
                .map_err(|error| error.to_string())
                .and_then(|note| verify_note(keys, &note));
            match verified {
                Ok(known) => {
                    all.follows(&known, &place);
                    all.known.push(known);
                }
                Err(reason) => {
                    let before = all.known.last().map(|known| known.checkpoint.number);
                    let number = before.unwrap_or(0).saturating_add(1);
                    all.find(
                        FindingKind::CheckpointAltered,
                        place,
                        number,
                        format!("checkpoint {number} does not verify: {reason}"),
                    );
                }
            }
        }
        all
    }

    fn find(&mut self, kind: FindingKind, mut place: Place, number: u64, text: String) {
        place.checkpoint = Some(number);
        // One cause is often seen twice: the first finding of a checkpoint is the one.
        let known = self
            .findings
            .iter()
            .any(|finding| finding.place.checkpoint == Some(number));
        if !known {
            self.findings.push(Finding { kind, place, text });
        }
    }

    /// Whether it can come after the last one.
    fn follows(&mut self, next: &Known, place: &Place) {
        let now = &next.checkpoint;
        let number = now.number;
        let Some(last) = self.known.last() else {
            if number != 1 || now.previous != Hash::default() {
                self.find(
                    FindingKind::CheckpointMissing,
                    place.clone(),
                    1,
                    format!("the first checkpoint is {number}: those before it are missing"),
                );
            }
            return;
        };
        let before = last.checkpoint.clone();
        let (time, same_key) = (last.time, last.key == next.key);
        let older_key = next.key < last.key;
        let expected = before.number.saturating_add(1);
        if same_key && now.counter != before.counter.saturating_add(1) {
            let text = if now.counter > before.counter {
                let (from, to) = (
                    before.counter.saturating_add(1),
                    now.counter.saturating_sub(1),
                );
                format!(
                    "between checkpoints {} and {number} the counter's values {from} to {to} were used up by checkpoints \
                     that are not here: they were replaced or removed",
                    before.number
                )
            } else {
                format!(
                    "checkpoint {number} has the counter's value {}, which comes before that of checkpoint {}",
                    now.counter, before.number
                )
            };
            self.find(FindingKind::CounterGap, place.clone(), number, text);
        }
        if number != expected {
            let kind = FindingKind::CheckpointMissing;
            let text = format!(
                "checkpoint {number} stands where checkpoint {expected} belongs: checkpoints are missing or out of order"
            );
            self.find(kind, place.clone(), expected, text);
        } else if now.previous != before.hash() {
            self.find(
                FindingKind::CheckpointAltered,
                place.clone(),
                before.number,
                format!(
                    "checkpoint {number} was made after another checkpoint {} than the one that is here",
                    before.number
                ),
            );
        }
        if now.size < before.size || older_key {
            self.find(
                FindingKind::CheckpointAltered,
                place.clone(),
                number,
                format!(
                    "checkpoint {number} cannot come after checkpoint {}: it has fewer records or an older key",
                    before.number
                ),
            );
        }
        if let (Some(before_time), Some(now_time), true) = (time, next.time, same_key)
            && went_back(before_time, now_time)
        {
            self.find(
                FindingKind::ClockBack,
                place.clone(),
                number,
                format!(
                    "the TPM's clock or its count of resets went back between checkpoints {} and {number}",
                    before.number
                ),
            );
        }
    }

    /// What the lines are compared with.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        self.known.iter().map(|known| mark(known, false)).collect()
    }

    /// Takes in copies of checkpoints that were kept elsewhere; their signatures must have been verified. Gives
    /// what they say beyond the file.
    pub fn compare(&mut self, copies: &[Known]) -> Vec<Mark> {
        let mut marks = Vec::new();
        for copy in copies {
            let number = copy.checkpoint.number;
            let own = self
                .known
                .iter()
                .find(|known| known.checkpoint.number == number);
            match own {
                Some(own) if own.checkpoint == copy.checkpoint => {}
                Some(_) => self.find(
                    FindingKind::CheckpointAltered,
                    Place::default(),
                    number,
                    format!(
                        "checkpoint {number} is not the one of which there is a copy: the log was rewritten before or at it"
                    ),
                ),
                None => {
                    let last = self.known.last().map_or(0, |known| known.checkpoint.number);
                    let (kind, text) = if number > last {
                        (
                            FindingKind::RolledBack,
                            format!(
                                "there is a copy of checkpoint {number}, and the last one here is {last}: the log was put \
                                 back to an earlier time, or its checkpoints were cut"
                            ),
                        )
                    } else {
                        (
                            FindingKind::CheckpointMissing,
                            format!("there is a copy of checkpoint {number}, which is missing here"),
                        )
                    };
                    self.find(kind, Place::default(), number, text);
                }
            }
            marks.push(mark(copy, true));
        }
        marks
    }

    /// What it means that there is none, of the file `name`, where there are records: a note to print, if the log is as the
    /// running kmsd knows it (`head`) and nothing says that there ever was one; otherwise a finding.
    pub fn none_at_all(
        &mut self,
        keys: &Keys,
        name: &str,
        report: &LogReport,
        head: bool,
    ) -> Option<String> {
        if report.size == 0 || !self.known.is_empty() || !self.findings.is_empty() {
            return None;
        }
        // A key that came later signs what follows the checkpoints before it.
        let fresh = keys.keys().iter().all(|key| key.since <= 1);
        if head && fresh && report.findings.is_empty() {
            return Some(
                "there is no checkpoint yet: only the catalogue of the running kmsd vouches for the records".to_owned(),
            );
        }
        let place = Place {
            file: Some(name.to_owned()),
            ..Place::default()
        };
        let text = "there is no checkpoint: nothing vouches for any record".to_owned();
        self.find(FindingKind::CheckpointMissing, place, 1, text);
        None
    }

    /// The last one.
    #[must_use]
    pub fn last(&self) -> Option<&Known> {
        self.known.last()
    }

    /// Whether there are some and each is vouched for by a TPM.
    #[must_use]
    pub fn all_of_a_tpm(&self) -> bool {
        !self.known.is_empty()
            && self
                .known
                .iter()
                .all(|known| known.checkpoint.sealer == Sealer::Tpm)
    }
}

fn mark(known: &Known, copy: bool) -> Mark {
    let checkpoint = &known.checkpoint;
    Mark {
        size: checkpoint.size,
        chain: checkpoint.chain,
        root: Some(checkpoint.root),
        source: if copy {
            Source::Copy(checkpoint.number)
        } else {
            Source::Checkpoint(checkpoint.number)
        },
    }
}

/// Resets only count up; within one, restarts do; the clock only goes back at a reset, after a power cut, to a value
/// that it had shortly before.
fn went_back(before: TpmTime, now: TpmTime) -> bool {
    (now.resets, now.restarts) < (before.resets, before.restarts)
        || (now.resets == before.resets && now.clock < before.clock)
}
