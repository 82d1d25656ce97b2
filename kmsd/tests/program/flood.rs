//! Users who ask for nothing but records: what they are not allowed, again and again, or nothing that can be read.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::thread;

use kms_api::client::{Client, ClientError};
use kms_api::{Blob, CreateKeyRequest, ErrorCode, GenerateDataKeyRequest, GetStatusRequest};
use serde_json::Value;

use super::revoke::become_user;
use super::*;

/// Users without a name.
const FLOODING: u32 = 61_301;
const PATIENT: u32 = 61_302;
const BURST: u64 = 150;
const CONNECTIONS: u64 = 8;
const EACH: u64 = 120;

fn world() -> Option<Home> {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: only root can make threads of other users");
        return None;
    }
    let home = Home::new();
    let text = read(&home.path("kmsd.toml")).replace(
        "[store]",
        &format!(
            "socket_mode = \"0666\"\n[audit]\nrefused_burst = {BURST}\nrefused_per_minute = 1\n[store]"
        ),
    );
    fs::write(home.path("kmsd.toml"), text).unwrap();
    let enrolled = home.enroll();
    assert!(enrolled.status.success(), "{}", stderr(&enrolled));
    fs::set_permissions(home.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    Some(home)
}

fn data_key(client: &Client, key: &str) -> Result<Blob, ErrorCode> {
    let request = GenerateDataKeyRequest {
        key_id: key.to_owned(),
        number_of_bytes: Some(32),
        encryption_context: [("why".to_owned(), "z".repeat(3000))].into(),
        key_spec: None,
        grant_tokens: Vec::new(),
        dry_run: false,
    };
    match client.send(request) {
        Ok(response) => Ok(response.ciphertext_blob),
        Err(ClientError::Api(error)) => Err(error.code),
        Err(error) => panic!("{error}"),
    }
}

/// Sends something that no operation can be read from; the code of the answer.
fn garbage(stream: &mut UnixStream) -> String {
    let request = "POST / HTTP/1.1\r\nhost: k\r\nx-amz-target: TrentService.Decrypt\r\ncontent-length: 3\r\n\r\n{x}";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "closed");
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str::<Value>(body)
        {
            return body["__type"].as_str().unwrap().to_owned();
        }
    }
}

/// The records of all files of the log.
fn records(home: &Home) -> Vec<Value> {
    let mut files: Vec<PathBuf> = fs::read_dir(home.path("store/audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    files.sort();
    let lines: String = files.iter().map(|path| read(path)).collect();
    lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["record"].take())
        .collect()
}

#[test]
fn a_flood_of_refused_requests_fills_no_log_and_hinders_nobody_else() {
    let Some(home) = world() else { return };
    let mut kmsd = home.start();
    let client = home.client();
    let key = client.send(CreateKeyRequest::default()).unwrap();
    let key = key.key_metadata.key_id;
    let floods: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (home, key) = (home.path("kmsd.sock"), key.clone());
            thread::spawn(move || {
                become_user(FLOODING);
                let mut answers = HashMap::<String, u64>::new();
                let client = Client::new(&home);
                let mut stream = UnixStream::connect(&home).unwrap();
                for _ in 0..EACH {
                    let code = if number % 2 == 0 {
                        data_key(&client, &key).unwrap_err().as_str().to_owned()
                    } else {
                        garbage(&mut stream)
                    };
                    *answers.entry(code).or_default() += 1;
                }
                answers
            })
        })
        .collect();
    let mut answers = HashMap::<String, u64>::new();
    for flood in floods {
        for (code, count) in flood.join().unwrap() {
            *answers.entry(code).or_default() += count;
        }
    }
    let not_answered = answers.remove("ThrottlingException").unwrap_or_default();
    let answered: u64 = answers.values().sum();
    assert_eq!(answered + not_answered, CONNECTIONS * EACH);
    // Requests that are under way at the same moment may all find the last token, and a minute brings another one.
    let most = BURST + CONNECTIONS + 2;
    assert!(
        (BURST..=most).contains(&answered),
        "{answered}: {answers:?}"
    );
    assert!(
        answers.contains_key("SerializationException"),
        "{answers:?}"
    );

    // Neither another user nor root notices.
    let socket = home.path("kmsd.sock");
    let other = key.clone();
    let patient = thread::spawn(move || {
        become_user(PATIENT);
        data_key(&Client::new(socket), &other).unwrap_err()
    });
    assert_eq!(patient.join().unwrap(), ErrorCode::AccessDenied);
    for _ in 0..2 * BURST {
        data_key(&client, "alias/not-there").unwrap_err();
    }
    data_key(&client, &key).unwrap();
    client.send(GetStatusRequest {}).unwrap();

    assert!(kmsd.terminate().success());
    let all = records(&home);
    let of = |uid: u32| all.iter().filter(move |one| one["caller"]["uid"] == uid);
    assert_eq!(
        of(FLOODING).count() as u64,
        answered,
        "every answer has its record"
    );
    assert_eq!(of(PATIENT).count(), 1);
    let told: u64 = all
        .iter()
        .filter(|one| one["operation"] == "RequestsNotAnswered")
        .inspect(|one| assert_eq!(one["details"]["uid"], FLOODING))
        .map(|one| one["details"]["requests"].as_u64().unwrap())
        .sum();
    assert_eq!(told, not_answered);
    for one in of(FLOODING) {
        let length = one.to_string().len();
        assert!(length < 2048, "{length} bytes: {one}");
    }
}
