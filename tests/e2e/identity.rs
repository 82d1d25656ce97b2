//! Who asks, and what the policy files say to it: real processes of other users, and those that pretend.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use kms_tests::daemon::path_text;
use kms_tests::require;
use kms_tests::world::World;

const USER: &str = "4321";
const SERVICE: &str = "4320";
const ALLOW: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:DescribeKey","Resource":"*"}]}"#;
const DENY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"kms:DescribeKey","Resource":"*"}]}"#;

/// A kmsd whose socket everybody may open, with policy files in `policies`.
fn open_to_all() -> World {
    let mut world = World::enrolled();
    let config = world.daemon.config();
    let policies = world.path("policies");
    fs::create_dir(&policies).unwrap();
    let server = format!(
        "[server]\nsocket_mode = \"0666\"\nservice_uids = [{{ user = {SERVICE}, service = \"kmsfs\" }}]\n"
    );
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replacen("[server]\n", &server, 1);
    let identity = format!("\n[identity]\npolicies = {policies:?}\n");
    fs::write(&config, text + &identity).unwrap();
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    world.daemon.start();
    world
}

/// The answer to a program that runs the client, given before it.
fn ask(program: &[&str], arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/identity_client.py");
    // The folder of the tests may be closed to other users.
    let source = fs::read_to_string(script).unwrap();
    let words = [program, &["/usr/bin/python3", "-c", &source], arguments].concat();
    let output = Command::new(words[0])
        .args(&words[1..])
        .current_dir("/")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

fn as_user(uid: &'static str) -> [&'static str; 6] {
    ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
}

#[test]
fn whoever_pretends_is_refused_and_recorded() {
    if !require::tpm() || !require::as_root() {
        return;
    }
    let mut world = open_to_all();
    let socket = world.daemon.socket();
    let socket = path_text(&socket);
    let target = "KmsdLocal.GetCallerIdentity";

    let root = world.kmsctl(&["--json", "whoami"]).ok().json();
    assert_eq!(root["Arn"], "arn:aws:iam::000000000000:root");
    assert_eq!(root["Role"], "Root");
    let user = ask(&as_user(USER), &[socket, target, "{}"]);
    assert!(
        user.contains(r#""Arn":"arn:aws:iam::000000000000:user/uid-4321""#),
        "{user}"
    );
    assert!(user.contains(r#""Role":"User""#), "{user}");
    let named = "X-Kmsd-On-Behalf-Of: uid=0;gid=0;pid=1";
    let service = ask(&as_user(SERVICE), &[socket, target, "{}", named]);
    assert!(
        service.contains(r#""Arn":"arn:aws:iam::000000000000:root""#),
        "{service}"
    );
    assert!(
        service.contains(r#""Service":"kmsfs.local-host-1.amazonaws.com""#),
        "{service}"
    );

    let mut forged = vec![
        (
            ask(&[], &["--passed", USER, socket, target, "{}"]),
            "was sent by another process (uid 4321",
        ),
        (
            ask(&[], &["--passed", "0", socket, target, "{}"]),
            "was sent by another process (uid 0",
        ),
        (
            ask(&as_user(USER), &[socket, target, "{}", named]),
            "may ask on behalf of others",
        ),
        (
            ask(&[], &[socket, target, "{}", named]),
            "may ask on behalf of others",
        ),
    ];
    let namespace = ask(
        &["unshare", "--user", "--map-root-user"],
        &[socket, target, "{}"],
    );
    match namespace.contains("unshare failed") {
        true => println!("skipped: no user namespaces here"),
        false => forged.push((namespace, "it runs in another user namespace")),
    }
    for (answer, reason) in &forged {
        assert!(answer.contains("AccessDeniedException"), "{answer}");
        assert!(answer.contains(reason), "{reason}: {answer}");
    }
    world.daemon.stop();
    let audit = world.daemon.store().join("audit");
    let mut log = String::new();
    for file in fs::read_dir(audit).unwrap().flatten() {
        if file.file_name().to_string_lossy().starts_with("log-") {
            log.push_str(&fs::read_to_string(file.path()).unwrap());
        }
    }
    for (_, reason) in &forged {
        let found = log
            .lines()
            .any(|line| line.contains("AccessDeniedException") && line.contains(reason));
        assert!(found, "{reason}: {log}");
    }
}

#[test]
fn policy_files_decide_for_other_users_and_are_read_again() {
    if !require::tpm() || !require::as_root() {
        return;
    }
    let world = open_to_all();
    let key = world.key("alias/hr");
    let socket = world.daemon.socket();
    let body = format!(r#"{{"KeyId":"{key}"}}"#);
    let describe = || {
        let arguments = [path_text(&socket), "TrentService.DescribeKey", &body];
        ask(&as_user(USER), &arguments)
    };
    let answer = describe();
    assert!(answer.contains("AccessDeniedException"), "{answer}");

    let folder = world.path("policies/users/uid-4321");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("describe.json"), ALLOW).unwrap();
    let reloaded = world.kmsctl(&["--json", "iam", "reload"]).ok().json();
    assert_eq!(reloaded["IdentityPolicies"], 1);
    let answer = describe();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let listed = world.kmsctl(&["iam", "list"]).ok().stdout;
    assert!(listed.contains("user uid-4321"), "{listed}");

    // A wrong file keeps what was in force, and is shown.
    fs::write(folder.join("wrong.json"), "{").unwrap();
    let refused = world.kmsctl(&["iam", "reload"]);
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    refused.fails_with("wrong.json");
    let answer = describe();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let status = world.kmsctl(&["status"]).ok().stdout;
    assert!(status.contains("wrong.json"), "{status}");
    assert!(status.contains("self-tests passed"), "{status}");
    fs::remove_file(folder.join("wrong.json")).unwrap();

    // From the catalogue, for everyone.
    let rail = world.path("rail.json");
    fs::write(&rail, DENY).unwrap();
    world
        .kmsctl(&["guard-rail", "put", "blind", path_text(&rail)])
        .ok();
    let answer = describe();
    assert!(answer.contains("explicit deny"), "{answer}");
    let shown = world.kmsctl(&["guard-rail", "get", "blind"]).ok();
    let policy = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(policy(&shown.stdout), policy(DENY));
    world.kmsctl(&["guard-rail", "delete", "blind"]).ok();
    let answer = describe();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
