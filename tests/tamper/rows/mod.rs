//! The manipulations by their names in docs/THREAT-MODEL.md.

mod content;
mod directories;
mod files;
mod names;
mod objects;

use crate::case::Case;
use crate::fuzz::sample::Sample;

/// A name, and what makes its cases. All of them have one outcome.
pub(crate) type Row = (&'static str, fn(&Sample) -> Vec<Case>);

/// What `mounts` carries out on a real mount only, because it needs kmsd or a user.
pub(crate) const ON_A_MOUNT: &[&str] = &[
    "volume-record-damaged",
    "volume-record-removed",
    "volume-record-older",
    "policy-record-edited",
    "policy-record-swapped",
    "plain-attributes",
];

/// Everything that is carried out without a mount.
pub(crate) fn in_process() -> impl Iterator<Item = Row> {
    [
        directories::ROWS,
        files::ROWS,
        content::ROWS,
        names::ROWS,
        objects::ROWS,
    ]
    .into_iter()
    .flatten()
    .copied()
}
