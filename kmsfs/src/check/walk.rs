//! Visits every directory of a lower tree, with a bounded number of descriptors however deep it is.

use std::sync::Arc;

use kms_format::names;
use kms_format::{DirHeader, DirKeys, FormatError, UnlockedPolicy, VolumeId, dir};

use super::spot::Spot;
use crate::backing::Dir;
use crate::errno::{Errno, FsResult};
use crate::volume::Keys;

/// Directories on the way down that stay open; those above are opened again when they are needed.
const OPEN: usize = 48;

/// A directory and what is known of its keys.
pub(crate) struct Place {
    pub(crate) spot: Arc<Spot>,
    /// Its header, if it has a good one.
    pub(crate) header: Option<DirHeader>,
    /// Without them its names cannot be read.
    pub(crate) keys: Option<DirKeys>,
    /// Without it nothing in it can be read.
    pub(crate) policy: Option<Arc<UnlockedPolicy>>,
}

/// A directory to be visited.
pub(crate) struct Child {
    pub(crate) lower: String,
    pub(crate) plain: Option<Vec<u8>>,
}

/// What is done in each directory.
pub(crate) trait Visit {
    /// Everything in a directory but the directories, which are given back to be visited. `above` is the directory it
    /// is in. None if it shall not be entered.
    fn enter(
        &mut self,
        dir: &Arc<Dir>,
        spot: &Arc<Spot>,
        above: Option<(&Arc<Dir>, &Arc<Place>)>,
    ) -> Option<(Arc<Place>, Vec<Child>)>;

    /// All below it has been visited.
    fn leave(&mut self, _dir: &Arc<Dir>, _place: &Arc<Place>) {}

    /// A directory that cannot be opened.
    fn refused(&mut self, spot: &Arc<Spot>, errno: Errno);

    /// Whether to go on.
    fn goes_on(&self) -> bool {
        true
    }
}

struct Frame {
    dir: Option<Arc<Dir>>,
    place: Arc<Place>,
    below: Vec<Child>,
}

/// Visits the directory at `root` and all below it.
pub(crate) fn walk(root: Arc<Dir>, visit: &mut dyn Visit) {
    let Some((place, below)) = visit.enter(&root, &Spot::root(), None) else {
        return;
    };
    let mut frames = vec![Frame {
        dir: Some(root),
        place,
        below,
    }];
    while visit.goes_on()
        && let Some(frame) = frames.last_mut()
    {
        let child = frame.below.pop();
        let spot = match &child {
            Some(child) => Spot::below(&frame.place.spot, &child.lower, child.plain.as_deref()),
            None => Arc::clone(&frame.place.spot),
        };
        let dir = match reach(&mut frames) {
            Ok(dir) => dir,
            Err(errno) => {
                visit.refused(&spot, errno);
                frames.pop();
                continue;
            }
        };
        let Some(child) = child else {
            if let Some(frame) = frames.pop() {
                visit.leave(&dir, &frame.place);
            }
            continue;
        };
        let below = match dir.open_dir(&child.lower) {
            Ok(below) => Arc::new(below),
            Err(errno) => {
                visit.refused(&spot, errno);
                continue;
            }
        };
        let Some(frame) = frames.last() else { return };
        if let Some((place, children)) = visit.enter(&below, &spot, Some((&dir, &frame.place))) {
            frames.push(Frame {
                dir: Some(below),
                place,
                below: children,
            });
            // The first one, the root, stays.
            let far = frames.len().saturating_sub(OPEN);
            if far > 0
                && let Some(frame) = frames.get_mut(far)
            {
                frame.dir = None;
            }
        }
    }
}

/// The last directory, opened again if need be.
fn reach(frames: &mut [Frame]) -> FsResult<Arc<Dir>> {
    let open = frames.iter().rposition(|frame| frame.dir.is_some());
    let mut dir = open
        .and_then(|at| frames.get(at)?.dir.clone())
        .ok_or(Errno::STALE)?;
    let open = open.unwrap_or_default();
    let keep = frames.len().saturating_sub(OPEN);
    for (at, frame) in frames.iter_mut().enumerate().skip(open + 1) {
        dir = Arc::new(dir.open_dir(frame.place.spot.lower_name())?);
        if at > keep {
            frame.dir = Some(Arc::clone(&dir));
        }
    }
    Ok(dir)
}

/// Why a directory is not unlocked.
pub(crate) enum Refused {
    /// The lower file system says no.
    Io(Errno),
    /// No header, or one that never reached the disk.
    Missing,
    /// The header is damaged.
    Damaged(FormatError),
    /// A good header of another volume or policy, or not admitted by the parent.
    Foreign(FormatError),
    /// The key is refused.
    Locked(Box<DirHeader>, Errno),
}

/// Reads and, with keys, unlocks the header of a directory.
pub(crate) fn unlock(
    dir: &Dir,
    spot: &Arc<Spot>,
    above: Option<&Place>,
    volume: Option<VolumeId>,
    keys: Option<&dyn Keys>,
) -> Result<Place, Refused> {
    let found = dir.read_small(names::DIR_HEADER, dir::LONGEST + 1);
    let bytes = match found.map(|found| found.of(kms_format::Record::DirHeader)) {
        Ok(Ok(Some(bytes))) => bytes,
        Ok(Ok(None)) => return Err(Refused::Missing),
        Ok(Err(error)) => return Err(Refused::Damaged(error)),
        Err(errno) => return Err(Refused::Io(errno)),
    };
    let header = match DirHeader::decode(&bytes) {
        Ok(header) => header,
        Err(FormatError::Blank { .. } | FormatError::Truncated { .. }) => {
            return Err(Refused::Missing);
        }
        Err(error) => return Err(Refused::Damaged(error)),
    };
    const RECORD: kms_format::Record = kms_format::Record::DirHeader;
    if let Some(expected) = volume
        && header.volume() != expected
    {
        return Err(Refused::Foreign(FormatError::ForeignVolume {
            record: RECORD,
            found: header.volume(),
            expected,
        }));
    }
    if above.is_none() != header.is_volume_root() {
        return Err(Refused::Foreign(FormatError::NotAdmitted {
            record: RECORD,
        }));
    }
    let place = |header, keys, policy| Place {
        spot: Arc::clone(spot),
        header: Some(header),
        keys,
        policy,
    };
    let Some(keys) = keys.filter(|_| above.is_none_or(|above| above.policy.is_some())) else {
        return Ok(place(header, None, None));
    };
    let policy = match keys.policy_key(&header.volume(), &header.policy(), header.generation()) {
        Ok(policy) => policy,
        Err(errno) => return Err(Refused::Locked(Box::new(header), errno)),
    };
    let opened = header.unlock(&policy).map_err(|error| match error {
        FormatError::ForeignVolume { .. } | FormatError::ForeignPolicy { .. } => {
            Refused::Foreign(error)
        }
        error => Refused::Damaged(error),
    })?;
    match above {
        Some(Place {
            header: Some(up),
            keys: Some(up_keys),
            ..
        }) => header.check_below(up, up_keys).map_err(Refused::Foreign)?,
        Some(Place {
            policy: Some(up), ..
        }) if header.nesting() == kms_format::Nesting::Inherits
            && header.policy() != up.policy() =>
        {
            return Err(Refused::Foreign(FormatError::ForeignPolicy {
                record: RECORD,
                found: header.policy(),
                expected: up.policy(),
            }));
        }
        _ => {}
    }
    Ok(place(header, Some(opened), Some(policy)))
}
