//! The whole decision on random documents, callers and grants: against a second one, written from its description in
//! docs/POLICIES.md and as plain as possible, and for what must hold whatever the documents say.

use kms_api::{CallerRole, ProcessFacts};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::authz::Verdict;

const ALICE: &str = "arn:aws:iam::000000000000:user/alice";
const BOB: &str = "arn:aws:iam::000000000000:user/bob";
const ROOT: &str = "arn:aws:iam::000000000000:root";
const UNIT: &str = "arn:aws:iam::000000000000:role/unit/web.service";
const OPERATIONS: [&str; 2] = ["Encrypt", "Decrypt"];

/// Documents by where they are.
#[derive(Clone, Debug)]
struct Documents {
    guard_rails: Vec<Vec<Value>>,
    key: Vec<Value>,
    /// For the user alice, the group hr, the unit web.service.
    identities: [Vec<Value>; 3],
    /// Grantee, operations, the value of `a` in the encryption context that must be there.
    grants: Vec<(&'static str, Vec<&'static str>, Option<&'static str>)>,
}

#[derive(Clone, Debug)]
struct Asking {
    role: CallerRole,
    in_hr: bool,
    in_unit: bool,
    operation: &'static str,
    context: Option<&'static str>,
}

fn statement(principal: bool) -> impl Strategy<Value = Value> {
    let effect = prop_oneof![3 => Just("Allow"), 1 => Just("Deny")];
    let action = select(vec!["kms:Decrypt", "kms:Encrypt", "kms:*", "kms:Disable*"]);
    let whom = select(vec![ALICE, BOB, ROOT, ROOT, UNIT, "*"]);
    let context = proptest::option::weighted(0.3, select(vec!["1", "2"]));
    (effect, action, whom, context).prop_map(move |(effect, action, whom, context)| {
        let mut statement = json!({"Effect": effect, "Action": action, "Resource": "*"});
        if principal {
            statement["Principal"] = json!({"AWS": whom});
        }
        if let Some(value) = context {
            statement["Condition"] = json!({"StringEquals": {"kms:EncryptionContext:a": value}});
        }
        statement
    })
}

fn documents() -> impl Strategy<Value = Documents> {
    let some = |principal| proptest::collection::vec(statement(principal), 0..3);
    let grant = (
        select(vec![ALICE, BOB, ROOT]),
        subsequence(OPERATIONS.to_vec(), 1..=2),
        proptest::option::of(select(vec!["1", "2"])),
    );
    (
        proptest::collection::vec(proptest::collection::vec(statement(false), 1..3), 0..2),
        proptest::collection::vec(statement(true), 1..4),
        [some(false), some(false), some(false)],
        proptest::collection::vec(grant, 0..2),
    )
        .prop_map(|(guard_rails, key, identities, grants)| Documents {
            guard_rails,
            key,
            identities,
            grants,
        })
}

fn asking() -> impl Strategy<Value = Asking> {
    let role = prop_oneof![
        4 => Just(CallerRole::User),
        1 => Just(CallerRole::Root),
        1 => Just(CallerRole::Admin),
    ];
    let context = proptest::option::of(select(vec!["1", "2"]));
    (
        role,
        any::<bool>(),
        any::<bool>(),
        select(OPERATIONS.to_vec()),
        context,
    )
        .prop_map(|(role, in_hr, in_unit, operation, context)| Asking {
            role,
            in_hr,
            in_unit,
            operation,
            context,
        })
}

fn document(statements: &[Value]) -> String {
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

impl Asking {
    fn principals(&self) -> Vec<&'static str> {
        let user = if self.role == CallerRole::Root {
            ROOT
        } else {
            ALICE
        };
        let unit = self.in_unit.then_some(UNIT);
        std::iter::once(user).chain(unit).collect()
    }

    fn caller(&self) -> Caller {
        let principals = self.principals();
        let mut caller = Caller::new(self.role, 1000, principals[0]);
        if self.role == CallerRole::Root {
            caller.user_name = "root".into();
        }
        caller.principals = principals.into_iter().map(Arc::from).collect();
        if self.in_hr {
            caller.group_names = Arc::new([Arc::from("hr")]);
        }
        caller.process = Some(Arc::new(ProcessFacts {
            unit: self.in_unit.then(|| "web.service".to_owned()),
            checked: true,
            ..ProcessFacts::default()
        }));
        caller
    }

    /// Whether a statement is about the request, principals aside.
    fn applies(&self, statement: &Value) -> bool {
        let action = statement["Action"].as_str().unwrap();
        let named = action == "kms:*" || action == format!("kms:{}", self.operation);
        let wanted = statement["Condition"]["StringEquals"]["kms:EncryptionContext:a"].as_str();
        named && wanted.is_none_or(|value| self.context == Some(value))
    }

    /// The decision as docs/POLICIES.md has it.
    fn naive(&self, documents: &Documents) -> bool {
        let effect = |statement: &Value| statement["Effect"].as_str().unwrap() == "Allow";
        let allows = |statement: &&Value| effect(statement) && self.applies(statement);
        let denies = |statement: &&Value| !effect(statement) && self.applies(statement);
        let principals = self.principals();
        let named = |statement: &Value| {
            let whom = statement["Principal"]["AWS"].as_str().unwrap();
            whom == "*" || principals.contains(&whom)
        };
        let account = |statement: &Value| statement["Principal"]["AWS"] == ROOT;
        let has = [self.role != CallerRole::Root, self.in_hr, self.in_unit];
        let mine = || {
            let policies = documents.identities.iter().zip(has);
            policies
                .filter(|(_, has)| *has)
                .flat_map(|(policy, _)| policy)
        };
        // 2. A Deny anywhere.
        let rails = || documents.guard_rails.iter();
        let by_key = documents.key.iter().filter(|s| named(s) || account(s));
        if rails()
            .flatten()
            .chain(by_key)
            .chain(mine())
            .any(|s| denies(&s))
        {
            return false;
        }
        // 3. A guard rail that has an Allow.
        let shut = |rail: &Vec<Value>| rail.iter().any(effect) && !rail.iter().any(|s| allows(&s));
        if rails().any(shut) {
            return false;
        }
        // 4. to 6.
        let by_name = documents.key.iter().any(|s| allows(&s) && named(s));
        let delegated = documents.key.iter().any(|s| allows(&s) && account(s));
        let by_identity = self.role == CallerRole::Admin || mine().any(|s| allows(&s));
        let by_grant = documents.grants.iter().any(|(grantee, operations, value)| {
            principals.contains(grantee)
                && operations.contains(&self.operation)
                && value.is_none_or(|value| self.context == Some(value))
        });
        by_name || (delegated && by_identity) || by_grant
    }
}

/// What kmsd decides.
fn decided(documents: &Documents, asking: &Asking) -> bool {
    let mut bench = Bench::new();
    let key = bench.create_key();
    for (name, statements) in documents.guard_rails.iter().enumerate() {
        let body = json!({"GuardRailName": name.to_string(), "Document": document(statements)});
        bench.call("PutGuardRail", body).unwrap();
    }
    let identities = [("USER", "alice"), ("GROUP", "hr"), ("UNIT", "web.service")];
    for ((kind, identity), statements) in identities.into_iter().zip(&documents.identities) {
        if !statements.is_empty() {
            let body = json!({"IdentityType": kind, "Identity": identity, "PolicyName": "p",
                "Document": document(statements)});
            bench.call("PutIdentityPolicy", body).unwrap();
        }
    }
    for (grantee, operations, value) in &documents.grants {
        let mut body = json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": operations});
        if let Some(value) = value {
            body["Constraints"] = json!({"EncryptionContextSubset": {"a": value}});
        }
        bench.call("CreateGrant", body).unwrap();
    }
    let context = match asking.context {
        Some(value) => json!({"a": value, "b": "x"}),
        None => json!({}),
    };
    let blob = bench.encrypt(&key, b"x", context.clone());
    let body = json!({"KeyId": key, "Policy": document(&documents.key),
        "BypassPolicyLockoutSafetyCheck": true});
    bench.call("PutKeyPolicy", body).unwrap();
    let body = json!({"KeyId": key, "Plaintext": "eA==", "CiphertextBlob": blob, "EncryptionContext": context});
    let request = Bench::decode(asking.operation, &body);
    let verdict =
        bench.world_call(|kms, world| kms.handle(&request, &asking.caller(), world).verdict);
    matches!(verdict, Verdict::Allowed(_))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_decision_is_what_its_description_says(documents in documents(), asking in asking()) {
        prop_assert_eq!(decided(&documents, &asking), asking.naive(&documents));
    }

    #[test]
    fn an_allow_more_takes_nothing_away(
        documents in documents(),
        asking in asking(),
        to_key in statement(true),
        to_identity in statement(false),
        place in 0_usize..5,
    ) {
        let before = decided(&documents, &asking);
        let mut more = documents;
        let mut to_key = to_key;
        let mut to_identity = to_identity;
        to_key["Effect"] = json!("Allow");
        to_identity["Effect"] = json!("Allow");
        match place {
            3 => more.key.push(to_key),
            4 => more.grants.push((ALICE, OPERATIONS.to_vec(), None)),
            identity => more.identities[identity].push(to_identity),
        }
        prop_assert!(!before || decided(&more, &asking), "{:?}", more);
    }

    #[test]
    fn nothing_overrides_a_deny(documents in documents(), asking in asking(), place in 0_usize..3) {
        let mut denied = documents;
        let deny = json!({"Effect": "Deny", "Action": "kms:*", "Resource": "*"});
        match place {
            0 => denied.guard_rails.push(vec![deny]),
            1 => {
                let mut deny = deny;
                deny["Principal"] = json!("*");
                denied.key.push(deny);
            }
            // The user alice has it; root is nobody's user.
            _ if asking.role == CallerRole::Root => denied.guard_rails.push(vec![deny]),
            _ => denied.identities[0].push(deny),
        }
        prop_assert!(!decided(&denied, &asking));
    }
}
