//! Damage of every kind, made by hand on a lower tree: found, named, repaired, and nothing else touched.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kms_format::volume::{PolicyRecord, VolumeRecord};
use kms_format::{ContentMode, DirHeader};

use super::world::{World, me, noise};
use crate::check::{Code, Options, Outcome, Report, Severity, check};
use crate::errno::Errno;
use crate::fs::NodeId;
use crate::volume::Keys;

pub(super) const LONG: &str = "a name that is so long that the lower directory can only hold its digest, with the name itself in a \
    record beside it, which takes more than one hundred and sixty bytes of name, as this one has";

/// An empty volume with a record, as kmsctl makes it.
fn recorded(mode: ContentMode) -> World {
    let world = World::with(mode);
    let root = fs::read(world.lower().join(".kmsfs")).unwrap();
    let header = DirHeader::decode(&root).unwrap();
    let mut record = VolumeRecord::new(world.volume, "test");
    record.policies.push(PolicyRecord {
        policy: header.policy(),
        generation: 1,
        key_arn: "arn".to_owned(),
        content_mode: mode,
        data_key: vec![1],
    });
    fs::write(
        world.lower().join(".kmsfs.volume"),
        record.encode().unwrap(),
    )
    .unwrap();
    let root = world.lower().join(".kmsfs");
    fs::set_permissions(root, fs::Permissions::from_mode(0o600)).unwrap();
    world
}

/// A volume with something of everything in it, not mounted.
pub(super) fn sample() -> World {
    sample_in(ContentMode::Xts)
}

/// The same in this mode.
pub(super) fn sample_in(mode: ContentMode) -> World {
    let mut world = recorded(mode);
    let dir = world.mkdir(NodeId::ROOT, "dir");
    let deep = world.mkdir(dir, "deep");
    world.put(NodeId::ROOT, "inline", b"small");
    world.put(NodeId::ROOT, "units", &noise(1, 100_000));
    world.put(dir, "inner", b"inner content");
    world.put(dir, LONG, b"long");
    world.put(deep, "last", &noise(2, 5000));
    world.create(dir, "never written");
    let linked = world.put(dir, "linked", b"two names");
    world
        .fs()
        .link(&me(), linked, deep, OsStr::new("other name"))
        .unwrap();
    for (name, target) in [("short", "inner".to_owned()), ("far", "x".repeat(2000))] {
        world
            .fs()
            .symlink(&me(), dir, OsStr::new(name), OsStr::new(&target))
            .unwrap();
    }
    for (node, name, value) in [
        (dir, "user.colour", b"blue".as_slice()),
        (
            world.at(&["dir", "inner"]).unwrap().node,
            "user.shape",
            b"round",
        ),
    ] {
        match world.fs().setxattr(&me(), node, OsStr::new(name), value, 0) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
    world.unmount();
    world
}

fn run(world: &World, options: Options) -> Report {
    let keys: &dyn Keys = &*world.keys;
    check(world.lower(), Some(keys), options, &mut |_| {}).unwrap()
}

const LOOK: Options = Options {
    repair: false,
    content: true,
};
const REPAIR: Options = Options {
    repair: true,
    content: true,
};

/// Codes and severities, but for notes about what is in `.kmsfs.lost`.
fn codes(report: &Report) -> Vec<(Code, Severity)> {
    let mut codes: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| !matches!(finding.code, Code::LostEntries | Code::HardLink))
        .map(|finding| (finding.code, finding.severity))
        .collect();
    codes.sort_unstable();
    codes
}

fn damage(report: &Report) -> Vec<Code> {
    let codes = codes(report).into_iter();
    codes
        .filter(|(_, severity)| *severity == Severity::Damage)
        .map(|(code, _)| code)
        .collect()
}

/// Every lower object: mode, size, times and content.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, Vec<u8>)> {
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
            } else {
                fs::read(&path).unwrap()
            };
            let is_dir = meta.is_dir();
            let mtime = if is_dir { 0 } else { meta.mtime_nsec() };
            let size = if is_dir { 0 } else { meta.size() };
            found.insert(path, (meta.mode(), size, mtime, content));
        }
    }
    found
}

/// Does something to the lower tree, then checks, repairs, and checks again. Gives the first report.
#[track_caller]
fn damaged(
    world: &mut World,
    at: &[&str],
    harm: impl FnOnce(&Path),
    expected: (Code, Severity, Outcome),
) -> Report {
    world.remount();
    let lower = if at.is_empty() {
        world.lower().to_owned()
    } else {
        world.lower_of(&world.at(at).unwrap())
    };
    world.unmount();
    harm(&lower);
    let before = snapshot(world.lower());
    let (code, severity, outcome) = expected;
    let report = run(world, LOOK);
    assert_eq!(snapshot(world.lower()), before, "a check changes nothing");
    assert_eq!(codes(&report), [(code, severity)], "{:#?}", report.findings);
    let found = report
        .findings
        .iter()
        .find(|found| found.code == code)
        .unwrap();
    let path = found.lower_path.clone();
    assert!(
        world.lower().join(&path).symlink_metadata().is_ok(),
        "{path} is no lower path"
    );
    let repaired = run(world, REPAIR);
    let first = repaired.findings.iter().find(|found| found.code == code);
    assert_eq!(first.unwrap().outcome, outcome, "{:#?}", repaired.findings);
    let again = run(world, LOOK);
    assert_eq!(codes(&again), [], "{:#?}", again.findings);
    assert!(again.is_clean());
    // Every byte that was there is still somewhere, but for what is provably garbage.
    report
}

pub(super) fn flip(path: &Path, position: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ 4], position).unwrap();
}

fn resize(path: &Path, size: u64) {
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(size)
        .unwrap();
}

fn in_lost(world: &World) -> usize {
    fs::read_dir(world.lower().join(".kmsfs.lost")).map_or(0, |lost| lost.count() - 1)
}

#[test]
fn a_healthy_tree_has_no_findings_with_and_without_keys() {
    let world = sample();
    let before = snapshot(world.lower());
    for options in [LOOK, REPAIR] {
        let report = run(&world, options);
        assert_eq!(codes(&report), []);
        assert_eq!(report.counts.directories, 3);
        assert_eq!(report.counts.files, 7);
        assert_eq!(report.counts.symlinks, 2);
        assert_eq!(snapshot(world.lower()), before);
    }
    let report = check(world.lower(), None, Options::default(), &mut |_| {}).unwrap();
    assert_eq!(codes(&report), []);
    assert!(!report.keys);
}

#[test]
fn a_running_volume_copied_as_after_a_kill_has_only_notes() {
    let mut world = sample();
    world.remount();
    let (entry, fh) = world.create(NodeId::ROOT, "open");
    world.write(fh, 0, &noise(3, 9000));
    let report = run(&world, LOOK);
    assert_eq!(codes(&report), [(Code::UncleanMark, Severity::Note)]);
    let _ = entry;
    world.fs().release(fh);
}

#[test]
fn the_mark_of_an_unclean_stop_goes_with_a_repair() {
    let world = sample();
    let mark = world.lower().join(".kmsfs.unclean");
    fs::write(&mark, []).unwrap();
    assert_eq!(
        codes(&run(&world, LOOK)),
        [(Code::UncleanMark, Severity::Note)]
    );
    run(&world, REPAIR);
    assert!(!mark.exists());
}

#[test]
fn damaged_file_headers_are_quarantined_whole() {
    let mut world = sample();
    let content = noise(1, 100_000);
    let expected = (Code::FileDamaged, Severity::Damage, Outcome::Quarantined);
    let report = damaged(&mut world, &["units"], |path| flip(path, 56), expected);
    assert_eq!(report.findings[0].plain_path, "/units");
    assert_eq!(in_lost(&world), 1);
    let journal = fs::read_to_string(world.lower().join(".kmsfs.lost/journal")).unwrap();
    let line: serde_json::Value = serde_json::from_str(journal.trim()).unwrap();
    assert_eq!(line["was"], report.findings[0].lower_path);
    assert_eq!(line["code"], "file-header-damaged");
    // Undone by hand, with the byte put right, it is as it was.
    let kept = world.lower().join(line["now"].as_str().unwrap());
    flip(&kept, 56);
    fs::rename(kept, world.lower().join(line["was"].as_str().unwrap())).unwrap();
    world.remount();
    assert_eq!(
        world.get(world.at(&["units"]).unwrap().node).unwrap(),
        content
    );
}

#[test]
fn a_torn_slot_is_emptied() {
    let mut world = sample();
    let expected = (Code::Slot, Severity::Note, Outcome::Repaired);
    let tear = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[7; 60], 4000).unwrap();
    };
    damaged(&mut world, &["units"], tear, expected);
    world.remount();
    assert_eq!(
        world.get(world.at(&["units"]).unwrap().node).unwrap(),
        noise(1, 100_000)
    );
}

#[test]
fn sizes_are_settled_from_the_header() {
    let mut world = sample();
    let expected = (Code::Size, Severity::Damage, Outcome::Repaired);
    let size = |path: &Path| resize(path, 4096 + 32);
    let report = damaged(&mut world, &["inline"], size, expected);
    assert!(report.findings[0].detail.contains("the size is 5"));
    world.remount();
    let node = world.at(&["inline"]).unwrap().node;
    assert_eq!(world.get(node).unwrap(), b"small");
    assert_eq!(world.size(node), 5);
}

#[test]
fn sizes_that_mean_nothing_are_quarantined() {
    for size in [100, 4096 + 7] {
        let mut world = sample();
        let expected = (Code::SizeDamaged, Severity::Damage, Outcome::Quarantined);
        damaged(&mut world, &["units"], |path| resize(path, size), expected);
        assert_eq!(in_lost(&world), 1);
    }
}

#[test]
fn blank_headers_are_settled_after_a_crash_and_kept_otherwise() {
    let blank = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[0; 4096], 0).unwrap();
    };
    let mut world = sample();
    let expected = (Code::HeaderBlank, Severity::Damage, Outcome::Quarantined);
    damaged(&mut world, &["units"], blank, expected);
    assert_eq!(in_lost(&world), 1);

    world.remount();
    let lower = world.lower_of(&world.at(&["inline"]).unwrap());
    world.unmount();
    fs::write(world.lower().join(".kmsfs.unclean"), []).unwrap();
    blank(&lower);
    let report = run(&world, REPAIR);
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(codes(&report).contains(&(Code::HeaderBlank, Severity::Note)));
    assert_eq!(codes(&run(&world, LOOK)), []);
    world.remount();
    assert_eq!(world.get(world.at(&["inline"]).unwrap().node).unwrap(), b"");
}

#[test]
fn files_cut_short_at_their_creation_are_clean_after_a_repair() {
    // Nothing of the file but its name and an attribute had reached the disk, or its size without its header.
    for size in [0, 4096, 4096 + 2 * 4096] {
        for mode in [ContentMode::Xts, ContentMode::Gcm] {
            for by_mount in [true, false] {
                let mut world = recorded(mode);
                let node = world.put(NodeId::ROOT, "file", b"never synced");
                let name = OsStr::new("user.colour");
                match world.fs().setxattr(&me(), node, name, b"blue", 0) {
                    Ok(()) | Err(Errno::OPNOTSUPP) => {}
                    Err(errno) => panic!("{errno}"),
                }
                let lower = world.lower_of(&world.at(&["file"]).unwrap());
                world.unmount();
                fs::write(world.lower().join(".kmsfs.unclean"), []).unwrap();
                resize(&lower, 0);
                resize(&lower, size);
                if by_mount {
                    world.remount();
                    let node = world.at(&["file"]).unwrap().node;
                    let found = world.fs().getxattr(&me(), node, name);
                    assert!(matches!(found, Err(Errno::NODATA | Errno::OPNOTSUPP)));
                    world.unmount();
                } else {
                    let report = run(&world, REPAIR);
                    assert!(report.is_clean(), "{mode:?} {size}: {report:#?}");
                }
                // The mark is gone now: what is still like after a crash would be damage.
                let report = run(&world, LOOK);
                assert_eq!(codes(&report), [], "{mode:?} {size} {by_mount}");
                world.remount();
                let node = world.at(&["file"]).unwrap().node;
                assert_eq!(world.get(node).unwrap(), b"");
                // Its next header has another key.
                let opened = world.fs().open(&me(), node, libc::O_RDWR, false);
                let fh = opened.unwrap().fh;
                world.write(fh, 0, b"anew");
                world.fs().release(fh);
                world.unmount();
                assert_eq!(codes(&run(&world, LOOK)), [], "{mode:?} {size} {by_mount}");
            }
        }
    }
}

#[test]
fn names_that_do_not_open_get_new_ones_in_their_place() {
    let mut world = sample();
    // Moved in the lower tree into another directory.
    let expected = (Code::Name, Severity::Damage, Outcome::Repaired);
    let mut ino = 0;
    let root = world.lower().to_owned();
    let harm = |path: &Path| {
        ino = path.metadata().unwrap().ino();
        fs::rename(path, root.join(path.file_name().unwrap())).unwrap();
    };
    damaged(&mut world, &["dir", "deep", "last"], harm, expected);
    world.remount();
    let name = format!("lost+found.#{ino}");
    assert_eq!(
        world.get(world.at(&[&name]).unwrap().node).unwrap(),
        noise(2, 5000)
    );
    world.unmount();
    // A directory keeps everything in it.
    let root = world.lower().to_owned();
    let harm = |path: &Path| {
        ino = path.metadata().unwrap().ino();
        fs::rename(path, root.join(path.file_name().unwrap())).unwrap();
    };
    damaged(&mut world, &["dir", "deep"], harm, expected);
    world.remount();
    let name = format!("lost+found.#{ino}");
    assert_eq!(
        world
            .get(world.at(&[&name, "other name"]).unwrap().node)
            .unwrap(),
        b"two names"
    );
}

#[test]
fn long_names_survive_without_their_record_as_objects() {
    for damage_record in [false, true] {
        let mut world = sample();
        let code = if damage_record {
            Code::SidecarDamaged
        } else {
            Code::SidecarMissing
        };
        let mut ino = 0;
        let harm = |path: &Path| {
            ino = path.metadata().unwrap().ino();
            let stored = path.file_name().unwrap().to_str().unwrap();
            let record = path.with_file_name(format!(".kmsfs.n.{}", &stored[1..]));
            if damage_record {
                flip(&record, 20);
            } else {
                fs::remove_file(record).unwrap();
            }
        };
        let expected = (code, Severity::Damage, Outcome::Repaired);
        damaged(&mut world, &["dir", LONG], harm, expected);
        assert_eq!(in_lost(&world), usize::from(damage_record));
        // Without keys it is found, too.
        world.remount();
        let node = world.at(&["dir", &format!("lost+found.#{ino}")]).unwrap();
        assert_eq!(world.get(node.node).unwrap(), b"long");
    }
}

#[test]
fn records_without_keys_are_checked_by_their_digest() {
    let mut world = sample();
    world.remount();
    let lower = world.lower_of(&world.at(&["dir", LONG]).unwrap());
    world.unmount();
    let stored = lower.file_name().unwrap().to_str().unwrap();
    flip(
        &lower.with_file_name(format!(".kmsfs.n.{}", &stored[1..])),
        20,
    );
    let report = check(world.lower(), None, Options::default(), &mut |_| {}).unwrap();
    assert_eq!(damage(&report), [Code::SidecarDamaged]);
}

#[test]
fn leftovers_are_removed_only_where_they_are_garbage() {
    let mut world = sample();
    let expected = (Code::SidecarOrphan, Severity::Note, Outcome::Repaired);
    let harm = |path: &Path| {
        fs::write(path.join(format!(".kmsfs.n.{}", "A".repeat(43))), "x").unwrap();
    };
    damaged(&mut world, &["dir"], harm, expected);
    let expected = (Code::Temporary, Severity::Note, Outcome::Repaired);
    let harm = |path: &Path| fs::write(path.join(".kmsfs.t.0011223344556677"), "x").unwrap();
    damaged(&mut world, &["dir"], harm, expected);
    let expected = (Code::SymlinkOrphan, Severity::Note, Outcome::Repaired);
    let harm = |path: &Path| {
        fs::write(path.join(format!(".kmsfs.links/{}", "0".repeat(32))), "x").unwrap();
    };
    damaged(&mut world, &[], harm, expected);
    assert_eq!(
        fs::read_dir(world.lower().join(".kmsfs.links"))
            .unwrap()
            .count(),
        1
    );
    let harm = |path: &Path| {
        let header = path.join(".kmsfs");
        fs::set_permissions(header, fs::Permissions::from_mode(0o662)).unwrap();
    };
    let expected = (Code::OwnMode, Severity::Note, Outcome::Repaired);
    damaged(&mut world, &["dir"], harm, expected);
    assert_eq!(in_lost(&world), 0);
}

#[test]
fn the_record_of_a_quarantined_link_is_kept() {
    let mut world = sample();
    world.remount();
    let link = world.lower_of(&world.at(&["dir", "far"]).unwrap());
    world.unmount();
    let links = world.lower().join(".kmsfs.links");
    let record = fs::read_dir(&links)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    flip(&record, 100);
    assert_eq!(damage(&run(&world, LOOK)), [Code::SymlinkRecord]);
    run(&world, REPAIR);
    assert!(link.symlink_metadata().is_err());
    assert_eq!(codes(&run(&world, REPAIR)), []);
    assert!(record.exists(), "a link in .kmsfs.lost refers to it");
}

#[test]
fn damaged_links_are_quarantined() {
    let mut world = sample();
    let links = world.lower().join(".kmsfs.links");
    let expected = (Code::SymlinkRecord, Severity::Damage, Outcome::Quarantined);
    let harm = |_: &Path| {
        let record = fs::read_dir(&links)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        fs::remove_file(record).unwrap();
    };
    damaged(&mut world, &["dir", "far"], harm, expected);
    let expected = (Code::Symlink, Severity::Damage, Outcome::Quarantined);
    let harm = |path: &Path| {
        let target = fs::read_link(path)
            .unwrap()
            .into_os_string()
            .into_string()
            .unwrap();
        let first = if target.ends_with('A') { 'B' } else { 'A' };
        fs::remove_file(path).unwrap();
        let changed = format!("{}{first}{}", &target[..40], &target[41..]);
        let changed = if changed == target {
            format!("{}C{}", &target[..40], &target[41..])
        } else {
            changed
        };
        std::os::unix::fs::symlink(changed, path).unwrap();
    };
    damaged(&mut world, &["dir", "short"], harm, expected);
    assert_eq!(in_lost(&world), 2);
}

#[test]
fn a_directory_whose_header_is_damaged_keeps_what_is_in_it() {
    for missing in [false, true] {
        let mut world = sample();
        world.remount();
        let inner = world.at(&["dir", "inner"]).unwrap().attr.ino;
        let deep = world.at(&["dir", "deep"]).unwrap().attr.ino;
        let long = world.at(&["dir", LONG]).unwrap().attr.ino;
        let lower = world.lower_of(&world.at(&["dir"]).unwrap());
        world.unmount();
        let header = lower.join(".kmsfs");
        let old = fs::read(&header).unwrap();
        let code = if missing {
            fs::remove_file(&header).unwrap();
            Code::HeaderMissing
        } else {
            flip(&header, 90);
            Code::HeaderDamaged
        };
        let report = run(&world, LOOK);
        assert_eq!(damage(&report), [code], "{:#?}", report.findings);
        let report = run(&world, REPAIR);
        assert!(report.is_clean(), "{:#?}", report.findings);
        let again = run(&world, LOOK);
        assert_eq!(codes(&again), [], "{:#?}", again.findings);
        world.remount();
        let get = |path: &[&str]| world.get(world.at(path).unwrap().node).unwrap();
        let name = |ino| format!("lost+found.#{ino}");
        assert_eq!(get(&["dir", &name(inner)]), b"inner content");
        assert_eq!(get(&["dir", &name(long)]), b"long");
        assert_eq!(get(&["dir", &name(deep), "last"]), noise(2, 5000));
        if !missing {
            let mut damaged = old.clone();
            damaged[90] ^= 4;
            let lost = fs::read_dir(world.lower().join(".kmsfs.lost")).unwrap();
            let kept = lost
                .map(|item| fs::read(item.unwrap().path()).unwrap())
                .any(|bytes| bytes == damaged);
            assert!(kept, "the damaged header is kept");
        }
    }
}

#[test]
fn directories_from_elsewhere_are_quarantined() {
    let mut world = sample();
    let other = sample();
    let (foreign, root) = (other.lower().join(".kmsfs"), world.lower().join(".kmsfs"));
    let expected = (Code::HeaderForeign, Severity::Damage, Outcome::Quarantined);
    // Of another volume, then a root where none belongs.
    for header in [foreign, root] {
        let mut world = sample();
        let bytes = fs::read(header).unwrap();
        damaged(
            &mut world,
            &["dir", "deep"],
            |path| fs::write(path.join(".kmsfs"), &bytes).unwrap(),
            expected,
        );
        assert_eq!(in_lost(&world), 1);
    }
    world.unmount();
}

#[test]
fn copied_directories_and_foreign_objects_are_only_noted() {
    let world = sample();
    fs::write(world.lower().join("notes.txt"), "x").unwrap();
    fs::write(world.lower().join(".kmsfs.strange"), "x").unwrap();
    let expected = [
        (Code::Foreign, Severity::Note),
        (Code::Reserved, Severity::Note),
    ];
    assert_eq!(codes(&run(&world, REPAIR)), expected);
    assert!(world.lower().join("notes.txt").exists());
    assert!(run(&world, LOOK).is_clean());
}

#[test]
fn attributes_that_do_not_open_are_kept_in_the_journal() {
    let mut world = sample();
    world.remount();
    let inner = world.lower_of(&world.at(&["dir", "inner"]).unwrap());
    world.unmount();
    let name = "user.kmsfs.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    if rustix::fs::setxattr(&inner, name, b"value", rustix::fs::XattrFlags::empty()).is_err() {
        println!("skipped: no user xattrs here");
        return;
    }
    assert_eq!(damage(&run(&world, LOOK)), [Code::Xattr]);
    assert!(run(&world, REPAIR).is_clean());
    assert_eq!(codes(&run(&world, LOOK)), []);
    let journal = fs::read_to_string(world.lower().join(".kmsfs.lost/journal")).unwrap();
    assert!(
        journal.contains(name) && journal.contains("dmFsdWU="),
        "{journal}"
    );
    world.remount();
    let node = world.at(&["dir", "inner"]).unwrap().node;
    let value = world.fs().getxattr(&me(), node, OsStr::new("user.shape"));
    assert_eq!(value.unwrap(), b"round");
}

#[test]
fn what_is_locked_is_not_called_damaged() {
    let mut world = sample();
    world.remount();
    let policy = world.keys.add(world.volume);
    let safe = world.mkdir(NodeId::ROOT, "safe");
    world.fs().protect(safe, &policy).unwrap();
    world.put(safe, "secret", &noise(9, 10_000));
    world.unmount();
    assert_eq!(codes(&run(&world, LOOK)), []);
    world.keys.forget(&policy);
    for options in [LOOK, REPAIR] {
        let report = run(&world, options);
        assert_eq!(codes(&report), [(Code::Locked, Severity::Unchecked)]);
        assert_eq!(report.findings[0].plain_path, "/safe");
        assert!(!report.is_clean());
    }
    world.keys.put_back(policy);
    assert_eq!(codes(&run(&world, LOOK)), []);
}

#[test]
fn an_unused_policy_is_noted_and_a_missing_record_is_damage() {
    let world = sample();
    let path = world.lower().join(".kmsfs.volume");
    let mut record = VolumeRecord::decode(&fs::read(&path).unwrap()).unwrap();
    let mut more = record.policies[0].clone();
    more.generation = 2;
    record.policies.push(more);
    fs::write(&path, record.encode().unwrap()).unwrap();
    assert_eq!(
        codes(&run(&world, LOOK)),
        [(Code::PolicyUnused, Severity::Note)]
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(damage(&run(&world, REPAIR)), [Code::VolumeRecord]);
}

#[test]
fn a_damaged_root_header_leaves_the_structure_to_be_checked() {
    let world = sample();
    let before = snapshot(world.lower());
    flip(&world.lower().join(".kmsfs"), 90);
    let report = run(&world, REPAIR);
    assert_eq!(damage(&report), [Code::RootHeader]);
    assert_eq!(report.counts.files, 7);
    flip(&world.lower().join(".kmsfs"), 90);
    let names = |tree: BTreeMap<PathBuf, _>| tree.into_keys().collect::<Vec<_>>();
    assert_eq!(names(snapshot(world.lower())), names(before));
}

#[test]
fn very_deep_trees_are_checked_with_few_descriptors() {
    let mut world = sample();
    world.remount();
    let mut node = NodeId::ROOT;
    let depth = 300_u64;
    for level in 0..depth {
        world.put(node, "file", b"x");
        if level % 7 == 0 {
            world.mkdir(node, "side");
        }
        node = world.mkdir(node, "d");
    }
    world.unmount();
    let most = std::sync::atomic::AtomicUsize::new(0);
    let keys: &dyn Keys = &*world.keys;
    let report = check(world.lower(), Some(keys), REPAIR, &mut |_| {
        let mine = |item: fs::DirEntry| {
            fs::read_link(item.path()).is_ok_and(|path| path.starts_with(world.lower()))
        };
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let open = open.map(mine).filter(|mine| *mine).count();
        most.fetch_max(open, std::sync::atomic::Ordering::Relaxed);
    });
    let report = report.unwrap();
    assert_eq!(codes(&report), []);
    assert_eq!(report.counts.directories, 3 + depth + depth.div_ceil(7));
    let most = most.into_inner();
    assert!((10..100).contains(&most), "{most} descriptors");
}

#[test]
fn mode_gcm_has_no_false_findings_and_bad_units_are_found_by_content() {
    let mut world = sample_in(ContentMode::Gcm);
    for options in [LOOK, REPAIR] {
        let report = run(&world, options);
        assert_eq!(codes(&report), [], "{:#?}", report.findings);
    }
    world.remount();
    let lower = world.lower_of(&world.at(&["units"]).unwrap());
    world.unmount();
    // In the tenth unit.
    flip(&lower, 4096 * 10 + 100);
    let without = Options {
        content: false,
        ..LOOK
    };
    assert_eq!(codes(&run(&world, without)), []);
    for options in [LOOK, REPAIR] {
        let report = run(&world, options);
        assert_eq!(damage(&report), [Code::Content], "{:#?}", report.findings);
        assert_eq!(report.findings[0].plain_path, "/units");
        assert_eq!(report.findings[0].outcome, Outcome::Left);
    }
    // Cut: what was synced is missing.
    let expected = (Code::SizeDamaged, Severity::Damage, Outcome::Quarantined);
    damaged(
        &mut world,
        &["units"],
        |path| resize(path, 4096 * 8),
        expected,
    );
    assert_eq!(in_lost(&world), 1);
}

#[test]
fn a_volume_in_mode_gcm_killed_while_it_is_written_to_has_only_notes() {
    let mut world = sample_in(ContentMode::Gcm);
    world.remount();
    let (_, growing) = world.create(NodeId::ROOT, "growing");
    world.write(growing, 0, &noise(3, 90_000));
    let (_, small) = world.create(NodeId::ROOT, "small");
    world.write(small, 0, b"small");
    let report = run(&world, LOOK);
    assert!(report.is_clean(), "{:#?}", report.findings);
    world.crash();
    world.unmount();
    assert_eq!(codes(&run(&world, LOOK)), []);
}

#[test]
fn a_copied_directory_is_noted() {
    let mut world = sample();
    world.remount();
    let lower = world.lower_of(&world.at(&["dir"]).unwrap());
    world.unmount();
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    let copy = |from: &Path, to: &Path| {
        let status = std::process::Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(to)
            .status();
        assert!(status.unwrap().success());
    };
    copy(&lower, &kept);
    world.remount();
    let (from, to) = (OsStr::new("dir"), OsStr::new("other"));
    world
        .fs()
        .rename(&me(), NodeId::ROOT, from, NodeId::ROOT, to, 0)
        .unwrap();
    world.unmount();
    copy(&kept, &lower);
    let report = run(&world, REPAIR);
    let noted = [(Code::DuplicateId, Severity::Note); 2];
    assert_eq!(codes(&report), noted, "{:#?}", report.findings);
    assert!(report.is_clean());
}

#[test]
fn a_header_that_admits_another_policy_is_not_replaced() {
    let mut world = recorded(ContentMode::Xts);
    let outer = world.mkdir(NodeId::ROOT, "outer");
    let inner = world.mkdir(outer, "inner");
    let own = world.keys.add(world.volume);
    world.fs().protect(inner, &own).unwrap();
    world.put(inner, "file", b"under another key");
    let lower = world.lower_of(&world.at(&["outer"]).unwrap());
    world.unmount();
    flip(&lower.join(".kmsfs"), 100);
    let report = run(&world, REPAIR);
    let found = &report.findings[0];
    assert_eq!(
        (found.code, found.outcome),
        (Code::HeaderDamaged, Outcome::Left)
    );
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    assert_eq!(in_lost(&world), 0);
    // The byte put right, it is as it was.
    flip(&lower.join(".kmsfs"), 100);
    world.remount();
    let file = world.at(&["outer", "inner", "file"]).unwrap();
    assert_eq!(world.get(file.node).unwrap(), b"under another key");
}
