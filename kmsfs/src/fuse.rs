//! The transport: requests of the kernel in, calls of [`crate::fs::Fs`] out, and nothing else.
//!
//! This is a server of its own for `/dev/fuse` (ABI 7.38) rather than the crate `fuser`, because
//! fuser 0.18 sends one number both as the node id and as the inode number `stat(2)` shows, drops
//! the kernel's requests to clear set-user-id bits, and hands out written data read-only so that it
//! cannot be encrypted where it lies. The decoding of requests is also what a ring transport needs.
//!
//! * [`session`]: negotiation, from the first request to the end.
//! * `serve`: the threads, and what becomes of a request and its reply while something is revoked; `waiting`: requests that wait for kmsd;
//!   `interrupt`: those that hold up a revocation.
//! * `dispatch`: one request, one operation, one reply; `permit`: on which objects its caller is asked for.
//! * `asked`, `slots`, `undo`: what a revocation needs to know of requests and can do to them.
//! * `request`, `reply`, `abi`: the bytes.
//! * [`notify`]: what the file system tells the kernel, on a thread of its own.

mod abi;
mod asked;
mod dispatch;
mod interrupt;
pub mod notify;
mod opened;
mod permit;
mod reply;
mod request;
mod serve;
pub mod session;
mod slots;
mod undo;
mod waiting;
