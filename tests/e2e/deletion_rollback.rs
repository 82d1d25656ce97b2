//! A deleted key stays deleted, whatever older copies are put back; and the two things that do bring it
//! back, as the threat model says.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_tests::daemon::path_text;
use kms_tests::mount::unmount;
use kms_tests::world::World;
use kms_tests::{cli, require, tree, wait};
use serde_json::{Value, json};

const DAY: u64 = 86_400;

/// A world in which a key was used and then deleted, with copies of everything from before.
struct Deleted {
    world: World,
    /// The deleted key, and one that is still there.
    key: String,
    blob: Value,
    kept_blob: Value,
    /// Copies from before the deletion.
    store: PathBuf,
    tpm: PathBuf,
}

fn encrypt(world: &World, key: &str, text: &[u8]) -> Value {
    let plaintext = data_encoding::BASE64.encode(text);
    let sealed = world.call("Encrypt", &json!({ "KeyId": key, "Plaintext": plaintext }));
    json!({ "CiphertextBlob": sealed["CiphertextBlob"] })
}

fn opens(world: &World, blob: &Value, text: &[u8]) -> bool {
    let reply = world.post("Decrypt", blob);
    reply.status == 200
        && reply.json["Plaintext"].as_str() == Some(data_encoding::BASE64.encode(text).as_str())
}

fn deleted_key() -> Deleted {
    let mut world = World::start();
    let key = world.key("alias/doomed");
    let kept = world.key("alias/kept");
    let blob = encrypt(&world, &key, b"doomed");
    let kept_blob = encrypt(&world, &kept, b"kept");
    let planned = json!({ "KeyId": key, "PendingWindowInDays": 7 });
    world.call("ScheduleKeyDeletion", &planned);
    world.call("CancelKeyDeletion", &json!({ "KeyId": key }));
    world.call("EnableKey", &json!({ "KeyId": key }));
    assert!(opens(&world, &blob, b"doomed"));

    // The backup: everything on disk, cleanly stopped, and the state of the TPM.
    world.daemon.stop();
    let (store, tpm) = (world.path("store.before"), world.path("tpm.before"));
    tree::copy(&world.daemon.store(), &store);
    world.tpm.save_state(&tpm);
    world.daemon.start();

    world.call("ScheduleKeyDeletion", &planned);
    // Not a day early.
    world.daemon.set_clock(7 * DAY - 600);
    let described = world.call("DescribeKey", &json!({ "KeyId": key }));
    assert_eq!(described["KeyMetadata"]["KeyState"], "PendingDeletion");
    world.daemon.set_clock(7 * DAY + 600);
    wait::until_true("the key being deleted", Duration::from_secs(60), || {
        world.post("DescribeKey", &json!({ "KeyId": key })).error() == "NotFoundException"
    });
    assert!(!opens(&world, &blob, b"doomed"));
    assert!(opens(&world, &kept_blob, b"kept"));
    Deleted {
        world,
        key,
        blob,
        kept_blob,
        store,
        tpm,
    }
}

fn put_back(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    tree::copy(from, to);
}

#[test]
fn the_store_from_before_is_refused_under_the_same_tpm() {
    if !require::tpm() {
        return;
    }
    let mut deleted = deleted_key();
    let world = &mut deleted.world;
    // A restart as such changes nothing.
    world.daemon.stop();
    world.daemon.start();
    assert!(!opens(world, &deleted.blob, b"doomed"));
    assert!(opens(world, &deleted.kept_blob, b"kept"));
    world.daemon.stop();
    let current = world.path("store.after");
    tree::copy(&world.daemon.store(), &current);

    put_back(&deleted.store, &world.daemon.store());
    let (code, said) = world.daemon.start_refused();
    // rolled-back or epoch-destroyed, of docs/OPERATIONS.md.
    assert!(code == 34 || code == 35, "exit code {code}: {said}");

    // The current store still works.
    put_back(&current, &world.daemon.store());
    world.daemon.start();
    assert!(opens(world, &deleted.kept_blob, b"kept"));
    assert_eq!(
        world
            .post("DescribeKey", &json!({ "KeyId": deleted.key }))
            .error(),
        "NotFoundException"
    );
}

#[test]
fn sealed_blobs_from_before_do_not_open_the_store_of_after() {
    if !require::tpm() {
        return;
    }
    let mut deleted = deleted_key();
    let world = &mut deleted.world;
    world.daemon.stop();
    // File by file: each old file among the new ones. None may give a daemon that opens the old blob.
    let after = world.path("store.after");
    tree::copy(&world.daemon.store(), &after);
    for file in tree::files(&deleted.store) {
        let name = file.strip_prefix(&deleted.store).unwrap().to_owned();
        put_back(&after, &world.daemon.store());
        fs::copy(&file, world.daemon.store().join(&name)).unwrap();
        let log = world.daemon.log().len();
        if world.daemon.try_start() {
            assert!(
                !opens(world, &deleted.blob, b"doomed"),
                "with the old {}",
                name.display()
            );
            world.daemon.kill();
        } else {
            let said = world.daemon.log().split_off(log);
            assert!(
                !said.contains("panicked"),
                "with the old {}: {said}",
                name.display()
            );
        }
    }
}

#[test]
fn restored_tpm_state_does_bring_it_back_as_documented() {
    if !require::tpm() {
        return;
    }
    let mut deleted = deleted_key();
    let world = &mut deleted.world;
    world.daemon.stop();
    put_back(&deleted.store, &world.daemon.store());
    world.tpm.restore_state(&deleted.tpm);
    world.daemon.set_clock(0);
    world.daemon.start();
    assert!(
        opens(world, &deleted.blob, b"doomed"),
        "a snapshot of a machine with its vTPM"
    );
}

#[test]
fn the_recovery_key_with_an_old_backup_brings_it_back_as_documented() {
    if !require::tpm() {
        return;
    }
    let mut deleted = deleted_key();
    let world = &mut deleted.world;
    world.daemon.stop();
    put_back(&deleted.store, &world.daemon.store());
    let (config, recovery) = (world.daemon.config(), world.daemon.recovery_key());
    let arguments = [
        "recover",
        "--config",
        path_text(&config),
        "--recovery-from",
        path_text(&recovery),
    ];
    cli::run("kmsd", &arguments, None).ok();
    world.daemon.set_clock(0);
    world.daemon.start();
    assert!(opens(world, &deleted.blob, b"doomed"));
}

#[test]
fn a_deleted_key_closes_its_directory_for_good() {
    if !crate::machine_can() {
        return;
    }
    let mut world = World::start();
    let key = world.key("alias/doomed");
    let lower = world.volume("volume", "alias/doomed");
    let mount = world.mount(&lower);
    fs::write(mount.path("file"), "doomed").unwrap();
    mount.unmount();
    let backup = world.path("backup.lower");
    tree::copy(&lower, &backup);
    world.call(
        "ScheduleKeyDeletion",
        &json!({ "KeyId": key, "PendingWindowInDays": 7 }),
    );
    world.daemon.set_clock(8 * DAY);
    wait::until_true("the key being deleted", Duration::from_secs(60), || {
        world.post("DescribeKey", &json!({ "KeyId": key })).error() == "NotFoundException"
    });
    world.daemon.stop();
    world.daemon.start();
    for lower in [&lower, &backup] {
        let point = world.path("point");
        fs::create_dir_all(&point).unwrap();
        let socket = world.daemon.socket();
        let said = cli::run(
            "kmsfs",
            &["mount", path_text(lower), path_text(&point)],
            Some(&socket),
        );
        if said.code == 0 {
            // Mounted without its key: then nothing in it opens.
            let error = fs::read_to_string(point.join("file")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOKEY), "{error}");
            unmount(&point).unwrap();
        } else {
            assert!(said.stderr.contains("key"), "{said:?}");
        }
    }
}
