//! The project's own dependencies, unpacked into the mount, built in it, and looked for underneath it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use kms_tests::programs;
use kms_tests::require::output_of;
use kms_tests::tree;
use kms_tests::world::World;

/// `cargo vendor` of this workspace: sources of every dependency, tens of thousands of files of all sizes.
fn vendor(to: &Path) {
    output_of(
        Command::new("cargo")
            .args(["vendor", "--locked", "--quiet", "--manifest-path"])
            .arg(programs::source_root().join("Cargo.toml"))
            .arg(to),
    );
    // As much again, and no other kind of file.
    fs::remove_dir_all(to.join("aws-lc-fips-sys")).unwrap();
}

/// Builds a small program from the vendored sources, with everything that cargo writes in the mount too.
fn build_in(folder: &Path, vendored: &Path) {
    let package = folder.join("hello");
    fs::create_dir_all(package.join("src")).unwrap();
    fs::create_dir(package.join(".cargo")).unwrap();
    fs::write(
        package.join("Cargo.toml"),
        "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\nserde_json = \"1\"\n",
    )
    .unwrap();
    fs::write(
        package.join("src/main.rs"),
        "fn main() { println!(\"{}\", serde_json::json!({ \"built\": \"in the mount\" })); }\n",
    )
    .unwrap();
    fs::write(
        package.join(".cargo/config.toml"),
        format!(
            "[source.crates-io]\nreplace-with = \"vendored-sources\"\n\n\
             [source.vendored-sources]\ndirectory = {vendored:?}\n"
        ),
    )
    .unwrap();
    let printed = output_of(
        Command::new("cargo")
            .args(["run", "--quiet", "--offline"])
            .current_dir(&package)
            .env("CARGO_TARGET_DIR", package.join("target")),
    );
    assert_eq!(printed, "{\"built\":\"in the mount\"}\n");
}

/// Known plaintext: what stands in the middle of each of a sample of files.
fn needles(vendored: &Path) -> Vec<Vec<u8>> {
    let mut files = tree::files(vendored);
    files.sort();
    let mut needles = Vec::new();
    for file in files.iter().step_by(3) {
        let bytes = fs::read(file).unwrap();
        // 24 bytes with some variety: runs of spaces would turn up in anything.
        let middle = bytes.len() / 2;
        let Some(needle) = bytes.get(middle..middle + 24) else {
            continue;
        };
        let distinct: HashSet<u8> = needle.iter().copied().collect();
        if distinct.len() >= 8 {
            needles.push(needle.to_vec());
        }
    }
    assert!(needles.len() > 1_000, "only {} needles", needles.len());
    needles
}

#[test]
fn vendored_sources_live_in_the_mount() {
    if !crate::machine_can() {
        return;
    }
    let mut world = World::start();
    let source = world.path("vendor");
    vendor(&source);
    let count = tree::files(&source).len();
    assert!(count > 10_000, "cargo vendor gave only {count} files");

    world.key("alias/real");
    let lower = world.volume("real", "alias/real");
    let mount = world.mount(&lower);
    let copy = mount.path("vendor");
    fs::create_dir(&copy).unwrap();
    tree::copy_with_tar(&source, &copy);
    // Equal blocks, in one file and in two: 1 MiB of one byte, twice.
    fs::write(mount.path("equal-1"), vec![0x41; 1 << 20]).unwrap();
    fs::write(mount.path("equal-2"), vec![0x41; 1 << 20]).unwrap();
    build_in(&mount.path(""), &copy);
    tree::assert_same(&source, &copy);
    mount.unmount();

    // Power off and on: everything that held a key is gone.
    world.daemon.stop();
    world.tpm.restart();
    world.daemon.start();
    let mount = world.mount(&lower);
    tree::assert_same(&source, &mount.path("vendor"));
    assert_eq!(
        fs::read(mount.path("equal-2")).unwrap(),
        vec![0x41; 1 << 20]
    );
    mount.unmount();

    let mut names: HashSet<OsString> = tree::walk(&source)
        .iter()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    names.extend(["equal-1", "equal-2", "vendor", "target"].map(OsString::from));
    let mut needles = needles(&source);
    needles.push(vec![0x41; 64]);
    let leaks = tree::search(&lower, &needles, &names);
    assert!(
        leaks.bytes > 200 << 20,
        "only {} lower bytes were looked at",
        leaks.bytes
    );
    assert_eq!(
        leaks.names,
        Vec::<std::path::PathBuf>::new(),
        "plaintext names in the lower tree"
    );
    assert_eq!(leaks.content, Vec::new(), "plaintext in the lower tree");
    assert_eq!(leaks.equal_pages, Vec::new(), "equal lower pages");
    // Headers have a little structure (magic, lengths, zeros to the page's end), content has none.
    println!(
        "{} lower bytes, {:.5} bits of entropy per byte",
        leaks.bytes, leaks.entropy
    );
    let content = content_entropy(&lower);
    println!("{content:.6} bits per byte beyond the header pages");
    assert!(
        content > 7.9999,
        "lower content is not noise: {content} bits per byte"
    );
}

/// Entropy of what lies beyond the header page of each file, in bits per byte.
fn content_entropy(lower: &Path) -> f64 {
    let mut counts = [0_u64; 256];
    for file in tree::files_once(lower) {
        let bytes = fs::read(&file).unwrap();
        for cell in bytes.get(4096..).unwrap_or_default().chunks(16) {
            // Holes, and the zeros that encode the size.
            if cell.iter().all(|byte| *byte == 0) || cell.len() < 16 {
                continue;
            }
            for byte in cell {
                counts[usize::from(*byte)] += 1;
            }
        }
    }
    tree::entropy(&counts)
}
