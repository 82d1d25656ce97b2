#![no_main]

use kms_format::volume::VolumeRecord;

// The input is also given the right checksum, so that the fuzzer reaches the parser behind it.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let hex: String = kms_crypto::sha256(&[bytes])
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let framed = [format!("KMSFSVOL 0 sha256={hex}\n").as_bytes(), bytes].concat();
    for bytes in [bytes, &framed] {
        if let Ok(record) = VolumeRecord::decode(bytes) {
            let again = VolumeRecord::decode(&record.encode().expect("it was read"));
            assert_eq!(again.expect("it was written"), record);
        }
    }
});
