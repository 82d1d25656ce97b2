//! One manipulation of the lower tree, and what the mount then makes of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};

use kmsfs::errno::{Errno, FsResult};
use kmsfs::fs::{Fs, Kind, NodeId, SetAttr};
use kmsfs::volume::Keys;

use crate::fuzz::calls::{Calls, ROOT, View};
use crate::fuzz::sample::{Sample, lower_folder};
use crate::fuzz::tree::Tree;

/// Where the consequence is looked for.
#[derive(Clone, Debug)]
pub(crate) enum Look {
    /// Content of a file, target of a symlink, names in a directory; the kind of anything else.
    Content,
    /// The value of an attribute.
    Attribute(String),
    /// The names of the `user.` attributes.
    Attributes,
    /// Whether its directory lists it.
    Listed,
    /// Permission bits.
    Mode,
}

/// A change of the lower tree.
pub(crate) enum Change {
    /// One bit of one lower file.
    Bit(String, usize),
    /// Anything.
    Any(Box<dyn FnOnce(&mut Tree)>),
}

/// A manipulation and where to look.
pub(crate) struct Case {
    /// For messages.
    pub(crate) what: String,
    pub(crate) change: Change,
    /// The plain path of the object.
    pub(crate) path: String,
    pub(crate) look: Look,
    /// The lower path that the log line has to name.
    pub(crate) lower: String,
    /// What is shown if it is not noticed.
    pub(crate) shows: Option<Vec<u8>>,
    /// Plain paths, besides the object and what is below it, that are touched.
    pub(crate) also: Vec<String>,
    /// A plain path that somebody has open meanwhile.
    pub(crate) held: Option<String>,
}

impl Case {
    /// A change that shows in the content of a plain path.
    pub(crate) fn new(
        sample: &Sample,
        path: &str,
        change: impl FnOnce(&mut Tree) + 'static,
    ) -> Case {
        Case {
            what: path.to_owned(),
            change: Change::Any(Box::new(change)),
            path: path.to_owned(),
            look: Look::Content,
            lower: sample.lower(path),
            shows: None,
            also: Vec::new(),
            held: None,
        }
    }

    /// Every bit of some bytes of a lower file, each a case of its own.
    pub(crate) fn bits(
        sample: &Sample,
        path: &str,
        lower: &str,
        bytes: impl Iterator<Item = usize>,
    ) -> Vec<Case> {
        bytes
            .flat_map(|byte| (0..8).map(move |bit| byte * 8 + bit))
            .map(|bit| Case {
                what: format!("bit {} of byte {} of {path}", bit % 8, bit / 8),
                change: Change::Bit(lower.to_owned(), bit),
                ..Case::new(sample, path, |_| ())
            })
            .collect()
    }

    pub(crate) fn look(self, look: Look) -> Case {
        Case { look, ..self }
    }

    pub(crate) fn shows(self, shows: impl Into<Vec<u8>>) -> Case {
        Case {
            shows: Some(shows.into()),
            ..self
        }
    }

    pub(crate) fn lower(self, lower: impl Into<String>) -> Case {
        Case {
            lower: lower.into(),
            ..self
        }
    }

    pub(crate) fn also(self, paths: &[&str]) -> Case {
        let also = paths.iter().map(|path| (*path).to_owned()).collect();
        Case { also, ..self }
    }

    pub(crate) fn listed(self) -> Case {
        self.look(Look::Listed)
    }

    pub(crate) fn held(self, path: &str) -> Case {
        Case {
            held: Some(path.to_owned()),
            ..self
        }
    }

    pub(crate) fn what(self, what: impl std::fmt::Display) -> Case {
        Case {
            what: format!("{}: {what}", self.path),
            ..self
        }
    }
}

/// What came of it: the words of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The volume does not mount.
    Refused,
    /// Input/output error, one line in the log that names the lower object.
    Eio,
    /// The key that the object names is not given out.
    Enokey,
    /// It is not shown; one line in the log that names it.
    Hidden,
    /// It is not shown, and nothing is said.
    Gone,
    /// All is as before.
    Harmless,
    /// What the attacker put there is shown.
    Shows,
    /// What is shown is noise.
    Noise,
}

impl Outcome {
    pub(crate) const ALL: &'static [(&'static str, Outcome)] = &[
        ("refused", Outcome::Refused),
        ("EIO", Outcome::Eio),
        ("ENOKEY", Outcome::Enokey),
        ("hidden", Outcome::Hidden),
        ("gone", Outcome::Gone),
        ("harmless", Outcome::Harmless),
        ("shows", Outcome::Shows),
        ("noise", Outcome::Noise),
    ];
}

/// The sample as it is, to compare with.
pub(crate) struct Baseline<'a> {
    pub(crate) sample: &'a Sample,
    view: View,
    /// Single bits are changed, and put back, in this copy.
    folder: tempfile::TempDir,
}

impl<'a> Baseline<'a> {
    pub(crate) fn new(sample: &'a Sample) -> Baseline<'a> {
        let folder = lower_folder();
        sample.tree.write(folder.path());
        let fs = open(sample, folder.path()).expect("the sample mounts");
        let view = Calls(&fs).view();
        drop(fs);
        Baseline {
            sample,
            view,
            folder,
        }
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Carries cases out. Panics if something else than their object is affected, or the log does not say what it should.
    pub(crate) fn outcomes(&self, cases: Vec<Case>) -> Vec<(String, Result<Outcome, String>)> {
        let mut before: Option<(String, FsResult<Vec<u8>>)> = None;
        cases
            .into_iter()
            .map(|case| {
                let what = case.what.clone();
                let place = format!("{} {:?}", case.path, case.look);
                let known = before.take().filter(|(known, _)| *known == place);
                let known = known.unwrap_or_else(|| {
                    let fs = open(self.sample, self.folder.path()).expect("the sample mounts");
                    (place, look(&Calls(&fs), &case.path, &case.look))
                });
                let outcome =
                    catch_unwind(AssertUnwindSafe(|| self.outcome_beside(case, &known.1)));
                let outcome = outcome.map_err(|said| message(&*said));
                before = Some(known);
                (what, outcome)
            })
            .collect()
    }

    fn outcome_beside(&self, case: Case, before: &FsResult<Vec<u8>>) -> Outcome {
        match case.change {
            Change::Bit(ref lower, bit) => {
                let file = File::options()
                    .read(true)
                    .write(true)
                    .open(self.folder.path().join(lower));
                let file = file.expect("open a lower file");
                let mut byte = [0];
                file.read_exact_at(&mut byte, bit as u64 / 8)
                    .expect("read a byte");
                file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit as u64 / 8)
                    .expect("write");
                let outcome =
                    self.look_at(self.folder.path(), &case, before, bit.is_multiple_of(64));
                file.write_all_at(&byte, bit as u64 / 8)
                    .expect("write it back");
                outcome
            }
            Change::Any(change) => {
                let mut tree = self.sample.tree.clone();
                change(&mut tree);
                let folder = lower_folder();
                tree.write(folder.path());
                let case = Case {
                    change: Change::Any(Box::new(|_| ())),
                    ..case
                };
                self.look_at(folder.path(), &case, before, true)
            }
        }
    }

    fn look_at(
        &self,
        folder: &Path,
        case: &Case,
        before: &FsResult<Vec<u8>>,
        whole: bool,
    ) -> Outcome {
        let Ok(fs) = open(self.sample, folder) else {
            return Outcome::Refused;
        };
        let calls = Calls(&fs);
        if let Some(held) = &case.held {
            let entry = calls.find(held).expect("it is there");
            if entry.attr.kind == Kind::File {
                calls
                    .0
                    .open(&ROOT, entry.node, libc::O_RDWR, false)
                    .expect("open");
            }
        }
        let (found, log) = logged(|| look(&calls, &case.path, &case.look));
        let lines = log.lines().filter(|line| line.contains("ERROR")).count();
        let named = log.lines().filter(|line| names(line, &case.lower)).count();
        let outcome = match &found {
            Err(Errno::IO) => Outcome::Eio,
            Err(Errno::NOKEY) => Outcome::Enokey,
            Err(Errno::NOENT | Errno::NODATA) if named > 0 => Outcome::Hidden,
            Err(Errno::NOENT | Errno::NODATA) => Outcome::Gone,
            Err(errno) => panic!("{}: {errno}", case.what),
            Ok(_) if named > 0 => Outcome::Hidden,
            Ok(_) if found == *before => Outcome::Harmless,
            Ok(found) if Some(found) == case.shows.as_ref() => Outcome::Shows,
            Ok(_) => Outcome::Noise,
        };
        let said = match outcome {
            Outcome::Eio => (1, lines),
            Outcome::Hidden => (1, named),
            _ => (0, lines),
        };
        assert!(
            said.0 == said.1 && named == said.0,
            "{}: {outcome:?}, but the log says: {log}",
            case.what
        );
        if outcome == Outcome::Eio {
            nothing_is_written(&calls, folder, case);
        }
        if whole {
            self.others_unharmed(&calls, case);
        }
        outcome
    }

    fn others_unharmed(&self, calls: &Calls<'_>, case: &Case) {
        let touched = |path: &str| {
            [&case.path].into_iter().chain(&case.also).any(|touched| {
                path == touched
                    || path
                        .strip_prefix(touched.as_str())
                        .is_some_and(|rest| rest.starts_with('/'))
            })
        };
        let (view, _) = logged(|| calls.view());
        let apart = |view: &View| -> View {
            let kept = view.iter().filter(|(path, _)| !touched(path));
            kept.map(|(path, seen)| (path.clone(), seen.clone()))
                .collect()
        };
        let (now, then) = (apart(&view), apart(&self.view));
        for (path, seen) in &then {
            assert_eq!(
                now.get(path),
                Some(seen),
                "{}: {path} is not as before",
                case.what
            );
        }
        for path in now.keys() {
            assert!(then.contains_key(path), "{}: {path} appeared", case.what);
        }
    }
}

/// A line of the log about this lower path.
fn names(line: &str, lower: &str) -> bool {
    line.contains("ERROR") && line.contains(lower)
}

/// What is refused to readers is refused to writers, and stays as it is.
fn nothing_is_written(calls: &Calls<'_>, folder: &Path, case: &Case) {
    let Ok(entry) = calls.find(&case.path) else {
        return;
    };
    if entry.attr.kind != Kind::File || !matches!(case.look, Look::Content) {
        return;
    }
    let lower = folder.join(&case.lower);
    let before = std::fs::read(&lower);
    logged(|| {
        let opened = calls.0.open(&ROOT, entry.node, libc::O_RDWR, false);
        if let Ok(opened) = opened {
            // Damage that is found when it is read.
            let mut buffer = [0; 1 << 17];
            assert_eq!(
                calls.0.read(opened.fh, 0, &mut buffer),
                Err(Errno::IO),
                "{}",
                case.what
            );
            calls.0.release(opened.fh);
            return;
        }
        assert_eq!(opened.err(), Some(Errno::IO), "{}", case.what);
        let truncating = libc::O_RDWR | libc::O_TRUNC;
        assert_eq!(
            calls.0.open(&ROOT, entry.node, truncating, false).err(),
            Some(Errno::IO)
        );
        let shorter = SetAttr {
            size: Some(1),
            ..SetAttr::default()
        };
        assert_eq!(
            calls.0.setattr(&ROOT, entry.node, None, &shorter).err(),
            Some(Errno::IO)
        );
    });
    if let (Ok(before), Ok(after)) = (before, std::fs::read(&lower)) {
        assert!(before == after, "{}: refused, and yet written", case.what);
    }
}

fn open(sample: &Sample, folder: &Path) -> FsResult<Fs> {
    let keys = Arc::clone(&sample.keys) as Arc<dyn Keys>;
    logged(|| Fs::new(folder, keys, false)).0
}

fn look(calls: &Calls<'_>, path: &str, look: &Look) -> FsResult<Vec<u8>> {
    if let Look::Listed = look {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = match folder {
            "" => NodeId::ROOT,
            folder => calls.find(folder)?.node,
        };
        let listed = calls
            .names(folder)?
            .iter()
            .any(|found| found == name.as_bytes());
        return if listed {
            Ok(b"listed".to_vec())
        } else {
            Err(Errno::NOENT)
        };
    }
    let (node, attr) = match path {
        "" => (NodeId::ROOT, calls.0.getattr(&ROOT, NodeId::ROOT, None)?),
        path => {
            let entry = calls.find(path)?;
            (entry.node, entry.attr)
        }
    };
    match (look, attr.kind) {
        (Look::Attribute(name), _) => calls.0.getxattr(&ROOT, node, OsStr::new(name)),
        (Look::Attributes, _) => {
            let mut names: Vec<_> = calls
                .0
                .listxattr(&ROOT, node)?
                .split(|byte| *byte == 0)
                .map(<[u8]>::to_vec)
                .collect();
            names.sort();
            Ok(names.join(&b' '))
        }
        (Look::Mode, _) => Ok(attr.perm.to_le_bytes().to_vec()),
        (_, Kind::File) => calls.content(node),
        (_, Kind::Symlink) => calls.0.readlink(node),
        (_, Kind::Directory) => {
            let mut names = calls.names(node)?;
            names.sort();
            Ok(names.join(&b'/'))
        }
        (_, kind) => Ok(format!("{kind:?}").into_bytes()),
    }
}

/// Runs `work` and gives what this thread logged.
fn logged<T>(work: impl FnOnce() -> T) -> (T, String) {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let done = tracing::subscriber::with_default(subscriber, work);
    let log = String::from_utf8_lossy(&lines.0.lock().unwrap()).into_owned();
    (done, log)
}

/// What a panic said.
fn message(said: &(dyn std::any::Any + Send)) -> String {
    let text = said.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| said.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_owned()
}

/// The name as bytes, for what is shown of directories.
pub(crate) fn joined(names: &[&str]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = names
        .iter()
        .map(|name| OsStr::new(name).as_bytes())
        .collect();
    names.sort_unstable();
    names.join(&b'/')
}
