//! The operations on a real lower directory, without FUSE and with fixed keys.

mod check;
mod crossing;
mod damage;
mod durable;
mod enumerate;
mod extract;
mod freeze;
mod handles;
mod jobs;
mod mode;
mod model;
mod program;
mod races;
mod reencrypt;
mod reencrypt_dir;
mod revoked;
mod rewrap;
mod sealed;
mod tree;
pub(crate) mod world;
