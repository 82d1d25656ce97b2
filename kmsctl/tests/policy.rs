//! `kmsctl policy`: needs no kmsd.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

fn kmsctl(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kmsctl"))
        .args(arguments)
        .env("KMSD_SOCKET", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn check(arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let output = kmsctl(&[&["policy", "check", "-"], arguments].concat(), input);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn templates_pass_the_strict_check() {
    for name in ["administrator", "user", "service", "auditor"] {
        let made = kmsctl(
            &[
                "policy",
                "templates",
                name,
                "--principal",
                "unit:nginx.service",
                "--principal",
                "user:alice",
            ],
            "",
        );
        assert_eq!(made.status.code(), Some(0));
        let text = String::from_utf8(made.stdout).unwrap();
        assert!(text.contains("arn:aws:sts::000000000000:assumed-role/unit/nginx.service"));
        assert!(text.contains("arn:aws:iam::000000000000:user/alice"));
        assert_eq!(check(&["--strict"], &text).0, Some(0), "{text}");

        let key = "arn:aws:kms:local-host-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        let made = kmsctl(
            &["policy", "templates", name, "--identity", "--key", key],
            "",
        );
        let text = String::from_utf8(made.stdout).unwrap();
        assert_eq!(
            check(&["--strict", "--kind", "identity"], &text).0,
            Some(0),
            "{text}"
        );
    }
    let made = kmsctl(&["policy", "templates", "no-deletion"], "");
    let text = String::from_utf8(made.stdout).unwrap();
    assert_eq!(
        check(&["--strict", "--kind", "guard-rail"], &text).0,
        Some(0),
        "{text}"
    );
    assert_eq!(
        kmsctl(&["policy", "templates", "user"], "").status.code(),
        Some(2)
    );
    assert_eq!(kmsctl(&["policy", "templates"], "").status.code(), Some(0));
}

#[test]
fn faults_have_their_path_and_warnings_their_exit_code() {
    let policy = |action: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"{action}","Resource":"*"}}]}}"#
        )
    };
    let (code, text) = check(&["--kind", "identity"], &policy("Decrypt"));
    assert_eq!(code, Some(7));
    assert!(text.contains("Statement[0].Action: "), "{text}");
    let (code, text) = check(&["--kind", "identity"], &policy("kms:Decrypt"));
    assert_eq!(code, Some(0));
    assert!(
        text.contains("Statement[0].Resource: ") && text.contains("blocked-actions"),
        "{text}"
    );
    assert_eq!(
        check(&["--kind", "identity", "--strict"], &policy("kms:Decrypt")).0,
        Some(17)
    );
    assert_eq!(
        check(&["--kind", "identity", "--strict"], &policy("kms:Encrypt")).0,
        Some(0)
    );
    let (code, text) = check(&["--kind", "key"], &policy("kms:Encrypt"));
    assert_eq!(code, Some(7));
    assert!(
        text.contains("Statement[0]: has neither Principal"),
        "{text}"
    );
    let (code, text) = check(&["--kind", "identity", "--json"], &policy("kms:Decrypt"));
    assert_eq!(code, Some(0));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["Warnings"][0]["Rule"], "blocked-actions");
    assert_eq!(check(&[], &" ".repeat(40_000)).0, Some(7));
    assert_eq!(
        kmsctl(&["policy", "check", "/nonexistent"], "")
            .status
            .code(),
        Some(1)
    );
}
