//! Damaged, swapped, foreign and hostile input: the right error, never a panic, never a hang.

mod disk;
mod wire;
