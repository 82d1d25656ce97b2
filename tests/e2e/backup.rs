//! A backup of kmsd's store, made while it is used, on a machine with another TPM; a volume moved alone; a new recovery key.

use std::fs;
use std::path::{Path, PathBuf};

use kms_tests::cli::{self, Said};
use kms_tests::daemon::path_text;
use kms_tests::world::World;
use kms_tests::{require, tree};
use serde_json::{Value, json};

/// A command of kmsd's own, through kmsctl, with the configuration of `world`.
fn offline(world: &World, arguments: &[&str]) -> Said {
    let config = world.daemon.config();
    cli::run(
        "kmsctl",
        &[arguments, &["--config", path_text(&config)]].concat(),
        None,
    )
}

fn protect(world: &World, at: &Path, key: &str) {
    fs::create_dir(at).unwrap();
    world
        .kmsctl(&["fs", "protect", path_text(at), "--key", key])
        .ok();
}

/// A volume with a file in its root and one in each of two protected directories, not mounted.
fn volume(world: &World) -> PathBuf {
    world.key("alias/root");
    world.key("alias/hr");
    let lower = world.volume("volume", "alias/root");
    let mount = world.mount(&lower);
    fs::write(mount.path("file"), "root").unwrap();
    for name in ["hr", "it"] {
        protect(world, &mount.path(name), "alias/hr");
        fs::write(mount.path(name).join("file"), name).unwrap();
    }
    mount.unmount();
    lower
}

fn policy_of(world: &World, lower: &Path, name: &str) -> (String, String) {
    let mount = world.mount(lower);
    let said = world.kmsctl(&["fs", "status", path_text(&mount.path("file")), "--json"]);
    let status = said.ok().json();
    mount.unmount();
    let volume = &status[0];
    let policies = volume["policies"].as_array().unwrap();
    let found = policies.iter().find(|policy| {
        let directory = policy["directory"].as_str().unwrap_or_default();
        directory.ends_with(&format!("/{name}"))
    });
    let id = |value: &Value| value.as_str().unwrap().to_owned();
    (id(&volume["volume"]), id(&found.unwrap()["policy"]))
}

#[test]
fn a_backup_restores_under_a_new_tpm_without_what_was_destroyed_since() {
    if !crate::machine_can() {
        return;
    }
    let mut world = World::start();
    let lower = volume(&world);
    let principal = ["access-key", "create", "--principal", "user:backup"];
    let access_key = world.kmsctl(&[&principal[..], &["--json"]].concat());
    let access_key = access_key.ok().json()["AccessKeyId"].clone();
    let access_key = access_key.as_str().unwrap();
    let backup = world.path("store.backup");
    let made = world
        .kmsctl(&["store", "backup", path_text(&backup), "--json"])
        .ok()
        .json();
    assert_eq!(
        made["Size"].as_u64(),
        Some(fs::metadata(&backup).unwrap().len())
    );
    // It is not written over, and damage is found without a key.
    world
        .kmsctl(&["store", "backup", path_text(&backup)])
        .fails_with("exists");
    let recovery = world.daemon.recovery_key();
    let verify = |file: &Path, more: &[&str]| {
        let arguments = [&["store", "verify-backup", path_text(file)], more].concat();
        cli::run("kmsctl", &arguments, None)
    };
    assert!(verify(&backup, &[]).ok().stdout.contains("Whole"));
    let with_key = ["--recovery-from", path_text(&recovery)];
    assert!(
        verify(&backup, &with_key)
            .ok()
            .stdout
            .contains("all 6 secrets open")
    );
    let mut bytes = fs::read(&backup).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = world.path("damaged.backup");
    fs::write(&damaged, bytes).unwrap();
    assert_eq!(verify(&damaged, &[]).code, 75);

    // A directory is shredded after the backup, and a list kept of it.
    let (volume, policy) = policy_of(&world, &lower, "hr");
    let shred = ["fs", "shred", "--volume", &volume, "--policy", &policy];
    world.kmsctl(&shred).fails_with("--yes");
    world.kmsctl(&[&shred[..], &["--yes"]].concat()).ok();
    let list = world.path("tombstones");
    world
        .kmsctl(&["store", "tombstones", "--out", path_text(&list)])
        .ok();
    world.daemon.stop();

    for (with_list, open) in [(true, false), (false, true)] {
        let mut new = World::bare();
        let mut arguments = vec!["store", "restore", path_text(&backup)];
        arguments.extend(with_key);
        arguments.extend(["--sha256", made["Sha256"].as_str().unwrap()]);
        if with_list {
            arguments.extend(["--tombstones", path_text(&list)]);
        }
        let said = offline(&new, &arguments).ok().stdout;
        assert!(said.contains("kmsctl access-key enable"), "{said}");
        assert!(said.contains(access_key), "{said}");
        new.daemon.start();
        let list = new.kmsctl(&["access-key", "list", "--json"]).ok().json();
        assert_eq!(list["AccessKeys"][0]["Status"], "Inactive", "{list}");
        new.kmsctl(&["access-key", "enable", access_key]).ok();
        let mount = new.mount(&lower);
        assert_eq!(fs::read_to_string(mount.path("file")).unwrap(), "root");
        assert_eq!(fs::read_to_string(mount.path("it/file")).unwrap(), "it");
        let hr = fs::read_to_string(mount.path("hr/file"));
        assert_eq!(hr.is_ok(), open, "{hr:?}");
        mount.unmount();
        // Not over a store that is there, and not another file than the one that was noted.
        new.daemon.stop();
        assert_eq!(offline(&new, &arguments).code, 67);
        let mut other = vec!["store", "restore", path_text(&damaged)];
        other.extend(with_key);
        assert_eq!(offline(&new, &other).code, 75);
    }

    // The live store knows by itself.
    let mut arguments = vec!["store", "restore", path_text(&backup), "--replace"];
    arguments.extend(with_key);
    let said = offline(&world, &arguments).ok().stdout;
    assert!(!said.contains(access_key), "it stands there: {said}");
    world.daemon.start();
    let mount = world.mount(&lower);
    assert_eq!(fs::read_to_string(mount.path("it/file")).unwrap(), "it");
    assert!(fs::read_to_string(mount.path("hr/file")).is_err());
    mount.unmount();
}

#[test]
fn a_volume_moves_to_another_host_alone() {
    if !crate::machine_can() {
        return;
    }
    let (mut from, mut to) = (World::start(), World::start());
    let lower = volume(&from);
    let copy = to.path("volume.lower");
    tree::copy(&lower, &copy);
    let recipient = to.call_local("GetStatus", &json!({}))["RecoveryPublicKey"].clone();
    let recipient = recipient.as_str().unwrap();
    let file = from.path("volume.keys");
    let export = [
        "fs",
        "export-keys",
        path_text(&lower),
        "--to",
        recipient,
        "--out",
        path_text(&file),
    ];
    assert_eq!(offline(&from, &export).code, 64, "kmsd runs");
    from.daemon.stop();
    offline(&from, &export).ok();
    from.daemon.start();

    let recovery = to.daemon.recovery_key();
    let import = [
        "fs",
        "import-keys",
        path_text(&file),
        "--recovery-from",
        path_text(&recovery),
    ];
    to.daemon.stop();
    let wrong = from.daemon.recovery_key();
    let refused = [
        "fs",
        "import-keys",
        path_text(&file),
        "--recovery-from",
        path_text(&wrong),
    ];
    assert_eq!(offline(&to, &refused).code, 71);
    let said = offline(&to, &import).ok();
    assert!(
        said.stdout.contains("2 keys and 3 policies added"),
        "{said:?}"
    );
    to.daemon.start();
    let mount = to.mount(&copy);
    assert_eq!(fs::read_to_string(mount.path("file")).unwrap(), "root");
    assert_eq!(fs::read_to_string(mount.path("hr/file")).unwrap(), "hr");
    mount.unmount();
}

#[test]
fn the_recovery_key_is_replaced() {
    if !require::tpm() {
        return;
    }
    let mut world = World::start();
    let key = world.key("alias/a");
    let sealed = world.call("Encrypt", &json!({ "KeyId": key, "Plaintext": "YQ==" }));
    let new = world.path("recovery.new");
    let rotate = [
        "recovery",
        "rotate",
        "--recovery-out",
        path_text(&new),
        "--verify-from",
        path_text(&new),
        "--end-former",
    ];
    assert_eq!(offline(&world, &rotate).code, 64, "kmsd runs");
    fs::remove_file(&new).unwrap();
    world.daemon.stop();
    offline(&world, &rotate).ok();
    let recover = |key: &Path| {
        offline(
            &world,
            &["tpm", "recover", "--recovery-from", path_text(key)],
        )
    };
    assert_eq!(recover(&world.daemon.recovery_key()).code, 71);
    recover(&new).ok();
    world.daemon.start();
    let opened = world.call(
        "Decrypt",
        &json!({ "CiphertextBlob": sealed["CiphertextBlob"] }),
    );
    assert_eq!(opened["Plaintext"], "YQ==");
}

/// What would be lost is said before, and what is tried meanwhile afterwards.
#[test]
fn a_deletion_is_shown_before_it_is_scheduled_and_its_uses_after() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    let lower = volume(&world);
    let (volume, policy) = policy_of(&world, &lower, "hr");
    let mount = world.mount(&lower);
    fs::create_dir(mount.path("hr/sub")).unwrap();
    fs::write(mount.path("hr/sub/big"), vec![7; 5001]).unwrap();
    fs::hard_link(mount.path("hr/file"), mount.path("hr/sub/link")).unwrap();
    let said = world.kmsctl(&["fs", "count", path_text(&mount.path("file")), "--json"]);
    let counted = said.ok().json()["Policies"][&policy].clone();
    assert_eq!(
        counted,
        json!({ "files": 2, "directories": 2, "bytes": 5003 })
    );
    mount.unmount();
    let point = world.path("volume.plain");
    let shown = world
        .kmsctl(&["key", "preview-deletion", "alias/hr"])
        .ok()
        .stdout;
    for part in [
        &volume,
        &policy,
        "5003",
        path_text(&point),
        "2 directories",
        "last used",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let refused = world.kmsctl(&["key", "schedule-deletion", "alias/hr"]);
    assert!(refused.stderr.contains("5003"), "{refused:?}");
    refused.fails_with("--yes");
    let state = || {
        let said = world.kmsctl(&["key", "describe", "alias/hr", "--json"]);
        said.ok().json()
    };
    assert_eq!(state()["KeyMetadata"]["KeyState"], "Enabled");
    world
        .kmsctl(&["key", "schedule-deletion", "alias/hr", "--yes"])
        .ok();
    assert_eq!(state()["RefusedUses"]["Count"], 0);
    let encrypt = json!({ "KeyId": "alias/hr", "Plaintext": "YQ==" });
    assert_eq!(world.post("Encrypt", &encrypt).status, 400);
    let found = state();
    assert_eq!(found["RefusedUses"]["Count"], 1, "{found}");
    assert_eq!(found["RefusedUses"]["Last"]["Operation"], "Encrypt");
}
