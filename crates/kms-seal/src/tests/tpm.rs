//! What only a TPM does.

mod device;
mod foreign;
mod measured;
mod power;
mod wire;
