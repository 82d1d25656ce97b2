//! Wire types, error codes and client of the kmsd API (AWS KMS JSON 1.1).
