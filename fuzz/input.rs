//! Decisions out of bytes: the same bytes always give the same decisions, so a finding can be replayed.

/// Reads decisions from the front; when nothing is left, every decision is 0.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    /// Over these bytes.
    pub const fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { bytes }
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((first, rest)) => {
                self.bytes = rest;
                *first
            }
            None => 0,
        }
    }

    /// Eight bytes, little-endian.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// A number below `limit`, which is not 0. Uses two bytes.
    pub fn below(&mut self, limit: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % limit
    }

    /// True once in `chances`.
    pub fn once_in(&mut self, chances: u8) -> bool {
        self.byte().is_multiple_of(chances) && !self.is_empty()
    }

    /// One of several.
    pub fn pick<'b, T: ?Sized>(&mut self, among: &[&'b T]) -> &'b T {
        among[self.below(among.len())]
    }

    /// At most `most` bytes, as they are.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let wanted = self.below(most + 1);
        let (taken, rest) = self.bytes.split_at(wanted.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// A number of the kind that programs get wrong: around powers of two and the borders of the format.
    pub fn awkward(&mut self) -> u64 {
        const BORDERS: [u64; 14] = [
            0,
            16,
            192,
            256,
            3712,
            3968,
            4064,
            4096,
            8160,
            8192,
            1 << 20,
            1 << 32,
            1 << 43,
            1 << 62,
        ];
        let near = u64::from(self.byte() % 5);
        match self.byte() % 4 {
            0 => self.number(),
            1 => u64::from(self.byte()),
            _ => BORDERS[self.below(BORDERS.len())]
                .wrapping_add(near)
                .wrapping_sub(2),
        }
    }
}

/// `length` bytes that depend on the seed alone: an input for a test without a fuzzer.
pub fn from_seed(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
