#![no_main]

use std::sync::LazyLock;

use kms_format::names::{self, EncryptedName, LOWER_MAX, LowerName};
use kms_format::symlink::StoredTarget;
use kms_format::{DirHeader, DirKeys, UnlockedPolicy};

static POLICY: LazyLock<UnlockedPolicy> = LazyLock::new(kms_fuzz::policy);
static KEYS: LazyLock<DirKeys> = LazyLock::new(|| DirHeader::create(&POLICY).expect("keys").1);

// Anything may be read; any name that can be written comes back.
libfuzzer_sys::fuzz_target!(|input: (Vec<u8>, Option<Vec<u8>>)| {
    let (bytes, record) = input;
    assert!(names::decrypt(&KEYS, &bytes, record.as_deref()).is_err());
    if let Ok(target) = StoredTarget::parse(&bytes) {
        assert!(target.open(&POLICY, record.as_deref()).is_err());
    }
    if let Ok(encrypted) = names::encrypt(&KEYS, &bytes, LOWER_MAX) {
        let stored = encrypted.stored().as_bytes();
        assert!(matches!(
            names::classify(stored),
            LowerName::Short | LowerName::Long
        ));
        let record = match &encrypted {
            EncryptedName::Long { record, .. } => Some(record.as_slice()),
            EncryptedName::Short(_) => None,
        };
        assert_eq!(
            names::decrypt(&KEYS, stored, record).expect("our own name"),
            bytes
        );
    }
});
