use kms_crypto::Key;
use proptest::prelude::*;

use super::*;
use crate::size::{xts_lower_size, xts_plain_size};

fn cipher() -> Content {
    let key: [u8; 64] = std::array::from_fn(|at| at as u8);
    Content::new(XtsKey::new(&Key::from_slice(&key).unwrap()).unwrap())
}

/// One lower system call.
#[derive(Debug, Clone)]
enum Call {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Punch(std::ops::Range<u64>),
}

/// A lower file in memory, with its header page. Bytes behind the last cell hold whatever was left there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lower(Vec<u8>);

impl Lower {
    fn new() -> Self {
        Self(vec![0xcc; 4096])
    }

    fn size(&self) -> u64 {
        xts_plain_size(self.0.len() as u64).unwrap()
    }

    fn apply(&mut self, call: &Call) {
        match call {
            Call::Write(offset, bytes) => {
                let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                if self.0.len() < end {
                    self.0.resize(end, 0);
                }
                self.0[start..end].copy_from_slice(bytes);
            }
            Call::Truncate(size) => self.0.resize(*size as usize, 0),
            Call::Punch(range) => {
                let end = (range.end as usize).min(self.0.len());
                self.0[(range.start as usize).min(end)..end].fill(0);
            }
        }
    }

    fn cell(&self, offset: u64) -> Cell {
        let mut cell = [0; CELL];
        let from = self.0.get(offset as usize..).unwrap_or_default();
        let length = from.len().min(CELL);
        cell[..length].copy_from_slice(&from[..length]);
        cell
    }

    fn read(&self, cipher: &Content, offset: u64, length: usize) -> Vec<u8> {
        let plan = plan_read(self.size(), offset, length);
        let mut buffer = vec![0xdd; plan.lower_len];
        let from = self.0.get(plan.lower_offset as usize..).unwrap_or_default();
        let got = from.len().min(plan.lower_len);
        buffer[..got].copy_from_slice(&from[..got]);
        let range = cipher.open_read(&plan, &mut buffer, got).unwrap();
        buffer[range].to_vec()
    }

    /// Puts junk wherever the format leaves bytes undefined: behind the end in the last cell, and behind that.
    fn soil(&mut self, cipher: &Content) {
        let size = self.size();
        let beyond = (CELL - (size % 16) as usize) % CELL;
        if beyond == 0 {
            return;
        }
        let at = 4096 + size - size % 16;
        let mut plain = *cipher.old_cell(at, size, self.cell(at)).unwrap();
        plain[CELL - beyond..].fill(0xbb);
        let cell = cipher.one_cell(at, plain, true).unwrap();
        self.apply(&Call::Write(
            at,
            [cell.as_slice(), &vec![0xdd; beyond]].concat(),
        ));
        assert_eq!(self.size(), size);
    }

    fn all(&self, cipher: &Content) -> Vec<u8> {
        self.read(cipher, 0, self.size() as usize)
    }
}

fn tail_call(cipher: &Content, lower: &Lower, fix: &TailFix) -> Call {
    let bytes = cipher.seal_tail(fix, lower.cell(fix.lower_offset)).unwrap();
    assert!(
        fix.lower_offset as usize + bytes.len() <= lower.0.len(),
        "a fix never grows the file"
    );
    Call::Write(fix.lower_offset, bytes)
}

fn write_calls(cipher: &Content, lower: &Lower, offset: u64, data: &[u8]) -> Vec<Call> {
    let plan = plan_write(lower.size(), offset, data.len()).unwrap();
    let mut lower = lower.clone();
    let mut calls = Vec::new();
    if let Some(fix) = &plan.tail_fix {
        calls.push(tail_call(cipher, &lower, fix));
        lower.apply(&calls[0]);
    }
    let head = plan.head.map(|at| lower.cell(at));
    let tail = plan.tail.map(|at| lower.cell(at));
    let mut scratch = Vec::new();
    let bytes = cipher
        .seal_write(&plan, data, head.as_ref(), tail.as_ref(), &mut scratch)
        .unwrap();
    assert_eq!(bytes.len(), plan.lower_len);
    if let Some(unit) = plan.in_place() {
        let mut copy = data.to_vec();
        cipher.encrypt_units(unit, &mut copy).unwrap();
        assert_eq!(copy, bytes, "both ways write the same");
    }
    if !bytes.is_empty() {
        calls.push(Call::Write(plan.lower_offset, bytes.to_vec()));
    }
    calls.extend(plan.truncate.map(Call::Truncate));
    calls
}

fn resize_calls(cipher: &Content, lower: &Lower, size: u64) -> Vec<Call> {
    let plan = plan_resize(lower.size(), size).unwrap();
    let mut calls = Vec::new();
    calls.extend(
        plan.before
            .as_ref()
            .map(|fix| tail_call(cipher, lower, fix)),
    );
    calls.push(Call::Truncate(plan.truncate));
    if let Some(fix) = &plan.after {
        let mut lower = lower.clone();
        calls.iter().for_each(|call| lower.apply(call));
        calls.push(tail_call(cipher, &lower, fix));
    }
    calls
}

fn punch_calls(cipher: &Content, lower: &Lower, offset: u64, length: u64) -> Vec<Call> {
    let plan = plan_punch(lower.size(), offset, length);
    let mut calls = Vec::new();
    let mut lower = lower.clone();
    for edge in [plan.head, plan.tail].into_iter().flatten() {
        let zeros = vec![0; (edge.end - edge.start) as usize];
        let some = write_calls(cipher, &lower, edge.start, &zeros);
        assert_eq!(some.len(), 1, "an edge is one write");
        some.iter().for_each(|call| lower.apply(call));
        calls.extend(some);
    }
    calls.extend(plan.hole.map(Call::Punch));
    calls
}

/// What a call leaves behind when it is cut: at every page border when the process is killed, and with any one
/// 512-byte sector missing from a write when the power goes (sizes do not change then: the write had not grown it).
fn cut(before: &Lower, call: &Call) -> Vec<Lower> {
    let Call::Write(offset, bytes) = call else {
        return vec![];
    };
    let mut states = Vec::new();
    for border in
        (0..bytes.len()).filter(|at| *at > 0 && (offset + *at as u64).is_multiple_of(4096))
    {
        let mut lower = before.clone();
        lower.apply(&Call::Write(*offset, bytes[..border].to_vec()));
        states.push(lower);
    }
    let mut whole = before.clone();
    whole.apply(call);
    if whole.0.len() == before.0.len() {
        for sector in *offset as usize / 512..=(*offset as usize + bytes.len() - 1) / 512 {
            let mut lower = whole.clone();
            let range = sector * 512..((sector + 1) * 512).min(lower.0.len());
            lower.0[range.clone()].copy_from_slice(&before.0[range]);
            states.push(lower);
        }
    }
    states
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Resize(u64),
    Punch(u64, u64),
}

fn op() -> impl Strategy<Value = Op> {
    let place = prop_oneof![0..100_u64, 4060..4140_u64, 0..20_000_u64];
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40),
        (1..9000_usize, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
    ];
    prop_oneof![
        3 => (place.clone(), data).prop_map(|(offset, data)| Op::Write(offset, data)),
        2 => place.clone().prop_map(Op::Resize),
        1 => (place, 0..9000_u64).prop_map(|(offset, length)| Op::Punch(offset, length)),
    ]
}

/// Runs an operation call by call; checks every state a crash could leave, and the result.
fn run(cipher: &Content, lower: &mut Lower, model: &mut Vec<u8>, op: &Op) {
    lower.soil(cipher);
    assert!(lower.all(cipher) == *model, "undefined bytes are masked");
    let old = model.clone();
    let mut touched = 0..0;
    let calls = match op {
        Op::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            model.resize(model.len().max(end), 0);
            model[start..end].copy_from_slice(data);
            touched = start..end;
            write_calls(cipher, lower, *offset, data)
        }
        Op::Resize(size) => {
            model.resize(*size as usize, 0);
            resize_calls(cipher, lower, *size)
        }
        Op::Punch(offset, length) => {
            let end = (*offset + *length).min(model.len() as u64) as usize;
            let start = (*offset as usize).min(end);
            model[start..end].fill(0);
            touched = start..end;
            punch_calls(cipher, lower, *offset, *length)
        }
    };
    // After a crash: a size between old and new (a cut write may end with the cell of the last byte instead); old
    // bytes, or new ones where the operation put them, and zeros behind both.
    let sane = |state: &Lower, cut: bool| {
        let size = state.size() as usize;
        let (low, high) = (old.len().min(model.len()), old.len().max(model.len()));
        let high = if cut && size.is_multiple_of(UNIT) {
            high.next_multiple_of(CELL)
        } else {
            high
        };
        assert!(
            (low..=high).contains(&size),
            "{op:?}: size {size}, was {}",
            old.len()
        );
        let found = state.all(cipher);
        for at in 0..size {
            let before = old.get(at).copied().unwrap_or(0);
            let after = touched.contains(&at).then(|| model[at]);
            assert!(
                found[at] == before || Some(found[at]) == after,
                "{op:?}: byte {at} of {size}"
            );
        }
    };
    for call in &calls {
        cut(lower, call).iter().for_each(|state| sane(state, true));
        lower.apply(call);
        sane(lower, false);
    }
    assert_eq!(
        lower.0.len() as u64,
        xts_lower_size(model.len() as u64).unwrap(),
        "{op:?}"
    );
    assert!(lower.all(cipher) == *model, "{op:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn operations_behave_like_a_plain_file_and_survive_crashes(
        ops in prop::collection::vec(op(), 1..20),
        (from, length) in (0..25_000_u64, 0..10_000_usize),
    ) {
        let cipher = cipher();
        let (mut lower, mut model) = (Lower::new(), Vec::new());
        for op in &ops {
            run(&cipher, &mut lower, &mut model, op);
        }
        let start = (from as usize).min(model.len());
        let end = (start + length).min(model.len());
        prop_assert_eq!(lower.read(&cipher, from, length), &model[start..end]);
        prop_assert!(lower.0[..4096].iter().all(|byte| *byte == 0xcc), "the header page is not ours");
    }

    #[test]
    fn sparse_units_decrypt_like_single_cells(
        units in prop::collection::vec(prop::collection::vec(any::<bool>(), 256), 0..4),
        odd in 0..256_usize,
        first in 0..u64::from(u32::MAX),
    ) {
        let cipher = cipher();
        let mut holes: Vec<bool> = units.concat();
        holes.truncate(holes.len().saturating_sub(odd));
        let plain: Vec<u8> = (0..holes.len() * CELL).map(|at| (at % 253) as u8 + 1).collect();
        let mut data = plain.clone();
        cipher.encrypt_units(first, &mut data).unwrap();
        for (hole, cell) in holes.iter().zip(data.chunks_mut(CELL)) {
            if *hole {
                cell.fill(0);
            }
        }
        cipher.decrypt_units(first, &mut data).unwrap();
        for ((hole, cell), plain) in holes.iter().zip(data.chunks(CELL)).zip(plain.chunks(CELL)) {
            prop_assert_eq!(cell, if *hole { &[0; CELL] } else { plain });
        }
    }

    #[test]
    fn plans_never_overflow(size: u64, offset: u64, len in 0..usize::MAX, length: u64) {
        let _ = plan_read(size, offset, len);
        let _ = plan_write(size, offset, len);
        let _ = plan_resize(size, offset);
        let _ = plan_punch(size, offset, length);
    }
}

/// Every pair of sizes and every small write around a cell, a unit and their borders.
#[test]
fn small_operations_are_exhaustively_right() {
    let cipher = cipher();
    let sizes: Vec<u64> = (0..=34).chain(4078..=4114).collect();
    for old in &sizes {
        let content: Vec<u8> = (0..*old).map(|at| at as u8 | 1).collect();
        let mut start = Lower::new();
        run(
            &cipher,
            &mut start,
            &mut Vec::new(),
            &Op::Write(
                0,
                if content.is_empty() {
                    vec![]
                } else {
                    content.clone()
                },
            ),
        );
        for other in &sizes {
            let (mut lower, mut model) = (start.clone(), content.clone());
            run(&cipher, &mut lower, &mut model, &Op::Resize(*other));
            run(&cipher, &mut lower, &mut model, &Op::Resize(*old + 20));
            let (mut lower, mut model) = (start.clone(), content.clone());
            for length in [1, 5, 16] {
                run(
                    &cipher,
                    &mut lower,
                    &mut model,
                    &Op::Write(*other, vec![0x5a; length]),
                );
            }
        }
    }
}

#[test]
fn bytes_that_were_cut_do_not_come_back() {
    let cipher = cipher();
    let (mut lower, mut model) = (Lower::new(), Vec::new());
    run(
        &cipher,
        &mut lower,
        &mut model,
        &Op::Write(0, vec![0x77; 100]),
    );
    // The scrub is lost in a crash: only the first call of the shrink happens.
    let calls = resize_calls(&cipher, &lower, 50);
    lower.apply(&calls[0]);
    model.truncate(50);
    assert_eq!(lower.all(&cipher), model);
    run(&cipher, &mut lower, &mut model, &Op::Resize(70));
    run(&cipher, &mut lower, &mut model, &Op::Write(90, vec![1]));
    assert_eq!(&model[50..90], &[0; 40]);
}

#[test]
fn a_shrink_scrubs_what_it_cut() {
    let cipher = cipher();
    let (mut lower, mut model) = (Lower::new(), Vec::new());
    run(
        &cipher,
        &mut lower,
        &mut model,
        &Op::Write(0, vec![0x77; 100]),
    );
    run(&cipher, &mut lower, &mut model, &Op::Resize(50));
    let last = cipher
        .one_cell(4096 + 48, lower.cell(4096 + 48), false)
        .unwrap();
    assert_eq!(last[..2], [0x77; 2]);
    assert_eq!(last[2..], [0; 14]);
    assert_eq!(lower.0[4096 + 64..], [0; 14]);
}

#[test]
fn a_read_leaves_nothing_from_behind_the_end_in_the_buffer() {
    let cipher = cipher();
    let mut buffer = vec![0x11; 4096];
    cipher.encrypt_units(0, &mut buffer).unwrap();
    let plan = plan_read(50, 0, 4096);
    let range = cipher.open_read(&plan, &mut buffer, 64).unwrap();
    assert_eq!(
        (range, &buffer[..50], &buffer[50..64]),
        (0..50, &[0x11; 50][..], &[0; 14][..])
    );
}

#[test]
fn a_hole_reaches_to_the_end_of_the_last_cell() {
    let hole = |size, offset, length| plan_punch(size, offset, length).hole;
    assert_eq!(hole(100, 0, 100), Some(4096..4096 + 112));
    assert_eq!(hole(100, 0, 99), Some(4096..4096 + 96));
    assert_eq!(hole(100, 17, 1000), Some(4096 + 32..4096 + 112));
    assert_eq!(hole(100, 200, 1000), None);
}

#[test]
fn an_aligned_append_is_one_lower_write_in_place() {
    let plan = plan_write(8192, 8192, 131_072).unwrap();
    assert_eq!(plan.in_place(), Some(2));
    assert_eq!(
        (plan.tail_fix, plan.head, plan.tail, plan.truncate),
        (None, None, None, None)
    );
    assert_eq!((plan.lower_offset, plan.lower_len), (12_288, 131_072));
}

#[test]
fn equal_blocks_give_different_lower_blocks() {
    let cipher = cipher();
    let mut data = vec![0x42; 4 * UNIT];
    cipher.encrypt_units(0, &mut data).unwrap();
    let cells: std::collections::BTreeSet<&[u8]> = data.chunks(CELL).collect();
    assert_eq!(cells.len(), data.len() / CELL);
}

#[test]
fn a_read_that_lost_a_race_with_a_truncation_gets_zeros() {
    let cipher = cipher();
    let mut lower = vec![0x11; UNIT];
    cipher.encrypt_units(0, &mut lower).unwrap();
    let plan = plan_read(4096, 0, 4096);
    let range = cipher.open_read(&plan, &mut lower, 100).unwrap();
    assert_eq!(range, 0..4096);
    assert!(lower[..96].iter().all(|byte| *byte == 0x11));
    assert!(lower[96..].iter().all(|byte| *byte == 0));
}

#[test]
fn misuse_is_an_error() {
    let cipher = cipher();
    assert!(cipher.decrypt_units(0, &mut [1; 17]).is_err());
    assert!(cipher.encrypt_units(0, &mut [1; 17]).is_err());
    let plan = plan_write(100, 3, 5).unwrap();
    assert!(plan.head.is_some());
    assert!(
        cipher
            .seal_write(&plan, &[0; 5], None, None, &mut Vec::new())
            .is_err()
    );
    assert!(
        cipher
            .seal_write(&plan, &[0; 6], Some(&[0; 16]), None, &mut Vec::new())
            .is_err()
    );
    let plan = plan_read(100, 0, 100);
    assert!(cipher.open_read(&plan, &mut [0; 5], 5).is_err());
}
