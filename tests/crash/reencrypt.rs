//! New keys for everything while it is written, and no end of stops: kmsfs is killed in the middle of
//! `kmsctl fs reencrypt`. Contents are exact, the work is ended by whoever comes next, and then the old keys open nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kms_format::FileHeader;
use kms_tests::cli::{self, Said};
use kms_tests::daemon::path_text;
use kms_tests::mount::Mount;
use kms_tests::wait;
use kms_tests::world::World;

use crate::check::Found;
use crate::random::Random;
use crate::rig::{self, Mode};

/// Name and size limit of the files that are written: what stays in the header page, a few units, several chunks.
const FILES: [(&str, u64); 3] = [("inline", 3_700), ("units", 40_000), ("chunks", 3_500_000)];
/// Content modes as kmsctl names them.
const MODES: [&str; 2] = ["gcm", "xts"];
/// Files that only lie there.
const STILL: u64 = 30;

/// Gives everything in a mount new keys, again and again until `stop`, each time in the other mode if `turning`. Gives how often
/// it came to the end.
fn again_and_again(point: &Path, socket: &Path, stop: &AtomicBool, turning: bool) -> u64 {
    let mut ends = 0;
    let modes = if turning { &MODES[..] } else { &[] };
    for turn in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let mode = modes.get(turn % 2);
        let more = mode.map_or(Vec::new(), |mode| vec!["--mode", mode]);
        ends += u64::from(reencrypt(point, socket, &more).code == 0);
    }
    ends
}

fn reencrypt(point: &Path, socket: &Path, more: &[&str]) -> Said {
    let arguments = [&["fs", "reencrypt", path_text(point)], more].concat();
    cli::run("kmsctl", &arguments, Some(socket))
}

/// What a writer does to its file.
#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Resize(u64),
    Punch(u64, u64),
    Read(u64, u64),
    Sync,
}

impl Op {
    fn random(random: &mut Random, size: u64, limit: u64) -> Op {
        let at = random.below(limit);
        let length = 1 + random.below((limit - at).min(limit / 4 + 1));
        match random.below(20) {
            0..=8 => Op::Write(at, (0..length).map(|_| random.next() as u8).collect()),
            9..=10 => Op::Resize(at),
            11..=12 => Op::Punch(at, length),
            13 => Op::Sync,
            _ => Op::Read(random.below(size + 1), length),
        }
    }

    fn run(&self, file: &File, model: &[u8]) -> io::Result<()> {
        match self {
            Op::Write(at, data) => file.write_all_at(data, *at),
            Op::Resize(size) => file.set_len(*size),
            Op::Punch(at, length) => {
                let flags =
                    rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                Ok(rustix::fs::fallocate(file, flags, *at, *length)?)
            }
            Op::Read(at, length) => {
                let end = (at + length).min(model.len() as u64).max(*at);
                let mut found = vec![0; (end - at) as usize];
                file.read_exact_at(&mut found, *at)?;
                assert!(
                    found == model[*at as usize..end as usize],
                    "{} bytes at {at} of {} are wrong while the file gets a new key",
                    end - at,
                    model.len()
                );
                Ok(())
            }
            Op::Sync => file.sync_data(),
        }
    }

    fn apply(&self, model: &mut Vec<u8>) {
        match self {
            Op::Write(at, data) => {
                let (at, end) = (*at as usize, *at as usize + data.len());
                if model.len() < end {
                    model.resize(end, 0);
                }
                model[at..end].copy_from_slice(data);
            }
            Op::Resize(size) => model.resize(*size as usize, 0),
            Op::Punch(at, length) => {
                let end = ((at + length) as usize).min(model.len());
                let at = (*at as usize).min(end);
                model[at..end].fill(0);
            }
            Op::Read(..) | Op::Sync => {}
        }
    }
}

/// A file, what is in it, and what was being done to it when kmsfs was killed.
struct Writer {
    path: PathBuf,
    limit: u64,
    model: Vec<u8>,
    under_way: Option<Op>,
    random: Random,
}

impl Writer {
    /// Works on the file until it is told to stop, or the mount is gone.
    fn run(&mut self, stop: &AtomicBool, returned: &AtomicU64) {
        let opened = OpenOptions::new().read(true).write(true).open(&self.path);
        let file = match opened {
            // Killed already.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ECONNABORTED | libc::ENOTCONN)
                ) =>
            {
                return;
            }
            opened => opened.expect("open a file that is there"),
        };
        while !stop.load(Ordering::Acquire) {
            let op = Op::random(&mut self.random, self.model.len() as u64, self.limit);
            match op.run(&file, &self.model) {
                Ok(()) => op.apply(&mut self.model),
                Err(_) if matches!(op, Op::Read(..) | Op::Sync) => return,
                Err(_) => {
                    self.under_way = Some(op);
                    return;
                }
            }
            returned.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// After a kill: what had returned is there, each byte that was under way is old or new.
    fn check(&mut self) {
        let found = fs::read(&self.path).expect("read it after the kill");
        let old = &self.model;
        let mut new = old.clone();
        if let Some(op) = self.under_way.take() {
            op.apply(&mut new);
        }
        let (least, most) = (old.len().min(new.len()), old.len().max(new.len()));
        // A write that was stopped before its size was set ends with a cell, or a unit.
        let most = most.next_multiple_of(16).max(most.next_multiple_of(4064));
        let allowed = if old.len() == new.len() {
            old.len()..=old.len()
        } else {
            least..=most
        };
        let path = self.path.display();
        assert!(
            allowed.contains(&found.len()),
            "{path}: {} bytes, not {allowed:?}",
            found.len()
        );
        let byte = |content: &[u8], at: usize| content.get(at).copied().unwrap_or(0);
        for (at, now) in found.iter().enumerate() {
            assert!(
                *now == byte(old, at) || *now == byte(&new, at) || at >= least && *now == 0,
                "{path}: byte {at} of {} is neither old nor new",
                found.len()
            );
        }
        self.model = found;
    }
}

fn still(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let length = [0, 10, 3_712, 3_713, 20_000, 400_000][(number % 6) as usize];
    (0..length).map(|_| random.next() as u8).collect()
}

fn check_still(point: &Path) {
    for number in 0..STILL {
        let path = point.join(format!("still/{number}"));
        assert!(
            fs::read(&path).unwrap() == still(number),
            "{}",
            path.display()
        );
    }
}

/// The wraps in the headers of all lower files: which generations there are, and whether one is half done.
fn generations(folder: &Path, found: &mut Vec<(u32, u32, bool)>) {
    for entry in fs::read_dir(folder).expect("list the lower tree") {
        let path = entry.expect("an entry").path();
        let named = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .starts_with(".kmsfs");
        if path.is_dir() {
            generations(&path, found);
        } else if !named && path.is_file() {
            let page = fs::read(&path).expect("read a lower file");
            if page.is_empty() {
                continue;
            }
            let header = FileHeader::decode(&page[..4096]).expect("a header");
            for wrap in header.wraps() {
                let half = header.reencrypted().is_some();
                found.push((wrap.generation, header.lineage().1, half));
            }
        }
    }
}

fn kills(mode: Mode, points: u64, turning: bool) {
    let world = World::start();
    world.key("alias/crash");
    let lower = world.path("lower");
    fs::create_dir(&lower).unwrap();
    world
        .kmsctl(&[
            "fs",
            "init",
            path_text(&lower),
            "--key",
            "alias/crash",
            "--mode",
            mode.name(),
        ])
        .ok();
    let (point, socket) = (world.path("plain"), world.daemon.socket());
    let mut mount = Mount::start(&lower, &point, &socket, &[]);
    fs::create_dir(point.join("still")).unwrap();
    for number in 0..STILL {
        fs::write(point.join(format!("still/{number}")), still(number)).unwrap();
    }
    let mut random = Random::new(crate::seed());
    let mut writers: Vec<Writer> = FILES
        .iter()
        .map(|(name, limit)| {
            let path = point.join(name);
            fs::write(&path, b"").unwrap();
            Writer {
                path,
                limit: *limit,
                model: Vec::new(),
                under_way: None,
                random: Random::new(random.next()),
            }
        })
        .collect();
    let (start, mut ends) = (Instant::now(), 0);
    for _ in 0..points {
        let operations = 20 + random.below(400);
        let (stop, over, returned) = (
            AtomicBool::new(false),
            AtomicBool::new(false),
            AtomicU64::new(0),
        );
        thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(|| writer.run(&stop, &returned));
            }
            let keys = scope.spawn(|| again_and_again(&point, &socket, &over, turning));
            let deadline = Instant::now() + wait::PATIENCE;
            while returned.load(Ordering::Relaxed) < operations && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            over.store(true, Ordering::Release);
            mount.kill();
            stop.store(true, Ordering::Release);
            ends += keys.join().unwrap();
        });
        world.kmsctl(&["fs", "check", path_text(&lower), "--content"]);
        mount = Mount::start(&lower, &point, &socket, &[]);
        writers.iter_mut().for_each(Writer::check);
        check_still(&point);
    }
    // Whatever was under way is brought to its end, under writers, and what is old then goes.
    let (stop, returned) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for writer in &mut writers {
            scope.spawn(|| writer.run(&stop, &returned));
        }
        let mut how = vec!["--destroy-old"];
        if turning {
            how.extend(["--mode", "gcm"]);
        }
        let done = reencrypt(&point, &socket, &how);
        stop.store(true, Ordering::Release);
        done.ok();
    });
    writers.iter_mut().for_each(Writer::check);
    mount.unmount();
    let mut found = Vec::new();
    generations(&lower, &mut found);
    let newest = found.iter().map(|(wrap, ..)| *wrap).max().unwrap();
    for (wrap, lineage, half) in found {
        assert!(
            wrap == newest && lineage == newest && !half,
            "{wrap} {lineage} {half}, not {newest}"
        );
    }
    // The older generations are destroyed: nothing needs them.
    let mount = Mount::start(&lower, &point, &socket, &[]);
    writers.iter_mut().for_each(Writer::check);
    check_still(&point);
    mount.unmount();
    world
        .kmsctl(&["fs", "check", path_text(&lower), "--content"])
        .ok();
    rig::say(&format!(
        "reencrypt: {} kills in mode {}{}, {ends} whole runs between them",
        points,
        mode.name(),
        if turning { " and back" } else { "" }
    ));
    rig::report(
        if turning {
            "kill in another mode"
        } else {
            "kill in reencrypt"
        },
        "tmp",
        mode,
        points,
        Found::default(),
        start,
    );
}

/// SEMANTICS: reencrypt
#[test]
fn killed_while_everything_gets_new_keys() {
    if !crate::machine_can() {
        return;
    }
    for mode in Mode::ALL {
        kills(mode, crate::points(20, 200), false);
    }
}

/// SEMANTICS: rekey --mode
#[test]
fn killed_while_everything_gets_another_mode() {
    if !crate::machine_can() {
        return;
    }
    kills(Mode::Xts, crate::points(20, 200), true);
}
