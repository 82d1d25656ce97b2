//! A kmsd that says what a test wants, over a real Unix socket.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kms_api::{
    ApiError, Blob, ContentMode, CreatePolicyResponse, CreateVolumeResponse, DecryptResponse,
    EncryptionAlgorithm, ErrorCode, GenerateDataKeyResponse, GetPolicyResponse, KeyState,
    PolicySettings, Request, ResourceId,
};
use parking_lot::Mutex;

/// The only key there is.
pub(crate) const ARN: &str = "arn:aws:kms:local-host-1:000000000000:key/1";

/// What the server answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Every policy is given out.
    Answer,
    /// Every policy is refused.
    Refuse(ErrorCode),
    /// Every policy is of this generation.
    Generation(u32),
}

pub(crate) struct FakeKmsd {
    pub(crate) socket: PathBuf,
    pub(crate) mood: Mutex<Mood>,
    pub(crate) policies_asked: AtomicUsize,
    pub(crate) contexts: Mutex<Vec<BTreeMap<String, String>>>,
    /// Content modes of policies; what is not listed is XTS.
    pub(crate) modes: Mutex<BTreeMap<[u8; 16], ContentMode>>,
    connections: Mutex<Vec<UnixStream>>,
}

impl FakeKmsd {
    pub(crate) fn start(socket: PathBuf) -> Arc<FakeKmsd> {
        let server = Arc::new(FakeKmsd {
            socket,
            mood: Mutex::new(Mood::Answer),
            policies_asked: AtomicUsize::new(0),
            contexts: Mutex::default(),
            modes: Mutex::default(),
            connections: Mutex::default(),
        });
        server.listen();
        server
    }

    pub(crate) fn listen(self: &Arc<Self>) {
        let listener = UnixListener::bind(&self.socket).unwrap();
        let server = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let server = Arc::clone(&server);
                let stream = stream.unwrap();
                server.connections.lock().push(stream.try_clone().unwrap());
                std::thread::spawn(move || server.serve(&stream));
            }
        });
    }

    /// Nobody can connect any more, and nobody is connected.
    pub(crate) fn disappear(&self) {
        std::fs::remove_file(&self.socket).unwrap();
        for connection in self.connections.lock().drain(..) {
            drop(connection.shutdown(std::net::Shutdown::Both));
        }
    }

    fn serve(&self, stream: &UnixStream) {
        let mut reader = BufReader::new(stream);
        loop {
            let (mut target, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                let line = line.trim_end().to_owned();
                if line.is_empty() {
                    break;
                }
                if let Some((name, value)) = line.split_once(": ") {
                    match name.to_lowercase().as_str() {
                        "x-amz-target" => target = value.to_owned(),
                        "content-length" => length = value.parse().unwrap(),
                        _ => {}
                    }
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            let (status, answer) = self.answer(&Request::decode(&target, &body).unwrap());
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            let mut out = stream;
            if out.write_all(&[head.as_bytes(), &answer].concat()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &Request) -> (u16, Vec<u8>) {
        let mood = *self.mood.lock();
        match request {
            Request::GetPolicy(request) => {
                self.policies_asked.fetch_add(1, Ordering::SeqCst);
                // Long enough that others arrive meanwhile.
                std::thread::sleep(Duration::from_millis(20));
                let generation = match mood {
                    Mood::Refuse(code) => {
                        let error = ApiError::new(code, format!("{ARN} is not usable"));
                        return (error.code.http_status(), error.to_json());
                    }
                    Mood::Generation(generation) => generation,
                    Mood::Answer => 1,
                };
                if request
                    .generation
                    .is_some_and(|wanted| wanted != generation)
                {
                    let error = ApiError::not_found("that generation is not kept");
                    return (error.code.http_status(), error.to_json());
                }
                let mode = self.modes.lock().get(&request.policy_id.0).copied();
                let row = GetPolicyResponse {
                    policy_id: request.policy_id,
                    key_arn: ARN.into(),
                    content_mode: mode.unwrap_or(ContentMode::Xts),
                    generation,
                    current_generation: generation,
                    older_generations: Vec::new(),
                    policy_secret: Blob::new(vec![7; 32]),
                    key_state: KeyState::Enabled,
                    settings: PolicySettings::default(),
                };
                (200, serde_json::to_vec(&row).unwrap())
            }
            Request::Decrypt(request) => {
                self.contexts
                    .lock()
                    .push(request.encryption_context.clone());
                let opened = DecryptResponse {
                    key_id: ARN.into(),
                    plaintext: Blob::new(vec![9; 32]),
                    encryption_algorithm: EncryptionAlgorithm::SymmetricDefault,
                    key_material_id: Some("material".into()),
                };
                (200, serde_json::to_vec(&opened).unwrap())
            }
            Request::CreateVolume(_) => {
                let volume_id = ResourceId(kms_crypto::random_array().unwrap());
                let made = CreateVolumeResponse { volume_id };
                (200, serde_json::to_vec(&made).unwrap())
            }
            Request::CreatePolicy(request) => {
                let policy = kms_crypto::random_array().unwrap();
                self.modes.lock().insert(policy, request.content_mode);
                let made = CreatePolicyResponse {
                    policy_id: ResourceId(policy),
                    key_arn: ARN.into(),
                    content_mode: request.content_mode,
                    generation: 1,
                    policy_secret: Blob::new(vec![7; 32]),
                };
                (200, serde_json::to_vec(&made).unwrap())
            }
            Request::GenerateDataKey(_) => {
                let made = GenerateDataKeyResponse {
                    ciphertext_blob: Blob::new(vec![1, 2, 3]),
                    plaintext: Blob::new(vec![9; 32]),
                    key_id: ARN.into(),
                    key_material_id: Some("material".into()),
                };
                (200, serde_json::to_vec(&made).unwrap())
            }
            other => panic!("unexpected {}", other.operation()),
        }
    }
}
