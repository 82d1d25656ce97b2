//! `kmsd dev`: requests signed with the access keys of the command line, over HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use kms_api::sigv4::{Credentials, Signable, sign};
use serde_json::{Value, json};

use super::*;

const HOME: &str = "us-east-1";
const EVE: &str = "arn:aws:iam::111122223333:user/eve";

/// A running `kmsd dev`.
struct Dev {
    running: Running,
    address: String,
    said: Value,
}

fn start(arguments: &[&str]) -> Dev {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kmsd"))
        .args(["--json", "dev", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .env_remove("NOTIFY_SOCKET")
        .spawn()
        .unwrap();
    let out = child.stdout.take().unwrap();
    let running = Running(child);
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it said {line:?}"));
    let endpoint = said["Endpoint"].as_str().unwrap();
    Dev {
        running,
        address: endpoint.strip_prefix("http://").unwrap().to_owned(),
        said,
    }
}

impl Dev {
    /// Calls an operation with an access key in a Region; the answer, or the error's code.
    fn call(
        &self,
        (id, secret): (&str, &str),
        region: &str,
        operation: &str,
        body: Value,
    ) -> Result<Value, String> {
        let (body, target) = (body.to_string(), format!("TrentService.{operation}"));
        let headers = [
            ("host", self.address.as_bytes()),
            ("content-type", kms_api::CONTENT_TYPE.as_bytes()),
            ("x-amz-target", target.as_bytes()),
        ];
        let request = Signable {
            method: "POST",
            path: "/",
            query: "",
            headers: &headers,
            body: body.as_bytes(),
        };
        let credentials = Credentials {
            access_key_id: id.to_owned(),
            secret: secret.to_owned().into(),
            session_token: None,
        };
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let now = i64::try_from(now.as_millis()).unwrap();
        let signature = sign(&request, &credentials, region, now);
        let mut text = String::from("POST / HTTP/1.1\r\nconnection: close\r\n");
        for (name, value) in headers {
            let value = String::from_utf8_lossy(value);
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!(
            "x-amz-date: {}\r\nauthorization: {}\r\ncontent-length: {}\r\n\r\n{body}",
            signature.date,
            signature.authorization,
            body.len()
        ));
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let json: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        match head.starts_with("HTTP/1.1 200") {
            true => Ok(json),
            false => Err(json["__type"].as_str().unwrap_or(body).to_owned()),
        }
    }

    fn keys(&self, who: (&str, &str), region: &str) -> Vec<Value> {
        let listed = self.call(who, region, "ListKeys", json!({})).unwrap();
        listed["Keys"].as_array().unwrap().clone()
    }
}

#[test]
fn every_region_has_keys_of_its_own_and_nothing_is_left_behind() {
    let mut dev = start(&[]);
    let test = ("test", "test");
    let made = dev.call(test, HOME, "CreateKey", json!({})).unwrap();
    let arn = made["KeyMetadata"]["Arn"].as_str().unwrap();
    assert!(
        arn.starts_with("arn:aws:kms:us-east-1:000000000000:key/"),
        "{arn}"
    );
    let body = json!({"AliasName": "alias/a", "TargetKeyId": arn});
    dev.call(test, HOME, "CreateAlias", body).unwrap();
    let sealed = json!({"KeyId": "alias/a", "Plaintext": "c2VjcmV0"});
    let sealed = dev.call(test, HOME, "Encrypt", sealed).unwrap();
    let blob = json!({"CiphertextBlob": sealed["CiphertextBlob"]});
    let opened = dev.call(test, HOME, "Decrypt", blob).unwrap();
    assert_eq!(opened["Plaintext"], "c2VjcmV0");

    assert!(dev.keys(test, "eu-west-1").is_empty());
    let body = json!({"KeyId": "alias/a", "KeySpec": "AES_256"});
    let elsewhere = dev.call(test, "eu-west-1", "GenerateDataKey", body);
    assert_eq!(elsewhere.unwrap_err(), "NotFoundException");
    let made = dev.call(test, "eu-west-1", "CreateKey", json!({})).unwrap();
    let arn = made["KeyMetadata"]["Arn"].as_str().unwrap();
    assert!(
        arn.starts_with("arn:aws:kms:eu-west-1:000000000000:key/"),
        "{arn}"
    );
    assert_eq!(
        (
            dev.keys(test, HOME).len(),
            dev.keys(test, "eu-west-1").len()
        ),
        (1, 1)
    );

    for wrong in [("test", "tset"), ("nobody", "test")] {
        let refused = dev.call(wrong, HOME, "ListKeys", json!({}));
        assert!(refused.is_err(), "{refused:?}");
    }
    let socket = PathBuf::from(dev.said["Socket"].as_str().unwrap());
    let folder = socket.parent().unwrap().to_owned();
    kms_api::client::Client::new(&socket)
        .send(kms_api::GetStatusRequest {})
        .unwrap();
    assert!(dev.running.terminate().success());
    assert!(!folder.exists());
}

#[test]
fn policies_and_grants_are_enforced_and_a_given_state_is_kept() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("state");
    let eve = format!("eve:x:{EVE}");
    let arguments = [
        "--state",
        path.to_str().unwrap(),
        "--account",
        "111122223333",
        "--access-key",
        "root:s3cret",
        "--access-key",
        &eve,
    ];
    let mut dev = start(&arguments);
    let (root, user) = (("root", "s3cret"), ("eve", "x"));
    let made = dev.call(root, HOME, "CreateKey", json!({})).unwrap();
    let key = made["KeyMetadata"]["KeyId"].clone();
    let arn = made["KeyMetadata"]["Arn"].as_str().unwrap();
    assert!(arn.contains(":111122223333:"), "{arn}");
    let data_key = json!({"KeyId": key, "KeySpec": "AES_256"});
    let refused = dev.call(user, HOME, "GenerateDataKey", data_key.clone());
    assert_eq!(refused.unwrap_err(), "AccessDeniedException");
    let grant = json!({"KeyId": key, "GranteePrincipal": EVE, "Operations": ["GenerateDataKey"]});
    dev.call(root, HOME, "CreateGrant", grant).unwrap();
    dev.call(user, HOME, "GenerateDataKey", data_key.clone())
        .unwrap();
    // Nobody is throttled.
    for _ in 0..300 {
        let refused = dev.call(user, HOME, "CreateKey", json!({}));
        assert_eq!(refused.unwrap_err(), "AccessDeniedException");
    }
    assert!(dev.running.terminate().success());
    assert!(path.join("audit").is_dir());

    let dev = start(&arguments);
    assert_eq!(dev.keys(root, HOME).len(), 1);
    dev.call(user, HOME, "GenerateDataKey", data_key).unwrap();
}
