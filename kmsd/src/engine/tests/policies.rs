//! Policies of files: in force as one set, followed when they change, old ones kept while new ones are wrong.

use std::fs;

use kms_api::CallerRole;

use super::*;
use crate::policies::PolicyFiles;

const ALLOW: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:CreateKey","kms:DescribeKey"],"Resource":"*"}]}"#;
const NO_KEYS: &str = r#"{"Version":"2012-10-17","Statement":[{"Sid":"Frozen","Effect":"Deny","Action":"kms:CreateKey","Resource":"*"}]}"#;
const EXE: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:ListKeys","Resource":"*","Condition":{"StringEquals":{"kmsd:ExeSha256":"00"}}}]}"#;

fn alice() -> Caller {
    Caller::new(
        CallerRole::User,
        1000,
        "arn:aws:iam::000000000000:user/alice",
    )
}

fn write(dir: &tempfile::TempDir, name: &str, text: &str) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn creates(engine: &Engine, caller: &Caller) -> Result<(), String> {
    let request = Request::decode("TrentService.CreateKey", b"{}").unwrap();
    match engine.call_blocking(&request, caller) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.message.unwrap_or_default()),
    }
}

/// How often an event is in the audit log.
fn events(host: &Host, name: &str) -> usize {
    let files = crate::audit::list(&host.store().join("audit")).unwrap();
    let text: String = files
        .iter()
        .map(|file| fs::read_to_string(&file.path).unwrap())
        .collect();
    text.matches(&format!(r#""operation":"{name}""#)).count()
}

#[test]
fn files_decide_and_are_followed() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "users/alice/keys.json", ALLOW);
    assert!(creates(&engine, &alice()).is_err(), "nothing is in force");
    engine.use_policies(PolicyFiles::new(dir.path())).unwrap();
    creates(&engine, &alice()).unwrap();
    let root = Caller::new(CallerRole::Root, 0, "arn:aws:iam::000000000000:root");
    creates(&engine, &root).unwrap();
    let epoch = engine.status().unwrap().authorization_epoch;
    for _ in 0..3 {
        engine.watch_policies();
    }
    assert_eq!(engine.status().unwrap().authorization_epoch, epoch);

    write(&dir, "guard-rails/freeze.json", NO_KEYS);
    // Noticed when the files have been left alone for a moment.
    engine.watch_policies();
    engine.watch_policies();
    let text = creates(&engine, &root).unwrap_err();
    assert!(
        text.contains("explicit deny in a service control policy"),
        "{text}"
    );
    assert_eq!(engine.status().unwrap().authorization_epoch, epoch + 1);

    fs::remove_file(dir.path().join("guard-rails/freeze.json")).unwrap();
    let reloaded = engine.reload_policies("a test").unwrap();
    assert_eq!(
        (
            reloaded.changed,
            reloaded.identity_policies,
            reloaded.guard_rails
        ),
        (true, 1, 0)
    );
    creates(&engine, &root).unwrap();
    let again = engine.reload_policies("a test").unwrap();
    assert!(!again.changed);
    assert_eq!(engine.status().unwrap().authorization_epoch, epoch + 2);
}

#[test]
fn a_wrong_file_keeps_all_old_ones_and_is_shown() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "guard-rails/freeze.json", NO_KEYS);
    engine.use_policies(PolicyFiles::new(dir.path())).unwrap();
    // One is taken away and another is wrong: both stay as they were.
    fs::remove_file(dir.path().join("guard-rails/freeze.json")).unwrap();
    write(&dir, "users/alice/keys.json", "{}");
    let error = engine.reload_policies("a test").unwrap_err();
    assert_eq!(error.code, ErrorCode::MalformedPolicyDocument);
    let text = error.message.unwrap();
    assert!(text.contains("users/alice/keys.json"), "{text}");
    let root = Caller::new(CallerRole::Root, 0, "arn:aws:iam::000000000000:root");
    assert!(creates(&engine, &root).is_err());
    assert_eq!(events(&host, "PolicyFilesRefused"), 1);
    let warnings = engine.status().unwrap().warnings;
    assert!(warnings.contains(&text), "{warnings:?}");

    write(&dir, "users/alice/keys.json", ALLOW);
    engine.reload_policies("a test").unwrap();
    creates(&engine, &root).unwrap();
    creates(&engine, &alice()).unwrap();
    assert_eq!(events(&host, "PolicyFilesLoaded"), 1);
    let warnings = engine.status().unwrap().warnings;
    assert!(!warnings.contains(&text), "{warnings:?}");
}

#[test]
fn wrong_files_are_not_started_with() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "guard-rails/freeze.json", "not JSON");
    let error = engine
        .use_policies(PolicyFiles::new(dir.path()))
        .unwrap_err();
    assert!(error.to_string().contains("freeze.json"), "{error}");
}

#[tokio::test]
async fn a_caller_who_may_has_them_read_again() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let dir = tempfile::tempdir().unwrap();
    engine.use_policies(PolicyFiles::new(dir.path())).unwrap();
    write(&dir, "users/alice/keys.json", ALLOW);
    let request = Request::ReloadPolicies(kms_api::ReloadPoliciesRequest {});
    let denied = engine
        .call(uuid::Uuid::nil(), request.clone(), alice())
        .await
        .unwrap_err();
    assert_eq!(denied.error.code, ErrorCode::AccessDenied);
    assert!(creates(&engine, &alice()).is_err());
    let root = Caller::new(CallerRole::Root, 0, "arn:aws:iam::000000000000:root");
    let reply = engine.call(uuid::Uuid::nil(), request, root).await.unwrap();
    let Response::ReloadPolicies(reloaded) = reply.response else {
        panic!("another response");
    };
    assert!(reloaded.changed);
    creates(&engine, &alice()).unwrap();
}

#[test]
fn executables_are_looked_at_only_when_a_policy_asks() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let dir = tempfile::tempdir().unwrap();
    engine.use_policies(PolicyFiles::new(dir.path())).unwrap();
    assert_eq!(engine.needs(), crate::service::Needs::default());
    write(&dir, "users/alice/exe.json", EXE);
    engine.reload_policies("a test").unwrap();
    let needs = engine.needs();
    assert!(needs.exe && needs.exe_sha256);
    fs::remove_file(dir.path().join("users/alice/exe.json")).unwrap();
    engine.reload_policies("a test").unwrap();
    assert_eq!(engine.needs(), crate::service::Needs::default());
}

#[tokio::test]
async fn a_simulation_knows_rules_and_services() {
    use kms_core::kms::{MappedRole, NameOrNumber, RoleNames};

    let host = Host::software();
    let engine = host.open().unwrap();
    let named = |name: &str, number: u32| {
        Some(NameOrNumber {
            name: Some(name.to_owned()),
            number: Some(number),
        })
    };
    let rule = |role: &str| MappedRole {
        role: role.to_owned(),
        ..MappedRole::default()
    };
    engine.know_host(RoleNames {
        admin_group: None,
        services: vec![("kmsfs-user".to_owned(), "kmsfs".to_owned())],
        mapped: vec![
            MappedRole {
                user: named("alice", 1000),
                ..rule("reader")
            },
            MappedRole {
                group: named("staff", 50),
                exe: Some("/usr/bin/restic".to_owned()),
                ..rule("backup")
            },
            MappedRole {
                unit: Some("web@*.service".to_owned()),
                ..rule("web")
            },
            rule("nobody"),
        ],
    });
    let simulated = async |body: Value| {
        let target = "KmsdLocal.SimulatePrincipalPolicy";
        let mut whole = json!({"Action": "kms:ListKeys"});
        let members = body.as_object().unwrap().clone();
        whole.as_object_mut().unwrap().extend(members);
        let request = Request::decode(target, whole.to_string().as_bytes()).unwrap();
        let caller = Caller::internal("000000000000");
        let reply = engine
            .call(uuid::Uuid::nil(), request, caller)
            .await
            .unwrap();
        let Response::SimulatePrincipalPolicy(response) = reply.response else {
            panic!("another response");
        };
        let has = |name: &str| response.principals.iter().any(|p| p == name);
        (
            ["reader", "backup", "web", "nobody"]
                .into_iter()
                .filter(|role| has(&format!("arn:aws:iam::000000000000:role/{role}")))
                .collect::<Vec<_>>(),
            has("kmsfs.amazonaws.com"),
            response.decided_by,
        )
    };
    let roles = async |body: Value| simulated(body).await.0;
    assert_eq!(roles(json!({"Principal": "user:alice"})).await, ["reader"]);
    assert_eq!(
        roles(json!({"Principal": "user:uid-1000"})).await,
        ["reader"]
    );
    let mut bob = json!({"Principal": "user:bob", "Groups": ["staff"], "Unit": "web@1.service"});
    assert_eq!(roles(bob.clone()).await, ["web"]);
    bob["Exe"] = json!("/usr/bin/restic");
    assert_eq!(roles(bob).await, ["backup", "web"]);
    assert!(simulated(json!({"Principal": "user:kmsfs-user"})).await.1);
    assert!(!simulated(json!({"Principal": "user:alice"})).await.1);

    // For whom a service asks: what is denied to a role that he may have is denied.
    let deny =
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;
    let body =
        json!({"IdentityType": "ROLE", "Identity": "web", "PolicyName": "p", "Document": deny});
    call(&engine, "PutIdentityPolicy", body).unwrap();
    let alice = json!({"Principal": "user:alice"});
    assert!(!simulated(alice.clone()).await.2.contains("role/web"));
    let mut through = alice;
    through["ViaService"] = json!("kmsfs.local-host-1.amazonaws.com");
    let denied = simulated(through).await.2;
    assert!(denied.contains("role/web"), "{denied}");
    assert!(denied.contains("kmsd:Unit"), "{denied}");
}
