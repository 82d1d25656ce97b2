use super::*;
use crate::clock::Elapsed;
use crate::rows::*;

const KEY: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";
const OTHER: &str = "0987dcba-09fe-87dc-65ba-ab0987654321";

fn id(text: &str) -> KeyId {
    text.parse().unwrap()
}

fn key(text: &str, state: State) -> KeyRow {
    KeyRow {
        id: id(text),
        created_ms: 0,
        state,
        description: String::new(),
        origin: Origin::AwsKms,
        spec: kms_api::KeySpec::SymmetricDefault,
        usage: kms_api::KeyUsage::EncryptDecrypt,
        policy: "{}".into(),
        tags: vec![],
        current: None,
        rotation: None,
        on_demand_rotations: 0,
        multi_region: None,
        manager: crate::rows::Manager::Customer,
        deletion: None,
        pending: None,
        absent: Vec::new(),
        discarded: Vec::new(),
        import_token: None,
        destroyed_ms: None,
    }
}

fn grant(text: &str) -> GrantRow {
    GrantRow {
        key: id(text),
        id: "g".into(),
        name: None,
        grantee: "arn:aws:iam::000000000000:user/a".into(),
        retiring: None,
        operations: vec!["Decrypt".into()],
        context_equals: None,
        context_subset: None,
        source_arn: None,
        created_ms: 0,
        issuer: String::new(),
        parent: None,
        ends: None,
        token_key: Bytes(vec![]),
    }
}

fn put(row: Row) -> Change {
    Change::Put(row)
}

fn put_key(row: KeyRow) -> Change {
    put(Row::Key(Box::new(row)))
}

fn store(rows: Vec<Row>) -> Snapshot {
    let meta = MetaRow {
        format: FORMAT,
        store_id: String::new(),
        scope: crate::ids::Scope::new("000000000000", "local-host-1").unwrap(),
        created_ms: 0,
        revision: 1,
        generation: 1,
        unanchored: 0,
        deletion_epoch: 0,
        domain: 1,
        epoch_change: None,
        recovery_public: Bytes(vec![]),
        elapsed: Elapsed::default(),
        authorization_epoch: 0,
        audit_head: None,
        revoked: Vec::new(),
        epoch_owed: false,
    };
    let mut snapshot = Snapshot::new(meta, vec![]);
    rows.into_iter()
        .for_each(|row| snapshot.apply(&Change::Put(row)));
    snapshot
}

fn tightens(keys: &[&str]) -> Relevance {
    Relevance::Tightening(Reach::Keys(keys.iter().map(|text| id(text)).collect()))
}

fn loosens(text: &str) -> Relevance {
    Relevance::Loosening(Reach::key(id(text)))
}

#[test]
fn a_key_concerns_somebody_when_its_state_policy_or_tags_change() {
    let before = store(vec![Row::Key(Box::new(key(KEY, State::Enabled)))]);
    let one = |row: KeyRow| relevant(&before, &[put_key(row)]);
    let same = key(KEY, State::Enabled);
    assert_eq!(one(same.clone()), Relevance::None);
    assert_eq!(
        one(KeyRow {
            description: "x".into(),
            on_demand_rotations: 1,
            ..same.clone()
        }),
        Relevance::None
    );
    assert_eq!(one(key(OTHER, State::Enabled)), Relevance::None);
    assert_eq!(one(key(KEY, State::Disabled)), tightens(&[KEY]));
    assert_eq!(one(key(KEY, State::PendingDeletion)), tightens(&[KEY]));
    assert_eq!(one(key(KEY, State::Destroyed)), tightens(&[KEY]));
    assert_eq!(
        one(KeyRow {
            policy: "{ }".into(),
            ..same.clone()
        }),
        tightens(&[KEY])
    );
    assert_eq!(
        one(KeyRow {
            tags: vec![("a".into(), "b".into())],
            ..same
        }),
        tightens(&[KEY])
    );
}

#[test]
fn enabling_and_granting_loosen_unless_the_policy_changes_too() {
    let before = store(vec![Row::Key(Box::new(key(KEY, State::Disabled)))]);
    let enabled = key(KEY, State::Enabled);
    assert_eq!(relevant(&before, &[put_key(enabled.clone())]), loosens(KEY));
    let other = KeyRow {
        policy: "{ }".into(),
        ..enabled
    };
    assert_eq!(relevant(&before, &[put_key(other)]), tightens(&[KEY]));
    let waiting = store(vec![Row::Key(Box::new(key(KEY, State::PendingDeletion)))]);
    let cancelled = [put_key(key(KEY, State::Disabled))];
    assert_eq!(relevant(&waiting, &cancelled), loosens(KEY));
    let made = [put(Row::Grant(Box::new(grant(KEY))))];
    assert_eq!(relevant(&before, &made), loosens(KEY));
}

#[test]
fn what_goes_tightens() {
    let alias = AliasRow {
        name: "alias/x".into(),
        key: id(KEY),
        created_ms: 0,
        updated_ms: 0,
    };
    let before = store(vec![
        Row::Alias(alias.clone()),
        Row::Grant(Box::new(grant(KEY))),
    ]);
    let gone = |table, row: &str| relevant(&before, &[Change::Remove(table, row.into())]);
    assert_eq!(
        gone(Table::Grant, &grant_id(id(KEY), "g")),
        tightens(&[KEY])
    );
    assert_eq!(gone(Table::Alias, "alias/x"), tightens(&[KEY]));
    assert_eq!(gone(Table::Alias, "alias/y"), Relevance::None);
    let all = Relevance::Tightening(Reach::All);
    assert_eq!(gone(Table::GuardRail, "r"), all);
    assert_eq!(gone(Table::IdentityPolicy, "user/a/p"), all);
    assert_eq!(gone(Table::Lease, "l"), Relevance::None);
    let moved = AliasRow {
        key: id(OTHER),
        ..alias
    };
    assert_eq!(
        relevant(&before, &[put(Row::Alias(moved))]),
        tightens(&[KEY, OTHER])
    );
    let narrower = GrantRow {
        operations: vec![],
        ..grant(KEY)
    };
    let replaced = [put(Row::Grant(Box::new(narrower)))];
    assert_eq!(relevant(&before, &replaced), tightens(&[KEY]));
}

#[test]
fn a_secret_under_another_wrap_is_the_same_tree() {
    let wrapped = |domain| Wrapped {
        domain,
        blob: Bytes(vec![]),
    };
    let row = |generation, domain| PolicyRow {
        volume: "v".into(),
        id: "p".into(),
        key: id(KEY),
        mode: Mode::Xts,
        generation,
        created_ms: 0,
        secret: Some(wrapped(domain)),
        label: String::new(),
        settings: PolicySettings::default(),
        older: Vec::new(),
        rotated_ms: None,
        destroyed_ms: None,
    };
    let old = |generation, domain| OldGeneration {
        generation,
        key: id(KEY),
        mode: Mode::Xts,
        secret: wrapped(domain),
        created_ms: 0,
    };
    let before = store(vec![Row::Policy(row(1, 1))]);
    let one = |row| relevant(&before, &[put(Row::Policy(row))]);
    assert_eq!(one(row(1, 2)), Relevance::None);
    // The former generation is gone.
    assert_eq!(one(row(2, 1)), tightens(&[KEY]));
    let shredded = PolicyRow {
        secret: None,
        ..row(1, 1)
    };
    assert_eq!(one(shredded), tightens(&[KEY]));
    // It is kept: nobody loses anything, unless the tree moves to another key.
    let rotated = PolicyRow {
        older: vec![old(1, 1)],
        ..row(2, 1)
    };
    assert_eq!(
        one(rotated.clone()),
        Relevance::Loosening(Reach::key(id(KEY)))
    );
    let moved = PolicyRow {
        key: id(OTHER),
        ..rotated.clone()
    };
    assert_eq!(one(moved), tightens(&[KEY, OTHER]));
    let set = PolicyRow {
        settings: PolicySettings {
            revoke: Revoke::Kill,
            ..PolicySettings::default()
        },
        ..row(1, 1)
    };
    assert_eq!(one(set), tightens(&[KEY]));

    let before = store(vec![Row::Policy(rotated)]);
    let one = |row| relevant(&before, &[put(Row::Policy(row))]);
    let wrapped_anew = PolicyRow {
        older: vec![old(1, 2)],
        ..row(2, 2)
    };
    assert_eq!(one(wrapped_anew), Relevance::None);
    assert_eq!(one(row(2, 1)), tightens(&[KEY]), "an older one was ended");
}

#[test]
fn a_transaction_is_as_tight_as_its_tightest_change() {
    let before = store(vec![
        Row::Key(Box::new(key(KEY, State::Disabled))),
        Row::Key(Box::new(key(OTHER, State::Enabled))),
    ]);
    let both = [
        put_key(key(KEY, State::Enabled)),
        put_key(key(OTHER, State::Disabled)),
    ];
    assert_eq!(relevant(&before, &both), tightens(&[KEY, OTHER]));
    let with_all = [
        put_key(key(KEY, State::Enabled)),
        Change::Remove(Table::GuardRail, "r".into()),
    ];
    assert_eq!(
        relevant(&before, &with_all),
        Relevance::Tightening(Reach::All)
    );
}
