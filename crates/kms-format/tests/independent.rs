//! Reads what `fixtures/format1.py`, a second implementation of docs/FORMAT.md, has written.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use data_encoding::HEXLOWER;
use kms_crypto::Key;
use kms_format::file::{Layout, LengthState, Settled};
use kms_format::names::{self, EncryptedName, LOWER_MAX};
use kms_format::symlink::StoredTarget;
use kms_format::volume::VolumeRecord;
use kms_format::{
    ContentMode, DirHeader, DirKeys, FileHeader, Nesting, UnlockedPolicy, XattrKeys, gcm, size,
    xattr, xts,
};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/format1.json")).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(text(value).as_bytes()).unwrap()
}

fn optional(value: &Value) -> Option<Vec<u8>> {
    (!value.is_null()).then(|| hex(value))
}

fn policy(all: &Value, mode: ContentMode) -> UnlockedPolicy {
    UnlockedPolicy::derive(
        text(&all["volume"]).parse().unwrap(),
        text(&all["policy"]).parse().unwrap(),
        all["generation"].as_u64().unwrap().try_into().unwrap(),
        mode,
        &Key::from_slice(&hex(&all["data_key"])).unwrap(),
        &Key::from_slice(&hex(&all["secret"])).unwrap(),
    )
    .unwrap()
}

fn directory(all: &Value, name: &str) -> (DirHeader, DirKeys) {
    let header = DirHeader::decode(&hex(&all["directories"][name])).unwrap();
    let keys = header.unlock(&policy(all, ContentMode::Xts)).unwrap();
    (header, keys)
}

#[test]
fn directory_headers_open() {
    let all = fixture();
    let (root, root_keys) = directory(&all, "root");
    let (child, _) = directory(&all, "child");
    let (nested, _) = directory(&all, "nested");
    assert_eq!(
        [&root, &child, &nested].map(|header| header.nesting()),
        [Nesting::Root, Nesting::Inherits, Nesting::Root]
    );
    assert_eq!((child.generation(), child.lineage()), (5, 4));
    child.check_below(&root, &root_keys).unwrap();
    nested.check_below(&root, &root_keys).unwrap();
}

#[test]
fn a_directory_with_two_keys_opens() {
    let all = fixture();
    let changing = &all["changing"];
    let header = DirHeader::decode(&hex(&changing["header"])).unwrap();
    assert!(header.reencrypting());
    let keys = header.unlock(&policy(&all, ContentMode::Xts)).unwrap();
    let former = keys.former().unwrap();
    for (name, made_with) in [("new", &keys), ("old", former)] {
        let (name, record) = (&changing[name], optional(&changing[name]["record"]));
        let (plain, stored) = (hex(&name["plain"]), text(&name["stored"]));
        let opened = names::decrypt(&keys, stored.as_bytes(), record.as_deref()).unwrap();
        assert_eq!(opened, plain);
        let encrypted = names::encrypt(made_with, &plain, LOWER_MAX).unwrap();
        assert_eq!(encrypted.stored(), stored);
    }
    let admitted = DirHeader::decode(&hex(&changing["admitted"])).unwrap();
    admitted.check_below(&header, &keys).unwrap();
    assert!(!admitted.is_sealed_by(&keys).unwrap());
    let attribute =
        xattr::encrypt_name(&former.xattrs().unwrap(), &hex(&changing["xattr"]["name"]));
    assert_eq!(
        attribute.unwrap().as_str(),
        text(&changing["xattr"]["lower"])
    );
}

#[test]
fn names_are_the_same_in_both_directions() {
    let all = fixture();
    let (_, keys) = directory(&all, "child");
    for name in all["names"].as_array().unwrap() {
        let (plain, stored) = (hex(&name["plain"]), text(&name["stored"]));
        let record = optional(&name["record"]);
        let opened = names::decrypt(&keys, stored.as_bytes(), record.as_deref()).unwrap();
        assert_eq!(opened, plain);
        let encrypted = names::encrypt(&keys, &plain, LOWER_MAX).unwrap();
        assert_eq!(encrypted.stored(), stored);
        if let EncryptedName::Long { record: made, .. } = encrypted {
            assert_eq!(Some(made), record);
        }
    }
}

#[test]
fn an_inline_file_opens() {
    let all = fixture();
    let page = hex(&all["inline"]["page"]);
    let opened = FileHeader::open(&page, &policy(&all, ContentMode::Xts)).unwrap();
    assert_eq!(*opened.content, hex(&all["inline"]["plain"]));
    assert_eq!(opened.header.layout(), Layout::Inline);
    assert_eq!(
        opened.header.lineage(),
        (text(&all["policy"]).parse().unwrap(), 1)
    );
    assert_eq!(opened.header.wraps().next().unwrap().sequence, 7);
}

#[test]
fn a_file_of_mode_xts_opens() {
    let all = fixture();
    let lower = hex(&all["xts"]["lower"]);
    let plain = hex(&all["xts"]["plain"]);
    let opened = FileHeader::open(&lower[..4096], &policy(&all, ContentMode::Xts)).unwrap();
    let settled = opened.header.settle(lower.len() as u64).unwrap();
    assert_eq!(settled, Settled::Clean(plain.len() as u64));
    let content = opened.keys.xts().unwrap();
    for (offset, length) in [
        (0, 9001),
        (0, 100_000),
        (15, 18),
        (4090, 12),
        (8999, 2),
        (9001, 1),
    ] {
        let plan = xts::plan_read(plain.len() as u64, offset as u64, length);
        let from = usize::try_from(plan.lower_offset).unwrap();
        let mut buffer = lower[from..from + plan.lower_len].to_vec();
        let range = content
            .open_read(&plan, &mut buffer, plan.lower_len)
            .unwrap();
        assert_eq!(
            buffer[range],
            plain[offset..(offset + length).min(plain.len())]
        );
    }
}

#[test]
fn a_file_of_mode_gcm_opens() {
    let all = fixture();
    let file = &all["gcm"];
    let length = file["size"].as_u64().unwrap();
    let header = hex(&file["header"]);
    let opened = FileHeader::open(&header, &policy(&all, ContentMode::Gcm)).unwrap();
    assert_eq!(
        (opened.header.length(), opened.header.state()),
        (length, LengthState::Exact)
    );
    assert_eq!(opened.holes.holes().first(), Some(&(1..4096)));
    assert_eq!(opened.holes.holes().len(), 1);
    let lower = size::gcm_lower_size(length).unwrap();
    assert_eq!(opened.header.settle(lower).unwrap(), Settled::Clean(length));
    for (unit, expected) in file["units"].as_object().unwrap() {
        let unit: u64 = unit.parse().unwrap();
        let plain = hex(&expected["plain"]);
        let mut page: [u8; gcm::PAGE] = hex(&expected["page"]).try_into().unwrap();
        let found = opened
            .keys
            .gcm(unit)
            .unwrap()
            .open(unit, &mut page)
            .unwrap();
        assert_eq!(found, gcm::Unit::Data(plain.len()));
        assert_eq!(gcm::content(&page)[..plain.len()], plain);
    }
}

#[test]
fn symlinks_open() {
    let all = fixture();
    let policy = policy(&all, ContentMode::Xts);
    for link in all["symlinks"].as_array().unwrap() {
        let parsed = StoredTarget::parse(text(&link["stored"]).as_bytes()).unwrap();
        assert_eq!(parsed.record_name().as_deref(), link["name"].as_str());
        let record = optional(&link["record"]);
        assert_eq!(
            parsed.open(&policy, record.as_deref()).unwrap(),
            hex(&link["plain"])
        );
    }
}

#[test]
fn xattrs_are_the_same() {
    let all = fixture();
    let page = hex(&all["inline"]["page"]);
    let file = FileHeader::open(&page, &policy(&all, ContentMode::Xts))
        .unwrap()
        .keys;
    let check = |keys: &XattrKeys, attributes: &Value| {
        for attribute in attributes.as_array().unwrap() {
            let (name, stored) = (hex(&attribute["name"]), hex(&attribute["stored"]));
            let lower = xattr::encrypt_name(keys, &name).unwrap();
            assert_eq!(lower.as_str(), text(&attribute["lower"]));
            let value = xattr::open_value(keys, &lower, &stored).unwrap();
            assert_eq!(value, hex(&attribute["value"]));
            let lower = lower.as_str().as_bytes();
            let listed = if xattr::is_long(lower) {
                xattr::decrypt_long_name(keys, lower, &stored)
            } else {
                xattr::decrypt_name(keys, lower)
            };
            assert_eq!(listed.unwrap(), name);
        }
    };
    check(&file.xattrs().unwrap(), &all["xattrs"]["file"]);
    check(
        &directory(&all, "child").1.xattrs().unwrap(),
        &all["xattrs"]["child"],
    );
}

#[test]
fn a_volume_record_opens() {
    let all = fixture();
    let record = VolumeRecord::decode(&hex(&all["volume_record"])).unwrap();
    assert_eq!(record.label, "demo");
    let entry = record
        .policy(text(&all["policy"]).parse().unwrap(), 5)
        .unwrap();
    assert_eq!(
        (entry.content_mode, entry.data_key.len()),
        (ContentMode::Xts, 200)
    );
}
