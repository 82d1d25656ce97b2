//! The compiled evaluator against the naive one.

use kms_core::policy::PolicyKind;
use proptest::prelude::*;

use crate::request::parse;
use crate::{naive, random};

/// Requests for each random policy.
const REQUESTS: usize = 8;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn key_policies_mean_the_same_to_both_evaluators(
        document in random::policy(true),
        requests in proptest::collection::vec(random::request(), REQUESTS),
    ) {
        let policy = parse(&document, PolicyKind::Key);
        for request in requests {
            let expected = naive::decide(&document, &request);
            prop_assert_eq!(request.ask(&policy), expected, "{:#} for {:#?}", document, request);
        }
    }

    #[test]
    fn identity_policies_mean_the_same_to_both_evaluators(
        document in random::policy(false),
        requests in proptest::collection::vec(random::request(), REQUESTS),
    ) {
        let policy = parse(&document, PolicyKind::Identity);
        for request in requests {
            let expected = naive::decide(&document, &request);
            prop_assert_eq!(request.ask(&policy), expected, "{:#} for {:#?}", document, request);
        }
    }
}
