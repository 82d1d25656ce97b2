//! What a call that takes something away waits for. Orders are asserted, never times: a call that must wait
//! is given the chance to answer too early and must not.

use std::time::Duration;

use kms_api::{CallerRole, Changed, GetStatusRequest, ResourceId, WaitForEpochResponse};

use super::*;
use crate::service::Reply;

const ALICE: &str = "arn:aws:iam::000000000000:user/alice";

fn admin() -> Caller {
    Caller::internal("000000000000")
}

fn service(uid: u32) -> Caller {
    Caller::new(
        CallerRole::Service,
        uid,
        "arn:aws:iam::000000000000:user/kmsfs",
    )
}

fn request(operation: &str, body: &Value) -> Request {
    let (prefix, _) = Request::OPERATIONS
        .iter()
        .find(|(_, name)| *name == operation)
        .unwrap();
    Request::decode(
        &format!("{prefix}.{operation}"),
        body.to_string().as_bytes(),
    )
    .unwrap()
}

async fn ask(
    engine: &Engine,
    caller: &Caller,
    operation: &str,
    body: Value,
) -> Result<Reply, String> {
    engine
        .call(Uuid::new_v4(), request(operation, &body), caller.clone())
        .await
        .map_err(|failure| failure.error.to_string())
}

/// A call in a task of its own.
fn start(
    engine: &Engine,
    operation: &'static str,
    body: Value,
) -> tokio::task::JoinHandle<Result<Reply, String>> {
    let engine = engine.clone();
    tokio::spawn(async move { ask(&engine, &admin(), operation, body).await })
}

/// Gives a call that must not answer yet the time to do so.
async fn still_waits<T>(call: &tokio::task::JoinHandle<T>) {
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(!call.is_finished(), "it answered too early");
}

/// Waits until a change that was asked for is made.
async fn made(engine: &Engine, epoch: u64) {
    while engine.status().unwrap().authorization_epoch < epoch {
        tokio::task::yield_now().await;
    }
}

async fn acquire(engine: &Engine, label: &str, duration_ms: u32) -> (ResourceId, u64) {
    let body = json!({"Label": label, "DurationMs": duration_ms});
    let reply = ask(engine, &service(990), "AcquireLease", body).await;
    let Response::AcquireLease(made) = reply.unwrap().response else {
        panic!()
    };
    (made.lease_id, made.epoch)
}

async fn wait(
    engine: &Engine,
    lease: ResourceId,
    epoch: u64,
    timeout_ms: u32,
) -> Result<WaitForEpochResponse, String> {
    let body = json!({"LeaseId": lease.to_string(), "Epoch": epoch, "TimeoutMs": timeout_ms});
    let reply = ask(engine, &service(990), "WaitForEpoch", body).await?;
    match reply.response {
        Response::WaitForEpoch(news) => Ok(news),
        _ => panic!(),
    }
}

fn grant(engine: &Engine, key: &str) -> String {
    let body = json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": ["Decrypt"]});
    call(engine, "CreateGrant", body).unwrap()["GrantId"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_is_answered_when_its_holder_has_applied_it() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let (lease, epoch) = acquire(&engine, "kmsfs /srv", 60_000).await;
    let listening = {
        let engine = engine.clone();
        tokio::spawn(async move { wait(&engine, lease, epoch, 20_000).await })
    };
    still_waits(&listening).await;
    let disabling = start(&engine, "DisableKey", json!({"KeyId": key}));
    let news = listening.await.unwrap().unwrap();
    assert_eq!((news.epoch, news.changed), (epoch + 1, Changed::Keys));
    assert_eq!(
        news.key_arns,
        [format!("arn:aws:kms:local-host-1:000000000000:key/{key}")]
    );
    // It has heard of it; that is not enough.
    still_waits(&disabling).await;
    let body = json!({"LeaseId": lease.to_string(), "Epoch": epoch + 1});
    ask(&engine, &service(990), "AcknowledgeEpoch", body)
        .await
        .unwrap();
    let report = disabling.await.unwrap().unwrap().leases.unwrap();
    assert_eq!((report.acknowledged, report.ran_out), (1, 0));
    assert_eq!(report.epoch, epoch + 1);
    // What only allows more waits for nobody.
    let enabled = ask(&engine, &admin(), "EnableKey", json!({"KeyId": key})).await;
    assert_eq!(enabled.unwrap().leases, None);
    let news = wait(&engine, lease, epoch + 1, 0).await.unwrap();
    assert_eq!((news.epoch, news.changed), (epoch + 2, Changed::Keys));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_hangs_is_named_and_has_lost_its_lease() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let (hung, epoch) = acquire(&engine, "kmsfs /hung", 1_000).await;
    let (alive, _) = acquire(&engine, "kmsfs /alive", 60_000).await;
    let disabling = start(&engine, "DisableKey", json!({"KeyId": key}));
    let news = wait(&engine, alive, epoch, 20_000).await.unwrap();
    assert_eq!(
        wait(&engine, alive, news.epoch, 0).await.unwrap().epoch,
        epoch + 1
    );
    let report = disabling.await.unwrap().unwrap().leases.unwrap();
    assert_eq!((report.acknowledged, report.ran_out), (1, 1));
    assert_eq!(report.labels, ["kmsfs /hung"]);
    let lost = wait(&engine, hung, epoch, 0).await.unwrap_err();
    assert!(lost.starts_with("NotFoundException"), "{lost}");
    // The next call does not wait for it; background work takes it off the books.
    engine.tick().unwrap();
    assert_eq!(engine.status().unwrap().leases, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_revokes_again_meanwhile_waits_like_the_first() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let grant = grant(&engine, &key);
    let (lease, epoch) = acquire(&engine, "kmsfs", 60_000).await;
    let revoke = json!({"KeyId": key, "GrantId": grant});
    let first = start(&engine, "RevokeGrant", revoke.clone());
    made(&engine, epoch + 1).await;
    still_waits(&first).await;
    let again = start(&engine, "RevokeGrant", revoke.clone());
    still_waits(&again).await;
    wait(&engine, lease, epoch + 1, 0).await.unwrap();
    for call in [first, again] {
        let report = call.await.unwrap().unwrap().leases.unwrap();
        assert_eq!(report.acknowledged, 1);
    }
    // Now it is simply gone.
    let late = ask(&engine, &admin(), "RevokeGrant", revoke).await;
    assert!(late.unwrap_err().starts_with("NotFoundException"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_leases_and_revocations_that_nobody_was_told_of() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let grant = grant(&engine, &key);
    let (lease, epoch) = acquire(&engine, "kmsfs", 60_000).await;
    let revoke = json!({"KeyId": key, "GrantId": grant});
    let first = start(&engine, "RevokeGrant", revoke.clone());
    still_waits(&first).await;
    engine.end_waits();
    let told = first.await.unwrap().unwrap_err();
    assert!(told.starts_with("ServiceUnavailableException"), "{told}");
    engine.shutdown().unwrap();
    drop(engine);

    let engine = host.open().unwrap();
    assert_eq!(engine.status().unwrap().leases, 1);
    let again = start(&engine, "RevokeGrant", revoke.clone());
    still_waits(&again).await;
    let news = wait(&engine, lease, epoch, 20_000).await.unwrap();
    // Which keys the epochs before the restart were about is not remembered.
    assert_eq!((news.epoch, news.changed), (epoch + 1, Changed::All));
    wait(&engine, lease, news.epoch, 0).await.unwrap();
    let report = again.await.unwrap().unwrap().leases.unwrap();
    assert_eq!((report.acknowledged, report.ran_out), (1, 0));
    let late = ask(&engine, &admin(), "RevokeGrant", revoke).await;
    assert!(late.unwrap_err().starts_with("NotFoundException"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_were_found_before_are_delivered_first() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let blob = encrypt(&engine, &key, b"secret");
    let body = json!({"CiphertextBlob": blob});
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(
            ask(&engine, &admin(), "Decrypt", body.clone())
                .await
                .unwrap(),
        );
    }
    let disabling = start(&engine, "DisableKey", json!({"KeyId": key}));
    // Refused to everybody who asks now, long before the call returns.
    while ask(&engine, &admin(), "Decrypt", body.clone())
        .await
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    while !answers.is_empty() {
        still_waits(&disabling).await;
        answers.pop();
    }
    disabling.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_changes_go_on_while_a_revocation_waits() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let (lease, epoch) = acquire(&engine, "kmsfs", 60_000).await;
    let disabling = start(&engine, "DisableKey", json!({"KeyId": key}));
    made(&engine, epoch + 1).await;
    still_waits(&disabling).await;
    let other = create_key(&engine);
    let second = start(&engine, "DisableKey", json!({"KeyId": other}));
    made(&engine, epoch + 2).await;
    still_waits(&second).await;
    // The first one only: the second has an epoch of its own.
    wait(&engine, lease, epoch + 1, 0).await.unwrap();
    disabling.await.unwrap().unwrap();
    still_waits(&second).await;
    // Giving the lease back is as good as applying.
    let body = json!({"LeaseId": lease.to_string()});
    ask(&engine, &service(990), "ReleaseLease", body)
        .await
        .unwrap();
    second.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_outside_the_store_raise_the_epoch_durably_and_wait() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let (lease, epoch) = acquire(&engine, "kmsfs", 60_000).await;
    let changing = {
        let engine = engine.clone();
        tokio::task::spawn_blocking(move || engine.authorization_changed("policy files"))
    };
    let news = wait(&engine, lease, epoch, 20_000).await.unwrap();
    assert_eq!((news.epoch, news.changed), (epoch + 1, Changed::All));
    still_waits(&changing).await;
    wait(&engine, lease, news.epoch, 0).await.unwrap();
    changing.await.unwrap().unwrap();
    drop(engine);
    let engine = host.open().unwrap();
    assert_eq!(engine.status().unwrap().authorization_epoch, epoch + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_services_hold_leases_and_each_its_own() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let root = Caller::new(CallerRole::Root, 0, "arn:aws:iam::000000000000:root");
    let user = Caller::new(CallerRole::User, 1000, ALICE);
    for caller in [&root, &user] {
        let refused = ask(&engine, caller, "AcquireLease", json!({})).await;
        assert!(refused.unwrap_err().starts_with("AccessDeniedException"));
    }
    let (lease, epoch) = acquire(&engine, "kmsfs", 5_000).await;
    let body = json!({"LeaseId": lease.to_string(), "Epoch": epoch});
    for (caller, operation) in [
        (service(991), "AcknowledgeEpoch"),
        (service(991), "WaitForEpoch"),
        (service(991), "ReleaseLease"),
    ] {
        let refused = ask(&engine, &caller, operation, body.clone()).await;
        let text = refused.unwrap_err();
        assert!(text.starts_with("NotFoundException"), "{operation}: {text}");
    }
    let refused = ask(&engine, &user, "ReleaseLease", body).await;
    assert!(refused.unwrap_err().starts_with("AccessDeniedException"));
    assert_eq!(engine.status().unwrap().leases, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_may_be_relied_on_for_what_is_left_of_the_named_lease() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let (lease, epoch) = acquire(&engine, "kmsfs", 5_000).await;
    let ask = |uid, lease: Option<String>| {
        let mut caller = service(uid);
        caller.lease = lease.map(Into::into);
        let engine = engine.clone();
        async move {
            let request = Request::GetStatus(GetStatusRequest {});
            engine
                .call(Uuid::new_v4(), request, caller)
                .await
                .unwrap()
                .reliance
        }
    };
    assert_eq!(ask(990, None).await, None);
    let own = ask(990, Some(lease.to_string())).await.unwrap();
    assert_eq!(own.epoch, epoch);
    assert!((1..=5_000).contains(&own.milliseconds), "{own:?}");
    for (uid, named) in [(991, lease.to_string()), (990, "0".repeat(32))] {
        assert_eq!(ask(uid, Some(named)).await.unwrap().milliseconds, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_may_be_relied_on_as_well() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let (lease, epoch) = acquire(&engine, "kmsfs", 60_000).await;
    let created = ask(&engine, &admin(), "CreateKey", json!({}))
        .await
        .unwrap();
    let Response::CreateKey(created) = created.response else {
        panic!()
    };
    let key = created.key_metadata.key_id;
    let body = json!({"KeyId": key, "Plaintext": BASE64.encode(b"x")});
    // Nothing else of the reply is kept: it would count as on its way.
    let sealed = ask(&engine, &admin(), "Encrypt", body)
        .await
        .map(|reply| reply.response);
    let Ok(Response::Encrypt(sealed)) = sealed else {
        panic!()
    };
    let body = json!({"KeyId": key, "CiphertextBlob": sealed.ciphertext_blob, "DryRun": true});
    let mut caller = Caller::new(CallerRole::User, 1000, ALICE);
    caller.via = Some(std::sync::Arc::new(kms_api::Via {
        service: "kmsfs.local-host-1.amazonaws.com".into(),
        arn: service(990).arn,
        uid: 990,
        pid: 1,
    }));
    caller.lease = Some(lease.to_string().into());
    let decrypt = async |caller: &Caller, body: &Value| {
        engine
            .call(Uuid::new_v4(), request("Decrypt", body), caller.clone())
            .await
            .unwrap_err()
    };
    let kept = |failure: &crate::service::ErrorReply| {
        let reliance = failure.reliance?;
        (reliance.milliseconds > 0).then_some(reliance.epoch)
    };

    let no = decrypt(&caller, &body).await;
    assert_eq!(no.error.code, ErrorCode::AccessDenied);
    assert_eq!(kept(&no), Some(epoch));
    let grant = json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": ["Decrypt"]});
    let granted = ask(&engine, &admin(), "CreateGrant", grant).await.unwrap();
    let Response::CreateGrant(grant) = granted.response else {
        panic!()
    };
    let yes = decrypt(&caller, &body).await;
    assert_eq!(yes.error.code, ErrorCode::DryRunOperation);
    assert_eq!(kept(&yes), Some(epoch + 1), "the refusal is older");
    // Who did not name a lease promises nothing.
    let mut other = caller.clone();
    other.lease = None;
    assert!(decrypt(&other, &body).await.reliance.is_none());
    // What is wrong with a request is not kept.
    let mut damaged = body.clone();
    damaged["EncryptionContext"] = json!({"a": "b"});
    let wrong = decrypt(&caller, &damaged).await;
    assert_eq!(wrong.error.code, ErrorCode::InvalidCiphertext);
    assert!(wrong.reliance.is_none());

    // A yes that is still on its way holds up whoever takes it away.
    ask(
        &engine,
        &service(990),
        "ReleaseLease",
        json!({"LeaseId": lease.to_string()}),
    )
    .await
    .unwrap();
    let revoke = json!({"KeyId": key, "GrantId": grant.grant_id});
    let call = start(&engine, "RevokeGrant", revoke);
    made(&engine, epoch + 2).await;
    still_waits(&call).await;
    drop(yes);
    call.await.unwrap().unwrap();
    ask(&engine, &admin(), "DisableKey", json!({"KeyId": key}))
        .await
        .unwrap();
    let (lease, _) = acquire(&engine, "kmsfs", 60_000).await;
    let mut inside = admin();
    inside.lease = Some(lease.to_string().into());
    inside.uid = 990;
    let disabled = decrypt(&inside, &body).await;
    assert_eq!(disabled.error.code, ErrorCode::Disabled);
    assert!(kept(&disabled).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registered_request_is_waited_for_before_it_is_judged() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let created = ask(&engine, &admin(), "CreateKey", json!({}))
        .await
        .unwrap();
    let Response::CreateKey(created) = created.response else {
        panic!()
    };
    let key = created.key_metadata.key_id;
    let (lease, epoch) = acquire(&engine, "kmsfs", 60_000).await;
    let caller = Caller {
        lease: Some(lease.to_string().into()),
        ..service(990)
    };
    // Who the caller is was looked up; then something changes.
    let entered = engine.enter();
    let changing = {
        let engine = engine.clone();
        tokio::task::spawn_blocking(move || engine.authorization_changed("groups"))
    };
    made(&engine, epoch + 1).await;
    // It is not the lease that is waited for.
    let body = json!({"LeaseId": lease.to_string(), "Epoch": epoch + 1});
    ask(&engine, &service(990), "AcknowledgeEpoch", body)
        .await
        .unwrap();
    still_waits(&changing).await;
    let status = Request::GetStatus(GetStatusRequest {});
    let reply = engine
        .call_entered(Uuid::new_v4(), status, caller, entered)
        .await;
    let reply = reply.unwrap();
    let reliance = reply.reliance.unwrap();
    assert_eq!(reliance.epoch, epoch, "not as new as what it was found in");
    drop(reply);
    changing.await.unwrap().unwrap();

    // A change is waited for until it is made.
    let entered = engine.enter();
    let changing = {
        let engine = engine.clone();
        tokio::task::spawn_blocking(move || engine.authorization_changed("groups"))
    };
    made(&engine, epoch + 2).await;
    let body = json!({"LeaseId": lease.to_string()});
    ask(&engine, &service(990), "ReleaseLease", body)
        .await
        .unwrap();
    still_waits(&changing).await;
    let disable = request("DisableKey", &json!({"KeyId": key}));
    let disabled = engine
        .call_entered(Uuid::new_v4(), disable, admin(), entered)
        .await;
    disabled.unwrap();
    changing.await.unwrap().unwrap();
}
