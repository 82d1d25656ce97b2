//! fsx 0.3.2: random operations on one file, compared with a model in memory after each.
//!
//! Sizes around what kmsfs treats differently: inline files (about 3.5 KiB), one 4 KiB unit, a few units,
//! and a file of a mebibyte. The same seed makes the same operations.

use std::fs;
use std::path::Path;
use std::process::Command;

use kms_tests::require;
use kms_tests::tools::cargo_tool;
use kms_tests::world::World;

/// Length limit of the file and the largest operation, in bytes.
const SIZES: [(u32, u32); 5] = [
    (3_000, 3_000),
    (4_200, 700),
    (8_192, 4_097),
    (65_536, 9_000),
    (1_048_576, 131_072),
];

fn configuration(length: u32, largest: u32) -> String {
    format!(
        "flen = {length}\n[opsize]\nmax = {largest}\n[weights]\nclose_open = 1\nread = 10\nwrite = 10\n\
         mapread = 10\nmapwrite = 10\ninvalidate = 1\ntruncate = 5\nfsync = 1\nfdatasync = 1\n\
         posix_fallocate = 2\npunch_hole = 2\nsendfile = 2\nposix_fadvise = 1\ncopy_file_range = 3\n"
    )
}

fn exercise(folder: &Path, artifacts: &Path, tool: &Path) {
    let (seeds, operations) = if require::full() {
        (1..=20, "20000")
    } else {
        (1..=2, "3000")
    };
    for (length, largest) in SIZES {
        let file = artifacts.join(format!("fsx-{length}.toml"));
        fs::write(&file, configuration(length, largest)).unwrap();
        for seed in seeds.clone() {
            let output = Command::new(tool)
                .arg("-f")
                .arg(&file)
                .args(["-N", operations, "-S", &seed.to_string(), "-P"])
                .arg(artifacts)
                .arg(folder.join(format!("fsx.{length}.{seed}")))
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "fsx with length {length}, operations up to {largest}, seed {seed}: {}\n{}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

#[test]
fn fsx() {
    if !crate::machine_can() {
        return;
    }
    let tool = cargo_tool("fsx");
    let world = World::start();
    world.key("alias/fs");
    let lower = world.volume("fsx", "alias/fs");
    let artifacts = world.path("artifacts");
    fs::create_dir(&artifacts).unwrap();
    let mount = world.mount(&lower);
    exercise(&mount.point, &artifacts, &tool);
    // What was left must be the same after a remount: nothing lived in caches only.
    let copy = world.path("copy");
    fs::create_dir(&copy).unwrap();
    kms_tests::tree::copy_with_tar(&mount.point, &copy);
    mount.unmount();
    let mount = world.mount(&lower);
    kms_tests::tree::assert_same(&copy, &mount.point);
    mount.unmount();
}
