//! Snapshots of the lower file system's image, taken while it is written: each holds exactly what the device had
//! at one moment, in the middle of whatever was going on.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use kms_tests::mount::Mount;
use kms_tests::world::World;

use crate::check::{Found, Owed};
use crate::lower::{Kind, Lower};
use crate::random::Random;
use crate::rig::{self, Load, Mode};

/// How many snapshots one load gets: its ledger, and the time to compare with it, grow.
const EACH: u64 = 4;
/// How many operations the load goes on with during a check.
const MEANWHILE: u64 = 200;
/// Sparse; the live image and a few snapshots that differ little.
const HOST_SIZE: u64 = 3 << 30;

/// A copy of `image` that shares its blocks: taken at one moment.
fn clone(image: &Path, copy: &Path) {
    let (from, to) = (File::open(image).unwrap(), File::create(copy).unwrap());
    rustix::fs::ioctl_ficlone(&to, &from).expect("clone the image: reflink=1 is XFS's default");
}

/// Mounts a snapshot and checks it.
fn check(
    world: &World,
    image: &Path,
    kind: Kind,
    mode: Mode,
    owed: &[Owed],
) -> Result<Found, Vec<String>> {
    let mut lower = Lower::attach(kind, image);
    lower.mount();
    let point = world.path("snapshot.plain");
    let volume = lower.point().join("volume");
    let (mount, result) = rig::check(world, &volume, &point, owed, mode, false);
    mount.unmount();
    lower.unmount();
    result
}

fn snapshots(kind: Kind, mode: Mode, points: u64) {
    if !crate::machine_can() {
        return;
    }
    let mut random = Random::new(crate::seed() ^ (kind as u64) << 48 ^ (mode as u64) << 56);
    let world = World::start();
    world.key("alias/crash");
    let images = rig::image_folder();
    let host = Lower::make(Kind::Xfs, &images.path().join("host.img"), Some(HOST_SIZE));
    let image = host.point().join("live.img");
    let lower = Lower::make(kind, &image, None);
    let volume = rig::make_volume(&world, &lower, mode);
    let point = world.path("live.plain");
    let mount = Mount::start(&volume, &point, &world.daemon.socket(), &[]);
    let start = Instant::now();
    let (mut taken, mut all) = (0, Found::default());
    for round in 1.. {
        if taken >= points {
            break;
        }
        let load = Load::prepare(&point, round, random.next());
        let (wrong, errors) = load.run(&point, || {
            let wrong = (0..EACH).find_map(|_| {
                let operations = load.shared.returned.load(Ordering::Relaxed);
                load.wait_for(operations + random.below(400));
                let mut owed = load.owed();
                let copy = host.point().join("snapshot.img");
                clone(&image, &copy);
                rig::close(&mut owed);
                // The load goes on beside the check, but not for ever.
                let operations = load.shared.returned.load(Ordering::Relaxed);
                let allowance = &load.shared.allowance;
                allowance.store(operations + MEANWHILE, Ordering::Relaxed);
                taken += 1;
                let checked = check(&world, &copy, kind, mode, &owed);
                allowance.store(u64::MAX, Ordering::Relaxed);
                fs::remove_file(&copy).unwrap();
                checked.map(|found| all.add(found)).err()
            });
            load.shared.stop.store(true, Ordering::Release);
            wrong
        });
        let wrong = wrong.unwrap_or_default().into_iter().chain(errors);
        let wrong: Vec<String> = wrong.collect();
        assert!(
            wrong.is_empty(),
            "snapshot {taken} of {} with {}:\n{}",
            kind.name(),
            mode.name(),
            wrong.join("\n")
        );
    }
    mount.unmount();
    rig::report("snapshot", kind.name(), mode, taken, all, start);
}

#[test]
fn snapshots_of_ext4() {
    for mode in Mode::ALL {
        snapshots(Kind::Ext4, mode, crate::points(30, 500));
    }
}

#[test]
fn snapshots_of_xfs() {
    for mode in Mode::ALL {
        snapshots(Kind::Xfs, mode, crate::points(30, 500));
    }
}
