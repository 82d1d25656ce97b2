#![no_main]

use std::sync::LazyLock;

use kms_format::{FileHeader, UnlockedPolicy, file::PAGE};

static POLICY: LazyLock<UnlockedPolicy> = LazyLock::new(kms_fuzz::policy);

// The input is laid over a valid page, so that the fuzzer gets past the magic.
libfuzzer_sys::fuzz_target!(|input: (u16, Vec<u8>, bool, u64)| {
    let (offset, bytes, raw, lower) = input;
    if raw {
        let _ = FileHeader::open(&bytes, &POLICY);
        return;
    }
    let (mut header, keys) = FileHeader::create(&POLICY).expect("a new file");
    let mut page = [0; PAGE];
    header
        .write_inline(&keys, b"content", &mut page)
        .expect("a page");
    for (to, from) in page.iter_mut().skip(usize::from(offset)).zip(&bytes) {
        *to = *from;
    }
    if let Ok(opened) = FileHeader::open(&page, &POLICY) {
        assert_eq!(opened.content.as_slice(), b"content");
        let _ = opened.header.settle(lower);
    }
});
