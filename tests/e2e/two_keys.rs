//! Two directories under two keys in one mount: disabling one key closes one directory.

use std::fs;
use std::io;
use std::time::Duration;

use kms_tests::daemon::path_text;
use kms_tests::wait;
use kms_tests::world::World;
use serde_json::json;

fn is_no_key(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOKEY)
}

/// SEMANTICS: ENOKEY
#[test]
fn a_disabled_key_closes_its_directory_only() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/one");
    let two = world.key("alias/two");
    let lower = world.volume("volume", "alias/one");
    let mount = world.mount(&lower);
    let (open, closed) = (mount.path("one"), mount.path("two"));
    fs::create_dir(&open).unwrap();
    fs::create_dir(&closed).unwrap();
    world
        .kmsctl(&["fs", "protect", path_text(&closed), "--key", "alias/two"])
        .ok();
    for folder in [&open, &closed] {
        fs::create_dir(folder.join("below")).unwrap();
        fs::write(folder.join("below/file"), "content").unwrap();
    }
    // A directory that holds something is not given another key.
    let said = world.kmsctl(&["fs", "protect", path_text(&open), "--key", "alias/two"]);
    assert!(said.code > 0, "{said:?}");
    mount.unmount();

    world.call("DisableKey", &json!({ "KeyId": two }));
    let mount = world.mount(&lower);
    assert_eq!(
        fs::read_to_string(open.join("below/file")).unwrap(),
        "content"
    );
    fs::write(open.join("new"), "new").unwrap();
    let error = fs::read_to_string(closed.join("below/file")).unwrap_err();
    assert!(is_no_key(&error), "{error}");
    let error = fs::write(closed.join("new"), "new").unwrap_err();
    assert!(is_no_key(&error), "{error}");
    let log = mount.log();
    let line = log
        .lines()
        .find(|line| line.contains(&two) && line.contains("disabled"));
    assert!(
        line.is_some(),
        "no line names the disabled key {two}:\n{log}"
    );
    mount.unmount();

    // Enabled again, and the mount that was refused finds out by itself.
    let mount = world.mount(&lower);
    assert!(is_no_key(
        &fs::read_dir(&closed)
            .and_then(|mut all| all.next().unwrap())
            .unwrap_err()
    ));
    world.call("EnableKey", &json!({ "KeyId": two }));
    wait::until_true(
        "the directory opening again",
        Duration::from_secs(30),
        || fs::read_to_string(closed.join("below/file")).is_ok_and(|text| text == "content"),
    );
    fs::write(closed.join("new"), "new").unwrap();
    mount.unmount();
    let mount = world.mount(&lower);
    assert_eq!(fs::read_to_string(closed.join("new")).unwrap(), "new");
    mount.unmount();
}
