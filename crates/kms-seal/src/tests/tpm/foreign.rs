//! What other users of the chip may have done: owner's password, full memory, foreign keys, removed or replaced indices.

use serde_json::Value;

use crate::{
    Credential, Enrollment, Profile, SealerConfig, open,
    tests::{Chip, Host, failure, random, unseal},
};

#[test]
fn an_owners_password_is_asked_for() {
    let host = Chip::new();
    host.tpm
        .tool("tpm2_changeauth", &["-c", "owner", "ownerpw"])
        .unwrap();
    assert_eq!(host.sealer().status().unwrap().owner_auth_set, Some(true));
    let credential = random();
    assert_eq!(
        failure(host.sealer().enroll(Profile::Machine, &credential)),
        "owner-auth"
    );
    let with = |password: &str| {
        let owner_auth = Some(Credential::new(password.as_bytes().to_vec()));
        open(&SealerConfig {
            owner_auth,
            ..host.config()
        })
        .unwrap()
    };
    assert_eq!(
        failure(with("wrong").enroll(Profile::Machine, &credential)),
        "owner-auth"
    );
    let (record, kek) = with("ownerpw")
        .enroll(Profile::Machine, &credential)
        .unwrap();
    // Opening and counting need none.
    assert_eq!(
        unseal(&host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
    let mut sealer = host.sealer();
    sealer.unseal(&record, &credential).unwrap();
    sealer.increment(&record).unwrap();
    // Nor does the destruction of keys: the room for the next epoch is there, and an overwritten slot may stay.
    let (staged, _) = sealer.stage_epoch(&record, &credential).unwrap();
    let committed = sealer.commit_epoch(&staged).unwrap();
    assert_eq!(
        failure(unseal(&host, &record, &credential)),
        "epoch-replaced",
        "overwritten"
    );
    let (staged, kek) = sealer.stage_epoch(&committed, &credential).unwrap();
    let committed = sealer.commit_epoch(&staged).unwrap();
    assert_eq!(
        unseal(&host, &committed, &credential).unwrap(),
        *kek.key().expose()
    );
    assert_eq!(failure(sealer.remove(&committed)), "owner-auth");
    with("ownerpw").remove(&committed).unwrap();
}

#[test]
fn full_memory_is_named_and_leaves_nothing_behind() {
    let host = Chip::new();
    let credential = random();
    // The storage root key first, so that only the indices lack room.
    let (first, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let mut fillers = Vec::new();
    for size in ["2048", "512", "64"] {
        for _ in 0..200 {
            let index = format!("{:#x}", 0x0150_0000 + fillers.len());
            if host
                .tpm
                .tool("tpm2_nvdefine", &[&index, "-C", "o", "-s", size])
                .is_err()
            {
                break;
            }
            fillers.push(index);
        }
    }
    let before = host
        .tpm
        .tool("tpm2_getcap", &["handles-nv-index"])
        .unwrap()
        .stdout;
    assert_eq!(
        failure(host.sealer().enroll(Profile::Machine, &credential)),
        "nv-full"
    );
    let after = host
        .tpm
        .tool("tpm2_getcap", &["handles-nv-index"])
        .unwrap()
        .stdout;
    assert_eq!(before, after, "a failed enrolment left something behind");
    // An enrolment made before can still delete: its room was kept.
    let mut sealer = host.sealer();
    let (staged, _) = sealer.stage_epoch(&first, &credential).unwrap();
    let committed = sealer.commit_epoch(&staged).unwrap();
    let (staged, _) = sealer.stage_epoch(&committed, &credential).unwrap();
    sealer.commit_epoch(&staged).unwrap();
}

#[test]
fn a_foreign_key_at_the_usual_handle_is_left_alone() {
    let host = Chip::new();
    let context = host.directory.path().join("foreign.ctx");
    let context = context.to_str().unwrap();
    host.tpm
        .tool(
            "tpm2_createprimary",
            &["-C", "o", "-G", "rsa2048", "-c", context],
        )
        .unwrap();
    host.tpm
        .tool(
            "tpm2_evictcontrol",
            &["-C", "o", "-c", context, "0x81000001"],
        )
        .unwrap();
    host.tpm.tool("tpm2_flushcontext", &["-t"]).unwrap();
    let credential = random();
    let (record, kek) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    assert_eq!(
        unseal(&host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
    let status = host.sealer().status().unwrap();
    assert_eq!(status.srk_handle.as_deref(), Some("0x81000002"));
    assert_eq!(status.srk_name, record.srk_name());
}

#[test]
fn a_suitable_key_made_by_another_is_used() {
    let host = Chip::new();
    let context = host.directory.path().join("srk.ctx");
    let context = context.to_str().unwrap();
    let attributes =
        "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
    host.tpm
        .tool(
            "tpm2_createprimary",
            &[
                "-C",
                "o",
                "-G",
                "ecc256:aes128cfb",
                "-a",
                attributes,
                "-c",
                context,
            ],
        )
        .unwrap();
    host.tpm
        .tool(
            "tpm2_evictcontrol",
            &["-C", "o", "-c", context, "0x81000001"],
        )
        .unwrap();
    host.tpm.tool("tpm2_flushcontext", &["-t"]).unwrap();
    let name = host.sealer().status().unwrap().srk_name;
    let credential = random();
    let (record, kek) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    assert_eq!(record.srk_name(), name);
    assert_eq!(
        unseal(&host, &record, &credential).unwrap(),
        *kek.key().expose()
    );
}

#[test]
fn a_removed_or_replaced_counter_is_named() {
    let host = Chip::new();
    let credential = random();
    let mut sealer = host.sealer();
    let (record, _) = sealer.enroll(Profile::Machine, &credential).unwrap();
    let index = index_of(&record, "counter");
    host.tpm
        .tool("tpm2_nvundefine", &[&index, "-C", "o"])
        .unwrap();
    let error = sealer.counter(&record).unwrap_err();
    assert_eq!(error.kind().name, "counter-missing");
    assert!(error.to_string().contains(&index), "{error}");
    assert_eq!(failure(host.sealer().check(&record)), "counter-missing");
    assert_eq!(failure(sealer.increment(&record)), "counter-missing");

    // Defined again just as it was, but for the authorisation value, which nobody knows.
    let define = |attributes: &str| {
        host.tpm
            .tool(
                "tpm2_nvdefine",
                &[&index, "-C", "o", "-s", "8", "-a", attributes],
            )
            .unwrap();
    };
    define("authread|authwrite|no_da|nt=counter");
    assert_eq!(failure(sealer.counter(&record)), "counter-replaced");
    host.tpm
        .tool("tpm2_nvincrement", &[&index, "-C", &index])
        .unwrap();
    host.sealer().check(&record).unwrap();
    let error = sealer.counter(&record).unwrap_err();
    assert_eq!(error.kind().name, "counter-replaced");
    assert!(error.to_string().contains("authorisation"), "{error}");
    assert_eq!(failure(sealer.increment(&record)), "counter-replaced");

    // With other attributes the name tells.
    host.tpm
        .tool("tpm2_nvundefine", &[&index, "-C", "o"])
        .unwrap();
    define("ownerread|ownerwrite|authread|authwrite|no_da|nt=counter");
    assert_eq!(failure(host.sealer().check(&record)), "counter-replaced");
}

#[test]
fn a_removed_or_replaced_epoch_secret_is_named() {
    let host = Chip::new();
    let credential = random();
    let (record, _) = host.sealer().enroll(Profile::Machine, &credential).unwrap();
    let index = index_of(&record, "slot_a");
    host.tpm
        .tool("tpm2_nvundefine", &[&index, "-C", "o"])
        .unwrap();
    let error = unseal(&host, &record, &credential).unwrap_err();
    assert_eq!(error.kind().name, "epoch-destroyed");
    assert!(error.to_string().contains(&index), "{error}");
    host.tpm
        .tool("tpm2_nvdefine", &[&index, "-C", "o", "-s", "32"])
        .unwrap();
    assert_eq!(
        failure(unseal(&host, &record, &credential)),
        "epoch-replaced"
    );
    host.sealer().remove(&record).unwrap();
    let left = host
        .tpm
        .tool("tpm2_getcap", &["handles-nv-index"])
        .unwrap()
        .stdout;
    let left = String::from_utf8(left).unwrap().to_lowercase();
    assert!(
        left.contains(index.trim_start_matches("0x").trim_start_matches('0')),
        "{left}"
    );
}

#[test]
fn epoch_secrets_cannot_be_read_without_the_policy() {
    let host = Chip::new();
    let (record, _) = host.sealer().enroll(Profile::Machine, &random()).unwrap();
    let index = index_of(&record, "slot_a");
    for authority in ["o", index.as_str()] {
        assert!(
            host.tpm
                .tool("tpm2_nvread", &[&index, "-C", authority, "-s", "32"])
                .is_err()
        );
    }
}

fn index_of(record: &Enrollment, name: &str) -> String {
    let record = serde_json::to_value(record).unwrap();
    let Value::Number(index) = &record["body"]["vault"]["tpm"][name]["index"] else {
        panic!()
    };
    format!("{:#010x}", index.as_u64().unwrap())
}
