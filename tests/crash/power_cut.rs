//! The power goes: the lower file system stops in the middle of a load, and what it had not written is lost.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use kms_tests::mount::Mount;
use kms_tests::world::World;

use crate::check::{Found, Owed};
use crate::ledger::Ledger;
use crate::lower::{Kind, Lower};
use crate::random::Random;
use crate::raw::Cut;
use crate::rig::{self, Load, Mode};

/// A mounted volume that can lose its power.
pub(crate) struct Rig<'a> {
    pub(crate) world: &'a World,
    pub(crate) lower: Lower,
    pub(crate) volume: PathBuf,
    pub(crate) point: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) mount: Option<Mount>,
    pub(crate) random: Random,
    round: u64,
}

impl<'a> Rig<'a> {
    pub(crate) fn new(
        world: &'a World,
        images: &Path,
        kind: Kind,
        mode: Mode,
        seed: u64,
    ) -> Rig<'a> {
        let name = format!("{}-{}", kind.name(), mode.name());
        let lower = Lower::make(kind, &images.join(format!("{name}.img")), None);
        let volume = rig::make_volume(world, &lower, mode);
        let point = world.path(format!("{name}.plain"));
        let mount = Mount::start(&volume, &point, &world.daemon.socket(), &[]);
        Rig {
            world,
            lower,
            volume,
            point,
            mode,
            mount: Some(mount),
            random: Random::new(seed),
            round: 0,
        }
    }

    /// One crash point: a load, the cut, the check. The volume stays mounted for the next one.
    pub(crate) fn cut(&mut self) -> Result<Found, Vec<String>> {
        self.round += 1;
        let load = Load::prepare(&self.point, self.round, self.random.next());
        let operations = match self.random.below(3) {
            0 => self.random.below(30),
            1 => self.random.below(300),
            _ => self.random.below(1_500),
        };
        let how = if self.random.percent(30) {
            Cut::FlushLog
        } else {
            Cut::Now
        };
        // Before the cut kmsfs may have been stopped, or killed and started again.
        let stopped = self.random.percent(6);
        let killed = !stopped && self.random.percent(10);
        let (mut owed, errors) = load.run(&self.point, || {
            load.wait_for(operations);
            let owed = load.owed();
            if !stopped && !killed {
                load.shared.cut.store(true, Ordering::Release);
                self.lower.cut(how);
            }
            load.shared.stop.store(true, Ordering::Release);
            owed
        });
        if killed && errors.is_empty() {
            if let Some(mount) = self.mount.take() {
                mount.kill();
            }
            let socket = self.world.daemon.socket();
            self.mount = Some(Mount::start(&self.volume, &self.point, &socket, &[]));
            load.sync_some(&self.point, &mut self.random);
            owed = load.owed();
            self.lower.cut(how);
        }
        if stopped && errors.is_empty() {
            // The power goes right after a clean end: everything is owed.
            if let Some(mount) = self.mount.take() {
                mount.unmount();
            }
            load.ledgers.iter().for_each(Ledger::all_durable);
            owed = load.owed();
            self.lower.cut(how);
        }
        rig::close(&mut owed);
        if !errors.is_empty() {
            return Err(errors);
        }
        self.restart();
        self.check(&owed).map_err(|mut wrong| {
            wrong.insert(
                0,
                format!("after {operations} operations, {how:?}, unmounted before: {stopped}, killed before: {killed}"),
            );
            wrong
        })
    }

    /// After the cut: the machine starts again, the journal is replayed. The volume is not mounted yet.
    pub(crate) fn restart(&mut self) {
        if let Some(mount) = self.mount.take() {
            mount.kill();
        }
        self.lower.unmount();
        self.lower.mount();
    }

    /// Mounts the volume anew with every fsync of kmsfs answered with success and not carried out.
    pub(crate) fn mount_without_fsync(&mut self) {
        if let Some(mount) = self.mount.take() {
            mount.unmount();
        }
        // -D: the traced program is our child, not strace.
        let calls = "fsync,fdatasync,syncfs,sync_file_range";
        let inject = format!("inject={calls}:retval=0");
        let trace = format!("trace={calls}");
        let under = [
            "strace",
            "-D",
            "-f",
            "-q",
            "-o",
            "/dev/null",
            "-e",
            &trace,
            "-e",
            &inject,
        ];
        let socket = self.world.daemon.socket();
        let mount = Mount::start_under(&under, &self.volume, &self.point, &socket, &[]);
        self.mount = Some(mount);
    }

    /// Mounts the volume and checks it.
    pub(crate) fn check(&mut self, owed: &[Owed]) -> Result<Found, Vec<String>> {
        let repair = self.random.percent(30);
        let (world, volume) = (self.world, &self.volume);
        let (mount, result) = rig::check(world, volume, &self.point, owed, self.mode, repair);
        self.mount = Some(mount);
        result
    }
}

fn power_cuts(kind: Kind, mode: Mode, points: u64) {
    if !crate::machine_can() {
        return;
    }
    let seed = crate::seed() ^ (kind as u64) << 32 ^ (mode as u64) << 40;
    let world = World::start();
    world.key("alias/crash");
    let images = rig::image_folder();
    let mut rig = Rig::new(&world, images.path(), kind, mode, seed);
    let start = Instant::now();
    let mut all = Found::default();
    for point in 1..=points {
        match rig.cut() {
            Ok(found) => all.add(found),
            Err(wrong) => panic!(
                "crash point {point} on {} with {}:\n{}",
                kind.name(),
                mode.name(),
                wrong.join("\n")
            ),
        }
    }
    rig::report("power cut", kind.name(), mode, points, all, start);
}

#[test]
fn power_cuts_on_ext4() {
    for mode in Mode::ALL {
        power_cuts(Kind::Ext4, mode, crate::points(110, 1_900));
    }
}

#[test]
fn power_cuts_on_xfs() {
    for mode in Mode::ALL {
        power_cuts(Kind::Xfs, mode, crate::points(110, 1_900));
    }
}
