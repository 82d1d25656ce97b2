//! kmsd and kmsfs do not stand in each other's way: what kmsd needs to start is never behind its own keys.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use kms_tests::cli;
use kms_tests::daemon::{Daemon, path_text};
use kms_tests::programs;
use kms_tests::world::World;

#[test]
fn kmsd_refuses_state_and_logs_on_a_kmsfs_mount() {
    if !crate::machine_can() {
        return;
    }
    let mut world = World::start();
    world.key("alias/places");
    let lower = world.volume("volume", "alias/places");
    let mut mount = world.mount(&lower);

    let inside = Daemon::configure(&mount.path("kmsd"), &world.tpm.device());
    let enrolled = inside.enroll();
    assert_eq!(enrolled.code, 3, "{}", enrolled.stderr);
    enrolled.fails_with("which opens only when kmsd runs");
    assert!(!inside.recovery_key().exists());
    assert!(!inside.store().join("catalogue.sqlite").exists());
    let config = inside.config();
    let checked = cli::run(
        "kmsd",
        &["--check-config", "--config", path_text(&config)],
        None,
    );
    assert_eq!(checked.code, 3);

    // Only the store is there, by way of a link.
    let (link, elsewhere) = (world.path("link"), world.path("elsewhere"));
    std::os::unix::fs::symlink(mount.path("kmsd"), &link).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace(
        path_text(&mount.path("kmsd/store")),
        path_text(&link.join("store")),
    );
    let text = text.replace(path_text(&mount.path("kmsd")), path_text(&elsewhere));
    let linked = elsewhere.join("kmsd.toml");
    fs::write(&linked, text).unwrap();
    let arguments = ["--config", path_text(&linked)];
    cli::run("kmsd", &arguments, None).fails_with("store.directory");

    // Only the recovery key would be there.
    let recovery = mount.path("recovery");
    let recovery = path_text(&recovery);
    let other = Daemon::configure(&world.path("other"), &world.tpm.device());
    let other = other.config();
    let arguments = [
        "enroll",
        "--config",
        path_text(&other),
        "--recovery-out",
        recovery,
        "--verify-from",
        recovery,
    ];
    cli::run("kmsd", &arguments, None).fails_with("--recovery-out");

    // Only the log is there.
    world.daemon.stop();
    let log = mount.path("log");
    let status = Command::new(programs::path("kmsd"))
        .arg("--config")
        .arg(world.daemon.config())
        .stdin(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(3));
    let said = fs::read_to_string(&log).unwrap();
    assert!(
        said.contains("the log: ") && said.contains("kmsfs mount"),
        "{said}"
    );

    // A mount that answers nothing any more is still one.
    mount.process().kill();
    let arguments = ["--config", path_text(&linked)];
    cli::run("kmsd", &arguments, None).fails_with("store.directory");
    mount.kill();
    world.daemon.start();
}

#[test]
fn kmsfs_does_not_cover_what_kmsd_needs() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/places");
    let folder = tempfile::tempdir().unwrap();
    let lower = folder.path().join("lower");
    world.init(&lower, "alias/places");
    let socket = world.daemon.socket();
    let mount = |point: &Path| {
        let arguments = [
            "mount",
            "--foreground",
            "--socket",
            path_text(&socket),
            path_text(&lower),
            path_text(point),
        ];
        cli::run("kmsfs", &arguments, None)
    };
    mount(&world.path("")).fails_with("which kmsd needs to open it");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(world.path(""), &link).unwrap();
    mount(&link).fails_with("mount somewhere else");
    assert!(socket.exists());
}
