//! Grants and real users: what they let Alice and Bob do, and until when.

use kms_tests::wait;
use kms_tests::world::World;
use serde_json::json;

use crate::machine_can;
use crate::people::{ALICE, BOB, Person, open_world, secret};

const NONE: &str = "because no identity-based policy allows the kms:Decrypt action";

fn decrypt(world: &World, person: Person, sealed: &str) -> crate::people::Said {
    person.kmsctl(world, &["decrypt", "--key", "alias/hr", "--in", sealed])
}

/// Root grants something on `alias/hr`; the grant's id.
fn grant(world: &World, to: Person, more: &[&str]) -> String {
    let to = format!("user:{}", to.name());
    let command: Vec<&str> = ["grant", "create", "alias/hr", "--to", &to, "--operations"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    world.kmsctl(&command).ok().stdout.trim().to_owned()
}

#[test]
fn a_grant_counts_until_it_is_revoked_retired_or_over() {
    if !machine_can() {
        return;
    }
    let world = open_world();
    let key = world.key("alias/hr");
    let sealed = secret(&world, "alias/hr", "salaries");
    decrypt(&world, ALICE, &sealed).denied(NONE);

    // Revoked.
    let id = grant(&world, ALICE, &["Decrypt"]);
    assert_eq!(decrypt(&world, ALICE, &sealed).ok().stdout, "salaries");
    decrypt(&world, BOB, &sealed).denied(NONE);
    ALICE
        .kmsctl(&world, &["grant", "revoke", &key, &id])
        .denied("kms:RevokeGrant");
    ALICE
        .kmsctl(&world, &["grant", "list", &key])
        .denied("kms:ListGrants");
    world.kmsctl(&["grant", "revoke", "alias/hr", &id]).ok();
    decrypt(&world, ALICE, &sealed).denied(NONE);

    // Retired by the one whom it names for that.
    let bob = format!("user:{}", BOB.name());
    let id = grant(&world, ALICE, &["Decrypt", "--retiring", &bob]);
    assert_eq!(decrypt(&world, ALICE, &sealed).ok().stdout, "salaries");
    let retire = ["grant", "retire", &key, &id];
    ALICE.kmsctl(&world, &retire).denied("kms:RetireGrant");
    BOB.kmsctl(&world, &retire).ok();
    decrypt(&world, ALICE, &sealed).denied(NONE);

    // Over.
    grant(&world, ALICE, &["Decrypt", "--for", "8h"]);
    world.daemon.set_clock(8 * 3600 - 600);
    assert_eq!(decrypt(&world, ALICE, &sealed).ok().stdout, "salaries");
    world.daemon.set_clock(8 * 3600 + 60);
    decrypt(&world, ALICE, &sealed).denied(NONE);
    // It is gone for good, wherever the clock goes then, and the log says that it ended.
    let ended = || {
        let found = world.kmsctl(&["--json", "audit", "search", "--operation", "GrantEnded"]);
        found.code == 0 && found.stdout.contains("GrantEnded")
    };
    wait::until_true("the end of the grant in the log", wait::PATIENCE, ended);
    world.daemon.set_clock(0);
    decrypt(&world, ALICE, &sealed).denied(NONE);
}

#[test]
fn what_alice_passes_on_is_no_more_than_she_has() {
    if !machine_can() {
        return;
    }
    let world = open_world();
    let key = world.key("alias/hr");
    let sealed = secret(&world, "alias/hr", "salaries");
    let given = grant(&world, ALICE, &["Decrypt,CreateGrant", "--for", "1h"]);
    let bob = format!("user:{}", BOB.name());
    let pass_on = |operations: &str| {
        let command = [
            "grant",
            "create",
            &key,
            "--to",
            &bob,
            "--operations",
            operations,
        ];
        ALICE.kmsctl(&world, &command)
    };
    pass_on("Decrypt,Encrypt").denied("kms:CreateGrant");
    pass_on("Decrypt,DescribeKey").denied("kms:CreateGrant");
    let child = pass_on("Decrypt").ok().stdout;
    assert_eq!(decrypt(&world, BOB, &sealed).ok().stdout, "salaries");

    let list = world
        .kmsctl(&["--json", "grant", "list", "alias/hr"])
        .ok()
        .json();
    let grants = list["Grants"].as_array().unwrap();
    let of = |id: &str| {
        grants
            .iter()
            .find(|grant| grant["GrantId"] == json!(id))
            .unwrap()
    };
    assert_eq!(of(child.trim())["ParentGrantId"], json!(given));
    assert_eq!(of(child.trim())["EndDate"], of(&given)["EndDate"]);

    let said = world
        .kmsctl(&["grant", "revoke", "alias/hr", &given, "--cascade"])
        .ok();
    assert!(
        said.stdout.contains("2 grants are revoked"),
        "{}",
        said.stdout
    );
    decrypt(&world, ALICE, &sealed).denied(NONE);
    decrypt(&world, BOB, &sealed).denied(NONE);
}
