//! Grants across restarts, and their ends by the tick.

use super::*;

const ALICE: &str = "arn:aws:iam::000000000000:user/alice";

fn grants(engine: &Engine, key: &str) -> Vec<Value> {
    let list = call(engine, "DescribeGrants", json!({"KeyId": key})).unwrap();
    list["Grants"].as_array().unwrap().clone()
}

#[test]
fn grants_and_their_tokens_outlive_a_restart_and_temporary_ones_are_removed() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let key = create_key(&engine);
    let body = json!({"KeyId": key, "GranteePrincipal": ALICE, "Operations": ["Decrypt"]});
    let lasting = call(&engine, "CreateGrant", body.clone()).unwrap();
    let mut ending = body;
    ending["ExpiresInSeconds"] = json!(24 * 60 * 60);
    let ending = call(&engine, "CreateTemporaryGrant", ending).unwrap();
    engine.tick().unwrap();
    assert_eq!(grants(&engine, &key).len(), 2);
    drop(engine);

    let engine = host.open().unwrap();
    assert_eq!(grants(&engine, &key).len(), 2);
    host.clock.pass_days(2);
    // Over before anything has removed it.
    let left = grants(&engine, &key);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["GrantId"], lasting["GrantId"]);
    let rows = |engine: &Engine| engine.shared.kms.read().snapshot().grants().iter().count();
    assert_eq!(rows(&engine), 2);
    engine.tick().unwrap();
    assert_eq!(rows(&engine), 1);
    let retire = |token: &Value| call(&engine, "RetireGrant", json!({"GrantToken": token}));
    let error = retire(&ending["GrantToken"]).unwrap_err();
    assert!(error.starts_with("InvalidGrantTokenException"), "{error}");
    retire(&lasting["GrantToken"]).unwrap();
    assert_eq!(rows(&engine), 0);
}
