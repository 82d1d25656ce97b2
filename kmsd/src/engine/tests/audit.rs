//! What the engine records, and that no change is in force without its record.

use std::path::Path;

use kms_api::{CallerRole, ErrorCode};
use kms_core::audit::{Effect as Decision, Kind, Line, Record};

use super::*;
use crate::audit::{AuditError, list};
use crate::service::{Entered, Service};

fn lines(store: &Path) -> Vec<Line> {
    let mut all = Vec::new();
    for file in list(&store.join("audit")).unwrap() {
        let text = std::fs::read_to_string(file.path).unwrap();
        all.extend(
            text.lines()
                .map(|line| Line::parse(line.as_bytes()).unwrap()),
        );
    }
    all
}

pub(super) fn records(store: &Path) -> Vec<Record> {
    lines(store).into_iter().map(|line| line.record).collect()
}

fn named<'a>(records: &'a [Record], operation: &str) -> Vec<&'a Record> {
    records
        .iter()
        .filter(|record| record.operation == operation)
        .collect()
}

fn as_user(role: CallerRole, uid: u32) -> Caller {
    let name = match uid {
        0 => "root".to_owned(),
        uid => format!("user/u{uid}"),
    };
    Caller::new(role, uid, format!("arn:aws:iam::000000000000:{name}"))
}

fn key_arn(key: &str) -> String {
    format!("arn:aws:kms:local-host-1:000000000000:key/{key}")
}

/// Cuts the log of a store to its first `records` records.
fn cut(store: &Path, records: u64) {
    let files = list(&store.join("audit")).unwrap();
    let path = &files[0].path;
    let text = std::fs::read_to_string(path).unwrap();
    let kept: String = text
        .split_inclusive('\n')
        .take(usize::try_from(records).unwrap())
        .collect();
    std::fs::write(path, kept).unwrap();
}

#[test]
fn a_change_is_answered_with_its_record_on_disk() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    // No waiting: it is there.
    let all = records(&host.store());
    assert_eq!(all[0].operation, "Enrolled");
    assert_eq!(all[1].operation, "ServiceStarted");
    let made = named(&all, "CreateKey");
    let [made] = made[..] else { panic!("{all:?}") };
    assert_eq!(made.kind, Kind::Api);
    assert_eq!(made.keys, [key_arn(&key)]);
    assert_eq!(made.response["keyMetadata"]["keyId"], key);
    assert_eq!(made.parameters["keySpec"], "SYMMETRIC_DEFAULT");
    assert!(!made.read_only && made.error.is_none());
    // The record is in the catalogue until a later change finds it in the log.
    let waiting = |engine: &Engine| engine.shared.kms.read().snapshot().outbox().count();
    assert!(waiting(&engine) >= 1);
    create_key(&engine);
    assert_eq!(waiting(&engine), 1);
    let size = lines(&host.store()).len() as u64;
    engine.shutdown().unwrap();
    assert_eq!(waiting(&engine), 0);
    // A clean end puts all of the log under the catalogue.
    let head = meta(&engine).audit_head.unwrap();
    assert_eq!(head.size, size + 1);
    assert_eq!(
        records(&host.store()).last().unwrap().operation,
        "ServiceStopped"
    );
}

#[test]
fn every_request_has_one_record_allowed_or_denied_and_secrets_have_none() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let admin = as_user(CallerRole::Root, 0);
    let send = |caller: &Caller, operation: &str, body: Value| {
        let prefix = Request::OPERATIONS
            .iter()
            .find(|(_, name)| *name == operation)
            .unwrap()
            .0;
        let request = Request::decode(
            &format!("{prefix}.{operation}"),
            body.to_string().as_bytes(),
        )
        .unwrap();
        engine.call_blocking(&request, caller)
    };
    let plaintext = BASE64.encode(b"a marked plaintext");
    let context = json!({"Department": "HR"});
    let Ok(Response::Encrypt(sealed)) = send(
        &admin,
        "Encrypt",
        json!({"KeyId": key, "Plaintext": plaintext, "EncryptionContext": context}),
    ) else {
        panic!()
    };
    let token = json!({"KeyId": key, "GrantTokens": ["MarkedToken"]});
    assert!(send(&admin, "DescribeKey", token).is_err());
    let blob = BASE64.encode(sealed.ciphertext_blob.as_slice());
    send(
        &admin,
        "Decrypt",
        json!({"CiphertextBlob": blob, "EncryptionContext": context}),
    )
    .unwrap();
    let wrong = send(&admin, "Decrypt", json!({"CiphertextBlob": blob})).unwrap_err();
    assert_eq!(wrong.code, ErrorCode::InvalidCiphertext);
    let Ok(Response::GenerateDataKey(data_key)) = send(
        &admin,
        "GenerateDataKey",
        json!({"KeyId": key, "KeySpec": "AES_256"}),
    ) else {
        panic!()
    };
    let denied = send(
        &as_user(CallerRole::User, 4711),
        "DisableKey",
        json!({"KeyId": key}),
    )
    .unwrap_err();
    assert_eq!(denied.code, ErrorCode::AccessDenied);
    engine.shutdown().unwrap();

    let all = records(&host.store());
    let decrypts = named(&all, "Decrypt");
    let [good, bad] = decrypts[..] else {
        panic!("{decrypts:?}")
    };
    assert_eq!(good.parameters["keyId"], key_arn(&key));
    assert_eq!(good.parameters["encryptionContext"], context);
    assert_eq!(good.parameters["encryptionAlgorithm"], "SYMMETRIC_DEFAULT");
    assert!(good.details["keyMaterialId"].as_str().unwrap().len() == 64);
    assert!(good.read_only && good.response.is_empty());
    assert_eq!(good.caller.as_ref().unwrap().role, "root");
    assert_eq!(good.authorization.as_ref().unwrap().effect, Decision::Allow);
    assert_eq!(
        bad.error.as_ref().unwrap().code,
        "InvalidCiphertextException"
    );
    let refused = named(&all, "DisableKey");
    let [refused] = refused[..] else {
        panic!("{refused:?}")
    };
    assert_eq!(refused.caller.as_ref().unwrap().uid, Some(4711));
    assert_eq!(
        refused.error.as_ref().unwrap().code,
        "AccessDeniedException"
    );
    assert_eq!(
        refused.authorization.as_ref().unwrap().effect,
        Decision::Deny
    );
    assert_eq!(refused.keys, [key_arn(&key)]);
    for (operation, count) in [("Encrypt", 1), ("GenerateDataKey", 1), ("CreateKey", 1)] {
        assert_eq!(named(&all, operation).len(), count, "{operation}");
    }
    let ids: std::collections::HashSet<_> = all.iter().map(|record| &record.event_id).collect();
    assert_eq!(ids.len(), all.len());

    let text: String = list(&host.store().join("audit"))
        .unwrap()
        .iter()
        .map(|file| std::fs::read_to_string(&file.path).unwrap())
        .collect();
    let secret = [
        plaintext,
        blob,
        BASE64.encode(data_key.plaintext.as_slice()),
        BASE64.encode(data_key.ciphertext_blob.as_slice()),
        "a marked plaintext".into(),
        "MarkedToken".into(),
    ];
    for secret in &secret {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[test]
fn a_record_that_a_crash_kept_from_the_log_is_appended_once() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let created = lines(&host.store()).len() as u64;
    call(&engine, "DisableKey", json!({"KeyId": key})).unwrap();
    // As if the power had gone after the commit: before the record was appended, and after it.
    let head = meta(&engine).audit_head.unwrap().size;
    assert!(head <= created);
    for (name, kept) in [("before", head), ("after", created + 1)] {
        let copy = host.copy_store(name);
        cut(&copy, kept);
        let config = host.config_of(&copy);
        let again = Engine::open(
            config,
            host.sealer(),
            &host.credential,
            Arc::new(host.clock.clone()),
        )
        .unwrap();
        create_key(&again);
        let all = records(&copy);
        assert_eq!(named(&all, "DisableKey").len(), 1, "{name}: {all:?}");
        assert_eq!(named(&all, "CreateKey").len(), 2, "{name}: {all:?}");
    }
}

#[test]
fn a_store_whose_log_lacks_records_is_not_opened() {
    let host = Host::software();
    let engine = host.open().unwrap();
    create_key(&engine);
    create_key(&engine);
    engine.shutdown().unwrap();
    let size = meta(&engine).audit_head.unwrap().size;
    drop(engine);
    cut(&host.store(), size - 1);
    let error = host.open().err().unwrap();
    assert!(
        matches!(error, EngineError::Audit(AuditError::Missing { expected, .. }) if expected == size),
        "{error:?}"
    );
    assert_eq!(error.exit_code(), 74);
    let mut config = host.config();
    config.audit.as_mut().unwrap().accept_gap = true;
    let engine = Engine::open(
        config,
        host.sealer(),
        &host.credential,
        Arc::new(host.clock.clone()),
    )
    .unwrap();
    create_key(&engine);
    engine.shutdown().unwrap();
    drop(engine);
    assert_eq!(named(&records(&host.store()), "AuditGapAccepted").len(), 1);
    // It is the catalogue's log from now on.
    host.open().unwrap().shutdown().unwrap();
}

#[test]
fn what_happens_by_itself_is_recorded() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let (doomed, kept) = (create_key(&engine), create_key(&engine));
    call(&engine, "RotateKeyOnDemand", json!({"KeyId": kept})).unwrap();
    call(
        &engine,
        "EnableKeyRotation",
        json!({"KeyId": kept, "RotationPeriodInDays": 90}),
    )
    .unwrap();
    schedule(&engine, &doomed);
    host.clock.pass_days(91);
    engine.tick().unwrap();
    engine.shutdown().unwrap();
    let all = records(&host.store());
    let rotations = named(&all, "RotateKey");
    let kinds: Vec<_> = rotations
        .iter()
        .map(|record| record.details["rotationType"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["ON_DEMAND", "AUTOMATIC"]);
    for rotation in &rotations {
        assert_eq!(rotation.kind, Kind::Service);
        assert_eq!(rotation.keys, [key_arn(&kept)]);
    }
    assert_eq!(
        rotations[0].details["currentKeyMaterialId"],
        rotations[1].details["previousKeyMaterialId"]
    );
    let deleted = named(&all, "DeleteKey");
    let [deleted] = deleted[..] else {
        panic!("{all:?}")
    };
    assert_eq!(deleted.details["keyId"], doomed);
    assert_eq!(deleted.source, "kms.amazonaws.com");
}

#[test]
fn what_never_reached_an_operation_is_recorded() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let error = ApiError::new(ErrorCode::AccessDenied, "no");
    let refused = Refused {
        id: Uuid::new_v4(),
        operation: "Decrypt",
        asker: Some(Asker::Stranger),
        principal: "arn:aws:iam::000000000000:user/uid-65534",
        ids: Some((65534, 65534, 7)),
        network: None,
        error: &error,
    };
    engine.refused(&refused).unwrap();
    let user = as_user(CallerRole::User, 1000);
    let error = ApiError::bare(ErrorCode::Serialization);
    engine
        .unreadable(Uuid::new_v4(), "GetStatus", &user, &error)
        .unwrap();
    engine.shutdown().unwrap();
    let all = records(&host.store());
    let stranger = named(&all, "Decrypt")[0].caller.clone().unwrap();
    assert_eq!(
        (stranger.uid, stranger.role.as_str()),
        (Some(65534), "stranger")
    );
    let unread = named(&all, "GetStatus")[0];
    assert_eq!(unread.source, "kmsd.local");
    assert_eq!(
        unread.error.as_ref().unwrap().code,
        "SerializationException"
    );
}

#[test]
fn what_nobody_allowed_is_recorded_in_short_and_takes_a_token() {
    let host = Host::software();
    let mut config = host.config();
    config.audit.as_mut().unwrap().refused_burst = 4;
    let clock = Arc::new(host.clock.clone());
    let engine = Engine::open(config, host.sealer(), &host.credential, clock).unwrap();
    let request = |operation: &str, body: &Value| {
        let all = Request::OPERATIONS;
        let (prefix, _) = all.iter().find(|(_, name)| *name == operation).unwrap();
        let target = format!("{prefix}.{operation}");
        Request::decode(&target, body.to_string().as_bytes()).unwrap()
    };
    let root = as_user(CallerRole::Root, 0);
    let key = create_key(&engine);
    let user = as_user(CallerRole::User, 1000);
    let asker = Asker::Uid(1000);
    let context = json!({ "file": "x".repeat(600), "short": "y" });
    let body = json!({ "KeyId": key, "KeySpec": "AES_256", "EncryptionContext": context });
    // Who is allowed takes none and has all of it recorded.
    for _ in 0..10 {
        engine
            .call_blocking(&request("GenerateDataKey", &body), &root)
            .unwrap();
    }
    for _ in 0..3 {
        engine
            .call_blocking(&request("GenerateDataKey", &body), &user)
            .unwrap_err();
    }
    assert!(engine.answers(asker, &user.arn).is_ok());
    // Nobody has to allow this one.
    engine
        .call_blocking(&request("GetCallerIdentity", &json!({})), &user)
        .unwrap();
    let refused = engine.answers(asker, &user.arn).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Throttling);
    assert!(engine.answers(Asker::Uid(1001), &user.arn).is_ok());
    engine.shutdown().unwrap();
    let all = records(&host.store());
    let (allowed, denied): (Vec<_>, Vec<_>) = named(&all, "GenerateDataKey")
        .into_iter()
        .partition(|record| record.error.is_none());
    assert_eq!((allowed.len(), denied.len()), (10, 3));
    assert_eq!(allowed[0].parameters["encryptionContext"], context);
    let text = context.to_string();
    let sha = data_encoding::HEXLOWER.encode(&kms_crypto::sha256(&[text.as_bytes()]));
    assert_eq!(
        denied[0].parameters["encryptionContext"],
        json!({ "length": text.len(), "sha256": sha })
    );
    assert_eq!(denied[0].parameters["keyId"], key);
    let told = named(&all, "RequestsNotAnswered")[0];
    assert_eq!(told.details["uid"], 1000);
    assert_eq!(told.details["requests"], 1);
}

#[test]
fn what_a_service_asks_for_users_without_rights_is_answered_and_recorded_so_often() {
    let host = Host::software();
    let mut config = host.config();
    config.audit.as_mut().unwrap().refused_burst = 4;
    let clock = Arc::new(host.clock.clone());
    let engine = Engine::open(config, host.sealer(), &host.credential, clock).unwrap();
    let key = create_key(&engine);
    let ask = |uid: u32, named: bool| {
        let mut user = as_user(CallerRole::User, uid);
        user.login = named.then(|| format!("u{uid}").into());
        user.via = Some(Arc::new(kms_api::Via {
            service: "kmsfs.local-host-1.amazonaws.com".into(),
            arn: "arn:aws:iam::000000000000:user/kmsfs".into(),
            uid: 990,
            pid: 1,
        }));
        let body = json!({ "KeyId": key, "KeySpec": "AES_256" });
        let all = Request::OPERATIONS;
        let (prefix, name) = all
            .iter()
            .find(|(_, name)| *name == "GenerateDataKey")
            .unwrap();
        let target = format!("{prefix}.{name}");
        let request = Request::decode(&target, body.to_string().as_bytes()).unwrap();
        let refused = engine.call_blocking(&request, &user).unwrap_err();
        assert_eq!(refused.code, ErrorCode::AccessDenied);
    };
    for _ in 0..10 {
        ask(1000, true);
    }
    // Those without names have what there is for one.
    for uid in 200_000..200_010 {
        ask(uid, false);
    }
    ask(1001, true);
    engine.shutdown().unwrap();
    let all = records(&host.store());
    assert_eq!(named(&all, "GenerateDataKey").len(), 4 + 4 + 1);
    assert!(named(&all, "RequestsNotAnswered").is_empty());
    let told = named(&all, "RequestsNotRecorded");
    let mut told: Vec<_> = told
        .iter()
        .map(|record| (record.details.get("uid"), &record.details["requests"]))
        .collect();
    told.sort_by_key(|(uid, _)| uid.is_some());
    assert_eq!(told, [(None, &json!(6)), (Some(&json!(1000)), &json!(6))]);
}

#[test]
fn a_request_that_was_not_approved_in_time_leaves_a_record() {
    let host = Host::software();
    let key = {
        let engine = host.open().unwrap();
        create_key(&engine)
    };
    let mut config = host.config();
    config.settings.approval = kms_core::kms::ApprovalRules {
        operations: vec!["ScheduleKeyDeletion".to_owned()],
        required: 2,
        approvers: vec!["arn:aws:iam::000000000000:user/u7".to_owned()],
        lifetime_ms: 2 * DAY_MS,
    };
    let clock = Arc::new(host.clock.clone());
    let engine = Engine::open(config, host.sealer(), &host.credential, clock).unwrap();
    let body = json!({ "KeyId": key, "PendingWindowInDays": 7 }).to_string();
    let request = Request::decode("TrentService.ScheduleKeyDeletion", body.as_bytes()).unwrap();
    let root = as_user(CallerRole::Root, 0);
    engine.call_blocking(&request, &root).unwrap_err();
    engine.tick().unwrap();
    host.clock.pass_days(1);
    engine.tick().unwrap();
    assert!(named(&records(&host.store()), "ApprovalLapsed").is_empty());
    host.clock.pass_days(2);
    engine.tick().unwrap();
    engine.tick().unwrap();
    engine.shutdown().unwrap();
    let all = records(&host.store());
    let lapsed = named(&all, "ApprovalLapsed");
    let [lapsed] = lapsed[..] else {
        panic!("{lapsed:?}")
    };
    assert_eq!(lapsed.keys, [key_arn(&key)]);
    assert_eq!(lapsed.details["operation"], "ScheduleKeyDeletion");
    assert_eq!(lapsed.details["required"], 2);
    assert_eq!(
        lapsed.details["requester"],
        "arn:aws:iam::000000000000:root"
    );
}

#[test]
fn what_was_read_while_no_kmsd_ran_gets_into_the_log_at_the_next_start() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let blob = encrypt(&engine, &key, b"text");
    engine.shutdown().unwrap();
    drop(engine);

    let copy = host.root.path().join("copy");
    copy_dir(&host.store(), &copy);
    let opener = Opener::Sealer(host.sealer(), host.credential.clone());
    let clock = Arc::new(host.clock.clone());
    let offline = Offline::open(&copy, &host.store(), opener, clock).unwrap();
    let log = OfflineLog::open(&host.store()).unwrap();
    let opening = service("OfflineOpened").detail("openedWith", "sealer");
    let offline = offline.recorded(log, opening);
    let body = json!({ "CiphertextBlob": blob }).to_string();
    let decrypt = Request::decode("TrentService.Decrypt", body.as_bytes()).unwrap();
    let own = as_user(CallerRole::User, nix::unistd::geteuid().as_raw());
    let id = Uuid::new_v4();
    let answer = block_on::block_on(Service::call(
        &offline,
        id,
        decrypt,
        own,
        Entered::default(),
    ));
    assert!(matches!(answer.unwrap().response, Response::Decrypt(_)));
    drop(offline);
    let path = host.store().join("offline.jsonl");
    let mut text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 2);
    text.push_str("cut off");
    std::fs::write(&path, text).unwrap();

    let engine = host.open().unwrap();
    assert!(!path.exists());
    engine.shutdown().unwrap();
    let all = records(&host.store());
    let opened = named(&all, "OfflineOpened");
    assert_eq!(opened[0].details["offline"], true);
    let read = named(&all, "Decrypt");
    let [read] = read[..] else { panic!("{read:?}") };
    assert_eq!(read.details["offline"], true);
    assert_eq!(read.keys, [key_arn(&key)]);
    assert_eq!(read.request_id, Some(id.to_string()));
    assert_eq!(read.caller.as_ref().unwrap().role, "root");
    let taken = named(&all, "OfflineRecordsTakenUp");
    let [taken] = taken[..] else {
        panic!("{taken:?}")
    };
    assert_eq!(
        (&taken.details["records"], &taken.details["malformed"]),
        (&json!(2), &json!(1))
    );
}

#[test]
fn without_a_log_nothing_is_kept() {
    let host = Host::software();
    let config = EngineConfig {
        audit: None,
        ..host.config()
    };
    let engine = Engine::open(
        config,
        host.sealer(),
        &host.credential,
        Arc::new(host.clock.clone()),
    )
    .unwrap();
    create_key(&engine);
    assert!(!host.store().join("audit").exists());
    engine.shutdown().unwrap();
    // What enrolment left there waits for a log.
    assert_eq!(engine.shared.kms.read().snapshot().outbox().count(), 1);
}

#[test]
fn a_store_recovered_without_its_log_begins_a_new_one_and_says_so() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    engine.shutdown().unwrap();
    let size = meta(&engine).audit_head.unwrap().size;
    drop(engine);
    std::fs::remove_dir_all(host.store().join("audit")).unwrap();
    assert!(matches!(host.open().err().unwrap(), EngineError::Audit(_)));
    recover(
        &host.config(),
        host.sealer().as_mut(),
        Profile::Machine,
        &host.credential,
        &host.recovery,
        &host.clock,
    )
    .unwrap();
    let engine = host.open().unwrap();
    encrypt(&engine, &key, b"kept");
    engine.shutdown().unwrap();
    let all = records(&host.store());
    assert_eq!(all[0].operation, "Recovered");
    assert_eq!(all[0].details["formerLogRecords"], size);
}

/// Every operation with marked bytes in every member that holds something secret, right and wrong.
#[test]
fn no_operation_lets_a_secret_into_the_log_or_an_error() {
    const MARK: &str = "MARKEDSECRETBYTES";
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let encoded = BASE64.encode(MARK.as_bytes());
    let sealed = encrypt(&engine, &key, MARK.as_bytes());
    let id = "00112233445566778899aabbccddeeff";
    // Members that an operation does not have are ignored.
    let base = json!({
        "KeyId": key, "TargetKeyId": key, "DestinationKeyId": key, "AliasName": "alias/a", "VolumeId": id,
        "PolicyId": id, "ContentMode": "XTS", "GranteePrincipal": "arn:aws:iam::000000000000:user/a",
        "Operations": ["Decrypt"], "GrantId": "g", "ExpiresInSeconds": 60, "PolicyName": "default",
        "Identity": "a", "IdentityType": "USER", "GuardRailName": "g", "Action": "kms:Decrypt", "Principal": "root",
        "RetiringPrincipal": "arn:aws:iam::000000000000:user/a", "LeaseId": id, "Epoch": 0, "Label": "l",
        "Plaintext": encoded, "CiphertextBlob": sealed, "EncryptedKeyMaterial": encoded, "ImportToken": encoded,
        "Message": encoded, "Mac": encoded, "Signature": encoded, "PublicKey": encoded,
    });
    let mut variants = Vec::new();
    for (name, value) in [
        ("KeySpec", json!("AES_256")),
        ("NumberOfBytes", json!(32)),
        // Refused, by the decoder or later.
        ("Plaintext", json!(format!("{MARK}!"))),
        ("Plaintext", json!([MARK])),
        ("CiphertextBlob", json!(encoded)),
        ("CiphertextBlob", json!({ "a": MARK })),
        ("GrantTokens", json!([format!("{MARK}-token")])),
        ("GrantTokens", json!(MARK)),
        ("GrantToken", json!(format!("{MARK}-token"))),
    ] {
        let mut body = base.clone();
        let is_length = name == "NumberOfBytes";
        body.as_object_mut().unwrap().insert(name.into(), value);
        if name != "KeySpec" && !is_length {
            body["KeySpec"] = json!("AES_256");
        }
        variants.push(body.to_string());
    }
    let root = as_user(CallerRole::Root, 0);
    let (mut decoded, mut said) = (0, String::new());
    for (prefix, name) in Request::OPERATIONS {
        if name.starts_with("WaitFor") || *name == "ScheduleKeyDeletion" || *name == "DisableKey" {
            continue;
        }
        for body in &variants {
            let request = match Request::decode(&format!("{prefix}.{name}"), body.as_bytes()) {
                Ok(request) => request,
                Err(error) => {
                    engine
                        .unreadable(Uuid::new_v4(), name, &root, &error)
                        .unwrap();
                    said.push_str(&error.to_string());
                    continue;
                }
            };
            decoded += 1;
            said.push_str(&format!("{request:?}"));
            match engine.call_blocking(&request, &root) {
                Ok(response) => said.push_str(&format!("{response:?}")),
                Err(error) => said.push_str(&error.to_string()),
            }
        }
    }
    engine.shutdown().unwrap();
    assert!(decoded > 100, "{decoded}");
    let all = records(&host.store());
    assert!(all.len() > decoded);
    let log = serde_json::to_string(&all).unwrap();
    for mark in [MARK, &encoded, &sealed] {
        assert!(!log.contains(mark), "{mark} is in the log");
    }
    // Requests, replies and errors as kmsd's own log could print them.
    for mark in [&encoded, &sealed] {
        assert!(!said.contains(mark.as_str()), "{mark} is printed");
    }
}

#[test]
fn who_asks_for_events_sees_what_was_answered_before() {
    let host = Host::software();
    let mut config = host.config();
    // Nothing is written by itself in this test.
    config.audit.as_mut().unwrap().data_delay = Duration::from_secs(3600);
    let engine = Engine::open(
        config,
        host.sealer(),
        &host.credential,
        Arc::new(host.clock.clone()),
    )
    .unwrap();
    let key = create_key(&engine);
    // kmsd's own reads have no record; root's have.
    let body = json!({"KeyId": key, "KeySpec": "AES_256"}).to_string();
    let request = Request::decode("TrentService.GenerateDataKey", body.as_bytes()).unwrap();
    let root = as_user(CallerRole::Root, 0);
    engine.call_blocking(&request, &root).unwrap();
    let found = call(
        &engine,
        "LookupEvents",
        json!({"Operation": "GenerateDataKey"}),
    )
    .unwrap();
    assert_eq!(found["Events"].as_array().unwrap().len(), 1, "{found}");
    let head = call(&engine, "GetAuditHead", json!({})).unwrap();
    assert_eq!(head["Pending"], 0);
    assert_eq!(head["Size"], lines(&host.store()).len() as u64);
    engine.shutdown().unwrap();
}

#[test]
fn who_listens_is_told_of_what_was_done_before_the_start() {
    let host = Host::software();
    let clock = Arc::new(host.clock.clone());
    let observe = |log: &AuditLog, events: &Events, scope| {
        log.observe(Box::new(events.observer(scope, 0, None, |_| {})));
        events.begin(log.durable().head.size);
    };
    let engine = Engine::open_observed(
        host.config(),
        host.sealer(),
        &host.credential,
        clock,
        observe,
    )
    .unwrap();
    create_key(&engine);
    let told = engine.shared.events.now(Some(0), 2);
    assert!(!told.missed);
    let kind = |n: usize| told.events[n].event["detail-type"].clone();
    assert_eq!(
        (kind(0), kind(1)),
        ("kmsd Enrolled".into(), "kmsd Service Started".into())
    );
}

#[test]
fn the_key_that_kmsd_makes_for_kmsfs_is_recorded_whatever_asked_for_it() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let describe = json!({"KeyId": "alias/aws/kmsfs"});
    let found = call(&engine, "DescribeKey", describe.clone()).unwrap();
    call(&engine, "DescribeKey", describe).unwrap();
    engine.shutdown().unwrap();
    let all = records(&host.store());
    let [made] = named(&all, "CreateKey")[..] else {
        panic!("{all:?}");
    };
    assert_eq!(made.kind, Kind::Service);
    assert_eq!(made.details["keyId"], found["KeyMetadata"]["KeyId"]);
    assert_eq!(made.keys, [found["KeyMetadata"]["Arn"].as_str().unwrap()]);
}
