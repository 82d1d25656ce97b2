//! `kmsctl fs rewrap` and `rekey` on a mount in use, through real kmsd, and what opens afterwards.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kms_tests::daemon::path_text;
use kms_tests::mount::Mount;
use kms_tests::wait;
use kms_tests::world::World;
use serde_json::Value;

const FILES: usize = 120;

fn plant(root: &Path) {
    for number in 0..FILES {
        let dir = root.join(format!("dir {}", number % 7));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("file {number}")), content(number)).unwrap();
    }
    symlink("dir 0/file 0", root.join("link")).unwrap();
}

fn content(number: usize) -> Vec<u8> {
    // Inline and in units.
    vec![number as u8; number * 211]
}

fn check(root: &Path) {
    for number in 0..FILES {
        let path = root.join(format!("dir {}/file {number}", number % 7));
        assert!(fs::read(&path).unwrap() == content(number), "{path:?}");
    }
    let target = fs::read_link(root.join("link")).unwrap();
    assert_eq!(target, Path::new("dir 0/file 0"));
    assert!(fs::read(root.join("link")).unwrap() == content(0));
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// The last line that a job says with `--json`.
fn report(said: &str) -> Value {
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

#[test]
fn a_rewrap_under_a_writer_and_the_end_of_the_old_generation() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/turning");
    let lower = world.volume("volume", "alias/turning");
    let mount = world.mount(&lower);
    plant(&mount.point);
    mount.sync();
    let before = world.path("before.lower");
    copy(&lower, &before);

    world.kmsctl(&["key", "rotate", "alias/turning"]).ok();
    let stop = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        let written = scope.spawn(|| {
            let mut rounds: u64 = 0;
            while !stop.load(Ordering::SeqCst) || rounds == 0 {
                let path = mount.path(format!("dir {}/written {rounds}", rounds % 7));
                fs::write(&path, vec![rounds as u8; 9000]).unwrap();
                fs::rename(&path, mount.path("written")).unwrap();
                assert_eq!(fs::read(mount.path("written")).unwrap()[0], rounds as u8);
                rounds += 1;
            }
        });
        let point = path_text(&mount.point);
        let said = world.kmsctl(&["fs", "rewrap", point, "--destroy-old", "--json"]);
        stop.store(true, Ordering::SeqCst);
        written.join().unwrap();
        said
    });
    let said = report(&said.ok().stdout);
    assert_eq!(said["finished"], true, "{said:#}");
    assert_eq!(said["ended"], serde_json::json!([1]), "{said:#}");
    assert_eq!(said["progress"]["generation"], 2);
    assert!(said["progress"]["changed"].as_u64().unwrap() >= FILES as u64);
    check(&mount.point);
    mount.unmount();
    let mount = world.mount(&lower);
    check(&mount.point);
    mount.unmount();

    // What was copied before hangs on what is gone now.
    let refused = world.path("refused");
    fs::create_dir(&refused).unwrap();
    let socket = world.daemon.socket();
    let said = Command::new(kms_tests::programs::path("kmsfs"))
        .args(["mount", "--foreground", "--socket"])
        .arg(&socket)
        .arg(&before)
        .arg(&refused)
        .output()
        .unwrap();
    assert!(!said.status.success());
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(
        text.contains("generation 1") && text.contains("was ended"),
        "{text}"
    );
}

#[test]
fn a_job_survives_kill_and_goes_on_by_itself() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/turning");
    let lower = world.volume("volume", "alias/turning");
    let mount = world.mount(&lower);
    plant(&mount.point);
    mount.sync();
    let point = path_text(&mount.point).to_owned();
    let slow = |world: &World| {
        Command::new(kms_tests::programs::path("kmsctl"))
            .args(["fs", "rewrap", &point, "--rate", "60"])
            .env("KMSD_SOCKET", world.daemon.socket())
            .output()
    };
    let done = |world: &World| {
        let socket = world
            .kmsctl(&["fs", "status", &point, "--json"])
            .ok()
            .json();
        socket[0]["job"]["done"].as_u64()
    };
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| slow(&world));
        wait::until_true("some of it being done", wait::PATIENCE, || {
            done(&world).is_some_and(|done| done > 20)
        });
        Mount::kill(mount);
        // It hears that the mount is gone.
        assert!(!watcher.join().unwrap().unwrap().status.success());
    });
    let mount = world.mount(&lower);
    wait::until_true("the job going on", wait::PATIENCE, || {
        mount.log().contains("an unfinished job goes on")
    });
    check(&mount.point);
    let said = world.kmsctl(&["fs", "job", &point, "--json"]).ok();
    let said = report(&said.stdout);
    assert_eq!(
        (&said["finished"], &said["progress"]["failed"]),
        (&true.into(), &0.into())
    );
    assert_eq!(
        said["progress"]["generation"], 2,
        "the same generation: {said:#}"
    );
    check(&mount.point);
    assert!(!lower.join(".kmsfs.job").exists());
    mount.unmount();
}

#[test]
fn what_is_kept_aside_while_a_job_runs_keeps_the_older_generation() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/turning");
    let lower = world.volume("volume", "alias/turning");
    let mount = world.mount(&lower);
    plant(&mount.point);
    let point = path_text(&mount.point).to_owned();
    let kept = lower.join(".kmsfs.lost");
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let slow = ["--rate", "60", "--destroy-old"];
            world.kmsctl(&[&["fs", "rewrap", &point][..], &slow].concat())
        });
        wait::until_true("the job", wait::PATIENCE, || {
            lower.join(".kmsfs.job").exists()
        });
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("something"), "kept").unwrap();
        let said = watcher.join().unwrap();
        assert_eq!(said.code, 12, "{}", said.stderr);
        assert!(said.stderr.contains("would be lost"), "{}", said.stderr);
    });
    check(&mount.point);
    fs::remove_dir_all(&kept).unwrap();
    let said = world.kmsctl(&["fs", "rewrap", &point, "--destroy-old", "--json"]);
    let said = report(&said.ok().stdout);
    // Only the end was missing: no generation is made for that.
    assert_eq!(said["progress"]["generation"], 2, "{said:#}");
    assert_eq!(said["ended"], serde_json::json!([1]), "{said:#}");
    check(&mount.point);
    // That is over: the next one begins anew.
    let said = world.kmsctl(&["fs", "rewrap", &point, "--json"]);
    let said = report(&said.ok().stdout);
    assert_eq!(said["progress"]["generation"], 3, "{said:#}");
    mount.unmount();
}

#[test]
fn a_job_is_stopped_and_taken_up_and_the_tree_moves_to_another_key() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    let old = world.key("alias/old");
    world.key("alias/new");
    let lower = world.volume("volume", "alias/old");
    let mount = world.mount(&lower);
    plant(&mount.point);
    let point = path_text(&mount.point).to_owned();
    let rekey = ["fs", "rekey", &point, "--key", "alias/new"];
    std::thread::scope(|scope| {
        let slow = [&rekey[..], &["--rate", "20"]].concat();
        let watcher = scope.spawn({
            let world = &world;
            move || world.kmsctl(&slow).code
        });
        wait::until_true("the job", wait::PATIENCE, || {
            lower.join(".kmsfs.job").exists()
        });
        std::thread::sleep(Duration::from_millis(300));
        world.kmsctl(&["fs", "job", &point, "--stop"]).ok();
        assert_ne!(watcher.join().unwrap(), 0);
    });
    // Another job has to wait until this one is done.
    let said = world.kmsctl(&["fs", "rewrap", &point]);
    assert!(said.stderr.contains("unfinished"), "{}", said.stderr);
    mount.unmount();
    // Stopped by somebody: it does not go on by itself.
    let mount = world.mount(&lower);
    check(&mount.point);
    assert!(!mount.log().contains("an unfinished job goes on"));
    let said = report(
        &world
            .kmsctl(&[&rekey[..], &["--json"]].concat())
            .ok()
            .stdout,
    );
    assert_eq!(said["progress"]["generation"], 2, "{said:#}");
    let said = world.kmsctl(&rekey);
    assert!(said.stderr.contains("already"), "{}", said.stderr);
    mount.unmount();

    world.kmsctl(&["key", "disable", &old]).ok();
    let mount = world.mount(&lower);
    check(&mount.point);
    mount.unmount();
}

#[test]
fn with_as_many_older_generations_as_are_kept_they_can_still_be_ended() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/turning");
    let lower = world.volume("volume", "alias/turning");
    let mount = world.mount(&lower);
    fs::write(mount.path("file"), "content").unwrap();
    let point = path_text(&mount.point);
    for _ in 0..32 {
        world.kmsctl(&["fs", "rewrap", point]).ok();
    }
    let record = lower.join(".kmsfs.volume");
    let before = fs::read(&record).unwrap();
    for command in ["rewrap", "reencrypt"] {
        world
            .kmsctl(&["fs", command, point])
            .fails_with("kmsctl fs rewrap DIR --destroy-old");
    }
    // Nothing is left of the attempts.
    assert!(fs::read(&record).unwrap() == before);

    let said = world.kmsctl(&["fs", "rewrap", point, "--destroy-old", "--json"]);
    let said = report(&said.ok().stdout);
    assert_eq!(said["progress"]["generation"], 33, "{said:#}");
    assert_eq!(said["ended"].as_array().unwrap().len(), 32, "{said:#}");
    let said = world.kmsctl(&["fs", "rewrap", point, "--json"]);
    assert_eq!(report(&said.ok().stdout)["progress"]["generation"], 34);
    mount.unmount();
    let mount = world.mount(&lower);
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"content");
    mount.unmount();
}
