//! Who asks too fast.

use kms_api::CallerRole;

use super::audit::records;
use super::*;

#[test]
fn who_asks_too_fast_is_refused_and_one_record_says_so() {
    let host = Host::software();
    let config = EngineConfig {
        rates: RateLimits {
            // Next to nothing comes back while the test runs.
            reading: 1,
            burst_seconds: 5,
            ..RateLimits::NONE
        },
        ..host.config()
    };
    let clock = Arc::new(host.clock.clone());
    let engine = Engine::open(config, host.sealer(), &host.credential, clock).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let ask = |role: CallerRole, name: &str, times: usize| {
        let arn = format!("arn:aws:iam::000000000000:{name}");
        let caller = Caller::new(role, 1000, arn);
        let mut refused = 0;
        for _ in 0..times {
            let request = Request::decode("TrentService.ListKeys", b"{}").unwrap();
            let result = runtime.block_on(engine.call(Uuid::new_v4(), request, caller.clone()));
            if let Err(failure) = result
                && failure.error.code == ErrorCode::Throttling
            {
                let said = failure.error.message.unwrap();
                assert!(said.starts_with("You have exceeded the rate"), "{said}");
                refused += 1;
            }
        }
        refused
    };
    let refused = ask(CallerRole::User, "user/eve", 50);
    assert!((40..=45).contains(&refused), "{refused}");
    assert_eq!(ask(CallerRole::User, "user/bob", 4), 0);
    assert_eq!(ask(CallerRole::Root, "root", 50), 0);
    engine.shutdown().unwrap();
    drop(engine);
    let records = records(&host.store());
    let told: Vec<_> = records
        .iter()
        .filter(|record| record.operation == "RequestsThrottled")
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].details["requests"], refused);
    assert_eq!(
        told[0].details["principal"],
        "arn:aws:iam::000000000000:user/eve"
    );
    let listed = records
        .iter()
        .filter(|record| record.operation == "ListKeys")
        .count();
    assert_eq!(listed, 50 - refused + 4 + 50);
}
