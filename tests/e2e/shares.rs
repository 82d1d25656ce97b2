//! The recovery key in shares: split, lost in part, and used where the key is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use kms_tests::cli::{self, Said};
use kms_tests::daemon::path_text;
use kms_tests::require;
use kms_tests::world::World;
use serde_json::json;

fn split(world: &World, name: &str, more: &[&str]) -> (Said, PathBuf) {
    let (config, key) = (world.daemon.config(), world.daemon.recovery_key());
    let folder = world.path(name);
    fs::create_dir(&folder).unwrap();
    let arguments = [
        "recovery",
        "split",
        "--config",
        path_text(&config),
        "--recovery-from",
        path_text(&key),
        "--shares",
        "5",
        "--threshold",
        "3",
        "--out-dir",
        path_text(&folder),
    ];
    (
        cli::run("kmsctl", &[&arguments, more].concat(), None),
        folder,
    )
}

fn files(folder: &PathBuf) -> Vec<String> {
    let mut files: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| path_text(&entry.unwrap().path()).to_owned())
        .collect();
    files.sort();
    files
}

fn with_shares(world: &World, first: &[&str], shares: &[&String]) -> Said {
    let config = world.daemon.config();
    let mut arguments = first.to_vec();
    arguments.extend(["--config", path_text(&config)]);
    for share in shares {
        arguments.extend(["--recovery-share", share]);
    }
    let program = if first[0] == "fs" { "kmsctl" } else { "kmsd" };
    cli::run(program, &arguments, None)
}

#[test]
fn any_three_of_five_shares_open_the_store() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    let key = world.key("alias/shares");
    let plain = json!({ "KeyId": key, "Plaintext": "aGVsbG8=" });
    let made = world.call("Encrypt", &plain);
    let lower = world.volume("volume", "alias/shares");
    world.daemon.stop();

    let (said, folder) = split(&world, "one", &[]);
    said.ok();
    let shares = files(&folder);
    assert_eq!(shares.len(), 5);
    for share in &shares {
        assert_eq!(
            fs::metadata(share).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(
            fs::read_to_string(share)
                .unwrap()
                .starts_with("KMSD-SHARE-1-")
        );
    }
    let (said, other_folder) = split(&world, "two", &[]);
    said.ok();
    let other = files(&other_folder);
    fs::remove_file(world.daemon.recovery_key()).unwrap();

    let recover = |shares: &[&String]| with_shares(&world, &["recover"], shares);
    let few = recover(&[&shares[0], &shares[1]]);
    assert_eq!(few.code, 5, "{few:?}");
    few.fails_with("3 shares are needed, 2 were given");
    recover(&[&shares[0], &shares[1], &shares[1]]).fails_with("given twice");
    recover(&[&shares[0], &shares[1], &other[2]]).fails_with(&other[2]);
    // One is damaged: its file is named.
    let good = fs::read_to_string(&shares[3]).unwrap();
    let last = good.trim_end().len() - 1;
    let other_end = if good[last..].starts_with('0') {
        "1"
    } else {
        "0"
    };
    fs::write(&shares[3], format!("{}{other_end}\n", &good[..last])).unwrap();
    recover(&[&shares[0], &shares[1], &shares[3]]).fails_with(&shares[3]);

    // Reading the store with them needs no TPM.
    let store = world.daemon.store();
    let read = [
        "fs",
        "check",
        path_text(&lower),
        "--store",
        path_text(&store),
    ];
    with_shares(&world, &read, &[&shares[4], &shares[0], &shares[2]]).ok();
    with_shares(&world, &read, &[&shares[4], &shares[0]]).fails_with("3 shares are needed");

    recover(&[&shares[4], &shares[1], &shares[2]]).ok();
    world.daemon.start();
    let opened = world.call(
        "Decrypt",
        &json!({ "CiphertextBlob": made["CiphertextBlob"] }),
    );
    assert_eq!(opened["Plaintext"], "aGVsbG8=");
}

#[test]
fn only_the_key_of_this_store_is_split_and_shares_are_not_overwritten() {
    if !require::tpm() {
        return;
    }
    let (world, foreign) = (World::enrolled(), World::enrolled());
    fs::copy(foreign.daemon.recovery_key(), world.daemon.recovery_key()).unwrap();
    let (said, folder) = split(&world, "foreign", &[]);
    assert_eq!(said.code, 71, "{said:?}");
    assert_eq!(files(&folder), Vec::<String>::new());
    let (said, folder) = split(&world, "any", &["--any-store"]);
    said.ok();
    assert_eq!(files(&folder).len(), 5);
    let (config, key) = (world.daemon.config(), world.daemon.recovery_key());
    let more = [
        "--config",
        path_text(&config),
        "--recovery-from",
        path_text(&key),
        "--any-store",
    ];
    let numbers = [
        "recovery",
        "split",
        "--shares",
        "2",
        "--threshold",
        "3",
        "--out-dir",
        "/nowhere",
    ];
    let said = cli::run("kmsctl", &[&numbers[..], &more[..]].concat(), None);
    assert_eq!(said.code, 2, "{said:?}");
}
