//! stress-ng's file system stressors, verifying what they do.

use kms_tests::require;

use crate::{Volume, command, machine_can};

/// A stressor, the number of its operations in a short run, and more of its options.
type Stressor = (&'static str, u32, &'static [&'static str]);

/// Stressors, two of each at a time.
///
/// Not here: fiemap and verity (kmsfs has neither), chattr (two of them change the flags of one file under each other), io (it
/// calls syncfs on every mount of the machine), and what does not touch the file system under test.
const STRESSORS: [Stressor; 39] = [
    ("access", 200, &[]),
    ("chdir", 50, &["--chdir-dirs", "64"]),
    ("chmod", 60, &[]),
    ("chown", 200, &[]),
    ("copy-file", 10, &[]),
    ("dentry", 1000, &[]),
    ("dir", 400, &[]),
    ("dirdeep", 100, &[]),
    ("dirmany", 400, &[]),
    ("fallocate", 5, &[]),
    ("fcntl", 200, &[]),
    ("file-ioctl", 100, &[]),
    ("filename", 100, &[]),
    ("flock", 500, &[]),
    ("fpunch", 1, &[]),
    ("fsize", 20, &[]),
    ("fstat", 200, &[]),
    ("getdent", 200, &[]),
    ("handle", 100, &[]),
    ("hdd", 500, &[]),
    ("inotify", 1, &[]),
    ("iomix", 400, &[]),
    ("lease", 100, &[]),
    ("link", 1, &[]),
    ("locka", 200, &[]),
    ("lockf", 200, &[]),
    ("lockofd", 200, &[]),
    ("mknod", 100, &[]),
    ("msync", 50, &[]),
    ("open", 200, &[]),
    ("readahead", 20, &[]),
    ("rename", 500, &[]),
    ("revio", 100, &[]),
    ("seek", 1000, &[]),
    ("symlink", 1, &[]),
    ("sync-file", 10, &[]),
    ("touch", 200, &[]),
    ("utime", 200, &[]),
    ("xattr", 20, &[]),
];

/// Those of contents: the mode decides how contents are kept, and nothing else.
const OF_CONTENTS: [&str; 14] = [
    "copy-file",
    "fallocate",
    "file-ioctl",
    "fpunch",
    "fsize",
    "hdd",
    "iomix",
    "msync",
    "open",
    "readahead",
    "revio",
    "seek",
    "sync-file",
    "utime",
];

#[test]
fn stressors_find_nothing_in_xts() {
    find_nothing("xts", |_| true);
}

/// All of them in a long run.
#[test]
fn stressors_find_nothing_in_gcm() {
    find_nothing("gcm", |stressor| {
        require::full() || OF_CONTENTS.contains(&stressor)
    });
}

fn find_nothing(mode: &'static str, wanted: impl Fn(&str) -> bool) {
    if !machine_can() {
        return;
    }
    let times = if require::full() { 20 } else { 1 };
    let volume = Volume::new(mode);
    let mut failed = String::new();
    for (stressor, operations, more) in STRESSORS {
        if !wanted(stressor) {
            continue;
        }
        let output = command("stress-ng")
            .args([
                "--temp-path",
                ".",
                "--verify",
                "--no-rand-seed",
                "--oomable",
                // One operation of some is tens of thousands of calls: what they do in this time is enough.
                "--timeout",
                if require::full() { "60" } else { "8" },
            ])
            .args([format!("--{stressor}"), "2".to_owned()])
            .args([
                format!("--{stressor}-ops"),
                (operations * times).to_string(),
            ])
            .args(more)
            .current_dir(volume.point())
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        // What it cannot do it skips, and calls that a success.
        let passed = output.status.success() && !said.contains("fail:") && !said.contains("skip");
        if !passed {
            failed.push_str(&format!("{mode} {stressor}: {}\n{said}\n", output.status));
        }
    }
    assert!(failed.is_empty(), "{failed}");
    volume.end();
}
