//! Errors as clients see them: code, HTTP status and the exact JSON body AWS sends.

use std::fmt;

use serde_json::{Map, Value};

macro_rules! error_codes {
    ($( $(#[$doc:meta])* $variant:ident = $wire:literal, $status:literal; )*) => {
        /// Error codes of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $( $(#[$doc])* $variant, )* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [ErrorCode] = &[ $( ErrorCode::$variant, )* ];

            /// The name on the wire (`__type`).
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $wire, )* }
            }

            /// The HTTP status it is sent with.
            pub fn http_status(self) -> u16 {
                match self { $( Self::$variant => $status, )* }
            }

            /// The code with that name on the wire.
            pub fn from_wire(name: &str) -> Option<Self> {
                match name { $( $wire => Some(Self::$variant), )* _ => None }
            }
        }
    };
}

error_codes! {
    /// The caller may not do this.
    AccessDenied = "AccessDeniedException", 400;
    /// The alias (or other name) is taken.
    AlreadyExists = "AlreadyExistsException", 400;
    /// Another operation on the same thing is in progress.
    Conflict = "ConflictException", 400;
    /// No such custom key store.
    CustomKeyStoreNotFound = "CustomKeyStoreNotFoundException", 400;
    /// Something kmsd depends on did not answer in time.
    DependencyTimeout = "DependencyTimeoutException", 500;
    /// The key is disabled.
    Disabled = "DisabledException", 400;
    /// The request would have succeeded but was a dry run.
    DryRunOperation = "DryRunOperationException", 400;
    /// The signature of the request lacks something.
    IncompleteSignature = "IncompleteSignatureException", 400;
    /// The import token is too old.
    ExpiredImportToken = "ExpiredImportTokenException", 400;
    /// Not the key material that was imported before, or not what the key takes.
    IncorrectKeyMaterial = "IncorrectKeyMaterialException", 400;
    /// The import token is none, or another key's.
    InvalidImportToken = "InvalidImportTokenException", 400;
    /// Not the key the ciphertext was made under.
    IncorrectKey = "IncorrectKeyException", 400;
    /// kmsd failed.
    Internal = "KMSInternalException", 500;
    /// Alias name not allowed.
    InvalidAliasName = "InvalidAliasNameException", 400;
    /// Malformed ARN, or one that this operation does not take.
    InvalidArn = "InvalidArnException", 400;
    /// Ciphertext or encryption context is not what was produced.
    InvalidCiphertext = "InvalidCiphertextException", 400;
    /// Grant id not valid.
    InvalidGrantId = "InvalidGrantIdException", 400;
    /// Grant token not valid.
    InvalidGrantToken = "InvalidGrantTokenException", 400;
    /// Key usage or algorithm does not fit the operation.
    InvalidKeyUsage = "InvalidKeyUsageException", 400;
    /// Marker was not returned by this operation.
    InvalidMarker = "InvalidMarkerException", 400;
    /// The HMAC is not that of the message.
    InvalidMac = "KMSInvalidMacException", 400;
    /// The signature is not that of the message.
    InvalidSignature = "KMSInvalidSignatureException", 400;
    /// The signature of the request is another than it should be, too old, or for something else.
    InvalidRequestSignature = "InvalidSignatureException", 400;
    /// The state of the key does not allow the operation.
    InvalidState = "KMSInvalidStateException", 400;
    /// The key cannot be used right now.
    KeyUnavailable = "KeyUnavailableException", 500;
    /// A quota was reached.
    LimitExceeded = "LimitExceededException", 400;
    /// Key policy not valid.
    MalformedPolicyDocument = "MalformedPolicyDocumentException", 400;
    /// A request over the network is not signed.
    MissingAuthenticationToken = "MissingAuthenticationTokenException", 400;
    /// No such key, alias, volume or policy.
    NotFound = "NotFoundException", 400;
    /// The request did not arrive in time.
    RequestTimeout = "RequestTimeoutException", 408;
    /// The request body is larger than the limit.
    RequestTooLarge = "RequestEntityTooLargeException", 413;
    /// The body is not the JSON the operation takes.
    Serialization = "SerializationException", 400;
    /// kmsd is shutting down or serves too many connections.
    ServiceUnavailable = "ServiceUnavailableException", 503;
    /// Tags not valid.
    Tag = "TagException", 400;
    /// Too many requests.
    Throttling = "ThrottlingException", 400;
    /// No such operation.
    UnknownOperation = "UnknownOperationException", 400;
    /// No such access key, or one that is disabled; or a session token.
    UnrecognizedClient = "UnrecognizedClientException", 400;
    /// The operation does not apply to this key, or kmsd does not have it.
    UnsupportedOperation = "UnsupportedOperationException", 400;
    /// A member of the request breaks a constraint.
    Validation = "ValidationException", 400;
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The code.
    pub code: ErrorCode,
    /// The text; some codes never carry one.
    pub message: Option<String>,
}

impl ApiError {
    /// An error with a text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: Some(message.into()),
        }
    }

    /// An error without a text, as AWS sends for `InvalidCiphertextException` and a few others.
    pub fn bare(code: ErrorCode) -> Self {
        Self {
            code,
            message: None,
        }
    }

    /// `ValidationException` with a text.
    pub fn validation(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Validation, message)
    }

    /// `NotFoundException` with a text.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// The JSON body. `AccessDeniedException` spells the member `Message`, all others `message`; an
    /// error without a text has only `__type`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut body = Map::new();
        body.insert("__type".into(), self.code.as_str().into());
        if let Some(message) = &self.message {
            let name = if self.code == ErrorCode::AccessDenied {
                "Message"
            } else {
                "message"
            };
            body.insert(name.into(), message.as_str().into());
        }
        Value::Object(body).to_string().into_bytes()
    }

    /// Reads an error body. `None` when it is not one, or its code is unknown.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        // Some AWS front ends prefix the code with a namespace and '#'.
        let code = value.get("__type")?.as_str()?.rsplit('#').next()?;
        let message = value.get("message").or_else(|| value.get("Message"));
        Some(Self {
            code: ErrorCode::from_wire(code)?,
            message: message.and_then(Value::as_str).map(str::to_owned),
        })
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.as_str())?;
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}
