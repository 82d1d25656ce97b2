//! The sample volumes in `tests/fixtures/format1`: every build mounts them, reads all that is in them, and can work on.
//!
//! They were made by the build that froze format 1 and never change. `KMSFS_MAKE_SAMPLES=DIRECTORY` makes new ones there with
//! the present build, for a format to come.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

#[path = "support/kmsd.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod kmsd;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use data_encoding::BASE64;
use kms_api::client::Client;
use kms_format::ContentMode;
use kms_format::volume::VolumeRecord;
use kmsfs::control::client::ask;
use kmsfs::control::protocol::{Answer, Command as Control};
use rustix::fs::{FileType, Mode, XattrFlags};

use kmsd::FakeKmsd;

/// Around every border: cells, header page, units.
const SIZES: [usize; 16] = [
    0, 1, 15, 16, 17, 3_711, 3_712, 3_713, 4_063, 4_064, 4_065, 4_095, 4_096, 4_097, 8_128, 20_000,
];
/// Lengths of names: short, just short enough, with a record of their own.
const NAMES: [usize; 4] = [1, 160, 161, 255];
/// Lengths of symlink targets: in the symlink, with a record.
const TARGETS: [usize; 4] = [1, 713, 714, 4_095];
const SPARSE: u64 = 8 << 40;
/// Where the sparse file has data.
const EXTENTS: [u64; 3] = [4_064 * 100, 5 << 30, SPARSE - 5_000];
const BEFORE_1970: Duration = Duration::new(1_000_000, 250_000_000);

const MODES: [ContentMode; 2] = [ContentMode::Xts, ContentMode::Gcm];

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/format1")
}

fn title(mode: ContentMode) -> &'static str {
    match mode {
        ContentMode::Xts => "xts",
        ContentMode::Gcm => "gcm",
    }
}

/// Bytes that tell what they belong to.
fn content(label: usize, length: usize) -> Vec<u8> {
    let mut state = (label as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A name of this length with bytes that are no text.
fn name(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| if at % 2 == 0 { 0xff } else { b'\n' })
        .collect()
}

/// A mounted sample.
struct Volume {
    folder: tempfile::TempDir,
    server: Arc<FakeKmsd>,
}

impl Volume {
    fn new() -> Volume {
        let folder = tempfile::tempdir().unwrap();
        for name in ["lower", "mount"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let server = FakeKmsd::start(folder.path().join("kmsd.sock"));
        Volume { folder, server }
    }

    fn made(mode: ContentMode) -> Volume {
        let volume = Volume::new();
        let client = Client::new(&volume.server.socket);
        kmsfs::init::init(&client, &volume.lower(), "alias/a", "a sample", mode).unwrap();
        volume
    }

    fn unpacked(archive: &Path) -> Volume {
        let volume = Volume::new();
        run(Command::new("tar")
            .arg("-C")
            .arg(volume.lower())
            .args(["--xattrs", "--xattrs-include=*", "-xpzf"])
            .arg(archive));
        let record = fs::read(volume.lower().join(".kmsfs.volume")).unwrap();
        for policy in VolumeRecord::decode(&record).unwrap().policies {
            let mode = match policy.content_mode {
                ContentMode::Xts => kms_api::ContentMode::Xts,
                ContentMode::Gcm => kms_api::ContentMode::Gcm,
            };
            volume.server.modes.lock().insert(policy.policy.0, mode);
        }
        volume
    }

    fn pack(&self, archive: &Path) {
        run(Command::new("tar")
            .arg("-C")
            .arg(self.lower())
            .args([
                "--xattrs",
                "--xattrs-include=*",
                "--sparse",
                "--numeric-owner",
            ])
            .args(["--sort=name", "-czf"])
            .arg(archive)
            .arg("."));
    }

    fn lower(&self) -> PathBuf {
        self.folder.path().join("lower")
    }

    fn point(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn mount(&self) {
        run(Command::new(env!("CARGO_BIN_EXE_kmsfs"))
            .args(["mount", "--socket"])
            .arg(&self.server.socket)
            .arg("--control")
            .arg(self.control())
            .arg("--log")
            .arg(self.folder.path().join("log"))
            .arg(self.lower())
            .arg(self.point()));
    }

    fn unmount(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let quiet = || {
            let mut command = Command::new("fusermount3");
            command.args(["-u", "-q"]).arg(self.point());
            command.status().unwrap().success()
        };
        let wait_until = |what: &str, condition: &dyn Fn() -> bool| {
            while !condition() {
                assert!(Instant::now() < deadline, "{what}: {}", self.log());
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        // Busy for a moment while a test beside this one starts a program.
        wait_until("no unmount", &quiet);
        let mark = self.lower().join(".kmsfs.unclean");
        wait_until("no clean end", &|| !mark.exists());
    }

    fn protect(&self, name: &str, mode: ContentMode) {
        let command = Control::Protect {
            path: vec![BASE64.encode(name.as_bytes())],
            key: "alias/b".into(),
            mode: title(mode).to_uppercase(),
        };
        let answer = ask(&self.control(), &command, Duration::from_secs(20)).unwrap();
        assert!(matches!(answer, Answer::Protected(_)), "{answer:?}");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let mut command = Command::new("fusermount3");
        drop(command.args(["-u", "-z", "-q"]).arg(self.point()).status());
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// One of everything.
fn fill(folder: &Path) {
    for size in SIZES {
        fs::write(folder.join(format!("file-{size}")), content(size, size)).unwrap();
    }
    let names = folder.join("names");
    fs::create_dir(&names).unwrap();
    for length in NAMES {
        fs::write(
            names.join(OsStr::from_bytes(&name(length))),
            length.to_string(),
        )
        .unwrap();
    }
    let links = folder.join("links");
    fs::create_dir(&links).unwrap();
    for length in TARGETS {
        let target = OsStr::from_bytes(&vec![b't'; length]).to_owned();
        symlink(target, links.join(format!("to-{length}"))).unwrap();
    }
    fs::hard_link(folder.join("file-20000"), links.join("hard")).unwrap();
    let special = folder.join("special");
    fs::create_dir(&special).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        special.join("pipe"),
        FileType::Fifo,
        Mode::from(0o640),
        0,
    )
    .unwrap();
    let sparse = File::create(special.join("sparse")).unwrap();
    sparse.set_len(SPARSE).unwrap();
    for (number, at) in EXTENTS.into_iter().enumerate() {
        sparse.write_all_at(&content(number, 5_000), at).unwrap();
    }
    let punched = File::create(special.join("punched")).unwrap();
    punched.write_all_at(&content(77, 40_000), 0).unwrap();
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&punched, punch, 5_000, 20_000).unwrap();
    let marked = special.join("marked");
    fs::write(&marked, "marked").unwrap();
    fs::set_permissions(&marked, fs::Permissions::from_mode(0o4751)).unwrap();
    for (name, value) in attributes() {
        for object in [&marked, &names] {
            rustix::fs::setxattr(object, name.as_str(), &value, XattrFlags::empty()).unwrap();
        }
    }
    let times = fs::FileTimes::new().set_modified(UNIX_EPOCH - BEFORE_1970);
    OpenOptions::new()
        .write(true)
        .open(&marked)
        .unwrap()
        .set_times(times)
        .unwrap();
}

/// Short and long names, short and long values.
fn attributes() -> Vec<(String, Vec<u8>)> {
    vec![
        ("user.empty".into(), Vec::new()),
        ("user.mime_type".into(), b"text/plain".to_vec()),
        (format!("user.{}", "n".repeat(200)), content(5, 500)),
    ]
}

/// What the unclean samples have beside: done just before they were copied, and not synced.
fn work_on(folder: &Path) {
    let grown = OpenOptions::new()
        .append(true)
        .open(folder.join("file-20000"))
        .unwrap();
    std::io::Write::write_all(&mut &grown, &content(1, 5_000)).unwrap();
    let cut = OpenOptions::new()
        .write(true)
        .open(folder.join("file-8128"))
        .unwrap();
    cut.set_len(5_000).unwrap();
    fs::create_dir(folder.join("late")).unwrap();
    fs::write(folder.join("late/small"), content(2, 100)).unwrap();
    fs::write(folder.join("late/large"), content(3, 9_000)).unwrap();
}

fn check(folder: &Path, late: bool) {
    for size in SIZES {
        let mut expected = content(size, size);
        match size {
            20_000 if late => expected.extend(content(1, 5_000)),
            8_128 if late => expected.truncate(5_000),
            _ => {}
        }
        let path = folder.join(format!("file-{size}"));
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            expected.len() as u64,
            "{path:?}"
        );
        assert!(fs::read(&path).unwrap() == expected, "content of {path:?}");
    }
    let names = folder.join("names");
    let found: BTreeSet<Vec<u8>> = fs::read_dir(&names)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    assert_eq!(found, NAMES.into_iter().map(name).collect());
    for length in NAMES {
        let path = names.join(OsStr::from_bytes(&name(length)));
        assert_eq!(fs::read_to_string(path).unwrap(), length.to_string());
    }
    let links = folder.join("links");
    for length in TARGETS {
        let path = links.join(format!("to-{length}"));
        assert_eq!(fs::symlink_metadata(&path).unwrap().len(), length as u64);
        assert_eq!(
            fs::read_link(&path).unwrap().as_os_str().as_bytes(),
            vec![b't'; length]
        );
    }
    let (hard, first) = (links.join("hard"), folder.join("file-20000"));
    assert_eq!(
        fs::metadata(&hard).unwrap().ino(),
        fs::metadata(first).unwrap().ino()
    );
    assert_eq!(fs::metadata(&hard).unwrap().nlink(), 2);
    let special = folder.join("special");
    assert!(
        fs::metadata(special.join("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    check_holes(&special);
    let marked = special.join("marked");
    let metadata = fs::metadata(&marked).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o4751);
    assert_eq!(metadata.modified().unwrap(), UNIX_EPOCH - BEFORE_1970);
    for (name, value) in attributes() {
        for object in [&marked, &names] {
            let mut found = vec![0; 1_000];
            let length = rustix::fs::getxattr(object, name.as_str(), &mut found).unwrap();
            assert_eq!(found[..length], value, "{name} of {object:?}");
        }
    }
    if late {
        assert_eq!(
            fs::read(folder.join("late/small")).unwrap(),
            content(2, 100)
        );
        assert_eq!(
            fs::read(folder.join("late/large")).unwrap(),
            content(3, 9_000)
        );
    }
}

fn check_holes(special: &Path) {
    let sparse = File::open(special.join("sparse")).unwrap();
    assert_eq!(sparse.metadata().unwrap().len(), SPARSE);
    let mut bytes = vec![1; 5_000];
    for (number, at) in EXTENTS.into_iter().enumerate() {
        sparse.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes == content(number, 5_000), "extent {number}");
        sparse.read_exact_at(&mut bytes, at - 100_000).unwrap();
        assert!(bytes == vec![0; 5_000], "before extent {number}");
    }
    let mut expected = content(77, 40_000);
    expected[5_000..25_000].fill(0);
    assert!(fs::read(special.join("punched")).unwrap() == expected);
}

fn make_samples(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for (mode, other) in [(MODES[0], MODES[1]), (MODES[1], MODES[0])] {
        let volume = Volume::made(mode);
        volume.mount();
        let (own, nested) = (volume.point().join("own"), volume.point().join("nested"));
        fs::create_dir(&own).unwrap();
        fs::create_dir(&nested).unwrap();
        volume.protect("nested", other);
        fill(&own);
        fill(&nested);
        volume.unmount();
        volume.pack(&folder.join(format!("{}.tar.gz", title(mode))));
        volume.mount();
        work_on(&own);
        work_on(&nested);
        // As it would be after kill -9.
        volume.pack(&folder.join(format!("{}-unclean.tar.gz", title(mode))));
        volume.unmount();
    }
}

/// Mounts, reads all, works on, and reads it again.
fn use_sample(mode: ContentMode, late: bool) {
    let suffix = if late { "-unclean" } else { "" };
    let volume = Volume::unpacked(&samples().join(format!("{}{suffix}.tar.gz", title(mode))));
    volume.mount();
    let folders = ["own", "nested"].map(|name| volume.point().join(name));
    for folder in &folders {
        check(folder, late);
    }
    if !late {
        for folder in &folders {
            work_on(folder);
        }
    }
    volume.unmount();
    volume.mount();
    for folder in &folders {
        check(folder, true);
        fs::remove_dir_all(folder.join("special")).unwrap();
        fs::write(folder.join("new"), content(9, 9_999)).unwrap();
        assert_eq!(fs::read(folder.join("new")).unwrap(), content(9, 9_999));
    }
    volume.unmount();
    let log = volume.log();
    for word in ["ERROR", "damage", "alter"] {
        assert!(!log.contains(word), "{log}");
    }
}

/// Mounts by an ordinary user cannot give files to others, nor can that user unpack what root made.
fn able() -> bool {
    let able = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !able {
        println!("skipped: needs root and /dev/fuse");
    }
    able
}

#[test]
fn samples_of_format_1_are_mounted_and_used() {
    if !able() {
        return;
    }
    if let Some(folder) = std::env::var_os("KMSFS_MAKE_SAMPLES") {
        make_samples(Path::new(&folder));
    }
    for mode in MODES {
        use_sample(mode, false);
    }
}

#[test]
fn samples_of_format_1_from_an_unclean_stop_are_mounted_and_used() {
    if !able() {
        return;
    }
    for mode in MODES {
        use_sample(mode, true);
    }
}
