//! Several accounts and Regions in one store.

use kms_api::CallerRole;

use super::*;
use crate::place::Served;

const HOME: (&str, &str) = ("000000000000", "local-host-1");
const WEST: (&str, &str) = ("000000000000", "us-west-2");
const THEIRS: (&str, &str) = ("222222222222", "us-west-2");

/// The account's root principal, asking in a Region.
fn root((account, region): (&str, &str)) -> Caller {
    let scope = Scope::new(account, region).unwrap();
    let mut caller = Caller::new(CallerRole::Root, 0, scope.root_arn());
    caller.scope = Some(Arc::new(scope));
    caller
}

/// A user of an account, asking in a Region.
fn user(name: &str, (account, region): (&str, &str)) -> Caller {
    let arn = format!("arn:aws:iam::{account}:user/{name}");
    let mut caller = Caller::new(CallerRole::User, 1000, arn);
    caller.scope = Some(Arc::new(Scope::new(account, region).unwrap()));
    caller.process = Some(Arc::new(kms_api::ProcessFacts {
        checked: true,
        ..Default::default()
    }));
    caller
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.kms.set_served(Served {
        accounts: vec![THEIRS.0.to_owned()],
        regions: vec![WEST.1.to_owned()],
        any_region: false,
    });
    bench
}

fn create(bench: &mut Bench, caller: &Caller) -> (String, String) {
    let made = bench.call_as(caller, "CreateKey", json!({})).unwrap();
    let text = |name: &str| made["KeyMetadata"][name].as_str().unwrap().to_owned();
    (text("KeyId"), text("Arn"))
}

fn keys(bench: &mut Bench, caller: &Caller) -> Vec<String> {
    let page = bench.call_as(caller, "ListKeys", json!({})).unwrap();
    let keys = page["Keys"].as_array().unwrap().iter();
    keys.map(|key| key["KeyArn"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_account_and_region_has_its_own_keys_and_aliases() {
    let mut bench = bench();
    let places = [HOME, WEST, THEIRS];
    let made = places.map(|place| create(&mut bench, &root(place)));
    for ((account, region), (id, arn)) in places.into_iter().zip(&made) {
        let here = root((account, region));
        assert_eq!(*arn, format!("arn:aws:kms:{region}:{account}:key/{id}"));
        assert_eq!(keys(&mut bench, &here), std::slice::from_ref(arn));
        let alias = json!({"AliasName": "alias/same", "TargetKeyId": id});
        bench.call_as(&here, "CreateAlias", alias).unwrap();
    }
    for (place, (_, arn)) in places.into_iter().zip(&made) {
        let here = root(place);
        let found = bench.call_as(&here, "DescribeKey", json!({"KeyId": "alias/same"}));
        let found = found.unwrap();
        assert_eq!(found["KeyMetadata"]["Arn"], *arn);
        assert_eq!(found["KeyMetadata"]["AWSAccountId"], place.0);
        let page = bench.call_as(&here, "ListAliases", json!({})).unwrap();
        let aliases = page["Aliases"].as_array().unwrap();
        let aliases = aliases
            .iter()
            .filter(|one| one.get("TargetKeyId").is_some());
        let aliases: Vec<_> = aliases.collect();
        assert_eq!(aliases.len(), 1);
        let alias_arn = format!("arn:aws:kms:{}:{}:alias/same", place.1, place.0);
        assert_eq!(aliases[0]["AliasArn"], alias_arn);
    }
    // A bare id is looked up in the caller's place, and an ARN of another Region is refused as AWS refuses it.
    let (id, arn) = &made[1];
    let elsewhere = format!("arn:aws:kms:local-host-1:000000000000:key/{id}");
    assert_eq!(
        bench.call_as(&root(HOME), "DescribeKey", json!({"KeyId": id})),
        Err(format!(
            "NotFoundException: Key '{elsewhere}' does not exist"
        ))
    );
    assert_eq!(
        bench.call_as(&root(HOME), "DescribeKey", json!({"KeyId": arn})),
        Err("NotFoundException: Invalid arn us-west-2".to_owned())
    );
    // The alias of one place goes, those of the others stay.
    let gone = json!({"AliasName": "alias/same"});
    bench.call_as(&root(WEST), "DeleteAlias", gone).unwrap();
    for (place, there) in [(HOME, true), (WEST, false), (THEIRS, true)] {
        let found = bench.call_as(&root(place), "DescribeKey", json!({"KeyId": "alias/same"}));
        assert_eq!(found.is_ok(), there, "{place:?}");
    }
}

#[test]
fn rows_of_every_place_are_read_back() {
    let mut bench = bench();
    for place in [HOME, WEST, THEIRS] {
        let (id, _) = create(&mut bench, &root(place));
        let alias = json!({"AliasName": "alias/same", "TargetKeyId": id});
        bench.call_as(&root(place), "CreateAlias", alias).unwrap();
    }
    let snapshot = bench.kms.snapshot();
    for key in snapshot.keys() {
        for row in [
            Row::Key(Box::new(KeyRow::clone(key))),
            Row::Material(snapshot.materials(key.id).next().unwrap().as_ref().clone()),
        ] {
            let raw = row.encode().unwrap();
            assert_eq!(raw.id.contains('@'), !key.id.place().is_home());
            assert_eq!(Row::decode(&raw).unwrap(), row);
        }
    }
    for alias in snapshot.aliases.all() {
        let row = Row::Alias(alias.as_ref().clone());
        let raw = row.encode().unwrap();
        assert_eq!(Row::decode(&raw).unwrap(), row);
        let mut without = snapshot.clone();
        without.apply(&Change::Remove(crate::rows::Table::Alias, raw.id));
        assert_eq!(without.aliases.len(), 2);
        assert!(
            without
                .aliases
                .get(alias.key.place(), &alias.name)
                .is_none()
        );
    }
}

#[test]
fn a_ciphertext_is_opened_in_its_own_place_only() {
    let mut bench = bench();
    let (id, _) = create(&mut bench, &root(WEST));
    let body = json!({"KeyId": id, "Plaintext": "AA=="});
    let sealed = bench.call_as(&root(WEST), "Encrypt", body).unwrap();
    let blob = json!({"CiphertextBlob": sealed["CiphertextBlob"]});
    let opened = bench.call_as(&root(WEST), "Decrypt", blob.clone()).unwrap();
    assert_eq!(opened["Plaintext"], "AA==");
    for place in [HOME, THEIRS] {
        let refused = bench.call_as(&root(place), "Decrypt", blob.clone());
        let text = refused.unwrap_err();
        assert!(
            text.starts_with("AccessDeniedException: The ciphertext refers to"),
            "{text}"
        );
    }
}

/// The policy of a key that hands decisions to two accounts.
fn shared(more: &[&str]) -> String {
    let accounts: Vec<_> = [WEST.0]
        .iter()
        .chain(more)
        .map(|account| format!("arn:aws:iam::{account}:root"))
        .collect();
    json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": accounts}, "Action": "kms:*", "Resource": "*"}
    ]})
    .to_string()
}

#[test]
fn a_key_of_another_account_needs_both_accounts() {
    let mut bench = bench();
    let (_, arn) = create(&mut bench, &root(WEST));
    let encrypt = json!({"KeyId": arn, "Plaintext": "AA=="});
    let alice = user("alice", THEIRS);
    let denied = |bench: &mut Bench, caller: &Caller, why: &str| {
        let text = bench
            .call_as(caller, "Encrypt", encrypt.clone())
            .unwrap_err();
        assert!(text.starts_with("AccessDeniedException"), "{text}");
        assert!(text.contains(why), "{text}");
    };
    denied(&mut bench, &alice, "no resource-based policy");
    denied(&mut bench, &root(THEIRS), "no resource-based policy");

    let put = json!({"KeyId": arn, "Policy": shared(&[THEIRS.0])});
    bench.call_as(&root(WEST), "PutKeyPolicy", put).unwrap();
    bench
        .call_as(&root(THEIRS), "Encrypt", encrypt.clone())
        .unwrap();
    denied(&mut bench, &alice, "no identity-based policy");

    // An identity policy of the same name in the other account is not hers.
    let document = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "kms:Encrypt", "Resource": "*"}
    ]});
    let attach = json!({"IdentityType": "USER", "Identity": "alice", "PolicyName": "p",
        "Document": document.to_string()});
    bench
        .call_as(&root(HOME), "PutIdentityPolicy", attach.clone())
        .unwrap();
    denied(&mut bench, &alice, "no identity-based policy");
    bench
        .call_as(&root(THEIRS), "PutIdentityPolicy", attach)
        .unwrap();
    let sealed = bench.call_as(&alice, "Encrypt", encrypt.clone()).unwrap();
    assert_eq!(sealed["KeyId"], arn);
    for place in [HOME, THEIRS] {
        let listed = bench.call_as(&root(place), "ListIdentityPolicies", json!({}));
        let listed = listed.unwrap();
        assert_eq!(listed["Policies"].as_array().unwrap().len(), 1);
        assert_eq!(listed["Policies"][0]["Identity"], "alice");
    }
    // What the owner's account is asked alone says nothing about the key.
    for operation in [
        "DisableKey",
        "GetKeyPolicy",
        "ScheduleKeyDeletion",
        "ListResourceTags",
    ] {
        assert_eq!(
            bench.call_as(&root(THEIRS), operation, json!({"KeyId": arn})),
            Err(format!("NotFoundException: Key '{arn}' does not exist"))
        );
    }
    // The key policy names her herself: her own account still has to allow it.
    let bob = user("bob", THEIRS);
    let policy = shared(&[]).replace(
        "\"arn:aws:iam::000000000000:root\"",
        "\"arn:aws:iam::000000000000:root\",\"arn:aws:iam::222222222222:user/bob\"",
    );
    let put = json!({"KeyId": arn, "Policy": policy});
    bench.call_as(&root(WEST), "PutKeyPolicy", put).unwrap();
    denied(&mut bench, &bob, "no identity-based policy");
    denied(&mut bench, &alice, "no resource-based policy");
}

#[test]
fn a_grant_to_another_account_needs_its_identity_policy_too() {
    let mut bench = bench();
    let (id, arn) = create(&mut bench, &root(WEST));
    let grantee = "arn:aws:iam::222222222222:user/alice";
    let grant = json!({"KeyId": id, "GranteePrincipal": grantee, "Operations": ["Encrypt"]});
    bench
        .call_as(&root(WEST), "CreateGrant", grant.clone())
        .unwrap();
    let stranger = json!({"KeyId": id, "Operations": ["Encrypt"],
        "GranteePrincipal": "arn:aws:iam::333333333333:user/alice"});
    let text = bench
        .call_as(&root(WEST), "CreateGrant", stranger)
        .unwrap_err();
    assert!(
        text.contains("the accounts here are 000000000000, 222222222222"),
        "{text}"
    );
    let alice = user("alice", THEIRS);
    let encrypt = json!({"KeyId": arn, "Plaintext": "AA=="});
    let text = bench
        .call_as(&alice, "Encrypt", encrypt.clone())
        .unwrap_err();
    assert!(text.contains("no identity-based policy"), "{text}");
    let document = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "kms:Encrypt", "Resource": arn}
    ]});
    let attach = json!({"IdentityType": "USER", "Identity": "alice", "PolicyName": "p",
        "Document": document.to_string()});
    bench
        .call_as(&root(THEIRS), "PutIdentityPolicy", attach)
        .unwrap();
    bench.call_as(&alice, "Encrypt", encrypt.clone()).unwrap();
    // Its token names the grant, wherever the key is.
    let again = bench.call_as(&root(WEST), "CreateGrant", grant).unwrap();
    let mut named = encrypt;
    named["GrantTokens"] = json!([again["GrantToken"]]);
    bench.call_as(&alice, "Encrypt", named.clone()).unwrap();
    let retire = json!({"GrantToken": again["GrantToken"]});
    // The account of the grantee has nothing to say about it.
    let text = bench
        .call_as(&root(THEIRS), "RetireGrant", retire.clone())
        .unwrap_err();
    assert!(text.starts_with("AccessDenied"), "{text}");
    let revoke = json!({"KeyId": id, "GrantId": again["GrantId"]});
    bench.call_as(&root(WEST), "RevokeGrant", revoke).unwrap();
    let text = bench.call_as(&alice, "Encrypt", named).unwrap_err();
    assert!(text.starts_with("InvalidGrantTokenException"), "{text}");
    assert!(bench.call_as(&root(WEST), "RetireGrant", retire).is_err());
}

#[test]
fn what_belongs_to_the_host_is_asked_for_at_home() {
    let mut bench = bench();
    for (operation, body) in [
        ("ListVolumes", json!({})),
        ("GetStatus", json!({})),
        ("ListGuardRails", json!({})),
        ("BackupStore", json!({})),
        (
            "WhoCan",
            json!({"Action": "kms:Decrypt", "KeyId": "alias/x"}),
        ),
    ] {
        let refused = bench.call_as(&root(THEIRS), operation, body);
        let text = refused.err().unwrap_or_default();
        let named = text.contains("only callers of account 000000000000")
            || text.starts_with("NotFoundException");
        assert!(named, "{operation}: {text}");
    }
    let who = bench
        .call_as(&root(THEIRS), "GetCallerIdentity", json!({}))
        .unwrap();
    assert_eq!(who["Account"], THEIRS.0);
    bench
        .call_as(&root(WEST), "ListVolumes", json!({}))
        .unwrap();
}

#[test]
fn conditions_see_region_and_accounts_of_the_request() {
    let mut bench = bench();
    let (id, arn) = create(&mut bench, &root(WEST));
    let conditions = [
        (
            json!({"StringEquals": {"aws:RequestedRegion": "us-west-2"}}),
            true,
        ),
        (
            json!({"StringEquals": {"aws:RequestedRegion": "local-host-1"}}),
            false,
        ),
        (
            json!({"StringEquals": {"kms:CallerAccount": "000000000000"}}),
            true,
        ),
        (
            json!({"StringEquals": {"aws:PrincipalAccount": "222222222222"}}),
            false,
        ),
        (
            json!({"StringEquals": {"aws:ResourceAccount": "000000000000"}}),
            true,
        ),
    ];
    for (condition, holds) in conditions {
        let policy = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
             "Action": "kms:*", "Resource": "*"},
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:Encrypt",
             "Resource": "*", "Condition": condition},
        ]});
        let put = json!({"KeyId": id, "Policy": policy.to_string()});
        bench.call_as(&root(WEST), "PutKeyPolicy", put).unwrap();
        let eve = user("eve", WEST);
        let body = json!({"KeyId": arn, "Plaintext": "AA=="});
        let answer = bench.call_as(&eve, "Encrypt", body);
        assert_eq!(answer.is_ok(), holds, "{condition} {answer:?}");
    }
}

#[test]
fn grants_that_may_be_retired_are_those_of_the_region_whosever_keys_they_are_on() {
    let mut bench = bench();
    let bob = "arn:aws:iam::000000000000:user/bob";
    let theirs_bob = "arn:aws:iam::222222222222:user/bob";
    let mut grants = Vec::new();
    for place in [HOME, WEST, THEIRS] {
        let (_, key) = create(&mut bench, &root(place));
        for retiring in [bob, theirs_bob] {
            let body = json!({
                "KeyId": key, "GranteePrincipal": bob, "RetiringPrincipal": retiring, "Operations": ["Decrypt"],
            });
            let made = bench.call_as(&root(place), "CreateGrant", body).unwrap();
            grants.push(made["GrantId"].as_str().unwrap().to_owned());
        }
    }
    let listed = |bench: &mut Bench, caller: &Caller, retiring: &str, limit: u32| {
        let mut body = json!({"RetiringPrincipal": retiring, "Limit": limit});
        let mut found = Vec::new();
        loop {
            let page = bench.call_as(caller, "ListRetirableGrants", body.clone())?;
            let list = page["Grants"].as_array().unwrap().iter();
            found.extend(list.map(|grant| grant["GrantId"].as_str().unwrap().to_owned()));
            match page.get("NextMarker") {
                Some(marker) => body["Marker"] = marker.clone(),
                None => break,
            }
        }
        found.sort();
        Ok::<_, String>(found)
    };
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    // Those on keys of other accounts too, of this Region only.
    for limit in [1, 50] {
        let west = listed(&mut bench, &root(WEST), bob, limit).unwrap();
        assert_eq!(west, sorted(vec![grants[2].clone(), grants[4].clone()]));
        let home = listed(&mut bench, &root(HOME), bob, limit).unwrap();
        assert_eq!(home, [grants[0].clone()]);
        let theirs = listed(&mut bench, &root(THEIRS), theirs_bob, limit).unwrap();
        assert_eq!(theirs, sorted(vec![grants[3].clone(), grants[5].clone()]));
    }
    // Nobody is told about the principals of another account.
    for (caller, principal) in [(root(THEIRS), bob), (root(WEST), theirs_bob)] {
        let refused = listed(&mut bench, &caller, principal, 50).unwrap_err();
        assert!(refused.starts_with("AccessDeniedException"), "{refused}");
    }
    // The principal is what a policy allows it for.
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "kms:ListRetirableGrants", "Resource": bob}
    ]});
    let body = json!({
        "IdentityType": "USER", "Identity": "bob", "PolicyName": "own", "Document": policy.to_string(),
    });
    bench
        .call_as(&root(HOME), "PutIdentityPolicy", body)
        .unwrap();
    let caller = user("bob", WEST);
    assert_eq!(listed(&mut bench, &caller, bob, 50).unwrap().len(), 2);
    let root_arn = "arn:aws:iam::000000000000:root";
    let refused = listed(&mut bench, &caller, root_arn, 50).unwrap_err();
    assert!(refused.starts_with("AccessDeniedException"), "{refused}");
    let refused = listed(&mut bench, &root(HOME), "nonsense", 50).unwrap_err();
    assert!(refused.starts_with("InvalidArnException"), "{refused}");
    // What a service may retire is listed for its account's keys alone.
    for place in [WEST, THEIRS] {
        let body = json!({"RetiringServicePrincipal": "kmsfs.amazonaws.com"});
        let found = bench
            .call_as(&root(place), "ListRetirableGrants", body)
            .unwrap();
        assert_eq!(found["Grants"], json!([]));
    }
}
