//! The kmsfs format on disk: headers, units, names and sizes, as pure functions of bytes.
