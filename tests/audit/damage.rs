//! One damage after the other on a copy of one log.

use std::fs;

use kms_tests::daemon::path_text;
use kms_tests::require;
use serde_json::Value;

use crate::log::{Written, event, file, lines, notes, sizes, write};

/// A byte changed in each part of a record: the record is named with its line and, where it can still be read, its
/// event.
const PARTS: [(&str, &str); 6] = [
    ("\"operation\":\"ListKeys\"", "\"operation\":\"ListKeyz\""),
    ("\"time\":1", "\"time\":2"),
    ("\"uid\":", "\"uie\":"),
    ("\"prev\":\"", "\"prev\":\"0"),
    ("{\"prev\"", "[\"prev\""),
    ("\"readOnly\":true", "\"readOnly\":tru3"),
];

#[test]
fn every_damage_is_found_and_its_place_named() {
    if !require::tpm() {
        return;
    }
    let mut written = Written::new();
    let directory = written.directory();
    let said = written.sound(&directory, &[]);
    assert_eq!(
        (&said["tpm"], &said["checkpoints"]),
        (&true.into(), &3.into())
    );
    assert_eq!(said["uncovered"], 0);
    let witness = written.witness();
    let with_copy = ["--checkpoint", path_text(&witness)];
    written.sound(&directory, &with_copy);

    let all = lines(&directory);
    let sizes = sizes(&directory);
    assert_eq!(sizes.len(), 3);
    let middle = (sizes[0]..sizes[1])
        .find(|n| all[*n].contains("\"operation\":\"ListKeys\""))
        .unwrap();
    for (n, (from, to)) in PARTS.iter().enumerate() {
        let copy = written.copy(&format!("part-{n}"));
        let mut lines = all.clone();
        lines[middle] = lines[middle].replacen(from, to, 1);
        assert_ne!(lines[middle], all[middle], "{from}");
        write(&copy, &lines);
        let first = &written.findings(&copy, &[])[0];
        at(first, "edited", middle);
        assert_eq!(first["line"], middle + 1);
        assert_eq!(first["file"], "log-000000000000.jsonl");
        if n < 2 {
            assert_eq!(first["event"], event(&all[middle]));
        }
    }

    let damage = |name: &str, change: &dyn Fn(&mut Vec<String>)| {
        let copy = written.copy(name);
        let mut lines = all.clone();
        change(&mut lines);
        write(&copy, &lines);
        written.findings(&copy, &[])
    };
    at(
        &damage("removed", &|lines| drop(lines.remove(middle)))[0],
        "removed",
        middle,
    );
    at(
        &damage("twice", &|lines| lines.insert(middle, all[middle].clone()))[0],
        "duplicated",
        middle,
    );
    at(
        &damage("swapped", &|lines| lines.swap(middle, middle + 1))[0],
        "reordered",
        middle,
    );
    at(
        &damage("cut", &|lines| lines.truncate(middle))[0],
        "truncated",
        middle,
    );
    // The chain made to fit from there on: the interval between two checkpoints is named.
    let rechained = damage("rechained", &|lines| {
        lines[middle] = lines[middle].replacen("ListKeys", "ListKeyz", 1);
        rechain(lines, middle);
    });
    at(&rechained[0], "rechained", sizes[0]);
    assert_eq!(rechained[0]["last_record"], sizes[1] - 1);
    assert_eq!(rechained[0]["checkpoint"], 2);

    // A file that is not there, or another's.
    let copy = written.copy("no-file");
    fs::remove_file(file(&copy)).unwrap();
    at(&written.findings(&copy, &[])[0], "truncated", 0);
    let copy = written.copy("renamed");
    fs::rename(file(&copy), copy.join("log-000000000005.jsonl")).unwrap();
    assert_eq!(
        written.findings(&copy, &[])[0]["file"],
        "log-000000000005.jsonl"
    );

    // The checkpoints: one byte, one missing, the last one cut, all gone, and signed by the host's key alone.
    let notes = notes(&directory);
    let checkpoints = |name: &str, text: String| {
        let copy = written.copy(name);
        fs::write(copy.join("checkpoints"), text).unwrap();
        copy
    };
    let edited = notes.concat().replacen("number 2", "number 4", 1);
    let found = written.findings(&checkpoints("note-edited", edited), &[]);
    checkpoint(&found[0], "checkpoint-altered", 2);
    let missing = [notes[0].clone(), notes[2].clone()].concat();
    let found = written.findings(&checkpoints("note-missing", missing), &[]);
    checkpoint(&found[0], "counter-gap", 3);
    let unsigned: Vec<_> = notes.iter().map(|note| without_tpm(note)).collect();
    let found = written.findings(&checkpoints("no-tpm", unsigned.concat()), &[]);
    checkpoint(&found[0], "checkpoint-altered", 1);
    assert!(
        found[0]["text"]
            .as_str()
            .unwrap()
            .contains("TPM has not attested")
    );
    let found = written.findings(&checkpoints("no-notes", String::new()), &[]);
    checkpoint(&found[0], "checkpoint-missing", 1);

    // Log and checkpoints cut together are sound by themselves: a copy of a later checkpoint shows it.
    let copy = checkpoints("old", notes[0].clone());
    write(&copy, &all[..sizes[0]]);
    written.sound(&copy, &[]);
    let found = written.findings(&copy, &with_copy);
    at(&found[0], "rolled-back", sizes[0]);

    // The running kmsd knows what came after the last checkpoint.
    written.world.daemon.start();
    let said = written.sound(&directory, &["--head"]);
    assert_eq!(said["comparedWithHead"], true);
    assert!(said["uncovered"].as_u64().unwrap() > 0);
    written.sound(&written.copy("before"), &[]);
    let found = written.findings(&copy, &["--head"]);
    at(&found[0], "rolled-back", sizes[0]);
    written.world.daemon.stop();
}

#[track_caller]
fn at(finding: &Value, kind: &str, record: usize) {
    assert_eq!(
        (&finding["kind"], &finding["record"]),
        (&kind.into(), &record.into()),
        "{finding:#}"
    );
}

#[track_caller]
fn checkpoint(finding: &Value, kind: &str, number: u64) {
    assert_eq!(
        (&finding["kind"], &finding["checkpoint"]),
        (&kind.into(), &number.into()),
        "{finding:#}"
    );
}

/// Makes the chain fit from line `from` on.
pub(crate) fn rechain(lines: &mut [String], from: usize) {
    use kms_core::audit::{Chain, compose, split};
    let (prev, _, seq) = split(lines[from].as_bytes()).unwrap();
    let mut chain = Chain::at(seq, prev);
    for line in &mut lines[from..] {
        let (_, record, _) = split(line.as_bytes()).unwrap();
        let mut out = Vec::new();
        compose(&mut chain, record, &mut out);
        *line = String::from_utf8(out).unwrap();
    }
}

fn without_tpm(note: &str) -> String {
    let mut lines: Vec<_> = note.split_inclusive('\n').collect();
    lines.pop();
    lines.concat()
}
