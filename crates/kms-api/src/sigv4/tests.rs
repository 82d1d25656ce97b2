use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::{ApiError, ErrorCode};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const STAMP: &str = "20150830T123600Z";

/// The signature of a request of AWS's test suite (`service`, us-east-1, 2015-08-30).
fn suite(method: &str, path: &str, query: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut all: Vec<(&str, &[u8])> = vec![
        ("Host", b"example.amazonaws.com"),
        ("X-Amz-Date", STAMP.as_bytes()),
    ];
    all.extend(
        headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes())),
    );
    let mut names: Vec<String> = all.iter().map(|(n, _)| n.to_ascii_lowercase()).collect();
    names.sort();
    names.dedup();
    let request = Signable {
        method,
        path,
        query,
        headers: &all,
        body: body.as_bytes(),
    };
    let canonical = canonical::request(&request, &names).unwrap();
    let text = string_to_sign(STAMP, "20150830/us-east-1/service/aws4_request", &canonical);
    SigningKey::derive(SECRET, "20150830", "us-east-1", "service").sign(&text)
}

/// From AWS's SigV4 test suite (aws-sig-v4-test-suite).
#[test]
fn signatures_are_those_of_the_test_suite() {
    let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    for (name, path) in [
        ("get-vanilla", "/"),
        ("get-relative", "/example/.."),
        ("get-relative-relative", "/example1/example2/../.."),
        ("get-slash", "//"),
        ("get-slash-dot-slash", "/./"),
    ] {
        assert_eq!(suite("GET", path, "", &[], ""), vanilla, "{name}");
    }
    let order = "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500";
    let query = "Param2=value2&Param1=value1";
    assert_eq!(
        suite("GET", "/", query, &[], ""),
        order,
        "get-vanilla-query-order-key-case"
    );
    let utf8 = "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85";
    assert_eq!(suite("GET", "/\u{1234}", "", &[], ""), utf8, "get-utf8");
    let trimmed = "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736";
    let headers = [("My-Header1", " value1"), ("My-Header2", " \"a   b   c\"")];
    assert_eq!(
        suite("GET", "/", "", &headers, ""),
        trimmed,
        "get-header-value-trim"
    );
    let post = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b";
    assert_eq!(suite("POST", "/", "", &[], ""), post, "post-vanilla");
    let form = "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a";
    let kind = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(
        suite("POST", "/", "", &kind, "Param1=value1"),
        form,
        "post-x-www-form-urlencoded"
    );
}

fn credentials() -> Credentials {
    Credentials {
        access_key_id: "AKIDEXAMPLE000000000".into(),
        secret: Zeroizing::new(SECRET.into()),
        session_token: None,
    }
}

/// A request with its signature, as it arrives.
#[derive(Clone)]
struct Sent {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

const NOW: i64 = 1_440_938_160_000;

fn sent(credentials: &Credentials) -> Sent {
    let body = br#"{"NumberOfBytes":1}"#.to_vec();
    let headers: Vec<(&str, &[u8])> = vec![
        ("Host", b"kms.example:8443"),
        ("Content-Type", b"application/x-amz-json-1.1"),
        ("X-Amz-Target", b"TrentService.GenerateRandom"),
    ];
    let request = Signable {
        method: "POST",
        path: "/",
        query: "",
        headers: &headers,
        body: &body,
    };
    let signature = sign(&request, credentials, "local-host-1", NOW);
    let mut headers: Vec<(String, Vec<u8>)> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.to_vec()))
        .collect();
    headers.push(("x-amz-date".into(), signature.date.into()));
    headers.push(("authorization".into(), signature.authorization.into()));
    if let Some(token) = &credentials.session_token {
        headers.push((TOKEN_HEADER.into(), token.as_bytes().to_vec()));
    }
    Sent {
        method: "POST".into(),
        path: "/".into(),
        query: String::new(),
        headers,
        body,
    }
}

impl Sent {
    fn check_at(&self, now_ms: i64) -> Result<Signed, ApiError> {
        let headers: Vec<(&str, &[u8])> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
            .collect();
        let request = Signable {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            headers: &headers,
            body: &self.body,
        };
        let signed = Signed::read(&request)?;
        let key = SigningKey::derive(SECRET, &signed.date, &signed.region, SERVICE);
        signed.verify(&request, &key, now_ms)?;
        Ok(signed)
    }

    fn check(&self) -> Result<Signed, ApiError> {
        self.check_at(NOW)
    }

    fn set(&mut self, name: &str, value: &str) {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.into()));
    }

    fn authorization(&self) -> String {
        let found = self
            .headers
            .iter()
            .find(|(name, _)| name == "authorization");
        String::from_utf8(found.unwrap().1.clone()).unwrap()
    }
}

#[test]
fn what_is_signed_here_is_accepted_here() {
    let signed = sent(&credentials()).check().unwrap();
    assert_eq!(signed.access_key_id, "AKIDEXAMPLE000000000");
    assert_eq!(signed.region, "local-host-1");
    assert_eq!(signed.time_ms, NOW);
    let with_token = Credentials {
        session_token: Some(Zeroizing::new("a token".into())),
        ..credentials()
    };
    let signed = sent(&with_token).check().unwrap();
    assert!(signed.headers.contains(&TOKEN_HEADER.to_owned()));
}

#[test]
fn whatever_is_changed_is_refused() {
    let mismatch = "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
                    Access Key and signing method. Consult the service documentation for details.";
    type Change = fn(&mut Sent);
    let changes: [(&str, Change); 8] = [
        ("body", |sent| sent.body.push(b' ')),
        ("method", |sent| sent.method = "PUT".into()),
        ("path", |sent| sent.path = "/x".into()),
        ("query", |sent| sent.query = "a=b".into()),
        ("target", |sent| {
            sent.set("x-amz-target", "TrentService.ListKeys")
        }),
        ("host", |sent| sent.set("host", "other")),
        ("region", |sent| {
            let header = sent.authorization().replace("local-host-1", "us-east-1");
            sent.set("authorization", &header);
        }),
        ("signature", |sent| {
            let mut header = sent.authorization();
            let last = header.pop().unwrap();
            header.push(if last == '0' { '1' } else { '0' });
            sent.set("authorization", &header);
        }),
    ];
    for (what, change) in changes {
        let mut sent = sent(&credentials());
        change(&mut sent);
        let error = sent.check().unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequestSignature, "{what}");
        assert_eq!(error.message.as_deref(), Some(mismatch), "{what}");
    }
    let other = Credentials {
        secret: Zeroizing::new("another".into()),
        ..credentials()
    };
    assert_eq!(
        sent(&other).check().unwrap_err().message.as_deref(),
        Some(mismatch)
    );
}

#[test]
fn clocks_may_be_five_minutes_apart() {
    let sent = sent(&credentials());
    for apart in [-300_000, 0, 300_000, 300_999] {
        assert!(sent.check_at(NOW + apart).is_ok(), "{apart}");
    }
    let error = sent.check_at(NOW + 301_000).unwrap_err();
    assert_eq!(
        error.message.as_deref(),
        Some(
            "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T124101Z - 5 min.)"
        )
    );
    let error = sent.check_at(NOW - 301_000).unwrap_err();
    assert_eq!(
        error.message.as_deref(),
        Some(
            "Signature not yet current: 20150830T123600Z is still later than 20150830T123559Z (20150830T123059Z + 5 min.)"
        )
    );
}

#[test]
fn the_body_is_what_its_header_says() {
    let mut one = sent(&credentials());
    for value in [
        "UNSIGNED-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        &hash(b"other"),
    ] {
        one.set(CONTENT_HEADER, value);
        let error = one.check().unwrap_err();
        assert_eq!(error.code, ErrorCode::IncompleteSignature, "not signed");
        let header = one
            .authorization()
            .replace("content-type;", "content-type;x-amz-content-sha256;");
        let mut signed = one.clone();
        signed.set("authorization", &header);
        let error = signed.check().unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequestSignature);
        assert!(
            error
                .message
                .unwrap()
                .contains("is not the SHA-256 of the body")
        );
    }
}

#[test]
fn what_a_signature_lacks_is_said() {
    let error = |change: &dyn Fn(&mut Sent)| {
        let mut sent = sent(&credentials());
        change(&mut sent);
        let error = sent.check().unwrap_err();
        (error.code, error.message.unwrap())
    };
    let edit = |from: &'static str, to: &'static str| {
        move |sent: &mut Sent| {
            let header = sent.authorization();
            assert!(header.contains(from), "{header}");
            let header = header.replace(from, to);
            sent.set("authorization", &header);
        }
    };
    let (missing, incomplete, invalid) = (
        ErrorCode::MissingAuthenticationToken,
        ErrorCode::IncompleteSignature,
        ErrorCode::InvalidRequestSignature,
    );
    let none = |sent: &mut Sent| sent.headers.retain(|(name, _)| name != "authorization");
    assert_eq!(
        error(&none),
        (missing, "Missing Authentication Token".into())
    );
    let (code, text) = error(&edit("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"));
    assert_eq!(
        (code, text.as_str()),
        (
            incomplete,
            "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'."
        )
    );
    let (code, text) = error(&|sent: &mut Sent| {
        sent.headers.retain(|(name, _)| name != "x-amz-date");
        sent.set("authorization", "AWS4-HMAC-SHA256 ");
    });
    assert_eq!(code, incomplete);
    assert_eq!(
        text,
        "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. \
         Authorization header requires 'SignedHeaders' parameter. Authorization header requires existence of either a \
         'X-Amz-Date' or a 'Date' header."
    );
    let texts = [
        (
            edit("/aws4_request", ""),
            incomplete,
            "Credential must have exactly 5 slash-delimited elements",
        ),
        (
            edit("/aws4_request", "/aws5"),
            invalid,
            "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5'.",
        ),
        (
            edit("/kms/", "/s3/"),
            invalid,
            "Credential should be scoped to correct service: 'kms'.",
        ),
        (
            edit("/20150830/", "/20150831/"),
            invalid,
            "Date in Credential scope does not match YYYYMMDD",
        ),
        (
            edit("host;", ""),
            incomplete,
            "'Host' or ':authority' must be a 'SignedHeader'",
        ),
        (
            edit(";x-amz-target", ""),
            incomplete,
            "'x-amz-target' must be a 'SignedHeader'",
        ),
        (
            edit("x-amz-date;", ""),
            incomplete,
            "'x-amz-date' must be a 'SignedHeader'",
        ),
        (
            edit("SignedHeaders=", "SignedHeaders=,Signature="),
            incomplete,
            "more than one 'Signature' parameter",
        ),
        (edit("Signature=", "Signature=g"), invalid, "does not match"),
    ];
    for (change, code, text) in texts {
        let (found, said) = error(&change);
        assert_eq!(found, code, "{said}");
        assert!(said.contains(text), "{said} / {text}");
    }
    let twice = |sent: &mut Sent| {
        let header = sent.authorization();
        sent.headers.push(("Authorization".into(), header.into()));
    };
    assert_eq!(error(&twice).0, incomplete);
    let no_date = |sent: &mut Sent| sent.set("x-amz-date", "Sun, 30 Aug 2015 12:36:00 GMT");
    assert!(
        error(&no_date)
            .1
            .starts_with("Date must be in ISO-8601 'basic format'.")
    );
}

#[test]
fn times_are_those_of_the_calendar() {
    for (text, ms) in [
        ("19700101T000000Z", 0),
        (STAMP, NOW),
        ("20000229T235959Z", 951_868_799_000),
        ("19691231T235959Z", -1000),
        ("99991231T235959Z", 253_402_300_799_000),
    ] {
        assert_eq!(time::parse(text), Some(ms), "{text}");
        assert_eq!(time::format(ms), text);
    }
    for text in [
        "20150230T000000Z",
        "20150830T240000Z",
        "2015-08-30T12:36:00Z",
        "20150830T123600",
        "2015083+T123600Z",
        "",
    ] {
        assert_eq!(time::parse(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn any_request_is_accepted_as_it_was_signed(
        path in "/[a-z%0-9./é ]{0,30}",
        query in "[a-zA-Z0-9=&%+/é ]{0,40}",
        value in "[ -~]{0,40}",
        body in proptest::collection::vec(any::<u8>(), 0..100),
        now in 0i64..4_000_000_000_000,
    ) {
        let headers: Vec<(&str, &[u8])> = vec![("host", b"h"), ("x-other", value.as_bytes())];
        let request = Signable { method: "POST", path: &path, query: &query, headers: &headers, body: &body };
        let signature = sign(&request, &credentials(), "r-1", now);
        let mut headers = headers.clone();
        headers.push(("X-Amz-Date", signature.date.as_bytes()));
        headers.push(("Authorization", signature.authorization.as_bytes()));
        let request = Signable { headers: &headers, ..request };
        let signed = Signed::read(&request).unwrap();
        let key = SigningKey::derive(SECRET, &signed.date, "r-1", SERVICE);
        prop_assert_eq!(signed.verify(&request, &key, now), Ok(()));
        let other = Signable { body: b"another body", ..request };
        prop_assert!(signed.verify(&other, &key, now).is_err());
    }

    /// Nothing that a client sends ends the daemon, and canonical is canonical.
    #[test]
    fn nothing_makes_it_panic(
        header in proptest::collection::vec(any::<u8>(), 0..200),
        parts in "(AWS4-HMAC-SHA256 )?(Credential=[ -~é]{0,40},? ?|SignedHeaders=[a-z;-]{0,30},? ?|Signature=[0-9a-f]{0,70},? ?){0,4}",
        date in "[0-9TZé]{0,20}",
        path in any::<String>(),
        query in any::<String>(),
    ) {
        for value in [header.as_slice(), parts.as_bytes()] {
            let headers: Vec<(&str, &[u8])> =
                vec![("Authorization", value), ("X-Amz-Date", date.as_bytes()), ("Host", &header)];
            let request = Signable { method: "POST", path: &path, query: &query, headers: &headers, body: &header };
            if let Ok(signed) = Signed::read(&request) {
                let key = SigningKey::derive(SECRET, &signed.date, &signed.region, SERVICE);
                prop_assert!(signed.verify(&request, &key, 0).is_err());
            }
            let _ = canonical::request(&request, &["host"]);
        }
        let once = canonical::query(&query);
        prop_assert_eq!(canonical::query(&once), once);
        let _ = time::parse(&date);
    }
}
