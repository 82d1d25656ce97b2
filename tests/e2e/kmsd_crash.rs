//! kmsd killed while a mount is busy: what is open stays open, what is closed waits.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kms_tests::daemon::path_text;
use kms_tests::wait;
use kms_tests::world::World;

#[test]
fn a_busy_mount_does_not_notice_and_unlocking_recovers() {
    if !crate::machine_can() {
        return;
    }
    let mut world = World::start();
    world.key("alias/one");
    world.key("alias/two");
    let lower = world.volume("volume", "alias/one");
    let mount = world.mount(&lower);
    let locked = mount.path("locked");
    fs::create_dir(&locked).unwrap();
    world
        .kmsctl(&["fs", "protect", path_text(&locked), "--key", "alias/two"])
        .ok();
    fs::write(locked.join("file"), "inside").unwrap();
    mount.unmount();

    // In this mount nothing has asked for the second key yet.
    let mount = world.mount_with(&lower, &["key_wait=2"]);
    fs::write(mount.path("warm"), "unlocked").unwrap();
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let (stop, rounds, mount) = (&stop, &rounds, &mount);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let folder = mount.path(format!("worker {worker}"));
                        fs::create_dir(&folder).unwrap();
                        for file in 0..20 {
                            let content = vec![file; 1_000 * usize::from(file)];
                            let path = folder.join(format!("file {file}"));
                            fs::write(&path, &content).unwrap();
                            assert_eq!(fs::read(&path).unwrap(), content);
                        }
                        fs::remove_dir_all(&folder).unwrap();
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let busy = |rounds_more: u64| {
            let goal = rounds.load(Ordering::Relaxed) + rounds_more;
            wait::until_true("the mount being busy", wait::PATIENCE, || {
                assert!(
                    workers.iter().all(|worker| !worker.is_finished()),
                    "a worker failed"
                );
                rounds.load(Ordering::Relaxed) >= goal
            });
        };

        busy(3);
        world.daemon.kill();
        busy(5);
        // Not unlocked yet, and nobody to ask: a bounded wait, then an error that says so.
        let asked = Instant::now();
        let error = fs::read_to_string(locked.join("file")).unwrap_err();
        assert!(
            asked.elapsed() < Duration::from_secs(20),
            "waited {:?}",
            asked.elapsed()
        );
        assert!(
            matches!(
                error.raw_os_error(),
                Some(libc::ENOKEY | libc::EAGAIN | libc::ETIMEDOUT)
            ),
            "{error}"
        );
        let log = mount.log();
        assert!(
            log.contains("kmsd"),
            "no line about kmsd being gone:\n{log}"
        );
        busy(2);
        world.daemon.start();
        wait::until_true("unlocking to work again", Duration::from_secs(30), || {
            fs::read_to_string(locked.join("file")).is_ok_and(|text| text == "inside")
        });
        busy(2);
        stop.store(true, Ordering::Relaxed);
    });
    mount.unmount();
}

/// SEMANTICS: ETIMEDOUT
#[test]
fn unlocking_waits_for_a_kmsd_that_comes_back_in_time() {
    if !crate::machine_can() {
        return;
    }
    let mut world = World::start();
    world.key("alias/one");
    world.key("alias/two");
    let lower = world.volume("volume", "alias/one");
    let mount = world.mount(&lower);
    let locked = mount.path("locked");
    fs::create_dir(&locked).unwrap();
    world
        .kmsctl(&["fs", "protect", path_text(&locked), "--key", "alias/two"])
        .ok();
    fs::write(locked.join("file"), "inside").unwrap();
    mount.unmount();

    let mount = world.mount_with(&lower, &["key_wait=60"]);
    fs::write(mount.path("warm"), "unlocked").unwrap();
    world.daemon.kill();
    thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read_to_string(locked.join("file")));
        // Others are served while one waits.
        for round in 0..50 {
            fs::write(mount.path("warm"), format!("round {round}")).unwrap();
        }
        world.daemon.start();
        assert_eq!(reader.join().unwrap().unwrap(), "inside");
    });
    mount.unmount();
}
