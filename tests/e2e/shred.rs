//! A shredded directory and a deleted key stay closed, whatever copies from before are put back under the same TPM; and what
//! does open them, as the threat model says.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kms_tests::daemon::path_text;
use kms_tests::mount::Mount;
use kms_tests::world::World;
use kms_tests::{tree, wait};
use serde_json::{Value, json};

const DAY: u64 = 86_400;

/// A volume with three protected directories, one of which is shredded and one of which loses its key.
struct Destroyed {
    world: World,
    lower: PathBuf,
    doomed_blob: Value,
    /// From before.
    old_store: PathBuf,
    old_lower: PathBuf,
    old_tpm: PathBuf,
    /// From after.
    new_store: PathBuf,
    new_lower: PathBuf,
}

fn destroyed() -> Destroyed {
    let mut world = World::start();
    let doomed = world.key("alias/doomed");
    world.key("alias/kept");
    let lower = world.volume("volume", "alias/kept");
    let mount = world.mount(&lower);
    for (name, key) in [
        ("shredded", "alias/kept"),
        ("keyless", "alias/doomed"),
        ("kept", "alias/kept"),
    ] {
        let at = mount.path(name);
        fs::create_dir(&at).unwrap();
        world
            .kmsctl(&["fs", "protect", path_text(&at), "--key", key])
            .ok();
        fs::write(at.join("file"), name).unwrap();
    }
    mount.unmount();
    let sealed = world.call("Encrypt", &json!({ "KeyId": doomed, "Plaintext": "YQ==" }));
    let doomed_blob = json!({ "CiphertextBlob": sealed["CiphertextBlob"] });
    world.daemon.stop();
    let [old_store, old_lower, old_tpm] =
        ["store", "lower", "tpm"].map(|name| world.path(format!("{name}.before")));
    tree::copy(&world.daemon.store(), &old_store);
    tree::copy(&lower, &old_lower);
    world.tpm.save_state(&old_tpm);
    world.daemon.start();

    let mount = world.mount(&lower);
    assert_eq!(read(&mount, "shredded").unwrap(), "shredded");
    let at = mount.path("shredded");
    let open = fs::File::open(at.join("file")).unwrap();
    let backup = mount.path("kept/store.backup");
    world
        .kmsctl(&["store", "backup", path_text(&backup)])
        .fails_with("is in the kmsfs mount");
    world.kmsctl(&["fs", "shred", path_text(&at), "--yes"]).ok();
    // The mount has it locked, what is open included.
    assert!(open.read_at(&mut [0; 8], 0).is_err());
    assert!(read(&mount, "shredded").is_err());
    assert_eq!(read(&mount, "kept").unwrap(), "kept");
    drop(open);
    mount.unmount();
    world.call(
        "ScheduleKeyDeletion",
        &json!({ "KeyId": doomed, "PendingWindowInDays": 7 }),
    );
    world.daemon.set_clock(8 * DAY);
    wait::until_true("the key being deleted", Duration::from_secs(60), || {
        world
            .post("DescribeKey", &json!({ "KeyId": doomed }))
            .error()
            == "NotFoundException"
    });
    world.daemon.stop();
    let [new_store, new_lower] = ["store", "lower"].map(|name| world.path(format!("{name}.after")));
    tree::copy(&world.daemon.store(), &new_store);
    tree::copy(&lower, &new_lower);
    Destroyed {
        world,
        lower,
        doomed_blob,
        old_store,
        old_lower,
        old_tpm,
        new_store,
        new_lower,
    }
}

fn read(mount: &Mount, name: &str) -> io::Result<String> {
    fs::read_to_string(mount.path(name).join("file"))
}

fn put_back(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    tree::copy(from, to);
}

impl Destroyed {
    /// What opens now: the shredded directory, the one without its key, its ciphertext, the kept one.
    fn opens(&self) -> [bool; 4] {
        let blob = self.world.post("Decrypt", &self.doomed_blob);
        let mount = self.world.mount(&self.lower);
        let found = ["shredded", "keyless", "kept"].map(|name| {
            let content = read(&mount, name);
            if let Ok(content) = &content {
                assert_eq!(content, name);
            }
            content.is_ok()
        });
        mount.unmount();
        [found[0], found[1], blob.status == 200, found[2]]
    }
}

#[test]
fn a_mount_that_cannot_be_told_is_named() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/gone");
    let lower = world.volume("volume", "alias/gone");
    let socket = world.path("elsewhere.sock");
    let control = format!("control={}", path_text(&socket));
    let mount = world.mount_with(&lower, &[&control]);
    let status = world
        .kmsctl(&["fs", "status", path_text(&lower), "--json"])
        .ok()
        .json();
    let id = |value: &Value| value.as_str().unwrap().to_owned();
    let volume = id(&status[0]["volume"]);
    let policy = id(&status[0]["policies"][0]["policy"]);
    // Nobody gets through to it any more.
    fs::remove_file(&socket).unwrap();
    let said = world.kmsctl(&[
        "fs", "shred", "--volume", &volume, "--policy", &policy, "--yes",
    ]);
    assert_eq!(said.code, 12, "{}", said.stderr);
    let point = path_text(&mount.point);
    assert!(
        said.stderr.contains("it is destroyed, but") && said.stderr.contains(point),
        "{}",
        said.stderr
    );
    mount.unmount();
}

#[test]
fn nothing_from_before_opens_what_was_destroyed_under_the_same_tpm() {
    if !crate::machine_can() {
        return;
    }
    let mut it = destroyed();
    let mut stores = vec![("the new store".to_owned(), it.new_store.clone())];
    stores.push(("the old store".to_owned(), it.old_store.clone()));
    // The new store with each of the files of the old one, and the old one with each of the new.
    for (base, other, what) in [
        (&it.new_store, &it.old_store, "an old"),
        (&it.old_store, &it.new_store, "a new"),
    ] {
        for file in tree::files(other) {
            let name = file.strip_prefix(other).unwrap();
            if name.starts_with("audit") || name == Path::new("lock") {
                continue;
            }
            let mixed = it.world.path(format!("store.mixed.{}", stores.len()));
            tree::copy(base, &mixed);
            fs::copy(&file, mixed.join(name)).unwrap();
            stores.push((format!("{what} {}", name.display()), mixed));
        }
    }
    let mut served = 0;
    for (what, store) in &stores {
        put_back(store, &it.world.daemon.store());
        if !it.world.daemon.try_start() {
            continue;
        }
        for lower in [it.new_lower.clone(), it.old_lower.clone()] {
            put_back(&lower, &it.lower);
            let [shredded, keyless, blob, kept] = it.opens();
            let place = format!("{what}, {}", lower.display());
            assert!(
                !shredded && !keyless && !blob,
                "{place}: {shredded} {keyless} {blob}"
            );
            assert!(kept, "{place}: the directory that was kept");
            served += 1;
        }
        it.world.daemon.kill();
    }
    assert!(served >= 2, "the new store serves both lower trees");
}

#[test]
fn the_tpms_state_of_before_does_open_it_as_documented() {
    if !crate::machine_can() {
        return;
    }
    let mut it = destroyed();
    put_back(&it.old_store, &it.world.daemon.store());
    it.world.tpm.restore_state(&it.old_tpm);
    it.world.daemon.set_clock(0);
    it.world.daemon.start();
    assert_eq!(
        it.opens(),
        [true; 4],
        "a snapshot of a machine with its vTPM"
    );
}

#[test]
fn the_recovery_key_and_a_store_of_before_do_open_it_as_documented() {
    if !crate::machine_can() {
        return;
    }
    let mut it = destroyed();
    put_back(&it.old_store, &it.world.daemon.store());
    let (config, recovery) = (it.world.daemon.config(), it.world.daemon.recovery_key());
    let arguments = [
        "tpm",
        "recover",
        "--config",
        path_text(&config),
        "--recovery-from",
        path_text(&recovery),
    ];
    it.world.kmsctl(&arguments).ok();
    it.world.daemon.set_clock(0);
    it.world.daemon.start();
    assert_eq!(it.opens(), [true; 4]);
}

#[test]
fn what_was_shredded_below_holds_up_no_end_of_older_generations_above() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/top");
    let lower = world.volume("volume", "alias/top");
    let mount = world.mount(&lower);
    let directory = mount.path("directory");
    fs::create_dir(&directory).unwrap();
    for name in ["stays", "goes"] {
        let at = directory.join(name);
        fs::create_dir(&at).unwrap();
        world
            .kmsctl(&["fs", "protect", path_text(&at), "--key", "alias/top"])
            .ok();
        fs::write(at.join("file"), name).unwrap();
    }
    fs::write(directory.join("file"), "kept").unwrap();
    let point = path_text(&mount.point).to_owned();
    let reencrypt = |ended: Value| {
        let said = world.kmsctl(&["--json", "fs", "reencrypt", &point, "--destroy-old"]);
        let last = said.ok().stdout.lines().last().unwrap().to_owned();
        let report: Value = serde_json::from_str(&last).unwrap();
        assert_eq!(report["ended"], ended, "{report:#}");
        assert_eq!(report["progress"]["failed"], 0, "{report:#}");
        let content = fs::read_to_string(directory.join("file")).unwrap();
        assert_eq!(content, "kept");
    };
    for name in ["stays", "goes"] {
        let at = directory.join(name);
        world.kmsctl(&["fs", "shred", path_text(&at), "--yes"]).ok();
    }
    reencrypt(json!([1]));
    reencrypt(json!([2]));
    // It is as closed as before, and named by its own policy.
    let error = fs::read_dir(directory.join("stays")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOKEY));
    mount.unmount();

    // What is left of the other one is removed, as `fs shred` says.
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let mount = world.mount(&lower);
    let wanted = inode(&directory.join("goes"));
    mount.unmount();
    let left = tree::walk(&lower).into_iter();
    let mut left = left.filter(|path| path.is_dir() && inode(path) == wanted);
    fs::remove_dir_all(left.next().unwrap()).unwrap();
    let mount = world.mount(&lower);
    reencrypt(json!([3]));
    let error = fs::read_dir(directory.join("stays")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOKEY));
    mount.unmount();
}
