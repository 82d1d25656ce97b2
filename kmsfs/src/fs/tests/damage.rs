//! Lower trees that were damaged, and policies.

use std::ffi::OsStr;
use std::fs;

use super::world::{World, me, noise};
use crate::errno::Errno;
use crate::fs::NodeId;

/// SEMANTICS: EIO
#[test]
fn damaged_file_headers_are_refused() {
    let mut world = World::new();
    let (small, large) = (b"small".to_vec(), noise(1, 20_000));
    world.put(NodeId::ROOT, "small", &small);
    world.put(NodeId::ROOT, "large", &large);
    for (name, content) in [("small", small), ("large", large)] {
        let lower = world.lower_of(&world.at(&[name]).unwrap());
        for position in [
            0, 8, 11, 16, 40, 52, 56, 72, 80, 92, 128, 160, 300, 3968, 4000,
        ] {
            world.unmount();
            let good = fs::read(&lower).unwrap();
            let mut bad = good.clone();
            bad[position] ^= 4;
            fs::write(&lower, &bad).unwrap();
            world.remount();
            let entry = world.at(&[name]).unwrap();
            match world.get(entry.node) {
                // Bytes that no reader looks at, or the other slot.
                Ok(found) => assert_eq!(found, content, "{name}, byte {position}"),
                Err(errno) => assert_eq!(errno, Errno::IO, "{name}, byte {position}"),
            }
            world.unmount();
            fs::write(&lower, &good).unwrap();
            world.remount();
        }
        assert_eq!(world.get(world.at(&[name]).unwrap().node).unwrap(), content);
    }
}

#[test]
fn cut_files_never_panic_and_can_be_removed() {
    for length in [0, 1, 100, 4095, 4096, 4097, 4100, 8192, 15_000] {
        let mut world = World::new();
        let content = noise(1, 20_000);
        world.put(NodeId::ROOT, "file", &content);
        let lower = world.lower_of(&world.at(&["file"]).unwrap());
        world.unmount();
        fs::File::options()
            .write(true)
            .open(&lower)
            .unwrap()
            .set_len(length)
            .unwrap();
        world.remount();
        let entry = world.at(&["file"]).unwrap();
        match world.get(entry.node) {
            Ok(found) => assert!(content.starts_with(&found), "{length}"),
            Err(errno) => assert_eq!(errno, Errno::IO, "{length}"),
        }
        world
            .fs()
            .unlink(&me(), NodeId::ROOT, OsStr::new("file"))
            .unwrap();
    }
}

/// SEMANTICS: the lower tree
#[test]
fn objects_of_another_volume_are_refused() {
    let (mut world, other) = (World::new(), World::new());
    world.put(NodeId::ROOT, "file", b"mine");
    other.put(NodeId::ROOT, "file", b"foreign");
    let mine = world.lower_of(&world.at(&["file"]).unwrap());
    let foreign = other.lower_of(&other.at(&["file"]).unwrap());
    let folder = world.mkdir(NodeId::ROOT, "folder");
    world.put(folder, "inside", b"");
    let folder = world.lower_of(&world.at(&["folder"]).unwrap());
    world.unmount();
    fs::copy(foreign, mine).unwrap();
    fs::copy(other.lower().join(".kmsfs"), folder.join(".kmsfs")).unwrap();
    world.remount();
    assert_eq!(world.get(world.at(&["file"]).unwrap().node), Err(Errno::IO));
    assert_eq!(world.at(&["folder", "inside"]).unwrap_err(), Errno::IO);
}

#[test]
fn damaged_directory_headers_close_the_directory() {
    let mut world = World::new();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    world.put(folder, "file", b"x");
    let header = world
        .lower_of(&world.at(&["folder"]).unwrap())
        .join(".kmsfs");
    let good = fs::read(&header).unwrap();
    let harms = (0..192)
        .step_by(7)
        .map(|position| {
            let mut bad = good.clone();
            bad[position] ^= 0x10;
            bad
        })
        .chain([1, 100, 191].map(|length| good[..length].to_vec()))
        .chain([[good.as_slice(), b"x"].concat(), Vec::new()]);
    for bad in harms {
        world.unmount();
        fs::write(&header, &bad).unwrap();
        world.remount();
        let error = world.at(&["folder", "file"]).unwrap_err();
        assert!(
            matches!(error, Errno::IO | Errno::NOKEY),
            "{error} for {bad:?}"
        );
        assert!(world.at(&["folder"]).is_ok());
    }
    world.unmount();
    fs::write(&header, &good).unwrap();
    world.remount();
    assert_eq!(world.at(&["folder", "file"]).unwrap().attr.size, 1);
}

#[test]
fn a_directory_that_was_moved_into_another_policy_behind_the_back_closes() {
    let world = World::new();
    let secret = world.mkdir(NodeId::ROOT, "secret");
    let policy = world.keys.add(world.volume);
    world.fs().protect(secret, &policy).unwrap();
    let inner = world.mkdir(secret, "inner");
    world.put(inner, "file", b"x");
    let public = world.mkdir(NodeId::ROOT, "public");
    world.mkdir(public, "inner");
    let from = world.lower_of(&world.at(&["secret", "inner"]).unwrap());
    let to = world.lower_of(&world.at(&["public", "inner"]).unwrap());
    fs::remove_dir_all(&to).unwrap();
    fs::rename(&from, &to).unwrap();
    assert_eq!(
        world.at(&["public", "inner", "file"]).unwrap_err(),
        Errno::IO
    );
    let moved = world.at(&["public", "inner"]).unwrap();
    assert_eq!(
        world.fs().opendir(&me(), moved.node).unwrap_err(),
        Errno::IO
    );
}

#[test]
fn a_symlink_from_elsewhere_does_not_take_the_record_of_another_with_it() {
    let mut world = World::new();
    let secret = world.mkdir(NodeId::ROOT, "secret");
    let policy = world.keys.add(world.volume);
    world.fs().protect(secret, &policy).unwrap();
    let target = "t".repeat(2000);
    for (parent, name) in [(secret, "link"), (NodeId::ROOT, "bait")] {
        world
            .fs()
            .symlink(&me(), parent, OsStr::new(name), OsStr::new(&target))
            .unwrap();
    }
    let link = world.lower_of(&world.at(&["secret", "link"]).unwrap());
    let bait = world.lower_of(&world.at(&["bait"]).unwrap());
    world.unmount();
    let stored = fs::read_link(&link).unwrap();
    fs::remove_file(&bait).unwrap();
    std::os::unix::fs::symlink(&stored, &bait).unwrap();
    world.remount();
    world
        .fs()
        .unlink(&me(), NodeId::ROOT, OsStr::new("bait"))
        .unwrap();
    let link = world.at(&["secret", "link"]).unwrap();
    assert_eq!(world.fs().readlink(link.node).unwrap(), target.as_bytes());
    let records = || {
        fs::read_dir(world.lower().join(".kmsfs.links"))
            .unwrap()
            .count()
    };
    assert_eq!(records(), 2, "the bait's own is garbage now");
    let secret = world.at(&["secret"]).unwrap().node;
    world
        .fs()
        .unlink(&me(), secret, OsStr::new("link"))
        .unwrap();
    assert_eq!(records(), 1);
}

#[test]
fn a_hard_link_into_another_policy_shows_nothing_whichever_name_comes_first() {
    let mut world = World::new();
    let secret = world.mkdir(NodeId::ROOT, "secret");
    let policy = world.keys.add(world.volume);
    world.fs().protect(secret, &policy).unwrap();
    world.put(secret, "file", &noise(1, 9000));
    world.put(NodeId::ROOT, "bait", b"x");
    let file = world.lower_of(&world.at(&["secret", "file"]).unwrap());
    let bait = world.lower_of(&world.at(&["bait"]).unwrap());
    world.unmount();
    fs::remove_file(&bait).unwrap();
    fs::hard_link(&file, &bait).unwrap();
    world.remount();
    // The bait first: it keeps its node, which does not open even when the other one is open.
    let bait = world.at(&["bait"]).unwrap();
    assert_eq!(world.get(bait.node), Err(Errno::IO));
    let file = world.at(&["secret", "file"]).unwrap();
    assert_ne!(bait.node, file.node);
    let open = world
        .fs()
        .open(&me(), file.node, libc::O_RDWR, false)
        .unwrap();
    assert_eq!(world.get(file.node).unwrap(), noise(1, 9000));
    assert_eq!(world.get(bait.node), Err(Errno::IO));
    world.fs().release(open.fh);
    // And last: it is not found.
    world.remount();
    let file = world.at(&["secret", "file"]).unwrap();
    assert_eq!(world.at(&["bait"]).unwrap_err(), Errno::IO);
    assert_eq!(world.get(file.node).unwrap(), noise(1, 9000));
}

#[test]
fn the_mode_of_what_a_symlink_points_to_is_not_changed() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    fs::write(&target, "").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&target, folder.path().join("link")).unwrap();
    let dir = crate::backing::Dir::open_root(folder.path()).unwrap();
    assert_eq!(dir.set_mode_at("link", 0o666), Err(Errno::LOOP));
    let mode = fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    dir.set_mode_at("target", 0o640).unwrap();
    let mode = fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn the_header_of_an_inline_file_decides_over_its_lower_size() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    for length in [4096, 4097, 8192, 1 << 30] {
        let mut world = World::with(kms_format::ContentMode::Xts);
        world.put(NodeId::ROOT, "file", b"what it holds");
        let lower = world.lower_of(&world.at(&["file"]).unwrap());
        world.unmount();
        let file = fs::File::options().write(true).open(&lower).unwrap();
        file.set_len(length).unwrap();
        world.remount();
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        world.fs().on_change(move |_| {
            count.fetch_add(1, Ordering::AcqRel);
        });
        let node = world.at(&["file"]).unwrap().node;
        assert_eq!(world.get(node).unwrap(), b"what it holds", "{length}");
        assert!(told.load(Ordering::Acquire) > 0, "{length}");
        assert_eq!(world.size(node), 13, "{length}");
        world.unmount();
        assert_eq!(
            fs::metadata(&lower).unwrap().len(),
            4096 + 16 + 3,
            "{length}"
        );
    }
}

/// SEMANTICS: temporary files
#[test]
fn foreign_names_are_not_shown() {
    let mut world = World::new();
    world.put(NodeId::ROOT, "file", b"x");
    world.unmount();
    for name in [
        "plain",
        "=",
        "AAAA",
        &"B".repeat(43),
        &format!("={}", "A".repeat(43)),
        ".kmsfs.t.0011223344556677",
    ] {
        fs::write(world.lower().join(name), "whatever").unwrap();
    }
    world.remount();
    assert_eq!(world.names(NodeId::ROOT), [b"file"]);
    assert!(
        !world.lower().join(".kmsfs.t.0011223344556677").exists(),
        "cleaned up"
    );
    assert!(world.lower().join("plain").exists(), "not ours");
}

/// SEMANTICS: protect, EXDEV
#[test]
fn a_directory_under_its_own_policy() {
    let mut world = World::new();
    let secret = world.mkdir(NodeId::ROOT, "secret");
    let policy = world.keys.add(world.volume);
    let busy = world.mkdir(NodeId::ROOT, "busy");
    let inside = world.put(busy, "x", b"");
    assert_eq!(world.fs().protect(busy, &policy), Err(Errno::NOTEMPTY));
    assert_eq!(world.fs().protect(NodeId::ROOT, &policy), Err(Errno::BUSY));
    assert_eq!(world.fs().protect(inside, &policy), Err(Errno::NOTDIR));
    world.fs().protect(secret, &policy).unwrap();
    let below = world.mkdir(secret, "below");
    world.put(below, "file", b"under the other key");
    // No other name crosses the border.
    let outside = world.put(NodeId::ROOT, "outside", b"");
    let (root, name) = (NodeId::ROOT, OsStr::new("outside"));
    assert_eq!(
        world.fs().link(&me(), outside, secret, name).unwrap_err(),
        Errno::XDEV
    );
    let moved = world
        .fs()
        .rename(&me(), root, OsStr::new("secret"), busy, OsStr::new("s"), 0);
    assert_eq!(moved, Err(Errno::XDEV));
    world
        .fs()
        .rename(
            &me(),
            root,
            OsStr::new("secret"),
            root,
            OsStr::new("named"),
            0,
        )
        .unwrap();
    // Without its key it can be seen and nothing else.
    world.keys.forget(&policy);
    world.remount();
    let entry = world.at(&["named"]).unwrap();
    assert_eq!(world.at(&["named", "below"]).unwrap_err(), Errno::NOKEY);
    assert_eq!(
        world.fs().opendir(&me(), entry.node).unwrap_err(),
        Errno::NOKEY
    );
    assert!(world.at(&["busy", "x"]).is_ok());
    world.keys.put_back(policy);
    let file = world.at(&["named", "below", "file"]).unwrap();
    assert_eq!(world.get(file.node).unwrap(), b"under the other key");
    // A policy root that its parent did not admit.
    let lower = world.lower_of(&world.at(&["named"]).unwrap());
    let busy = world.lower_of(&world.at(&["busy"]).unwrap());
    world.unmount();
    fs::copy(lower.join(".kmsfs"), busy.join(".kmsfs")).unwrap();
    world.remount();
    assert_eq!(world.at(&["busy", "x"]).unwrap_err(), Errno::NOENT);
}
