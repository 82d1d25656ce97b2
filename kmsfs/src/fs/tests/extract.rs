//! Rescue from a lower tree, whole and damaged.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kms_format::ContentMode;
use kms_format::volume::VolumeRecord;

use super::check::{LONG, flip, sample, sample_in};
use super::world::{World, me, noise};
use crate::extract::{Extracted, Options, extract};
use crate::fs::NodeId;

const SALVAGE: Options = Options { salvage: true };

fn run(world: &World, destination: &Path, options: Options) -> Extracted {
    let record = fs::read(world.lower().join(".kmsfs.volume")).unwrap();
    let record = VolumeRecord::decode(&record).unwrap();
    extract(
        world.lower(),
        destination,
        &*world.keys,
        &record,
        options,
        &mut |_| {},
    )
    .unwrap()
}

/// Every path with its content (or link target), mode and time of change.
fn tree(root: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let content = if meta.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if meta.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let name = path.strip_prefix(root).unwrap().to_owned();
            found.insert(
                name,
                (content, meta.mode(), meta.mtime(), meta.mtime_nsec()),
            );
        }
    }
    found
}

#[test]
fn everything_comes_back_and_a_second_run_writes_nothing() {
    let mut world = sample();
    world.remount();
    let odd = OsStr::from_bytes(b"odd \xff name");
    world
        .fs()
        .mknod(&me(), NodeId::ROOT, odd, libc::S_IFIFO | 0o640, 0, 0)
        .unwrap();
    // A hole of 8 MiB between data.
    let (entry, fh) = world.create(NodeId::ROOT, "sparse");
    world.write(fh, 0, &noise(5, 5000));
    world.write(fh, 8 << 20, &noise(6, 5000));
    world.fs().release(fh);
    let (inner, long) = (["dir", "inner"], ["dir", LONG]);
    let inner = world.at(&inner).unwrap();
    assert_eq!(world.get(world.at(&long).unwrap().node).unwrap(), b"long");
    world.unmount();
    let _ = entry;

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let first = run(&world, &out, Options::default());
    assert_eq!(first.losses.len(), 0, "{:?}", first.losses);
    assert_eq!(first.counts.directories, 3);
    let read = |path: &str| fs::read(out.join(path)).unwrap();
    assert_eq!(read("inline"), b"small");
    assert_eq!(read("units"), noise(1, 100_000));
    assert_eq!(read("dir/inner"), b"inner content");
    assert_eq!(read("dir/deep/last"), noise(2, 5000));
    assert_eq!(read("dir/never written"), b"");
    assert_eq!(fs::read(out.join("dir").join(LONG)).unwrap(), b"long");
    assert_eq!(
        fs::read_link(out.join("dir/far")).unwrap(),
        Path::new(&"x".repeat(2000))
    );
    let meta = |path: &str| out.join(path).symlink_metadata().unwrap();
    assert_eq!(meta("dir/linked").ino(), meta("dir/deep/other name").ino());
    assert_eq!(meta("dir/inner").mtime(), inner.attr.mtime.secs);
    assert_eq!(meta("dir/inner").mode() & 0o7777, 0o644);
    let fifo = out.join(odd).symlink_metadata().unwrap();
    assert_eq!(fifo.mode(), libc::S_IFIFO | 0o640);
    let sparse = read("sparse");
    assert_eq!(sparse.len(), (8 << 20) + 5000);
    assert_eq!(sparse[8 << 20..], noise(6, 5000));
    assert!(meta("sparse").blocks() < 1000, "the hole is a hole");
    let mut value = [0; 16];
    match rustix::fs::getxattr(out.join("dir/inner"), "user.shape", &mut value) {
        Ok(length) => assert_eq!(&value[..length], b"round"),
        Err(error) => assert_eq!(error, rustix::io::Errno::OPNOTSUPP),
    }

    let before = tree(&out);
    let again = run(&world, &out, Options::default());
    assert_eq!((again.written, again.losses.len()), (0, 0));
    assert_eq!(tree(&out), before);

    // What was spoilt since is put right, with as little writing as need be.
    let units = fs::File::options()
        .write(true)
        .open(out.join("units"))
        .unwrap();
    units.write_all_at(b"spoilt", 70_000).unwrap();
    units.set_len(200_000).unwrap();
    fs::write(out.join("dir/inner"), "another").unwrap();
    fs::remove_file(out.join("dir/short")).unwrap();
    let mended = run(&world, &out, Options::default());
    assert_eq!(mended.losses.len(), 0);
    assert!(mended.written > 0);
    assert_eq!(tree(&out), before);
}

#[test]
fn damage_is_listed_and_the_rest_is_read() {
    let mut world = sample();
    world.remount();
    let lower = |path: &[&str]| world.lower_of(&world.at(path).unwrap());
    let (units, long, deep, link) = (
        lower(&["units"]),
        lower(&["dir", LONG]),
        lower(&["dir", "deep"]),
        lower(&["dir", "short"]),
    );
    let ino = |path: &[&str]| world.at(path).unwrap().attr.ino;
    let (long_ino, last_ino) = (ino(&["dir", LONG]), ino(&["dir", "deep", "last"]));
    world.unmount();
    flip(&units, 56);
    let stored = long.file_name().unwrap().to_str().unwrap();
    fs::remove_file(long.with_file_name(format!(".kmsfs.n.{}", &stored[1..]))).unwrap();
    flip(&deep.join(".kmsfs"), 90);
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("nonsense", &link).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let done = run(&world, folder.path(), SALVAGE);
    let mut losses: Vec<_> = done
        .losses
        .iter()
        .map(|loss| (loss.plain_path.as_str(), loss.what.as_str()))
        .collect();
    losses.sort_unstable();
    let expected = [
        ("/dir/?", "name"),
        ("/dir/deep", "name"),
        ("/dir/short", "object"),
        ("/units", "object"),
    ];
    assert_eq!(losses, expected, "{:#?}", done.losses);
    let read = |path: String| fs::read(folder.path().join(path)).unwrap();
    assert_eq!(read(format!("dir/lost+found.#{long_ino}")), b"long");
    let last = format!("dir/deep/lost+found.#{last_ino}");
    assert_eq!(read(last), noise(2, 5000));
    assert_eq!(read("dir/inner".to_owned()), b"inner content");
    assert!(!folder.path().join("units").exists());
    // The lower tree is as it was.
    assert!(fs::read_link(&link).is_ok());
}

#[test]
fn a_damaged_root_header_costs_only_the_names_in_it() {
    let mut world = sample();
    world.remount();
    let ino = world.at(&["units"]).unwrap().attr.ino;
    let dir = world.at(&["dir"]).unwrap().attr.ino;
    world.unmount();
    flip(&world.lower().join(".kmsfs"), 90);
    let folder = tempfile::tempdir().unwrap();
    let done = run(&world, folder.path(), Options::default());
    assert_eq!(done.losses.len(), 1, "{:#?}", done.losses);
    let name = |ino| format!("lost+found.#{ino}");
    let read = |path: String| fs::read(folder.path().join(path)).unwrap();
    assert_eq!(read(name(ino)), noise(1, 100_000));
    assert_eq!(read(format!("{}/inner", name(dir))), b"inner content");
}

#[test]
fn a_refused_policy_is_a_loss_and_the_others_are_read() {
    let mut world = sample();
    world.remount();
    let policy = world.keys.add(world.volume);
    let safe = world.mkdir(NodeId::ROOT, "safe");
    world.fs().protect(safe, &policy).unwrap();
    world.put(safe, "secret", b"secret");
    world.unmount();
    let folder = tempfile::tempdir().unwrap();
    world.keys.forget(&policy);
    let done = run(&world, folder.path(), Options::default());
    assert_eq!(done.losses.len(), 1);
    assert_eq!(done.losses[0].plain_path, "/safe");
    assert!(!folder.path().join("safe").exists());
    world.keys.put_back(policy);
    let done = run(&world, folder.path(), Options::default());
    assert_eq!(done.losses.len(), 0);
    assert_eq!(
        fs::read(folder.path().join("safe/secret")).unwrap(),
        b"secret"
    );
}

#[test]
fn a_deep_tree_is_extracted_with_few_descriptors() {
    let mut world = sample();
    world.remount();
    let mut node = NodeId::ROOT;
    for _ in 0..200 {
        world.put(node, "file", b"x");
        world.mkdir(node, "side");
        node = world.mkdir(node, "d");
    }
    world.unmount();
    let folder = tempfile::tempdir().unwrap();
    let done = run(&world, folder.path(), Options::default());
    assert_eq!(done.losses.len(), 0, "{:?}", done.losses);
    assert_eq!(done.counts.directories, 3 + 400);
    let mut path = folder.path().to_owned();
    path.extend(std::iter::repeat_n("d", 199));
    assert_eq!(fs::read(path.join("file")).unwrap(), b"x");
    assert_eq!(
        path.join("side").metadata().unwrap().permissions().mode() & 0o777,
        0o755
    );
}

#[test]
fn a_read_only_lower_tree_is_enough() {
    // What a rescue opens for writing in the lower tree would fail on a snapshot; root ignores modes, so look at the result.
    let world = sample();
    let before = tree(world.lower());
    let folder = tempfile::tempdir().unwrap();
    run(&world, folder.path(), SALVAGE);
    assert_eq!(tree(world.lower()), before);
}

#[test]
fn good_parts_of_a_damaged_file_are_salvaged_if_asked_to() {
    let mut world = sample_in(ContentMode::Gcm);
    world.remount();
    let lower = world.lower_of(&world.at(&["units"]).unwrap());
    world.unmount();
    for unit in [0, 10] {
        flip(&lower, 4096 * (unit + 1) + 100);
    }
    let folder = tempfile::tempdir().unwrap();
    let done = run(&world, folder.path(), Options::default());
    assert_eq!(done.losses.len(), 1, "{:#?}", done.losses);
    assert_eq!(done.losses[0].what, "object");
    assert!(done.losses[0].reason.contains("--salvage"));
    assert!(!folder.path().join("units").exists());
    assert_eq!(
        fs::read(folder.path().join("dir/inner")).unwrap(),
        b"inner content"
    );

    let done = run(&world, folder.path(), SALVAGE);
    assert_eq!(done.losses.len(), 1, "{:#?}", done.losses);
    assert_eq!(done.losses[0].what, "content");
    for range in ["bytes 0 to 4064", "bytes 40640 to 44704"] {
        assert!(done.losses[0].reason.contains(range), "{:?}", done.losses);
    }
    let mut expected = noise(1, 100_000);
    expected[..4064].fill(0);
    expected[40640..44704].fill(0);
    assert!(fs::read(folder.path().join("units")).unwrap() == expected);
}
