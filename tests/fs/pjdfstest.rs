//! pjdfstest 0.2.2: the POSIX rules of every call that takes a path.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use kms_tests::tools::cargo_tool;
use kms_tests::world::World;

/// Two users that every Debian has; the suite acts as them.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = false
expected_failures = []

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Failures that are known, each with its reason in docs/SEMANTICS.md. Anything else fails the test, and so
/// does one of these that passes: then its line goes.
const KNOWN_FAILURES: &[&str] = &[];

#[test]
fn pjdfstest() {
    if !crate::machine_can() {
        return;
    }
    let tool = cargo_tool("pjdfstest");
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("pjd", "alias/fs");
    let other_lower = world.volume("pjd-other", "alias/fs");
    let mount = world.mount_with(&lower, &["allow_other,suid,dev"]);
    let other = world.mount_with(&other_lower, &["allow_other,suid,dev"]);
    let folder = mount.path("r");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let configuration = world.path("pjdfstest.toml");
    fs::write(&configuration, CONFIGURATION).unwrap();

    let output = Command::new(tool)
        .arg("-c")
        .arg(&configuration)
        // A second file system, for the rules about crossing from one to another.
        .arg("-s")
        .arg(&other.point)
        .arg("-p")
        .arg(&folder)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let summary = printed.lines().find(|line| line.starts_with("Summary:"));
    let summary = summary.unwrap_or_else(|| panic!("pjdfstest did not finish:\n{printed}"));
    println!("{summary}");
    let total: usize = summary
        .split(", ")
        .find_map(|part| part.strip_suffix(" total"))
        .and_then(|count| count.parse().ok())
        .unwrap();
    assert_eq!(total, 398, "{summary}");

    let mut failed: Vec<&str> = printed
        .lines()
        .filter(|line| line.ends_with("FAILED"))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.contains("::"))
        .collect();
    failed.sort_unstable();
    let mut known = KNOWN_FAILURES.to_vec();
    known.sort_unstable();
    assert_eq!(failed, known, "\n{printed}");
    assert!(
        summary.contains(&format!(" {} failed", known.len())),
        "{summary}\n{printed}"
    );
    mount.unmount();
    other.unmount();
}
