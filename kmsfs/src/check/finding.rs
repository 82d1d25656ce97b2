//! What a check finds, and the report it ends with. Both are promised in docs/OPERATIONS.md.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Findings beyond this many are counted, not kept.
pub const KEPT: usize = 10_000;

macro_rules! codes {
    ($($name:ident = $text:literal: $meaning:literal; $remedy:literal;)*) => {
        /// What was found. The name of a code never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $meaning] #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The name in reports.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// What it means.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$name => $meaning,)* }
            }

            /// What `--repair` does about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Code::$name => $remedy,)* }
            }
        }
    };
}

codes! {
    VolumeRecord = "volume-record": "the volume record is missing or damaged: no policy can be unlocked";
        "nothing: put .kmsfs.volume back from a backup of the lower directory";
    UncleanMark = "unclean-mark": "the last stop was not clean, so leftovers of a crash are to be expected";
        "removes the mark when everything was checked and nothing is left";
    LostEntries = "lost-entries": "an earlier mount or repair put objects into .kmsfs.lost";
        "nothing: look through them, then remove them by hand";
    Foreign = "foreign-object": "an object that kmsfs did not make: the mount does not show it";
        "nothing: it is left alone";
    Reserved = "reserved-name": "a name of kmsfs where none belongs: the mount does not show it";
        "nothing: it is left alone";
    Temporary = "temporary": "the temporary file of an operation that a crash cut short";
        "removes it: what it was to replace is in place";
    OwnMode = "own-file-mode": "a file of kmsfs that others than its owner may change";
        "takes the rights of others away";
    Unreadable = "unreadable": "the lower file system does not let it be read";
        "nothing: mend the lower file system or its medium";
    HeaderMissing = "directory-header-missing": "a directory without a header: its names cannot be read";
        "gives it a new header; its entries get names of the form lost+found.#INODE";
    HeaderDamaged = "directory-header-damaged": "the header of a directory is damaged: its names cannot be read";
        "keeps the header in .kmsfs.lost and gives it a new one; its entries get names of the form lost+found.#INODE. Nothing, if it admits directories with a policy of their own: a new one would shut them out";
    HeaderForeign = "directory-header-foreign": "a directory of another volume or policy, or that its parent did not admit";
        "moves it into .kmsfs.lost";
    RootHeader = "root-header": "the header of the root directory is missing, damaged or not this volume's";
        "nothing: put .kmsfs back from a backup of the lower directory";
    DuplicateId = "directory-id-duplicate": "two directories have the same header: one is a copy that was made in the lower directory";
        "nothing: both can be read; copy one through the mount and remove it";
    Halfway = "reencryption-unfinished": "a directory or file that has got a new key; the old one still opens part of it";
        "nothing: it is in use like any other; `kmsctl fs reencrypt` goes on";
    InCopy = "content-in-copy": "a file that was getting another content mode when it was stopped: what is in it is in its copy";
        "brings it back from the copy, as the next mount would";
    CopyMissing = "copy-missing": "the content of a file is in its copy, and the copy is missing or another file's";
        "nothing: put the copy back into .kmsfs.copies, from where this encrypted directory came from";
    CopyOrphan = "copy-orphan": "a copy of a file that was getting another content mode, and that no file needs";
        "removes it when the whole tree was read and nothing in it is damaged or set aside";
    Locked = "locked": "kmsd does not give out the key: only the structure was checked";
        "nothing: enable the key, then check again";
    Name = "name-unreadable": "a name that its directory's key does not open: altered, or moved in the lower directory";
        "renames it to lost+found.#INODE in its directory";
    NameForm = "name-not-canonical": "a name stored in another form than kmsfs finds it by: it is listed, but cannot be opened";
        "stores the name in the right form, or as lost+found.#INODE if that is taken";
    SidecarMissing = "sidecar-missing": "the record of a long name is missing: the name is lost, not the object";
        "renames it to lost+found.#INODE in its directory";
    SidecarDamaged = "sidecar-damaged": "the record of a long name is damaged: the name is lost, not the object";
        "keeps the record in .kmsfs.lost and renames the object to lost+found.#INODE in its directory";
    SidecarOrphan = "sidecar-orphan": "the record of a long name without its entry";
        "removes it";
    HeaderBlank = "file-header-blank": "the header of a file is blank: it was made shortly before a crash, and nothing in it was ever synced";
        "settles it as an empty file if the last stop was not clean, else moves it into .kmsfs.lost";
    FileDamaged = "file-header-damaged": "the header of a file is damaged: its content cannot be read";
        "moves it into .kmsfs.lost";
    FileForeign = "file-header-foreign": "a file of another policy, which the directory's key does not open";
        "moves it into .kmsfs.lost";
    Slot = "file-slot-unusable": "one of the two key slots of a file is damaged; the other one is good";
        "empties the damaged slot";
    Size = "file-size": "the lower size of a file does not agree with its header";
        "settles it: the authenticated header decides";
    SizeDamaged = "file-size-damaged": "the lower size of a file belongs to no plain size, or content that was synced is missing";
        "moves it into .kmsfs.lost";
    Content = "file-content": "content of a file does not authenticate or cannot be read";
        "nothing: the rest can be read; `kmsctl fs extract --salvage` saves it";
    HardLink = "hard-link-elsewhere": "a file has more names than were found: others are outside of the tree or in .kmsfs.lost";
        "nothing";
    Symlink = "symlink-damaged": "the target of a symbolic link does not open";
        "moves it into .kmsfs.lost";
    SymlinkRecord = "symlink-record-missing": "the record of a long link target is missing or damaged";
        "moves the link into .kmsfs.lost";
    SymlinkOrphan = "symlink-record-orphan": "the record of a long link target that no link refers to";
        "removes it when the whole tree was read";
    Xattr = "xattr-damaged": "an extended attribute does not open";
        "keeps name and value in .kmsfs.lost/journal and removes the attribute";
    XattrForeign = "xattr-foreign": "an attribute in the namespace user. that kmsfs did not write: the mount does not show it";
        "nothing: it is left alone";
    PolicyUnused = "policy-unused": "the volume record has a policy that no directory uses";
        "nothing: it is harmless";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Legal: nothing is lost, and a mount copes with it. Leftovers of a crash are of this kind.
    Note,
    /// Could not be checked.
    Unchecked,
    /// Damage.
    Damage,
}

/// What has become of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is still there.
    Left,
    /// Repaired.
    Repaired,
    /// Moved into `.kmsfs.lost`, recoverable.
    Quarantined,
    /// The repair failed: see [`Finding::detail`].
    Failed,
}

/// One finding.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// The name in the mount, as far as names could be read; `?` stands for one that could not. Bytes that are not UTF-8 are written `\xNN`.
    pub plain_path: String,
    /// The name below the lower directory.
    pub lower_path: String,
    /// What exactly.
    pub detail: String,
    /// What has become of it.
    pub outcome: Outcome,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Directories.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Everything else.
    pub others: u64,
    /// Bytes of content that were read.
    pub bytes: u64,
    /// Findings that count as damage.
    pub damage: u64,
}

/// What a check ends with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Volume id, if the record could be read.
    pub volume: Option<String>,
    /// The lower directory.
    pub lower: PathBuf,
    /// Whether keys were there; without, only the structure was checked.
    pub keys: bool,
    /// Whether all content was read.
    pub content: bool,
    /// Whether repairs were to be made.
    pub repair: bool,
    /// Whether it was mounted meanwhile.
    pub online: bool,
    /// How much was looked at.
    pub counts: Counts,
    /// Findings of severity damage that are still there.
    pub damage: u64,
    /// Findings of severity damage that were repaired or quarantined.
    pub repaired: u64,
    /// Findings of severity unchecked.
    pub unchecked: u64,
    /// Findings of severity note.
    pub notes: u64,
    /// The findings, in the order found; at most [`KEPT`].
    pub findings: Vec<Finding>,
}

impl Report {
    /// Nothing is damaged now, and everything was checked.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damage == 0 && self.unchecked == 0
    }

    pub(super) fn add(&mut self, finding: Finding) {
        match (finding.severity, finding.outcome) {
            (Severity::Note, _) => self.notes += 1,
            (Severity::Unchecked, _) => self.unchecked += 1,
            (Severity::Damage, Outcome::Repaired | Outcome::Quarantined) => self.repaired += 1,
            (Severity::Damage, Outcome::Left | Outcome::Failed) => self.damage += 1,
        }
        if finding.severity == Severity::Damage {
            self.counts.damage += 1;
        }
        if self.findings.len() < KEPT {
            self.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_code() {
        let text = include_str!("../../../docs/OPERATIONS.md");
        for code in Code::ALL {
            let row = format!("| `{code}` | {} | {} |", code.meaning(), code.remedy());
            assert!(text.contains(&row), "docs/OPERATIONS.md lacks: {row}");
        }
    }

    #[test]
    fn codes_have_one_name_in_text_and_json() {
        for code in Code::ALL {
            let json = serde_json::to_value(code).unwrap();
            assert_eq!(serde_json::from_value::<Code>(json.clone()).unwrap(), *code);
            assert_eq!(json, code.as_str(), "{code:?}");
        }
    }
}
