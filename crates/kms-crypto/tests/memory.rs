//! What keys leave behind in memory, seen from outside: the whole process is searched through /proc.
//!
//! One test function, because the counters and the search cover the process.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

#[cfg(all(feature = "aws-lc", not(feature = "prefer-rustcrypto")))]
use kms_crypto::{GcmKey, RecoveryPrivateKey, SivKey, XTS_UNIT, XtsKey, hkdf_key};
use kms_crypto::{Key, LockStatus, SecretBytes, lock_status, seal_message, unwrap_key, wrap_key};

#[test]
fn keys_in_memory() {
    let before = lock_status();
    assert_eq!(
        (before.keys, before.locked_bytes, before.unlocked_bytes),
        (0, 0, 0)
    );
    dropped_keys_leave_no_bytes();
    secret_bytes_are_zeroised();
    #[cfg(all(feature = "aws-lc", not(feature = "prefer-rustcrypto")))]
    expanded_keys_are_zeroised();
    #[cfg(all(feature = "aws-lc", not(feature = "prefer-rustcrypto")))]
    derived_keys_are_zeroised();
    #[cfg(all(feature = "aws-lc", not(feature = "prefer-rustcrypto")))]
    key_pairs_are_zeroised();
    pages_are_locked_guarded_and_not_dumped();
    slots_do_not_overlap();
    millions_of_keys_do_not_leak();
    more_keys_than_can_be_locked_still_work();
    threads_do_not_see_each_others_keys();
    assert_eq!(lock_status().keys, 0);
}

fn dropped_keys_leave_no_bytes() {
    let key = Key::<32>::random().unwrap();
    let needle = Needle::of(key.expose());
    assert_eq!(
        needle.count(),
        1,
        "the key itself is found, so the search works"
    );
    let copy = key.duplicate().unwrap();
    assert_eq!(needle.count(), 2);
    drop(key);
    assert_eq!(needle.count(), 1);

    let kek = Key::random().unwrap();
    let wrapped = wrap_key(&kek, b"aad", &copy).unwrap();
    assert_eq!(needle.count(), 1, "wrapping leaves no copy");
    let unwrapped = unwrap_key::<32>(&kek, b"aad", &wrapped).unwrap();
    assert_eq!(needle.count(), 2);
    let sealed = seal_message(&unwrapped, b"aad", b"text").unwrap();
    assert_eq!(sealed.len(), 4 + kms_crypto::MESSAGE_OVERHEAD);
    drop((copy, unwrapped));
    assert_eq!(needle.count(), 0, "nothing is left after the last drop");

    let mut source = Box::new(needle.bytes());
    assert!(needle.count() >= 1);
    let taken = Key::take(&mut source).unwrap();
    assert_eq!(*source, [0; 32]);
    drop(taken);
    overwrite_stack();
    assert_eq!(needle.count(), 0, "taking a key leaves no copy");
}

fn secret_bytes_are_zeroised() {
    let key = Key::<32>::random().unwrap();
    let needle = Needle::of(key.expose());
    let secret = SecretBytes::from(key.expose().to_vec());
    drop(key);
    assert_eq!(needle.count(), 1);
    drop(secret);
    assert_eq!(needle.count(), 0);
}

/// The first 32 bytes of an expanded AES-256 key are the key itself, so the search finds what a cipher holds.
///
/// The second provider cannot promise this: its expanded keys are moved by value, which leaves copies on the stack.
#[cfg(all(feature = "aws-lc", not(feature = "prefer-rustcrypto")))]
fn expanded_keys_are_zeroised() {
    let key = Key::<64>::random().unwrap();
    let (first, second) = key.expose().split_at(32);
    let needles = [first, second].map(|half| Needle::of(half.try_into().unwrap()));
    let count = || needles.each_ref().map(Needle::count);
    assert_eq!(count(), [1, 1]);

    let xts = XtsKey::new(&key).unwrap();
    let mut data = vec![1; 2 * XTS_UNIT];
    xts.encrypt_in_place(0, &mut data).unwrap();
    xts.decrypt_in_place(0, &mut data).unwrap();
    drop(xts);
    assert_eq!(count(), [1, 1], "after an XTS key");

    let siv = SivKey::new(&key).unwrap();
    let sealed = siv.seal(&[b"aad"], b"name").unwrap();
    assert_eq!(siv.open(&[b"aad"], &sealed).unwrap(), b"name");
    drop(siv);
    assert_eq!(count(), [1, 1], "after a SIV key");

    let gcm = GcmKey::new(first.try_into().unwrap()).unwrap();
    gcm.seal_in_place(&[0; 12], b"aad", &mut data).unwrap();
    drop(gcm);
    assert_eq!(count(), [1, 1], "after a GCM key");
}

#[cfg(all(feature = "aws-lc", not(feature = "prefer-rustcrypto")))]
fn derived_keys_are_zeroised() {
    let derived = hkdf_key::<32>(b"salt", &[b"ikm"], &[b"info"]).unwrap();
    let needle = Needle::of(derived.expose());
    assert_eq!(needle.count(), 1, "deriving leaves no copy");
    drop(derived);
    assert_eq!(needle.count(), 0);

    let bytes = Key::<32>::random().unwrap();
    let needle = Needle::of(bytes.expose());
    let private = RecoveryPrivateKey::from_key(bytes);
    let text = private.to_text();
    let sealed = private
        .public_key()
        .unwrap()
        .seal(b"info", b"aad", b"text")
        .unwrap();
    drop(private);
    assert_eq!(needle.count(), 0, "writing it as text leaves no copy");
    let private =
        RecoveryPrivateKey::from_text(std::str::from_utf8(text.expose()).unwrap()).unwrap();
    assert_eq!(
        private.open(b"info", b"aad", &sealed).unwrap().expose(),
        b"text"
    );
    assert_eq!(needle.count(), 1, "reading and using it leaves no copy");
    drop(private);
    assert_eq!(needle.count(), 0);
}

/// Looks for the bytes of the private key as PKCS#8 has them. SM2 is left out: RustCrypto moves its numbers by value.
#[cfg(all(feature = "aws-lc", not(feature = "prefer-rustcrypto")))]
fn key_pairs_are_zeroised() {
    use kms_crypto::asymmetric::{
        Digest, EncryptionScheme, KeyPair, PairSpec, SignatureScheme, SignedMessage,
    };

    let sign = |pair: &KeyPair, scheme| {
        pair.sign(scheme, SignedMessage::Raw(b"message")).unwrap();
    };
    for spec in [
        PairSpec::P256,
        PairSpec::Ed25519,
        PairSpec::MlDsa65,
        PairSpec::MlKem768,
        PairSpec::Rsa2048,
    ] {
        let made = KeyPair::generate(spec).unwrap();
        let pkcs8 = made.to_pkcs8().unwrap();
        let at = match spec {
            PairSpec::P256 => 36,
            PairSpec::Rsa2048 => pkcs8.len() / 2,
            _ => pkcs8.len() - 32,
        };
        let needle = Needle::of(pkcs8.expose()[at..][..32].try_into().unwrap());
        assert!(needle.count() >= 1, "{spec:?}");
        let pair = KeyPair::from_pkcs8(spec, pkcs8.expose()).unwrap();
        match spec {
            PairSpec::P256 => {
                sign(&pair, SignatureScheme::Ecdsa(Digest::Sha256));
                pair.agree(made.public_spki()).unwrap();
            }
            PairSpec::Ed25519 => {
                sign(&pair, SignatureScheme::Ed25519);
                sign(&pair, SignatureScheme::Ed25519Ph);
            }
            PairSpec::MlDsa65 => sign(&pair, SignatureScheme::MlDsa),
            PairSpec::MlKem768 => {
                let (_, ciphertext) = pair.public_key().unwrap().encapsulate().unwrap();
                pair.decapsulate(&ciphertext).unwrap();
            }
            _ => {
                sign(&pair, SignatureScheme::RsaPss(Digest::Sha256));
                let public = pair.public_key().unwrap();
                let scheme = EncryptionScheme::RsaOaepSha256;
                let ciphertext = public.encrypt(scheme, b"text").unwrap();
                pair.decrypt(scheme, &ciphertext).unwrap();
            }
        }
        drop((made, pkcs8, pair));
        overwrite_stack();
        assert_eq!(needle.count(), 0, "{spec:?}");
    }
}

fn pages_are_locked_guarded_and_not_dumped() {
    let key = Key::<32>::random().unwrap();
    let address = key.expose().as_ptr().addr();
    let maps = Mapping::all();
    let at = maps
        .iter()
        .position(|map| map.range.contains(&address))
        .unwrap();
    let flags = &maps[at].flags;
    assert!(flags.contains("dd"), "left out of core dumps");
    assert_eq!(
        flags.contains("lo"),
        lock_status().unlocked_bytes == 0,
        "locked, or counted as not"
    );
    assert_eq!(
        (maps[at - 1].mode.as_str(), maps[at - 1].range.end),
        ("---p", maps[at].range.start)
    );
    assert_eq!(
        (maps[at + 1].mode.as_str(), maps[at + 1].range.start),
        ("---p", maps[at].range.end)
    );
}

fn slots_do_not_overlap() {
    fn check<const N: usize>() {
        let keys: Vec<Key<N>> = (0..700)
            .map(|at: usize| Key::from_slice(&vec![at as u8; N]).unwrap())
            .collect();
        assert!(
            keys.iter()
                .zip(0_usize..)
                .all(|(key, at)| *key.expose() == [at as u8; N])
        );
        let places: BTreeSet<usize> = keys
            .iter()
            .map(|key| key.expose().as_ptr().addr())
            .collect();
        assert!(
            places
                .iter()
                .zip(places.iter().skip(1))
                .all(|(a, b)| b - a >= N)
        );
    }
    check::<1>();
    check::<16>();
    check::<32>();
    check::<33>();
    check::<48>();
    check::<64>();
    check::<100>();
    check::<4096>();
}

fn millions_of_keys_do_not_leak() {
    let keys = |count: usize| -> Vec<Key<64>> {
        (0..count)
            .map(|_| Key::from_slice(&[1; 64]).unwrap())
            .collect()
    };
    drop(keys(100_000));
    let (mapped, idle) = (resident_bytes(), lock_status());
    assert!(
        total(idle) <= 8 * 64 * 1024,
        "at most one empty chunk is kept for each size: {idle:?}"
    );
    let mut window = keys(5000);
    for round in 0..2_000_000_usize {
        let place = round.wrapping_mul(2_654_435_761) % window.len();
        window[place] = Key::from_slice(&[2; 64]).unwrap();
    }
    assert_eq!(lock_status().keys, 5000);
    drop(window);
    assert_eq!(total(lock_status()), total(idle));
    let grown = resident_bytes().saturating_sub(mapped);
    assert!(grown < 1 << 20, "{grown} bytes of memory are still held");
}

fn more_keys_than_can_be_locked_still_work() {
    let keys: Vec<Key<4096>> = (0..4096_usize)
        .map(|at| Key::from_slice(&[at as u8; 4096]).unwrap())
        .collect();
    let status = lock_status();
    assert!(total(status) >= 4096 * 4096, "{status:?}");
    assert!(
        keys.iter()
            .zip(0_usize..)
            .all(|(key, at)| *key.expose() == [at as u8; 4096])
    );
    let locked: usize = Mapping::all()
        .iter()
        .filter(|map| map.flags.contains("lo"))
        .map(|map| map.range.len())
        .sum();
    assert_eq!(
        status.locked_bytes, locked,
        "what is counted is what the kernel has locked"
    );
    drop(keys);
    assert_eq!(lock_status().keys, 0);
}

fn threads_do_not_see_each_others_keys() {
    std::thread::scope(|scope| {
        for thread in 0..6_u8 {
            scope.spawn(move || {
                let mut window: Vec<Key<32>> = Vec::new();
                for round in 0..60_000 {
                    if window.len() < 3000 {
                        window.push(Key::from_slice(&[thread; 32]).unwrap());
                    } else {
                        let key = window.swap_remove(round % 3000);
                        assert_eq!(key.expose(), &[thread; 32]);
                    }
                }
                assert!(window.iter().all(|key| *key.expose() == [thread; 32]));
            });
        }
    });
}

fn total(status: LockStatus) -> usize {
    status.locked_bytes + status.unlocked_bytes
}

/// The complement of what is looked for, so that the needle is not in the haystack.
struct Needle([u8; 32]);

impl Needle {
    fn of(bytes: &[u8; 32]) -> Self {
        Self(std::array::from_fn(|at| !bytes[at]))
    }

    fn bytes(&self) -> [u8; 32] {
        std::array::from_fn(|at| !self.0[at])
    }

    /// How often it is in the memory of this process.
    fn count(&self) -> usize {
        let memory = File::open("/proc/self/mem").unwrap();
        let mut found = 0;
        for map in Mapping::all()
            .iter()
            .filter(|map| map.mode.starts_with("rw"))
        {
            let mut content = vec![0; map.range.len()];
            // The buffer itself may be in a mapping that is read later: it holds what it read, so it is inverted and
            // compared with the inverted needle.
            if memory
                .read_exact_at(&mut content, map.range.start as u64)
                .is_ok()
            {
                content.iter_mut().for_each(|byte| *byte = !*byte);
                found += content
                    .windows(32)
                    .filter(|window| **window == self.0)
                    .count();
            }
            content.fill(0);
        }
        found
    }
}

/// A line of /proc/self/maps with its flags from smaps.
struct Mapping {
    range: std::ops::Range<usize>,
    mode: String,
    flags: BTreeSet<String>,
}

impl Mapping {
    fn all() -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let mut words = line.split_ascii_whitespace();
            let first = words.next().unwrap();
            if let Some((start, end)) = first.split_once('-') {
                let number = |text| usize::from_str_radix(text, 16).unwrap();
                all.push(Self {
                    range: number(start)..number(end),
                    mode: words.next().unwrap().to_owned(),
                    flags: BTreeSet::new(),
                });
            } else if first == "VmFlags:" {
                all.last_mut().unwrap().flags = words.map(str::to_owned).collect();
            }
        }
        all
    }
}

fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm
        .split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 4096
}

/// Goes over the stack that earlier calls of the test itself have used.
#[inline(never)]
fn overwrite_stack() {
    std::hint::black_box([0x55_u8; 64 * 1024]);
}
