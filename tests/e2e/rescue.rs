//! `kmsctl fs check` and `kmsctl fs extract` as an administrator uses them: with kmsd, without it, and on a host that has only the
//! recovery key and a backup of the store.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kms_tests::cli::{self, Said};
use kms_tests::daemon::path_text;
use kms_tests::programs;
use kms_tests::tree;
use kms_tests::wait;
use kms_tests::world::World;

/// A tree with something of everything, two policies and names of all lengths.
fn fill(world: &World, lower: &Path) {
    let mount = world.mount(lower);
    fs::create_dir_all(mount.path("a/b/c")).unwrap();
    fs::write(mount.path("a/inline"), "small").unwrap();
    fs::write(mount.path("a/large"), vec![7; 300_000]).unwrap();
    fs::write(mount.path("a/b").join("long ".repeat(40)), "long").unwrap();
    fs::hard_link(mount.path("a/large"), mount.path("a/b/c/again")).unwrap();
    symlink("../inline", mount.path("a/b/link")).unwrap();
    symlink("x".repeat(3000), mount.path("a/b/far")).unwrap();
    fs::create_dir(mount.path("safe")).unwrap();
    let safe = mount.path("safe");
    world
        .kmsctl(&["fs", "protect", path_text(&safe), "--key", "alias/two"])
        .ok();
    fs::write(safe.join("secret"), vec![9; 10_000]).unwrap();
    mount.unmount();
}

fn filled() -> (World, PathBuf) {
    let world = World::start();
    world.key("alias/one");
    world.key("alias/two");
    let lower = world.volume("volume", "alias/one");
    fill(&world, &lower);
    (world, lower)
}

/// Copies what the mount shows, for comparison.
fn plain_copy(world: &World, lower: &Path) -> PathBuf {
    let copy = world.path("expected");
    let mount = world.mount(lower);
    tree::copy(&mount.path("."), &copy);
    mount.unmount();
    copy
}

fn kmsctl(arguments: &[&str]) -> Said {
    cli::run("kmsctl", arguments, None)
}

fn check(world: &World, lower: &Path, more: &[&str]) -> (i32, serde_json::Value) {
    let said = world.kmsctl(&[&["--json", "fs", "check", path_text(lower)], more].concat());
    (said.code, said.json())
}

/// The lower file of something in the mount.
fn lower_of(world: &World, lower: &Path, plain: &str) -> PathBuf {
    let mount = world.mount(lower);
    let ino = mount.path(plain).symlink_metadata().unwrap().ino();
    mount.unmount();
    tree::walk(lower)
        .into_iter()
        .find(|path| path.symlink_metadata().unwrap().ino() == ino)
        .unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn damage_is_found_named_repaired_and_gone() {
    if !crate::machine_can() {
        return;
    }
    let (world, lower) = filled();
    let (code, report) = check(&world, &lower, &["--content"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["counts"]["directories"], 5);

    let broken = lower_of(&world, &lower, "a/inline");
    flip(&broken, 90);
    let (code, report) = check(&world, &lower, &[]);
    assert_eq!(code, 14);
    let finding = &report["findings"][0];
    assert_eq!(finding["code"], "file-header-damaged");
    assert_eq!(finding["plain_path"], "/a/inline");
    let named = lower.join(finding["lower_path"].as_str().unwrap());
    assert_eq!(named, broken);
    let report = world.path("report.json");
    let repair = [
        "fs",
        "check",
        path_text(&lower),
        "--repair",
        "--report",
        path_text(&report),
    ];
    assert_eq!(world.kmsctl(&repair).code, 13);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(report["findings"][0]["outcome"], "quarantined");
    let (code, report) = check(&world, &lower, &[]);
    assert_eq!(code, 0, "{report:#}");
    let mount = world.mount(&lower);
    assert!(!mount.path("a/inline").exists());
    assert_eq!(fs::read(mount.path("a/large")).unwrap(), vec![7; 300_000]);

    // In use.
    let refused = world.kmsctl(&["fs", "check", path_text(&lower), "--no-keys"]);
    assert_eq!(refused.code, 12, "{}", refused.stderr);
    mount.unmount();
}

#[test]
fn a_locked_policy_is_not_called_damaged() {
    if !crate::machine_can() {
        return;
    }
    let (mut world, lower) = filled();
    let key = world.call("DescribeKey", &serde_json::json!({ "KeyId": "alias/two" }));
    let id = key["KeyMetadata"]["KeyId"].as_str().unwrap();
    world.kmsctl(&["key", "disable", id]).ok();
    let (code, report) = check(&world, &lower, &[]);
    assert_eq!(code, 15, "{report:#}");
    assert_eq!(report["findings"][0]["code"], "locked");
    assert_eq!(report["findings"][0]["plain_path"], "/safe");
    let detail = report["findings"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("key enable"), "{detail}");

    world.daemon.stop();
    let said = world.kmsctl(&["fs", "check", path_text(&lower)]);
    assert_eq!(said.code, 3, "{}", said.stderr);
    let said = world.kmsctl(&["fs", "check", path_text(&lower), "--no-keys"]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
}

#[test]
fn without_kmsd_the_tpm_and_the_store_are_enough() {
    if !crate::machine_can() {
        return;
    }
    let (mut world, lower) = filled();
    let expected = plain_copy(&world, &lower);
    let (store, config) = (world.daemon.store(), world.daemon.config());
    let source = ["--store", path_text(&store), "--config", path_text(&config)];
    let out = world.path("out");
    let extract = [
        &["fs", "extract", path_text(&lower), path_text(&out)],
        &source[..],
    ]
    .concat();
    // The kmsd that runs has the store.
    let refused = kmsctl(&extract);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("in use"), "{}", refused.stderr);

    world.daemon.stop();
    let before = stored(&store);
    kmsctl(&extract).ok();
    tree::assert_same(&expected, &out);
    let again = kmsctl(&[&["--json"], &extract[..]].concat()).ok().json();
    assert_eq!(again["written"], 0);
    let check = [&["fs", "check", path_text(&lower)], &source[..]].concat();
    kmsctl(&check).ok();
    // What was read is on record, for the log of the next start.
    let mut after = stored(&store);
    let added = after
        .iter()
        .position(|(path, _)| path.ends_with("offline.jsonl"));
    let (_, records) = after.remove(added.expect("a record of what was read"));
    assert!(!records.is_empty());
    assert!(
        after == before,
        "a rescue changes nothing else in the store"
    );
    // Nor the counter: the store is still the newest.
    world.daemon.start();
    let mount = world.mount(&lower);
    assert_eq!(fs::read(mount.path("a/inline")).unwrap(), b"small");
    mount.unmount();
}

/// The files of a store with their content.
fn stored(store: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = tree::files(store);
    files.sort();
    files
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

#[test]
fn the_recovery_key_and_an_old_backup_are_enough_on_another_host() {
    if !crate::machine_can() {
        return;
    }
    let (mut world, lower) = filled();
    let expected = plain_copy(&world, &lower);
    world.daemon.stop();
    let backup = world.path("backup");
    tree::copy(&world.daemon.store(), &backup);
    // The store goes on; then TPM and store are gone.
    world.daemon.start();
    world.key("alias/three");
    world
        .kmsctl(&["key", "disable", &world.key("alias/four")])
        .ok();
    world.daemon.stop();

    // With the TPM that knows better, the old backup is refused, and the way out is named.
    let config = world.daemon.config();
    let out = world.path("out");
    let extract = [
        "fs",
        "extract",
        path_text(&lower),
        path_text(&out),
        "--store",
        path_text(&backup),
    ];
    let refused = kmsctl(&[&extract[..], &["--config", path_text(&config)]].concat());
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("--recovery-key"),
        "{}",
        refused.stderr
    );

    world.tpm.power_off();
    fs::remove_dir_all(world.daemon.store()).unwrap();
    let wrong = world.path("wrong");
    fs::write(&wrong, "not a recovery key").unwrap();
    let with = |key: &Path| kmsctl(&[&extract[..], &["--recovery-key", path_text(key)]].concat());
    assert_eq!(with(&wrong).code, 1);
    with(&world.daemon.recovery_key()).ok();
    tree::assert_same(&expected, &out);

    // A damaged part is a loss, not an end.
    let mut sizes: Vec<_> = tree::files_once(&lower)
        .into_iter()
        .map(|path| (path.metadata().unwrap().len(), path))
        .collect();
    sizes.sort();
    flip(&sizes.last().unwrap().1, 60);
    let again = world.path("again");
    let said = kmsctl(&[
        "--json",
        "fs",
        "extract",
        path_text(&lower),
        path_text(&again),
        "--store",
        path_text(&backup),
        "--recovery-key",
        path_text(&world.daemon.recovery_key()),
    ]);
    assert_eq!(said.code, 16, "{}", said.stderr);
    let report = said.json();
    let losses = report["losses"].as_array().unwrap();
    assert!(
        losses.iter().all(|loss| loss["what"] == "object"),
        "{report:#}"
    );
    assert!(
        losses.iter().any(|loss| loss["plain_path"] == "/a/large"),
        "{report:#}"
    );
    fs::remove_file(expected.join("a/large")).unwrap();
    fs::remove_file(expected.join("a/b/c/again")).unwrap();
    tree::assert_same(&expected, &again);
}

#[test]
fn a_live_mount_is_frozen_copied_checked_and_unmounted() {
    if !crate::machine_can() {
        return;
    }
    let (world, lower) = filled();
    let mount = world.mount(&lower);
    let root = mount.path(".");
    let root = path_text(&root);
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let backup = world.path("backup.lower");
    let copy = format!("cp -a \"$KMSFS_LOWER\" {}", backup.display());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0_u32.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // Whole lines only: a copy must not have half of one.
                let path = mount.path(format!("written {}", round % 5));
                let line = format!("{round:08}\n");
                fs::write(&path, line.repeat(1_000)).unwrap();
                fs::rename(&path, mount.path(format!("moved {}", round % 3))).unwrap();
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let until_busy = || {
            let seen = rounds.load(Ordering::Relaxed);
            wait::until_true("the writer going on", wait::PATIENCE, || {
                rounds.load(Ordering::Relaxed) > seen + 3
            });
        };
        until_busy();
        let command = ["fs", "freeze", root, "--for", "5m", "--", "sh", "-c", &copy];
        world.kmsctl(&command).ok();
        until_busy();
        // Checked while it is written to.
        let said = world.kmsctl(&["--json", "fs", "check", root, "--content"]);
        assert_eq!(said.code, 0, "{}", said.stdout);
        assert_eq!(said.json()["online"], true);
        let refused = world.kmsctl(&["fs", "check", root, "--repair"]);
        assert_eq!(refused.code, 12);

        // A command that fails, and one that is killed with kmsctl: changes go on.
        let failing = world.kmsctl(&["fs", "freeze", root, "--", "false"]);
        assert_eq!(failing.code, 1, "{}", failing.stderr);
        until_busy();
        let ready = world.path("ready");
        let script = format!("touch {}; exec sleep 60", ready.display());
        let mut killed = Command::new(programs::path("kmsctl"))
            .args(["fs", "freeze", root, "--for", "10m", "--"])
            .args(["sh", "-c", &script])
            .spawn()
            .unwrap();
        wait::until_true("the command running", wait::PATIENCE, || ready.exists());
        killed.kill().unwrap();
        killed.wait().unwrap();
        until_busy();
        stop.store(true, Ordering::Relaxed);
    });
    // Frozen without a command, seen, thawed.
    world.kmsctl(&["fs", "freeze", root, "--for", "10m"]).ok();
    let status = world.kmsctl(&["--json", "fs", "status", root]).ok().json();
    assert!(status[0]["frozen"].as_u64().unwrap() > 500, "{status:#}");
    assert_eq!(fs::read(mount.path("a/inline")).unwrap(), b"small");
    let again = world.kmsctl(&["fs", "freeze", root]);
    assert_eq!(again.code, 12, "{}", again.stderr);
    world.kmsctl(&["fs", "thaw", root]).ok();
    fs::write(mount.path("thawed"), "x").unwrap();
    let status = world.kmsctl(&["--json", "fs", "status", root]).ok().json();
    assert!(status[0]["frozen"].is_null());

    // Unmounted while it is frozen.
    world.kmsctl(&["fs", "freeze", path_text(&lower)]).ok();
    mount.unmount();
    let (code, report) = check(&world, &lower, &["--content"]);
    assert_eq!((code, report["notes"].as_u64()), (0, Some(0)), "{report:#}");

    // The copy is of one moment, and clean.
    let (code, report) = check(&world, &backup, &["--content"]);
    assert_eq!((code, report["notes"].as_u64()), (0, Some(0)), "{report:#}");
    let mount = world.mount(&backup);
    for file in tree::files(&mount.path(".")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name.starts_with("moved ") {
            let content = fs::read_to_string(&file).unwrap();
            let line = content.lines().next().unwrap_or_default();
            assert_eq!(content, format!("{line}\n").repeat(1_000), "{name}");
        }
    }
    assert_eq!(fs::read(mount.path("a/large")).unwrap(), vec![7; 300_000]);
    mount.unmount();
}
