//! What a revocation needs of the file system: other numbers, judged requests, keys wiped and got again.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::world::{World, me, noise};
use crate::errno::Errno;
use crate::fs::{Caller, FileHandle, Fs, NodeId};
use crate::revoke::marks::{Asked, Class, Verdict};
use crate::revoke::{Abort, Kernel, LockReason, Revoke, Revoker, Settings};

const ALICE: u32 = 4001;

fn asked(class: Class, node: NodeId, fh: Option<FileHandle>) -> Asked {
    Asked {
        class,
        uid: ALICE,
        node,
        other: None,
        handles: [fh, None],
    }
}

#[test]
fn another_number_leaves_nothing_under_the_old_one() {
    let world = World::new();
    let fs = world.fs();
    let before = fs.table.len();
    let old = world.put(NodeId::ROOT, "file", b"content");
    let fh = fs.open(&me(), old, libc::O_RDWR, false).unwrap().fh;
    let node = fs.table.get(old).unwrap();
    assert_eq!(fs.renumber(&node), Some(old));
    let found = world.at(&["file"]).unwrap();
    assert_ne!(found.node, old);
    assert_eq!(found.attr.ino, node.lower.ino());
    assert_eq!(world.get(found.node).unwrap(), b"content");
    assert_eq!(fs.getattr(&me(), old, None), Err(Errno::STALE));
    assert_eq!(
        fs.lookup(&me(), old, OsStr::new(".")).unwrap_err(),
        Errno::STALE
    );
    assert!(fs.handles.get(fh).unwrap().is_stale());
    // By either number the kernel's references count; once there are none it is gone.
    fs.release(fh);
    drop(node);
    fs.forget(found.node, 1);
    assert!(fs.getattr(&me(), found.node, None).is_ok());
    fs.forget(old, 1);
    assert_eq!(fs.table.len(), before);
    // Found again by the number it had last, for file handles, and never by the former one.
    let again = world.at(&["file"]).unwrap();
    assert_eq!(again.node, found.node);
    assert_eq!(fs.renumber(fs.table.root()), None);
}

#[test]
fn requests_are_judged_by_opener_caller_node_and_policy() {
    let world = World::new();
    let fs = world.fs();
    let file = world.put(NodeId::ROOT, "file", b"content");
    let nested = world.mkdir(NodeId::ROOT, "nested");
    fs.protect(nested, &world.keys.add(world.volume)).unwrap();
    let inside = world.put(nested, "inside", b"more");
    let alice = Caller {
        uid: ALICE,
        gid: ALICE,
        pid: 1,
    };
    let hers = fs.open(&alice, file, libc::O_RDWR, false).unwrap().fh;
    let ours = fs.open(&me(), file, libc::O_RDWR, false).unwrap().fh;
    let node = fs.table.get(file).unwrap();
    let policy = fs.policy_of(&node).unwrap();
    assert_ne!(
        fs.policy_of(&fs.table.get(inside).unwrap()).unwrap(),
        policy
    );
    let read = |fh| asked(Class::Read, file, Some(fh));
    let mapped = |fh| asked(Class::Write { cached: true }, file, Some(fh));
    let denied = Verdict::Fail(Errno::ACCES);
    let revoked = Verdict::Fail(Errno::from_raw(libc::EKEYREVOKED));
    let marks = Arc::clone(fs.marks());
    assert!(marks.is_quiet());
    assert_eq!(fs.judge(&read(hers)), Verdict::Pass);

    marks.change_for_test(|state| state.users.insert((policy, ALICE), BTreeSet::new()));
    assert_eq!(fs.judge(&asked(Class::Open, file, None)), denied);
    assert_eq!(fs.judge(&asked(Class::Lookup, NodeId::ROOT, None)), denied);
    // Under another policy, and for what is answered in any case.
    assert_eq!(fs.judge(&asked(Class::Lookup, nested, None)), Verdict::Pass);
    assert_eq!(fs.judge(&asked(Class::Exempt, file, None)), Verdict::Pass);
    fs.handles.get(hers).unwrap().revoke();
    assert_eq!(fs.judge(&read(hers)), revoked);
    // Pages of a mapping may be anybody's, through any handle.
    assert_eq!(fs.judge(&mapped(hers)), Verdict::Pass);

    marks.change_for_test(|state| state.victims.insert(node.id));
    for class in [Class::Read, Class::SetAttr, Class::Write { cached: false }] {
        let verdict = fs.judge(&asked(class, file, Some(ours)));
        assert_eq!(verdict, Verdict::Fail(Errno::STALE), "{class:?}");
    }
    assert_eq!(fs.judge(&mapped(ours)), Verdict::Pass);
    for class in [Class::GetAttr, Class::Open, Class::Change] {
        assert_eq!(fs.judge(&asked(class, file, None)), Verdict::Park);
    }
    assert!(!fs.may_name(file) && fs.may_name(inside));
    fs.renumber(&node).unwrap();
    // A write that passed before may have put its page where the old number is.
    assert_eq!(fs.judge(&mapped(ours)), Verdict::Fail(Errno::STALE));
    marks.change_for_test(|state| state.victims.clear());
    assert!(fs.may_name(node.number()));
    fs.release(hers);
    fs.release(ours);
}

#[test]
fn a_locked_policy_refuses_or_waits_by_its_reasons() {
    let world = World::new();
    let fs = world.fs();
    let file = world.put(NodeId::ROOT, "file", b"content");
    let policy = fs.policy_of(&fs.table.get(file).unwrap()).unwrap();
    let marks = Arc::clone(fs.marks());
    marks.set(Duration::from_secs(60), |_| {});
    let open = asked(Class::Open, file, None);
    let mapped = asked(Class::Write { cached: true }, file, None);
    let refused = Verdict::Fail(Errno::NOKEY);
    let lock = |why, closed, done| marks.lock_for_test(policy, why, closed, done);
    lock(LockReason::KmsdLost, false, false);
    // While pages are being taken away nothing waits, and dirty ones are written.
    assert_eq!(fs.judge(&open), refused);
    assert_eq!(fs.judge(&mapped), Verdict::Pass);
    lock(LockReason::KmsdLost, true, true);
    assert!(matches!(fs.judge(&open), Verdict::Wait(until) if until > Instant::now()));
    lock(LockReason::Administrator, true, true);
    assert_eq!(fs.judge(&open), refused);
    assert_eq!(fs.judge(&mapped), refused);
    // The root of the mount can still be looked at.
    let look = asked(Class::GetAttr, NodeId::ROOT, None);
    assert_eq!(fs.judge(&look), Verdict::Pass);
    assert_eq!(fs.judge(&asked(Class::GetAttr, file, None)), refused);
}

#[test]
fn wiped_keys_come_back_and_nothing_is_lost() {
    let world = World::new();
    let fs = world.fs();
    let folder = world.mkdir(NodeId::ROOT, "folder");
    let content = noise(7, 30_000);
    let (entry, fh) = world.create(folder, "file");
    world.write(fh, 0, &content);
    let (_, gone) = world.create(folder, "gone");
    world.write(gone, 0, &content);
    fs.unlink(&me(), folder, OsStr::new("gone")).unwrap();
    let listing = fs.opendir(&me(), folder).unwrap();
    let policy = fs.policy_of(&fs.table.get(folder).unwrap()).unwrap();
    let marks = Arc::clone(fs.marks());
    marks.lock_for_test(policy, LockReason::Administrator, true, true);
    fs.wipe(&policy);
    let body = fs.table.get(entry.node).unwrap();
    assert!(body.file().unwrap().read().open.is_none());
    let directory = fs.table.get(folder).unwrap();
    assert!(directory.directory().unwrap().context.read().is_none());
    // Its policy is still known, and nothing gets keys again.
    assert_eq!(fs.policy_of(&directory), Some(policy));
    assert_eq!(fs.reopen(fh), Err(Errno::NOKEY));
    assert_eq!(
        fs.lookup(&me(), folder, OsStr::new("file")).unwrap_err(),
        Errno::NOKEY
    );
    marks.change_for_test(|state| state.policies.clear());
    for handle in [fh, gone] {
        fs.reopen(handle).unwrap();
        let mut read = vec![0; 40_000];
        assert_eq!(fs.read(handle, 0, &mut read), Ok(content.len()));
        assert!(read.starts_with(&content));
        world.write(handle, 29_990, b"and it goes on");
        fs.fsync(handle, false).unwrap();
        fs.release(handle);
    }
    fs.reopen(listing).unwrap();
    fs.releasedir(listing);
    assert_eq!(world.names(folder), [b"file"]);
    assert_eq!(world.size(entry.node), 30_004);
}

/// A kernel that notes what is asked of it.
#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Kernel for Recorder {
    fn forget_pages(&self, node: NodeId) -> std::io::Result<()> {
        self.0.lock().push(format!("pages {}", node.0));
        Ok(())
    }

    fn forget_attributes(&self, node: NodeId) {
        self.0.lock().push(format!("attributes {}", node.0));
    }

    fn forget_names(&self) {
        self.0.lock().push("names".to_owned());
    }

    fn drain(&self) {
        self.0.lock().push("drain".to_owned());
    }

    fn release(self: Arc<Self>) {
        self.0.lock().push("release".to_owned());
    }
}

#[test]
fn a_revocation_takes_its_steps_in_order_and_lasts_as_long_as_any_reason() {
    let mut world = World::new();
    world.put(NodeId::ROOT, "file", b"content");
    world.unmount();
    let fs = Arc::new(world.open().unwrap());
    let found = fs.lookup(&me(), NodeId::ROOT, OsStr::new("file")).unwrap();
    let alice = Caller {
        uid: ALICE,
        gid: ALICE,
        pid: 1,
    };
    let hers = fs.open(&alice, found.node, libc::O_RDONLY, false).unwrap();
    let ours = fs.open(&me(), found.node, libc::O_RDWR, false).unwrap();
    let node = fs.node(found.node).unwrap();
    let policy = fs.policy_of(&node).unwrap();
    let kernel = Arc::new(Recorder::default());
    let settings = Settings {
        key_wait: Duration::ZERO,
        limit: Duration::from_secs(60),
        abort: Abort::prepare("/nowhere".into(), None),
        device: None,
    };
    let revoker = Revoker::start(&fs, Arc::clone(&kernel) as Arc<dyn Kernel>, settings).unwrap();
    assert!(revoker.users().contains(&(policy, ALICE, ALICE)));
    let report = revoker.revoke_user(policy, ALICE, Revoke::Stale);
    assert_eq!((report.files, report.holders.len()), (1, 1));
    assert!(!report.aborted && !revoker.users().contains(&(policy, ALICE, ALICE)));
    let old = found.node.0;
    let pages = format!("pages {old}");
    let expected = [
        "drain",
        &pages,
        "drain", // written and dropped, then another number
        &pages,
        &pages, // once more at once, and after the time of grace: somebody else may write
        "release",
        "drain",
        "attributes 1",
    ];
    assert_eq!(*kernel.0.lock(), expected);
    assert_ne!(node.number(), found.node);
    let read = |fh| asked(Class::Read, node.number(), Some(fh));
    let revoked = Verdict::Fail(Errno::from_raw(libc::EKEYREVOKED));
    assert_eq!(fs.judge(&read(hers.fh)), revoked);
    assert_eq!(fs.judge(&read(ours.fh)), Verdict::Fail(Errno::STALE));
    let open = asked(Class::Open, node.number(), None);
    assert_eq!(fs.judge(&open), Verdict::Fail(Errno::ACCES));
    // What an administrator took, no grant gives back, and the other way round.
    revoker.lock_user(policy, ALICE, Revoke::Stale);
    revoker.restore_user(policy, ALICE);
    assert_eq!(fs.judge(&open), Verdict::Fail(Errno::ACCES));
    revoker.revoke_user(policy, ALICE, Revoke::Stale);
    assert!(revoker.unlock_user(policy, ALICE) && !revoker.unlock_user(policy, ALICE));
    assert_eq!(fs.judge(&open), Verdict::Fail(Errno::ACCES));
    revoker.restore_user(policy, ALICE);
    assert_eq!(fs.judge(&open), Verdict::Pass);
    // What was open stays revoked.
    assert_eq!(fs.judge(&read(hers.fh)), revoked);
    // The same for everybody: as long as there is any reason.
    revoker.lock_policy(policy, LockReason::KeyUnusable);
    revoker.lock_policy(policy, LockReason::Administrator);
    revoker.unlock_policy(policy, LockReason::KeyUnusable);
    assert_eq!(revoker.locks(), [(policy, vec![LockReason::Administrator])]);
    assert_eq!(fs.judge(&open), Verdict::Fail(Errno::NOKEY));
    revoker.unlock_policy(policy, LockReason::Administrator);
    assert_eq!(fs.judge(&open), Verdict::Pass);
    revoker.stop();
    fs.release(hers.fh);
    fs.release(ours.fh);
}

/// A kernel with which the first step of a revocation panics.
struct Broken;

impl Kernel for Broken {
    fn forget_pages(&self, _: NodeId) -> std::io::Result<()> {
        Ok(())
    }

    fn forget_attributes(&self, _: NodeId) {}

    fn forget_names(&self) {}

    fn drain(&self) {
        panic!("as a defect would");
    }

    fn release(self: Arc<Self>) {}
}

#[test]
fn without_the_thread_for_revocations_the_mount_ends_and_nothing_counts_as_done() {
    let mut world = World::new();
    world.put(NodeId::ROOT, "file", b"content");
    world.unmount();
    let fs = Arc::new(world.open().unwrap());
    let found = fs.lookup(&me(), NodeId::ROOT, OsStr::new("file")).unwrap();
    let policy = fs.policy_of(&fs.node(found.node).unwrap()).unwrap();
    let switch = world.lower().join("switch");
    let settings = Settings {
        key_wait: Duration::ZERO,
        limit: Duration::from_secs(3600),
        abort: Abort::into_file(std::fs::File::create(&switch).unwrap()),
        device: None,
    };
    let revoker = Revoker::start(&fs, Arc::new(Broken), settings).unwrap();
    let report = revoker.revoke_user(policy, ALICE, Revoke::Stale);
    assert!(report.aborted, "{report:?}");
    assert_eq!(std::fs::read(&switch).unwrap(), b"1", "the mount is ended");
    // And so for whoever asks after that.
    let report = revoker.lock_policy(policy, LockReason::Administrator);
    assert!(report.aborted && revoker.aborted());
}

fn revoker(fs: &Arc<Fs>) -> Revoker {
    let settings = Settings {
        key_wait: Duration::ZERO,
        limit: Duration::from_secs(3600),
        abort: Abort::prepare("/nowhere".into(), None),
        device: None,
    };
    Revoker::start(fs, Arc::new(Recorder::default()), settings).unwrap()
}

#[test]
fn what_was_opened_needs_the_right_by_which_it_was_and_the_one_of_where_it_is() {
    let mut world = World::new();
    let [first, second] = ["first", "second"].map(|name| {
        let dir = world.mkdir(NodeId::ROOT, name);
        let policy = world.keys.add(world.volume);
        world.fs().protect(dir, &policy).unwrap();
        policy.policy()
    });
    let dir = world.at(&["first"]).unwrap().node;
    world.put(dir, "file", b"content");
    world.unmount();
    let fs = Arc::new(world.open().unwrap());
    let find = |parent, name: &str| fs.lookup(&me(), parent, OsStr::new(name)).unwrap().node;
    let (from, to) = (find(NodeId::ROOT, "first"), find(NodeId::ROOT, "second"));
    let file = find(from, "file");
    let revoker = revoker(&fs);
    let open = |uid| {
        let alice = Caller {
            uid,
            gid: uid,
            pid: 1,
        };
        fs.open(&alice, file, libc::O_RDONLY, false).unwrap().fh
    };
    let name = OsStr::new("file");
    let [early, other] = [ALICE, ALICE + 1].map(open);
    fs.rename(&me(), from, name, to, name, 0).unwrap();
    let late = open(ALICE + 2);
    let rights = revoker.users();
    assert_eq!(rights.len(), 5, "{rights:?}");
    for (policy, uid) in [
        (first, ALICE),
        (first, ALICE + 1),
        (second, ALICE),
        (second, ALICE + 1),
        (second, ALICE + 2),
    ] {
        assert!(rights.contains(&(policy, uid, uid)), "{uid}");
    }
    let served = |fh| !fs.handles.get(fh).unwrap().is_revoked();
    // Who opened it there by the right of the first loses it with that.
    revoker.revoke_user(first, ALICE, Revoke::Stale);
    assert!(!served(early) && served(other) && served(late));
    // And whoever has no right to where it is now.
    revoker.revoke_user(second, ALICE + 1, Revoke::Stale);
    assert!(!served(other) && served(late));
    revoker.revoke_user(first, ALICE + 2, Revoke::Stale);
    assert!(served(late), "never opened by that");
    revoker.stop();
    for fh in [early, other, late] {
        fs.release(fh);
    }
}

#[test]
fn a_group_that_has_lost_its_right_takes_what_was_opened_with_it_and_no_more() {
    let mut world = World::new();
    world.put(NodeId::ROOT, "hers", b"content");
    world.put(NodeId::ROOT, "by group", b"content");
    world.unmount();
    let fs = Arc::new(world.open().unwrap());
    let revoker = revoker(&fs);
    let find = |name: &str| {
        fs.lookup(&me(), NodeId::ROOT, OsStr::new(name))
            .unwrap()
            .node
    };
    let policy = fs.policy_of(&fs.node(find("hers")).unwrap()).unwrap();
    let open = |name: &str, gid| {
        let alice = Caller {
            uid: ALICE,
            gid,
            pid: 1,
        };
        fs.open(&alice, find(name), libc::O_RDONLY, false)
            .unwrap()
            .fh
    };
    let (hers, by_group) = (open("hers", 1), open("by group", 2));
    let listing = {
        let alice = Caller {
            uid: ALICE,
            gid: 2,
            pid: 1,
        };
        fs.opendir(&alice, NodeId::ROOT).unwrap()
    };
    assert_eq!(revoker.users(), [(policy, ALICE, 1), (policy, ALICE, 2)]);
    let report = revoker.revoke_group(policy, (ALICE, 2), Revoke::Stale);
    assert_eq!((report.files, report.holders.len()), (1, 2));
    let served = |fh| {
        let node = fs.handles.get(fh).unwrap().node.number();
        fs.judge(&asked(Class::Read, node, Some(fh))) == Verdict::Pass
    };
    assert!(served(hers) && !served(by_group) && !served(listing));
    // She may open what she has another right to.
    let node = find("by group");
    let open_again = fs.judge(&asked(Class::Open, node, None));
    assert_eq!(open_again, Verdict::Pass);
    assert_eq!(revoker.users(), [(policy, ALICE, 1)]);
    revoker.stop();
    fs.releasedir(listing);
    for fh in [hers, by_group] {
        fs.release(fh);
    }
}
