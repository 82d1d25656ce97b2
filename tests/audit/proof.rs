//! One record proved, without the log.

use std::fs;

use kms_tests::daemon::path_text;
use kms_tests::{cli, require};

use crate::log::{TAMPERED, Written, event, lines};

#[test]
fn a_record_is_proved_without_the_log() {
    if !require::tpm() {
        return;
    }
    let written = Written::new();
    let directory = written.directory();
    let all = lines(&directory);
    let file = written.world.path("event.tlog-proof");
    let keys = path_text(&written.keys).to_owned();
    for n in [0, 7, all.len() - 1] {
        let id = event(&all[n]);
        let arguments = ["audit", "prove", &id, "--directory", path_text(&directory)];
        let proof = cli::run("kmsctl", &arguments, None).ok().stdout;
        assert!(proof.starts_with("c2sp.org/tlog-proof@v1\n"), "{proof}");
        fs::write(&file, &proof).unwrap();
        let check = [
            "--json",
            "audit",
            "check-proof",
            path_text(&file),
            "--keys",
            &keys,
        ];
        let said = cli::run("kmsctl", &check, None).ok().json();
        assert_eq!(
            (&said["sequence"], &said["record"]["eventId"]),
            (&n.into(), &id.into())
        );
        assert_eq!(said["sealer"], "tpm");

        // Another record in its place proves nothing, nor another place, nor another key.
        let other = proof.replacen(&format!("index {n}\n"), &format!("index {}\n", n + 1), 1);
        let line = data_encoding::BASE64.encode(all[n].as_bytes());
        let altered = all[n].replace("\"kind\"", "\"kinb\"");
        let altered = proof.replacen(&line, &data_encoding::BASE64.encode(altered.as_bytes()), 1);
        for wrong in [other, altered] {
            assert_ne!(wrong, proof);
            fs::write(&file, wrong).unwrap();
            let said = cli::run("kmsctl", &check, None);
            assert_eq!(said.code, TAMPERED, "{}{}", said.stdout, said.stderr);
        }
    }
    let said = cli::run(
        "kmsctl",
        &[
            "audit",
            "prove",
            "no-such-event",
            "--directory",
            path_text(&directory),
        ],
        None,
    );
    assert_eq!(said.code, 5, "{}", said.stderr);
}
