//! What the audit log keeps of a request.
//!
//! Every member except binary ones (plaintext, ciphertext, imported material) and grant tokens: they are left out by
//! the way they are read, so that an operation that is added later keeps none of them either.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Members by the names that CloudTrail has for them.
pub type Members = BTreeMap<String, Value>;

/// Whether a member that is read like this is kept, at compile time.
macro_rules! is_recorded {
    (blob) => {
        false
    };
    (opt_blob) => {
        false
    };
    (grant_tokens) => {
        false
    };
    ($other:ident) => {
        true
    };
}
pub(crate) use is_recorded;

/// Members that are texts and let somebody do something.
const SECRET: [&str; 3] = ["GrantToken", "GrantTokens", "ImportToken"];

/// Adds one member under its name in CloudTrail (`keyId` for `KeyId`).
pub(crate) fn add<T: Serialize>(to: &mut Members, wire: &str, value: &T) {
    if SECRET.contains(&wire) {
        return;
    }
    let name = lower_first(wire);
    if let Ok(value) = serde_json::to_value(value) {
        let value = lowered(&name, value);
        to.insert(name, value);
    }
}

/// Lowers the first letter of the names in `value`, except of those that the caller chose.
fn lowered(name: &str, value: Value) -> Value {
    match value {
        Value::Object(members) if !name.to_ascii_lowercase().contains("encryptioncontext") => {
            members
                .into_iter()
                .map(|(name, value)| {
                    let name = lower_first(&name);
                    let value = lowered(&name, value);
                    (name, value)
                })
                .collect()
        }
        Value::Array(values) => values
            .into_iter()
            .map(|value| lowered(name, value))
            .collect(),
        // Records have no fractions: one number, one spelling.
        Value::Number(number) if number.as_i64().is_none() && number.as_u64().is_none() => {
            Value::String(number.to_string())
        }
        other => other,
    }
}

pub(crate) fn lower_first(name: &str) -> String {
    if name.is_ascii() {
        let mut name = name.to_owned();
        if let Some(first) = name.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        return name;
    }
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(chars).collect()
    })
}

/// Whether the operation changes nothing. A use of a key counts as such, as in CloudTrail.
pub(crate) fn is_read_only(operation: &str) -> bool {
    const PREFIXES: [&str; 20] = [
        // Of what is in force it changes nothing.
        "RecordFileAccess",
        "Acknowledge",
        "Describe",
        "List",
        "Get",
        "Lookup",
        "Simulate",
        "WaitFor",
        "Who",
        "Why",
        "Explain",
        "Encrypt",
        "Decrypt",
        "ReEncrypt",
        "Generate",
        "Sign",
        "Verify",
        "Derive",
        "Encapsulate",
        "Decapsulate",
    ];
    PREFIXES.iter().any(|prefix| operation.starts_with(prefix))
}
