//! Jobs as a whole, and what is done to the tree at the same time.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use kms_format::{PolicyId, UnlockedPolicy};

use super::world::{World, me, noise};
use crate::errno::{Errno, FsResult};
use crate::fs::{Fs, NodeId};
use crate::inode::{Context, Node};
use crate::jobs::cursor::Cursor;
use crate::jobs::rewrap::Rewrap;
use crate::jobs::run::{Finish, Spec};
use crate::jobs::{JobKind, JobReport, Jobs, Pace, Rate, Step, Work};

/// Long enough for any job of these tests.
const LONG: Duration = Duration::from_secs(600);

fn policy_of(fs: &Fs) -> Arc<UnlockedPolicy> {
    let root = fs.visit(NodeId::ROOT).unwrap();
    Arc::clone(&fs.context_of(&root).unwrap().policy)
}

fn cursor(to: &UnlockedPolicy) -> Cursor {
    Cursor {
        kind: JobKind::Rewrap,
        policy: to.policy().to_string(),
        generation: to.generation(),
        position: Vec::new(),
        done: 0,
        changed: 0,
        bytes: 0,
        total: None,
        rate: Rate::default(),
        destroy_old: false,
        stopped: false,
        failed: 0,
        kept_older: false,
    }
}

/// A job from its beginning to its end.
fn run(
    fs: &Arc<Fs>,
    to: &Arc<UnlockedPolicy>,
    work: Box<dyn Work>,
    finish: Option<Finish>,
) -> JobReport {
    let jobs = Arc::new(Jobs::default());
    let number = jobs
        .start(Spec {
            fs: Arc::clone(fs),
            policy: Arc::clone(to),
            root: fs.policy_root(NodeId::ROOT).unwrap(),
            cursor: cursor(to),
            work,
            finish,
        })
        .unwrap();
    jobs.wait(number, LONG).unwrap()
}

/// Ends older generations, as far as anybody can see.
fn counting(ended: &Arc<AtomicU64>) -> Finish {
    let ended = Arc::clone(ended);
    Box::new(move || {
        ended.fetch_add(1, Ordering::SeqCst);
        Ok(vec![1])
    })
}

fn kept(world: &World) -> Option<Cursor> {
    Cursor::read(&world.root())
        .unwrap()
        .map(|sealed| sealed.cursor)
}

/// Finds something to do in each look, as where files come and go under it.
struct Restless(Rewrap);

impl Work for Restless {
    fn directory(&mut self, fs: &Fs, dir: &Arc<Node>, pace: Pace<'_>) -> FsResult<Step> {
        self.0.directory(fs, dir, pace)
    }

    fn entry(
        &mut self,
        fs: &Fs,
        dir: &Arc<Node>,
        name: &str,
        node: &Arc<Node>,
        pace: Pace<'_>,
    ) -> FsResult<Step> {
        self.0.entry(fs, dir, name, node, pace)?;
        Ok(Step::CHANGED)
    }

    fn flush(&mut self, fs: &Fs) -> FsResult<()> {
        self.0.flush(fs)
    }

    fn policy(&self) -> PolicyId {
        self.0.policy()
    }
}

#[test]
fn what_finds_something_in_each_look_is_not_finished_and_ends_nothing() {
    let mut world = World::new();
    world.put(NodeId::ROOT, "file", b"content");
    world.unmount();
    let fs = Arc::new(world.open().unwrap());
    let to = world.keys.rotate(&policy_of(&fs));
    let ended = Arc::new(AtomicU64::new(0));
    let work = Restless(Rewrap::new(Arc::clone(&to)));
    let report = run(&fs, &to, Box::new(work), Some(counting(&ended)));
    assert_eq!((report.finished, report.ended.len()), (false, 0));
    let error = report.error.unwrap();
    assert!(error.contains("older generations"), "{error}");
    assert_eq!(ended.load(Ordering::SeqCst), 0);
    let place = kept(&world).unwrap();
    assert!(!place.stopped, "it goes on");

    // Once it is quiet the same command comes to the end.
    let work = Rewrap::new(Arc::clone(&to));
    let report = run(&fs, &to, Box::new(work), Some(counting(&ended)));
    assert_eq!((report.finished, report.error), (true, None));
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    assert!(kept(&world).is_none());
}

#[test]
fn what_could_not_be_worked_on_keeps_the_place_for_the_next_try() {
    let mut world = World::new();
    world.put(NodeId::ROOT, "whole", &noise(1, 9000));
    world.put(NodeId::ROOT, "damaged", &noise(2, 9000));
    let lower = world.lower_of(&world.at(&["damaged"]).unwrap());
    world.unmount();
    let sound = std::fs::read(&lower).unwrap();
    let mut page = sound.clone();
    page[100] ^= 1;
    std::fs::write(&lower, page).unwrap();
    let fs = Arc::new(world.open().unwrap());
    let to = world.keys.rotate(&policy_of(&fs));
    let ended = Arc::new(AtomicU64::new(0));
    let again = || {
        let work = Rewrap::new(Arc::clone(&to));
        run(&fs, &to, Box::new(work), Some(counting(&ended)))
    };
    let report = again();
    assert!(report.finished);
    assert_eq!(report.progress.failed, 1, "each object once: {report:?}");
    assert_eq!(report.failures.len(), 1);
    assert_eq!(ended.load(Ordering::SeqCst), 0, "one hangs on them");
    let place = kept(&world).unwrap();
    assert_eq!((place.failed, place.generation), (1, to.generation()));
    assert!(place.position.is_empty(), "everything is looked at again");

    std::fs::write(&lower, sound).unwrap();
    let report = again();
    assert_eq!((report.progress.failed, report.error), (0, None));
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    assert!(kept(&world).is_none());
}

#[test]
fn a_locked_policy_below_is_counted_apart_and_ends_nothing() {
    let mut world = World::new();
    let inner = world.keys.add(world.volume);
    let first = world.mkdir(NodeId::ROOT, "first");
    world.put(first, "file", b"before");
    let locked = world.mkdir(NodeId::ROOT, "locked");
    world.fs().protect(locked, &inner).unwrap();
    world.put(locked, "file", b"inside");
    let last = world.mkdir(NodeId::ROOT, "last");
    world.put(last, "file", b"behind");
    world.unmount();
    world.keys.forget(&inner);
    let fs = Arc::new(world.open().unwrap());
    let old = policy_of(&fs);
    let to = world.keys.rotate(&old);
    let ended = Arc::new(AtomicU64::new(0));
    let work = Rewrap::new(Arc::clone(&to));
    let report = run(&fs, &to, Box::new(work), Some(counting(&ended)));
    assert_eq!((report.finished, report.error.clone()), (true, None));
    assert_eq!((report.progress.failed, report.progress.locked), (0, 1));
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    drop(fs);
    world.keys.forget(&old);
    world.keys.put_back(inner);
    world.remount();
    for (dir, content) in [
        ("first", &b"before"[..]),
        ("locked", b"inside"),
        ("last", b"behind"),
    ] {
        let file = world.at(&[dir, "file"]).unwrap().node;
        assert_eq!(world.get(file).unwrap(), content, "{dir}");
    }
}

#[test]
fn a_directory_that_only_claims_to_have_another_policy_is_not_passed_over() {
    let mut world = World::new();
    let other = world.keys.add(world.volume);
    let claims = world.mkdir(NodeId::ROOT, "claims");
    let above = world.mkdir(NodeId::ROOT, "above");
    let elsewhere = world.mkdir(above, "elsewhere");
    world.fs().protect(elsewhere, &other).unwrap();
    let lower = |path: &[&str]| world.lower_of(&world.at(path).unwrap()).join(".kmsfs");
    let _ = claims;
    let (from, to) = (lower(&["above", "elsewhere"]), lower(&["claims"]));
    world.unmount();
    // A header that another directory admitted.
    std::fs::copy(from, to).unwrap();
    world.keys.forget(&other);
    let fs = Arc::new(world.open().unwrap());
    let next = world.keys.rotate(&policy_of(&fs));
    let ended = Arc::new(AtomicU64::new(0));
    let work = Rewrap::new(Arc::clone(&next));
    let report = run(&fs, &next, Box::new(work), Some(counting(&ended)));
    assert_eq!(ended.load(Ordering::SeqCst), 0);
    assert!(report.error.is_some());
    assert_eq!(report.progress.locked, 0);
}

#[test]
fn a_name_given_to_a_symlink_while_it_is_made_anew_keeps_its_target() {
    let world = World::new();
    let fs = world.fs();
    let there = world.mkdir(NodeId::ROOT, "there");
    let target = "t".repeat(2000);
    let mut to = policy_of(fs);
    let mut linked = 0;
    for round in 0..30 {
        let name = format!("link {round}");
        let link = fs
            .symlink(&me(), NodeId::ROOT, OsStr::new(&name), OsStr::new(&target))
            .unwrap()
            .node;
        to = world.keys.rotate(&to);
        let (root, node) = (fs.visit(NodeId::ROOT).unwrap(), fs.table.get(link).unwrap());
        let stored: Box<str> = node.place().unwrap().name;
        let together = Barrier::new(2);
        let given = std::thread::scope(|scope| {
            let giver = scope.spawn(|| {
                together.wait();
                // Somewhere in the time that the other takes.
                std::thread::sleep(Duration::from_micros(20 * (round % 30)));
                fs.link(&me(), link, there, OsStr::new(&name))
            });
            let mut work = Rewrap::new(Arc::clone(&to));
            together.wait();
            let done = work.entry(fs, &root, &stored, &node, &mut |_| true);
            work.flush(fs).unwrap();
            done.unwrap();
            giver.join().unwrap()
        });
        fs.leave(&root);
        let mut places = vec![vec![name.as_str()]];
        match given {
            Ok(_) => places.push(vec!["there", &name]),
            Err(errno) => assert_eq!(errno, Errno::STALE, "it is another object by now"),
        }
        linked += places.len() - 1;
        for place in places {
            let found = world.at(&place).unwrap().node;
            let read = fs.readlink(found);
            assert_eq!(read.as_deref(), Ok(target.as_bytes()), "{place:?}");
        }
    }
    // Not a condition: how many came in time is the machine's affair.
    println!("{linked} of 30 were given a name in time");
}

#[test]
fn what_is_made_without_a_name_while_its_directory_is_rewrapped_hangs_on_the_new_key() {
    let world = World::new();
    let fs = world.fs();
    let dir = world.mkdir(NodeId::ROOT, "dir");
    let node = fs.visit(dir).unwrap();
    let to = world.keys.rotate(&policy_of(fs));
    let directory = node.directory().unwrap();
    let made = std::thread::scope(|scope| {
        // As a rewrap holds it while it changes the key.
        let alone = directory.entries.write();
        let maker = scope.spawn(|| fs.tmpfile(&me(), dir, 0o600, 0).unwrap());
        // For one that does not wait to be done with the former key.
        std::thread::sleep(Duration::from_millis(100));
        let now = Arc::clone(directory.context.read().as_ref().unwrap());
        let mut header = now.header.clone();
        header.rewrap(&to, &now.keys).unwrap();
        let keys = header.unlock(&to).unwrap();
        let policy = Arc::clone(&to);
        *directory.context.write() = Some(Arc::new(Context {
            header,
            keys,
            policy,
        }));
        drop(alone);
        maker.join().unwrap()
    });
    let file = fs.table.get(made.0.node).unwrap();
    let under = Arc::clone(file.file().unwrap().read().opened().unwrap().policy());
    assert_eq!(under.generation(), to.generation());
    fs.release(made.1.fh);
    fs.leave(&node);
}

#[test]
fn a_file_without_a_name_gets_none_where_the_policy_has_changed() {
    let world = World::new();
    let fs = world.fs();
    let dir = world.mkdir(NodeId::ROOT, "dir");
    let (entry, opened) = fs.tmpfile(&me(), dir, 0o600, 0).unwrap();
    world.write(opened.fh, 0, b"content");
    let own = world.keys.add(world.volume);
    fs.protect(dir, &own).unwrap();
    let linked = fs.link(&me(), entry.node, dir, OsStr::new("name"));
    assert_eq!(linked.unwrap_err(), Errno::XDEV);
    let linked = fs.link(&me(), entry.node, NodeId::ROOT, OsStr::new("name"));
    let found = linked.map(|entry| world.get(entry.node).unwrap());
    assert!(found.is_err() || found == Ok(b"content".to_vec()));
    fs.release(opened.fh);
}
