use proptest::prelude::*;

use super::*;
use crate::file::INLINE_MAX;

const TIB: u64 = 1 << 40;

/// The table of FORMAT.md section 5.2 is what the code does.
#[test]
fn the_table_of_the_format_document_is_right() {
    let document = include_str!("../../../../docs/FORMAT.md");
    let (_, table) = document
        .split_once("| n | lower size, `xts` | lower size, `gcm` |")
        .unwrap();
    let mut seen = Vec::new();
    for line in table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
    {
        let cells: Vec<u64> = line
            .split('|')
            .filter_map(|cell| cell.trim().parse().ok())
            .collect();
        let [plain, xts, gcm] = cells[..] else {
            unreachable!("{line}")
        };
        assert_eq!(xts_lower_size(plain), Ok(xts), "{plain}");
        assert_eq!(gcm_lower_size(plain), Ok(gcm), "{plain}");
        seen.push(plain);
    }
    let inline = INLINE_MAX as u64;
    let promised = [
        0,
        1,
        15,
        16,
        17,
        inline,
        inline + 1,
        4063,
        4064,
        4065,
        4096,
        1 << 20,
        8 * TIB,
    ];
    assert_eq!(seen, promised);
}

#[test]
fn codes_1_to_15_are_damage_in_mode_xts() {
    for code in 1..16 {
        assert_eq!(
            xts_plain_size(4096 + code),
            Err(SizeError::Damaged { lower: 4096 + code })
        );
    }
}

#[test]
fn impossible_paddings_are_damage_in_mode_gcm() {
    for lower in (4097..8192).chain([8192 + 4064, 8192 + 4095, 40960 + 4064]) {
        assert_eq!(gcm_plain_size(lower), Err(SizeError::Damaged { lower }));
    }
}

#[test]
fn less_than_a_header_page_is_told_apart() {
    for plain_size in [xts_plain_size, gcm_plain_size] {
        assert_eq!(plain_size(0), Err(SizeError::Headerless));
        assert_eq!(plain_size(1), Err(SizeError::Cut { lower: 1 }));
        assert_eq!(plain_size(4095), Err(SizeError::Cut { lower: 4095 }));
        assert_eq!(
            plain_size(u64::MAX),
            Err(SizeError::TooLarge { size: u64::MAX })
        );
    }
}

#[test]
fn sizes_beyond_off_t_are_refused() {
    for size in [u64::MAX, u64::MAX - 4096, MAX_LOWER, MAX_LOWER - 4095] {
        assert_eq!(xts_lower_size(size), Err(SizeError::TooLarge { size }));
        assert_eq!(gcm_lower_size(size), Err(SizeError::TooLarge { size }));
    }
    let most = MAX_LOWER - 4096 - 32;
    assert_eq!(xts_plain_size(xts_lower_size(most).unwrap()), Ok(most));
}

/// Every plain size comes back, no two share a lower size, and every lower size that decodes is one of them.
fn bijective(plain: std::ops::Range<u64>) {
    for mode in [ContentMode::Xts, ContentMode::Gcm] {
        let mut lowers = std::collections::BTreeSet::new();
        for plain in plain.clone() {
            let lower = lower_size(mode, plain).unwrap();
            assert_eq!(plain_size(mode, lower), Ok(plain));
            assert!(lowers.insert(lower));
        }
        let span = *lowers.first().unwrap()..*lowers.last().unwrap();
        for lower in span {
            if let Ok(found) = plain_size(mode, lower) {
                assert_eq!(lower_size(mode, found), Ok(lower));
            }
        }
    }
}

#[test]
fn codes_are_bijective_around_every_border() {
    for border in [
        0,
        3712,
        4064,
        4096,
        8128,
        8192,
        1 << 20,
        1 << 32,
        4064 << 20,
        8 * TIB,
        1 << 60,
    ] {
        bijective(u64::saturating_sub(border, 100)..border + 100);
    }
    bijective(0..20_000);
}

proptest! {
    #[test]
    fn every_size_comes_back(plain in 0..MAX_LOWER / 2) {
        for mode in [ContentMode::Xts, ContentMode::Gcm] {
            prop_assert_eq!(plain_size(mode, lower_size(mode, plain).unwrap()), Ok(plain));
        }
    }

    #[test]
    fn every_lower_size_is_refused_or_belongs_to_one_size(lower: u64) {
        for mode in [ContentMode::Xts, ContentMode::Gcm] {
            if let Ok(plain) = plain_size(mode, lower) {
                prop_assert_eq!(lower_size(mode, plain), Ok(lower));
            }
        }
    }
}
