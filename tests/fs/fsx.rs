//! fsx on files of many sizes.
//!
//! Sizes around what kmsfs treats differently: inline files (about 3.5 KiB), one 4 KiB unit, a few units,
//! and a file of a mebibyte. The same seed makes the same operations.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use kms_tests::fsx::configuration;
use kms_tests::require;
use kms_tests::tools::cargo_tool;
use kms_tests::world::World;

/// Length limit of the file and the largest operation, in bytes: around the cells of 16, what is kept inline (3712), the
/// units of either mode (4064 and 4096), several of them, and far more.
const SIZES: [(u32, u32); 8] = [
    (50, 17),
    (3_720, 500),
    (4_200, 700),
    (8_200, 4_097),
    (12_300, 4_064),
    (20_000, 3_713),
    (65_536, 9_000),
    (1_048_576, 131_072),
];

/// All sizes and seeds, two at a time.
fn exercise(folder: &Path, artifacts: &Path, tool: &Path) {
    let (seeds, operations) = if require::full() {
        (10, "20000")
    } else {
        (2, "5000")
    };
    let work: Mutex<Vec<_>> = Mutex::new(
        SIZES
            .iter()
            .flat_map(|size| (1..=seeds).map(move |seed| (*size, seed)))
            .collect(),
    );
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(((length, largest), seed)) = work.lock().unwrap().pop() else {
                        return;
                    };
                    let name = format!("{length}.{largest}.{seed}");
                    let file = artifacts.join(format!("{name}.toml"));
                    fs::write(&file, configuration(length, largest)).unwrap();
                    let output = Command::new(tool)
                        .arg("-f")
                        .arg(&file)
                        .args(["-N", operations, "-S", &seed.to_string(), "-P"])
                        .arg(artifacts)
                        .arg(folder.join(format!("fsx.{name}")))
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
            });
        }
    });
}

/// SEMANTICS: fsx, mmap
#[test]
fn fsx() {
    if !crate::machine_can() {
        return;
    }
    let tool = cargo_tool("fsx");
    for mode in crate::modes() {
        let world = World::start();
        world.key("alias/fs");
        let lower = crate::volume(&world, "fsx", mode);
        let artifacts = world.path("artifacts");
        fs::create_dir(&artifacts).unwrap();
        let mount = world.mount(&lower);
        println!("mode {mode}");
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
}
