//! A flood of keys that take long to make.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use kms_api::client::ClientError;
use kms_api::{CreateKeyRequest, ErrorCode, GenerateDataKeyRequest, KeySpec, KeyUsage};

use super::*;

/// Connections of the flood, each with a request: more than may wait on two cores.
const FLOOD: usize = 40;

#[test]
fn a_flood_of_rsa_keys_is_throttled_and_takes_nothing_from_data_keys() {
    let home = Home::new();
    assert!(home.enroll().status.success());
    let _kmsd = home.start();
    let client = home.client();
    let key = client.send(CreateKeyRequest::default()).unwrap();
    let key = key.key_metadata.key_id;

    let throttled = Arc::new(AtomicUsize::new(0));
    for _ in 0..FLOOD {
        let client = home.client();
        let throttled = Arc::clone(&throttled);
        // They end with kmsd.
        thread::spawn(move || {
            loop {
                let request = CreateKeyRequest {
                    key_spec: Some(KeySpec::Rsa4096),
                    key_usage: Some(KeyUsage::SignVerify),
                    ..CreateKeyRequest::default()
                };
                match client.send(request) {
                    Ok(_) => {}
                    Err(ClientError::Api(error)) if error.code == ErrorCode::Throttling => {
                        throttled.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(10));
                    }
                    Err(_) => return,
                }
            }
        });
    }
    until("a key that is throttled", || {
        (throttled.load(Ordering::SeqCst) > 0).then_some(())
    });
    let before = throttled.load(Ordering::SeqCst);
    for _ in 0..200 {
        let request = GenerateDataKeyRequest {
            key_id: key.clone(),
            number_of_bytes: Some(32),
            encryption_context: Default::default(),
            key_spec: None,
            grant_tokens: Vec::new(),
            dry_run: false,
        };
        client.send(request).unwrap();
    }
    until("another one", || {
        (throttled.load(Ordering::SeqCst) > before).then_some(())
    });
}
