//! The table once more on a real mount, with kmsd and the kernel in between: the first case of each row, and the rows that are
//! about what kmsd and the owners of files have to say.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_format::ContentMode;
use kms_format::volume::VolumeRecord;
use kms_tests::cli;
use kms_tests::daemon::path_text;
use kms_tests::mount::Mount;
use kms_tests::require;
use kms_tests::world::World;
use rustix::fs::XattrFlags;
use serde_json::json;

use crate::case::{Case, Change, Look, Outcome};
use crate::fuzz::calls::inodes;
use crate::fuzz::input::from_seed;
use crate::fuzz::keys::policy_of;
use crate::fuzz::sample::{self, MARK, Sample};
use crate::fuzz::tree::Tree;
use crate::rows;
use crate::table::{Row, table};

const RECORD: &str = ".kmsfs.volume";

/// A volume with the objects of the sample, made through a mount.
struct Volume {
    world: World,
    lower: PathBuf,
    sample: Sample,
    /// The volume record before there were policies below the root.
    first_record: Vec<u8>,
}

fn machine_can() -> bool {
    require::fuse() && require::tpm() && require::as_root()
}

fn put_contents(mount: &Mount, older: bool) {
    for (path, content) in sample::contents(older) {
        fs::write(mount.path(path), content).unwrap();
    }
    if has_xattrs(mount) {
        let first: &[u8] = if older { b"an older value" } else { b"a value" };
        for path in ["folder/small", "folder/large", "folder"] {
            set(&mount.path(path), "user.first", first);
            set(&mount.path(path), "user.second", b"its sister");
        }
    }
}

fn has_xattrs(mount: &Mount) -> bool {
    let root = &mount.lower;
    rustix::fs::setxattr(root, "user.probe", b"x", XattrFlags::empty()).is_ok()
        && rustix::fs::removexattr(root, "user.probe").is_ok()
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

impl Volume {
    fn new(mode: ContentMode) -> Volume {
        let world = World::start();
        for alias in ["alias/root", "alias/nested"] {
            world.key(alias);
        }
        let refused = world.key("alias/foreign");
        let lower = world.path("volume.lower");
        fs::create_dir(&lower).unwrap();
        let wire = match mode {
            ContentMode::Xts => "xts",
            ContentMode::Gcm => "gcm",
        };
        let with = ["--key", "alias/root", "--mode", wire];
        world
            .kmsctl(&[&["fs", "init", path_text(&lower)][..], &with].concat())
            .ok();
        let first_record = fs::read(lower.join(RECORD)).unwrap();
        let mount = world.mount(&lower);
        for name in [
            "folder",
            "folder/inner",
            "other",
            "nested",
            "foreign",
            "bare",
        ] {
            fs::create_dir(mount.path(name)).unwrap();
        }
        for name in ["nested", "foreign"] {
            let (path, key) = (mount.path(name), format!("alias/{name}"));
            world
                .kmsctl(&[
                    "fs",
                    "protect",
                    path_text(&path),
                    "--key",
                    &key,
                    "--mode",
                    wire,
                ])
                .ok();
        }
        fs::create_dir(mount.path("nested/sub")).unwrap();
        put_contents(&mount, true);
        mount.unmount();
        let older = Tree::read(&lower);
        let mount = world.mount(&lower);
        put_contents(&mount, false);
        for (path, target) in sample::targets() {
            symlink(target, mount.path(path)).unwrap();
        }
        let sparse = fs::File::create(mount.path("folder/sparse")).unwrap();
        for offset in [0, 36 * 1024] {
            sparse
                .write_all_at(&sample::large(true)[..4096], offset)
                .unwrap();
        }
        drop(sparse);
        let fifo = mount.path("folder/fifo");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, fifo, kind, 0o644.into(), 0).unwrap();
        fs::write(mount.path("foreign/file"), MARK.repeat(500)).unwrap();
        let xattrs = has_xattrs(&mount);
        let numbers = inodes(&lower);
        let mut places = kms_tests::tree::walk(&mount.point);
        places.sort();
        let places = places.into_iter().map(|path| {
            use std::os::unix::fs::MetadataExt as _;
            let plain = path
                .strip_prefix(&mount.point)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let depth = plain.matches('/').count();
            let found = numbers[&(path.symlink_metadata().unwrap().ino(), depth)].clone();
            (plain, found)
        });
        let places = places.chain([(String::new(), String::new())]).collect();
        mount.unmount();
        world.call("DisableKey", &json!({ "KeyId": refused }));
        let own = crate::fuzz::sample::sample(mode);
        let sample = Sample {
            mode,
            keys: Arc::default(),
            policy: Arc::new(policy_of(1, 2, 1, mode)),
            tree: Tree::read(&lower),
            older,
            lower: places,
            other: own.other.clone(),
            other_lower: own.other_lower.clone(),
            xattrs,
        };
        Volume {
            world,
            lower,
            sample,
            first_record,
        }
    }

    /// Puts a tree in the place of the lower one.
    fn write(&self, tree: &Tree) {
        for entry in fs::read_dir(&self.lower).unwrap() {
            let path = entry.unwrap().path();
            let is_dir = path.symlink_metadata().unwrap().is_dir();
            if is_dir {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
            .unwrap();
        }
        tree.write(&self.lower);
    }

    /// What `kmsfs mount` says when it refuses.
    fn refusal(&self) -> Option<String> {
        let point = self.world.path("refused");
        fs::create_dir_all(&point).unwrap();
        let arguments = ["mount", path_text(&self.lower), path_text(&point)];
        let said = cli::run("kmsfs", &arguments, Some(&self.world.daemon.socket()));
        if said.code == 0 {
            kms_tests::mount::unmount(&point).unwrap();
            return None;
        }
        Some(said.stderr)
    }

    /// Carries a case out, as `Baseline::outcomes` does without a mount.
    fn outcome(&self, name: &str, case: Case, expected: Outcome) -> Outcome {
        let mut tree = self.sample.tree.clone();
        match case.change {
            Change::Bit(ref lower, bit) => {
                tree.at(lower).bytes().unwrap()[bit / 8] ^= 1 << (bit % 8);
            }
            Change::Any(change) => change(&mut tree),
        }
        self.write(&self.sample.tree);
        let before = if expected == Outcome::Harmless || expected == Outcome::Noise {
            let mount = self.world.mount(&self.lower);
            let before = look(&mount, &case.path, &case.look);
            mount.unmount();
            before.ok()
        } else {
            None
        };
        self.write(&tree);
        if expected == Outcome::Refused {
            return match self.refusal() {
                Some(said) => {
                    assert!(
                        said.lines().count() > 0 && !said.contains("panicked"),
                        "{name}: {said}"
                    );
                    Outcome::Refused
                }
                None => Outcome::Harmless,
            };
        }
        let earlier = fs::read(self.world.path("volume.log")).map_or(0, |log| log.len());
        let mut mount = self.world.mount(&self.lower);
        let held = case
            .held
            .as_ref()
            .map(|path| fs::File::open(mount.path(path)));
        let found = look(&mount, &case.path, &case.look);
        drop(held);
        // The witness hangs on nothing that the cases touch.
        if name != "dir-swapped" {
            let witness = fs::read_to_string(mount.path("other/witness")).unwrap();
            assert_eq!(witness, "unharmed", "{name}");
        }
        mount.process().assert_running();
        let log = mount.log().split_off(earlier);
        mount.unmount();
        assert!(!log.contains("panicked"), "{name}: {log}");
        let lines = log.lines().filter(|line| line.contains("ERROR"));
        let named = lines.filter(|line| line.contains(&case.lower)).count();
        let outcome = match found.map_err(|error| error.raw_os_error()) {
            Err(Some(libc::EIO)) => Outcome::Eio,
            Err(Some(libc::ENOKEY)) => Outcome::Enokey,
            Err(Some(libc::ENOENT | libc::ENODATA)) if named > 0 => Outcome::Hidden,
            Err(Some(libc::ENOENT | libc::ENODATA)) => Outcome::Gone,
            Err(other) => panic!("{name}: error {other:?}"),
            Ok(_) if named > 0 => Outcome::Hidden,
            Ok(found) if Some(&found) == before.as_ref() => Outcome::Harmless,
            Ok(found) if Some(&found) == case.shows.as_ref() => Outcome::Shows,
            Ok(_) => Outcome::Noise,
        };
        let said = matches!(outcome, Outcome::Eio | Outcome::Hidden);
        assert_eq!(
            said,
            named > 0,
            "{name}: {outcome:?}, but the log says: {log}"
        );
        outcome
    }

    /// The volume record, changed, with a right checksum.
    fn with_record(&self, change: impl FnOnce(&mut VolumeRecord)) {
        self.write(&self.sample.tree);
        let path = self.lower.join(RECORD);
        let mut record = VolumeRecord::decode(&fs::read(&path).unwrap()).unwrap();
        change(&mut record);
        fs::write(path, record.encode().unwrap()).unwrap();
    }

    /// What becomes of `nested/file`, or of the whole mount.
    fn nested(&self) -> Outcome {
        if self.refusal().is_some() {
            return Outcome::Refused;
        }
        let mount = self.world.mount(&self.lower);
        assert_eq!(fs::read(mount.path("other/witness")).unwrap(), b"unharmed");
        let found = fs::read(mount.path("nested/file"));
        mount.unmount();
        match found.map_err(|error| error.raw_os_error()) {
            Ok(content) if content == b"under a policy of its own" => Outcome::Harmless,
            Err(Some(libc::ENOKEY)) => Outcome::Enokey,
            other => panic!("{other:?}"),
        }
    }

    fn of_kmsd(&self, name: &str) -> Outcome {
        match name {
            "volume-record-damaged" => {
                self.write(&self.sample.tree);
                let path = self.lower.join(RECORD);
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                fs::write(path, bytes).unwrap();
                self.nested()
            }
            "volume-record-removed" => {
                self.write(&self.sample.tree);
                fs::remove_file(self.lower.join(RECORD)).unwrap();
                self.nested()
            }
            "volume-record-older" => {
                self.write(&self.sample.tree);
                fs::write(self.lower.join(RECORD), &self.first_record).unwrap();
                self.nested()
            }
            "policy-record-edited" => {
                self.with_record(|record| {
                    let [first, second, third] = &mut record.policies[..] else {
                        panic!("three policies")
                    };
                    std::mem::swap(&mut first.key_arn, &mut second.key_arn);
                    third.content_mode = match third.content_mode {
                        ContentMode::Xts => ContentMode::Gcm,
                        ContentMode::Gcm => ContentMode::Xts,
                    };
                    second.content_mode = third.content_mode;
                });
                self.nested()
            }
            "policy-record-swapped" => {
                self.with_record(|record| {
                    let [_, second, third] = &mut record.policies[..] else {
                        panic!("three policies")
                    };
                    std::mem::swap(&mut second.data_key, &mut third.data_key);
                });
                self.nested()
            }
            "plain-attributes" => self.plain_attributes(),
            _ => panic!("{name} is not carried out"),
        }
    }

    fn plain_attributes(&self) -> Outcome {
        use std::os::unix::fs::MetadataExt as _;
        self.write(&self.sample.tree);
        let lower = self.lower.join(self.sample.lower("folder/small"));
        std::os::unix::fs::chown(&lower, Some(1234), Some(1235)).unwrap();
        fs::set_permissions(&lower, fs::Permissions::from_mode(0o6755)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::options()
            .write(true)
            .open(&lower)
            .unwrap()
            .set_modified(time)
            .unwrap();
        set(&lower, "security.attacker", b"label");
        set(&lower, "trusted.attacker", b"hint");
        let mount = self.world.mount(&self.lower);
        let path = mount.path("folder/small");
        let meta = path.metadata().unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (1234, 1235, 0o6755)
        );
        assert_eq!(meta.modified().unwrap(), time);
        for (name, value) in [("security.attacker", "label"), ("trusted.attacker", "hint")] {
            let mut found = [0; 16];
            let length = rustix::fs::lgetxattr(&path, name, &mut found).unwrap();
            assert_eq!(&found[..length], value.as_bytes());
        }
        assert_eq!(fs::read(&path).unwrap(), b"the present small file");
        mount.unmount();
        Outcome::Shows
    }
}

fn look(mount: &Mount, path: &str, look: &Look) -> std::io::Result<Vec<u8>> {
    let full = mount.path(path);
    let names = |folder: &Path| -> std::io::Result<Vec<Vec<u8>>> {
        let all: Result<Vec<_>, _> = fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.file_name().as_bytes().to_vec()))
            .collect();
        let mut all = all?;
        all.sort();
        Ok(all)
    };
    if let Look::Listed = look {
        let (folder, name) = (full.parent().unwrap(), full.file_name().unwrap());
        let listed = names(folder)?.iter().any(|found| found == name.as_bytes());
        return if listed {
            Ok(b"listed".to_vec())
        } else {
            Err(rustix::io::Errno::NOENT.into())
        };
    }
    let meta = full.symlink_metadata()?;
    match look {
        Look::Attribute(name) => {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(&full, name.as_str(), &mut value)?;
            value.truncate(length);
            Ok(value)
        }
        Look::Attributes => {
            let mut list = vec![0; 65_536];
            let length = rustix::fs::llistxattr(&full, &mut list)?;
            list.truncate(length);
            let mut all: Vec<_> = list.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
            all.sort();
            Ok(all.join(&b' '))
        }
        Look::Mode => Ok((meta.permissions().mode() & 0o7777).to_le_bytes().to_vec()),
        _ if meta.is_dir() => Ok(names(&full)?.join(&b'/')),
        _ if meta.is_symlink() => Ok(fs::read_link(full)?.as_os_str().as_bytes().to_vec()),
        _ if meta.file_type().is_fifo() => Ok(b"Fifo".to_vec()),
        _ if meta.file_type().is_char_device() => Ok(b"CharDevice".to_vec()),
        _ => {
            let mut content = Vec::new();
            let file = fs::File::open(full)?;
            // As much as is compared without a mount.
            std::io::Read::read_to_end(&mut std::io::Read::take(file, 1 << 20), &mut content)?;
            Ok(content)
        }
    }
}

fn carried_out(mode: ContentMode) {
    if !machine_can() || !sample::MODES.contains(&mode) {
        return;
    }
    let volume = Volume::new(mode);
    let expected = |row: &Row| match mode {
        ContentMode::Xts => row.xts,
        ContentMode::Gcm => row.gcm,
    };
    let table = table();
    let only = std::env::var("KMS_TESTS_ROW").ok();
    let chosen = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let mut wrong = Vec::new();
    for (name, cases) in rows::in_process().filter(|(name, _)| chosen(name)) {
        let Some(expected) = expected(&table[name]) else {
            continue;
        };
        let Some(case) = cases(&volume.sample).into_iter().next() else {
            continue;
        };
        let outcome = volume.outcome(name, case, expected);
        if outcome != expected {
            wrong.push(format!("{name}: {outcome:?}, not {expected:?}"));
        }
    }
    for name in rows::ON_A_MOUNT.iter().filter(|name| chosen(name)) {
        let outcome = volume.of_kmsd(name);
        if Some(outcome) != expected(&table[name]) {
            wrong.push(format!("{name}: {outcome:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// SEMANTICS: content of mode xts
#[test]
fn the_table_is_true_on_a_mount_for_xts() {
    carried_out(ContentMode::Xts);
}

#[test]
fn the_table_is_true_on_a_mount_for_gcm() {
    carried_out(ContentMode::Gcm);
}

/// Trees changed at random, as in `seeds`, through the kernel.
#[test]
fn changed_lower_trees_are_used_through_the_kernel() {
    if !machine_can() {
        return;
    }
    let volumes = [ContentMode::Xts, ContentMode::Gcm].map(Volume::new);
    let count = if std::env::var_os("KMS_TESTS_FULL").is_some() {
        500
    } else {
        16_u64
    };
    for seed in 0..count {
        let volume = &volumes[usize::from(seed % 2 == 1)];
        let mut tree = volume.sample.tree.clone();
        let bytes = from_seed(seed + 1_000_000, 150);
        crate::fuzz::mutate::mutate(
            &volume.sample,
            &mut tree,
            &mut crate::fuzz::input::Input::new(&bytes),
        );
        volume.write(&tree);
        if let Some(said) = volume.refusal() {
            assert!(!said.contains("panicked"), "seed {seed}: {said}");
            continue;
        }
        let mut mount = volume.world.mount(&volume.lower);
        // A hang in here would be one for a user, too: `timeout` ends it, and the test with it.
        let script = "find . -print0 | xargs -0 -n 20 stat >/dev/null 2>&1; \
            find . -type f -size -2M -print0 | xargs -0 cat 2>/dev/null; \
            find . -type l -print0 | xargs -0 -n 1 readlink 2>/dev/null; \
            find . -type f -print0 | xargs -0 getfattr -d 2>/dev/null; \
            for f in folder/* nested/*; do [ -f \"$f\" ] && echo more >>\"$f\"; mv \"$f\" \"$f.moved\"; done 2>/dev/null; \
            rm -rf folder other 2>/dev/null; mkdir -p folder/new && echo x >folder/new/file; sync -f .";
        let output = std::process::Command::new("timeout")
            .args(["--kill-after=5", "60", "sh", "-c", script])
            .current_dir(&mount.point)
            .output()
            .unwrap();
        assert!(
            !matches!(output.status.code(), Some(124 | 137) | None),
            "seed {seed}: it hangs"
        );
        let marked = output
            .stdout
            .windows(MARK.len())
            .any(|window| window == MARK);
        assert!(!marked, "seed {seed}: plaintext under a refused key");
        mount.process().assert_running();
        let log = mount.log();
        assert!(!log.contains("panicked"), "seed {seed}: {log}");
        mount.unmount();
    }
}
