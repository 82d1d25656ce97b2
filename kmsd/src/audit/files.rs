//! The files of the log: their names, their order, and the note that lets a restart skip most of them.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use kms_core::audit::tree::Edge;
use kms_core::audit::{Chain, MAX_LINE, split};
use kms_core::rows::Hash;
use kms_crypto::sha256;
use serde::{Deserialize, Serialize};

/// Where a restart goes on reading.
const STATE: &str = "state.json";

/// A file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Number of its first record.
    pub first: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Name of the file that begins with record `first`.
pub(super) fn name(first: u64) -> String {
    format!("log-{first:012}.jsonl")
}

/// The files of a log, in order. Other files in the directory are not looked at.
///
/// # Errors
/// The directory cannot be read. One that does not exist is an empty log.
pub fn list(directory: &Path) -> io::Result<Vec<LogFile>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let first = entry.file_name().to_str().and_then(|name| {
            let digits = name.strip_prefix("log-")?.strip_suffix(".jsonl")?;
            let decimal = digits.len() >= 12 && digits.bytes().all(|byte| byte.is_ascii_digit());
            decimal.then(|| digits.parse::<u64>().ok())?
        });
        if let Some(first) = first {
            files.push(LogFile {
                first,
                path: entry.path(),
                bytes: entry.metadata()?.len(),
            });
        }
    }
    files.sort_by_key(|file| file.first);
    Ok(files)
}

/// Name of the file with the tree's edge before record `first`.
pub(super) fn edge_name(first: u64) -> String {
    format!("log-{first:012}.edge")
}

/// Keeps the tree's edge before a file, so that the log can be verified from there on when older files are gone.
pub(super) fn save_edge(directory: &Path, edge: &Edge) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(directory.join(edge_name(edge.size())))?;
    file.write_all(edge.to_text().as_bytes())?;
    file.sync_all()
}

/// The edge that [`save_edge`] kept.
pub(super) fn load_edge(directory: &Path, first: u64) -> Option<Edge> {
    let text = std::fs::read_to_string(directory.join(edge_name(first))).ok()?;
    Edge::parse(&text).filter(|edge| edge.size() == first)
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes a file of the log that is not there yet.
pub(super) fn create(directory: &Path, first: u64) -> io::Result<(PathBuf, File)> {
    let path = directory.join(name(first));
    let file = File::options()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    sync_directory(directory)?;
    Ok((path, file))
}

/// Where the log stood at some moment. Only a shortcut: what it says of the chain is checked against the file, and a wrong
/// edge, which the file's last line does not show, by the sum over everything.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    size: u64,
    chain: Hash,
    file: u64,
    bytes: u64,
    /// Leaves of the tree: fewer than there are records if it had to begin anew.
    leaves: u64,
    edge: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sum: Option<Hash>,
}

impl State {
    /// SHA-256 over all other members.
    fn sum(&mut self) -> io::Result<Hash> {
        self.sum = None;
        let text = serde_json::to_vec(self)?;
        Ok(Hash(sha256(&[b"kmsd-audit-state-v1\0", &text])))
    }
}

/// A place in the log up to which everything has been read.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) chain: Chain,
    pub(super) edge: Edge,
    /// First record of the file.
    pub(super) file: u64,
    /// Bytes of that file.
    pub(super) bytes: u64,
}

impl Place {
    /// The beginning of a log.
    pub(super) fn start() -> Self {
        Self {
            chain: Chain::new(),
            edge: Edge::new(),
            file: 0,
            bytes: 0,
        }
    }

    /// Keeps it for the next start.
    pub(super) fn save(&self, directory: &Path) -> io::Result<()> {
        let mut state = State {
            size: self.chain.size(),
            chain: self.chain.value(),
            file: self.file,
            bytes: self.bytes,
            leaves: self.edge.size(),
            edge: self
                .edge
                .nodes()
                .iter()
                .map(|node| HEXLOWER.encode(node))
                .collect(),
            sum: None,
        };
        state.sum = Some(state.sum()?);
        let temporary = directory.join("state.json.new");
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(&state)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, directory.join(STATE))?;
        // Files before this place may be removed from now on.
        sync_directory(directory)
    }

    /// The place that was kept, if the file still has there what it had.
    pub(super) fn load(directory: &Path) -> Option<Self> {
        let text = std::fs::read(directory.join(STATE)).ok()?;
        let mut state: State = serde_json::from_slice(&text).ok()?;
        let sum = state.sum?;
        if state.sum().ok()? != sum {
            return None;
        }
        let nodes = state
            .edge
            .iter()
            .map(|node| HEXLOWER.decode(node.as_bytes()).ok()?.try_into().ok())
            .collect::<Option<Vec<[u8; 32]>>>()?;
        let place = Self {
            chain: Chain::at(state.size, state.chain),
            edge: Edge::from_parts(state.leaves, nodes).filter(|edge| edge.size() <= state.size)?,
            file: state.file,
            bytes: state.bytes,
        };
        place.is_in(directory).then_some(place)
    }

    /// Whether the line that ends here has this chain value.
    fn is_in(&self, directory: &Path) -> bool {
        let line = line_before(&directory.join(name(self.file)), self.bytes);
        let end = line.as_deref().and_then(|line| {
            let (prev, _, seq) = split(line)?;
            let mut chain = Chain::at(seq, prev);
            chain.advance(line);
            Some(chain)
        });
        end == Some(self.chain)
    }
}

/// Number of the last record of a file.
pub(super) fn last_seq(path: &Path) -> Option<u64> {
    let line = line_before(path, std::fs::metadata(path).ok()?.len())?;
    Some(split(&line)?.2)
}

/// The whole line that ends at byte `end`.
fn line_before(path: &Path, end: u64) -> Option<Vec<u8>> {
    let start = end.saturating_sub((MAX_LINE as u64).saturating_add(2));
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut tail = Vec::new();
    file.take(end.checked_sub(start)?)
        .read_to_end(&mut tail)
        .ok()?;
    let lines = tail.strip_suffix(b"\n")?;
    let line = lines.rsplit(|byte| *byte == b'\n').next()?;
    Some(line.to_vec())
}
