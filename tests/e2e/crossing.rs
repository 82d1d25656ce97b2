//! Files that move between directories under different keys.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::Command;

use kms_tests::daemon::path_text;
use kms_tests::world::World;
use serde_json::json;

/// Without a hole, and larger than what `mv` could copy unnoticed in one read.
fn content() -> Vec<u8> {
    (0..5_000_000_u32).map(|at| (at % 251) as u8 | 1).collect()
}

/// SEMANTICS: rename
#[test]
fn a_file_moves_under_another_key_and_needs_only_that() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/root");
    let one = world.key("alias/one");
    let two = world.key("alias/two");
    let lower = world.volume("volume", "alias/root");
    let mount = world.mount(&lower);
    let (from, to) = (mount.path("from"), mount.path("to"));
    for (folder, key) in [(&from, "alias/one"), (&to, "alias/two")] {
        fs::create_dir(folder).unwrap();
        let folder = path_text(folder);
        world.kmsctl(&["fs", "protect", folder, "--key", key]).ok();
    }
    let mut file = File::create_new(from.join("file")).unwrap();
    file.write_all(&content()).unwrap();
    fs::create_dir(from.join("folder")).unwrap();
    fs::write(from.join("folder/file"), "copied").unwrap();
    let before = file.metadata().unwrap();

    let status = Command::new("mv")
        .args([from.join("file"), from.join("folder"), to.clone()])
        .status();
    assert!(status.unwrap().success());

    let after = fs::metadata(to.join("file")).unwrap();
    assert_eq!(after.ino(), before.ino(), "moved, not copied");
    assert_eq!(after.mtime(), before.mtime());
    file.write_all_at(b"through the old descriptor", 100)
        .unwrap();
    assert_eq!(fs::read_dir(&from).unwrap().count(), 0);
    drop(file);
    mount.unmount();

    // The key it was under is of no use any more, and not needed.
    world.call("DisableKey", &json!({ "KeyId": one }));
    let mount = world.mount(&lower);
    let mut expected = content();
    expected[100..126].copy_from_slice(b"through the old descriptor");
    assert!(fs::read(to.join("file")).unwrap() == expected);
    let copied = fs::read_to_string(to.join("folder/file")).unwrap();
    assert_eq!(copied, "copied");
    mount.unmount();

    world.call("EnableKey", &json!({ "KeyId": one }));
    world.call("DisableKey", &json!({ "KeyId": two }));
    let mount = world.mount(&lower);
    let error = fs::read(to.join("file")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOKEY), "{error}");
    mount.unmount();
    world.call("EnableKey", &json!({ "KeyId": two }));
    let checked = world.kmsctl(&["fs", "check", path_text(&lower)]);
    assert_eq!(checked.code, 0, "{checked:?}");
}
