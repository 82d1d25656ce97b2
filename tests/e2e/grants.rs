//! Grants through kmsctl, as an administrator makes and ends them.

use kms_tests::require;
use kms_tests::world::World;
use serde_json::{Value, json};

fn listed(world: &World, arguments: &[&str]) -> Vec<Value> {
    let command: Vec<&str> = ["--json", "grant", "list"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    let list = world.kmsctl(&command).ok().json();
    list["Grants"].as_array().unwrap().clone()
}

#[test]
fn grants_are_made_listed_and_ended() {
    if !require::tpm() {
        return;
    }
    let world = World::start();
    let key = world.key("alias/hr");
    world.key("alias/other");
    let create = |more: &[&str]| {
        let command: Vec<&str> = ["grant", "create", "alias/hr"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        world.kmsctl(&command)
    };

    let made = create(&[
        "--to",
        "user:alice",
        "--operations",
        "decrypt,DescribeKey,CreateGrant",
        "--context",
        "Department=IT",
        "--for",
        "8h",
        "--retiring",
        "role:backup",
        "--name",
        "alice",
    ])
    .ok();
    let id = made.stdout.trim();
    assert_eq!(id.len(), 64, "{id}");
    create(&["--to", "unit:web.service", "--operations", "Encrypt"]).ok();
    let dry = create(&["--to", "user:bob", "--operations", "Encrypt", "--dry-run"]).ok();
    assert!(dry.stdout.contains("could be done"), "{}", dry.stdout);

    let grants = listed(&world, &["alias/hr"]);
    assert_eq!(grants.len(), 2);
    assert_eq!(listed(&world, &[]).len(), 2);
    let grant = &listed(&world, &["alias/hr", "--to", "user:alice"])[0];
    assert_eq!(grant["GrantId"], json!(id));
    assert_eq!(
        grant["GranteePrincipal"],
        "arn:aws:iam::000000000000:user/alice"
    );
    assert_eq!(
        grant["RetiringPrincipal"],
        "arn:aws:iam::000000000000:role/backup"
    );
    assert_eq!(
        grant["Operations"],
        json!(["Decrypt", "DescribeKey", "CreateGrant"])
    );
    assert_eq!(
        grant["Constraints"],
        json!({"EncryptionContextSubset": {"Department": "IT"}})
    );
    let life = grant["EndDate"].as_f64().unwrap() - grant["CreationDate"].as_f64().unwrap();
    assert!((life - 8.0 * 3600.0).abs() < 1.0, "{life}");
    let shown = world.kmsctl(&["grant", "list", "alias/hr"]).ok().stdout;
    for text in [
        "user:alice",
        "unit:web.service",
        "context has {Department=IT}",
        &id[..12],
    ] {
        assert!(shown.contains(text), "{text} in {shown}");
    }

    let retirable = ["--json", "grant", "retirable", "--by", "role:backup"];
    let found = world.kmsctl(&retirable).ok().json();
    assert_eq!(found["Grants"][0]["GrantId"], json!(id));

    // By the beginning of its id.
    world
        .kmsctl(&["grant", "revoke", "alias/hr", &id[..10]])
        .ok();
    assert_eq!(listed(&world, &["alias/hr"]).len(), 1);
    world
        .kmsctl(&["grant", "revoke", "alias/hr", &id[..10]])
        .fails_with("no grant on this key begins with");
    world
        .kmsctl(&["grant", "revoke", &key, id])
        .fails_with("NotFoundException");
    let made = world.call(
        "CreateGrant",
        &json!({"KeyId": key, "GranteePrincipal": "arn:aws:iam::000000000000:root", "Operations": ["Encrypt"]}),
    );
    let token = made["GrantToken"].as_str().unwrap();
    world.kmsctl(&["grant", "retire", "--token", token]).ok();

    create(&["--to", "alice", "--operations", "Decrypt"]).fails_with("write `user:alice`");
    create(&["--to", "user:alice", "--operations", "Fly"]).fails_with("one of Decrypt, Encrypt");
    create(&[
        "--to",
        "user:alice",
        "--operations",
        "Decrypt",
        "--for",
        "8",
    ])
    .fails_with("no span of time");
}
