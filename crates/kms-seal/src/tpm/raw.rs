//! Commands in the TPM's own encoding, for what tss-esapi 7.7 lacks: TPM2_NV_Certify, and a key under the endorsement
//! hierarchy in the same conversation.
//!
//! Nothing secret passes here: the keys have no authorisation value, are made inside the chip, and leave it encrypted by
//! it. So no session needs a salt.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use crate::SealError;

pub(super) const RH_NULL: u32 = 0x4000_0007;
pub(super) const RH_ENDORSEMENT: u32 = 0x4000_000b;
const RS_PASSWORD: u32 = 0x4000_0009;
const ST_NO_SESSIONS: u16 = 0x8001;
const ST_SESSIONS: u16 = 0x8002;
/// The chip wants to be asked again: it yielded, tests itself, or had other work.
const RC_AGAIN: [u32; 3] = [0x908, 0x90a, 0x922];
pub(super) const RC_COMMAND_CODE: u32 = 0x143;
const HEADER: usize = 10;
const MAX_ANSWER: usize = 4096;
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// A real chip signs within a second or two, after it has tested itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// A conversation with the chip that libtss2 has no part in.
pub(super) struct Wire {
    transport: Transport,
}

enum Transport {
    Device(File),
    Simulator(TcpStream),
}

/// A command's own response code, or what kept it from coming.
pub(super) enum Refusal {
    Code(u32),
    Broken(SealError),
}

impl From<SealError> for Refusal {
    fn from(error: SealError) -> Self {
        Self::Broken(error)
    }
}

impl Refusal {
    /// As an error of the step `operation`.
    pub(super) fn during(self, operation: &'static str) -> SealError {
        match self {
            Self::Broken(error) => error,
            Self::Code(code) => SealError::Tpm {
                operation,
                reason: format!("response code {code:#x}"),
            },
        }
    }
}

/// The authorisation of a handle.
#[derive(Clone, Copy)]
pub(super) enum Authorization {
    /// An empty authorisation value.
    Empty,
    /// A policy session, used up by the command.
    Policy(u32),
}

/// A command under construction.
pub(super) struct Command {
    code: u32,
    handles: Vec<u8>,
    authorizations: Vec<u8>,
    parameters: Vec<u8>,
}

impl Command {
    pub(super) const fn new(code: u32) -> Self {
        Self {
            code,
            handles: Vec::new(),
            authorizations: Vec::new(),
            parameters: Vec::new(),
        }
    }

    pub(super) fn handle(mut self, handle: u32) -> Self {
        self.handles.extend_from_slice(&handle.to_be_bytes());
        self
    }

    pub(super) fn authorized(mut self, authorization: Authorization) -> Self {
        let session = match authorization {
            Authorization::Empty => RS_PASSWORD,
            Authorization::Policy(session) => session,
        };
        // TPMS_AUTH_COMMAND: handle, no nonce, no attributes, no HMAC. A policy session without a salt and without an
        // authorisation value has none (TPM 2.0 part 1, 19.6.5).
        self.authorizations
            .extend_from_slice(&session.to_be_bytes());
        self.authorizations.extend_from_slice(&[0; 5]);
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.parameters.extend_from_slice(bytes);
        self
    }

    /// A TPM2B.
    pub(super) fn sized(self, bytes: &[u8]) -> Self {
        // What is sent here is far below 64 KiB.
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.bytes(&len.to_be_bytes()).bytes(bytes)
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = self.handles.clone();
        let mut tag = ST_NO_SESSIONS;
        if !self.authorizations.is_empty() {
            tag = ST_SESSIONS;
            let len = u32::try_from(self.authorizations.len()).unwrap_or(u32::MAX);
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(&self.authorizations);
        }
        body.extend_from_slice(&self.parameters);
        let size = u32::try_from(body.len() + HEADER).unwrap_or(u32::MAX);
        [
            tag.to_be_bytes().as_slice(),
            &size.to_be_bytes(),
            &self.code.to_be_bytes(),
            &body,
        ]
        .concat()
    }
}

impl Wire {
    /// Opens the device of the configuration; the first command tells whether somebody answers.
    pub(super) fn open(device: &str) -> Result<Self, SealError> {
        let absent = |reason: String| SealError::NoDevice {
            device: device.to_owned(),
            reason,
        };
        if let Some(path) = device.strip_prefix("device:") {
            let mut attempt = 0;
            loop {
                attempt += 1;
                match OpenOptions::new().read(true).write(true).open(path) {
                    Ok(file) => {
                        let transport = Transport::Device(file);
                        return Ok(Self { transport });
                    }
                    // /dev/tpm0 has one user at a time.
                    Err(error)
                        if error.kind() == std::io::ErrorKind::ResourceBusy
                            && attempt < ATTEMPTS =>
                    {
                        thread::sleep(PAUSE);
                    }
                    Err(error) => return Err(absent(error.to_string())),
                }
            }
        }
        let address = device
            .strip_prefix("swtpm:")
            .ok_or_else(|| absent("neither a device nor a simulator".to_owned()))?;
        let (mut host, mut port) = ("localhost", None);
        for part in address.split(',') {
            match part.split_once('=') {
                Some(("host", value)) => host = value,
                Some(("port", value)) => port = value.parse::<u16>().ok(),
                _ => {}
            }
        }
        let connect = || -> std::io::Result<TcpStream> {
            let stream = TcpStream::connect((host, port.unwrap_or(2321)))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = connect().map_err(|error| absent(error.to_string()))?;
        Ok(Self {
            transport: Transport::Simulator(stream),
        })
    }

    /// Runs a command and gives what comes after the header of its answer.
    pub(super) fn run(&mut self, command: &Command) -> Result<Vec<u8>, Refusal> {
        let bytes = command.encode();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (code, answer) = self.exchange(&bytes)?;
            match code {
                0 => return Ok(answer),
                code if RC_AGAIN.contains(&code) && attempt < ATTEMPTS => thread::sleep(PAUSE),
                code => return Err(Refusal::Code(code)),
            }
        }
    }

    fn exchange(&mut self, command: &[u8]) -> Result<(u32, Vec<u8>), SealError> {
        let broken = |reason: String| SealError::Tpm {
            operation: "to talk to the chip",
            reason,
        };
        let io = |error: std::io::Error| broken(error.to_string());
        let answer = match &mut self.transport {
            // The driver takes and gives whole messages.
            Transport::Device(file) => {
                file.write_all(command).map_err(io)?;
                let mut answer = vec![0; MAX_ANSWER];
                let len = file.read(&mut answer).map_err(io)?;
                answer.truncate(len);
                answer
            }
            Transport::Simulator(stream) => {
                stream.write_all(command).map_err(io)?;
                let mut answer = vec![0; HEADER];
                stream.read_exact(&mut answer).map_err(io)?;
                let size = header(&answer).map_or(0, |(size, _)| size);
                let rest = size.checked_sub(HEADER).filter(|_| size <= MAX_ANSWER);
                let mut body = vec![0; rest.ok_or_else(|| broken("a malformed answer".into()))?];
                stream.read_exact(&mut body).map_err(io)?;
                answer.append(&mut body);
                answer
            }
        };
        match header(&answer) {
            Some((size, code)) if size == answer.len() => {
                Ok((code, answer.get(HEADER..).unwrap_or_default().to_vec()))
            }
            _ => Err(broken("a malformed answer".to_owned())),
        }
    }
}

/// Size and code of an answer.
fn header(answer: &[u8]) -> Option<(usize, u32)> {
    let size = u32::from_be_bytes(answer.get(2..6)?.try_into().ok()?);
    let code = u32::from_be_bytes(answer.get(6..10)?.try_into().ok()?);
    Some((usize::try_from(size).ok()?, code))
}

/// Takes an answer apart.
pub(super) struct Answer<'a>(pub(super) &'a [u8]);

impl<'a> Answer<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], SealError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| SealError::Tpm {
            operation: "to read an answer",
            reason: "it is too short".to_owned(),
        })?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u16(&mut self) -> Result<u16, SealError> {
        let bytes = self.take(2)?;
        Ok(bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u16::from(*byte)))
    }

    pub(super) fn u32(&mut self) -> Result<u32, SealError> {
        let bytes = self.take(4)?;
        Ok(bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    /// A TPM2B.
    pub(super) fn sized(&mut self) -> Result<&'a [u8], SealError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}
