//! Operations on a file, and what they mean.

use kms_format::content::{Fault, File, Lower as _, Progress};

use crate::lower::{Memory, Never};
use crate::policy_at;
use crate::random::Random;

#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Offset and data.
    Write(u64, Vec<u8>),
    Resize(u64),
    /// Offset and length.
    Punch(u64, u64),
    Sync,
    /// sync(2): reaches the lower file system, and nobody else hears of it.
    HostSync,
    /// A new key, of this generation.
    Begin(u32),
    /// So many units of a re-encryption, if there is one.
    Step(usize),
    /// The end of one, if there is nothing left to do.
    End,
    /// All of one.
    Reencrypt(u32),
}

/// As kmsfs does it, with small steps.
pub(crate) fn reencrypt(file: &mut File<Memory>, generation: u32) -> Result<(), Fault<Never>> {
    let to = policy_at(file.mode(), generation);
    if file.blank() || file.reencrypt_inline(&to)? {
        return Ok(());
    }
    file.begin_reencryption(&to)?;
    while let Progress::More { .. } = file.reencrypt_step(2)? {}
    assert!(file.end_reencryption()?, "there is nothing left to do");
    Ok(())
}

impl Op {
    pub(crate) fn run(&self, file: &mut File<Memory>) -> Result<(), Fault<Never>> {
        match self {
            Op::Write(offset, data) => file.write(*offset, &mut data.clone()),
            Op::Resize(size) => file.resize(*size),
            Op::Punch(offset, length) => file.punch(*offset, *length),
            Op::Sync => file.sync(),
            Op::HostSync => file.lower().sync_data().map_err(Fault::Lower),
            Op::Begin(generation) if !file.blank() => {
                file.begin_reencryption(&policy_at(file.mode(), *generation))
            }
            Op::Begin(_) => Ok(()),
            Op::Step(units) if file.reencrypting() => file.reencrypt_step(*units).map(drop),
            Op::Step(_) => Ok(()),
            Op::End => file.end_reencryption().map(drop),
            Op::Reencrypt(generation) => reencrypt(file, *generation),
        }
    }

    /// What it makes of the content.
    pub(crate) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Op::Write(offset, data) => {
                let (start, end) = (*offset as usize, *offset as usize + data.len());
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[start..end].copy_from_slice(data);
            }
            Op::Resize(size) => content.resize(*size as usize, 0),
            Op::Punch(offset, length) => {
                let limit = content.len();
                let start = (*offset as usize).min(limit);
                let end = ((offset + length) as usize).min(limit);
                content[start..end].fill(0);
            }
            _ => {}
        }
    }

    /// One of those of a re-encryption, and of all others.
    pub(crate) fn random_moving(random: &mut Random, size: u64) -> Op {
        match random.below(10) {
            0 => Op::Begin(1 + random.below(4) as u32),
            1..=3 => Op::Step(1 + random.below(3) as usize),
            4 => Op::End,
            5 => Op::Reencrypt(1 + random.below(4) as u32),
            _ => Op::random(random, size),
        }
    }

    /// Sizes and offsets are near borders more often than not.
    pub(crate) fn random(random: &mut Random, size: u64) -> Op {
        const BORDERS: [u64; 13] = [
            0, 16, 3712, 4064, 4096, 8128, 8192, 12192, 12288, 16256, 16384, 20320, 24000,
        ];
        let place = |random: &mut Random| match random.below(4) {
            0 => size,
            1 => random.below(26_000),
            _ => {
                let border = BORDERS[random.below(BORDERS.len() as u64) as usize];
                (border + random.below(5)).saturating_sub(2)
            }
        };
        match random.below(20) {
            0..=8 => {
                let offset = place(random);
                let length = match random.below(3) {
                    0 => 1 + random.below(40),
                    1 => 1 + random.below(9000),
                    _ => place(random).abs_diff(offset).clamp(1, 16_000),
                };
                Op::Write(offset, random.bytes(length as usize))
            }
            9..=12 => Op::Resize(place(random)),
            13..=15 => {
                let (a, b) = (place(random), place(random));
                Op::Punch(a.min(b), a.abs_diff(b))
            }
            16 => Op::HostSync,
            _ => Op::Sync,
        }
    }
}
