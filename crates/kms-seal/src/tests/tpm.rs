//! What only a TPM does.

mod attest;
mod device;
mod foreign;
mod measured;
mod power;
mod wire;
