use proptest::prelude::*;

use super::*;
use crate::size::{self, SizeError};
use crate::testing::{each_flip, policy, policy_at};

const SECTOR: usize = 512;

fn inline(policy: &UnlockedPolicy, content: &[u8]) -> ([u8; PAGE], FileHeader, FileKeys) {
    let (mut header, keys) = FileHeader::create(policy).unwrap();
    let mut page = [0xee; PAGE];
    header.write_inline(&keys, content, &mut page).unwrap();
    (page, header, keys)
}

fn gcm_units(state: LengthState, length: u64) -> FileHeader {
    let (mut header, keys) = FileHeader::create(&policy_at(1, 1, ContentMode::Gcm)).unwrap();
    let mut page = [0; PAGE];
    header
        .write_units_gcm(&keys, length, state, &HoleList::default(), &mut page)
        .unwrap();
    header
}

/// Every mixture of the sectors of two pages.
fn torn(old: &[u8; PAGE], new: &[u8; PAGE]) -> impl Iterator<Item = [u8; PAGE]> {
    let (old, new) = (*old, *new);
    (0..1_u32 << (PAGE / SECTOR)).map(move |mask| {
        let mut page = old;
        for sector in 0..PAGE / SECTOR {
            if mask & (1 << sector) != 0 {
                let bytes = sector * SECTOR..(sector + 1) * SECTOR;
                page[bytes.clone()].copy_from_slice(&new[bytes]);
            }
        }
        page
    })
}

#[test]
fn inline_files_come_back() {
    let policy = policy();
    for length in [0, 1, 15, 16, 17, 255, 256, 3000, INLINE_MAX] {
        let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let (page, header, keys) = inline(&policy, &content);
        let opened = FileHeader::open(&page, &policy).unwrap();
        assert_eq!(*opened.content, content);
        assert_eq!(opened.header, header);
        assert_eq!(opened.header.length(), length as u64);
        assert_eq!(opened.header.layout(), Layout::Inline);
        assert_eq!(opened.header.lineage(), (policy.policy(), 1));
        assert_eq!(opened.keys.id(), keys.id());
        if length >= 16 {
            assert!(
                !page.windows(16).any(|bytes| bytes == &content[..16]),
                "plain text shows"
            );
        }
    }
}

#[test]
fn too_much_for_the_page_is_refused() {
    let (mut header, keys) = FileHeader::create(&policy()).unwrap();
    let refused = header.write_inline(&keys, &[0; INLINE_MAX + 1], &mut [0; PAGE]);
    assert!(matches!(
        refused,
        Err(FormatError::DoesNotFit {
            found: 3713,
            limit: 3712,
            ..
        })
    ));
}

#[test]
fn units_come_back_in_both_modes() {
    let (mut header, keys) = FileHeader::create(&policy()).unwrap();
    let mut page = [0; PAGE];
    header.write_units(&keys, &mut page).unwrap();
    let opened = FileHeader::open(&page, &policy()).unwrap();
    assert_eq!(
        (opened.header.layout(), opened.header.length()),
        (Layout::Units, 0)
    );
    assert!(opened.content.is_empty());
    let refused = header.write_units_gcm(
        &keys,
        1,
        LengthState::Exact,
        &HoleList::default(),
        &mut page,
    );
    assert!(matches!(refused, Err(FormatError::Misuse(_))));

    let policy = policy_at(1, 1, ContentMode::Gcm);
    let (mut header, keys) = FileHeader::create(&policy).unwrap();
    let mut holes = HoleList::default();
    assert!(holes.insert(2..9) && holes.insert(100..1000));
    for state in [LengthState::Exact, LengthState::Growing] {
        header
            .write_units_gcm(&keys, 5_000_000, state, &holes, &mut page)
            .unwrap();
        let opened = FileHeader::open(&page, &policy).unwrap();
        assert_eq!(
            (opened.header.length(), opened.header.state()),
            (5_000_000, state)
        );
        assert_eq!(opened.holes, holes);
    }
    assert!(matches!(
        header.write_units(&keys, &mut page),
        Err(FormatError::Misuse(_))
    ));
}

/// Bytes of a page that no reader looks at: an empty second slot, and the body behind its end.
fn ignored(at: usize, body: usize) -> bool {
    (3968..4096).contains(&at) || (256 + body..3968).contains(&at)
}

#[test]
fn every_flipped_bit_is_detected_or_changes_nothing() {
    let policy = policy();
    let content = b"a small file";
    let (page, ..) = inline(&policy, content);
    each_flip(&page, |at, flipped| {
        match FileHeader::open(flipped, &policy) {
            Err(_) => assert!(!ignored(at, content.len()), "byte {at} is not used"),
            Ok(opened) => {
                assert!(
                    ignored(at, content.len()),
                    "a flip in byte {at} goes unnoticed"
                );
                assert_eq!(opened.content.as_slice(), content);
            }
        }
    });
}

#[test]
fn a_flip_in_one_slot_falls_back_to_the_other() {
    let (old, new) = (
        policy_at(1, 1, ContentMode::Xts),
        policy_at(2, 1, ContentMode::Xts),
    );
    let (mut page, mut header, keys) = inline(&old, b"content");
    header.rewrap(&new, &keys).unwrap();
    header.write_slots(&mut page).unwrap();
    each_flip(&page, |at, flipped| {
        let opened = [&old, &new].map(|policy| FileHeader::open(flipped, policy).is_ok());
        let expected = match at {
            128..256 => [false, true],
            3968..4096 => [true, false],
            _ if ignored(at, 7) => [true, true],
            _ => [false, false],
        };
        assert_eq!(opened, expected, "byte {at}");
    });
}

#[test]
fn faults_are_named() {
    let policy = policy();
    let (page, ..) = inline(&policy, b"content");
    let fault = |bytes: &[u8]| FileHeader::open(bytes, &policy).unwrap_err();
    for length in (0..PAGE).step_by(7) {
        assert!(matches!(
            fault(&page[..length]),
            FormatError::Truncated { needed: 4096, .. }
        ));
    }
    assert!(matches!(fault(&[0; PAGE + 1]), FormatError::TooLong { .. }));
    assert!(matches!(fault(&[0; PAGE]), FormatError::Blank { .. }));
    assert!(matches!(fault(&[9; PAGE]), FormatError::WrongMagic { .. }));
    let with = |offset: usize, value: u8| {
        let mut bytes = page;
        bytes[offset] = value;
        fault(&bytes)
    };
    assert!(matches!(
        with(9, 1),
        FormatError::UnsupportedFormat { found: 257, .. }
    ));
    assert!(matches!(
        with(10, 0),
        FormatError::BadField {
            field: "content mode",
            ..
        }
    ));
    assert!(matches!(
        with(11, 9),
        FormatError::BadField {
            field: "layout",
            value: 9,
            ..
        }
    ));
    for (value, named) in [(1, "number of the copy"), (2, "flags")] {
        let error = with(12, value);
        assert!(matches!(error, FormatError::BadField { field, .. } if field == named));
    }
    assert!(matches!(
        with(76, 1),
        FormatError::Reserved { offset: 76, .. }
    ));
    assert!(matches!(
        with(52, 2),
        FormatError::BadField {
            field: "authenticated length",
            ..
        }
    ));
    assert!(matches!(
        with(64, 1),
        FormatError::BadField {
            field: "authenticated length",
            ..
        }
    ));
    assert!(matches!(
        with(77, 1),
        FormatError::Reserved { offset: 76, .. }
    ));
    assert!(matches!(
        with(75, 1),
        FormatError::BadField {
            field: "body length",
            ..
        }
    ));
    assert!(matches!(
        with(16, page[16] ^ 1),
        FormatError::TagMismatch {
            record: Record::FileSlot
        }
    ));
    assert!(matches!(
        with(32, page[32] ^ 1),
        FormatError::TagMismatch {
            record: Record::FileBody
        }
    ));
    assert!(matches!(
        with(256, page[256] ^ 1),
        FormatError::TagMismatch {
            record: Record::FileBody
        }
    ));
}

#[test]
fn headers_of_others_are_refused() {
    let (page, mut header, _) = inline(&policy(), b"content");
    let refusal = |policy| FileHeader::open(&page, &policy).unwrap_err();
    let xts = ContentMode::Xts;
    assert!(matches!(
        refusal(policy_at(2, 1, xts)),
        FormatError::ForeignPolicy { .. }
    ));
    assert!(matches!(
        refusal(policy_at(1, 2, xts)),
        FormatError::OtherGeneration {
            found: 1,
            expected: 2,
            ..
        }
    ));
    assert!(matches!(
        refusal(policy_at(1, 1, ContentMode::Gcm)),
        FormatError::BadField { .. }
    ));
    // Slots, bodies and ids of another file of the same policy.
    let (other, _, other_keys) = inline(&policy(), b"content");
    for part in [16..32, 128..256, 80..108, 256..263, 80..263] {
        let mut swapped = page;
        swapped[part.clone()].copy_from_slice(&other[part.clone()]);
        let refused = FileHeader::open(&swapped, &policy()).unwrap_err();
        let slot = part.start == 16 || part.contains(&128);
        let expected = if slot {
            Record::FileSlot
        } else {
            Record::FileBody
        };
        let named = matches!(refused, FormatError::TagMismatch { record } if record == expected);
        assert!(named, "{part:?}: {refused}");
    }
    assert!(matches!(
        header.write_inline(&other_keys, b"", &mut [0; PAGE]),
        Err(FormatError::Misuse(_))
    ));
    assert!(matches!(
        header.rewrap(&policy(), &other_keys),
        Err(FormatError::Misuse(_))
    ));
}

#[test]
fn a_torn_rewrap_never_loses_the_file() {
    let xts = ContentMode::Xts;
    let (mut page, mut header, keys) = inline(&policy_at(1, 1, xts), b"precious");
    let mut old = policy_at(1, 1, xts);
    for (number, generation) in [(1, 2), (2, 1), (2, 2), (1, 3), (1, 3), (1, 4)] {
        let new = policy_at(number, generation, xts);
        let before = page;
        header.rewrap(&new, &keys).unwrap();
        header.write_slots(&mut page).unwrap();
        for torn in torn(&before, &page) {
            let found = [&old, &new]
                .into_iter()
                .find_map(|policy| FileHeader::open(&torn, policy).ok())
                .expect("one of the two keys opens");
            assert_eq!(found.content.as_slice(), b"precious");
            FileHeader::open(&torn, &old).expect("the old slot was not touched");
        }
        let both = page;
        assert_eq!(
            header.wraps().next().map(|wrap| wrap.policy),
            Some(new.policy())
        );
        header.retire();
        header.write_slots(&mut page).unwrap();
        for torn in torn(&both, &page) {
            assert_eq!(
                FileHeader::open(&torn, &new).unwrap().content.as_slice(),
                b"precious"
            );
        }
        assert_eq!(header.wraps().count(), 1);
        // As after a remount.
        header = FileHeader::open(&page, &new).unwrap().header;
        old = new;
    }
    assert_eq!(
        header.lineage(),
        (policy().policy(), 1),
        "the key is still the first one"
    );
}

#[test]
fn a_stale_second_slot_is_legal_and_the_newest_of_a_policy_wins() {
    let (one, two) = (
        policy_at(1, 1, ContentMode::Xts),
        policy_at(2, 1, ContentMode::Xts),
    );
    let (mut page, mut header, keys) = inline(&one, b"moved");
    header.rewrap(&two, &keys).unwrap();
    header
        .write_inline(&keys, b"moved and changed", &mut page)
        .unwrap();
    for policy in [&one, &two] {
        let opened = FileHeader::open(&page, policy).unwrap();
        assert_eq!(opened.content.as_slice(), b"moved and changed");
    }
    let wraps: Vec<_> = header.wraps().collect();
    assert_eq!(
        wraps.iter().map(|wrap| wrap.sequence).collect::<Vec<_>>(),
        [2, 1]
    );
    // Opened with the stale slot, the next wrap goes over the newer one: the slot in use is never touched.
    let mut header = FileHeader::open(&page, &one).unwrap().header;
    header
        .rewrap(&policy_at(1, 2, ContentMode::Xts), &keys)
        .unwrap();
    header.write_slots(&mut page).unwrap();
    assert!(FileHeader::open(&page, &one).is_ok());
    assert!(FileHeader::open(&page, &policy_at(1, 2, ContentMode::Xts)).is_ok());
    assert!(matches!(
        FileHeader::open(&page, &two),
        Err(FormatError::ForeignPolicy { .. })
    ));
}

#[test]
fn a_torn_content_write_keeps_the_key() {
    let policy = policy();
    let (mut page, mut header, keys) = inline(&policy, &[1; 2000]);
    let before = page;
    header.write_inline(&keys, &[2; 3000], &mut page).unwrap();
    for torn in torn(&before, &page) {
        FileHeader::decode(&torn)
            .unwrap()
            .unlock(&policy)
            .expect("the key is there");
        if let Ok(opened) = FileHeader::open(&torn, &policy) {
            assert!(*opened.content == [1; 2000] || *opened.content == [2; 3000]);
        }
    }
}

#[test]
fn a_torn_write_of_a_header_without_body_is_harmless() {
    let policy = policy();
    let (mut header, keys) = FileHeader::create(&policy).unwrap();
    let (mut before, mut after) = ([0; PAGE], [0; PAGE]);
    header.write_units(&keys, &mut before).unwrap();
    header.write_units(&keys, &mut after).unwrap();
    for torn in torn(&before, &after) {
        FileHeader::open(&torn, &policy).unwrap();
    }
}

#[test]
fn the_length_in_the_page_wins_for_inline_files() {
    let (_, header, _) = inline(&policy(), &[0; 100]);
    let right = size::xts_lower_size(100).unwrap();
    assert_eq!(header.settle(right).unwrap(), Settled::Clean(100));
    for wrong in [4096, right - 1, right + 1, 4096 + 3, 1 << 30] {
        let repair = Settled::Repair {
            size: 100,
            cut: 4096,
            lower: right,
        };
        assert_eq!(header.settle(wrong).unwrap(), repair);
    }
}

#[test]
fn the_lower_size_wins_for_units_of_mode_xts() {
    let (mut header, keys) = FileHeader::create(&policy()).unwrap();
    header.write_units(&keys, &mut [0; PAGE]).unwrap();
    assert_eq!(header.settle(4143).unwrap(), Settled::Clean(17));
    let damaged = header.settle(4096 + 7);
    assert!(matches!(
        damaged,
        Err(FormatError::Size(SizeError::Damaged { lower: 4103 }))
    ));
}

#[test]
fn authenticated_lengths_of_mode_gcm_are_held_against_the_lower_size() {
    let length = 10_000;
    let lower = |size| size::gcm_lower_size(size).unwrap();
    let cut = Settled::Repair {
        size: length,
        cut: 4 * 4096,
        lower: lower(length),
    };
    for state in [LengthState::Exact, LengthState::Growing] {
        let header = gcm_units(state, length);
        assert_eq!(
            header.settle(lower(length)).unwrap(),
            Settled::Clean(length)
        );
        let more = header.settle(lower(50_000)).unwrap();
        if state == LengthState::Growing {
            assert_eq!(more, Settled::Clean(50_000));
            let whole = header.settle(lower(5 * 4064)).unwrap();
            assert_eq!(whole, Settled::Look { size: 5 * 4064 });
        } else {
            assert_eq!(more, cut);
        }
        // Pages are there, the code behind them is not a size yet.
        assert_eq!(header.settle(5 * 4096 + 4090).unwrap(), cut);
        for less in [0, 4096, lower(4064), 4 * 4096 - 1] {
            let lost = header.settle(less);
            assert!(
                matches!(lost, Err(FormatError::Size(_) | FormatError::Length { .. })),
                "{state:?} {less}: {lost:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_inline_content_comes_back(content in prop::collection::vec(any::<u8>(), 0..=INLINE_MAX)) {
        let (page, ..) = inline(&policy(), &content);
        prop_assert_eq!(&*FileHeader::open(&page, &policy()).unwrap().content, &content);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), PAGE),
        valid in 0..300_usize,
    ) {
        let (page, ..) = inline(&policy(), b"content");
        let mut bytes = bytes;
        bytes[..valid].copy_from_slice(&page[..valid]);
        if let Ok(opened) = FileHeader::open(&bytes, &policy()) {
            prop_assert_eq!(opened.content.as_slice(), b"content");
            let _ = opened.header.settle(bytes.len() as u64);
        }
    }
}
