//! A rotated key opens what it closed before, and new data keys come from its new material.

use std::fs;
use std::time::Duration;

use kms_tests::daemon::path_text;
use kms_tests::wait;
use kms_tests::world::World;
use serde_json::{Value, json};

fn current_material(world: &World, key: &str) -> String {
    let described = world.call("DescribeKey", &json!({ "KeyId": key }));
    described["KeyMetadata"]["CurrentKeyMaterialId"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// What `kmsctl fs status` says of the policies of the volume mounted here.
fn policies(world: &World, mounted: &str) -> Vec<Value> {
    let status = world
        .kmsctl(&["fs", "status", mounted, "--json"])
        .ok()
        .json();
    status[0]["policies"]
        .as_array()
        .unwrap_or_else(|| panic!("{status:#}"))
        .clone()
}

#[test]
fn old_files_open_and_new_data_keys_are_new() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    let key = world.key("alias/turning");
    let old = current_material(&world, &key);
    let lower = world.volume("volume", "alias/turning");
    let mount = world.mount(&lower);
    fs::write(mount.path("before"), "written before").unwrap();

    world.kmsctl(&["key", "rotate", "alias/turning"]).ok();
    let new = current_material(&world, &key);
    assert_ne!(old, new);
    // The mount goes on with the policy key it has.
    fs::write(mount.path("during"), "written after").unwrap();
    let folder = mount.path("protected after");
    fs::create_dir(&folder).unwrap();
    world
        .kmsctl(&[
            "fs",
            "protect",
            path_text(&folder),
            "--key",
            "alias/turning",
        ])
        .ok();
    fs::write(folder.join("file"), "under the new material").unwrap();
    mount.unmount();

    let mount = world.mount(&lower);
    assert_eq!(
        fs::read_to_string(mount.path("before")).unwrap(),
        "written before"
    );
    assert_eq!(
        fs::read_to_string(mount.path("during")).unwrap(),
        "written after"
    );
    assert_eq!(
        fs::read_to_string(folder.join("file")).unwrap(),
        "under the new material"
    );
    let listed = policies(&world, path_text(&mount.point));
    let materials: Vec<&str> = listed
        .iter()
        .filter_map(|policy| policy["data_key_material"].as_str())
        .collect();
    assert_eq!(materials.len(), 2, "{listed:#?}");
    assert!(
        materials.contains(&old.as_str()) && materials.contains(&new.as_str()),
        "{listed:#?}"
    );
    mount.unmount();
}

/// A policy that asks for it is rewrapped by its mount after its key was rotated by kmsd itself; one that does not is not.
#[test]
fn an_automatic_rotation_is_followed_by_a_rewrap_where_the_policy_asks_for_that() {
    if !crate::machine_can() {
        return;
    }
    let world = World::start();
    let key = world.key("alias/turning");
    let old = current_material(&world, &key);
    let lower = world.volume("volume", "alias/turning");
    let mount = world.mount(&lower);
    let point = path_text(&mount.point).to_owned();
    let plain = mount.path("plain");
    fs::create_dir(&plain).unwrap();
    world
        .kmsctl(&["fs", "protect", path_text(&plain), "--key", "alias/turning"])
        .ok();
    for at in [mount.path("file"), plain.join("file")] {
        fs::write(at, "content").unwrap();
    }
    world
        .kmsctl(&[
            "fs",
            "policy",
            "set",
            &point,
            "--rewrap-after-rotation",
            "on",
        ])
        .ok();
    world
        .kmsctl(&["key", "enable-rotation", "alias/turning", "--days", "90"])
        .ok();
    mount.unmount();
    world.daemon.set_clock(91 * 24 * 3600);
    wait::until_true("the rotation", Duration::from_secs(60), || {
        current_material(&world, &key) != old
    });
    let new = current_material(&world, &key);

    let mount = world.mount(&lower);
    // So that both are unlocked.
    for at in [mount.path("file"), plain.join("file")] {
        assert_eq!(fs::read_to_string(at).unwrap(), "content");
    }
    let generation_of = |material: &str| {
        let listed = policies(&world, &point);
        let mut listed = listed.iter();
        let found = listed.find(|policy| policy["data_key_material"] == material);
        found.map(|policy| policy["generation"].clone())
    };
    wait::until_true("the rewrap", Duration::from_secs(60), || {
        generation_of(&new) == Some(json!(2)) && !lower.join(".kmsfs.job").exists()
    });
    assert!(
        mount
            .log()
            .contains("its key has new material: a rewrap begins")
    );
    // The other one stays as it is.
    assert_eq!(generation_of(&old), Some(json!(1)));
    let headers = world.kmsctl(&["--json", "fs", "status", &point, "--count"]);
    let counted = headers.ok().json();
    let root = &counted[0]["policies"][0];
    assert_eq!(root["generation"], 2, "{root:#}");
    for at in [mount.path("file"), plain.join("file")] {
        assert_eq!(fs::read_to_string(at).unwrap(), "content");
    }
    mount.unmount();
}
