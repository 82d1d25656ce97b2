//! The same commands on the mount and on the lower file system itself: what they print must be the same.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use kms_tests::programs;

use crate::on_a_mount;

fn run(part: &str, folder: &Path, scratch: &Path) -> String {
    fs::create_dir(folder).unwrap();
    fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
    let script = programs::source_root().join("tests/fs/like_local.sh");
    let output = Command::new("bash")
        .arg(script)
        .arg(part)
        .arg(scratch)
        .current_dir(folder)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn compare(part: &str) {
    on_a_mount(
        &["allow_other,access=mounter,suid,dev"],
        |mount| {
            let scratch = mount.lower.with_extension("said");
            let local = run(part, &mount.lower.with_extension("local"), &scratch);
            let ours = run(part, &mount.path("folder"), &scratch);
            assert!(local.lines().count() > 5, "{local}");
            let differ: Vec<_> = ours
                .lines()
                .zip(local.lines())
                .filter(|(ours, local)| ours != local)
                .collect();
            assert!(differ.is_empty(), "{part}: (ours, local): {differ:#?}");
            assert_eq!(ours, local);
            fs::remove_dir_all(mount.lower.with_extension("local")).unwrap();
        },
        |mount| fs::remove_dir_all(mount.path("folder")).unwrap(),
    );
}

/// SEMANTICS: ACLs
#[test]
fn default_acls_are_inherited() {
    compare("inheritance");
}

/// SEMANTICS: ACLs
#[test]
fn acls_and_modes_follow_each_other() {
    compare("sync_with_mode");
}

/// SEMANTICS: set-group-id directories
#[test]
fn groups_of_set_group_id_directories() {
    compare("setgid_directories");
}

/// SEMANTICS: set-id bits
#[test]
fn set_id_bits_go() {
    compare("set_id_bits");
}

/// SEMANTICS: set-id bits
#[test]
fn capabilities_go() {
    compare("capabilities");
}

/// SEMANTICS: create
#[test]
fn sticky_directories() {
    compare("sticky");
}

/// SEMANTICS: mkdir
#[test]
fn modes_of_new_directories() {
    compare("modes");
}
