//! Witnesses (c2sp.org/tlog-witness): a small one over real HTTP, on a Unix socket and on TCP, which verifies the proofs it is
//! given by itself, and what kmsd makes of its answers.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use data_encoding::{BASE64, HEXLOWER};
use kms_core::audit::keys::Keys;
use kms_core::audit::note::{KIND_COSIGNATURE, Note, Signature, VerifierKey};
use kms_core::audit::tree::verify_consistency;
use kms_crypto::Key;
use kms_tests::daemon::path_text;
use kms_tests::world::World;
use kms_tests::{cli, require, wait};
use serde_json::{Value, json};

/// What the witness is to do instead of its work.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Works,
    /// Answers with an error.
    Fails,
    /// Signs something else.
    Lies,
}

/// What a witness remembers of a log, and what it was asked.
struct Memory {
    size: u64,
    root: [u8; 32],
    mood: Mood,
    keys: Option<Keys>,
    /// The old size of each request, and the status of the answer.
    asked: Vec<(u64, u16)>,
}

#[derive(Clone)]
struct Witness {
    seed: [u8; 32],
    key: VerifierKey,
    memory: Arc<Mutex<Memory>>,
}

impl Witness {
    fn new(name: &str, seed: u8) -> Self {
        let seed = [seed; 32];
        let public = kms_crypto::ed25519_public(&Key::from_slice(&seed).unwrap()).unwrap();
        Self {
            seed,
            key: VerifierKey {
                name: name.to_owned(),
                kind: KIND_COSIGNATURE,
                public,
            },
            memory: Arc::new(Mutex::new(Memory {
                size: 0,
                root: [0; 32],
                mood: Mood::Works,
                keys: None,
                asked: Vec::new(),
            })),
        }
    }

    fn on_socket(&self, path: &Path) {
        let listener = UnixListener::bind(path).unwrap();
        let this = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                this.serve(stream.unwrap());
            }
        });
    }

    fn on_port(&self) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let this = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                this.serve(stream.unwrap());
            }
        });
        port
    }

    fn set(&self, change: impl FnOnce(&mut Memory)) {
        change(&mut self.memory.lock().unwrap());
    }

    fn get<T>(&self, look: impl FnOnce(&Memory) -> T) -> T {
        look(&self.memory.lock().unwrap())
    }

    fn serve(&self, mut stream: impl Read + Write) {
        let mut request = Vec::new();
        let mut piece = [0; 4096];
        let body = loop {
            let count = stream.read(&mut piece).unwrap();
            request.extend_from_slice(&piece[..count]);
            let text = String::from_utf8(request.clone()).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                assert!(count > 0, "cut off: {text}");
                continue;
            };
            assert!(
                head.starts_with("POST /log/add-checkpoint HTTP/1."),
                "{head}"
            );
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "))
                .unwrap()
                .parse()
                .unwrap();
            if body.len() == length {
                break body.to_owned();
            }
            assert!(count > 0, "cut off: {text}");
        };
        let (status, kind, answer) = self.add_checkpoint(&body);
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            answer.len()
        );
        // Who asked may be gone.
        let _ = stream.write_all((head + &answer).as_bytes());
    }

    fn add_checkpoint(&self, body: &str) -> (u16, &'static str, String) {
        let mut memory = self.memory.lock().unwrap();
        let (proof, note) = body.split_once("\n\n").unwrap();
        let mut proof = proof.lines();
        let old: u64 = proof
            .next()
            .unwrap()
            .strip_prefix("old ")
            .unwrap()
            .parse()
            .unwrap();
        let hash =
            |text: &str| <[u8; 32]>::try_from(BASE64.decode(text.as_bytes()).unwrap()).unwrap();
        let proof: Vec<[u8; 32]> = proof.map(hash).collect();
        assert!(proof.len() <= 63);
        let note = Note::parse(note.as_bytes()).unwrap();
        let (status, kind, answer) = self.judge(&mut memory, old, &proof, &note);
        memory.asked.push((old, status));
        (status, kind, answer)
    }

    fn judge(
        &self,
        memory: &mut Memory,
        old: u64,
        proof: &[[u8; 32]],
        note: &Note,
    ) -> (u16, &'static str, String) {
        const PLAIN: &str = "text/plain";
        let mut lines = note.text().lines();
        let origin = lines.next().unwrap();
        let size: u64 = lines.next().unwrap().parse().unwrap();
        let root = BASE64.decode(lines.next().unwrap().as_bytes()).unwrap();
        let root = <[u8; 32]>::try_from(root).unwrap();
        let Some(keys) = memory.keys.as_ref().filter(|keys| keys.origin == origin) else {
            return (404, PLAIN, String::new());
        };
        let signed = keys
            .keys()
            .iter()
            .any(|key| matches!(key.verifier.verify(note), Some(Ok(None))));
        if !signed {
            return (403, PLAIN, String::new());
        }
        if memory.mood == Mood::Fails {
            return (500, PLAIN, String::new());
        }
        if old != memory.size {
            return (409, "text/x.tlog.size", format!("{}\n", memory.size));
        }
        let grew = match memory.size {
            0 => proof.is_empty(),
            known => verify_consistency((known, &memory.root), (size, &root), proof),
        };
        if !grew {
            return (422, PLAIN, String::new());
        }
        (memory.size, memory.root) = (size, root);
        let time = 1_764_000_000 + size;
        let text = match memory.mood {
            Mood::Lies => "something else\n",
            _ => note.text(),
        };
        let message = format!("cosignature/v1\ntime {time}\n{text}");
        let signature =
            kms_crypto::ed25519_sign(&Key::from_slice(&self.seed).unwrap(), message.as_bytes());
        let line = Signature {
            name: self.key.name.clone(),
            id: self.key.id(),
            bytes: [time.to_be_bytes().as_slice(), &signature.unwrap()].concat(),
        };
        // A line of somebody else is to be ignored.
        let other = Signature {
            name: "witness.example/other".to_owned(),
            id: [1, 2, 3, 4],
            bytes: vec![7; 72],
        };
        (200, PLAIN, format!("{other}\n{line}\n"))
    }
}

/// A kmsd that is not started yet and has these witnesses.
fn world(witnesses: &[(String, &Witness)]) -> World {
    let world = World::enrolled();
    let mut config = fs::read_to_string(world.daemon.config()).unwrap();
    config += "\n[audit]\ncheckpoint_interval = 3600\n";
    for (url, witness) in witnesses {
        config += &format!(
            "\n[[audit.witness]]\nurl = {url:?}\nkey = \"{}\"\n",
            witness.key
        );
    }
    config += &format!("\n[metrics]\nsocket = {:?}\n", world.path("metrics.sock"));
    fs::write(world.daemon.config(), config).unwrap();
    world
}

fn keys(world: &World) -> Keys {
    let path = world.daemon.store().join("audit/keys.json");
    let text = wait::until("the public keys", wait::PATIENCE, || fs::read(&path).ok());
    Keys::parse(&text).unwrap()
}

fn checkpoint(world: &World) -> Value {
    world.kmsctl(&["--json", "audit", "checkpoint"]).ok().json()
}

/// Waits until the witness has cosigned what the checkpoint covers.
fn cosigned(world: &World, witness: &Witness, checkpoint: &Value) {
    let records = checkpoint["records"].as_u64().unwrap();
    let sample = format!(
        "kmsd_audit_witness_behind_records{{witness=\"{}\"}} 0",
        witness.key.name
    );
    wait::until_true("the cosignature", wait::PATIENCE, || {
        witness.get(|memory| memory.size >= records) && metrics(world).contains(&sample)
    });
}

fn metrics(world: &World) -> String {
    let mut stream = std::os::unix::net::UnixStream::connect(world.path("metrics.sock")).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: k\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn warnings(world: &World) -> String {
    world.call_local("GetStatus", &json!({}))["Warnings"].to_string()
}

fn verify(world: &World, witness: &Witness) -> Value {
    let directory = world.daemon.store().join("audit");
    let key = witness.key.to_string();
    let arguments = [
        "--json",
        "audit",
        "verify",
        "--directory",
        path_text(&directory),
        "--witness-key",
        &key,
    ];
    cli::run("kmsctl", &arguments, None).json()
}

#[test]
fn witnesses_cosign_checkpoints_whatever_happens_in_between() {
    if !require::tpm() {
        return;
    }
    let (near, far) = (
        Witness::new("witness.example/near", 7),
        Witness::new("witness.example/far", 8),
    );
    let port = far.on_port();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("w");
    near.on_socket(&socket);
    let mut world = world(&[
        (format!("unix:{}:/log", socket.display()), &near),
        (format!("http://127.0.0.1:{port}/log/"), &far),
    ]);
    world.daemon.start();

    // Nobody has told the witnesses of this log.
    let first = checkpoint(&world);
    wait::until_true("a warning", wait::PATIENCE, || {
        warnings(&world).contains("it does not know this log")
    });
    let known = keys(&world);
    for witness in [&near, &far] {
        witness.set(|memory| memory.keys = Some(known.clone()));
    }
    // Such a failure is tried again after minutes; a start begins anew, with the checkpoint that is there.
    world.daemon.stop();
    world.daemon.start();
    cosigned(&world, &near, &first);
    cosigned(&world, &far, &first);
    assert!(
        !warnings(&world).contains("witness"),
        "{}",
        warnings(&world)
    );

    // The proof goes from what they cosigned to the next; kmsd knows it also after a restart.
    world.key("alias/one");
    cosigned(&world, &near, &checkpoint(&world));
    let before = near.get(|memory| memory.size);
    world.daemon.stop();
    near.set(|memory| memory.asked.clear());
    world.daemon.start();
    world.key("alias/two");
    let third = checkpoint(&world);
    cosigned(&world, &near, &third);
    let asked = near.get(|memory| memory.asked.clone());
    assert!(
        asked
            .iter()
            .all(|(old, status)| *old >= before && *status == 200),
        "{asked:?}"
    );

    // One fails for a while; requests and the other witness do not wait for it.
    near.set(|memory| memory.mood = Mood::Fails);
    world.key("alias/three");
    let fourth = checkpoint(&world);
    cosigned(&world, &far, &fourth);
    assert!(near.get(|memory| memory.size) < fourth["records"].as_u64().unwrap());
    near.set(|memory| memory.mood = Mood::Works);
    cosigned(&world, &near, &fourth);

    // One has lost its memory and begins anew; one was put back to an earlier state.
    near.set(|memory| (memory.size, memory.root) = (0, [0; 32]));
    let old = far.get(|memory| (memory.size, memory.root));
    world.key("alias/four");
    cosigned(&world, &near, &checkpoint(&world));
    cosigned(&world, &far, &checkpoint(&world));
    far.set(|memory| (memory.size, memory.root) = old);
    world.key("alias/five");
    let last = checkpoint(&world);
    cosigned(&world, &near, &last);
    cosigned(&world, &far, &last);
    assert!(far.get(|memory| memory.asked.contains(&(old.0, 200))));

    // Whoever verifies with the witness's key sees up to where it vouches.
    world.daemon.stop();
    for witness in [&near, &far] {
        let said = verify(&world, witness);
        assert_eq!(said["sound"], true, "{said}");
        let number = said["cosigned"].as_array().unwrap().last().unwrap();
        assert_eq!(number["witness"], witness.key.name);
        assert!(
            number["checkpoint"].as_u64() >= last["checkpoint"].as_u64(),
            "{said}"
        );
    }
    // A cosignature under another name or time does not count.
    let path = world.daemon.store().join("audit/cosigned");
    let text = fs::read_to_string(&path).unwrap();
    let line = text.lines().rfind(|line| line.contains("/far ")).unwrap();
    let mut bytes = BASE64
        .decode(line.rsplit(' ').next().unwrap().as_bytes())
        .unwrap();
    bytes[11] ^= 1;
    let altered = format!("\u{2014} {} {}", far.key.name, BASE64.encode(&bytes));
    fs::write(&path, text.replacen(line, &altered, 1)).unwrap();
    assert_eq!(verify(&world, &far)["sound"], false);
    assert_eq!(verify(&world, &near)["sound"], true);
}

#[test]
fn a_witness_that_contradicts_the_log_is_told_of_and_one_that_lies_is_not_believed() {
    if !require::tpm() {
        return;
    }
    let witness = Witness::new("witness.example/w", 9);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("w");
    witness.on_socket(&socket);
    let url = format!("unix:{}:/log", socket.display());
    let mut world = world(&[(url, &witness)]);
    world.daemon.start();
    let known = keys(&world);
    witness.set(|memory| memory.keys = Some(known));

    // It signs something else: nothing is kept of it.
    witness.set(|memory| memory.mood = Mood::Lies);
    checkpoint(&world);
    wait::until_true("a lie", wait::PATIENCE, || {
        let made = checkpoint(&world);
        made["witnesses"][0]["error"]
            .to_string()
            .contains("does not fit the checkpoint")
    });
    let cosigned_file = world.daemon.store().join("audit/cosigned");
    assert!(!cosigned_file.exists());
    witness.set(|memory| memory.mood = Mood::Works);
    let made = checkpoint(&world);
    cosigned(&world, &witness, &made);
    let notes = fs::read_to_string(&cosigned_file).unwrap();
    assert!(notes.contains(&witness.key.name), "{notes}");
    assert!(!notes.contains("witness.example/other"), "{notes}");

    let conflict = |text: &str| {
        world.key(&format!("alias/{}", HEXLOWER.encode(&text.as_bytes()[..4])));
        checkpoint(&world);
        wait::until_true(text, wait::PATIENCE, || warnings(&world).contains(text));
        let found = [
            "--json",
            "audit",
            "search",
            "--operation",
            "AuditWitnessConflict",
        ];
        let found = world.kmsctl(&found).ok().stdout;
        assert!(found.contains(text), "{found}");
    };
    // It remembers another log under this name: this one was rewritten.
    witness.set(|memory| memory.root[0] ^= 1);
    conflict("is not the beginning of this log");
    witness.set(|memory| memory.root[0] ^= 1);
    // It remembers a longer one: this one was put back.
    world.daemon.stop();
    witness.set(|memory| memory.size += 1000);
    world.daemon.start();
    checkpoint(&world);
    let text = "the log was put back or cut";
    wait::until_true(text, wait::PATIENCE, || warnings(&world).contains(text));
    // Requests do not care.
    world.key("alias/after");
    world.daemon.stop();
}
