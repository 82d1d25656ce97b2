//! Files of mode gcm: what is found when they are altered, and that nothing else looks like that.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use kms_format::file::LengthState;
use kms_format::{ContentMode, FileHeader};

use super::world::{World, me, noise};
use crate::errno::Errno;
use crate::fs::{NodeId, SetAttr, SetTime, Timestamp};

fn state(lower: &Path) -> (LengthState, u64) {
    let bytes = fs::read(lower).unwrap();
    let header = FileHeader::decode(&bytes[..4096]).unwrap();
    (header.state(), header.length())
}

/// Alters the lower file of a content while nothing is mounted, and says what reading gives then.
fn tampered(content: &[u8], alter: impl FnOnce(&File)) -> Result<Vec<u8>, Errno> {
    let mut world = World::with(ContentMode::Gcm);
    world.put(NodeId::ROOT, "file", content);
    let lower = world.lower_of(&world.at(&["file"]).unwrap());
    world.unmount();
    alter(&File::options().read(true).write(true).open(lower).unwrap());
    world.remount();
    world.get(world.at(&["file"])?.node)
}

#[test]
fn what_is_altered_is_an_error() {
    let content = noise(1, 30_000);
    assert_eq!(tampered(&content, |_| {}), Ok(content.clone()));
    let bit = |at: u64| {
        move |file: &File| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    };
    let swap = |file: &File| {
        let (mut a, mut b) = ([0; 4096], [0; 4096]);
        file.read_exact_at(&mut a, 4096).unwrap();
        file.read_exact_at(&mut b, 8192).unwrap();
        file.write_all_at(&b, 4096).unwrap();
        file.write_all_at(&a, 8192).unwrap();
    };
    assert_eq!(
        tampered(&content, bit(4096 + 7 * 4096 + 100)),
        Err(Errno::IO)
    );
    assert_eq!(tampered(&content, bit(60)), Err(Errno::IO), "length");
    assert_eq!(tampered(&content, swap), Err(Errno::IO), "two units");
    let zeros = |file: &File| file.write_all_at(&[0; 4096], 8192).unwrap();
    assert_eq!(tampered(&content, zeros), Err(Errno::IO), "a unit is gone");
    let cut = |file: &File| file.set_len(4096 * 4).unwrap();
    assert_eq!(tampered(&content, cut), Err(Errno::IO), "cut");
    let longer = |file: &File| file.set_len(4096 * 40).unwrap();
    assert_eq!(tampered(&content, longer), Err(Errno::IO), "extended");
    let empty = |file: &File| file.set_len(0).unwrap();
    assert_eq!(tampered(&content, empty), Err(Errno::IO), "emptied");
    assert_eq!(
        tampered(b"small", bit(300)),
        Ok(b"small".to_vec()),
        "behind the content"
    );
    assert_eq!(tampered(b"small", bit(258)), Err(Errno::IO), "inline");
}

#[test]
fn a_header_says_how_long_a_file_is_once_it_is_synced_or_closed_for_a_while() {
    let mut world = World::with(ContentMode::Gcm);
    let (entry, fh) = world.create(NodeId::ROOT, "file");
    let lower = world.lower_of(&entry);
    world.write(fh, 0, &noise(1, 10_000));
    assert_eq!(state(&lower), (LengthState::Growing, 0));
    world.fs().fsync(fh, true).unwrap();
    assert_eq!(state(&lower), (LengthState::Exact, 10_000));
    world.write(fh, 10_000, &noise(2, 10_000));
    assert_eq!(state(&lower), (LengthState::Growing, 10_000));
    world.fs().release(fh);
    assert_eq!(world.size(entry.node), 20_000);
    // Opened again while it waits, and closed.
    assert_eq!(world.get(entry.node).unwrap()[10_000..], noise(2, 10_000));
    world.fs().sync_all().unwrap();
    assert_eq!(state(&lower), (LengthState::Exact, 20_000));
    let (entry, fh) = world.create(NodeId::ROOT, "other");
    let lower = world.lower_of(&entry);
    world.write(fh, 0, &noise(3, 5000));
    world.fs().release(fh);
    world.unmount();
    assert_eq!(state(&lower), (LengthState::Exact, 5000));
}

#[test]
fn many_closed_files_get_their_length_and_those_removed_are_gone() {
    let world = World::with(ContentMode::Gcm);
    let count = 600;
    for number in 0..count {
        world.put(NodeId::ROOT, &number.to_string(), &noise(number, 5000));
        if number % 3 == 0 {
            let name = number.to_string();
            world
                .fs()
                .unlink(&me(), NodeId::ROOT, OsStr::new(&name))
                .unwrap();
        }
    }
    world.fs().sync_all().unwrap();
    for number in (0..count).filter(|number| number % 3 != 0) {
        let entry = world.at(&[&number.to_string()]).unwrap();
        let lower = world.lower().join(world.lower_of(&entry));
        assert_eq!(state(&lower), (LengthState::Exact, 5000));
        assert_eq!(world.get(entry.node).unwrap(), noise(number, 5000));
    }
}

#[test]
fn a_crash_is_no_tampering() {
    let mut world = World::with(ContentMode::Gcm);
    let (_, fh) = world.create(NodeId::ROOT, "file");
    world.write(fh, 0, &noise(1, 10_000));
    world.fs().fsync(fh, false).unwrap();
    world.write(fh, 9000, &noise(2, 9000));
    world.crash();
    let mut expected = noise(1, 10_000);
    expected.truncate(9000);
    expected.extend(noise(2, 9000));
    let node = world.at(&["file"]).unwrap().node;
    assert_eq!(world.get(node).unwrap(), expected);
    world.unmount();
    assert!(!world.lower().join(".kmsfs.unclean").exists());
    world.remount();
    let node = world.at(&["file"]).unwrap().node;
    assert_eq!(world.get(node).unwrap(), expected);
}

#[test]
fn a_file_that_was_being_made_in_a_crash_is_empty() {
    let mut world = World::with(ContentMode::Gcm);
    world.put(NodeId::ROOT, "file", b"");
    let lower = world.lower_of(&world.at(&["file"]).unwrap());
    for look in [true, false] {
        world.unmount();
        let mark = world.lower().join(".kmsfs.unclean");
        fs::write(&mark, "").unwrap();
        File::create(&lower).unwrap();
        world.remount();
        if look {
            let node = world.at(&["file"]).unwrap().node;
            assert_eq!(world.get(node).unwrap(), b"");
        }
        world.unmount();
        assert!(!mark.exists());
        world.remount();
        let node = world.at(&["file"]).unwrap().node;
        assert_eq!(world.get(node).unwrap(), b"");
    }
}

#[test]
fn a_file_that_lost_its_size_in_a_crash_is_settled_before_the_mark_goes() {
    let mut world = World::with(ContentMode::Gcm);
    let (entry, fh) = world.create(NodeId::ROOT, "file");
    let lower = world.lower_of(&entry);
    world.write(fh, 0, &noise(1, 10_000));
    // Neither synced nor closed, so that its header says nothing yet: so it is found.
    world.unmount();
    assert_eq!(state(&lower), (LengthState::Growing, 0));
    // As if killed after the write, before the size was set.
    let mark = world.lower().join(".kmsfs.unclean");
    fs::write(&mark, "").unwrap();
    let file = File::options().write(true).open(&lower).unwrap();
    file.set_len(4 * 4096).unwrap();
    world.remount();
    world.unmount();
    assert!(!mark.exists());
    assert_eq!(state(&lower), (LengthState::Exact, 10_000));
    world.remount();
    let node = world.at(&["file"]).unwrap().node;
    assert_eq!(world.get(node).unwrap(), noise(1, 10_000));
}

#[test]
fn a_file_with_large_holes_is_found_again() {
    let mut world = World::with(ContentMode::Gcm);
    let node = world.put(NodeId::ROOT, "file", b"start");
    world.resize(node, 8 << 40);
    let fh = world
        .fs()
        .open(&me(), node, libc::O_RDWR, false)
        .unwrap()
        .fh;
    world.write(fh, 5 << 40, b"middle");
    assert_eq!(
        world.fs().lseek(fh, 4096, libc::SEEK_DATA).unwrap() / 4064,
        (5 << 40) / 4064
    );
    world.fs().release(fh);
    world.remount();
    let entry = world.at(&["file"]).unwrap();
    assert_eq!(entry.attr.size, 8 << 40);
    assert!(entry.attr.blocks < 100);
    let fh = world
        .fs()
        .open(&me(), entry.node, libc::O_RDWR, false)
        .unwrap()
        .fh;
    let mut out = [1; 20];
    assert_eq!(world.fs().read(fh, (5 << 40) - 4, &mut out), Ok(20));
    assert_eq!(&out, b"\0\0\0\0middle\0\0\0\0\0\0\0\0\0\0");
    world.fs().release(fh);
}

/// SEMANTICS: holes in mode gcm, EFBIG
#[test]
fn more_holes_than_a_header_lists_are_filled_or_refused() {
    let world = World::with(ContentMode::Gcm);
    let (entry, fh) = world.create(NodeId::ROOT, "small holes");
    for at in 0..400 {
        world.write(fh, at * 100_000, b"x");
    }
    world.fs().fsync(fh, false).unwrap();
    for at in [0, 7, 399] {
        let mut out = [1; 3];
        world.fs().read(fh, at * 100_000, &mut out[..2]).unwrap();
        assert_eq!(&out[..1], b"x");
    }
    world.fs().release(fh);
    assert_eq!(world.size(entry.node), 399 * 100_000 + 1);

    let (entry, fh) = world.create(NodeId::ROOT, "large holes");
    let refused = (0..400).find_map(|at| {
        let mut data = b"x".to_vec();
        world
            .fs()
            .write(&me(), fh, at << 30, &mut data, false)
            .err()
    });
    assert_eq!(refused, Some(Errno::FBIG));
    let size = world.size(entry.node);
    assert!(size < 400 << 30, "the failed write left the size");
    world.fs().fsync(fh, false).unwrap();
    world.fs().release(fh);
    let changes = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    world
        .fs()
        .setattr(&me(), entry.node, None, &changes)
        .unwrap();
}

#[test]
fn a_directory_of_one_mode_in_a_volume_of_the_other() {
    for (outer, inner) in [
        (ContentMode::Xts, ContentMode::Gcm),
        (ContentMode::Gcm, ContentMode::Xts),
    ] {
        let mut world = World::with(outer);
        let folder = world.mkdir(NodeId::ROOT, "folder");
        let policy = world.keys.add_mode(world.volume, inner);
        world.fs().protect(folder, &policy).unwrap();
        let below = world.mkdir(folder, "below");
        world.put(below, "inside", &noise(1, 5000));
        world.put(NodeId::ROOT, "outside", &noise(2, 5000));
        world.remount();
        let inside = world.at(&["folder", "below", "inside"]).unwrap();
        let outside = world.at(&["outside"]).unwrap();
        assert_eq!((inside.attr.size, outside.attr.size), (5000, 5000));
        assert_eq!(world.get(inside.node).unwrap(), noise(1, 5000));
        assert_eq!(world.get(outside.node).unwrap(), noise(2, 5000));
    }
}

/// Programs set the time of a file after they wrote it (tar, rsync, cargo), and believe a changed one.
#[test]
fn saying_how_long_a_file_is_does_not_change_its_time() {
    let old = Timestamp {
        secs: 1_000_000_000,
        nanos: 123_456_789,
    };
    let times = SetAttr {
        mtime: Some(SetTime::At(old)),
        ..SetAttr::default()
    };
    for sync in [false, true] {
        let mut world = World::with(ContentMode::Gcm);
        let (entry, fh) = world.create(NodeId::ROOT, "file");
        world.write(fh, 0, &noise(7, 30_000));
        world
            .fs()
            .setattr(&me(), entry.node, Some(fh), &times)
            .unwrap();
        if sync {
            world.fs().fsync(fh, false).unwrap();
        }
        world.fs().release(fh);
        world.remount();
        let entry = world.at(&["file"]).unwrap();
        assert_eq!(state(&world.lower_of(&entry)), (LengthState::Exact, 30_000));
        assert_eq!(entry.attr.mtime, old, "synced: {sync}");
    }
}
