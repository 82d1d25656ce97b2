//! `kmsctl fs rekey --mode` on a mount in use: from not authenticated to authenticated, and back.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kms_tests::daemon::path_text;
use kms_tests::world::World;
use serde_json::Value;

const FILES: usize = 60;
const LARGE: usize = 5_000_000;
/// Of the sparse file: it has four bytes at its beginning and end.
const SPARSE: u64 = 64 << 20;

fn content(number: usize) -> Vec<u8> {
    // Inline and in units.
    vec![number as u8; number * 311]
}

fn large() -> Vec<u8> {
    (0..LARGE).map(|at| (at / 7) as u8).collect()
}

fn plant(root: &Path) {
    for number in 0..FILES {
        let dir = root.join(format!("dir {}", number % 5));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("file {number}")), content(number)).unwrap();
    }
    fs::write(root.join("large"), large()).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("large"), "user.what", b"large", flags).unwrap();
    fs::hard_link(root.join("large"), root.join("dir 0/also large")).unwrap();
    File::create(root.join("empty")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"head", 0).unwrap();
    sparse.write_all_at(b"tail", SPARSE - 4).unwrap();
}

fn check(root: &Path) {
    for number in 0..FILES {
        let path = root.join(format!("dir {}/file {number}", number % 5));
        assert_eq!(path.metadata().unwrap().len(), (number * 311) as u64);
        assert!(fs::read(&path).unwrap() == content(number), "{path:?}");
    }
    for name in ["large", "dir 0/also large"] {
        let path = root.join(name);
        assert!(fs::read(&path).unwrap() == large(), "{name}");
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&path, "user.what", &mut value).unwrap();
        assert_eq!(&value[..length], b"large");
    }
    let inode = |name: &str| root.join(name).metadata().unwrap().ino();
    assert_eq!(inode("large"), inode("dir 0/also large"));
    assert_eq!(fs::read(root.join("empty")).unwrap(), b"");
    let sparse = root.join("sparse").metadata().unwrap();
    assert_eq!(sparse.len(), SPARSE);
    assert!(
        sparse.blocks() * 512 < 1 << 20,
        "{} blocks",
        sparse.blocks()
    );
    let mut ends = [0; 8];
    let file = File::open(root.join("sparse")).unwrap();
    file.read_exact_at(&mut ends[..4], 0).unwrap();
    file.read_exact_at(&mut ends[4..], SPARSE - 4).unwrap();
    assert_eq!(&ends, b"headtail");
}

fn report(said: &str) -> Value {
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

/// Files by mode of the first policy that has such a key, as `fs status --count` says.
fn modes(world: &World, lower: &Path, alias: &str) -> Value {
    let key = world.kmsctl(&["key", "describe", alias, "--json"]).ok();
    let key: Value = serde_json::from_str(&key.stdout).unwrap();
    let arn = key["KeyMetadata"]["Arn"].as_str();
    let arn = arn.or_else(|| key["arn"].as_str()).map(str::to_owned);
    let said = world
        .kmsctl(&["fs", "status", path_text(lower), "--count", "--json"])
        .ok();
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    let policies = said[0]["policies"].as_array().unwrap();
    let found = policies.iter().find(|policy| {
        arn.as_deref()
            .is_some_and(|arn| policy.to_string().contains(arn))
    });
    found.unwrap_or_else(|| panic!("{alias}: {said:#}"))["counted"]["modes"].clone()
}

/// SEMANTICS: rekey --mode
#[test]
fn a_tree_in_use_gets_the_other_mode_and_back() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/old");
    world.key("alias/new");
    world.key("alias/nested");
    let lower = world.volume("volume", "alias/old");
    let mut mount = world.mount(&lower);
    plant(&mount.point);
    fs::create_dir(mount.path("nested")).unwrap();
    let nested = mount.path("nested");
    world
        .kmsctl(&["fs", "protect", path_text(&nested), "--key", "alias/nested"])
        .ok();
    fs::write(nested.join("file"), vec![9; 9000]).unwrap();

    for (round, (key, mode)) in [
        ("alias/new", "gcm"),
        ("alias/new", "xts"),
        ("alias/old", "gcm"),
    ]
    .into_iter()
    .enumerate()
    {
        let held = OpenOptions::new()
            .read(true)
            .write(true)
            .open(mount.path("large"))
            .unwrap();
        let stop = AtomicBool::new(false);
        let point = path_text(&mount.point).to_owned();
        let said = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (all, mut rounds) = (large(), 0_usize);
                while !stop.load(Ordering::SeqCst) || rounds == 0 {
                    let at = (rounds * 777_777) % (LARGE - 100_000);
                    // What is there already, and something else before.
                    held.write_all_at(&[0xee; 50_000], at as u64).unwrap();
                    held.write_all_at(&all[at..at + 50_000], at as u64).unwrap();
                    let path = mount.path(format!("written {}", rounds % 3));
                    fs::write(&path, vec![rounds as u8; 9000]).unwrap();
                    assert_eq!(fs::read(&path).unwrap(), vec![rounds as u8; 9000]);
                    rounds += 1;
                }
            });
            let rekey = ["fs", "rekey", &point, "--key", key, "--mode", mode];
            let more: &[&str] = if round == 2 {
                &["--destroy-old", "--json"]
            } else {
                &["--json"]
            };
            let said = world.kmsctl(&[&rekey[..], more].concat());
            stop.store(true, Ordering::SeqCst);
            writer.join().unwrap();
            said
        });
        let said = report(&said.ok().stdout);
        assert_eq!(said["finished"], true, "{said:#}");
        if round == 2 {
            assert_eq!(said["ended"], serde_json::json!([1, 2, 3]), "{said:#}");
        }
        drop(held);
        check(&mount.point);
        assert_eq!(fs::read(nested.join("file")).unwrap(), vec![9; 9000]);
        mount.unmount();
        assert!(!lower.join(".kmsfs.copies").exists());
        let counted = modes(&world, &lower, key);
        let counted: Vec<_> = counted.as_object().unwrap().keys().collect();
        assert_eq!(counted, [&mode.to_uppercase()]);
        let counted = modes(&world, &lower, "alias/nested");
        assert_eq!(counted, serde_json::json!({ "XTS": 1 }));
        world
            .kmsctl(&["fs", "check", path_text(&lower), "--content"])
            .ok();
        mount = world.mount(&lower);
        check(&mount.point);
    }
    let said = world.kmsctl(&[
        "fs",
        "rekey",
        path_text(&mount.point),
        "--key",
        "alias/old",
        "--mode",
        "gcm",
    ]);
    assert!(said.stderr.contains("already"), "{}", said.stderr);

    // Now what somebody changes below is noticed.
    let inode = mount.path("large").metadata().unwrap().ino();
    mount.unmount();
    let below = lower_of(&lower, inode).expect("the lower file");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&below)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1_000_000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 1_000_000).unwrap();
    drop(file);
    let mount = world.mount(&lower);
    let read = fs::read(mount.path("large"));
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
    mount.unmount();
}

fn lower_of(folder: &Path, inode: u64) -> Option<std::path::PathBuf> {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let found = entry.metadata().unwrap();
        if found.ino() == inode {
            return Some(entry.path());
        }
        if found.is_dir()
            && let Some(found) = lower_of(&entry.path(), inode)
        {
            return Some(found);
        }
    }
    None
}
