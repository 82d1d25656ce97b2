//! Properties of the index and of child grants, against the plain reading of the rules.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::clock::Elapsed;
use crate::ids::Scope;
use crate::rows::{Bytes, Change, FORMAT, MetaRow, Row, Table, grant_id};

const OPERATIONS: &[GrantOperation] = &[
    GrantOperation::Encrypt,
    GrantOperation::Decrypt,
    GrantOperation::DescribeKey,
    GrantOperation::CreateGrant,
    GrantOperation::RetireGrant,
];
const ALICE: &str = "arn:aws:iam::000000000000:user/alice";
const BOB: &str = "arn:aws:iam::000000000000:user/bob";
const SOURCES: [&str; 2] = [
    "arn:aws:kmsd:local-host-1:000000000000:volume/one",
    "arn:aws:kmsd:local-host-1:000000000000:volume/two",
];
const NOW: Now = Now {
    wall_ms: 1_000,
    elapsed_ms: 1_000,
};

fn key(number: u8) -> KeyId {
    KeyId::from_random([number; 16], false)
}

fn context() -> impl Strategy<Value = Context> {
    btree_map(
        select(vec!["a", "A", "b"]).prop_map(str::to_owned),
        select(vec!["1", "2"]).prop_map(str::to_owned),
        0..3,
    )
}

fn source() -> impl Strategy<Value = Option<String>> {
    option::of(select(SOURCES.to_vec()).prop_map(str::to_owned))
}

prop_compose! {
    fn grant()(
        number in 0_u8..12,
        on in 0_u8..2,
        grantee in select(vec![ALICE, BOB]),
        retiring in option::of(select(vec![ALICE, BOB])),
        operations in subsequence(OPERATIONS.to_vec(), 1..=OPERATIONS.len()),
        context_equals in option::weighted(0.3, context()),
        context_subset in option::weighted(0.4, context()),
        source_arn in source(),
        name in option::of(select(vec!["x", "y"])),
        ends in option::of((500_i64..1_500, 500_u64..1_500)),
    ) -> GrantRow {
        GrantRow {
            key: key(on),
            id: format!("{number:064x}"),
            name: name.map(str::to_owned),
            grantee: grantee.to_owned(),
            retiring: retiring.map(str::to_owned),
            operations: operations.iter().map(|o| o.as_str().to_owned()).collect(),
            context_equals,
            context_subset,
            source_arn,
            created_ms: 0,
            issuer: "arn:aws:iam::000000000000:root".into(),
            parent: None,
            ends: ends.map(|(wall_ms, elapsed_ms)| Due { wall_ms, elapsed_ms }),
            token_key: Bytes::default(),
        }
    }
}

fn snapshot() -> Snapshot {
    let meta = MetaRow {
        format: FORMAT,
        store_id: String::new(),
        scope: Scope::new("000000000000", "local-host-1").unwrap(),
        created_ms: 0,
        revision: 0,
        generation: 0,
        unanchored: 0,
        deletion_epoch: 0,
        domain: 0,
        epoch_change: None,
        recovery_public: Bytes::default(),
        elapsed: Elapsed::default(),
        authorization_epoch: 0,
        audit_head: None,
        revoked: Vec::new(),
        epoch_owed: false,
    };
    Snapshot::new(meta, Vec::new())
}

/// Puts and removes; what is left as a plain map.
fn history(steps: &[(bool, GrantRow)]) -> (Snapshot, BTreeMap<(KeyId, String), GrantRow>) {
    let mut snapshot = snapshot();
    let mut left = BTreeMap::new();
    for (put, row) in steps {
        if *put {
            snapshot.apply(&Change::Put(Row::Grant(Box::new(row.clone()))));
            left.insert((row.key, row.id.clone()), row.clone());
        } else {
            snapshot.apply(&Change::Remove(Table::Grant, grant_id(row.key, &row.id)));
            left.remove(&(row.key, row.id.clone()));
        }
    }
    (snapshot, left)
}

/// The rules word for word, without the code under test.
fn naive(row: &GrantRow, operation: &str, context: &Context, source: Option<&str>) -> bool {
    if !row.operations.iter().any(|o| o == operation) {
        return false;
    }
    if let Some(ends) = row.ends
        && (ends.wall_ms <= NOW.wall_ms || ends.elapsed_ms <= NOW.elapsed_ms)
    {
        return false;
    }
    if operation != "DescribeKey" && operation != "RetireGrant" {
        if let Some(all) = &row.context_equals {
            let same = all.len() == context.len()
                && all
                    .iter()
                    .all(|(k, v)| context.get_key_value(k) == Some((k, v)));
            if !same {
                return false;
            }
        }
        for (name, value) in row.context_subset.clone().unwrap_or_default() {
            if !context.iter().any(|(n, v)| *n == name && *v == value) {
                return false;
            }
        }
    }
    match &row.source_arn {
        Some(wanted) if operation != "RetireGrant" => source == Some(wanted.as_str()),
        _ => true,
    }
}

fn steps() -> impl Strategy<Value = Vec<(bool, GrantRow)>> {
    vec((prop::bool::weighted(0.75), grant()), 0..30)
}

fn child_of(row: &GrantRow) -> (Vec<GrantOperation>, GrantRow) {
    let operations = row
        .operations
        .iter()
        .filter_map(|name| GrantOperation::from_wire(name))
        .collect();
    (operations, row.clone())
}

fn covered(parent: &GrantRow, child: &GrantRow) -> bool {
    let (operations, row) = child_of(child);
    covers(
        parent,
        &Child {
            operations: &operations,
            context_equals: row.context_equals.as_ref(),
            context_subset: row.context_subset.as_ref(),
            source_arn: row.source_arn.as_deref(),
        },
    )
}

/// An offer that takes some of its members from the parent, so that chains get long.
fn resembling(parent: &GrantRow, mut offer: GrantRow, like: [bool; 4]) -> GrantRow {
    let [operations, equals, subset, source] = like;
    if operations {
        offer.operations.clone_from(&parent.operations);
    }
    if equals {
        offer.context_equals.clone_from(&parent.context_equals);
    }
    if subset {
        offer.context_subset.clone_from(&parent.context_subset);
    }
    if source {
        offer.source_arn.clone_from(&parent.source_arn);
    }
    offer
}

#[test]
fn chains_of_the_property_below_get_long() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut longest = 0;
    for _ in 0..50 {
        let mut next = || {
            let tree = (grant(), any::<[bool; 4]>()).new_tree(&mut runner).unwrap();
            proptest::strategy::ValueTree::current(&tree)
        };
        let mut last = next().0;
        let mut length = 1;
        for _ in 0..40 {
            let (offer, like) = next();
            let child = resembling(&last, offer, like);
            if covered(&last, &child) {
                last = child;
                length += 1;
            }
        }
        longest = longest.max(length);
    }
    assert!(longest >= 5, "{longest}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_index_finds_what_a_scan_finds(
        steps in steps(),
        asked in vec((0_u8..2, select(vec![ALICE, BOB]), select(OPERATIONS.to_vec()), context(), source()), 8),
    ) {
        let (snapshot, left) = history(&steps);
        for (on, who, operation, context, source) in asked {
            let source = source.as_deref();
            let found = find(&snapshot, key(on), &[who.into()], operation, &context, source, NOW);
            if let Some(row) = found {
                prop_assert_eq!(&row.grantee, who);
                prop_assert_eq!(row.key, key(on));
                prop_assert!(naive(row, operation.as_str(), &context, source));
            }
            let exists = operation != GrantOperation::CreateGrant && left.values().any(|row| {
                row.key == key(on)
                    && row.grantee == who
                    && naive(row, operation.as_str(), &context, source)
            });
            prop_assert_eq!(found.is_some(), exists);
        }
    }

    #[test]
    fn lists_hold_what_is_left(steps in steps()) {
        let (snapshot, left) = history(&steps);
        let grants = snapshot.grants();
        let all: Vec<_> = grants.iter().map(|row| GrantRow::clone(row)).collect();
        prop_assert_eq!(&all, &left.values().cloned().collect::<Vec<_>>());
        for number in 0..2 {
            let of_key: Vec<_> = left.values().filter(|row| row.key == key(number)).collect();
            prop_assert_eq!(grants.count(key(number)), of_key.len());
            let mut from = None;
            let mut walked = 0;
            while let Some(row) = grants.of_key(key(number), from.as_deref()).next() {
                prop_assert_eq!(&**row, of_key[walked]);
                from = Some(row.id.clone());
                walked += 1;
            }
            prop_assert_eq!(walked, of_key.len());
            for name in ["x", "y"] {
                let mut named: Vec<_> = grants.named(key(number), name).map(|row| &row.id).collect();
                named.sort();
                let wanted: Vec<_> = of_key
                    .iter()
                    .filter(|row| row.name.as_deref() == Some(name))
                    .map(|row| &row.id)
                    .collect();
                prop_assert_eq!(named, wanted);
            }
        }
        for who in [ALICE, BOB] {
            let wanted: Vec<_> = left.values().filter(|row| row.retiring.as_deref() == Some(who)).collect();
            let listed: Vec<_> = grants.retirable(who, None).map(AsRef::as_ref).collect();
            prop_assert_eq!(&listed, &wanted);
            if let Some(first) = wanted.first() {
                let rest: Vec<_> = grants
                    .retirable(who, Some((first.key, first.id.clone())))
                    .map(AsRef::as_ref)
                    .collect();
                prop_assert_eq!(&rest[..], &wanted[1..]);
            }
        }
        let over: Vec<_> = left
            .values()
            .filter(|row| row.ends.is_some_and(|e| e.wall_ms <= NOW.wall_ms || e.elapsed_ms <= NOW.elapsed_ms))
            .cloned()
            .collect();
        let ended: Vec<_> = grants.ended(NOW).iter().map(|row| GrantRow::clone(row)).collect();
        prop_assert_eq!(ended, over);
    }

    /// Whatever chain of grants one begins with: what the last allows, every one before it allows.
    #[test]
    fn a_child_never_exceeds_its_parents(
        parent in grant(),
        offers in vec((grant(), any::<[bool; 4]>()), 1..40),
        asked in vec((select(OPERATIONS.to_vec()), context(), source()), 20),
    ) {
        let mut chain = vec![parent];
        for (offer, like_parent) in offers {
            let last = chain.last().unwrap();
            let mut child = resembling(last, offer, like_parent);
            if covered(last, &child) {
                child.ends = cover::earlier(child.ends, last.ends);
                chain.push(child);
            }
        }
        let last = chain.last().unwrap();
        for (operation, context, source) in asked {
            if naive(last, operation.as_str(), &context, source.as_deref()) {
                for row in &chain {
                    prop_assert!(allows(row, operation, &context, source.as_deref(), NOW));
                }
            }
        }
    }

    #[test]
    fn parents_are_found_by_the_index_too(steps in steps(), child in grant(), who in select(vec![ALICE, BOB])) {
        let (snapshot, left) = history(&steps);
        let (operations, _) = child_of(&child);
        let wanted = Child {
            operations: &operations,
            context_equals: child.context_equals.as_ref(),
            context_subset: child.context_subset.as_ref(),
            source_arn: child.source_arn.as_deref(),
        };
        let found = find_parent(&snapshot, child.key, &[who.into()], &wanted, NOW);
        let possible: Vec<_> = left
            .values()
            .filter(|row| row.key == child.key && row.grantee == who)
            .filter(|row| covered(row, &child) && !ended(row, NOW))
            .collect();
        prop_assert_eq!(found.is_some(), !possible.is_empty());
        if let Some(found) = found {
            let lasts = |row: &GrantRow| row.ends.map_or(i64::MAX, |ends| ends.wall_ms);
            prop_assert!(possible.iter().all(|row| lasts(row) <= lasts(found)));
        }
    }
}

#[test]
fn a_pair_that_all_share_does_not_bring_all_up() {
    let mut snapshot = snapshot();
    let context = |tenant: usize| -> Context {
        [
            ("app".to_owned(), "payroll".to_owned()),
            ("tenant".to_owned(), tenant.to_string()),
        ]
        .into()
    };
    for number in 0..1_000 {
        let row = GrantRow {
            key: key(1),
            id: format!("{number:064x}"),
            name: None,
            grantee: ALICE.into(),
            retiring: None,
            operations: vec!["Decrypt".into()],
            context_equals: None,
            context_subset: Some(context(number)),
            source_arn: None,
            created_ms: 0,
            issuer: String::new(),
            parent: None,
            ends: None,
            token_key: Bytes::default(),
        };
        snapshot.apply(&Change::Put(Row::Grant(Box::new(row))));
    }
    let asked = context(700);
    let looked_at = snapshot
        .grants
        .candidates(key(1), ALICE, GrantOperation::Decrypt, &[&asked], None)
        .count();
    assert!(looked_at < 10, "{looked_at}");
    let found = find(
        &snapshot,
        key(1),
        &[ALICE.into()],
        GrantOperation::Decrypt,
        &asked,
        None,
        NOW,
    );
    assert_eq!(found.unwrap().id, format!("{:064x}", 700));
}
