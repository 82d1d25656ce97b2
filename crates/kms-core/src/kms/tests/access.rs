//! Who may do what: the order of the decision, and that nothing is reached without one.

use kms_api::{CallerRole, ErrorCode, ListApprovalsResponse, ProcessFacts, Via};

use super::*;
use crate::authz::{Basis, DenyBasis, Verdict};
use crate::clock::Due;
use crate::rows::ApprovalRow;

const ACCOUNT: &str = "000000000000";
const ROOT_ARN: &str = "arn:aws:iam::000000000000:root";

/// A caller of whom everything is known.
fn known(role: CallerRole, uid: u32, arn: &str) -> Caller {
    let mut caller = Caller::new(role, uid, arn);
    caller.process = Some(Arc::new(ProcessFacts {
        exe: Some("/usr/bin/python3".into()),
        checked: true,
        ..ProcessFacts::default()
    }));
    caller
}

pub(super) fn user(name: &str) -> Caller {
    let arn = format!("arn:aws:iam::{ACCOUNT}:user/{name}");
    known(CallerRole::User, 1000, &arn)
}

fn root() -> Caller {
    known(CallerRole::Root, 0, ROOT_ARN)
}

fn admin() -> Caller {
    Caller {
        role: CallerRole::Admin,
        ..user("ann")
    }
}

fn service() -> Caller {
    Caller {
        role: CallerRole::Service,
        ..user("kmsfs")
    }
}

fn in_unit(name: &str, unit: &str) -> Caller {
    let mut caller = user(name);
    let session = format!("arn:aws:sts::{ACCOUNT}:assumed-role/unit/{unit}");
    caller.principals = Arc::new([Arc::clone(&caller.arn), session.into()]);
    caller.process = Some(Arc::new(ProcessFacts {
        unit: Some(unit.into()),
        checked: true,
        ..ProcessFacts::default()
    }));
    caller
}

fn policy(statements: Value) -> String {
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

/// `effect` for `action` on everything.
fn statement(effect: &str, action: &str) -> Value {
    json!({"Effect": effect, "Action": action, "Resource": "*"})
}

fn statement_for(principal: &str, effect: &str, action: &str) -> Value {
    json!({"Effect": effect, "Principal": {"AWS": principal}, "Action": action, "Resource": "*"})
}

impl Bench {
    fn attach(&mut self, kind: &str, identity: &str, name: &str, statements: Value) {
        let body = json!({"IdentityType": kind, "Identity": identity, "PolicyName": name,
            "Document": policy(statements)});
        self.call("PutIdentityPolicy", body).unwrap();
    }

    fn guard(&mut self, name: &str, statements: Value) -> Value {
        let body = json!({"GuardRailName": name, "Document": policy(statements)});
        self.call("PutGuardRail", body).unwrap()
    }

    fn policy_of(&mut self, key: &str, statements: Value) {
        let body = json!({"KeyId": key, "Policy": policy(statements),
            "BypassPolicyLockoutSafetyCheck": true});
        self.call("PutKeyPolicy", body).unwrap();
    }

    fn verdict(&mut self, caller: &Caller, operation: &str, body: Value) -> Verdict {
        let request = Self::decode(operation, &body);
        self.world_call(|kms, world| kms.handle(&request, caller, world).verdict)
    }

    fn allowed(&mut self, caller: &Caller, operation: &str, body: Value) -> bool {
        matches!(self.verdict(caller, operation, body), Verdict::Allowed(_))
    }

    fn decrypts(&mut self, caller: &Caller, key: &str) -> bool {
        self.allowed(caller, "DescribeKey", json!({"KeyId": key}))
    }
}

/// Every member that any operation needs: what one does not know it ignores.
fn anything(key: &str, blob: &str) -> Value {
    let id = "00112233445566778899aabbccddeeff";
    json!({
        "KeyId": key, "AliasName": "alias/known", "TargetKeyId": key, "Plaintext": "aGVsbG8=",
        "CiphertextBlob": blob, "DestinationKeyId": key, "NumberOfBytes": 16, "VolumeId": id, "PolicyId": id,
        "ContentMode": "XTS", "Policy": policy(json!([statement_for("*", "Allow", "kms:*")])),
        "Document": policy(json!([statement("Allow", "kms:*")])), "Tags": [{"TagKey": "a", "TagValue": "b"}],
        "TagKeys": ["a"], "IdentityType": "USER", "Identity": "alice", "PolicyName": "default",
        "GuardRailName": "g", "Principal": "root", "Action": "kms:Decrypt",
        "GranteePrincipal": ROOT_ARN, "RetiringPrincipal": ROOT_ARN, "Operations": ["Decrypt"],
        "GrantId": "a".repeat(64), "ExpiresInSeconds": 60, "EventId": "e", "Label": "l", "LeaseId": id,
        "Epoch": 1, "TimeoutMs": 1, "ApprovalId": id, "Files": 1, "Directories": 1, "Bytes": 1,
        "Before": 2, "Message": "aGVsbG8=", "SigningAlgorithm": "ECDSA_SHA_256", "Signature": "aGVsbG8=",
        "MacAlgorithm": "HMAC_SHA_256", "Mac": "aGVsbG8=", "KeyAgreementAlgorithm": "ECDH",
        "PublicKey": "aGVsbG8=", "EncapsulationAlgorithm": "ML_KEM",
        "SharedSecretCiphertextBlob": "aGVsbG8=", "KeyPairSpec": "RSA_2048",
        "ReplicaRegion": "us-west-2", "PrimaryRegion": "us-west-2", "Description": "d",
        "PrincipalArn": ROOT_ARN, "AccessKeyId": "AKIA0123456789ABCDEF", "Status": "Active",
        "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048", "ImportToken": "aGVsbG8=",
        "EncryptedKeyMaterial": "aGVsbG8=", "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        "CustomKeyStoreName": "s", "CustomKeyStoreId": "cks-1", "Operation": "OPEN", "Inode": 1, "UserId": 1000,
    })
}

#[test]
fn every_operation_is_denied_to_whom_nothing_allows_it() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let blob = bench.encrypt(&key, b"x", json!({}));
    let body = json!({"AliasName": "alias/known", "TargetKeyId": key});
    bench.call("CreateAlias", body).unwrap();
    // What the registry holds is looked up before anybody asks who may have it.
    let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
    let row = bench.call("CreatePolicy", body).unwrap()["PolicyId"].clone();
    let body = json!({"KeyId": key, "GranteePrincipal": ROOT_ARN, "Operations": ["Decrypt"]});
    let grant = bench.call("CreateGrant", body).unwrap()["GrantId"].clone();
    let waiting = ApprovalRow {
        id: "00112233445566778899aabbccddeeff".to_owned(),
        operation: "ScheduleKeyDeletion".to_owned(),
        parameters: "{}".to_owned(),
        keys: vec![arn(&key)],
        requester: ROOT_ARN.to_owned(),
        approvers: vec![],
        required: 2,
        eligible: vec![ROOT_ARN.to_owned()],
        created_ms: 0,
        ends: Due {
            wall_ms: i64::MAX,
            elapsed_ms: u64::MAX,
        },
    };
    bench.kms.apply(&[Change::Put(Row::Approval(waiting))]);
    let revision = bench.kms.snapshot().meta().revision;

    for (_, operation) in Request::OPERATIONS {
        let mut body = anything(&key, &blob);
        body["VolumeId"] = volume.clone();
        body["PolicyId"] = row.clone();
        body["GrantId"] = grant.clone();
        for number in ["Files", "Directories", "Bytes", "Before"] {
            body[number] = json!(1);
        }
        let request = Bench::decode(operation, &body);
        let handled = bench.world_call(|kms, world| kms.handle(&request, &user("eve"), world));
        // Who one is, one may always ask; nothing else.
        if *operation == "GetCallerIdentity" {
            assert_eq!(handled.verdict, Verdict::Allowed(Basis::Party));
            continue;
        }
        // Requests that wait for approvals are shown to their parties: a stranger finds none.
        if operation.contains("Approv") {
            assert_eq!(handled.verdict, Verdict::Allowed(Basis::Party));
            match handled.outcome {
                Ok(Outcome::Reply(response)) => assert_eq!(
                    *response,
                    Response::ListApprovals(ListApprovalsResponse { approvals: vec![] })
                ),
                Ok(_) => panic!("{operation} does something for a stranger"),
                Err(error) => assert_eq!(error.code, ErrorCode::NotFound, "{operation}: {error}"),
            }
            continue;
        }
        assert!(
            matches!(handled.verdict, Verdict::Denied(_)),
            "{operation}: {:?}",
            handled.verdict
        );
        let error = handled.outcome.err().expect(operation);
        assert_eq!(error.code, ErrorCode::AccessDenied, "{operation}: {error}");
        let message = error.message.unwrap();
        assert!(
            !message.contains("arn:aws:kms:")
                || message.contains(&arn(&key))
                || message.contains("alias")
        );
    }
    assert_eq!(bench.kms.snapshot().meta().revision, revision);
}

#[test]
fn the_account_root_has_what_key_policies_give_it_and_all_that_is_on_no_key() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let verdict = bench.verdict(&root(), "DescribeKey", json!({"KeyId": key}));
    let by = Basis::KeyPolicy {
        statement: "Enable IAM User Permissions".into(),
    };
    assert_eq!(verdict, Verdict::Allowed(by));
    let verdict = bench.verdict(&root(), "ListKeys", json!({}));
    assert_eq!(verdict, Verdict::Allowed(Basis::Root));

    bench.policy_of(
        &key,
        json!([statement_for(&user("alice").arn, "Allow", "kms:*")]),
    );
    assert!(bench.decrypts(&user("alice"), &key));
    assert!(
        !bench.decrypts(&root(), &key),
        "a key policy without root denies root"
    );
    assert!(!bench.decrypts(&admin(), &key), "and does not delegate");
}

#[test]
fn identity_policies_count_where_the_key_policy_delegates() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let alice = user("alice");
    let error = bench
        .call_as(&alice, "DescribeKey", json!({"KeyId": key}))
        .unwrap_err();
    assert_eq!(
        error,
        format!(
            "AccessDeniedException: User: arn:aws:iam::000000000000:user/alice is not authorized to perform: \
             kms:DescribeKey on resource: {} because no identity-based policy allows the kms:DescribeKey action",
            arn(&key)
        )
    );
    bench.attach(
        "USER",
        "alice",
        "read",
        json!([statement("Allow", "kms:Describe*")]),
    );
    let by = Basis::IdentityPolicy {
        policy: "user/alice/read".into(),
        statement: "0".into(),
    };
    let verdict = bench.verdict(&alice, "DescribeKey", json!({"KeyId": key}));
    assert_eq!(verdict, Verdict::Allowed(by));
    assert!(!bench.decrypts(&user("bob"), &key));

    // No delegation: the identity policy is worth nothing.
    bench.policy_of(
        &key,
        json!([statement_for(&user("bob").arn, "Allow", "kms:*")]),
    );
    let error = bench
        .call_as(&alice, "DescribeKey", json!({"KeyId": key}))
        .unwrap_err();
    assert!(
        error.ends_with("because no resource-based policy allows the kms:DescribeKey action"),
        "{error}"
    );
    assert!(bench.decrypts(&user("bob"), &key));
}

#[test]
fn policies_of_groups_units_and_roles_are_those_of_their_members() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    for (kind, identity) in [("GROUP", "hr"), ("UNIT", "hr.service"), ("ROLE", "reader")] {
        bench.attach(
            kind,
            identity,
            "p",
            json!([statement("Allow", "kms:DescribeKey")]),
        );
    }
    let mut member = user("a");
    member.group_names = Arc::new([Arc::from("users"), Arc::from("hr")]);
    assert!(bench.decrypts(&member, &key));
    assert!(bench.decrypts(&in_unit("a", "hr.service"), &key));
    assert!(!bench.decrypts(&in_unit("a", "ihr.service"), &key));
    let mut reader = user("a");
    reader.roles = Arc::new([Arc::from("reader")]);
    assert!(bench.decrypts(&reader, &key));
    // A unit that nobody vouched for is none.
    let mut unchecked = in_unit("a", "hr.service");
    unchecked.process = Some(Arc::new(ProcessFacts {
        unit: Some("hr.service".into()),
        ..ProcessFacts::default()
    }));
    assert!(!bench.decrypts(&unchecked, &key));
}

#[test]
fn a_deny_anywhere_wins() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let alice = user("alice");
    let describe = |bench: &mut Bench| {
        let call = bench.call_as(&user("alice"), "DescribeKey", json!({"KeyId": key}));
        call.map(|_| ())
            .map_err(|error| error.rsplit("key/").next().unwrap()[37..].to_owned())
    };
    let both = json!([
        statement_for(ROOT_ARN, "Allow", "kms:*"),
        statement_for(&alice.arn, "Allow", "kms:*")
    ]);
    bench.policy_of(&key, both.clone());
    bench.attach("USER", "alice", "all", json!([statement("Allow", "kms:*")]));
    describe(&mut bench).unwrap();

    bench.attach(
        "USER",
        "alice",
        "no",
        json!([statement("Deny", "kms:DescribeKey")]),
    );
    let error = describe(&mut bench).unwrap_err();
    assert_eq!(error, "with an explicit deny in an identity-based policy");
    bench
        .call(
            "DeleteIdentityPolicy",
            json!({"IdentityType": "USER", "Identity": "alice", "PolicyName": "no"}),
        )
        .unwrap();
    describe(&mut bench).unwrap();

    bench.policy_of(
        &key,
        json!([
            both[0],
            both[1],
            statement_for(ROOT_ARN, "Deny", "kms:DescribeKey")
        ]),
    );
    let error = describe(&mut bench).unwrap_err();
    assert_eq!(error, "with an explicit deny in a resource-based policy");
    assert!(
        !bench.decrypts(&root(), &key),
        "a Deny for the account is one for its root"
    );
    bench.policy_of(&key, both);

    bench.guard("never", json!([{"Sid": "NoDescribe", "Effect": "Deny", "Action": "kms:DescribeKey", "Resource": "*"}]));
    let error = describe(&mut bench).unwrap_err();
    assert_eq!(error, "with an explicit deny in a service control policy");
    let denied = DenyBasis::Explicit {
        document: crate::authz::DocumentName::GuardRail {
            name: "never".into(),
        },
        statement: "NoDescribe".into(),
        lacking: None,
    };
    for caller in [root(), admin(), alice] {
        let verdict = bench.verdict(&caller, "DescribeKey", json!({"KeyId": key}));
        assert_eq!(verdict, Verdict::Denied(denied.clone()));
    }
}

#[test]
fn a_guard_rail_with_an_allow_permits_nothing_else() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    bench.guard(
        "only",
        json!([
            statement("Allow", "kms:Describe*"),
            statement("Allow", "kmsd:*")
        ]),
    );
    assert!(bench.decrypts(&root(), &key));
    assert!(
        !bench.decrypts(&user("alice"), &key),
        "it limits, and gives nothing"
    );
    let error = bench
        .call_as(&root(), "DisableKey", json!({"KeyId": key}))
        .unwrap_err();
    assert!(
        error.ends_with("because no service control policy allows the kms:DisableKey action"),
        "{error}"
    );
    // Each of several must permit it.
    bench.guard("deny-only", json!([statement("Deny", "kms:DisableKey")]));
    assert!(bench.decrypts(&root(), &key));
    bench.guard("second", json!([statement("Allow", "kmsd:*")]));
    assert!(!bench.decrypts(&root(), &key));
    bench
        .call("DeleteGuardRail", json!({"GuardRailName": "second"}))
        .unwrap();
    assert!(bench.decrypts(&root(), &key));
}

#[test]
fn a_guard_rail_that_nobody_could_remove_is_warned_about() {
    let mut bench = Bench::new();
    let said = |answer: Value| answer["Warnings"].to_string();
    let answer = bench.guard(
        "fine",
        json!([statement("Deny", "kms:ScheduleKeyDeletion")]),
    );
    assert_eq!(answer, json!({}));
    let answer = bench.guard("closed", json!([statement("Deny", "kmsd:*")]));
    assert!(said(answer).contains("kmsctl break-glass"));
    let answer = bench.guard("closed", json!([statement("Allow", "kms:*")]));
    assert!(
        said(answer).contains("kmsctl break-glass"),
        "permitting other things only does it too"
    );
}

#[test]
fn the_administrators_policy_is_one_of_identities() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let by = Verdict::Allowed(Basis::IdentityPolicy {
        policy: "built-in/AdministratorAccess".into(),
        statement: "Everything".into(),
    });
    assert_eq!(
        bench.verdict(&admin(), "DescribeKey", json!({"KeyId": key})),
        by
    );
    assert_eq!(bench.verdict(&admin(), "ListKeys", json!({})), by);
    assert_eq!(
        bench.verdict(
            &admin(),
            "PutGuardRail",
            json!({"GuardRailName": "g", "Document": "{}"})
        ),
        by
    );
}

#[test]
fn a_service_opens_the_data_keys_of_volumes_and_nothing_else() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
    assert!(bench.allowed(&service(), "CreatePolicy", body.clone()));
    let row = bench.call("CreatePolicy", body).unwrap()["PolicyId"].clone();
    assert!(bench.allowed(
        &service(),
        "GetPolicy",
        json!({"VolumeId": volume, "PolicyId": row})
    ));
    let context = json!({"kmsfs:volume": volume, "kmsfs:policy": row, "kmsfs:generation": "1"});
    let body = json!({"KeyId": key, "NumberOfBytes": 32, "EncryptionContext": context});
    assert!(bench.allowed(&service(), "GenerateDataKey", body));
    let body = json!({"KeyId": key, "NumberOfBytes": 32});
    assert!(!bench.allowed(&service(), "GenerateDataKey", body));
    assert!(!bench.allowed(&service(), "DisableKey", json!({"KeyId": key})));
    assert!(!bench.allowed(&service(), "ListKeys", json!({})));

    // A key policy for one volume reaches through the registry.
    let mut deny = statement_for(ROOT_ARN, "Deny", "kms:Decrypt");
    deny["Condition"] = json!({"StringEquals": {"kms:EncryptionContext:kmsfs:volume": volume}});
    bench.policy_of(
        &key,
        json!([statement_for(ROOT_ARN, "Allow", "kms:*"), deny]),
    );
    for caller in [service(), root()] {
        assert!(!bench.allowed(
            &caller,
            "GetPolicy",
            json!({"VolumeId": volume, "PolicyId": row})
        ));
    }
}

/// `caller` as one for whom kmsfs asks.
fn through_kmsfs(mut caller: Caller) -> Caller {
    caller.process = None;
    caller.via = Some(Arc::new(Via {
        service: "kmsfs.local-host-1.amazonaws.com".into(),
        arn: service().arn,
        uid: 990,
        pid: 1,
    }));
    caller
}

#[test]
fn a_grant_for_one_tree_is_enough_to_open_it_through_kmsfs() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let volume = bench.call("CreateVolume", json!({})).unwrap()["VolumeId"].clone();
    let mut tree = || {
        let body = json!({"VolumeId": volume, "KeyId": key, "ContentMode": "XTS"});
        bench.call("CreatePolicy", body).unwrap()["PolicyId"].clone()
    };
    let (given, other) = (tree(), tree());
    let alice = through_kmsfs(user("alice"));
    let body = json!({"KeyId": key, "GranteePrincipal": user("alice").arn, "Operations": ["Decrypt"],
        "Constraints": {"EncryptionContextSubset": {"kmsfs:policy": given}}});
    bench.call("CreateGrant", body).unwrap();
    let context = |tree: &Value| json!({"kmsfs:volume": volume, "kmsfs:policy": tree, "kmsfs:generation": "1"});
    let opens = |bench: &mut Bench, caller: &Caller, tree: &Value| {
        let blob = bench.encrypt(&key, b"data key", context(tree));
        let body = json!({"KeyId": key, "CiphertextBlob": blob, "EncryptionContext": context(tree),
            "DryRun": true});
        let gets = json!({"VolumeId": volume, "PolicyId": tree});
        (
            bench.allowed(caller, "Decrypt", body),
            bench.allowed(caller, "GetPolicy", gets),
        )
    };
    assert_eq!(opens(&mut bench, &alice, &given), (true, true));
    assert_eq!(opens(&mut bench, &user("alice"), &given), (true, true));
    assert_eq!(opens(&mut bench, &alice, &other), (false, false));
    let eve = through_kmsfs(user("eve"));
    assert_eq!(opens(&mut bench, &eve, &given), (false, false));

    // It is implied, not beyond policies.
    bench.attach(
        "USER",
        "alice",
        "no",
        json!([statement("Deny", "kmsd:GetPolicy")]),
    );
    assert_eq!(opens(&mut bench, &alice, &given), (true, false));
    let body = json!({"IdentityType": "USER", "Identity": "alice", "PolicyName": "no"});
    bench.call("DeleteIdentityPolicy", body).unwrap();
    assert_eq!(opens(&mut bench, &alice, &given), (true, true));
    bench.guard("only", json!([statement("Allow", "kms:*")]));
    assert_eq!(opens(&mut bench, &alice, &given), (true, false));
}

#[test]
fn a_ciphertext_tells_nobody_whether_its_key_exists() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let blob = bench.encrypt(&key, b"x", json!({}));
    let mut other = Bench::of(ACCOUNT, "local-host-1");
    let foreign = other.create_key();
    let foreign = other.encrypt(&foreign, b"x", json!({}));
    let eve = user("eve");
    let open = |bench: &mut Bench, blob: &str| {
        bench
            .call_as(&eve, "Decrypt", json!({"CiphertextBlob": blob}))
            .unwrap_err()
    };
    let known = open(&mut bench, &blob);
    assert_eq!(known, open(&mut bench, &foreign));
    assert!(known.starts_with(
        "AccessDeniedException: The ciphertext refers to a customer master key that does not exist"
    ));
    // Nor does what is wrong with a token.
    for blob in [&blob, &foreign] {
        let body = json!({"CiphertextBlob": blob, "GrantTokens": ["eA=="]});
        assert_eq!(bench.call_as(&eve, "Decrypt", body).unwrap_err(), known);
    }
    // The record knows which it was.
    let denied = bench.verdict(&eve, "Decrypt", json!({"CiphertextBlob": blob}));
    assert_eq!(denied, Verdict::Denied(DenyBasis::NoIdentityPolicy));
    let denied = bench.verdict(&eve, "Decrypt", json!({"CiphertextBlob": foreign}));
    assert_eq!(denied, Verdict::Denied(DenyBasis::UnknownKey));
}

#[test]
fn root_puts_in_order_what_cannot_be_read() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let grant = |bench: &mut Bench| {
        let body =
            json!({"KeyId": key, "GranteePrincipal": user("alice").arn, "Operations": ["Encrypt"]});
        bench.call("CreateGrant", body).unwrap()["GrantId"].clone()
    };
    let (one, two) = (grant(&mut bench), grant(&mut bench));
    let mut row = bench.kms.snapshot().keys().next().unwrap().as_ref().clone();
    row.policy = "{\"Version\": \"2099-01-01\"}".into();
    bench.apply(vec![Change::Put(Row::Key(Box::new(row)))]);
    let retire = json!({"KeyId": arn(&key), "GrantId": one});
    let revoke = json!({"KeyId": key, "GrantId": two});
    for caller in [admin(), user("alice")] {
        assert!(!bench.allowed(&caller, "RetireGrant", retire.clone()));
        assert!(!bench.allowed(&caller, "RevokeGrant", revoke.clone()));
    }
    assert!(!bench.decrypts(&root(), &key));
    bench.call_as(&root(), "RetireGrant", retire).unwrap();
    bench.call_as(&root(), "RevokeGrant", revoke).unwrap();
    let body =
        json!({"KeyId": key, "Policy": policy(json!([statement_for(ROOT_ARN, "Allow", "kms:*")]))});
    bench.call_as(&root(), "PutKeyPolicy", body).unwrap();
    assert!(bench.decrypts(&root(), &key));
}

#[test]
fn decisions_end_with_the_times_that_conditions_name() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let id = bench.kms.snapshot().keys().next().unwrap().id;
    let holds = |bench: &Bench| bench.kms.holds_ms(std::iter::once(id), bench.now);
    assert_eq!(holds(&bench), None);
    let seconds = START.wall_ms / 1000;
    let mut until = statement("Allow", "kms:DescribeKey");
    for (condition, expected) in [
        (
            json!({"DateLessThan": {"aws:CurrentTime": (seconds + 5).to_string()}}),
            Some(5_000),
        ),
        (
            json!({"DateGreaterThan": {"aws:EpochTime": [seconds - 5, seconds + 7]}}),
            Some(7_000),
        ),
        // It holds for a second.
        (
            json!({"DateEquals": {"aws:CurrentTime": seconds.to_string()}}),
            Some(1_000),
        ),
        (
            json!({"DateLessThan": {"aws:CurrentTime": (seconds - 5).to_string()}}),
            None,
        ),
        (
            json!({"StringLike": {"aws:CurrentTime": "2027-*"}}),
            Some(0),
        ),
        (
            json!({"StringEquals": {"kmsd:Unit": "${aws:CurrentTime}"}}),
            Some(0),
        ),
    ] {
        until["Condition"] = condition.clone();
        bench.attach("USER", "alice", "p", json!([until]));
        assert_eq!(holds(&bench), expected, "{condition}");
        let mut in_key_policy = until.clone();
        in_key_policy["Principal"] = json!("*");
        bench.attach("USER", "alice", "p", json!([statement("Allow", "kms:*")]));
        bench.policy_of(&key, json!([in_key_policy]));
        assert_eq!(holds(&bench), expected, "{condition}");
        bench.policy_of(&key, json!([statement_for(ROOT_ARN, "Allow", "kms:*")]));
    }
    until["Condition"] = json!({"DateLessThan": {"aws:CurrentTime": (seconds + 5).to_string()}});
    bench.guard("until", json!([until]));
    assert_eq!(holds(&bench), Some(5_000));
}

#[test]
fn reencrypt_needs_both_keys() {
    let mut bench = Bench::new();
    let (from, to) = (bench.create_key(), bench.create_key());
    let blob = bench.encrypt(&from, b"x", json!({"a": "1"}));
    let body = json!({"CiphertextBlob": blob, "DestinationKeyId": to, "SourceEncryptionContext": {"a": "1"}});
    let alice = user("alice");
    let on = |key: &str, action: &str| json!({"Effect": "Allow", "Action": action, "Resource": arn(key)});
    bench.attach(
        "USER",
        "alice",
        "p",
        json!([on(&from, "kms:ReEncryptFrom")]),
    );
    assert!(!bench.allowed(&alice, "ReEncrypt", body.clone()));
    bench.attach("USER", "alice", "p", json!([on(&to, "kms:ReEncryptTo")]));
    assert!(!bench.allowed(&alice, "ReEncrypt", body.clone()));
    bench.attach(
        "USER",
        "alice",
        "p",
        json!([on(&to, "kms:ReEncryptTo"), on(&from, "kms:ReEncryptFrom")]),
    );
    assert!(bench.allowed(&alice, "ReEncrypt", body.clone()));
    bench.call_as(&alice, "ReEncrypt", body).unwrap();
}

#[test]
fn aliases_need_the_key_and_the_alias() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let alice = user("alice");
    let alias = "arn:aws:kms:local-host-1:000000000000:alias/hr";
    let body = json!({"AliasName": "alias/hr", "TargetKeyId": key});
    let on =
        |resource: &str| json!({"Effect": "Allow", "Action": "kms:*Alias", "Resource": resource});
    bench.attach("USER", "alice", "p", json!([on(&arn(&key))]));
    let error = bench
        .call_as(&alice, "CreateAlias", body.clone())
        .unwrap_err();
    assert!(error.contains(alias), "{error}");
    bench.attach("USER", "alice", "p", json!([on(alias)]));
    assert!(!bench.allowed(&alice, "CreateAlias", body.clone()));
    bench.attach("USER", "alice", "p", json!([on(alias), on(&arn(&key))]));
    bench.call_as(&alice, "CreateAlias", body).unwrap();
    bench
        .call_as(&alice, "DeleteAlias", json!({"AliasName": "alias/hr"}))
        .unwrap();
}

#[test]
fn what_is_not_known_of_the_caller_never_helps_it() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let mut unknown = user("alice");
    unknown.process = None;
    let mut exe = statement("Allow", "kms:DescribeKey");
    exe["Condition"] = json!({"StringNotEquals": {"kmsd:Exe": "/usr/bin/bad"}});
    bench.attach("USER", "alice", "p", json!([exe]));
    assert!(bench.decrypts(&user("alice"), &key));
    assert!(
        !bench.decrypts(&unknown, &key),
        "an Allow that asks for it does not allow"
    );

    let mut bad = statement("Deny", "kms:DescribeKey");
    bad["Condition"] = json!({"StringEquals": {"kmsd:Exe": "/usr/bin/bad"}});
    bench.attach(
        "USER",
        "alice",
        "p",
        json!([statement("Allow", "kms:*"), bad]),
    );
    assert!(bench.decrypts(&user("alice"), &key));
    assert!(
        !bench.decrypts(&unknown, &key),
        "a Deny that asks for it denies"
    );
    let verdict = bench.verdict(&unknown, "DescribeKey", json!({"KeyId": key}));
    assert!(
        matches!(verdict, Verdict::Denied(DenyBasis::Explicit { lacking: Some(fact), .. }) if fact == "kmsd:Exe")
    );

    // Nor does being perhaps in another unit.
    bench.attach("USER", "alice", "p", json!([statement("Allow", "kms:*")]));
    bench.attach(
        "UNIT",
        "web.service",
        "p",
        json!([statement("Deny", "kms:DescribeKey")]),
    );
    assert!(bench.decrypts(&user("alice"), &key));
    assert!(!bench.decrypts(&unknown, &key));
    bench
        .call(
            "DeleteIdentityPolicy",
            json!({"IdentityType": "UNIT", "Identity": "web.service", "PolicyName": "p"}),
        )
        .unwrap();
    let role = format!("arn:aws:iam::{ACCOUNT}:role/unit/web.service");
    let allow = statement_for(ROOT_ARN, "Allow", "kms:*");
    bench.policy_of(&key, json!([allow, statement_for(&role, "Deny", "kms:*")]));
    assert!(bench.decrypts(&user("alice"), &key));
    assert!(!bench.decrypts(&unknown, &key));
    let all_but = json!({"Effect": "Allow", "NotPrincipal": {"AWS": role}, "Action": "kms:*", "Resource": "*"});
    bench.policy_of(&key, json!([all_but]));
    assert!(bench.decrypts(&user("alice"), &key));
    assert!(!bench.decrypts(&unknown, &key));
}

#[test]
fn a_service_that_asks_for_a_user_has_the_users_permissions() {
    let mut bench = Bench::new();
    let key = bench.create_key();
    let mut alice = user("alice");
    alice.via = Some(Arc::new(Via {
        service: "kmsfs.local-host-1.amazonaws.com".into(),
        arn: "arn:aws:iam::000000000000:user/kmsfs".into(),
        uid: 990,
        pid: 1,
    }));
    assert!(!bench.decrypts(&alice, &key));
    let mut via = statement("Allow", "kms:DescribeKey");
    via["Condition"] =
        json!({"StringEquals": {"kms:ViaService": "kmsfs.local-host-1.amazonaws.com"}});
    bench.attach("USER", "alice", "p", json!([via]));
    assert!(bench.decrypts(&alice, &key));
    assert!(
        !bench.decrypts(&user("alice"), &key),
        "only through the service"
    );
}

#[test]
fn conditions_ask_for_what_the_request_has() {
    let mut bench = Bench::new();
    let key = bench.create(json!({"Tags": [{"TagKey": "Project", "TagValue": "alpha"}]}));
    bench
        .call(
            "CreateAlias",
            json!({"AliasName": "alias/hr", "TargetKeyId": key}),
        )
        .unwrap();
    let alice = user("alice");
    let id = json!({"KeyId": key});
    let cases = [
        (
            "DescribeKey",
            json!({"KeyId": "alias/hr"}),
            json!({"StringEquals": {"kms:RequestAlias": "alias/hr"}}),
            true,
        ),
        (
            "DescribeKey",
            id.clone(),
            json!({"StringEquals": {"kms:RequestAlias": "alias/hr"}}),
            false,
        ),
        (
            "DescribeKey",
            id.clone(),
            json!({"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/hr"}}),
            true,
        ),
        (
            "DescribeKey",
            id.clone(),
            json!({"StringEquals": {"aws:ResourceTag/project": "alpha"}}),
            true,
        ),
        (
            "DescribeKey",
            id.clone(),
            json!({"StringEquals": {"aws:ResourceTag/project": "beta"}}),
            false,
        ),
        (
            "DescribeKey",
            id.clone(),
            json!({"StringEquals": {"kms:KeySpec": "SYMMETRIC_DEFAULT", "kms:KeyOrigin": "AWS_KMS"}}),
            true,
        ),
        (
            "DescribeKey",
            id.clone(),
            json!({"Bool": {"kms:MultiRegion": "false"}}),
            true,
        ),
        (
            "DescribeKey",
            id.clone(),
            json!({"NumericEquals": {"kmsd:Uid": "1000"}}),
            true,
        ),
        (
            "DescribeKey",
            id.clone(),
            json!({"StringEquals": {"aws:username": "alice", "kms:CallerAccount": ACCOUNT}}),
            true,
        ),
        (
            "DescribeKey",
            id.clone(),
            json!({"DateGreaterThan": {"aws:CurrentTime": "2023-01-01T00:00:00Z"}}),
            true,
        ),
        (
            "DescribeKey",
            id.clone(),
            json!({"DateGreaterThan": {"aws:CurrentTime": "2024-01-01T00:00:00Z"}}),
            false,
        ),
        (
            "ScheduleKeyDeletion",
            json!({"KeyId": key, "PendingWindowInDays": 8}),
            json!({"NumericGreaterThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": "7"}}),
            true,
        ),
        (
            "ScheduleKeyDeletion",
            json!({"KeyId": key, "PendingWindowInDays": 7}),
            json!({"NumericGreaterThan": {"kms:ScheduleKeyDeletionPendingWindowInDays": "7"}}),
            false,
        ),
        (
            "ScheduleKeyDeletion",
            id.clone(),
            json!({"NumericGreaterThan": {"kms:TrailingDaysWithoutKeyUsage": "90"}}),
            false,
        ),
        (
            "EnableKeyRotation",
            json!({"KeyId": key, "RotationPeriodInDays": 90}),
            json!({"NumericLessThanEquals": {"kms:RotationPeriodInDays": "90"}}),
            true,
        ),
        (
            "GetKeyPolicy",
            id,
            json!({"StringEquals": {"kms:PolicyName": "default"}}),
            true,
        ),
        (
            "PutKeyPolicy",
            json!({"KeyId": key, "Policy": "{}"}),
            json!({"Bool": {"kms:BypassPolicyLockoutSafetyCheck": "false"}}),
            true,
        ),
        (
            "PutKeyPolicy",
            json!({"KeyId": key, "Policy": "{}", "BypassPolicyLockoutSafetyCheck": true}),
            json!({"Bool": {"kms:BypassPolicyLockoutSafetyCheck": "false"}}),
            false,
        ),
        (
            "Encrypt",
            json!({"KeyId": key, "Plaintext": "eA==", "EncryptionContext": {"App": "x"}}),
            json!({"StringEquals": {"kms:EncryptionContext:app": "x", "kms:EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}}),
            true,
        ),
        (
            "Encrypt",
            json!({"KeyId": key, "Plaintext": "eA==", "EncryptionContext": {"App": "x"}}),
            json!({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["App"]}}),
            true,
        ),
        (
            "Encrypt",
            json!({"KeyId": key, "Plaintext": "eA==", "EncryptionContext": {"App": "x", "app": "y"}}),
            json!({"StringEquals": {"kms:EncryptionContext:App": "x"}}),
            false,
        ),
        (
            "TagResource",
            json!({"KeyId": key, "Tags": [{"TagKey": "a", "TagValue": "b"}]}),
            json!({"StringEquals": {"aws:RequestTag/a": "b"}, "ForAllValues:StringEquals": {"aws:TagKeys": "a"}}),
            true,
        ),
        (
            "UntagResource",
            json!({"KeyId": key, "TagKeys": ["z"]}),
            json!({"ForAllValues:StringEquals": {"aws:TagKeys": "a"}}),
            false,
        ),
        (
            "CreateKey",
            json!({"Origin": "EXTERNAL"}),
            json!({"StringEquals": {"kms:KeyOrigin": "EXTERNAL"}}),
            true,
        ),
        (
            "CreateGrant",
            json!({"KeyId": key, "GranteePrincipal": ROOT_ARN, "Operations": ["Decrypt"]}),
            json!({"ForAllValues:StringEquals": {"kms:GrantOperations": ["Decrypt", "Encrypt"]}, "StringEquals": {"kms:GranteePrincipal": ROOT_ARN}}),
            true,
        ),
        (
            "CreateGrant",
            json!({"KeyId": key, "GranteePrincipal": ROOT_ARN, "Operations": ["Decrypt", "Encrypt"]}),
            json!({"ForAllValues:StringEquals": {"kms:GrantOperations": ["Decrypt"]}}),
            false,
        ),
        (
            "CreateGrant",
            json!({"KeyId": key, "GranteePrincipal": ROOT_ARN, "Operations": ["Decrypt"], "Constraints": {"EncryptionContextSubset": {"a": "b"}}}),
            json!({"StringEquals": {"kms:GrantConstraintType": "EncryptionContextSubset", "kms:EncryptionContext:a": "b"}}),
            true,
        ),
    ];
    for (operation, body, condition, expected) in cases {
        let mut allow = statement("Allow", "kms:*");
        allow["Condition"] = condition.clone();
        bench.attach("USER", "alice", "p", json!([allow]));
        assert_eq!(
            bench.allowed(&alice, operation, body.clone()),
            expected,
            "{operation} {body} {condition}"
        );
    }
}
