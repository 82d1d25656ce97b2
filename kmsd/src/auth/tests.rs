//! Identities of made-up peers, and of real ones that end.

use std::process::{Child, Command, Stdio};

use rustix::process::geteuid;
use tokio::net::UnixListener;

use super::peer::{PeerProcess, Pidfd};
use super::*;

fn config() -> (Server, IdentityConfig) {
    let text = r#"
        [server]
        admin_group = 500
        service_uids = [990, { user = 991, service = "files" }]
        [[identity.map]]
        role = "operators"
        group = 27
        [[identity.map]]
        role = "backup"
        unit = "backup.service"
    "#;
    let config = crate::config::Config::parse(text, std::path::Path::new("x")).unwrap();
    (config.server, config.identity)
}

fn auth() -> Arc<Auth> {
    let (server, identity) = config();
    Arc::new(Auth::new(&server, &identity).unwrap())
}

/// A peer whose process nobody knows, in the user namespace of this one.
fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
    Peer {
        uid,
        gid,
        pid: std::process::id(),
        groups: groups.to_vec(),
        label: None,
        process: Arc::new(PeerProcess {
            pidfd: Pidfd::Unsupported,
            place: process::Place::open(std::process::id()),
        }),
    }
}

fn facts(unit: &str) -> ProcessFacts {
    ProcessFacts {
        unit: Some(unit.into()),
        checked: true,
        ..ProcessFacts::default()
    }
}

#[test]
fn roles_are_those_of_the_configuration() {
    let auth = auth();
    let role = |uid, gid, groups: &[u32]| auth.role(&peer(uid, gid, groups));
    assert_eq!(role(0, 0, &[]), CallerRole::Root);
    assert_eq!(role(990, 990, &[]), CallerRole::Service);
    assert_eq!(role(1000, 500, &[]), CallerRole::Admin);
    assert_eq!(role(1000, 1000, &[27, 500]), CallerRole::Admin);
    assert_eq!(role(1000, 1000, &[27]), CallerRole::User);
    assert_eq!(
        role(1000, 990, &[990]),
        CallerRole::User,
        "service uids are not group ids"
    );
    let strange = peer(OVERFLOW_UID, 500, &[500]);
    assert_eq!(auth.role(&strange), CallerRole::User);
    assert_eq!(auth.kind(&strange), Kind::Stranger, "other user namespaces");
    assert_eq!(auth.kind(&peer(1000, 1000, &[27])), Kind::User);
    assert_eq!(auth.kind(&peer(1000, 500, &[])), Kind::Known);
    assert_eq!(auth.kind(&peer(0, 0, &[])), Kind::Known);
}

#[test]
fn root_is_the_accounts_root_principal() {
    let auth = auth();
    let identity = auth.identify(&peer(0, 0, &[]), Needs::default());
    assert_eq!(&*identity.arn, "arn:aws:iam::000000000000:root");
    let caller = &identity.callers.as_ref().unwrap().bare;
    assert_eq!(caller.principals.len(), 1);
    assert_eq!(&*caller.user_name, "root");
    assert!(caller.group_names.iter().any(|name| &**name == "root"));
}

#[test]
fn users_are_named_and_the_overflow_user_is_refused() {
    let auth = auth();
    let user = auth.identify(&peer(3_999_999, 1, &[]), Needs::default());
    assert_eq!(&*user.arn, "arn:aws:iam::000000000000:user/uid-3999999");
    let caller = &user.callers.as_ref().unwrap().bare;
    assert_eq!(caller.role, CallerRole::User);
    let overflow = auth.identify(&peer(OVERFLOW_UID, 0, &[]), Needs::default());
    assert_eq!(&*overflow.arn, "arn:aws:iam::000000000000:user/nobody");
    let error = overflow
        .callers
        .unwrap_err()
        .error(&overflow.arn, "Encrypt");
    assert_eq!(error.code, ErrorCode::AccessDenied);
    let text = error.message.unwrap();
    assert!(
        text.contains("user/nobody is not authorized to perform: kms:Encrypt"),
        "{text}"
    );
}

#[test]
fn units_and_rules_add_principals() {
    let auth = auth();
    let peer = peer(1000, 1000, &[27]);
    let named = Named {
        user: "alice".into(),
        login: None,
        groups: vec![27, 1000],
        group_names: vec![],
    };
    let principals = |facts: Option<ProcessFacts>| {
        let caller = auth.caller(CallerRole::User, &peer, &named, facts);
        let texts = caller.principals.iter().map(|p| p.to_string());
        texts.collect::<Vec<_>>()
    };
    let user = "arn:aws:iam::000000000000:user/alice";
    let operators = [
        "arn:aws:sts::000000000000:assumed-role/operators/alice",
        "arn:aws:iam::000000000000:role/operators",
    ];
    assert_eq!(principals(None), [&[user], &operators[..]].concat());
    let unit = [
        "arn:aws:sts::000000000000:assumed-role/unit/backup.service",
        "arn:aws:iam::000000000000:role/unit/backup.service",
    ];
    let backup = [
        "arn:aws:sts::000000000000:assumed-role/backup/alice",
        "arn:aws:iam::000000000000:role/backup",
    ];
    assert_eq!(
        principals(Some(facts("backup.service"))),
        [&[user], &unit[..], &operators, &backup].concat()
    );
    let possible = |facts: Option<ProcessFacts>| {
        let caller = auth.caller(CallerRole::User, &peer, &named, facts);
        let texts = caller.possible_principals.iter().map(|p| p.to_string());
        let roles = caller.possible_roles.iter().map(|p| p.to_string());
        (texts.collect::<Vec<_>>(), roles.collect::<Vec<_>>())
    };
    let none = (vec![], vec![]);
    assert_eq!(possible(Some(facts("backup.service"))), none);
    assert_eq!(possible(Some(facts("other.service"))), none);
    let may_be = (
        backup.map(str::to_owned).to_vec(),
        vec!["backup".to_owned()],
    );
    assert_eq!(possible(None), may_be);
    // Not the name of a unit, and so of no principal.
    assert_eq!(principals(Some(facts("a*b.service"))).len(), 3);
}

#[test]
fn services_name_users() {
    let auth = auth();
    let service = |uid| {
        let peer = peer(uid, uid, &[]);
        let named = Named {
            user: "svc".into(),
            login: None,
            groups: vec![uid],
            group_names: vec![],
        };
        auth.caller(auth.role(&peer), &peer, &named, None)
    };
    let user = OnBehalfOf {
        uid: 0,
        gid: 27,
        pid: 4711,
    };
    let root = auth.on_behalf(&service(991), user).unwrap();
    assert_eq!(root.role, CallerRole::Root);
    assert_eq!(&*root.arn, "arn:aws:iam::000000000000:root");
    assert_eq!((root.uid, root.gid, root.pid), (0, 27, 4711));
    assert!(root.groups.contains(&0) && root.groups.contains(&27));
    assert!(root.roles.iter().any(|role| &**role == "operators"));
    assert!(root.process.is_none());
    assert_eq!(*root.possible_roles, ["backup".into()]);
    assert_eq!(root.possible_principals.len(), 2);
    let via = root.via.as_deref().unwrap();
    assert_eq!(&*via.service, "files.local-host-1.amazonaws.com");
    assert_eq!(via.uid, 991);
    // For itself it is also the service of that name.
    let own = service(991);
    for name in ["files.amazonaws.com", "files.local-host-1.amazonaws.com"] {
        assert!(own.principals.iter().any(|p| &**p == name), "{name}");
        assert!(!root.principals.iter().any(|p| &**p == name), "{name}");
    }
    let unnamed = auth.on_behalf(&service(990), user).unwrap();
    let via = unnamed.via.as_deref().unwrap();
    assert_eq!(&*via.service, "uid-990.local-host-1.amazonaws.com");
    // A user that is a service of its own is a user when another names it.
    let user = OnBehalfOf { uid: 990, ..user };
    let other = auth.on_behalf(&service(991), user).unwrap();
    assert_eq!(other.role, CallerRole::User);

    for uid in [0, 1000] {
        let refused = auth.on_behalf(&service(uid), user).unwrap_err();
        assert!(matches!(refused, Refusal::NotAService), "{refused:?}");
    }
    let nobody = OnBehalfOf {
        uid: OVERFLOW_UID,
        ..user
    };
    let refused = auth.on_behalf(&service(991), nobody).unwrap_err();
    assert!(matches!(refused, Refusal::Overflow), "{refused:?}");
}

#[test]
fn the_header_of_a_service_has_one_form() {
    let user = OnBehalfOf {
        uid: 1000,
        gid: 100,
        pid: 4711,
    };
    for text in [
        "uid=1000;gid=100;pid=4711",
        "pid=4711; uid=1000; gid=100",
        " uid = 1000 ;gid=100;pid=4711 ",
    ] {
        assert_eq!(OnBehalfOf::parse(text).unwrap(), user, "{text}");
    }
    for text in [
        "",
        "uid=1000",
        "uid=1000;gid=100",
        "uid=1000;gid=100;pid=1;uid=0",
        "uid=1000;gid=100;pid=1;",
        "uid=+1000;gid=100;pid=1",
        "uid=-1;gid=100;pid=1",
        "uid=;gid=100;pid=1",
        "uid=4294967295;gid=100;pid=1",
        "uid=4294967296;gid=100;pid=1",
        "uid=1000;gid=4294967295;pid=1",
        "uid=1000;gid=100;pid=x",
        "user=alice;gid=100;pid=1",
    ] {
        let refused = OnBehalfOf::parse(text).unwrap_err();
        assert!(matches!(refused, Refusal::Header(_)), "{text}: {refused:?}");
    }
}

/// A process that has connected to a listener of this test.
fn connected() -> (Child, Peer, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (child, peer) = runtime.block_on(async {
        let listener = UnixListener::bind(&path).unwrap();
        let script = "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die $!; \
            connect(S, sockaddr_un($ARGV[0])) or die $!; sleep 60;";
        let child = Command::new("/usr/bin/perl")
            .args(["-e", script, path.to_str().unwrap()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (child, Peer::of(&stream, true).unwrap())
    });
    (child, peer, runtime)
}

#[test]
fn facts_end_with_their_process() {
    let (mut child, peer, runtime) = connected();
    assert_eq!(peer.pid, child.id());
    if !peer.process.is_checked() {
        println!("skipped: no SO_PEERPIDFD before Linux 6.5");
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    }
    let (server, identity) = config();
    let mut auth = Auth::new(&server, &identity).unwrap();
    auth.services.insert(geteuid().as_raw(), "test".into());
    runtime.block_on(async {
        let needs = Needs {
            exe: true,
            exe_sha256: true,
        };
        let session = Session::open(Arc::new(auth), peer, needs).await.unwrap();
        let session = Arc::new(session);
        let caller = session.caller(needs, None).await.unwrap().caller;
        let process = caller.process.unwrap();
        assert!(process.checked);
        let perl = std::fs::canonicalize("/usr/bin/perl").unwrap();
        assert_eq!(process.exe.as_deref(), perl.to_str());
        let digest = Command::new("sha256sum").arg(&perl).output().unwrap();
        let digest = String::from_utf8(digest.stdout).unwrap();
        assert_eq!(process.exe_sha256.as_deref(), digest.get(..64));
        assert!(process.cgroup.is_some());

        child.kill().unwrap();
        child.wait().unwrap();
        let caller = session.caller(needs, None).await.unwrap().caller;
        assert_eq!(
            caller.process, None,
            "whoever has that number now is another"
        );
        assert_eq!(caller.principals.len(), 1);
    });
}

#[test]
fn a_process_that_has_ended_has_no_user_namespace() {
    let (mut child, peer, _runtime) = connected();
    child.kill().unwrap();
    child.wait().unwrap();
    if !peer.process.is_checked() {
        println!("skipped: no SO_PEERPIDFD before Linux 6.5");
        return;
    }
    assert_eq!(process::namespace(&peer), Namespace::Ended);
    assert!(process::facts(&peer, Needs::default(), false).is_none());
    let identity = auth().identify(&peer, Needs::default());
    assert!(matches!(identity.callers, Err(Refusal::Ended)));
}

#[test]
fn without_a_pidfd_a_number_is_trusted_only_when_told_so() {
    let unchecked = peer(1000, 1000, &[]);
    assert!(process::facts(&unchecked, Needs::default(), false).is_none());
    let facts = process::facts(&unchecked, Needs::default(), true).unwrap();
    assert!(!facts.checked);
    assert!(facts.exe.is_some());
    assert_eq!(facts.exe_sha256, None, "not asked for");
}

#[test]
fn unknown_names_are_configuration_errors() {
    let name = NameOrId::Name("no-such-name-here".into());
    let check = |change: &dyn Fn(&mut Server, &mut IdentityConfig)| {
        let (mut server, mut identity) = config();
        change(&mut server, &mut identity);
        Auth::new(&server, &identity)
            .and_then(|auth| auth.check_names())
            .unwrap_err()
            .to_string()
    };
    let text = check(&|server, _| server.admin_group = Some(name.clone()));
    assert!(
        text.contains("server.admin_group") && text.contains("no-such-name-here"),
        "{text}"
    );
    let text = check(&|server, _| server.service_uids = vec![name.clone().into()]);
    assert!(text.contains("server.service_uids"), "{text}");
    let text = check(&|_, identity| identity.allow_user_namespaces = vec![name.clone()]);
    assert!(text.contains("identity.allow_user_namespaces"), "{text}");
    let text = check(&|_, identity| identity.map[0].group = Some(name.clone()));
    assert!(text.contains("identity.map"), "{text}");
}
