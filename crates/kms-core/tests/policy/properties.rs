//! What must hold for every policy and every request.

use kms_core::policy::{Policy, PolicyKind};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::random;
use crate::request::{Fact, Verdict, parse};

/// The document with one more statement at place `at`.
fn with(document: &Json, statement: &Json, at: usize) -> Json {
    let mut document = document.clone();
    let statements = document["Statement"].as_array_mut().unwrap();
    statements.insert(at % (statements.len() + 1), statement.clone());
    document
}

/// The document in the version that has variables.
fn current(mut document: Json) -> Json {
    document["Version"] = json!("2012-10-17");
    document
}

fn with_effect(statement: &Json, effect: &str) -> Json {
    let mut statement = statement.clone();
    statement["Effect"] = json!(effect);
    statement
}

/// The document with its statements of the other effect left out; none when nothing is left.
fn only(document: &Json, effect: &str) -> Option<Json> {
    let statements = document["Statement"].as_array()?.iter();
    let kept: Vec<_> = statements
        .filter(|s| s["Effect"] == effect)
        .cloned()
        .collect();
    (!kept.is_empty()).then(|| json!({"Version": document["Version"], "Statement": kept}))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_allowed_without_an_allow(
        document in random::policy(true),
        request in random::request(),
    ) {
        if let Some(denies) = only(&document, "Deny") {
            let verdict = request.ask(&parse(&denies, PolicyKind::Key));
            prop_assert!(verdict <= Verdict::NoMatch, "{:#} allows {:#?}", denies, request);
        }
    }

    #[test]
    fn one_more_allow_never_removes_access(
        document in random::policy(true),
        statement in random::statement(true),
        at in 0..8usize,
        request in random::request(),
    ) {
        let document = current(document);
        let more = with(&document, &with_effect(&statement, "Allow"), at);
        let before = request.ask(&parse(&document, PolicyKind::Key));
        let after = request.ask(&parse(&more, PolicyKind::Key));
        prop_assert!(after >= before, "{:#} took from {:#?}", more, request);
        prop_assert!(before != Verdict::Deny || after == Verdict::Deny);
    }

    #[test]
    fn a_deny_is_never_overridden(
        document in random::policy(true),
        statement in random::statement(true),
        at in 0..8usize,
        request in random::request(),
    ) {
        let document = current(document);
        let before = request.ask(&parse(&document, PolicyKind::Key));
        let alone = json!({"Version": document["Version"], "Statement": [statement]});
        let alone = request.ask(&parse(&alone, PolicyKind::Key));
        let after = request.ask(&parse(&with(&document, &statement, at), PolicyKind::Key));
        if before == Verdict::Deny || alone == Verdict::Deny {
            prop_assert_eq!(after, Verdict::Deny);
        } else {
            prop_assert_eq!(after, before.max(alone));
        }
    }

    #[test]
    fn what_is_unknown_never_gains_anything(
        document in random::policy(true),
        request in random::request(),
        (key, fact) in random::fact(),
    ) {
        let policy = parse(&document, PolicyKind::Key);
        let (mut known, mut unknown) = (request.clone(), request);
        match fact {
            Some(fact) => known.facts.insert(key.clone(), fact),
            None => known.facts.remove(&key),
        };
        unknown.facts.insert(key, Fact::Unknown);
        prop_assert!(unknown.ask(&policy) <= known.ask(&policy), "{:#} for {:#?}", document, known);
    }

    #[test]
    fn damaged_documents_are_refused_or_evaluated(
        document in random::policy(true),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>(), 0..3u8), 1..4),
        request in random::request(),
    ) {
        let mut text: Vec<char> = document.to_string().chars().collect();
        for (at, c, how) in edits {
            if text.is_empty() {
                break;
            }
            let at = at.index(text.len());
            match how {
                0 => text[at] = c,
                1 => text.insert(at, c),
                _ => drop(text.remove(at)),
            }
        }
        let text: String = text.into_iter().collect();
        for kind in [PolicyKind::Key, PolicyKind::Identity, PolicyKind::GuardRail] {
            match Policy::parse(&text, kind) {
                Ok(policy) => drop(request.ask(&policy)),
                Err(error) => prop_assert!(!error.path.is_empty() && !error.reason.is_empty()),
            }
        }
    }
}

/// A pattern that makes backtracking matchers take for ever.
#[test]
fn no_pattern_takes_exponential_time() {
    let pattern = format!("arn:{}b", "*a?".repeat(400));
    let document = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Action": "kms:*", "Resource": pattern,
    }]});
    let policy = parse(&document, PolicyKind::Identity);
    let request = crate::request::Request {
        principals: vec![],
        account: String::new(),
        action: "kms:Decrypt".to_owned(),
        resource: format!("arn:{}", "a".repeat(2000)),
        facts: Default::default(),
    };
    assert_eq!(request.ask(&policy), Verdict::NoMatch);
}
