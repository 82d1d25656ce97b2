//! What lies in the lower tree. Offsets are those of docs/FORMAT.md.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kms_tests::cli;
use kms_tests::daemon::path_text;
use kms_tests::mount::Mount;
use kms_tests::tree;
use kms_tests::world::World;

/// A closed volume with known files, and a pristine copy of its lower tree.
struct Volume {
    world: World,
    lower: PathBuf,
    pristine: PathBuf,
}

const SMALL: &[u8] = b"an inline file";

fn large() -> Vec<u8> {
    (0..50_000_u32)
        .flat_map(|number| (number % 251).to_le_bytes())
        .collect()
}

impl Volume {
    fn new() -> Volume {
        let world = World::start();
        world.key("alias/a");
        let lower = world.volume("volume", "alias/a");
        let mount = world.mount(&lower);
        fs::create_dir(mount.path("folder")).unwrap();
        fs::create_dir(mount.path("other")).unwrap();
        fs::write(mount.path("folder/small"), SMALL).unwrap();
        fs::write(mount.path("folder/large"), large()).unwrap();
        fs::write(mount.path("other/witness"), "unharmed").unwrap();
        std::os::unix::fs::symlink("target", mount.path("folder/link")).unwrap();
        std::os::unix::fs::symlink("t".repeat(3_000), mount.path("folder/long link")).unwrap();
        fs::write(mount.path("folder").join("n".repeat(250)), "long name").unwrap();
        mount.unmount();
        let pristine = world.path("pristine");
        tree::copy(&lower, &pristine);
        Volume {
            world,
            lower,
            pristine,
        }
    }

    /// The lower path of what the mount shows as `plain`, found by inode number (the mount passes it on).
    fn lower_of(&self, plain: &str) -> PathBuf {
        let mount = self.world.mount(&self.lower);
        let inode = mount.path(plain).symlink_metadata().unwrap().ino();
        mount.unmount();
        let found = tree::walk(&self.lower)
            .into_iter()
            .find(|path| path.symlink_metadata().unwrap().ino() == inode);
        let found = found.unwrap_or_else(|| panic!("no lower object has the inode of {plain}"));
        found.strip_prefix(&self.lower).unwrap().to_owned()
    }

    /// Puts the lower tree back as it was.
    fn restore(&self) {
        fs::remove_dir_all(&self.lower).unwrap();
        tree::copy(&self.pristine, &self.lower);
    }

    /// Damages the tree with `harm`, mounts it, and reads everything; then puts it back. `check` gets the
    /// mount. The witness must be readable unless the harm is to what it hangs on.
    #[track_caller]
    fn harmed(&self, what: &str, harm: impl FnOnce(&Path), check: impl FnOnce(&Mount)) {
        harm(&self.lower);
        let mut mount = self.world.mount(&self.lower);
        check(&mount);
        read_everything(what, &mount.point);
        let witness = fs::read_to_string(mount.path("other/witness"));
        assert_eq!(witness.ok().as_deref(), Some("unharmed"), "{what}");
        mount.process().assert_running();
        let log = mount.log();
        assert!(!log.contains("panicked"), "{what}: {log}");
        mount.unmount();
        self.restore();
    }
}

/// Reads every file and link below `point`, errors or not, within a minute.
#[track_caller]
fn read_everything(what: &str, point: &Path) {
    let (done, finished) = mpsc::channel();
    let point = point.to_path_buf();
    thread::spawn(move || {
        let mut open = vec![point];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                match path.symlink_metadata() {
                    Ok(meta) if meta.is_dir() => open.push(path),
                    Ok(meta) if meta.is_symlink() => drop(fs::read_link(&path)),
                    _ => drop(fs::read(&path)),
                }
            }
        }
        let _ = done.send(());
    });
    finished
        .recv_timeout(Duration::from_secs(60))
        .unwrap_or_else(|_| panic!("{what}: reading everything took more than a minute"));
}

fn flip(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 1 << (position % 8);
    fs::write(path, bytes).unwrap();
}

/// A file with a damaged header: an error, or the whole content from what was not damaged.
#[track_caller]
fn error_or(what: &str, path: &Path, content: &[u8]) {
    match fs::read(path) {
        Ok(found) => assert!(
            found == content,
            "{what}: other content, {} bytes",
            found.len()
        ),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{what}: {error}"),
    }
}

#[test]
fn flipped_bits_in_file_headers() {
    if !crate::machine_can() {
        return;
    }
    let volume = Volume::new();
    for (plain, content) in [("folder/small", SMALL.to_vec()), ("folder/large", large())] {
        let lower = volume.lower_of(plain);
        // Magic, format, mode, layout, file id, lineage, state, length, body, nonce, tag, slots A and B.
        for position in [
            0, 8, 10, 11, 13, 20, 40, 52, 57, 73, 85, 100, 130, 170, 260, 3_970, 4_010,
        ] {
            let what = format!("byte {position} of the header of {plain}");
            volume.harmed(
                &what,
                |tree| flip(&tree.join(&lower), position),
                |mount| error_or(&what, &mount.path(plain), &content),
            );
        }
    }
}

#[test]
fn files_cut_short() {
    if !crate::machine_can() {
        return;
    }
    let volume = Volume::new();
    for plain in ["folder/small", "folder/large"] {
        let lower = volume.lower_of(plain);
        for length in [0, 1, 100, 4_095, 4_096, 4_097, 4_100, 8_192, 100_000] {
            let what = format!("{plain} cut to {length}");
            volume.harmed(
                &what,
                |tree| {
                    let file = fs::File::options()
                        .write(true)
                        .open(tree.join(&lower))
                        .unwrap();
                    file.set_len(length).unwrap();
                },
                |mount| {
                    // xts does not authenticate lengths: shorter content is possible, other content not.
                    let whole = if plain == "folder/small" {
                        SMALL.to_vec()
                    } else {
                        large()
                    };
                    if let Ok(found) = fs::read(mount.path(plain)) {
                        assert!(
                            whole.starts_with(&found) || found.len() > whole.len(),
                            "{what}"
                        );
                    }
                },
            );
        }
    }
}

#[test]
fn swapped_and_foreign_files() {
    if !crate::machine_can() {
        return;
    }
    let volume = Volume::new();
    let small = volume.lower_of("folder/small");
    let large_file = volume.lower_of("folder/large");
    // One file's header over another's data.
    volume.harmed(
        "a swapped header",
        |tree| {
            let header = fs::read(tree.join(&small)).unwrap()[..4096].to_vec();
            let mut bytes = fs::read(tree.join(&large_file)).unwrap();
            bytes[..4096].copy_from_slice(&header);
            fs::write(tree.join(&large_file), bytes).unwrap();
        },
        |mount| {
            // Not the large file's content in any case.
            if let Ok(found) = fs::read(mount.path("folder/large")) {
                assert_eq!(found, SMALL);
            }
        },
    );
    // A file of another volume, under this one's name.
    let other_lower = volume.world.volume("foreign", "alias/a");
    let other = volume.world.mount(&other_lower);
    fs::write(other.path("file"), "foreign content").unwrap();
    let inode = other.path("file").metadata().unwrap().ino();
    other.unmount();
    let foreign = tree::files(&other_lower);
    let foreign = foreign
        .iter()
        .find(|path| path.metadata().unwrap().ino() == inode)
        .unwrap();
    volume.harmed(
        "a foreign file",
        |tree| assert!(fs::copy(foreign, tree.join(&small)).unwrap() > 0),
        |mount| {
            let error = fs::read(mount.path("folder/small")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        },
    );
    // Things that are not ours at all are not shown.
    volume.harmed(
        "strange names",
        |tree| {
            let folder = tree.join(large_file.parent().unwrap());
            for name in [
                "plain",
                "=",
                "AAAA",
                &"B".repeat(43),
                &"=".repeat(44),
                ".kmsfs.n.x",
            ] {
                fs::write(folder.join(name), "whatever").unwrap();
            }
        },
        |mount| assert_eq!(fs::read_dir(mount.path("folder")).unwrap().count(), 5),
    );
}

#[test]
fn damaged_directory_headers() {
    if !crate::machine_can() {
        return;
    }
    let volume = Volume::new();
    let folder = volume.lower_of("folder");
    let header = |tree: &Path| tree.join(&folder).join(".kmsfs");
    let closed = |what: &str, mount: &Mount| {
        let error = fs::read(mount.path("folder/small"));
        let error = error.expect_err(what);
        assert!(
            matches!(
                error.raw_os_error(),
                Some(libc::EIO | libc::ENOKEY | libc::ENOENT)
            ),
            "{what}: {error}"
        );
    };
    for position in [0, 8, 10, 12, 20, 40, 50, 66, 70, 75, 90, 120, 140, 180] {
        let what = format!("byte {position} of a directory header");
        volume.harmed(
            &what,
            |tree| flip(&header(tree), position),
            |mount| closed(&what, mount),
        );
    }
    for length in [1, 100, 191] {
        let what = format!("a directory header cut to {length}");
        volume.harmed(
            &what,
            |tree| {
                let bytes = fs::read(header(tree)).unwrap();
                fs::write(header(tree), &bytes[..length]).unwrap();
            },
            |mount| closed(&what, mount),
        );
    }
    // Another directory's header: the names under it do not open.
    let other = volume.lower_of("other");
    volume.harmed(
        "another directory's header",
        |tree| assert!(fs::copy(tree.join(&other).join(".kmsfs"), header(tree)).unwrap() > 0),
        |mount| closed("another directory's header", mount),
    );
}

#[test]
fn damaged_sidecars_links_and_volume_records() {
    if !crate::machine_can() {
        return;
    }
    let volume = Volume::new();
    let records: Vec<PathBuf> = tree::files(&volume.lower)
        .iter()
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with(".kmsfs.n.") || path.parent().unwrap().ends_with(".kmsfs.links")
        })
        .map(|path| path.strip_prefix(&volume.lower).unwrap().to_owned())
        .collect();
    assert_eq!(records.len(), 2, "{records:?}");
    for record in &records {
        for position in [0, 8, 10, 13, 30, 60] {
            let what = format!("byte {position} of {}", record.display());
            volume.harmed(&what, |tree| flip(&tree.join(record), position), |_| ());
        }
        let what = format!("no {}", record.display());
        volume.harmed(
            &what,
            |tree| fs::remove_file(tree.join(record)).unwrap(),
            |_| (),
        );
    }
    // The volume record: the mount is refused, and says why.
    let record = volume.lower.join(".kmsfs.volume");
    let whole = fs::read(&record).unwrap();
    let point = volume.world.path("point");
    fs::create_dir(&point).unwrap();
    for position in [0, 9, 20, 90, whole.len() / 2, whole.len() - 2] {
        flip(&record, position);
        let arguments = ["mount", path_text(&volume.lower), path_text(&point)];
        let said = cli::run("kmsfs", &arguments, Some(&volume.world.daemon.socket()));
        assert!(said.code > 0, "byte {position}: {said:?}");
        assert!(
            said.stderr.contains(".kmsfs.volume"),
            "byte {position}: {said:?}"
        );
        fs::write(&record, &whole).unwrap();
    }
}
