//! Locked memory for keys.
//!
//! One arena per slot size. An arena maps chunks of 64 KiB between two guard pages, locks them and keeps them out of
//! core dumps, and hands out slots by a bitmap. A chunk that has become empty goes back to the kernel, but for one
//! per arena. `mlock` is best effort: where the limit is reached, chunks are used unlocked and counted as such,
//! because a file system that stops at the 130,000th directory would be no better protected.
#![allow(
    unsafe_code,
    reason = "memory that can be locked must be mapped and managed by hand"
)]

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mlock, mmap_anonymous, mprotect, munmap,
};
use zeroize::Zeroize;

use crate::CryptoError;

/// Bytes of slots in one chunk.
const CHUNK: usize = 64 * 1024;
/// Bytes of each guard; a multiple of every page size of Linux's targets.
const GUARD: usize = 64 * 1024;
/// Slot sizes are powers of two from 2^5 = 32 to 2^12 = 4096.
const SMALLEST: u32 = 5;
const CLASSES: usize = 8;

static ARENAS: [Mutex<Arena>; CLASSES] = [
    Mutex::new(Arena::new(32)),
    Mutex::new(Arena::new(64)),
    Mutex::new(Arena::new(128)),
    Mutex::new(Arena::new(256)),
    Mutex::new(Arena::new(512)),
    Mutex::new(Arena::new(1024)),
    Mutex::new(Arena::new(2048)),
    Mutex::new(Arena::new(4096)),
];

static LOCKED: AtomicUsize = AtomicUsize::new(0);
static UNLOCKED: AtomicUsize = AtomicUsize::new(0);
static KEYS: AtomicUsize = AtomicUsize::new(0);

/// How well the memory of keys is protected against being swapped out, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockStatus {
    /// Keys that exist.
    pub keys: usize,
    /// Bytes of memory for keys that are locked.
    pub locked_bytes: usize,
    /// Bytes that could not be locked, because `RLIMIT_MEMLOCK` is reached; they may be swapped out.
    pub unlocked_bytes: usize,
}

/// Counts the memory that holds keys, for status output.
pub fn lock_status() -> LockStatus {
    LockStatus {
        keys: KEYS.load(Relaxed),
        locked_bytes: LOCKED.load(Relaxed),
        unlocked_bytes: UNLOCKED.load(Relaxed),
    }
}

/// `N` bytes of an arena, zeroed at first, zeroised and given back at the end.
pub(super) struct Slot<const N: usize> {
    bytes: NonNull<[u8; N]>,
    chunk: usize,
}

// SAFETY: a slot is uniquely owned plain memory.
unsafe impl<const N: usize> Send for Slot<N> {}
// SAFETY: a shared borrow of a slot only reads.
unsafe impl<const N: usize> Sync for Slot<N> {}

impl<const N: usize> Slot<N> {
    /// Index of the arena for `N` bytes.
    const CLASS: usize = {
        assert!(N >= 1 && N <= 4096, "a key has 1 to 4096 bytes");
        let bits = N.next_power_of_two().trailing_zeros();
        if bits < SMALLEST {
            0
        } else {
            (bits - SMALLEST) as usize
        }
    };

    pub(super) fn new() -> Result<Self, CryptoError> {
        let (bytes, chunk) = Self::arena().lock().allocate()?;
        KEYS.fetch_add(1, Relaxed);
        Ok(Self {
            bytes: bytes.cast(),
            chunk,
        })
    }

    pub(super) fn bytes(&self) -> &[u8; N] {
        // SAFETY: the slot is mapped, at least N bytes long, initialised (zeros) and ours alone until dropped.
        unsafe { self.bytes.as_ref() }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8; N] {
        // SAFETY: as in `bytes`, and the borrow is unique.
        unsafe { self.bytes.as_mut() }
    }

    fn arena() -> &'static Mutex<Arena> {
        #[expect(
            clippy::indexing_slicing,
            reason = "CLASS is below CLASSES for every N that compiles"
        )]
        &ARENAS[Self::CLASS]
    }
}

impl<const N: usize> Drop for Slot<N> {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        Self::arena().lock().release(self.bytes.cast(), self.chunk);
        KEYS.fetch_sub(1, Relaxed);
    }
}

/// The chunks of one slot size.
struct Arena {
    slot: usize,
    /// By index; an index stays the same while its chunk lives, so slots can name it.
    chunks: Vec<Option<Chunk>>,
    /// Indices of `None`s in `chunks`.
    vacant: Vec<usize>,
    /// Indices of chunks with a free slot. The last is used first.
    open: Vec<usize>,
    /// How many chunks are wholly free.
    empty: usize,
}

impl Arena {
    const fn new(slot: usize) -> Self {
        Self {
            slot,
            chunks: Vec::new(),
            vacant: Vec::new(),
            open: Vec::new(),
            empty: 0,
        }
    }

    fn allocate(&mut self) -> Result<(NonNull<u8>, usize), CryptoError> {
        loop {
            let index = match self.open.last() {
                Some(&index) => index,
                None => self.grow()?,
            };
            let found = self
                .chunks
                .get_mut(index)
                .and_then(Option::as_mut)
                .and_then(|chunk| {
                    let was_empty = chunk.used == 0;
                    let bytes = chunk.allocate(self.slot)?;
                    Some((bytes, was_empty, chunk.used == chunk.slots))
                });
            // An index in `open` always names a chunk with a free slot; were it not so, it is dropped and another taken.
            let Some((bytes, was_empty, full)) = found else {
                self.open.pop();
                continue;
            };
            self.empty -= usize::from(was_empty);
            if full {
                self.open.pop();
            }
            return Ok((bytes, index));
        }
    }

    fn release(&mut self, bytes: NonNull<u8>, index: usize) {
        let Some(chunk) = self.chunks.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let was_full = chunk.used == chunk.slots;
        chunk.release(bytes, self.slot);
        let is_empty = chunk.used == 0;
        if was_full {
            self.open.push(index);
        }
        if !is_empty {
            return;
        }
        if self.empty == 0 {
            self.empty = 1;
            return;
        }
        // One empty chunk is kept for the next key; this second one goes back.
        if let Some(place) = self.chunks.get_mut(index) {
            *place = None;
        }
        self.vacant.push(index);
        self.open.retain(|&open| open != index);
    }

    fn grow(&mut self) -> Result<usize, CryptoError> {
        let chunk = Chunk::map(CHUNK / self.slot).map_err(CryptoError::Memory)?;
        let index = match self.vacant.pop() {
            Some(index) => index,
            None => {
                self.chunks.push(None);
                self.chunks.len() - 1
            }
        };
        if let Some(place) = self.chunks.get_mut(index) {
            *place = Some(chunk);
        }
        self.open.push(index);
        self.empty += 1;
        Ok(index)
    }
}

/// One mapping: guard, slots, guard.
struct Chunk {
    mapping: NonNull<u8>,
    /// A set bit is a used slot.
    bitmap: Vec<u64>,
    slots: usize,
    used: usize,
    locked: bool,
}

// SAFETY: a chunk owns its mapping, which has no ties to a thread.
unsafe impl Send for Chunk {}

impl Chunk {
    fn map(slots: usize) -> rustix::io::Result<Self> {
        let len = CHUNK + 2 * GUARD;
        // SAFETY: a new private mapping at an address that the kernel chooses.
        let mapping =
            unsafe { mmap_anonymous(null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE)? };
        let mut chunk = Self {
            mapping: NonNull::new(mapping.cast()).ok_or(rustix::io::Errno::NOMEM)?,
            bitmap: vec![0; slots.div_ceil(64)],
            slots,
            used: 0,
            locked: false,
        };
        UNLOCKED.fetch_add(CHUNK, Relaxed);
        let start = chunk.start().as_ptr().cast::<c_void>();
        // SAFETY: the range is inside the mapping, which nobody else knows yet.
        unsafe { mprotect(start, CHUNK, MprotectFlags::READ | MprotectFlags::WRITE)? };
        // Best effort, as above. DONTDUMP only fails on kernels built without core dumps, where it is not needed.
        // SAFETY: as above; neither call changes the content.
        chunk.locked = unsafe {
            let _ = madvise(start, CHUNK, Advice::LinuxDontDump);
            mlock(start, CHUNK).is_ok()
        };
        if chunk.locked {
            UNLOCKED.fetch_sub(CHUNK, Relaxed);
            LOCKED.fetch_add(CHUNK, Relaxed);
        }
        Ok(chunk)
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: the mapping is longer than a guard.
        unsafe { self.mapping.add(GUARD) }
    }

    fn allocate(&mut self, slot: usize) -> Option<NonNull<u8>> {
        for (word, bits) in self.bitmap.iter_mut().enumerate() {
            let bit = bits.trailing_ones() as usize;
            let index = word * 64 + bit;
            if bit < 64 && index < self.slots {
                *bits |= 1 << bit;
                self.used += 1;
                // SAFETY: index < slots, and slots * slot is the length of the chunk.
                return Some(unsafe { self.start().add(index * slot) });
            }
        }
        None
    }

    fn release(&mut self, bytes: NonNull<u8>, slot: usize) {
        let index = (bytes.as_ptr().addr() - self.start().as_ptr().addr()) / slot;
        if let Some(bits) = self.bitmap.get_mut(index / 64) {
            debug_assert!(*bits >> (index % 64) & 1 == 1, "a slot is released once");
            *bits &= !(1 << (index % 64));
            self.used -= 1;
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let counter = if self.locked { &LOCKED } else { &UNLOCKED };
        counter.fetch_sub(CHUNK, Relaxed);
        // SAFETY: the mapping is ours, of this length, and no slot of it is in use.
        let unmapped = unsafe { munmap(self.mapping.as_ptr().cast(), CHUNK + 2 * GUARD) };
        debug_assert!(unmapped.is_ok());
    }
}
