#![no_main]

use std::sync::LazyLock;

use kms_format::{DirHeader, UnlockedPolicy, dir::DIR_HEADER};

static POLICY: LazyLock<UnlockedPolicy> = LazyLock::new(kms_fuzz::policy);

// What decodes is written back byte for byte, and nobody but the key's holder makes a header that unlocks.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut framed = [0; DIR_HEADER];
    let start = b"KMSFSDIR\0\0\x01\0\0\0\0\0";
    framed
        .iter_mut()
        .zip(start.iter().chain(bytes))
        .for_each(|(to, from)| *to = *from);
    for bytes in [bytes, &framed] {
        if let Ok(header) = DirHeader::decode(bytes) {
            assert_eq!(header.encode().expect("a header").as_slice(), bytes);
            assert!(header.unlock(&POLICY).is_err());
        }
    }
});
