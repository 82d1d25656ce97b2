//! How long one decision takes on a key with 10,000 grants: `cargo bench -p kms-core --bench grants`.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark may stop by panicking"
)]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use kms_api::{Caller, CallerRole, ErrorCode, GrantOperation, MemoryInfo, Request, SealerInfo};
use kms_core::authz::{Basis, Verdict};
use kms_core::clock::Elapsed;
use kms_core::grants;
use kms_core::kms::{HostStatus, Settings, World};
use kms_core::rows::{Bytes, FORMAT, GrantRow, MetaRow, Row};
use kms_core::{Change, DomainKeys, KeyId, Kms, Now, Outcome, Scope, Snapshot, SystemEntropy};
use serde_json::json;

const GRANTS: usize = 10_000;
const NOW: Now = Now {
    wall_ms: 1_700_000_000_000,
    elapsed_ms: 1_000,
};

/// To whom the grants are, and what tells them apart.
#[derive(Clone, Copy)]
enum Shape {
    /// One for each of 10,000 users.
    Users,
    /// All for one user, each for a tenant (EncryptionContextSubset), with a pair that all have.
    Tenants,
    /// The same with EncryptionContextEquals.
    Exact,
}

fn context(number: usize) -> BTreeMap<String, String> {
    [
        ("app".to_owned(), "payroll".to_owned()),
        ("tenant".to_owned(), number.to_string()),
    ]
    .into()
}

fn grant(key: KeyId, shape: Shape, number: usize) -> GrantRow {
    let user = match shape {
        Shape::Users => format!("arn:aws:iam::000000000000:user/user{number}"),
        Shape::Tenants | Shape::Exact => "arn:aws:iam::000000000000:user/user7000".to_owned(),
    };
    GrantRow {
        key,
        id: format!("{number:064x}"),
        name: None,
        grantee: user,
        retiring: None,
        operations: vec!["Encrypt".into(), "Decrypt".into(), "DescribeKey".into()],
        context_equals: matches!(shape, Shape::Exact).then(|| context(number)),
        context_subset: matches!(shape, Shape::Tenants).then(|| context(number)),
        source_arn: None,
        created_ms: NOW.wall_ms,
        issuer: "arn:aws:iam::000000000000:root".into(),
        parent: None,
        ends: None,
        token_key: Bytes::default(),
    }
}

/// A store with one key.
struct Store {
    kms: Kms,
    domain: DomainKeys,
    host: HostStatus,
    key: KeyId,
}

impl Store {
    fn new() -> Self {
        let meta = MetaRow {
            format: FORMAT,
            store_id: "0123456789abcdef0123456789abcdef".into(),
            scope: Scope::new("000000000000", "local-host-1").unwrap(),
            created_ms: NOW.wall_ms,
            revision: 1,
            generation: 1,
            unanchored: 0,
            deletion_epoch: 0,
            domain: 1,
            epoch_change: None,
            recovery_public: Bytes::default(),
            elapsed: Elapsed::default(),
            authorization_epoch: 0,
            audit_head: None,
            revoked: Default::default(),
            epoch_owed: false,
        };
        let mut domain = DomainKeys::new(&meta);
        domain.draw(1).unwrap();
        let mut store = Self {
            kms: Kms::new(Snapshot::new(meta, Vec::new())),
            domain,
            host: HostStatus {
                version: String::new(),
                started_ms: 0,
                sealer: SealerInfo {
                    kind: String::new(),
                    device: String::new(),
                    manufacturer: None,
                    warnings: vec![],
                },
                memory: MemoryInfo {
                    locked_bytes: 0,
                    unlocked_bytes: 0,
                },
                warnings: vec![],
                settings: Settings::default(),
            },
            key: KeyId::from_random([0; 16], false),
        };
        let request = Request::decode("TrentService.CreateKey", b"{}").unwrap();
        let Outcome::Write(made) = store.handle(&request, &Caller::internal("000000000000")).1
        else {
            panic!("a key is made by a transaction");
        };
        store.kms.apply(&made.changes);
        store.key = store.kms.snapshot().keys().next().unwrap().id;
        store
    }

    fn world(&self) -> World<'_> {
        World {
            now: NOW,
            entropy: &SystemEntropy,
            domain: &self.domain,
            host: &self.host,
            made: None,
        }
    }

    fn handle(&self, request: &Request, caller: &Caller) -> (Verdict, Outcome) {
        let handled = self.kms.handle(request, caller, &self.world());
        (handled.verdict, handled.outcome.ok().unwrap())
    }
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("10,000 grants on a key");
    for (name, shape) in [
        ("one for each user", Shape::Users),
        ("one user, by Subset", Shape::Tenants),
        ("one user, by Equals", Shape::Exact),
    ] {
        let mut store = Store::new();
        let rows = (0..GRANTS).map(|number| {
            let row = grant(store.key, shape, number);
            Change::Put(Row::Grant(Box::new(row)))
        });
        let rows: Vec<Change> = rows.collect();
        store.kms.apply(&rows);
        let alice = "arn:aws:iam::000000000000:user/user7000";
        let caller = Caller::new(CallerRole::User, 7000, alice);
        let wanted = context(7_000);
        group.bench_function(format!("{name}: find"), |bencher| {
            bencher.iter(|| {
                grants::find(
                    store.kms.snapshot(),
                    store.key,
                    black_box(&caller.principals),
                    GrantOperation::Encrypt,
                    black_box(&wanted),
                    None,
                    NOW,
                )
                .unwrap()
            });
        });
        // A dry run does everything but the encryption: lookup, key policy, identity policies, grants, state.
        let body = json!({"KeyId": store.key.to_string(), "Plaintext": "eA==", "EncryptionContext": wanted,
            "DryRun": true});
        let request = Request::decode("TrentService.Encrypt", body.to_string().as_bytes()).unwrap();
        let world = store.world();
        let handled = store.kms.handle(&request, &caller, &world);
        let by = Basis::Grant {
            id: format!("{:064x}", 7_000),
        };
        assert_eq!(handled.verdict, Verdict::Allowed(by));
        assert_eq!(
            handled.outcome.err().map(|error| error.code),
            Some(ErrorCode::DryRunOperation)
        );
        group.bench_function(format!("{name}: decide"), |bencher| {
            bencher.iter(|| store.kms.handle(black_box(&request), &caller, &world));
        });
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
