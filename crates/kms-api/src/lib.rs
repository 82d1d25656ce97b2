//! The kmsd API on the wire: AWS KMS JSON 1.1 (`TrentService.*`) and kmsd's own operations (`KmsdLocal.*`).
//!
//! This crate turns bytes into [`Request`]s and [`Response`]s into bytes, and nothing else: it opens no
//! file, reads no clock and knows nothing of the daemon. With the feature `client` it also holds a
//! blocking [`client::Client`] that talks to kmsd over its Unix socket.
//!
//! ```
//! use kms_api::{ErrorCode, Request};
//! let request = Request::decode("TrentService.DescribeKey", br#"{"KeyId":"alias/demo"}"#).unwrap();
//! assert_eq!(request.operation(), "DescribeKey");
//! let error = Request::decode("TrentService.DescribeKey", b"{}").unwrap_err();
//! assert_eq!(error.code, ErrorCode::Validation);
//! ```

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod access;
pub mod access_keys;
pub mod approval;
pub mod asymmetric;
pub mod audit;
pub mod backup;
pub mod blob;
pub mod caller;
pub mod civil;
#[cfg(feature = "client")]
pub mod client;
pub mod destruction;
pub mod enums;
pub mod error;
pub mod file_access;
pub mod generations;
pub mod grants;
pub mod id;
pub mod identity;
pub mod import;
pub mod key_stores;
pub mod lease;
pub mod local;
mod members;
mod multi_region;
pub mod operation;
pub mod policies;
mod recorded;
pub mod request;
pub mod response;
mod scope;
pub mod sigv4;
pub mod timestamp;

pub use access::*;
pub use access_keys::*;
pub use approval::*;
pub use asymmetric::*;
pub use audit::*;
pub use backup::*;
pub use blob::Blob;
pub use caller::{Caller, CallerRole, Network, ProcessFacts, Via};
pub use destruction::*;
pub use enums::*;
pub use error::{ApiError, ErrorCode};
pub use file_access::*;
pub use generations::*;
pub use grants::*;
pub use id::ResourceId;
pub use identity::*;
pub use import::*;
pub use key_stores::*;
pub use lease::*;
pub use local::*;
pub use multi_region::*;
pub use operation::{Operation, Request, Response};
pub use policies::*;
pub use recorded::Members as RecordedMembers;
pub use request::*;
pub use response::*;
pub use scope::Scope;
pub use timestamp::Timestamp;

/// Target prefix of the AWS KMS operations in `X-Amz-Target`.
pub const AWS_PREFIX: &str = "TrentService";
/// Target prefix of kmsd's own operations in `X-Amz-Target`.
pub const LOCAL_PREFIX: &str = "KmsdLocal";
/// Content type of requests and responses.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// Largest request body kmsd accepts, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
