//! What root of the host can do, with everything that is on it, the TPM included.

use std::fs;

use kms_tests::daemon::path_text;
use kms_tests::{require, tree};

use crate::damage::rechain;
use crate::log::{Written, lines, notes, sizes, write};

#[test]
fn a_log_rewritten_and_signed_again_by_the_same_tpm_has_a_gap() {
    if !require::tpm() {
        return;
    }
    let mut written = Written::new();
    let directory = written.directory();
    let (all, notes, sizes) = (lines(&directory), notes(&directory), sizes(&directory));

    // What happened after the first checkpoint happened otherwise.
    let mut forged = all;
    for line in &mut forged[sizes[0]..] {
        *line = line.replace("ListKeys", "ListKeyz");
    }
    rechain(&mut forged, sizes[0]);
    write(&directory, &forged);
    fs::write(directory.join("checkpoints"), &notes[0]).unwrap();
    // Only a shortcut, which need not be there.
    let _ = fs::remove_file(directory.join("state.json"));

    // kmsd does not go on with it: the catalogue knows another last record.
    let (code, said) = written.world.daemon.start_refused();
    assert_eq!(code, 74, "{said}");

    // Root makes it, and its TPM signs. It cannot sign with the values that have passed.
    written.world.daemon.start_with(&["--accept-audit-gap"]);
    written.world.call("ListKeys", &serde_json::json!({}));
    written.world.daemon.stop();
    let found = written.findings(&directory, &[]);
    let gap = found
        .iter()
        .find(|finding| finding["kind"] == "counter-gap");
    assert_eq!(gap.expect("a gap")["checkpoint"], 2, "{found:#?}");

    // A copy that was kept elsewhere names the checkpoint that was replaced, and the records.
    let witness = written.witness();
    let found = written.findings(&directory, &["--checkpoint", path_text(&witness)]);
    let replaced = &found[0];
    assert_eq!(replaced["kind"], "rechained", "{found:#?}");
    assert_eq!(replaced["record"], sizes[0]);
    let text = replaced["text"].as_str().unwrap();
    assert!(text.contains("copy of checkpoint 2"), "{text}");
}

#[test]
fn everything_put_back_as_it_was_is_refused_and_seen() {
    if !require::tpm() {
        return;
    }
    let mut written = Written::new();
    let old = written.world.path("old");
    let store = written.world.daemon.store();
    tree::copy(&store, &old);
    written.world.daemon.start();
    written.world.key("alias/later");
    written.world.daemon.stop();

    // The log alone.
    fs::remove_dir_all(store.join("audit")).unwrap();
    tree::copy(&old.join("audit"), &store.join("audit"));
    let (code, said) = written.world.daemon.start_refused();
    assert_eq!(code, 74, "{said}");
    written.sound(&store.join("audit"), &[]);
    let witness = written.witness();
    let found = written.findings(&store.join("audit"), &["--checkpoint", path_text(&witness)]);
    assert_eq!(found[0]["kind"], "rolled-back", "{found:#?}");

    // The store with it: the TPM's counter knows.
    fs::remove_dir_all(&store).unwrap();
    tree::copy(&old, &store);
    let (code, said) = written.world.daemon.start_refused();
    assert_ne!(code, 74, "{said}");
    assert!(said.contains("older"), "{said}");
}
