//! Asymmetric and HMAC keys: made and used on threads of their own, kept over a restart, recorded.

use super::audit::records;
use super::*;

/// A request the way the server calls it.
fn ask(engine: &Engine, operation: &str, body: &Value) -> Result<Value, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let target = format!("TrentService.{operation}");
    let request = Request::decode(&target, body.to_string().as_bytes()).unwrap();
    // What kmsd itself reads is not recorded.
    let root = "arn:aws:iam::000000000000:root";
    let caller = Caller::new(kms_api::CallerRole::Root, 0, root.to_owned());
    let reply = runtime.block_on(engine.call(Uuid::new_v4(), request, caller));
    let reply = reply.map_err(|failure| failure.error.to_string())?;
    let body = reply.response.to_json().unwrap();
    Ok(serde_json::from_slice(&body).unwrap())
}

#[test]
fn keys_of_every_kind_are_made_used_and_kept() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let mut made = Vec::new();
    for (spec, algorithm) in [
        ("RSA_2048", "RSASSA_PSS_SHA_256"),
        ("ECC_NIST_P256", "ECDSA_SHA_256"),
        ("ML_DSA_44", "ML_DSA_SHAKE_256"),
    ] {
        let body = json!({"KeySpec": spec, "KeyUsage": "SIGN_VERIFY"});
        let key = ask(&engine, "CreateKey", &body).unwrap()["KeyMetadata"]["KeyId"].clone();
        let sign = json!({"KeyId": key, "Message": "bWVzc2FnZQ==", "SigningAlgorithm": algorithm});
        let signed = ask(&engine, "Sign", &sign).unwrap();
        let mut verify = sign;
        verify["Signature"] = signed["Signature"].clone();
        made.push(verify);
    }
    let body = json!({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"});
    let mac = ask(&engine, "CreateKey", &body).unwrap()["KeyMetadata"]["KeyId"].clone();
    let body = json!({"KeyId": mac, "Message": "bWVzc2FnZQ==", "MacAlgorithm": "HMAC_SHA_256"});
    let tag = ask(&engine, "GenerateMac", &body).unwrap();
    let wrapping = create_key(&engine);
    let pair = json!({"KeyId": wrapping, "KeyPairSpec": "ECC_NIST_P384"});
    let pair = ask(&engine, "GenerateDataKeyPair", &pair).unwrap();
    engine.shutdown().unwrap();
    drop(engine);

    let engine = host.open().unwrap();
    for verify in &made {
        assert_eq!(
            ask(&engine, "Verify", verify).unwrap()["SignatureValid"],
            true
        );
        // The private key, too, is what it was.
        let again = call(&engine, "Sign", verify.clone()).unwrap();
        let mut other = verify.clone();
        other["Signature"] = again["Signature"].clone();
        assert_eq!(
            call(&engine, "Verify", other).unwrap()["SignatureValid"],
            true
        );
    }
    assert_eq!(ask(&engine, "GenerateMac", &body).unwrap(), tag);
    let blob = pair["PrivateKeyCiphertextBlob"].as_str().unwrap();
    let plain = pair["PrivateKeyPlaintext"].as_str().unwrap();
    assert_eq!(BASE64.encode(&decrypt(&engine, blob).unwrap()), plain);
}

#[test]
fn uses_are_recorded_with_their_algorithms_and_without_what_was_signed() {
    let host = Host::software();
    let engine = host.open().unwrap();
    let body = json!({"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"});
    let key = ask(&engine, "CreateKey", &body).unwrap()["KeyMetadata"]["Arn"].clone();
    let sign =
        json!({"KeyId": key, "Message": "bWVzc2FnZQ==", "SigningAlgorithm": "ECDSA_SHA_256"});
    let signed = ask(&engine, "Sign", &sign).unwrap();
    let mut verify = sign;
    verify["Signature"] = json!("AAAA");
    let refused = ask(&engine, "Verify", &verify).unwrap_err();
    assert_eq!(refused, "KMSInvalidSignatureException");
    engine.shutdown().unwrap();
    let all = records(&host.store());
    let of = |name: &str| all.iter().find(|record| record.operation == name).unwrap();
    let made = of("CreateKey");
    assert_eq!(
        made.response["keyMetadata"]["signingAlgorithms"],
        json!(["ECDSA_SHA_256"])
    );
    for name in ["Sign", "Verify"] {
        let record = of(name);
        assert_eq!(
            json!(record.parameters),
            json!({"keyId": key, "messageType": "RAW", "signingAlgorithm": "ECDSA_SHA_256"})
        );
        assert!(record.read_only && record.response.is_empty());
        assert_eq!(json!(record.keys), json!([key]));
    }
    let error = of("Verify").error.as_ref().unwrap();
    assert_eq!(error.code, "KMSInvalidSignatureException");
    let text = format!("{all:?}");
    let signature = signed["Signature"].as_str().unwrap();
    assert!(!text.contains("bWVzc2FnZQ") && !text.contains(signature));
}
