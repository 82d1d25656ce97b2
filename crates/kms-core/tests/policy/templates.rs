//! The policies that the product ships mean what their descriptions say.

use kms_core::policy::templates::{self, Role};
use kms_core::policy::{PolicyKind, known_actions};

use crate::request::{Request, Verdict, parse};

const ACCOUNT: &str = "000000000000";
const SOMEBODY: &str = "arn:aws:iam::000000000000:user/somebody";
const OTHER: &str = "arn:aws:iam::000000000000:user/other";
const KEY: &str = "arn:aws:kms:local-host-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// What can be done with the material of a key, directly or by giving it away.
const USES: [&str; 18] = [
    "kms:CreateGrant",
    "kms:Decapsulate",
    "kms:Decrypt",
    "kms:DeriveSharedSecret",
    "kms:Encapsulate",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:GenerateMac",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
    "kms:RetireGrant",
    "kms:Sign",
    "kms:Verify",
    "kms:VerifyMac",
    "kms:SynchronizeMultiRegionKey",
];

fn request(who: &str, action: &str) -> Request {
    Request {
        principals: vec![who.to_owned()],
        account: ACCOUNT.to_owned(),
        action: action.to_owned(),
        resource: KEY.to_owned(),
        facts: Default::default(),
    }
}

/// The actions that each kind of document gives with a role.
fn given(role: Role) -> [Vec<&'static str>; 2] {
    let key = role.key_policy(ACCOUNT, &[SOMEBODY.to_owned()]);
    let identity = role.identity_policy(&[KEY.to_owned()]);
    let (key, identity) = (
        parse(&key, PolicyKind::Key),
        parse(&identity, PolicyKind::Identity),
    );
    assert_eq!(key.warnings(), [], "{role:?}");
    assert_eq!(identity.warnings(), [], "{role:?}");
    [&key, &identity].map(|policy| {
        known_actions()
            .filter(|action| request(SOMEBODY, action).ask(policy) == Verdict::AllowPrincipal)
            .collect()
    })
}

#[test]
fn an_administrator_manages_keys_and_does_not_use_them() {
    for actions in given(Role::Administrator) {
        assert!(actions.contains(&"kms:PutKeyPolicy"));
        assert!(actions.contains(&"kms:ScheduleKeyDeletion"));
        assert!(
            !actions.iter().any(|action| USES.contains(action)),
            "{actions:?}"
        );
    }
}

#[test]
fn a_user_uses_a_key_and_does_not_manage_it() {
    for actions in given(Role::User) {
        let expected = [
            "kms:Decapsulate",
            "kms:Decrypt",
            "kms:DeriveSharedSecret",
            "kms:DescribeKey",
            "kms:Encapsulate",
            "kms:Encrypt",
            "kms:GenerateDataKey",
            "kms:GenerateDataKeyPair",
            "kms:GenerateDataKeyPairWithoutPlaintext",
            "kms:GenerateDataKeyWithoutPlaintext",
            "kms:GenerateMac",
            "kms:GetPublicKey",
            "kms:ReEncryptFrom",
            "kms:ReEncryptTo",
            "kms:Sign",
            "kms:Verify",
            "kms:VerifyMac",
        ];
        let account = ["kms:GenerateRandom", "kms:ListAliases"];
        let on_keys: Vec<_> = actions
            .into_iter()
            .filter(|a| !account.contains(a))
            .collect();
        assert_eq!(on_keys, expected);
    }
}

#[test]
fn a_service_makes_and_opens_data_keys() {
    for actions in given(Role::Service) {
        let expected = [
            "kms:Decrypt",
            "kms:DescribeKey",
            "kms:GenerateDataKey",
            "kms:GenerateDataKeyWithoutPlaintext",
        ];
        assert_eq!(actions, expected);
    }
}

#[test]
fn an_auditor_only_looks() {
    for actions in given(Role::Auditor) {
        assert!(actions.contains(&"kms:GetKeyPolicy"));
        for action in actions {
            let (_, name) = action.split_once(':').unwrap();
            let looks = [
                "Describe",
                "Get",
                "List",
                "LookupEvents",
                "Simulate",
                "WhoCan",
            ]
            .iter()
            .any(|verb| name.starts_with(verb));
            assert!(looks && !USES.contains(&action), "{action}");
        }
    }
}

#[test]
fn a_template_leaves_everybody_else_to_the_accounts_policies() {
    for role in Role::ALL {
        let policy = role.key_policy(ACCOUNT, &[SOMEBODY.to_owned()]);
        let policy = parse(&policy, PolicyKind::Key);
        for action in known_actions().filter(|action| action.starts_with("kms:")) {
            assert_eq!(request(OTHER, action).ask(&policy), Verdict::AllowAccount);
        }
    }
}

#[test]
fn a_policy_for_an_identity_is_about_the_keys_it_names() {
    for role in Role::ALL {
        let policy = role.identity_policy(&[format!("{KEY}-another")]);
        let policy = parse(&policy, PolicyKind::Identity);
        for action in ["kms:Decrypt", "kms:DescribeKey", "kms:PutKeyPolicy"] {
            assert_eq!(request(SOMEBODY, action).ask(&policy), Verdict::NoMatch);
        }
    }
}

#[test]
fn the_guard_rail_keeps_everyone_from_deleting() {
    let policy = parse(&templates::no_deletion(), PolicyKind::GuardRail);
    assert_eq!(policy.warnings(), []);
    for action in known_actions() {
        let denied = ["kms:ScheduleKeyDeletion", "kms:DeleteImportedKeyMaterial"].contains(&action);
        let expected = if denied {
            Verdict::Deny
        } else {
            Verdict::NoMatch
        };
        assert_eq!(request(SOMEBODY, action).ask(&policy), expected);
    }
}
