//! Moving files between policies.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kms_format::{ContentMode, FileHeader, PolicyId, UnlockedPolicy, VolumeId};

use super::world::{World, me, noise};
use crate::access::Access;
use crate::errno::{Errno, FsResult};
use crate::fs::{Caller, FileHandle, NodeId};

/// Directories `a` and `b`, each under a policy of its own.
struct Two {
    world: World,
    a: NodeId,
    b: NodeId,
    policies: [Arc<UnlockedPolicy>; 2],
}

fn two(mode: ContentMode) -> Two {
    modes(mode, mode)
}

fn modes(one: ContentMode, other: ContentMode) -> Two {
    let world = World::with(one);
    let policies = [one, other].map(|mode| world.keys.add_mode(world.volume, mode));
    let (a, b) = (
        world.mkdir(NodeId::ROOT, "a"),
        world.mkdir(NodeId::ROOT, "b"),
    );
    world.fs().protect(a, &policies[0]).unwrap();
    world.fs().protect(b, &policies[1]).unwrap();
    Two {
        world,
        a,
        b,
        policies,
    }
}

impl Two {
    fn mv(&self, from: NodeId, name: &str, to: NodeId, new: &str, flags: u32) -> FsResult<()> {
        let (name, new) = (OsStr::new(name), OsStr::new(new));
        self.world.fs().rename(&me(), from, name, to, new, flags)
    }

    /// The policies under which the key of a file is wrapped, the newest first.
    fn wraps(&self, path: &[&str]) -> Vec<PolicyId> {
        let lower = self.world.lower_of(&self.world.at(path).unwrap());
        let bytes = std::fs::read(lower).unwrap();
        let header = FileHeader::decode(&bytes[..4096]).unwrap();
        header.wraps().map(|wrap| wrap.policy).collect()
    }

    fn read(&self, fh: FileHandle, length: usize) -> Vec<u8> {
        let mut content = vec![0; length];
        let got = self.world.fs().read(fh, 0, &mut content).unwrap();
        content.truncate(got);
        content
    }
}

const MODES: [ContentMode; 2] = [ContentMode::Xts, ContentMode::Gcm];

#[test]
fn a_file_moves_with_its_content_and_leaves_its_old_key_behind() {
    for mode in MODES {
        for (length, name) in [
            (0, "n"),
            (100, "n"),
            (100_000, "n"),
            (100, &"n".repeat(200)),
        ] {
            let mut two = two(mode);
            let content = noise(length as u64, length);
            let node = two.world.put(two.a, "file", &content);
            let before = two.world.at(&["a", "file"]).unwrap();
            let user = OsStr::new("user.kept");
            two.world
                .fs()
                .setxattr(&me(), node, user, b"value", 0)
                .unwrap();
            two.mv(two.a, "file", two.b, name, 0).unwrap();
            let after = two.world.at(&["b", name]).unwrap();
            assert_eq!(after.node, node, "the same object");
            assert_eq!(after.attr.mtime, before.attr.mtime);
            assert_eq!(two.world.at(&["a", "file"]).unwrap_err(), Errno::NOENT);
            assert_eq!(two.wraps(&["b", name]), [two.policies[1].policy()]);
            // The key that it was under is of no use any more.
            two.world.keys.forget(&two.policies[0]);
            two.world.remount();
            let node = two.world.at(&["b", name]).unwrap().node;
            assert_eq!(two.world.get(node).unwrap(), content);
            let kept = two.world.fs().getxattr(&me(), node, user);
            assert_eq!(kept.unwrap(), b"value");
            two.world.crash();
            let node = two.world.at(&["b", name]).unwrap().node;
            assert_eq!(two.world.get(node).unwrap(), content);
        }
    }
}

#[test]
fn an_empty_file_without_a_header_moves() {
    let mut two = two(ContentMode::Xts);
    two.world.put(two.a, "file", b"");
    two.mv(two.a, "file", two.b, "file", 0).unwrap();
    let (_, fh) = two.world.create(two.a, "other");
    two.mv(two.a, "other", two.b, "other", 0).unwrap();
    // Its first header is made under the policy it is in now.
    two.world.write(fh, 0, b"later");
    two.world.fs().release(fh);
    assert_eq!(two.wraps(&["b", "other"]), [two.policies[1].policy()]);
    two.world.remount();
    let node = two.world.at(&["b", "other"]).unwrap().node;
    assert_eq!(two.world.get(node).unwrap(), b"later");
    let node = two.world.at(&["b", "file"]).unwrap().node;
    assert_eq!(two.world.get(node).unwrap(), b"");
}

#[test]
fn who_has_it_open_notices_nothing() {
    for mode in MODES {
        let mut two = two(mode);
        let content = noise(3, 50_000);
        let (_, fh) = two.world.create(two.a, "file");
        two.world.write(fh, 0, &content);
        two.mv(two.a, "file", two.b, "moved", 0).unwrap();
        assert_eq!(two.read(fh, 60_000), content);
        two.world.write(fh, 50_000, &content[..5000]);
        two.world.fs().fsync(fh, false).unwrap();
        // Back again, and cut to nothing: its next header is a new one.
        two.mv(two.b, "moved", two.a, "back", 0).unwrap();
        two.world
            .resize(two.world.at(&["a", "back"]).unwrap().node, 0);
        two.world.write(fh, 0, b"small now");
        two.mv(two.a, "back", two.b, "there", 0).unwrap();
        assert_eq!(two.read(fh, 100), b"small now");
        two.world.fs().release(fh);
        assert_eq!(two.wraps(&["b", "there"]), [two.policies[1].policy()]);
        two.world.remount();
        let node = two.world.at(&["b", "there"]).unwrap().node;
        assert_eq!(two.world.get(node).unwrap(), b"small now");
    }
}

#[test]
fn it_replaces_what_has_the_name() {
    let mut two = two(ContentMode::Xts);
    let (_, old) = two.world.create(two.b, "file");
    two.world.write(old, 0, b"old");
    two.world.put(two.a, "file", b"new");
    let kept = two.mv(two.a, "file", two.b, "file", libc::RENAME_NOREPLACE);
    assert_eq!(kept, Err(Errno::EXIST));
    // Nothing was moved, and nobody else can open it.
    assert_eq!(two.wraps(&["a", "file"]), [two.policies[0].policy()]);
    two.mv(two.a, "file", two.b, "file", 0).unwrap();
    assert_eq!(two.read(old, 10), b"old", "open still");
    two.world.remount();
    let node = two.world.at(&["b", "file"]).unwrap().node;
    assert_eq!(two.world.get(node).unwrap(), b"new");
}

/// SEMANTICS: EXDEV
#[test]
fn what_cannot_move_has_to_be_copied() {
    let two = two(ContentMode::Xts);
    let fs = two.world.fs();
    let name = OsStr::new;
    two.world.mkdir(two.a, "dir");
    two.world.mkdir(two.b, "dir");
    fs.symlink(&me(), two.a, name("link"), name("target"))
        .unwrap();
    fs.mknod(&me(), two.a, name("pipe"), libc::S_IFIFO | 0o644, 0, 0)
        .unwrap();
    let linked = two.world.put(two.a, "linked", b"x");
    fs.link(&me(), linked, two.a, name("again")).unwrap();
    two.world.put(two.a, "file", b"x");
    two.world.put(two.b, "file", b"x");
    for (what, flags) in [
        ("dir", 0),
        ("link", 0),
        ("pipe", 0),
        ("linked", 0),
        ("again", 0),
        ("file", libc::RENAME_EXCHANGE),
    ] {
        let moved = two.mv(two.a, what, two.b, what, flags);
        assert_eq!(moved, Err(Errno::XDEV), "{what}");
    }
    assert_eq!(two.mv(two.a, "nothing", two.b, "x", 0), Err(Errno::NOENT));
    assert_eq!(two.mv(two.a, "file", two.b, "dir", 0), Err(Errno::ISDIR));
    // With one name left it can move.
    fs.unlink(&me(), two.a, name("again")).unwrap();
    two.mv(two.a, "linked", two.b, "linked", 0).unwrap();
    let other = modes(ContentMode::Xts, ContentMode::Gcm);
    other.world.put(other.a, "file", b"x");
    let moved = other.mv(other.a, "file", other.b, "file", 0);
    assert_eq!(moved, Err(Errno::XDEV), "another mode");
}

#[test]
fn a_wrap_left_by_a_crash_goes_with_the_next_move() {
    let mut two = two(ContentMode::Gcm);
    let node = two.world.put(two.a, "file", b"content");
    // As if the power had failed between the header and the rename.
    let fs = two.world.fs();
    let node = fs.table.get(node).unwrap();
    fs.with_file(&node, true, |file| file.add_wrap(&two.policies[1]))
        .unwrap();
    drop(node);
    let both = [two.policies[1].policy(), two.policies[0].policy()];
    assert_eq!(two.wraps(&["a", "file"]), both);
    two.world.crash();
    (two.a, two.b) = (
        two.world.at(&["a"]).unwrap().node,
        two.world.at(&["b"]).unwrap().node,
    );
    let read = |two: &Two, path: &[&str]| {
        let node = two.world.at(path).unwrap().node;
        two.world.get(node).unwrap()
    };
    assert_eq!(read(&two, &["a", "file"]), b"content");
    two.mv(two.a, "file", two.b, "file", 0).unwrap();
    assert_eq!(two.wraps(&["b", "file"]), [two.policies[1].policy()]);
    two.world.remount();
    assert_eq!(read(&two, &["b", "file"]), b"content");
}

#[test]
fn moved_to_and_fro_while_it_is_written() {
    for mode in MODES {
        let mut two = two(mode);
        let (_, fh) = two.world.create(two.a, "file");
        let done = AtomicBool::new(false);
        let rounds = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut round = 0_u64;
                while !done.load(Ordering::Relaxed) || round < 20 {
                    // From inline to units and back.
                    let length = if round.is_multiple_of(3) {
                        1000
                    } else {
                        30_000
                    };
                    let content = noise(round, length);
                    two.world.write(fh, 0, &content);
                    assert_eq!(two.read(fh, length), content);
                    if round.is_multiple_of(7) {
                        let changes = crate::fs::SetAttr {
                            size: Some(0),
                            ..Default::default()
                        };
                        let node = two.world.fs().handles.get(fh).unwrap().node.id;
                        let fs = two.world.fs();
                        fs.setattr(&me(), node, Some(fh), &changes).unwrap();
                    }
                    round += 1;
                }
                round
            });
            let moved = (0..40).try_for_each(|_| {
                two.mv(two.a, "file", two.b, "file", 0)?;
                two.mv(two.b, "file", two.a, "file", 0)
            });
            done.store(true, Ordering::Relaxed);
            let rounds = writer.join().unwrap();
            assert_eq!(moved, Ok(()));
            rounds
        });
        let content = noise(rounds, 20_000);
        two.world.write(fh, 0, &content);
        two.world.fs().release(fh);
        assert_eq!(two.wraps(&["a", "file"]), [two.policies[0].policy()]);
        two.world.keys.forget(&two.policies[1]);
        two.world.remount();
        let node = two.world.at(&["a", "file"]).unwrap().node;
        assert_eq!(two.world.get(node).unwrap()[..20_000], content);
    }
}

/// Nobody may use the first of the policies, nor bring anything under the second.
struct Neither(PolicyId, PolicyId);

impl Access for Neither {
    fn may_use(&self, _: &Caller, _: &VolumeId, policy: &PolicyId) -> FsResult<()> {
        if *policy == self.0 {
            Err(Errno::ACCES)
        } else {
            Ok(())
        }
    }

    fn may_bring(&self, _: &Caller, _: &VolumeId, policy: &PolicyId) -> FsResult<()> {
        if *policy == self.1 {
            Err(Errno::PERM)
        } else {
            Ok(())
        }
    }

    fn per_user(&self) -> bool {
        true
    }
}

#[test]
fn both_sides_have_to_allow_it() {
    let mut two = two(ContentMode::Xts);
    two.world.put(two.a, "file", b"x");
    two.world.put(two.b, "file", b"x");
    two.world.unmount();
    let [a, b] = [0, 1].map(|which| two.policies[which].policy());
    for (neither, expected) in [
        (Neither(a, a), Errno::ACCES),
        (Neither(PolicyId([9; 16]), b), Errno::PERM),
    ] {
        let fs = two.world.open().unwrap().with_access(Arc::new(neither));
        let dir = |name| fs.lookup(&me(), NodeId::ROOT, OsStr::new(name));
        let (from, to) = (dir("a").unwrap().node, dir("b").unwrap().node);
        let name = OsStr::new("file");
        let moved = fs.rename(&me(), from, name, to, name, 0);
        assert_eq!(moved, Err(expected));
    }
    two.world.remount();
    assert_eq!(two.wraps(&["a", "file"]), [a]);
}
