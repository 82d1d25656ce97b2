//! Whole-system tests: real swtpm, real mounts, real clients.
