//! What somebody can still read who has kept every key from before, and the headers that they were in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kms_api::client::Client;
use kms_format::content::{self, Lower};
use kms_format::dir::DirHeader;
use kms_format::file::{FileHeader, Layout, PAGE};
use kms_format::names::{self, LowerName};
use kms_format::volume::VolumeRecord;
use kms_format::{ContentMode, UnlockedPolicy, gcm};
use kms_tests::wait;
use kms_tests::world::World;
use kmsfs::volume::RecordFile;
use kmsfs::volume::kmsd::KmsdKeys;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Keys of policies by their generation.
type Policies = BTreeMap<u32, Arc<UnlockedPolicy>>;

/// A lower file with another page in the place of its header.
struct Spliced {
    header: Vec<u8>,
    file: File,
}

impl Spliced {
    fn seek(&self, to: SeekFrom) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.file, to) {
            Err(Errno::NXIO) => Ok(None),
            found => Ok(Some(found?)),
        }
    }
}

/// Nothing here is written.
fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Lower for Spliced {
    type Error = io::Error;

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut got = 0;
        while got < out.len() {
            match self.file.read_at(&mut out[got..], offset + got as u64)? {
                0 => break,
                more => got += more,
            }
        }
        let from = (offset as usize).min(PAGE);
        let to = (offset as usize + got).min(PAGE);
        out[..to - from].copy_from_slice(&self.header[from..to]);
        Ok(got)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn seek_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.seek(SeekFrom::Data(offset))
    }

    fn seek_hole(&self, offset: u64) -> io::Result<Option<u64>> {
        self.seek(SeekFrom::Hole(offset))
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        read_only()
    }

    fn write_pair_at(&self, _first: &[u8], _second: &[u8], _offset: u64) -> io::Result<()> {
        read_only()
    }

    fn set_size(&self, _size: u64) -> io::Result<()> {
        read_only()
    }

    fn sync_data(&self) -> io::Result<()> {
        read_only()
    }

    fn reserve(&self, _offset: u64, _length: u64) -> io::Result<bool> {
        read_only()
    }

    fn punch(&self, _offset: u64, _length: u64) -> io::Result<bool> {
        read_only()
    }
}

/// The files of a lower tree that have a header, and its directories, by inode number.
#[derive(Default)]
struct Objects {
    files: HashMap<u64, PathBuf>,
    folders: HashMap<u64, PathBuf>,
}

impl Objects {
    fn below(lower: &Path) -> Objects {
        let mut objects = Objects::default();
        objects.add(lower);
        objects
    }

    fn add(&mut self, folder: &Path) {
        let inode = folder.metadata().expect("look at a lower folder").ino();
        self.folders.insert(inode, folder.to_path_buf());
        for entry in fs::read_dir(folder).expect("list the lower tree") {
            let entry = entry.expect("an entry");
            let kind = entry.file_type().expect("its kind");
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(names::RESERVED)
            {
                continue;
            }
            if kind.is_dir() {
                self.add(&entry.path());
            } else if kind.is_file() {
                self.files.insert(entry.ino(), entry.path());
            }
        }
    }
}

/// The header page of a lower file, if it has one.
fn header_of(path: &Path) -> Option<Vec<u8>> {
    let mut page = vec![0; PAGE];
    let file = File::open(path).expect("open a lower file");
    file.read_exact_at(&mut page, 0).ok()?;
    Some(page)
}

fn directory_header_of(folder: &Path) -> Vec<u8> {
    fs::read(folder.join(names::DIR_HEADER)).expect("read a directory's header")
}

/// The units of a file, as a header and policy keys give them; empty ones where they give none. Content in the header is not
/// counted: it is in the page itself.
fn units(header: &[u8], path: &Path, policies: &Policies) -> Vec<Vec<u8>> {
    let Ok(decoded) = FileHeader::decode(header) else {
        return Vec::new();
    };
    let Some((_, newest)) = policies.last_key_value() else {
        return Vec::new();
    };
    if decoded.layout() == Layout::Inline {
        return Vec::new();
    }
    let lower = Spliced {
        header: header.to_vec(),
        file: File::open(path).expect("open a lower file"),
    };
    let older = |generation| {
        let kept = policies.get(&generation).cloned();
        kept.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    let Ok(file) = content::File::load(lower, false, true, newest, older) else {
        return Vec::new();
    };
    let unit = match decoded.mode() {
        ContentMode::Xts => PAGE,
        ContentMode::Gcm => gcm::CONTENT,
    };
    (0..file.size())
        .step_by(unit)
        .map(|offset| {
            let mut out = vec![0; unit];
            let got = file.read(offset, &mut out);
            out.truncate(got.unwrap_or(0));
            out
        })
        .collect()
}

/// How much of `truth` shows, in cells of 16 bytes; zeros are no secret, they are also what a hole shows.
fn shown(truth: &[Vec<u8>], found: &[Vec<u8>]) -> usize {
    let cells = |unit: &[u8]| -> Vec<[u8; 16]> { unit.as_chunks().0.to_vec() };
    truth
        .iter()
        .zip(found)
        .flat_map(|(truth, found)| cells(truth).into_iter().zip(cells(found)))
        .filter(|(truth, found)| truth == found && *truth != [0; 16])
        .count()
}

/// Everything that was ever taken.
pub(crate) struct OldKeys {
    policies: Policies,
    /// By inode number.
    files: HashSet<(u64, Vec<u8>)>,
    folders: HashSet<(u64, Vec<u8>)>,
    record: VolumeRecord,
}

fn keys(world: &World, record: &VolumeRecord) -> KmsdKeys {
    let client = Client::new(world.daemon.socket());
    KmsdKeys::new(client, record.clone(), wait::PATIENCE)
}

fn record_of(lower: &Path) -> VolumeRecord {
    let file = RecordFile::in_directory(lower).expect("open the volume");
    file.read().expect("read the volume record")
}

impl OldKeys {
    /// Nothing yet, of a volume with one policy.
    pub(crate) fn new(lower: &Path) -> OldKeys {
        OldKeys {
            policies: Policies::default(),
            files: HashSet::new(),
            folders: HashSet::new(),
            record: record_of(lower),
        }
    }

    /// Takes the policy keys and headers that there are now. Gives what they open: the contents of the files that are not in
    /// their headers.
    pub(crate) fn take(&mut self, world: &World, lower: &Path) -> Vec<Vec<u8>> {
        let record = record_of(lower);
        let keys = keys(world, &record);
        for policy in &record.policies {
            // A line may have been written before kmsd made its generation, or be left of one that was ended.
            if let Ok(unlocked) = keys.unlock(&policy.policy, policy.generation) {
                self.policies
                    .entry(policy.generation)
                    .or_insert(unlocked.policy);
            }
        }
        let objects = Objects::below(lower);
        let mut opened = Vec::new();
        for (inode, path) in objects.files {
            if let Some(header) = header_of(&path) {
                let decoded = FileHeader::decode(&header).expect("a header");
                let mut wraps = decoded.wraps();
                let known = wraps.any(|wrap| self.policies.contains_key(&wrap.generation));
                assert!(known, "{}: no key of it was taken", path.display());
                opened.push(units(&header, &path, &self.policies).concat());
                self.files.insert((inode, header));
            }
        }
        for (inode, path) in objects.folders {
            self.folders.insert((inode, directory_header_of(&path)));
        }
        opened
    }

    /// Of what is there now nothing that was taken opens anything: no policy key a header, no former header content or names. And
    /// kmsd gives the policy keys to nobody any more.
    pub(crate) fn open_nothing(&self, world: &World, lower: &Path) {
        for policy in &self.record.policies {
            let unlocked = keys(world, &self.record).unlock(&policy.policy, policy.generation);
            assert!(unlocked.is_err(), "generation {}", policy.generation);
        }
        let record = record_of(lower);
        let now: Policies = record
            .policies
            .iter()
            .map(|policy| {
                let unlocked = keys(world, &record).unlock(&policy.policy, policy.generation);
                let unlocked = unlocked.expect("unlock the policy in use");
                (policy.generation, unlocked.policy)
            })
            .collect();
        let objects = Objects::below(lower);
        self.open_no_files(&objects, &now);
        self.open_no_names(&objects);
    }

    fn open_no_files(&self, objects: &Objects, now: &Policies) {
        let mut truths = HashMap::new();
        for (inode, path) in &objects.files {
            let Some(header) = header_of(path) else {
                continue;
            };
            for (generation, policy) in &self.policies {
                let opened = FileHeader::open(&header, policy);
                assert!(opened.is_err(), "{}: {generation}", path.display());
            }
            let truth = units(&header, path, now);
            assert!(
                truth.iter().all(|unit| !unit.is_empty()),
                "{}",
                path.display()
            );
            truths.insert(inode, truth);
        }
        let mut compared = 0;
        for (inode, header) in &self.files {
            let (Some(path), Some(truth)) = (objects.files.get(inode), truths.get(inode)) else {
                continue;
            };
            let found = units(header, path, &self.policies);
            assert_eq!(
                shown(truth, &found),
                0,
                "{}: a key of before",
                path.display()
            );
            compared += truth.len();
        }
        assert!(compared > 0, "no file of before is there any more");
    }

    fn open_no_names(&self, objects: &Objects) {
        let mut tried = 0;
        for (inode, header) in &self.folders {
            let Some(path) = objects.folders.get(inode) else {
                continue;
            };
            let header = DirHeader::decode(header).expect("a header that was in use");
            let policy = &self.policies[&header.generation()];
            let keys = header.unlock(policy).expect("a key that was in use");
            for entry in fs::read_dir(path).expect("list the lower folder") {
                let name = entry.expect("an entry").file_name().into_encoded_bytes();
                if names::classify(&name) != LowerName::Short {
                    continue;
                }
                for keys in [Some(&keys), keys.former()].into_iter().flatten() {
                    assert!(names::decrypt(keys, &name, None).is_err());
                    tried += 1;
                }
            }
            let now = DirHeader::decode(&directory_header_of(path)).expect("a header");
            for policy in self.policies.values() {
                assert!(now.unlock(policy).is_err(), "{}", path.display());
            }
        }
        assert!(tried > 0, "no directory of before is there any more");
    }
}
