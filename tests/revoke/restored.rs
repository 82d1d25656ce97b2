//! kmsd's store put back from a backup while a mount is up: what that store says counts, and nothing that a newer one said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kms_tests::cli;
use kms_tests::daemon::path_text;
use kms_tests::wait;
use kms_tests::world::World;

use crate::machine_can;
use crate::people::{self, open_file, text};
use crate::shared::{
    ALICE, BOB, grant, mount_again, protected_hr, revoke, shared_mount, shared_world_with,
};

fn restore(world: &World, backup: &Path, more: &[&str]) {
    let (config, recovery) = (world.daemon.config(), world.daemon.recovery_key());
    let arguments = [
        &["store", "restore", path_text(backup)][..],
        &["--recovery-from", path_text(&recovery)],
        &["--config", path_text(&config)],
        more,
    ];
    cli::run("kmsctl", &arguments.concat(), None).ok();
}

// SEMANTICS: kmsd away
#[test]
fn the_store_that_is_there_decides_and_no_newer_answer_or_epoch_does() {
    if !machine_can() {
        return;
    }
    let mut world = shared_world_with("\n[lease]\nduration = 2\n");
    let mount = shared_mount(&world, "key_wait=2");
    protected_hr(&world, &mount);
    let protect = |name: &str| {
        let at = mount.path(name);
        if !at.exists() {
            fs::create_dir(&at).unwrap();
            world
                .kmsctl(&["fs", "protect", text(&at), "--key", "alias/hr"])
                .ok();
        }
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
        open_file(&at.join("file"), name);
        text(&at.join("file")).to_owned()
    };
    let (file, turned) = (protect("hr"), protect("turned"));
    let given = grant(&world, "alias/hr", ALICE);
    ALICE.soon(&format!("cat {file} {turned}"));
    let backup = world.path("store.backup");
    world.kmsctl(&["store", "backup", path_text(&backup)]).ok();

    // Since then: another user, another directory, another generation; and the epoch has gone on.
    revoke(&world, "alias/hr", &given);
    ALICE.sh(&format!("cat {file}")).fails("ermission denied");
    grant(&world, "alias/hr", BOB);
    let later = protect("later");
    let directory = text(&mount.path("turned")).to_owned();
    world.kmsctl(&["fs", "rewrap", &directory]).ok();
    for _ in 0..5 {
        let passing = grant(&world, "alias/hr", ALICE);
        revoke(&world, "alias/hr", &passing);
    }
    BOB.soon(&format!("cat {file} {later} {turned}"));
    let mut bob = people::Person::start(BOB.0);

    for new_tpm in [false, true] {
        wait::until_true("a grant to count", wait::PATIENCE, || {
            bob.does(&["open", "f", "r", &file]) == "ok"
        });
        if !new_tpm {
            assert_eq!(bob.does(&["open", "g", "r", &later]), "ok");
        }
        world.daemon.stop();
        if new_tpm {
            let (mut other, state) = (World::bare(), world.path("tpm.new"));
            other.tpm.save_state(&state);
            world.tpm.restore_state(&state);
            fs::remove_dir_all(world.daemon.store()).unwrap();
            restore(&world, &backup, &[]);
        } else {
            restore(&world, &backup, &["--replace"]);
        }
        world.daemon.start();
        // Whom that store has lets in, and nobody else: neither anew nor by what is open.
        ALICE.soon(&format!("cat {file}"));
        wait::until_true("what is open being revoked", wait::PATIENCE, || {
            bob.does(&["read", "f"]) == "EKEYREVOKED"
        });
        BOB.sh(&format!("cat {file}")).fails("ermission denied");
        // It does not know the directory that was made later: nobody may use it.
        if !new_tpm {
            wait::until_true("an unknown policy being locked", wait::PATIENCE, || {
                bob.does(&["read", "g"]) == "ENOKEY"
            });
        }
        for (person, path) in [(ALICE, &later), (BOB, &later), (BOB, &turned)] {
            let said = person.sh(&format!("cat {path}"));
            assert!(!said.ok && said.stdout.is_empty(), "{path}: {said:?}");
        }
        assert!(fs::read(&later).is_err());
        // Of this one it lacks the generation: whom the store lets in has it as long as the mount was not without kmsd for so
        // long that it wiped the key.
        let said = ALICE.sh(&format!("cat {turned}"));
        assert!(
            said.stdout.starts_with("turned") || said.stderr.contains("Required key not available"),
            "{said:?}"
        );
        // The mount has a lease of this kmsd, and hears of changes at once, whatever the epoch was before.
        let leases = world.kmsctl(&["lease", "list"]).ok().stdout;
        assert!(leases.contains(text(&mount.point)), "{leases}");
        let mut alice = people::Person::start(ALICE.0);
        assert_eq!(alice.does(&["open", "f", "r", &file]), "ok");
        let said = world.kmsctl(&["grant", "revoke", "alias/hr", &given]).ok();
        assert!(!said.stderr.contains("did not answer"), "{said:?}");
        assert_eq!(alice.does(&["read", "f"]), "EKEYREVOKED");
        ALICE.sh(&format!("cat {file}")).fails("ermission denied");
        // And gives again.
        grant(&world, "alias/hr", BOB);
        BOB.soon(&format!("cat {file}"));
        assert_eq!(bob.does(&["read", "f"]), "EKEYREVOKED");
    }
    drop(bob);
    let lower = mount.lower.clone();
    mount.unmount();
    // The next mount has not, and says which generation is missing.
    let mount = mount_again(&world, &lower, "");
    BOB.soon(&format!("cat {file}"));
    for path in [&turned, &later] {
        let said = BOB.sh(&format!("cat {path}"));
        assert!(!said.ok && said.stdout.is_empty(), "{path}: {said:?}");
        assert!(fs::read(path).is_err(), "{path}");
    }
    assert!(
        mount.log().contains("which the registry never had"),
        "{}",
        mount.log()
    );
    mount.unmount();
}
