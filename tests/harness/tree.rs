//! Directory trees: copying, comparing, and looking for what must not be there.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::require::output_of;

#[cfg(test)]
mod tests;

/// Copies a tree with owners, modes, times, links and holes.
pub fn copy(from: &Path, to: &Path) {
    output_of(Command::new("cp").arg("-a").arg("-T").arg(from).arg(to));
}

/// Copies a tree as `tar` does it, through a pipe: many small creates with attributes set after.
pub fn copy_with_tar(from: &Path, to: &Path) {
    let mut pack = Command::new("tar")
        .arg("-C")
        .arg(from)
        .args(["-cf", "-", "."])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start tar");
    let pipe = pack.stdout.take().expect("tar's output");
    let unpacked = Command::new("tar")
        .arg("-C")
        .arg(to)
        .args(["-xpf", "-"])
        .stdin(pipe)
        .status()
        .expect("start tar");
    assert!(
        unpacked.success(),
        "unpacking into {}: {unpacked}",
        to.display()
    );
    assert!(
        pack.wait().expect("wait for tar").success(),
        "packing {}",
        from.display()
    );
}

/// Fails unless `diff -r` finds the two trees equal.
pub fn assert_same(left: &Path, right: &Path) {
    let output = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(left)
        .arg(right)
        .output()
        .expect("start diff");
    let found = String::from_utf8_lossy(&output.stdout);
    let shown: String = found
        .lines()
        .take(20)
        .flat_map(|line| [line, "\n"])
        .collect();
    assert!(
        output.status.success(),
        "{} and {} differ:\n{shown}{}",
        left.display(),
        right.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Every path below `root`, directories included, `root` not, in no particular order.
pub fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("read a directory") {
            let entry = entry.expect("read an entry");
            if entry.file_type().expect("the type of an entry").is_dir() {
                open.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

/// The regular files below `root`, each inode once.
pub fn files_once(root: &Path) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let mut all = files(root);
    all.retain(|path| {
        let meta = path.symlink_metadata().expect("the attributes of a file");
        seen.insert((meta.dev(), meta.ino()))
    });
    all
}

/// The regular files below `root`.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut all = walk(root);
    all.retain(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_file()));
    all
}

/// What a search of a lower tree found.
#[derive(Debug, Default)]
pub struct Leaks {
    /// Files that contain one of the needles, with the needle.
    pub content: Vec<(PathBuf, String)>,
    /// Names, and symlink targets, that are or contain a known plaintext name.
    pub names: Vec<PathBuf>,
    /// Pairs of equal 4 KiB pages that are not all zero: the second place each was seen.
    pub equal_pages: Vec<(PathBuf, usize)>,
    /// Shannon entropy, in bits per byte, of all bytes outside zero pages.
    pub entropy: f64,
    /// How many bytes that is.
    pub bytes: u64,
}

/// Looks in every file, name and symlink target below `lower` for `needles` and `names`, and at the
/// statistics of the bytes. Names shorter than 4 bytes are left out: they turn up by chance.
pub fn search(lower: &Path, needles: &[Vec<u8>], names: &HashSet<OsString>) -> Leaks {
    let mut leaks = Leaks::default();
    let mut pages: HashSet<[u8; 32]> = HashSet::new();
    let mut counts = [0_u64; 256];
    let mut seen = HashSet::new();
    let finder = Needles::new(needles);
    for path in walk(lower) {
        let own = path.file_name().unwrap_or_default().to_owned();
        if own.len() >= 4 && names.contains(&own) {
            leaks.names.push(path.clone());
        }
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        if meta.is_symlink() {
            let target = std::fs::read_link(&path).expect("read a symlink");
            let parts = target
                .components()
                .any(|part| part.as_os_str().len() >= 4 && names.contains(part.as_os_str()));
            if parts || finder.find(target.as_os_str().as_bytes()).is_some() {
                leaks.names.push(path.clone());
            }
        }
        // A hard link is the same file again, not an equal one.
        if !meta.is_file() || !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        let bytes = std::fs::read(&path).expect("read a lower file");
        if let Some(needle) = finder.find(&bytes) {
            leaks
                .content
                .push((path.clone(), String::from_utf8_lossy(needle).into_owned()));
        }
        for (number, page) in bytes.chunks(4096).enumerate() {
            // The rest of an inline file's header page is a hole; so are holes of sparse files.
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            for byte in page {
                counts[usize::from(*byte)] += 1;
            }
            // A few show what is wrong; a million lines do not show more.
            if page.len() == 4096 && !pages.insert(digest(page)) && leaks.equal_pages.len() < 20 {
                leaks.equal_pages.push((path.clone(), number));
            }
        }
    }
    leaks.bytes = counts.iter().sum();
    leaks.entropy = entropy(&counts);
    leaks
}

/// Shannon entropy of a histogram of bytes, in bits per byte.
pub fn entropy(counts: &[u64; 256]) -> f64 {
    let total: u64 = counts.iter().sum();
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| *count as f64 / total as f64)
        .map(|share| -share * share.log2())
        .sum()
}

/// 256 bits that tell pages apart: four FNV-like sums with different odd multipliers. Not cryptographic,
/// and need not be: nobody chooses ciphertext.
fn digest(page: &[u8]) -> [u8; 32] {
    const MULTIPLIERS: [u64; 4] = [
        0x0000_0100_0000_01b3,
        0x9e37_79b9_7f4a_7c15,
        0xc2b2_ae3d_27d4_eb4f,
        0x1656_67b1_9e37_79f9,
    ];
    let mut sums = [0xcbf2_9ce4_8422_2325_u64; 4];
    for word in page.chunks_exact(8) {
        let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        for (sum, multiplier) in sums.iter_mut().zip(MULTIPLIERS) {
            *sum = (*sum ^ word).wrapping_mul(multiplier).rotate_left(29);
        }
    }
    let mut digest = [0; 32];
    for (part, sum) in digest.chunks_exact_mut(8).zip(sums) {
        part.copy_from_slice(&sum.to_le_bytes());
    }
    digest
}

/// Many byte strings looked for at once: by their first 8 bytes, then compared whole.
struct Needles<'a> {
    by_start: std::collections::HashMap<[u8; 8], Vec<&'a [u8]>>,
    /// Bit n set: some needle's first two bytes are n. Nearly every position fails here.
    starts: Vec<u64>,
}

impl<'a> Needles<'a> {
    fn new(needles: &'a [Vec<u8>]) -> Needles<'a> {
        let mut by_start: std::collections::HashMap<[u8; 8], Vec<&[u8]>> = Default::default();
        let mut starts = vec![0_u64; 1024];
        for needle in needles {
            let start: [u8; 8] = needle[..8]
                .try_into()
                .expect("needles have 8 bytes or more");
            by_start.entry(start).or_default().push(needle);
            let pair = usize::from(u16::from_le_bytes([start[0], start[1]]));
            starts[pair / 64] |= 1 << (pair % 64);
        }
        Needles { by_start, starts }
    }

    fn find(&self, bytes: &[u8]) -> Option<&'a [u8]> {
        for (position, window) in bytes.windows(8).enumerate() {
            let pair = usize::from(u16::from_le_bytes([window[0], window[1]]));
            if self.starts[pair / 64] & (1 << (pair % 64)) == 0 {
                continue;
            }
            let start: [u8; 8] = window.try_into().expect("8 bytes");
            let Some(candidates) = self.by_start.get(&start) else {
                continue;
            };
            let rest = &bytes[position..];
            if let Some(needle) = candidates.iter().find(|needle| rest.starts_with(needle)) {
                return Some(needle);
            }
        }
        None
    }
}
