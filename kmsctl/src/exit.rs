//! Exit codes, promised in `kmsctl help exit-codes` and docs/OPERATIONS.md, and what leads to each.

use std::fmt;
use std::io;
use std::process::ExitCode;

use kms_api::client::ClientError;
use kms_api::{ApiError, ErrorCode};

/// How kmsctl ends. `kmsctl tpm …` ends with the status of kmsd instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// Something local failed: a file, a program, the terminal.
    Local = 1,
    /// The command line is wrong.
    Usage = 2,
    /// kmsd cannot be reached or did not answer in time.
    Unreachable = 3,
    /// The caller may not do this.
    Denied = 4,
    /// No such key, alias, volume or policy.
    NotFound = 5,
    /// The state of the key does not allow it.
    KeyState = 6,
    /// kmsd refused the request as wrong or not supported.
    Invalid = 7,
    /// The ciphertext, its context or its key is not the right one.
    Ciphertext = 8,
    /// The name is taken, or a limit is reached.
    Conflict = 9,
    /// kmsd failed, or is shutting down.
    Server = 10,
    /// The answer was not understood.
    Protocol = 11,
    /// The mount or encrypted directory is not in a state that allows it.
    FileSystem = 12,
    /// `fs check`: damage was found, and all of it was repaired or moved out of the way.
    Repaired = 13,
    /// `fs check`: damage is left.
    Damaged = 14,
    /// `fs check`: nothing is damaged, but not everything could be checked.
    Unchecked = 15,
    /// `fs import`, `fs extract`: done in part; what could not be done is named.
    Partial = 16,
    /// `policy check --strict`, `lint`: there is something to look at.
    Findings = 17,
    /// `audit verify`, `audit check-proof`: something was tampered with.
    Tampered = 18,
    /// `policy simulate`, `fs why-denied`: it would be denied.
    WouldBeDenied = 19,
}

/// The table of exit codes for the help text.
pub const TABLE: &str = "\
Exit codes:
   0  done
   1  something local failed: a file, a program, the terminal
   2  the command line is wrong
   3  kmsd cannot be reached on its socket, or did not answer in time
   4  access denied: no policy or grant allows it, or one denies it
   5  no such key, alias, volume or policy
   6  the state of the key does not allow it (disabled, pending deletion)
   7  the request is wrong or not supported
   8  the ciphertext, its encryption context or its key is not the right one
   9  the name is taken, or a limit is reached
  10  kmsd failed or is shutting down
  11  the answer was not understood: kmsctl and kmsd do not fit together
  12  fs: the mount or the encrypted directory does not allow it
  13  fs check: there was damage; all of it was repaired or moved out of the way
  14  fs check: there is damage
  15  fs check: no damage, but not everything could be checked
  16  fs import, fs extract: done in part; what could not be done is named
  17  policy check --strict, lint: there is something to look at
  18  audit verify, audit check-proof: something was tampered with; the first wrong place is named
  19  policy simulate, fs why-denied: it would be denied

`kmsctl tpm ...` ends with the status of kmsd: 20 and up for the TPM and the sealed root key, see
docs/OPERATIONS.md.";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failed command: what happened, and what to do next.
#[derive(Debug)]
pub struct Failure {
    /// How kmsctl ends.
    pub exit: Exit,
    /// The API's error code, when kmsd answered with an error.
    pub code: Option<&'static str>,
    /// What happened, to what.
    pub message: String,
    /// What to do next.
    pub next_step: Option<String>,
}

impl Failure {
    /// A failure with a text.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: None,
            message: message.into(),
            next_step: None,
        }
    }

    /// The same with what to do next.
    #[must_use]
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next_step = Some(step.into());
        self
    }

    /// A failure of something local.
    pub fn local(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(Exit::Local, format!("{what}: {error}"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match &error {
            ClientError::Api(api) => from_api(api),
            ClientError::Unreachable { source, socket } => {
                let failure = Self::new(Exit::Unreachable, message);
                match source.kind() {
                    io::ErrorKind::PermissionDenied => failure.next(format!(
                        "Run kmsctl as root or as a member of the group of {} (see `ls -l`).",
                        socket.display()
                    )),
                    io::ErrorKind::TimedOut => failure.next(
                        "Look at `systemctl status kmsd` and `journalctl -u kmsd`; raise --timeout if the host is busy.",
                    ),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => failure.next(
                        "Start it with `systemctl start kmsd`, or name its socket with --socket or KMSD_SOCKET.",
                    ),
                    _ => failure.next("Look at `systemctl status kmsd` and `journalctl -u kmsd`."),
                }
            }
            ClientError::Protocol(_) => Self::new(Exit::Protocol, message).next(
                "Check that --socket is kmsd's and that kmsctl and kmsd are of the same version.",
            ),
            _ => Self::new(Exit::Protocol, message),
        }
    }
}

fn from_api(error: &ApiError) -> Failure {
    let (exit, next) = match error.code {
        ErrorCode::AccessDenied => (
            Exit::Denied,
            Some(
                "`kmsctl whoami` shows whom kmsd takes you for; an administrator asks `kmsctl who-can` and `kmsctl policy simulate`, and changes policies or grants.",
            ),
        ),
        ErrorCode::IncompleteSignature
        | ErrorCode::InvalidRequestSignature
        | ErrorCode::MissingAuthenticationToken
        | ErrorCode::UnrecognizedClient => (
            Exit::Denied,
            Some(
                "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and the clock; `kmsctl access-key list` on kmsd's host shows which keys are active.",
            ),
        ),
        ErrorCode::NotFound | ErrorCode::CustomKeyStoreNotFound => (
            Exit::NotFound,
            Some("List what there is with `kmsctl key list` and `kmsctl alias list`."),
        ),
        ErrorCode::Disabled => (
            Exit::KeyState,
            Some("Enable it with `kmsctl key enable KEY`."),
        ),
        ErrorCode::InvalidState | ErrorCode::KeyUnavailable => (
            Exit::KeyState,
            Some("Look at its state with `kmsctl key describe KEY`."),
        ),
        ErrorCode::InvalidCiphertext => (
            Exit::Ciphertext,
            Some("The ciphertext is damaged, or the --context is not the one given at encryption."),
        ),
        ErrorCode::InvalidSignature | ErrorCode::InvalidMac => (
            Exit::Ciphertext,
            Some("It was not made by this key, with this algorithm, of this message."),
        ),
        ErrorCode::IncorrectKey => (
            Exit::Ciphertext,
            Some("Leave out --key: the ciphertext names its key."),
        ),
        ErrorCode::ExpiredImportToken | ErrorCode::InvalidImportToken => (
            Exit::Invalid,
            Some("Get new parameters for the import, and wrap the material with their public key."),
        ),
        ErrorCode::IncorrectKeyMaterial => (
            Exit::Invalid,
            Some("ListKeyRotations names the materials that the key expects."),
        ),
        ErrorCode::AlreadyExists | ErrorCode::Conflict | ErrorCode::LimitExceeded => {
            (Exit::Conflict, None)
        }
        ErrorCode::Internal | ErrorCode::DependencyTimeout => (
            Exit::Server,
            Some("Look at `journalctl -u kmsd` for the request and its reason."),
        ),
        ErrorCode::ServiceUnavailable | ErrorCode::Throttling | ErrorCode::RequestTimeout => {
            (Exit::Server, Some("Try again."))
        }
        ErrorCode::DryRunOperation
        | ErrorCode::InvalidAliasName
        | ErrorCode::InvalidArn
        | ErrorCode::InvalidGrantId
        | ErrorCode::InvalidGrantToken
        | ErrorCode::InvalidKeyUsage
        | ErrorCode::InvalidMarker
        | ErrorCode::MalformedPolicyDocument
        | ErrorCode::RequestTooLarge
        | ErrorCode::Serialization
        | ErrorCode::Tag
        | ErrorCode::UnknownOperation
        | ErrorCode::UnsupportedOperation
        | ErrorCode::Validation => (Exit::Invalid, None),
    };
    Failure {
        exit,
        code: Some(error.code.as_str()),
        message: error.to_string(),
        next_step: next.map(str::to_owned),
    }
}
