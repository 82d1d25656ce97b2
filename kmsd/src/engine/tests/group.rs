//! Keys that are made at the same time go into one transaction.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use super::audit::records;
use super::faults::{FailingStorage, Fuse};
use super::*;

type Call = Pin<Box<dyn Future<Output = Result<Reply, ErrorReply>>>>;

fn create(engine: &Engine) -> Call {
    let engine = engine.clone();
    Box::pin(async move {
        let request = Request::decode("TrentService.CreateKey", b"{}").unwrap();
        let caller = Caller::internal("000000000000");
        engine.call(Uuid::new_v4(), request, caller).await
    })
}

/// Makes `count` keys, all of which wait while somebody else writes.
fn create_together(engine: &Engine, count: usize) -> Vec<Result<Reply, ErrorReply>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut calls: Vec<Call> = (0..count).map(|_| create(engine)).collect();
        let mut other = Some(engine.shared.writer.lock());
        poll_fn(|context| {
            for call in &mut calls {
                assert!(call.as_mut().poll(context).is_pending());
            }
            // In one poll: no wait happens under the lock.
            drop(other.take());
            Poll::Ready(())
        })
        .await;
        let mut results = Vec::new();
        for call in calls {
            results.push(call.await);
        }
        results
    })
}

fn ids(engine: &Engine) -> BTreeSet<String> {
    let list = call(engine, "ListKeys", json!({"Limit": 1000})).unwrap();
    let keys = list["Keys"].as_array().unwrap().iter();
    keys.map(|key| key["KeyId"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn keys_made_at_the_same_time_share_a_transaction_and_have_a_record_each() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let before = meta(&engine).revision;
    let made: BTreeSet<String> = create_together(&engine, 40)
        .into_iter()
        .map(|result| match result.unwrap().response {
            Response::CreateKey(made) => made.key_metadata.key_id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(made.len(), 40);
    // Whoever leads may have taken up to a few before it waited for the other writer.
    let transactions = meta(&engine).revision - before;
    assert!(transactions <= 3, "{transactions} transactions");
    assert_eq!(ids(&engine), made);
    for key in &made {
        let blob = encrypt(&engine, key, b"x");
        assert_eq!(decrypt(&engine, &blob).unwrap(), b"x");
    }
    engine.shutdown().unwrap();
    drop(engine);

    let engine = host.open().unwrap();
    assert_eq!(ids(&engine), made);
    drop(engine);
    let arns: Vec<String> = records(&host.store())
        .iter()
        .filter(|record| record.operation == "CreateKey")
        .map(|record| {
            assert_eq!(record.error, None);
            record.keys.concat()
        })
        .collect();
    assert_eq!(arns.len(), 40);
    for key in made {
        let named = arns.iter().filter(|arn| arn.ends_with(&key)).count();
        assert_eq!(named, 1, "{key}");
    }
}

#[test]
fn a_transaction_that_fails_makes_none_of_its_keys() {
    let host = Host::software();
    let fuse = Fuse::new(-1, false, false);
    let storage = Box::new(FailingStorage(host.storage(), Arc::clone(&fuse)));
    let engine = host.open_with(storage, host.sealer()).unwrap();
    let there = create_key(&engine);
    fuse.arm(0);
    let results = create_together(&engine, 10);
    let failed = results.iter().filter(|result| result.is_err()).count();
    let made = ids(&engine).len() - 1;
    assert!(failed > 0);
    assert_eq!(made, 10 - failed, "who was told of a failure has no key");
    assert!(ids(&engine).contains(&there));
    // It goes on.
    assert!(create_together(&engine, 3).iter().all(Result::is_ok));
}

#[test]
fn what_is_not_a_new_key_goes_by_itself() {
    let host = Host::software();
    let engine = host.open().unwrap();
    // Another policy than the default: it is checked for a lockout, each by itself; the wrong one is refused alone.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let call = |body: Value| {
        let body = body.to_string();
        let request = Request::decode("TrentService.CreateKey", body.as_bytes()).unwrap();
        let caller = Caller::internal("000000000000");
        let engine = engine.clone();
        async move { engine.call(Uuid::new_v4(), request, caller).await }
    };
    runtime.block_on(async {
        let (good, bad) = tokio::join!(
            call(json!({"Description": "good"})),
            call(json!({"Policy": "{}", "Description": "bad"}))
        );
        assert!(good.is_ok());
        assert_eq!(
            bad.unwrap_err().error.code,
            ErrorCode::MalformedPolicyDocument
        );
    });
    assert_eq!(ids(&engine).len(), 1);
}
