//! The worked examples of AWS's documentation: the KMS Developer Guide's key policies and condition
//! keys, and the IAM User Guide's operators, set operators and variables. Accounts and names are those
//! of the documentation.

use kms_core::policy::PolicyKind;
use serde_json::{Value as Json, json};

use crate::request::{Fact, Request, Typed, Verdict, parse};

const ACCOUNT: &str = "111122223333";
const KEY: &str = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// A principal of the account (`user/x`, `role/x`, `root`), or a whole ARN.
fn request(who: &str, action: &str, facts: Json) -> Request {
    let arn = match who.starts_with("arn:") {
        true => who.to_owned(),
        false => format!("arn:aws:iam::{ACCOUNT}:{who}"),
    };
    let typed = |value: &Json| match value {
        Json::String(text) => Typed::Text(text.clone()),
        Json::Number(number) => Typed::Number(number.as_i64().unwrap()),
        Json::Bool(value) => Typed::Bool(*value),
        other => panic!("{other}"),
    };
    let facts = facts.as_object().unwrap().iter().map(|(key, value)| {
        let fact = match value {
            Json::Array(values) => Fact::Many(values.iter().map(typed).collect()),
            value => Fact::One(typed(value)),
        };
        (key.clone(), fact)
    });
    Request {
        account: arn.split(':').nth(4).unwrap().to_owned(),
        principals: vec![arn],
        action: action.to_owned(),
        resource: KEY.to_owned(),
        facts: facts.collect(),
    }
}

type Ask = (&'static str, &'static str, Json, Verdict);

#[track_caller]
fn example(kind: PolicyKind, statements: Json, asks: Vec<Ask>) {
    let document = json!({"Version": "2012-10-17", "Statement": statements});
    let policy = parse(&document, kind);
    for (who, action, facts, verdict) in asks {
        let request = request(who, action, facts);
        assert_eq!(request.ask(&policy), verdict, "{request:#?}");
        // What the documentation says is also what the naive evaluator says.
        assert_eq!(
            crate::naive::decide(&document, &request),
            verdict,
            "{request:#?}"
        );
    }
}

use PolicyKind::{Identity, Key};
use Verdict::{AllowAccount as Account, AllowPrincipal as Allow, Deny, NoMatch as No};

#[test]
fn default_key_policy_of_the_console() {
    let statements = json!([
        {"Sid": "Enable IAM User Permissions", "Effect": "Allow",
         "Principal": {"AWS": "arn:aws:iam::111122223333:root"}, "Action": "kms:*", "Resource": "*"},
        {"Sid": "Allow access for Key Administrators", "Effect": "Allow",
         "Principal": {"AWS": ["arn:aws:iam::111122223333:user/KMSAdminUser", "arn:aws:iam::111122223333:role/KMSAdminRole"]},
         "Action": ["kms:Create*", "kms:Describe*", "kms:Enable*", "kms:List*", "kms:Put*", "kms:Update*",
            "kms:Revoke*", "kms:Disable*", "kms:Get*", "kms:Delete*", "kms:TagResource", "kms:UntagResource",
            "kms:ScheduleKeyDeletion", "kms:CancelKeyDeletion"], "Resource": "*"},
        {"Sid": "Allow use of the key", "Effect": "Allow",
         "Principal": {"AWS": ["arn:aws:iam::111122223333:user/ExampleUser", "arn:aws:iam::444455556666:root"]},
         "Action": ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
         "Resource": "*"},
        {"Sid": "Allow attachment of persistent resources", "Effect": "Allow",
         "Principal": {"AWS": "arn:aws:iam::111122223333:user/ExampleUser"},
         "Action": ["kms:CreateGrant", "kms:ListGrants", "kms:RevokeGrant"], "Resource": "*",
         "Condition": {"Bool": {"kms:GrantIsForAWSResource": true}}},
    ]);
    let grant = json!({"kms:GrantIsForAWSResource": true});
    example(
        Key,
        statements,
        vec![
            ("root", "kms:Decrypt", json!({}), Allow),
            ("user/Anyone", "kms:Decrypt", json!({}), Account),
            (
                "user/KMSAdminUser",
                "kms:ScheduleKeyDeletion",
                json!({}),
                Allow,
            ),
            ("role/KMSAdminRole", "kms:PutKeyPolicy", json!({}), Allow),
            ("user/KMSAdminUser", "kms:Decrypt", json!({}), Account),
            ("user/ExampleUser", "kms:ReEncryptFrom", json!({}), Allow),
            (
                "user/ExampleUser",
                "kms:GenerateDataKeyWithoutPlaintext",
                json!({}),
                Allow,
            ),
            ("user/ExampleUser", "kms:CreateGrant", grant.clone(), Allow),
            ("user/ExampleUser", "kms:CreateGrant", json!({}), Account),
            (
                "arn:aws:iam::444455556666:user/Other",
                "kms:Decrypt",
                json!({}),
                Account,
            ),
            (
                "arn:aws:iam::444455556666:user/Other",
                "kms:CreateGrant",
                grant,
                No,
            ),
            (
                "arn:aws:iam::777788889999:user/Third",
                "kms:Decrypt",
                json!({}),
                No,
            ),
        ],
    );
}

#[test]
fn encryption_context_conditions() {
    let statement = |condition: Json| {
        json!({"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:role/RoleForExampleApp"},
               "Action": "kms:GenerateDataKey", "Resource": "*", "Condition": condition})
    };
    let who = "role/RoleForExampleApp";
    let ask = |facts, verdict| (who, "kms:GenerateDataKey", facts, verdict);
    // The name of the condition key is not case-sensitive, its value is.
    for key in [
        "kms:EncryptionContext:AppName",
        "kms:encryptioncontext:APPNAME",
    ] {
        example(
            Key,
            statement(json!({"StringEquals": {key: "ExampleApp"}})),
            vec![
                ask(
                    json!({"kms:EncryptionContext:AppName": "ExampleApp"}),
                    Allow,
                ),
                ask(json!({"kms:EncryptionContext:AppName": "exampleapp"}), No),
                ask(json!({}), No),
            ],
        );
    }
    example(
        Key,
        statement(json!({"StringLike": {"kms:EncryptionContext:AppName": "*"},
        "Null": {"kms:EncryptionContext:FilePath": "false"}})),
        vec![
            ask(
                json!({"kms:EncryptionContext:AppName": "x", "kms:EncryptionContext:FilePath": "/a"}),
                Allow,
            ),
            ask(json!({"kms:EncryptionContext:AppName": "x"}), No),
        ],
    );
    example(
        Key,
        statement(
            json!({"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["AppName", "FilePath"]}}),
        ),
        vec![
            ask(json!({"kms:EncryptionContextKeys": ["AppName"]}), Allow),
            ask(
                json!({"kms:EncryptionContextKeys": ["AppName", "FilePath"]}),
                Allow,
            ),
            ask(
                json!({"kms:EncryptionContextKeys": ["AppName", "Other"]}),
                No,
            ),
            ask(json!({"kms:EncryptionContextKeys": ["appname"]}), No),
            ask(json!({}), Allow),
        ],
    );
    example(
        Key,
        statement(json!({"ForAnyValue:StringEquals": {"kms:EncryptionContextKeys": "AppName"}})),
        vec![
            ask(
                json!({"kms:EncryptionContextKeys": ["AppName", "Other"]}),
                Allow,
            ),
            ask(json!({"kms:EncryptionContextKeys": ["Other"]}), No),
            ask(json!({}), No),
        ],
    );
    // "Require an encryption context."
    example(
        Key,
        statement(json!({"Null": {"kms:EncryptionContextKeys": "false"}})),
        vec![
            ask(json!({"kms:EncryptionContextKeys": ["AppName"]}), Allow),
            ask(json!({}), No),
        ],
    );
}

#[test]
fn services_and_callers() {
    example(
        Key,
        json!({"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:user/ExampleUser"},
        "Action": ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*"], "Resource": "*",
        "Condition": {"StringEquals": {"kms:ViaService": ["ec2.us-west-2.amazonaws.com", "rds.us-west-2.amazonaws.com"]}}}),
        vec![
            (
                "user/ExampleUser",
                "kms:Decrypt",
                json!({"kms:ViaService": "rds.us-west-2.amazonaws.com"}),
                Allow,
            ),
            (
                "user/ExampleUser",
                "kms:Decrypt",
                json!({"kms:ViaService": "s3.us-west-2.amazonaws.com"}),
                No,
            ),
            ("user/ExampleUser", "kms:Decrypt", json!({}), No),
        ],
    );
    example(
        Key,
        json!({"Effect": "Deny", "Principal": {"AWS": "arn:aws:iam::111122223333:user/ExampleUser"},
        "Action": "kms:*", "Resource": "*",
        "Condition": {"StringEquals": {"kms:ViaService": "lambda.us-west-2.amazonaws.com"}}}),
        vec![
            (
                "user/ExampleUser",
                "kms:Decrypt",
                json!({"kms:ViaService": "lambda.us-west-2.amazonaws.com"}),
                Deny,
            ),
            ("user/ExampleUser", "kms:Decrypt", json!({}), No),
        ],
    );
    // The AWS managed key for EBS: everyone of the account, through the service.
    example(
        Key,
        json!({"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["kms:Decrypt", "kms:CreateGrant"], "Resource": "*",
        "Condition": {"StringEquals": {"kms:CallerAccount": "111122223333", "kms:ViaService": "ec2.us-west-2.amazonaws.com"}}}),
        vec![
            (
                "user/Any",
                "kms:Decrypt",
                json!({"kms:CallerAccount": "111122223333", "kms:ViaService": "ec2.us-west-2.amazonaws.com"}),
                Allow,
            ),
            (
                "user/Any",
                "kms:Decrypt",
                json!({"kms:CallerAccount": "111122223333"}),
                No,
            ),
            (
                "arn:aws:iam::444455556666:user/Other",
                "kms:Decrypt",
                json!({"kms:CallerAccount": "444455556666", "kms:ViaService": "ec2.us-west-2.amazonaws.com"}),
                No,
            ),
        ],
    );
    example(
        Key,
        json!({"Effect": "Allow", "Principal": {"Service": "kmsfs.us-west-2.amazonaws.com"}, "Action": "kms:Decrypt", "Resource": "*",
        "Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:ec2:*:111122223333:instance/*"}}}),
        vec![(
            "user/kmsfs.us-west-2.amazonaws.com",
            "kms:Decrypt",
            json!({"aws:SourceArn": "arn:aws:ec2:us-west-2:111122223333:instance/i"}),
            No,
        )],
    );
}

#[test]
fn keys_grants_and_windows() {
    // kms:KeySpec, kms:KeyUsage and kms:KeyOrigin in a policy of an identity.
    example(
        Identity,
        json!([
        {"Effect": "Allow", "Action": "kms:CreateKey", "Resource": "*",
         "Condition": {"StringEquals": {"kms:KeySpec": "SYMMETRIC_DEFAULT", "kms:KeyUsage": "ENCRYPT_DECRYPT"}}},
        {"Effect": "Deny", "Action": "kms:CreateKey", "Resource": "*", "Condition": {"StringEquals": {"kms:KeyOrigin": "EXTERNAL"}}}]),
        vec![
            (
                "user/a",
                "kms:CreateKey",
                json!({"kms:KeySpec": "SYMMETRIC_DEFAULT", "kms:KeyUsage": "ENCRYPT_DECRYPT"}),
                Allow,
            ),
            (
                "user/a",
                "kms:CreateKey",
                json!({"kms:KeySpec": "RSA_2048", "kms:KeyUsage": "ENCRYPT_DECRYPT"}),
                No,
            ),
            (
                "user/a",
                "kms:CreateKey",
                json!({"kms:KeySpec": "SYMMETRIC_DEFAULT", "kms:KeyUsage": "ENCRYPT_DECRYPT", "kms:KeyOrigin": "EXTERNAL"}),
                Deny,
            ),
        ],
    );
    example(
        Key,
        json!({"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:user/ExampleUser"},
        "Action": "kms:CreateGrant", "Resource": "*",
        "Condition": {"ForAllValues:StringEquals": {"kms:GrantOperations": ["Encrypt", "Decrypt"]},
                      "StringEquals": {"kms:GranteePrincipal": "arn:aws:iam::111122223333:role/LimitedAdminRole"}}}),
        vec![
            (
                "user/ExampleUser",
                "kms:CreateGrant",
                json!({"kms:GrantOperations": ["Decrypt"], "kms:GranteePrincipal": "arn:aws:iam::111122223333:role/LimitedAdminRole"}),
                Allow,
            ),
            (
                "user/ExampleUser",
                "kms:CreateGrant",
                json!({"kms:GrantOperations": ["Decrypt", "CreateGrant"], "kms:GranteePrincipal": "arn:aws:iam::111122223333:role/LimitedAdminRole"}),
                No,
            ),
            (
                "user/ExampleUser",
                "kms:CreateGrant",
                json!({"kms:GrantOperations": ["Decrypt"], "kms:GranteePrincipal": "arn:aws:iam::111122223333:role/Other"}),
                No,
            ),
        ],
    );
    example(
        Key,
        json!({"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "kms:ScheduleKeyDeletion", "Resource": "*",
        "Condition": {"NumericLessThanEquals": {"kms:ScheduleKeyDeletionPendingWindowInDays": 21}}}),
        vec![
            (
                "user/a",
                "kms:ScheduleKeyDeletion",
                json!({"kms:ScheduleKeyDeletionPendingWindowInDays": 7}),
                Deny,
            ),
            (
                "user/a",
                "kms:ScheduleKeyDeletion",
                json!({"kms:ScheduleKeyDeletionPendingWindowInDays": 30}),
                No,
            ),
        ],
    );
    example(
        Identity,
        json!({"Effect": "Allow", "Action": "kms:EnableKeyRotation", "Resource": "*",
        "Condition": {"NumericLessThanEquals": {"kms:RotationPeriodInDays": "180"}}}),
        vec![
            (
                "user/a",
                "kms:EnableKeyRotation",
                json!({"kms:RotationPeriodInDays": 180}),
                Allow,
            ),
            (
                "user/a",
                "kms:EnableKeyRotation",
                json!({"kms:RotationPeriodInDays": 365}),
                No,
            ),
            ("user/a", "kms:EnableKeyRotation", json!({}), No),
        ],
    );
    // Import only material that expires by a time, given in seconds since 1970.
    example(
        Key,
        json!({"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:user/ExampleUser"},
        "Action": "kms:ImportKeyMaterial", "Resource": "*",
        "Condition": {"NumericLessThanEquals": {"kms:ValidTo": "1483257599"}}}),
        vec![
            (
                "user/ExampleUser",
                "kms:ImportKeyMaterial",
                json!({"kms:ValidTo": 1_483_257_599}),
                Allow,
            ),
            (
                "user/ExampleUser",
                "kms:ImportKeyMaterial",
                json!({"kms:ValidTo": 1_483_257_600}),
                No,
            ),
            ("user/ExampleUser", "kms:ImportKeyMaterial", json!({}), No),
        ],
    );
    example(
        Key,
        json!({"Effect": "Deny", "Principal": "*", "Action": ["kms:CreateKey", "kms:PutKeyPolicy"], "Resource": "*",
        "Condition": {"Bool": {"kms:BypassPolicyLockoutSafetyCheck": "true"}}}),
        vec![
            (
                "root",
                "kms:PutKeyPolicy",
                json!({"kms:BypassPolicyLockoutSafetyCheck": true}),
                Deny,
            ),
            (
                "root",
                "kms:PutKeyPolicy",
                json!({"kms:BypassPolicyLockoutSafetyCheck": false}),
                No,
            ),
        ],
    );
    example(
        Key,
        json!({"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:user/ExampleUser"},
        "Action": "kms:ReEncrypt*", "Resource": "*", "Condition": {"Bool": {"kms:ReEncryptOnSameKey": true}}}),
        vec![
            (
                "user/ExampleUser",
                "kms:ReEncryptTo",
                json!({"kms:ReEncryptOnSameKey": true}),
                Allow,
            ),
            (
                "user/ExampleUser",
                "kms:ReEncryptTo",
                json!({"kms:ReEncryptOnSameKey": false}),
                No,
            ),
        ],
    );
    example(
        Key,
        json!({"Effect": "Allow", "Principal": {"AWS": "111122223333"}, "Action": "kms:Sign", "Resource": "*",
        "Condition": {"StringLike": {"kms:RequestAlias": "alias/project-*"}, "StringEquals": {"kms:MessageType": "DIGEST"}}}),
        vec![
            (
                "user/a",
                "kms:Sign",
                json!({"kms:RequestAlias": "alias/project-1", "kms:MessageType": "DIGEST"}),
                Account,
            ),
            (
                "root",
                "kms:Sign",
                json!({"kms:RequestAlias": "alias/project-1", "kms:MessageType": "DIGEST"}),
                Allow,
            ),
            (
                "user/a",
                "kms:Sign",
                json!({"kms:MessageType": "DIGEST"}),
                No,
            ),
        ],
    );
}

#[test]
fn tags_and_aliases_control_access() {
    example(
        Identity,
        json!({"Effect": "Allow", "Action": ["kms:Decrypt"],
        "Resource": ["arn:aws:kms:us-west-2:111122223333:key/*", "arn:aws:kms:us-east-1:111122223333:key/*"],
        "Condition": {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/ProjectAlpha"}}}),
        vec![
            (
                "user/a",
                "kms:Decrypt",
                json!({"kms:ResourceAliases": ["alias/x", "alias/ProjectAlpha"]}),
                Allow,
            ),
            (
                "user/a",
                "kms:Decrypt",
                json!({"kms:ResourceAliases": []}),
                No,
            ),
            ("user/a", "kms:Decrypt", json!({}), No),
        ],
    );
    example(
        Identity,
        json!({"Effect": "Allow", "Action": "kms:*", "Resource": "*",
        "Condition": {"StringEquals": {"aws:ResourceTag/Project": "${aws:PrincipalTag/Project}"}}}),
        vec![
            (
                "user/a",
                "kms:Decrypt",
                json!({"aws:ResourceTag/Project": "Alpha", "aws:PrincipalTag/Project": "Alpha"}),
                Allow,
            ),
            (
                "user/a",
                "kms:Decrypt",
                json!({"aws:ResourceTag/Project": "Alpha", "aws:PrincipalTag/Project": "Beta"}),
                No,
            ),
            (
                "user/a",
                "kms:Decrypt",
                json!({"aws:ResourceTag/Project": "Alpha"}),
                No,
            ),
            (
                "user/a",
                "kms:Decrypt",
                json!({"aws:PrincipalTag/Project": "Alpha"}),
                No,
            ),
        ],
    );
    // IAM User Guide: who creates must tag, and with these keys only.
    example(
        Identity,
        json!({"Effect": "Allow", "Action": "kms:CreateKey", "Resource": "*", "Condition": {
        "StringEquals": {"aws:RequestTag/environment": ["preprod", "production"]},
        "ForAllValues:StringEquals": {"aws:TagKeys": ["environment", "cost-center"]}}}),
        vec![
            (
                "user/a",
                "kms:CreateKey",
                json!({"aws:RequestTag/environment": "preprod", "aws:TagKeys": ["environment"]}),
                Allow,
            ),
            (
                "user/a",
                "kms:CreateKey",
                json!({"aws:RequestTag/environment": "preprod", "aws:TagKeys": ["environment", "owner"]}),
                No,
            ),
            (
                "user/a",
                "kms:CreateKey",
                json!({"aws:RequestTag/environment": "dev", "aws:TagKeys": ["environment"]}),
                No,
            ),
            ("user/a", "kms:CreateKey", json!({}), No),
        ],
    );
}

#[test]
fn operators_of_the_iam_user_guide() {
    let allow = |condition: Json| json!({"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": condition});
    let ask = |facts, verdict| ("user/a", "kms:Decrypt", facts, verdict);
    example(
        Identity,
        allow(
            json!({"StringNotEquals": {"aws:PrincipalTag/job-category": ["iamuser-admin", "iamuser-dev"]}}),
        ),
        vec![
            ask(
                json!({"aws:PrincipalTag/job-category": "iamuser-admin"}),
                No,
            ),
            ask(json!({"aws:PrincipalTag/job-category": "clerk"}), Allow),
            ask(json!({}), Allow),
        ],
    );
    example(
        Identity,
        allow(json!({"StringEqualsIgnoreCase": {"aws:PrincipalTag/team": "Yellow"}})),
        vec![
            ask(json!({"aws:PrincipalTag/team": "yELLOW"}), Allow),
            ask(json!({"aws:PrincipalTag/team": "yellow-ish"}), No),
        ],
    );
    example(
        Identity,
        allow(
            json!({"DateGreaterThan": {"aws:CurrentTime": "2020-04-01T00:00:00Z"}, "DateLessThan": {"aws:CurrentTime": "2020-06-30T23:59:59Z"}}),
        ),
        vec![
            ask(json!({"aws:CurrentTime": "2020-05-01T12:00:00Z"}), Allow),
            ask(json!({"aws:CurrentTime": "2020-07-01T00:00:00Z"}), No),
            ask(json!({"aws:CurrentTime": "2020-04-01T00:00:00Z"}), No),
        ],
    );
    example(
        Identity,
        allow(
            json!({"Bool": {"aws:SecureTransport": "true"}, "IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}),
        ),
        vec![
            ask(
                json!({"aws:SecureTransport": true, "aws:SourceIp": "203.0.113.9"}),
                Allow,
            ),
            ask(
                json!({"aws:SecureTransport": true, "aws:SourceIp": "203.0.114.9"}),
                No,
            ),
            ask(
                json!({"aws:SecureTransport": false, "aws:SourceIp": "203.0.113.9"}),
                No,
            ),
            ask(json!({"aws:SecureTransport": true}), No),
        ],
    );
    example(
        Identity,
        allow(json!({"NotIpAddress": {"aws:SourceIp": ["192.0.2.0/24", "2001:db8::/32"]}})),
        vec![
            ask(json!({"aws:SourceIp": "192.0.2.4"}), No),
            ask(json!({"aws:SourceIp": "2001:db8:1::4"}), No),
            ask(json!({"aws:SourceIp": "198.51.100.1"}), Allow),
            ask(json!({}), Allow),
        ],
    );
    example(
        Identity,
        allow(json!({"ArnLike": {"aws:SourceArn": "arn:aws:sns:*:123456789012:MyTopic*"}})),
        vec![
            ask(
                json!({"aws:SourceArn": "arn:aws:sns:eu-west-1:123456789012:MyTopicOne"}),
                Allow,
            ),
            // A wildcard does not reach into the next part of an ARN.
            ask(
                json!({"aws:SourceArn": "arn:aws:sns:eu-west-1:x:123456789012:MyTopicOne"}),
                No,
            ),
        ],
    );
    example(
        Identity,
        json!({"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"BoolIfExists": {"aws:SecureTransport": "false"}}}),
        vec![
            ask(json!({"aws:SecureTransport": false}), Deny),
            ask(json!({}), Deny),
            ask(json!({"aws:SecureTransport": true}), No),
        ],
    );
    // Multivalued keys: the tables of "Set operators for multivalued context keys".
    let tags =
        |operator: &str| allow(json!({operator: {"aws:TagKeys": ["environment", "webserver"]}}));
    example(
        Identity,
        tags("ForAllValues:StringEquals"),
        vec![
            ask(json!({"aws:TagKeys": ["environment"]}), Allow),
            ask(json!({"aws:TagKeys": ["environment", "storage"]}), No),
            ask(json!({}), Allow),
        ],
    );
    example(
        Identity,
        tags("ForAnyValue:StringEquals"),
        vec![
            ask(json!({"aws:TagKeys": ["environment", "storage"]}), Allow),
            ask(json!({"aws:TagKeys": ["storage"]}), No),
            ask(json!({}), No),
        ],
    );
    example(
        Identity,
        tags("ForAllValues:StringNotEquals"),
        vec![
            ask(json!({"aws:TagKeys": ["storage"]}), Allow),
            ask(json!({"aws:TagKeys": ["environment", "storage"]}), No),
        ],
    );
    example(
        Identity,
        tags("ForAnyValue:StringNotEquals"),
        vec![
            ask(json!({"aws:TagKeys": ["environment", "storage"]}), Allow),
            ask(json!({"aws:TagKeys": ["environment"]}), No),
        ],
    );
    // Variables and their defaults.
    example(
        Identity,
        allow(json!({"StringLike": {"kms:EncryptionContext:path": "home/${aws:username}/*"}})),
        vec![
            ask(
                json!({"aws:username": "a", "kms:EncryptionContext:path": "home/a/letter"}),
                Allow,
            ),
            ask(
                json!({"aws:username": "a", "kms:EncryptionContext:path": "home/b/letter"}),
                No,
            ),
            ask(json!({"kms:EncryptionContext:path": "home//letter"}), No),
        ],
    );
    example(
        Identity,
        allow(
            json!({"StringEquals": {"kms:EncryptionContext:team": "${aws:PrincipalTag/team, 'company-wide'}"}}),
        ),
        vec![
            ask(
                json!({"aws:PrincipalTag/team": "yellow", "kms:EncryptionContext:team": "yellow"}),
                Allow,
            ),
            ask(json!({"kms:EncryptionContext:team": "company-wide"}), Allow),
            ask(json!({"kms:EncryptionContext:team": "yellow"}), No),
        ],
    );
}

#[test]
fn not_principal_not_action_not_resource() {
    // "Deny everyone except Bob and the account's root."
    example(
        Key,
        json!({"Effect": "Deny", "NotPrincipal": {"AWS": ["arn:aws:iam::111122223333:user/Bob", "arn:aws:iam::111122223333:root"]},
        "Action": "kms:*", "Resource": "*"}),
        vec![
            ("user/Bob", "kms:Decrypt", json!({}), No),
            ("root", "kms:Decrypt", json!({}), No),
            ("user/Alice", "kms:Decrypt", json!({}), Deny),
            (
                "arn:aws:iam::444455556666:user/Bob",
                "kms:Decrypt",
                json!({}),
                Deny,
            ),
        ],
    );
    // A Deny for an account denies everyone in it.
    example(
        Key,
        json!({"Effect": "Deny", "Principal": {"AWS": "444455556666"}, "Action": "kms:*", "Resource": "*"}),
        vec![
            (
                "arn:aws:iam::444455556666:user/Bob",
                "kms:Decrypt",
                json!({}),
                Deny,
            ),
            ("user/Alice", "kms:Decrypt", json!({}), No),
        ],
    );
    example(
        Identity,
        json!([{"Effect": "Allow", "NotAction": ["kms:Decrypt", "kms:ReEncrypt*"], "Resource": "*"},
        {"Effect": "Deny", "NotAction": "kms:*", "NotResource": "arn:aws:kms:us-west-2:111122223333:key/*"}]),
        vec![
            ("user/a", "kms:Encrypt", json!({}), Allow),
            ("user/a", "kms:Decrypt", json!({}), No),
            ("user/a", "kms:ReEncryptTo", json!({}), No),
            ("user/a", "kmsd:GetStatus", json!({}), Allow),
        ],
    );
    // Neither Resource nor Action: accepted in key policies, without effect.
    example(
        Key,
        json!([{"Effect": "Allow", "Principal": "*", "Action": "kms:*"}, {"Effect": "Deny", "Principal": "*", "Resource": "*"}]),
        vec![("user/a", "kms:Decrypt", json!({}), No)],
    );
}
