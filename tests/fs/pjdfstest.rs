//! pjdfstest 0.2.2: the POSIX rules of every call that takes a path.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use kms_tests::mount::Mount;
use kms_tests::programs;
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
allow_remount = REMOUNT
expected_failures = []

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Failures that are known, each with its reason in docs/SEMANTICS.md. Anything else fails the test, and so
/// does one of these that passes: then its line goes.
const KNOWN_FAILURES: &[&str] = &[];

/// Runs what is appended to it in a mount namespace of its own, in which mount(8) finds kmsfs's helper.
pub(crate) fn with_mount_helper(folder: &Path) -> Command {
    for below in ["upper", "work"] {
        fs::create_dir_all(folder.join(below)).unwrap();
    }
    let script = r#"
        folder=$1 kmsfs=$2
        shift 2
        mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$folder/upper,workdir=$folder/work" overlay /usr/sbin
        ln -s "$kmsfs" /usr/sbin/mount.fuse.kmsfs
        ln -s "$kmsfs" /usr/sbin/mount.kmsfs
        exec "$@"
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-euc"])
        .args([script, "sh"])
        .arg(folder)
        .arg(programs::path("kmsfs"));
    command
}

/// Runs the suite, or what has `filter` in its name, and gives the number of tests, the failed ones, the skipped ones, and
/// all that was printed.
fn run(
    world: &World,
    mount: &Mount,
    other: &Mount,
    filter: &str,
) -> (usize, Vec<String>, Vec<String>, String) {
    let remount = !filter.is_empty();
    let configuration = world.path("pjdfstest.toml");
    let text = CONFIGURATION.replace("REMOUNT", &remount.to_string());
    fs::write(&configuration, text).unwrap();
    let output = with_mount_helper(&world.path(format!("helper-{filter}")))
        .arg(cargo_tool("pjdfstest"))
        .arg("-c")
        .arg(&configuration)
        // A second file system, for the rules about crossing from one to another.
        .arg("-s")
        .arg(&other.point)
        .arg("-p")
        .arg(mount.path("r"))
        .args(remount.then_some(filter))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = printed.lines().find(|line| line.starts_with("Summary:"));
    let summary = summary.unwrap_or_else(|| panic!("pjdfstest did not finish:\n{printed}"));
    println!("{summary}");
    let count = |what: &str| -> usize {
        let counts = summary.trim_start_matches("Summary: ").split(", ");
        let found = counts.filter_map(|part| part.strip_suffix(what)?.trim().parse().ok());
        found.last().unwrap()
    };
    let ended = |how: &str| -> Vec<String> {
        let lines = printed.lines().filter(|line| line.ends_with(how));
        let names = lines.filter_map(|line| line.split_whitespace().next());
        names
            .filter(|name| name.contains("::"))
            .map(str::to_owned)
            .collect()
    };
    let (failed, skipped) = (ended("FAILED"), ended("skipped"));
    assert_eq!(
        (failed.len(), skipped.len()),
        (count(" failed"), count(" skipped")),
        "{printed}"
    );
    (count(" total"), failed, skipped, printed)
}

/// SEMANTICS: pjdfstest, link, rmdir, EROFS
#[test]
fn pjdfstest() {
    if !crate::machine_can() {
        return;
    }
    for mode in crate::modes() {
        let world = World::start();
        world.key("alias/fs");
        let lower = crate::volume(&world, "pjd", mode);
        let other_lower = crate::volume(&world, "pjd-other", mode);
        let mount = world.mount_with(&lower, &["allow_other,access=mounter,suid,dev"]);
        let other = world.mount_with(&other_lower, &["allow_other,access=mounter,suid,dev"]);
        let folder = mount.path("r");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();

        let (total, mut failed, skipped, printed) = run(&world, &mount, &other, "");
        failed.sort_unstable();
        // The kernel has kmsfs cut a running program that is opened with O_RDONLY | O_TRUNC before it looks whether it runs
        // (docs/SEMANTICS.md, truncate). If the program just then reads a page that is gone it dies, and does not run any
        // more: on a busy machine that may be so several times in a row.
        let mut tries = 0;
        while failed == ["open::etxtbsy"] {
            tries += 1;
            let (total, again, _, printed) = run(&world, &mount, &other, "etxtbsy");
            assert_eq!(total, 2, "{mode}\n{printed}");
            assert!(tries < 30, "{mode}\n{printed}");
            failed = again;
        }
        assert_eq!(
            (total, failed),
            (398, known_failures()),
            "{mode}\n{printed}"
        );
        // What needs a remount, below, and one for which the C library does not know the limit of a FUSE mount.
        let (remounts, rest): (Vec<_>, Vec<_>) =
            skipped.iter().partition(|name| name.contains("erofs"));
        assert_eq!(remounts.len(), 13, "{mode}\n{printed}");
        assert_eq!(rest, ["link::link_count_max"], "{mode}\n{printed}");
        // By themselves: the others leave files open in the same process, so that nothing can be remounted read-only.
        let (total, failed, skipped, printed) = run(&world, &mount, &other, "erofs");
        assert_eq!(total, 13, "{printed}");
        assert!(failed.is_empty() && skipped.is_empty(), "{mode}\n{printed}");
        mount.unmount();
        other.unmount();
    }
}

fn known_failures() -> Vec<String> {
    let mut known: Vec<_> = KNOWN_FAILURES
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    known.sort_unstable();
    known
}
