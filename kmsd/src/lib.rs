//! kmsd: a key management daemon with the AWS KMS API, its root key sealed to a TPM 2.0.
//!
//! In the order a request goes: [`listen`] accepts connections, [`auth`] says who is asking, `api`
//! decodes and encodes, a [`service::Service`] answers: [`engine`] over [`storage`].

#![deny(unsafe_code)]

mod api;
pub mod auth;
pub mod clock;
pub mod config;
pub mod engine;
pub mod listen;
pub mod log;
pub mod notify;
pub mod service;
pub mod storage;
mod sys;
