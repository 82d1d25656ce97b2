//! Held changes, and checking while the volume is in use.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use kms_format::ContentMode;

use super::check::{flip, sample_in};
use super::world::{World, me, noise};
use crate::check::{Code, Options, check, check_mounted};
use crate::errno::Errno;
use crate::fs::{Fs, NodeId};
use crate::volume::{Keys, WOULD_WAIT, never_wait_here};

const LONG: Duration = Duration::from_secs(600);

fn opened() -> (World, Arc<Fs>) {
    opened_in(ContentMode::Xts)
}

fn opened_in(mode: ContentMode) -> (World, Arc<Fs>) {
    let world = sample_in(mode);
    let fs = Arc::new(world.open().unwrap());
    (world, fs)
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

fn put(fs: &Fs, name: &str, content: &[u8]) -> Result<(), Errno> {
    let flags = libc::O_RDWR;
    let (_, opened) = fs.create(
        &me(),
        NodeId::ROOT,
        OsStr::new(name),
        0o644,
        0,
        flags,
        false,
    )?;
    let mut data = content.to_vec();
    let done = fs.write(&me(), opened.fh, 0, &mut data, false);
    fs.release(opened.fh);
    done.map(drop)
}

fn get(fs: &Fs, name: &str) -> Vec<u8> {
    let entry = fs.lookup(&me(), NodeId::ROOT, OsStr::new(name)).unwrap();
    let opened = fs.open(&me(), entry.node, libc::O_RDONLY, false).unwrap();
    let mut content = vec![0; 1 << 20];
    let got = fs.read(opened.fh, 0, &mut content).unwrap();
    fs.release(opened.fh);
    content.truncate(got);
    content
}

fn is_clean(world: &World, lower: &Path) {
    let keys: &dyn Keys = &*world.keys;
    let options = Options {
        repair: false,
        content: true,
    };
    let report = check(lower, Some(keys), options, &mut |_| {}).unwrap();
    assert_eq!(report.findings.len(), 0, "{:#?}", report.findings);
}

/// Changes of all kinds until told to stop.
fn churn(fs: &Fs, worker: usize, stop: &AtomicBool, rounds: &AtomicU64) {
    let name = |number: usize| format!("{worker} {}{number}", "long ".repeat(number % 2 * 40));
    for number in (0..6).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (here, next) = (name(number), name(number + 100));
        let (here, next) = (OsStr::new(&here), OsStr::new(&next));
        let length = [10, 4000, 9000, 70_000][number % 4];
        put(fs, here.to_str().unwrap(), &noise(number as u64, length)).unwrap();
        let target = OsStr::new("x");
        let long = "y".repeat(1500);
        let link = format!("link {worker}");
        let target = if number % 2 == 0 {
            OsStr::new(&long)
        } else {
            target
        };
        fs.symlink(&me(), NodeId::ROOT, OsStr::new(&link), target)
            .unwrap();
        fs.rename(&me(), NodeId::ROOT, here, NodeId::ROOT, next, 0)
            .unwrap();
        let dir = format!("dir {worker}");
        fs.mkdir(&me(), NodeId::ROOT, OsStr::new(&dir), 0o755, 0)
            .unwrap();
        fs.rmdir(&me(), NodeId::ROOT, OsStr::new(&dir)).unwrap();
        fs.unlink(&me(), NodeId::ROOT, next).unwrap();
        fs.unlink(&me(), NodeId::ROOT, OsStr::new(&link)).unwrap();
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn changes_wait_reading_goes_on_and_a_copy_is_clean() {
    let (world, fs) = opened();
    let waits = AtomicBool::new(false);
    thread::scope(|scope| {
        put(&fs, "before", b"before").unwrap();
        fs.freeze(LONG).unwrap();
        assert!(fs.frozen_for().is_some());
        assert_eq!(fs.freeze(LONG), Err(Errno::BUSY));
        let writer = scope.spawn(|| {
            waits.store(true, Ordering::SeqCst);
            put(&fs, "after", b"after").unwrap();
        });
        while !waits.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        assert_eq!(get(&fs, "before"), b"before");
        assert_eq!(get(&fs, "units"), noise(1, 100_000));
        let folder = tempfile::tempdir().unwrap();
        let copied = folder.path().join("copy");
        copy(world.lower(), &copied);
        is_clean(&world, &copied);
        assert!(!copied.join(".kmsfs.unclean").exists());
        let other = Fs::new(&copied, Arc::clone(&world.keys) as Arc<dyn Keys>, true).unwrap();
        assert_eq!(get(&other, "before"), b"before");
        let missing = other.lookup(&me(), NodeId::ROOT, OsStr::new("after"));
        assert_eq!(missing.unwrap_err(), Errno::NOENT);
        assert!(!writer.is_finished());

        assert_eq!(fs.thaw(None), Ok(true));
        writer.join().unwrap();
        assert_eq!(get(&fs, "after"), b"after");
        assert_eq!(fs.thaw(None), Ok(false));
        assert!(world.lower().join(".kmsfs.unclean").exists());
    });
}

#[test]
fn a_copy_in_the_middle_of_changes_is_clean_every_time() {
    for mode in [ContentMode::Xts, ContentMode::Gcm] {
        copy_in_the_middle(mode);
    }
}

fn copy_in_the_middle(mode: ContentMode) {
    let (world, fs) = opened_in(mode);
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for worker in 0..3 {
            let (fs, stop, rounds) = (&fs, &stop, &rounds);
            scope.spawn(move || churn(fs, worker, stop, rounds));
        }
        let folder = tempfile::tempdir().unwrap();
        for round in 0..5 {
            let seen = rounds.load(Ordering::Relaxed);
            while rounds.load(Ordering::Relaxed) < seen + 5 {
                thread::yield_now();
            }
            let number = fs.freeze(LONG).unwrap();
            let copied = folder.path().join(round.to_string());
            copy(world.lower(), &copied);
            assert_eq!(
                fs.thaw(Some(number)),
                Ok(true),
                "it was frozen all the time"
            );
            is_clean(&world, &copied);
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(fs);
    is_clean(&world, world.lower());
}

#[test]
fn who_must_not_wait_is_sent_to_where_waiting_is_allowed() {
    let (_world, fs) = opened();
    fs.freeze(LONG).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            never_wait_here();
            assert_eq!(put(&fs, "x", b"x"), Err(WOULD_WAIT));
            // Reading, with all that it may do on the side.
            assert_eq!(get(&fs, "inline"), b"small");
        });
    });
    fs.thaw(None).unwrap();
}

#[test]
fn a_freeze_ends_with_its_time() {
    let (world, fs) = opened();
    fs.freeze(Duration::from_millis(50)).unwrap();
    // Waits for the end of it.
    put(&fs, "after", b"after").unwrap();
    assert!(fs.frozen_for().is_none());
    let number = fs.freeze(LONG).unwrap();
    assert_eq!(fs.thaw(Some(number + 1)), Ok(false), "of another freeze");
    assert!(fs.frozen_for().is_some());
    // A volume that is closed while it is frozen is closed cleanly.
    drop(fs);
    is_clean(&world, world.lower());
}

#[test]
fn a_check_while_it_is_used_finds_damage_and_nothing_else() {
    for mode in [ContentMode::Xts, ContentMode::Gcm] {
        check_while_used(mode);
    }
}

fn check_while_used(mode: ContentMode) {
    let (world, fs) = opened_in(mode);
    let keys: &dyn Keys = &*world.keys;
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let damaged = world.lower_of(&{
        let dir = fs.lookup(&me(), NodeId::ROOT, OsStr::new("dir")).unwrap();
        fs.lookup(&me(), dir.node, OsStr::new("inner")).unwrap()
    });
    thread::scope(|scope| {
        for worker in 0..3 {
            let (fs, stop, rounds) = (&fs, &stop, &rounds);
            scope.spawn(move || churn(fs, worker, stop, rounds));
        }
        for _ in 0..10 {
            let seen = rounds.load(Ordering::Relaxed);
            while rounds.load(Ordering::Relaxed) < seen + 3 {
                thread::yield_now();
            }
            let report = check_mounted(&fs, world.lower(), keys, true, &mut |_| true).unwrap();
            assert!(report.is_clean(), "{:#?}", report.findings);
            assert!(fs.frozen_for().is_none());
        }
        flip(&damaged, 60);
        let report = check_mounted(&fs, world.lower(), keys, false, &mut |_| true).unwrap();
        let codes: Vec<_> = report.findings.iter().map(|found| found.code).collect();
        assert_eq!(codes, [Code::FileDamaged], "{:#?}", report.findings);
        assert_eq!(report.findings[0].plain_path, "/dir/inner");
        assert!(report.online);
        stop.store(true, Ordering::Relaxed);
    });
    let stopped = check_mounted(&fs, world.lower(), keys, false, &mut |_| false);
    assert_eq!(stopped.unwrap_err(), Errno::from_raw(libc::ECANCELED));
    assert!(fs::metadata(&damaged).is_ok());
}

#[test]
fn no_header_is_written_while_it_is_frozen() {
    let (world, fs) = opened_in(ContentMode::Gcm);
    let made = |name: &str, size: usize| {
        let (caller, name) = (me(), OsStr::new(name));
        let made = fs.create(&caller, NodeId::ROOT, name, 0o644, 0, libc::O_RDWR, false);
        let (entry, opened) = made.unwrap();
        fs.write(&caller, opened.fh, 0, &mut noise(1, size), false)
            .unwrap();
        (world.lower().join(world.lower_of(&entry)), opened.fh)
    };
    let (growing, open) = made("growing", 10_000);
    let (_, exact) = made("exact", 10_000);
    fs.fsync(exact, true).unwrap();
    let number = fs.freeze(LONG).unwrap();
    let before = std::fs::read(&growing).unwrap();
    let refused = thread::scope(|scope| {
        let here = || {
            never_wait_here();
            fs.fsync(open, true)
        };
        scope.spawn(here).join().unwrap()
    });
    assert_eq!(refused, Err(WOULD_WAIT), "its length has to be written");
    assert_eq!(fs.fsync(exact, true), Ok(()), "there is nothing to write");
    assert!(std::fs::read(&growing).unwrap() == before);
    assert_eq!(fs.thaw(Some(number)), Ok(true));
    fs.fsync(open, true).unwrap();
    assert!(std::fs::read(&growing).unwrap() != before);
    fs.release(open);
    fs.release(exact);
}
