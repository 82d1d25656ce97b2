//! Parsers of single records. Each body asserts what must hold for any bytes, and does not panic.

use std::sync::LazyLock;

use kms_format::file::{LengthState, PAGE};
use kms_format::gcm::{self, HoleList};
use kms_format::names::{self, EncryptedName, LOWER_MAX, LowerName};
use kms_format::symlink::StoredTarget;
use kms_format::volume::VolumeRecord;
use kms_format::{
    ContentMode, DirHeader, DirKeys, FORMAT, FileHeader, UnlockedPolicy, dir, size, xattr, xts,
};

use super::input::Input;
use super::keys::{policy, policy_of};

static POLICY: LazyLock<UnlockedPolicy> = LazyLock::new(policy);
static GCM: LazyLock<UnlockedPolicy> = LazyLock::new(|| policy_of(1, 2, 1, ContentMode::Gcm));
static KEYS: LazyLock<DirKeys> = LazyLock::new(|| DirHeader::create(&POLICY).expect("keys").1);

/// A body, and the name of its fuzz target.
pub type Target = (&'static str, fn(&[u8]));

/// Every target of this file.
pub const TARGETS: &[Target] = &[
    ("file_header", file_header),
    ("dir_header", dir_header),
    ("names", stored_name),
    ("volume", volume),
    ("symlink", symlink),
    ("xattrs", xattrs),
    ("gcm_unit", gcm_unit),
    ("sizes", sizes),
    ("blob", blob),
    ("control", control),
    ("request", request),
];

/// Header pages, of both modes: raw, and laid over a valid page so that the parser gets past the magic.
pub fn file_header(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let policy = if input.once_in(2) { &*GCM } else { &*POLICY };
    if input.once_in(4) {
        assert!(
            FileHeader::open(bytes, policy).is_err(),
            "a page that nobody wrote"
        );
        return;
    }
    let (mut header, keys) = FileHeader::create(policy).expect("a new file");
    let mut page = [0; PAGE];
    if policy.mode() == ContentMode::Gcm && input.once_in(2) {
        let mut holes = HoleList::default();
        assert!(holes.insert(3..9));
        header
            .write_units_gcm(&keys, 50_000, LengthState::Growing, &holes, &mut page)
            .expect("a page");
    } else {
        header
            .write_inline(&keys, b"content", &mut page)
            .expect("a page");
    }
    let written = FileHeader::open(&page, policy).expect("our own page");
    let (offset, lower) = (input.below(PAGE), input.awkward());
    for (to, from) in page.iter_mut().skip(offset).zip(input.bytes(300)) {
        *to = *from;
    }
    if let Ok(opened) = FileHeader::open(&page, policy) {
        // What opens says what was written: the other bytes are ones that nobody reads, or a second slot.
        assert_eq!(opened.content, written.content);
        assert_eq!(opened.holes, written.holes);
        assert_eq!(opened.header.length(), written.header.length());
        let _ = opened.header.settle(lower);
    }
}

/// Directory headers. What decodes is written back byte for byte, and nobody but the key's holder makes one that unlocks.
pub fn dir_header(bytes: &[u8]) {
    let mut framed = [0; dir::DIR_HEADER];
    let format = FORMAT.to_le_bytes();
    let start = b"KMSFSDIR".iter().chain(&format).chain(b"\x01\0\0\0\0\0");
    let all = start.chain(bytes);
    framed
        .iter_mut()
        .zip(all)
        .for_each(|(to, from)| *to = *from);
    for bytes in [bytes, &framed] {
        if let Ok(header) = DirHeader::decode(bytes) {
            assert_eq!(header.encode().expect("a header").as_slice(), bytes);
            assert!(header.unlock(&POLICY).is_err());
        }
    }
}

/// Stored names and records of long names: anything may be read; any name that can be written comes back.
pub fn stored_name(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let record = input.once_in(2).then(|| input.bytes(320));
    let name = input.bytes(300);
    assert!(names::decrypt(&KEYS, name, record).is_err());
    let Ok(encrypted) = names::encrypt(&KEYS, name, LOWER_MAX) else {
        return;
    };
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
        name
    );
    if let Some(record) = record {
        let mut altered = record.to_vec();
        altered[input.below(record.len())] ^= 1 << (input.byte() % 8);
        assert!(names::decrypt(&KEYS, stored, Some(&altered)).is_err());
    }
}

/// Volume records: raw, and with the right checksum, so that the parser behind it is reached.
pub fn volume(bytes: &[u8]) {
    let hex: String = kms_crypto::sha256(&[bytes])
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let framed = [
        format!("KMSFSVOL {FORMAT} sha256={hex}\n").as_bytes(),
        bytes,
    ]
    .concat();
    for bytes in [bytes, &framed] {
        if let Ok(record) = VolumeRecord::decode(bytes) {
            let again = VolumeRecord::decode(&record.encode().expect("it was read"));
            assert_eq!(again.expect("it was written"), record);
        }
    }
}

/// Symlinks and the records of long ones: raw, and in the alphabet of stored ones.
pub fn symlink(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let record = input.once_in(2).then(|| input.bytes(300));
    let kind = 1 + input.byte() % 2;
    let rest = input.bytes(900);
    let framed = [[kind, 1, 0, 0, 0].as_slice(), rest].concat();
    let framed = data_encoding::BASE64URL_NOPAD.encode(&framed);
    for stored in [rest, framed.as_bytes()] {
        let _ = kms_format::symlink::plain_length(stored.len() as u64);
        if let Ok(target) = StoredTarget::parse(stored) {
            assert!(target.length() <= kms_format::symlink::TARGET_MAX);
            let _ = target.record_name();
            assert!(target.open(&POLICY, record).is_err());
        }
    }
}

/// Names and values of attributes; what was sealed opens, and does not when a bit of it is changed.
pub fn xattrs(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let keys = KEYS.xattrs().expect("keys");
    let lower = input.bytes(300);
    let _ = (xattr::is_encrypted(lower), xattr::is_long(lower));
    assert!(xattr::decrypt_name(&keys, lower).is_err());
    assert!(xattr::decrypt_long_name(&keys, lower, input.bytes(100)).is_err());
    let name = [b"user.".as_slice(), input.bytes(280)].concat();
    let Ok(stored) = xattr::encrypt_name(&keys, &name) else {
        return;
    };
    let value = input.bytes(200);
    let mut sealed = xattr::seal_value(&keys, &name, &stored, value).expect("a value");
    assert_eq!(
        xattr::open_value(&keys, &stored, &sealed).expect("our own value"),
        value
    );
    let at = input.below(sealed.len());
    sealed[at] ^= 1 << (input.byte() % 8);
    assert!(xattr::open_value(&keys, &stored, &sealed).is_err());
    sealed.truncate(at);
    assert!(xattr::open_value(&keys, &stored, &sealed).is_err());
}

/// Pages of mode gcm and hole lists.
pub fn gcm_unit(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let unit = input.awkward() >> 12;
    let (_, keys) = FileHeader::create(&GCM).expect("a new file");
    let range = keys.gcm(unit).expect("a key");
    let mut page = [0; gcm::PAGE];
    let content = input.bytes(gcm::CONTENT);
    if !content.is_empty() {
        range
            .seal(unit, content, &mut page)
            .expect("a unit of this range");
        let at = input.below(gcm::PAGE);
        page[at] ^= 1 << (input.byte() % 8);
        assert!(range.open(unit, &mut page).is_err(), "an altered unit");
    }
    page.fill(0);
    page.iter_mut()
        .zip(input.bytes(gcm::PAGE))
        .for_each(|(to, from)| *to = *from);
    let opened = range.open(unit, &mut page);
    assert!(
        matches!(opened, Err(_) | Ok(gcm::Unit::Zero)),
        "a unit that nobody wrote"
    );
    let _ = keys
        .gcm(unit ^ (1 << 20))
        .expect("a key")
        .open(unit, &mut page);
    if let Ok(holes) = HoleList::decode(bytes) {
        assert_eq!(holes.encode(), bytes, "one list, one encoding");
    }
}

/// Sizes and plans: no arithmetic goes wrong, whatever is asked for.
pub fn sizes(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (old, new, offset) = (input.awkward(), input.awkward(), input.awkward());
    let length = input.below(1 << 16);
    for mode in [ContentMode::Xts, ContentMode::Gcm] {
        if let Ok(plain) = size::plain_size(mode, old) {
            assert_eq!(size::lower_size(mode, plain).expect("it was a size"), old);
        }
    }
    let read = xts::plan_read(old, offset, length);
    assert!(read.take <= length);
    let _ = xts::plan_write(old, offset, length);
    let _ = xts::plan_resize(old, new);
    let _ = xts::plan_punch(old, offset, new);
}

/// Blobs of kmsd: what decodes is what would be written.
pub fn blob(bytes: &[u8]) {
    let framed = [b"KMSB\x01\0".as_slice(), bytes].concat();
    for bytes in [bytes, &framed] {
        if let Some((header, signed, sealed)) = kms_core::blob::Header::decode(bytes) {
            assert_eq!(header.encode(), signed);
            assert_eq!(signed.len() + sealed.len(), bytes.len());
        }
    }
}

/// Lines on the control socket of a mount.
pub fn control(bytes: &[u8]) {
    use kmsfs::control::protocol::{Answer, Command};
    let text = String::from_utf8_lossy(bytes);
    for line in [text.to_string(), format!("{{\"command\":{text}}}")] {
        if let Ok(command) = serde_json::from_str::<Command>(&line) {
            assert!(serde_json::to_string(&command).is_ok());
        }
        let _ = serde_json::from_str::<Answer>(&line);
    }
}

/// Requests to kmsd: the target in the first line, the body behind it.
pub fn request(bytes: &[u8]) {
    const OPERATIONS: [&str; 8] = [
        "TrentService.Encrypt",
        "TrentService.Decrypt",
        "TrentService.GenerateDataKey",
        "TrentService.CreateKey",
        "TrentService.ListAliases",
        "TrentService.ScheduleKeyDeletion",
        "KmsdLocal.CreateVolume",
        "KmsdLocal.UnlockPolicy",
    ];
    let mut input = Input::new(bytes);
    let operation = OPERATIONS[input.below(OPERATIONS.len())];
    let rest = input.bytes(usize::from(u16::MAX) - 1);
    let text = String::from_utf8_lossy(rest);
    let (line, body) = text.split_once('\n').unwrap_or(("", &text));
    for target in [operation, line] {
        if let Ok(request) = kms_api::Request::decode(target, body.as_bytes()) {
            assert!(request.to_json().is_ok());
        }
    }
}
