//! What the fuzz targets do with their bytes. The same functions are called, with bytes from seeds, by `tests/tamper` on
//! the stable compiler; so nothing here needs a fuzzer. Run one with `cargo +nightly fuzz run tree` in the repository's root.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure in here is a finding"
)]

pub mod calls;
pub mod exercise;
pub mod input;
pub mod keys;
pub mod mutate;
pub mod records;
pub mod sample;
pub mod tree;
