//! Two accounts and two Regions in one kmsd: separate keys, cross-account use, replicas, the audit log; all of it over a restart.

use std::fs;

use kms_tests::require;
use kms_tests::world::World;
use serde_json::{Value, json};

const WEST: &[&str] = &["--region", "us-west-2"];
const THEIRS: &[&str] = &["--region", "us-west-2", "--as-account", "222222222222"];

/// A kmsd that serves two Regions and two accounts.
fn world() -> World {
    let mut world = World::enrolled();
    let config = fs::read_to_string(world.daemon.config()).unwrap();
    let config = config.replacen(
        "[server]\n",
        "[server]\nregions = [\"us-west-2\"]\naccounts = [\"222222222222\"]\n",
        1,
    );
    fs::write(world.daemon.config(), config).unwrap();
    world.daemon.start();
    world
}

/// What `kmsctl --json` says in a place.
#[track_caller]
fn ask(world: &World, place: &[&str], arguments: &[&str]) -> Value {
    let all = [place, &["--json"], arguments].concat();
    world.kmsctl(&all).ok().json()
}

/// The ARN of a new key.
#[track_caller]
fn create(world: &World, place: &[&str], more: &[&str]) -> String {
    let made = ask(world, place, &[&["key", "create"], more].concat());
    made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

#[track_caller]
fn listed(world: &World, place: &[&str]) -> Vec<String> {
    let list = ask(world, place, &["alias", "list"]);
    let aliases = list["Aliases"].as_array().unwrap().iter();
    aliases
        .map(|alias| alias["AliasArn"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn two_accounts_and_two_regions_live_in_one_kmsd() {
    if !require::tpm() {
        return;
    }
    let mut world = world();
    let (sealed, opened) = (world.path("sealed"), world.path("opened"));
    let (plain, policy) = (world.path("plain"), world.path("policy"));
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    fs::write(&plain, "in the west").unwrap();

    // The same name in three places.
    let home = create(&world, &[], &["--alias", "alias/same", "--multi-region"]);
    let west = create(&world, WEST, &["--alias", "alias/same"]);
    let theirs = create(&world, THEIRS, &["--alias", "alias/same"]);
    assert!(
        home.starts_with("arn:aws:kms:local-host-1:000000000000:key/mrk-"),
        "{home}"
    );
    assert!(
        west.starts_with("arn:aws:kms:us-west-2:000000000000:key/"),
        "{west}"
    );
    assert!(
        theirs.starts_with("arn:aws:kms:us-west-2:222222222222:key/"),
        "{theirs}"
    );
    let refused = world.kmsctl(&["--region", "eu-west-1", "key", "list"]);
    refused.fails_with("it serves local-host-1, us-west-2");

    // A key of the other account: its policy has to allow it, and root is root of its own.
    let encrypt = |world: &World, place: &[&str], key: &str| {
        let (plain, sealed) = (text(&plain), text(&sealed));
        let all = ["encrypt", "--key", key, "--in", &plain, "--out", &sealed];
        world.kmsctl(&[place, &all].concat())
    };
    encrypt(&world, THEIRS, &west).fails_with("no resource-based policy allows");
    let document = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "kms:*", "Resource": "*",
        "Principal": {"AWS": ["arn:aws:iam::000000000000:root", "arn:aws:iam::222222222222:root"]},
    }]});
    fs::write(&policy, document.to_string()).unwrap();
    ask(
        &world,
        WEST,
        &["key", "policy", "put", &west, &text(&policy)],
    );
    encrypt(&world, THEIRS, &west).ok();

    // A replica opens what its primary key closed.
    let id = home.rsplit('/').next().unwrap();
    let replica = ask(&world, &[], &["key", "replicate", id, "--to", "us-west-2"]);
    assert_eq!(replica["ReplicaKeyMetadata"]["KeyId"], id);
    encrypt(&world, &[], "alias/same").ok();

    world.daemon.stop();
    world.daemon.start();
    let aliases = |world: &World| [&[][..], WEST, THEIRS].map(|place| listed(world, place));
    assert_eq!(
        aliases(&world).concat(),
        [
            // Its key is made when somebody needs it.
            "arn:aws:kms:local-host-1:000000000000:alias/aws/kmsfs",
            "arn:aws:kms:local-host-1:000000000000:alias/same",
            "arn:aws:kms:us-west-2:000000000000:alias/same",
            "arn:aws:kms:us-west-2:222222222222:alias/same",
        ]
    );
    let decrypt = ["decrypt", "--in", &text(&sealed), "--out", &text(&opened)];
    world.kmsctl(&[WEST, &decrypt].concat()).ok();
    assert_eq!(fs::read_to_string(&opened).unwrap(), "in the west");
    world
        .kmsctl(&["key", "set-primary-region", id, "--to", "us-west-2"])
        .ok();
    let described = ask(&world, WEST, &["key", "describe", id]);
    let described = described.get("KeyMetadata").unwrap_or(&described);
    assert_eq!(
        described["MultiRegionConfiguration"]["MultiRegionKeyType"],
        "PRIMARY"
    );

    // The records say where.
    let exported = world
        .kmsctl(&["audit", "export", "--cloudtrail"])
        .ok()
        .stdout;
    let log: Value = serde_json::from_str(&exported).unwrap();
    let records = log["Records"].as_array().unwrap();
    let found = |name: &str, account: &str, region: &str| {
        records.iter().any(|record| {
            record["eventName"] == name
                && record["recipientAccountId"] == account
                && record["awsRegion"] == region
        })
    };
    assert!(
        found("CreateKey", "222222222222", "us-west-2"),
        "{exported}"
    );
    assert!(found("CreateKey", "000000000000", "local-host-1"));
    assert!(found("Decrypt", "000000000000", "us-west-2"));
}
