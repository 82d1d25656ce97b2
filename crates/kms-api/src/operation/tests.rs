//! Decoding: AWS's texts, and what is recorded.

use serde_json::json;

use super::*;
use crate::*;

mod any;

fn refuse(target: &str, body: &str) -> ApiError {
    Request::decode(target, body.as_bytes()).unwrap_err()
}

fn text(target: &str, body: &str) -> String {
    let error = refuse(target, body);
    assert_eq!(error.code, ErrorCode::Validation, "{body}: {error}");
    error.message.unwrap()
}

fn base64(length: usize) -> String {
    data_encoding::BASE64.encode(&vec![b'x'; length])
}

#[test]
fn constraints_are_told_in_the_words_of_aws() {
    let one = "1 validation error detected: ";
    let cases = [
        (
            "TrentService.GenerateRandom",
            r#"{"NumberOfBytes":1025}"#.to_owned(),
            "Value '1025' at 'numberOfBytes' failed to satisfy constraint: Member must have value less than or equal to 1024",
        ),
        (
            "TrentService.GenerateRandom",
            r#"{"NumberOfBytes":0}"#.to_owned(),
            "Value '0' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1",
        ),
        (
            "TrentService.GenerateRandom",
            r#"{"NumberOfBytes":-7}"#.to_owned(),
            "Value '-7' at 'numberOfBytes' failed to satisfy constraint: Member must have value greater than or equal to 1",
        ),
        (
            "TrentService.Encrypt",
            format!(r#"{{"KeyId":"k","Plaintext":"{}"}}"#, base64(4097)),
            "Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096",
        ),
        (
            "TrentService.Encrypt",
            r#"{"KeyId":"k","Plaintext":""}"#.to_owned(),
            "Value at 'plaintext' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ),
        (
            "TrentService.Decrypt",
            format!(r#"{{"CiphertextBlob":"{}"}}"#, base64(6145)),
            "Value at 'ciphertextBlob' failed to satisfy constraint: Member must have length less than or equal to 6144",
        ),
        (
            "TrentService.Decrypt",
            "{}".to_owned(),
            "Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null",
        ),
        (
            "TrentService.DescribeKey",
            r#"{"KeyId":null}"#.to_owned(),
            "Value null at 'keyId' failed to satisfy constraint: Member must not be null",
        ),
        (
            "TrentService.DescribeKey",
            r#"{"KeyId":""}"#.to_owned(),
            "Value '' at 'keyId' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ),
        (
            "TrentService.CreateAlias",
            r#"{"AliasName":"alias/a b","TargetKeyId":"k"}"#.to_owned(),
            "Value 'alias/a b' at 'aliasName' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$",
        ),
        (
            "TrentService.ListKeys",
            r#"{"ResourceOwners":[]}"#.to_owned(),
            "Value '[]' at 'resourceOwners' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ),
        (
            "TrentService.ListKeys",
            r#"{"ResourceOwners":["SELF","SELF","SELF"]}"#.to_owned(),
            "Value '[SELF, SELF, SELF]' at 'resourceOwners' failed to satisfy constraint: Member must have length less than or equal to 2",
        ),
        (
            "TrentService.CreateKey",
            r#"{"Tags":[{"TagKey":"","TagValue":"v"}]}"#.to_owned(),
            "Value '' at 'tags.1.member.tagKey' failed to satisfy constraint: Member must have length greater than or equal to 1",
        ),
        (
            "TrentService.EnableKeyRotation",
            r#"{"KeyId":"k","RotationPeriodInDays":89}"#.to_owned(),
            "Value '89' at 'rotationPeriodInDays' failed to satisfy constraint: Member must have value greater than or equal to 90",
        ),
        (
            "TrentService.GenerateDataKey",
            r#"{"KeyId":"k","KeySpec":"AES_512"}"#.to_owned(),
            "Value 'AES_512' at 'keySpec' failed to satisfy constraint: Member must satisfy enum value set: [AES_256, AES_128]",
        ),
        (
            "KmsdLocal.DescribeVolume",
            r#"{"VolumeId":"XYZ"}"#.to_owned(),
            "Value 'XYZ' at 'volumeId' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[0-9a-f]{32}$",
        ),
    ];
    for (target, body, expected) in cases {
        assert_eq!(text(target, &body), format!("{one}{expected}"));
    }
}

#[test]
fn several_violations_are_told_together() {
    assert_eq!(
        text("TrentService.CreateAlias", "{}"),
        "2 validation errors detected: Value null at 'aliasName' failed to satisfy constraint: Member \
         must not be null; Value null at 'targetKeyId' failed to satisfy constraint: Member must not \
         be null"
    );
}

#[test]
fn rules_between_members() {
    let cases = [
        (
            "TrentService.GenerateRandom",
            "{}",
            "NumberOfBytes is required.",
        ),
        (
            "TrentService.GenerateDataKey",
            r#"{"KeyId":"k"}"#,
            "Please specify either number of bytes or key spec.",
        ),
        (
            "TrentService.GenerateDataKeyWithoutPlaintext",
            r#"{"KeyId":"k","KeySpec":"AES_256","NumberOfBytes":32}"#,
            "Please specify either number of bytes or key spec.",
        ),
        (
            "TrentService.CreateKey",
            r#"{"KeySpec":"SYMMETRIC_DEFAULT","CustomerMasterKeySpec":"SYMMETRIC_DEFAULT"}"#,
            "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.",
        ),
        (
            "TrentService.CreateKey",
            r#"{"CustomerMasterKeySpec":"ML_DSA_44","KeyUsage":"SIGN_VERIFY"}"#,
            "1 validation error detected: Value 'ML_DSA_44' at 'customerMasterKeySpec' failed to satisfy constraint: Member must satisfy enum value set: [RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521, ECC_SECG_P256K1, SYMMETRIC_DEFAULT, HMAC_224, HMAC_256, HMAC_384, HMAC_512, SM2]",
        ),
    ];
    for (target, body, expected) in cases {
        assert_eq!(text(target, body), expected);
    }
    let dry = r#"{"KeyId":"k","DryRun":true,"DryRunModifiers":["IGNORE_CIPHERTEXT"]}"#;
    assert!(Request::decode("TrentService.Decrypt", dry.as_bytes()).is_ok());
}

#[test]
fn wrong_json_is_a_serialization_error_without_a_text() {
    let bodies = [
        "",
        " ",
        "{",
        "null",
        "[]",
        "1",
        "\"x\"",
        "{\"KeyId\":}",
        "{\"KeyId\":\"k\"} x",
        r#"{"KeyId":1}"#,
        r#"{"KeyId":["k"]}"#,
        r#"{"KeyId":{"k":1}}"#,
        r#"{"KeyId":"k","GrantTokens":"t"}"#,
        r#"{"KeyId":"k","GrantTokens":[1]}"#,
        "{\"KeyId\":\"\u{0}\"}",
    ];
    for body in bodies {
        let error = refuse("TrentService.DescribeKey", body);
        assert_eq!(error, ApiError::bare(ErrorCode::Serialization), "{body}");
    }
    for body in [
        r#"{"NumberOfBytes":1.5}"#,
        r#"{"NumberOfBytes":"8"}"#,
        r#"{"NumberOfBytes":99999999999}"#,
        r#"{"NumberOfBytes":1e400}"#,
    ] {
        assert_eq!(
            refuse("TrentService.GenerateRandom", body).code,
            ErrorCode::Serialization
        );
    }
    let context = r#"{"KeyId":"k","Plaintext":"AA==","EncryptionContext":{"a":1}}"#;
    assert_eq!(
        refuse("TrentService.Encrypt", context).code,
        ErrorCode::Serialization
    );
    for blob in ["A", "AA", "AA=", "A===", "====", "AB==", "AA==\\n", "*AA="] {
        let body = format!(r#"{{"KeyId":"k","Plaintext":"{blob}"}}"#);
        assert_eq!(
            refuse("TrentService.Encrypt", &body).code,
            ErrorCode::Serialization,
            "{blob}"
        );
    }
}

#[test]
fn unknown_members_are_ignored_as_aws_does() {
    let body = br#"{"KeyId":"k","Surprise":{"a":[1,2,3]}}"#;
    assert!(Request::decode("TrentService.DescribeKey", body).is_ok());
}

#[test]
fn a_recipient_is_refused_and_not_answered_in_the_clear() {
    let bodies = [
        (
            "Decrypt",
            json!({"CiphertextBlob": "AAAA", "Recipient": {}}),
        ),
        (
            "GenerateDataKey",
            json!({"KeyId": "k", "KeySpec": "AES_256", "Recipient": {}}),
        ),
        (
            "GenerateRandom",
            json!({"NumberOfBytes": 8, "Recipient": {}}),
        ),
        (
            "GenerateDataKeyPair",
            json!({"KeyId": "k", "KeyPairSpec": "RSA_2048", "Recipient": {}}),
        ),
        (
            "DeriveSharedSecret",
            json!({"KeyId": "k", "KeyAgreementAlgorithm": "ECDH", "PublicKey": "AAAA", "Recipient": {}}),
        ),
    ];
    for (operation, body) in bodies {
        let error = refuse(&format!("TrentService.{operation}"), &body.to_string());
        assert_eq!(error.code, ErrorCode::Validation, "{operation}");
        assert!(error.message.unwrap().contains("Recipient"), "{operation}");
    }
}

#[test]
fn long_values_are_not_repeated_in_full() {
    let body = json!({ "KeyId": "k".repeat(1_000_000) }).to_string();
    assert!(text("TrentService.DescribeKey", &body).len() < 2000);
}

#[test]
fn errors_have_the_form_of_aws() {
    let body = |error: ApiError| String::from_utf8(error.to_json()).unwrap();
    assert_eq!(
        body(ApiError::new(ErrorCode::NotFound, "gone")),
        r#"{"__type":"NotFoundException","message":"gone"}"#
    );
    assert_eq!(
        body(ApiError::new(ErrorCode::AccessDenied, "no")),
        r#"{"Message":"no","__type":"AccessDeniedException"}"#
    );
    assert_eq!(
        body(ApiError::bare(ErrorCode::InvalidCiphertext)),
        r#"{"__type":"InvalidCiphertextException"}"#
    );
    for code in ErrorCode::ALL {
        let error = ApiError::new(*code, "t");
        assert_eq!(ApiError::from_json(&error.to_json()), Some(error));
        let server_fault = code.http_status() >= 500;
        let expected = matches!(
            code,
            ErrorCode::Internal
                | ErrorCode::DependencyTimeout
                | ErrorCode::KeyUnavailable
                | ErrorCode::ServiceUnavailable
        );
        assert_eq!(server_fault, expected, "{code:?}");
    }
    assert_eq!(ApiError::from_json(b"{}"), None);
    assert_eq!(ApiError::from_json(br#"{"__type":"Strange"}"#), None);
}

#[test]
fn responses_leave_out_what_is_absent() {
    let empty = Response::CreateAlias(EmptyResponse {});
    assert!(
        empty.to_json().unwrap().is_empty(),
        "no output is an empty body"
    );
    let list = Response::ListKeys(ListKeysResponse {
        keys: vec![],
        next_marker: None,
        truncated: false,
    });
    assert_eq!(
        list.to_json().unwrap().as_slice(),
        br#"{"Keys":[],"Truncated":false}"#
    );
    let request = Request::from(ListKeysRequest::default());
    assert_eq!(
        Response::from_json(&request, &list.to_json().unwrap()).unwrap(),
        list
    );
}

#[test]
fn timestamps_are_numbers_of_seconds() {
    assert_eq!(
        serde_json::to_string(&Timestamp::from_secs(1_795_471_163)).unwrap(),
        "1795471163"
    );
    assert_eq!(
        serde_json::to_string(&Timestamp::from_millis(1_250)).unwrap(),
        "1.25"
    );
    assert_eq!(
        serde_json::from_str::<Timestamp>("1.25").unwrap().millis(),
        1_250
    );
    assert!(serde_json::from_str::<Timestamp>("1e300").is_err());
}

#[test]
fn nothing_secret_is_printed() {
    let body = br#"{"KeyId":"k","Plaintext":"c2VjcmV0"}"#;
    let request = Request::decode("TrentService.Encrypt", body).unwrap();
    let shown = format!("{request:?}");
    assert!(
        shown.contains("Blob(6 bytes)") && !shown.contains("115, 101"),
        "{shown}"
    );
}

/// A body for every operation, with `MARK` in every member that must not be recorded.
fn marked(target: &str) -> Option<String> {
    let mark = data_encoding::BASE64.encode(MARK.as_bytes());
    let secret = format!(r#""GrantTokens":["{MARK}"]"#);
    Some(match target.split_once('.')?.1 {
        "Encrypt" => format!(
            r#"{{"KeyId":"k","Plaintext":"{mark}","EncryptionContext":{{"Case":"1"}},{secret}}}"#
        ),
        "Decrypt" => {
            format!(r#"{{"CiphertextBlob":"{mark}","EncryptionContext":{{"Case":"1"}},{secret}}}"#)
        }
        "ReEncrypt" => format!(r#"{{"CiphertextBlob":"{mark}","DestinationKeyId":"k",{secret}}}"#),
        "GenerateDataKey" | "GenerateDataKeyWithoutPlaintext" => {
            format!(r#"{{"KeyId":"k","KeySpec":"AES_256",{secret}}}"#)
        }
        "DescribeKey" | "GetPublicKey" => format!(r#"{{"KeyId":"k",{secret}}}"#),
        "Sign" | "Verify" => format!(
            r#"{{"KeyId":"k","Message":"{mark}","Signature":"{mark}","SigningAlgorithm":"ECDSA_SHA_256",{secret}}}"#
        ),
        "GenerateMac" | "VerifyMac" => format!(
            r#"{{"KeyId":"k","Message":"{mark}","Mac":"{mark}","MacAlgorithm":"HMAC_SHA_256",{secret}}}"#
        ),
        "DeriveSharedSecret" => format!(
            r#"{{"KeyId":"k","PublicKey":"{mark}","KeyAgreementAlgorithm":"ECDH",{secret}}}"#
        ),
        "Encapsulate" | "Decapsulate" => format!(
            r#"{{"KeyId":"k","SharedSecretCiphertextBlob":"{mark}","EncapsulationAlgorithm":"ML_KEM",{secret}}}"#
        ),
        "GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext" => {
            format!(r#"{{"KeyId":"k","KeyPairSpec":"RSA_2048",{secret}}}"#)
        }
        "CreateGrant" | "CreateTemporaryGrant" => format!(
            r#"{{"KeyId":"k","GranteePrincipal":"g","Operations":["Decrypt"],"ExpiresInSeconds":1,{secret}}}"#
        ),
        "RetireGrant" => format!(r#"{{"GrantToken":"{MARK}"}}"#),
        _ => return None,
    })
}

const MARK: &str = "MARKED+SECRET/BYTES=";

#[test]
fn no_binary_member_and_no_grant_token_is_recorded() {
    let mut seen = 0;
    for (prefix, name) in Request::OPERATIONS {
        let target = format!("{prefix}.{name}");
        let Some(body) = marked(&target) else {
            continue;
        };
        let request = Request::decode(&target, body.as_bytes()).unwrap();
        let recorded = serde_json::to_string(&request.recorded()).unwrap();
        assert!(!recorded.contains("MARKED"), "{target}: {recorded}");
        let mark = data_encoding::BASE64.encode(MARK.as_bytes());
        assert!(!recorded.contains(&mark), "{target}: {recorded}");
        assert!(body.contains("MARKED"), "the test marks nothing");
        seen += 1;
    }
    assert_eq!(seen, 19);
}

#[test]
fn members_are_recorded_by_their_names_in_cloudtrail() {
    let recorded = |target: &str, body: &str| {
        let request = Request::decode(target, body.as_bytes()).unwrap();
        (json!(request.recorded()), request.is_read_only())
    };
    assert_eq!(
        recorded(
            "TrentService.CreateKey",
            r#"{"Description":"d","Tags":[{"TagKey":"Team","TagValue":"A"}],"MultiRegion":false}"#
        ),
        (
            json!({"description": "d", "tags": [{"tagKey": "Team", "tagValue": "A"}]}),
            false
        )
    );
    // Names in an encryption context are the caller's.
    assert_eq!(
        recorded(
            "TrentService.GenerateDataKey",
            r#"{"KeyId":"k","NumberOfBytes":32,"EncryptionContext":{"Project":"Alpha"},"DryRun":true}"#
        ),
        (
            json!({"keyId": "k", "numberOfBytes": 32, "encryptionContext": {"Project": "Alpha"}, "dryRun": true}),
            true
        )
    );
}
