//! New keys for everything while fsx works on it, and no end of stops: kmsfs is killed in the middle of
//! `kmsctl fs reencrypt`. Contents are exact, the work is ended by whoever comes next, and then the old keys open nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kms_format::FileHeader;
use kms_format::file::INLINE_MAX;
use kms_tests::cli::{self, Said};
use kms_tests::daemon::path_text;
use kms_tests::fsx::Fsx;
use kms_tests::mount::Mount;
use kms_tests::wait;
use kms_tests::world::World;

use crate::check::Found;
use crate::old_keys::OldKeys;
use crate::random::Random;
use crate::rig::{self, Mode};

/// Name, size limit and largest operation of the files that are written: what stays in the header page, a few units, several
/// chunks.
const FILES: [(&str, (u32, u32)); 3] = [
    ("inline", (3_700, 900)),
    ("units", (40_000, 9_000)),
    ("chunks", (3_500_000, 400_000)),
];
/// Files that only lie there.
const STILL: u64 = 30;
/// Files that a kill cut off, as it left them: how many of the last.
const CUT_OFF: usize = 6;

/// Sets a flag when it is dropped: also when a test fails, which waits for its threads.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Gives everything in a mount new keys until `stop`, again and again, with these options in turn, and counts how often it came
/// to the end.
pub(crate) fn again_and_again(
    point: &Path,
    socket: &Path,
    options: &[&[&str]],
    ends: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut options = options.iter().copied().cycle();
    while !stop.load(Ordering::Acquire) {
        let option = options.next().unwrap_or_default();
        let ended = reencrypt(point, socket, option).code == 0;
        ends.fetch_add(u64::from(ended), Ordering::AcqRel);
    }
}

pub(crate) fn reencrypt(point: &Path, socket: &Path, more: &[&str]) -> Said {
    let arguments = [&["fs", "reencrypt", path_text(point)], more].concat();
    cli::run("kmsctl", &arguments, Some(socket))
}

/// What had returned is there, each byte of what was under way is old or new.
fn check(found: &[u8], old: &[u8], new: &[u8], path: &Path) {
    let (least, most) = (old.len().min(new.len()), old.len().max(new.len()));
    // A write that was stopped before its size was set ends with a cell, or a unit.
    let most = most.next_multiple_of(16).max(most.next_multiple_of(4064));
    let allowed = if old.len() == new.len() {
        old.len()..=old.len()
    } else {
        least..=most
    };
    let path = path.display();
    assert!(
        allowed.contains(&found.len()),
        "{path}: {} bytes, not {allowed:?}",
        found.len()
    );
    let byte = |content: &[u8], at: usize| content.get(at).copied().unwrap_or(0);
    for (at, now) in found.iter().enumerate() {
        assert!(
            *now == byte(old, at) || *now == byte(new, at) || at >= least && *now == 0,
            "{path}: byte {at} of {} is neither old nor new",
            found.len()
        );
    }
}

fn still(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let length = [0, 10, 3_712, 3_713, 20_000, 400_000][(number % 6) as usize];
    (0..length).map(|_| random.next() as u8).collect()
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

/// No file has anything from before the newest generation.
fn assert_of_one_generation(lower: &Path) {
    let mut found = Vec::new();
    generations(lower, &mut found);
    let newest = found.iter().map(|(wrap, ..)| *wrap).max().unwrap();
    for (wrap, lineage, half) in found {
        assert!(
            wrap == newest && lineage == newest && !half,
            "{wrap} {lineage} {half}, not {newest}"
        );
    }
}

/// A volume of one mode, and what is known of it.
struct Rig<'a> {
    world: &'a World,
    lower: PathBuf,
    point: PathBuf,
    socket: PathBuf,
    /// Where fsx has what it needs, and the plain files that it is compared with.
    plain: PathBuf,
    random: Random,
    /// Files that were cut off, and what is in them.
    cut_off: Vec<(PathBuf, Vec<u8>)>,
    round: u64,
    /// Each re-encryption brings everything into the other content mode.
    turning: bool,
}

impl Rig<'_> {
    fn mount(&self) -> Mount {
        Mount::start(&self.lower, &self.point, &self.socket, &[])
    }

    /// An fsx on each of the files, which are new.
    fn writers(&mut self) -> Vec<(PathBuf, Fsx)> {
        self.round += 1;
        FILES
            .iter()
            .map(|(name, sizes)| {
                let path = self.point.join(format!("{name}-{}", self.round));
                let fsx = Fsx::start(&path, &self.plain, name, *sizes, self.random.next());
                (path, fsx)
            })
            .collect()
    }

    /// Waits until each fsx has begun, and all together as many operations as this.
    fn wait_for(writers: &mut [(PathBuf, Fsx)], operations: u64) {
        let deadline = Instant::now() + wait::PATIENCE;
        loop {
            writers.iter_mut().for_each(|(_, fsx)| fsx.assert_running());
            let begun: Vec<u64> = writers.iter().map(|(_, fsx)| fsx.begun()).collect();
            if begun.iter().sum::<u64>() >= operations && !begun.contains(&0) {
                break;
            }
            assert!(Instant::now() < deadline, "fsx has begun {begun:?} only");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// kmsfs is killed while everything gets new keys and fsx writes. Gives how often everything had got new keys.
    fn kill(&mut self, mount: Mount, old: Option<&mut OldKeys>) -> (Mount, u64) {
        let mut writers = self.writers();
        let operations = 20 + self.random.below(400);
        let (ends, over) = (AtomicU64::new(0), AtomicBool::new(false));
        // kmsd keeps 32 older generations.
        let mut options: [&[&str]; 2] = if self.turning {
            [&["--mode", "gcm", "--destroy-old"], &["--mode", "xts"]]
        } else {
            [&["--destroy-old"], &[]]
        };
        options.rotate_left(self.random.below(2) as usize);
        let whole = self.random.percent(20);
        thread::scope(|scope| {
            let (point, socket) = (&self.point, &self.socket);
            let stop = Stop(&over);
            scope.spawn(|| again_and_again(point, socket, &options, &ends, &over));
            Rig::wait_for(&mut writers, operations);
            wait::until_true("new keys for everything", wait::PATIENCE, || {
                !whole || ends.load(Ordering::Acquire) > 0
            });
            writers.iter_mut().for_each(|(_, fsx)| fsx.assert_running());
            drop(stop);
            mount.kill();
        });
        let models: Vec<_> = writers
            .into_iter()
            .map(|(path, fsx)| (path, fsx.end(&self.plain)))
            .collect();
        if let Some(old) = old {
            old.take(self.world, &self.lower);
        }
        let check_lower = ["fs", "check", path_text(&self.lower), "--content"];
        self.world.kmsctl(&check_lower);
        let mount = self.mount();
        self.check();
        for (path, [before, after]) in models {
            let found = fs::read(&path).expect("read it after the kill");
            check(&found, &before, &after, &path);
            self.cut_off.push((path, found));
        }
        let gone = self.cut_off.len().saturating_sub(CUT_OFF);
        for (path, _) in self.cut_off.drain(..gone) {
            fs::remove_file(path).unwrap();
        }
        (mount, ends.into_inner())
    }

    /// What nobody writes is as it was.
    fn check(&self) {
        for number in 0..STILL {
            let path = self.point.join(format!("still/{number}"));
            let same = fs::read(&path).unwrap() == still(number);
            assert!(same, "{}", path.display());
        }
        for (path, content) in &self.cut_off {
            let same = fs::read(path).unwrap() == *content;
            assert!(same, "{} was cut off", path.display());
        }
    }

    /// Everything gets new keys once more under fsx, and what is old then goes.
    fn destroy_old(&mut self, how: &[&str]) {
        let mut writers = self.writers();
        Rig::wait_for(&mut writers, 1);
        reencrypt(
            &self.point,
            &self.socket,
            &[how, &["--destroy-old"]].concat(),
        )
        .ok();
        let begun: u64 = writers.iter().map(|(_, fsx)| fsx.begun()).sum();
        Rig::wait_for(&mut writers, begun + 30);
        for (path, fsx) in writers {
            let [before, after] = fsx.end(&self.plain);
            check(&fs::read(&path).unwrap(), &before, &after, &path);
        }
    }
}

fn kills(mode: Mode, points: u64, turning: bool) {
    let world = World::start();
    world.key("alias/crash");
    let lower = world.path("lower");
    fs::create_dir(&lower).unwrap();
    let init = ["fs", "init", path_text(&lower), "--key", "alias/crash"];
    world
        .kmsctl(&[&init[..], &["--mode", mode.name()]].concat())
        .ok();
    let plain = rig::image_folder();
    let mut rig = Rig {
        world: &world,
        point: world.path("plain"),
        socket: world.daemon.socket(),
        plain: plain.path().to_path_buf(),
        random: Random::new(crate::seed()),
        cut_off: Vec::new(),
        round: 0,
        turning,
        lower,
    };
    let mut mount = rig.mount();
    fs::create_dir(rig.point.join("still")).unwrap();
    for number in 0..STILL {
        fs::write(rig.point.join(format!("still/{number}")), still(number)).unwrap();
    }
    mount.sync();
    // Whoever takes keys and headers can read with them, for now. In the other mode a file is a copy, with another header.
    let mut old = (!turning).then(|| OldKeys::new(&rig.lower));
    if let Some(old) = &mut old {
        let taken = old.take(&world, &rig.lower);
        for number in (0..STILL).filter(|number| still(*number).len() > INLINE_MAX) {
            assert!(taken.contains(&still(number)), "file {number} is not read");
        }
    }
    let (start, mut ends) = (Instant::now(), 0);
    for _ in 0..points {
        let more;
        (mount, more) = rig.kill(mount, old.as_mut());
        ends += more;
    }
    // Whatever was under way is brought to its end.
    let how: &[&str] = if turning { &["--mode", "gcm"] } else { &[] };
    reencrypt(&rig.point, &rig.socket, how).ok();
    mount.sync();
    if let Some(old) = &mut old {
        old.take(&world, &rig.lower);
    }
    rig.destroy_old(how);
    rig.check();
    mount.unmount();
    assert_of_one_generation(&rig.lower);
    if let Some(old) = &old {
        old.open_nothing(&world, &rig.lower);
    }
    // The older generations are destroyed: nothing needs them.
    let mount = rig.mount();
    rig.check();
    mount.unmount();
    let check = ["fs", "check", path_text(&rig.lower), "--content"];
    world.kmsctl(&check).ok();
    let (what, back) = if turning {
        ("kill in another mode", " and back")
    } else {
        ("kill in reencrypt", "")
    };
    rig::say(&format!(
        "reencrypt: {points} kills in mode {}{back}, {ends} whole runs between them",
        mode.name()
    ));
    rig::report(what, "tmp", mode, points, Found::default(), start);
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
