//! Enrolment and recovery, unattended and with someone at a terminal.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn unattended_enrolment_keeps_its_secrets_private() {
    let home = Home::new();
    let output = home.enroll();
    assert!(output.status.success(), "{}", stderr(&output));
    for name in [
        "recovery",
        "store/credential",
        "store/seal.key",
        "store/catalogue.sqlite",
    ] {
        let mode = fs::metadata(home.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(read(&home.path("recovery")).starts_with("KMSD-RECOVERY-1-"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
    assert!(
        !said.contains("KMSD-RECOVERY-1-"),
        "the recovery key goes to its file only"
    );

    let again = home.run(&[
        "enroll",
        "--recovery-out",
        "/nowhere",
        "--verify-from",
        "/nowhere",
    ]);
    assert_eq!(again.status.code(), Some(67), "{}", stderr(&again));
    assert!(
        stderr(&again).contains("kmsd recover"),
        "{}",
        stderr(&again)
    );
}

#[test]
fn without_a_proof_nothing_is_enrolled() {
    let home = Home::new();
    let out = home.path("recovery");
    let other = home.path("other");
    let key = kms_crypto::RecoveryPrivateKey::generate().unwrap();
    fs::write(&other, key.to_text().expose()).unwrap();
    let (out, other) = (out.to_str().unwrap(), other.to_str().unwrap());
    for (verify, word) in [
        (other, "another recovery key"),
        ("/etc/passwd", "does not hold"),
        ("/no", "/no"),
    ] {
        let output = home.run(&["enroll", "--recovery-out", out, "--verify-from", verify]);
        assert!(
            matches!(output.status.code(), Some(1 | 5)),
            "{}",
            stderr(&output)
        );
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
        assert!(
            !Path::new(out).exists(),
            "the useless recovery key is removed"
        );
        assert!(!home.path("store/catalogue.sqlite").exists());
        assert!(!home.path("store/credential").exists());
    }
    let pin = ["enroll", "--profile", "pin"];
    let files = ["--recovery-out", out, "--verify-from", out];
    let output = home.run(&[&pin[..], &files].concat());
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(
        !Path::new(out).exists(),
        "nobody typed a PIN: the recovery key opens nothing"
    );
    let output = home.run(&["enroll"]);
    assert_eq!(
        output.status.code(),
        Some(5),
        "nobody is at a terminal: {}",
        stderr(&output)
    );
    fs::write(out, "precious").unwrap();
    let output = home.run(&["enroll", "--recovery-out", out, "--verify-from", out]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(read(Path::new(out)), "precious", "no file is overwritten");
    assert!(home.enroll().status.code() == Some(1));
    fs::remove_file(out).unwrap();
    assert!(home.enroll().status.success());
}

/// Enrols at a pseudo-terminal; `answer` makes the lines that are typed from the key shown.
fn at_a_terminal(home: &Home, answer: impl Fn(&str) -> Vec<String>) -> (i32, String) {
    let line = format!(
        "{} enroll --config {}",
        env!("CARGO_BIN_EXE_kmsd"),
        home.path("kmsd.toml").display()
    );
    let mut script = Running(
        Command::new("script")
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut stdin = script.0.stdin.take().unwrap();
    let mut stdout = script.0.stdout.take().unwrap();
    let (seen, reader) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 1024];
        while let Ok(count @ 1..) = stdout.read(&mut chunk) {
            let _ = seen.send(String::from_utf8_lossy(&chunk[..count]).into_owned());
        }
    });
    let mut text = String::new();
    let mut typed = None;
    let code = until("the end of the enrolment", || {
        text.extend(reader.try_iter());
        if typed.is_none() && text.contains("Type the recovery key") {
            let key = text
                .lines()
                .find(|l| l.contains("KMSD-RECOVERY-1-"))
                .unwrap()
                .trim();
            let lines = answer(key);
            stdin
                .write_all((lines.join("\n") + "\n").as_bytes())
                .unwrap();
            typed = Some(());
        }
        script
            .0
            .try_wait()
            .unwrap()
            .map(|status| status.code().unwrap())
    });
    text.extend(reader.try_iter());
    (code, text)
}

#[test]
fn a_person_proves_that_the_recovery_key_is_kept() {
    let home = Home::new();
    // Mistyped once, then in small letters without hyphens, as people type.
    let (code, text) = at_a_terminal(&home, |key| {
        vec![
            "KMSD-RECOVERY-1-OOPS".into(),
            key.to_lowercase().replace('-', " "),
        ]
    });
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("4 tries left"), "{text}");
    assert!(home.path("store/catalogue.sqlite").exists());
}

#[test]
fn a_person_who_did_not_keep_it_enrols_nothing() {
    let home = Home::new();
    let (code, text) = at_a_terminal(&home, |_| vec!["no idea".into(); 5]);
    assert_eq!(code, 5, "{text}");
    assert!(!home.path("store/catalogue.sqlite").exists());
    assert!(!home.path("store/credential").exists());
}

#[test]
fn recovery_seals_the_store_anew() {
    let home = Home::new();
    assert!(home.enroll().status.success());
    // The machine is lost, and with it what kept the root secret; the catalogue was backed up.
    for entry in fs::read_dir(home.path("store")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("seal.key") || name == "credential" {
            fs::remove_file(path).unwrap();
        }
    }
    let lost = home.run(&[]);
    assert!(!lost.status.success());
    assert!(
        stderr(&lost).contains("kmsctl tpm recover"),
        "{}",
        stderr(&lost)
    );

    let wrong = home.path("wrong");
    let key = kms_crypto::RecoveryPrivateKey::generate().unwrap();
    fs::write(&wrong, key.to_text().expose()).unwrap();
    let output = home.run(&["recover", "--recovery-from", wrong.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(71), "{}", stderr(&output));
    assert!(
        !home.path("store/credential").exists(),
        "nothing is left of a failed recovery"
    );

    let right = home.path("recovery");
    let output = home.run(&[
        "recover",
        "--json",
        "--recovery-from",
        right.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["Keys"], 0);
    let mut kmsd = home.start();
    assert!(kmsd.terminate().success());
}

#[test]
fn what_root_enrols_belongs_to_the_owner_of_the_store() {
    use std::os::unix::fs::{MetadataExt, chown};
    if !rustix::process::getuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let home = Home::new();
    fs::create_dir(home.path("store")).unwrap();
    chown(home.path("store"), Some(4321), Some(4321)).unwrap();
    assert!(home.enroll().status.success());
    for entry in fs::read_dir(home.path("store")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().uid(), 4321, "{:?}", entry.path());
    }
    assert_eq!(fs::metadata(home.path("recovery")).unwrap().uid(), 0);
}

#[test]
fn the_state_of_the_sealer_is_shown() {
    let home = Home::new();
    let output = home.run(&["tpm-status"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("software"));
    let output = home.run(&["tpm-status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["kind"], "software");
}

#[test]
fn only_the_recovery_key_opens_what_was_unenrolled() {
    let home = Home::new();
    let swtpm = kms_seal::testing::Swtpm::start(home.path("tpm")).unwrap();
    home.configure(&format!(
        "kind = \"tpm\"\ndevice = {:?}\npcrs = []\n",
        swtpm.device()
    ));
    let indices = || {
        let output = swtpm.tool("tpm2_getcap", &["handles-nv-index"]).unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .matches("0x1")
            .count()
    };
    let before = indices();
    assert!(home.enroll().status.success());
    assert!(indices() > before, "the enrolment is in the TPM");

    let unconfirmed = home.run(&["unenroll"]);
    assert_eq!(
        unconfirmed.status.code(),
        Some(6),
        "{}",
        stderr(&unconfirmed)
    );
    let (credential, aside) = (home.path("store/credential"), home.path("aside"));
    fs::rename(&credential, &aside).unwrap();
    fs::write(&credential, [7; 32]).unwrap();
    let wrong = home.run(&["unenroll", "--yes-destroy"]);
    assert_eq!(wrong.status.code(), Some(25), "{}", stderr(&wrong));
    fs::rename(&aside, &credential).unwrap();
    let mut kmsd = home.start();
    let busy = home.run(&["unenroll", "--yes-destroy"]);
    assert_eq!(busy.status.code(), Some(64), "{}", stderr(&busy));
    assert!(kmsd.terminate().success(), "nothing was removed so far");

    let output = home.run(&["unenroll", "--yes-destroy"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("only the recovery key"), "{said}");
    assert_eq!(indices(), before, "nothing is left in the TPM");
    let closed = home.run(&[]);
    assert!(
        matches!(closed.status.code(), Some(32 | 35)),
        "{}",
        stderr(&closed)
    );
    let recovery = home.path("recovery");
    let recovered = home.run(&["recover", "--recovery-from", recovery.to_str().unwrap()]);
    assert!(recovered.status.success(), "{}", stderr(&recovered));
    assert!(home.start().terminate().success());
}
