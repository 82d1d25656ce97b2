//! The end of older generations of a policy key, once a job has found nothing that hangs on them.
//!
//! Order: registry, in a deletion epoch, then the volume record. A crash in between leaves lines of the record that open nothing.

use std::sync::Arc;

use kms_api::{DestroyPolicyGenerationsRequest, ResourceId};
use kms_format::volume::PolicyRecord;
use kms_format::{PolicyId, UnlockedPolicy, names};

use super::Controlled;
use super::protocol::Failed;
use crate::backing::Dir;
use crate::errno::{Errno, FsResult};
use crate::jobs::cursor::Cursor;
use crate::jobs::run::{Finish, NotEnded};
use crate::volume::RecordFile;
use crate::volume::kmsd::KmsdKeys;

/// Where damaged and lost things are kept, in the root: no job goes there.
const LOST: &str = ".kmsfs.lost";

impl Controlled {
    /// What is to be done when everything hangs on `policy`: ends the generations before it.
    ///
    /// # Errors
    /// Something is kept aside that may hang on them.
    pub(super) fn end_older(&self, policy: &Arc<UnlockedPolicy>) -> Result<Finish, Failed> {
        let refused = |message: String, next: &str| Failed {
            message,
            next_step: next.to_owned(),
        };
        let root = Arc::clone(self.fs.lower_root());
        nothing_aside(&root).map_err(|(message, next)| refused(message, next))?;
        let file = RecordFile::in_directory(&self.lower);
        let file = file.map_err(|error| refused(error.to_string(), "see the log of the mount"))?;
        let (keys, lock, policy) = (
            Arc::clone(&self.keys),
            Arc::clone(&self.record_lock),
            Arc::clone(policy),
        );
        Ok(Box::new(move || {
            let (volume, id, before) = (policy.volume(), policy.policy(), policy.generation());
            // Something may have been put there while the job ran.
            nothing_aside(&root).map_err(|(message, next)| {
                NotEnded::Needed(format!(
                    "everything hangs on generation {before} now, but {message}: the older ones are kept; {next}"
                ))
            })?;
            let ended = keys.client().send(DestroyPolicyGenerationsRequest {
                volume_id: ResourceId(volume.0),
                policy_id: ResourceId(id.0),
                before: before.into(),
            });
            ended.map_err(|error| {
                NotEnded::Refused(format!(
                    "everything hangs on generation {before} now, but the older ones were not ended: {error}"
                ))
            })?;
            let _alone = lock.lock();
            Ok(forget(&keys, &file, id, before))
        }))
    }

    /// Somebody else ended the generations before this one: their lines of the record go, if it is so.
    pub(super) fn older_ended(&self, policy: PolicyId, before: u32) -> Result<Vec<u32>, Failed> {
        let failed = |message: String| Failed {
            message,
            next_step: "they open nothing any more; what is left is lines of the volume record"
                .to_owned(),
        };
        let row = self.keys.registry(&policy, None);
        let row = row.map_err(|error| failed(error.to_string()))?;
        if row.older_generations.iter().any(|kept| *kept < before) {
            return Err(failed("the registry keeps them still".to_owned()));
        }
        let _alone = self.record_lock.lock();
        // That was all that was left of the job.
        let found = Cursor::read(self.fs.lower_root()).ok().flatten();
        if found.is_some_and(|found| {
            let cursor = &found.cursor;
            cursor.kept_older && cursor.failed == 0 && cursor.policy == policy.to_string()
        }) && let Err(errno) = self.fs.drop_root_file(names::JOB)
        {
            tracing::warn!(%errno, "the place of a finished job cannot be removed");
        }
        Ok(forget(&self.keys, &self.record, policy, before))
    }
}

fn forget(keys: &KmsdKeys, file: &RecordFile, policy: PolicyId, before: u32) -> Vec<u32> {
    let older = |entry: &PolicyRecord| entry.policy == policy && entry.generation < before;
    let mut record = keys.record();
    let generations: Vec<u32> = record
        .policies
        .iter()
        .filter(|entry| older(entry))
        .map(|entry| entry.generation)
        .collect();
    record.policies.retain(|entry| !older(entry));
    match file.replace(&record) {
        Ok(()) => keys.end_older(record, policy, before),
        // They open nothing any more.
        Err(error) => tracing::warn!(%error, "the volume record keeps lines of ended generations"),
    }
    generations
}

/// That nothing is kept aside, where no job goes; otherwise what is the matter, and what to do.
fn nothing_aside(root: &Dir) -> Result<(), (String, &'static str)> {
    let kept = match root.open_dir(LOST) {
        Ok(lost) => holds_something(&lost),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    };
    match kept {
        Ok(false) => Ok(()),
        Ok(true) => Err((
            format!(
                "what is in {LOST} in the encrypted directory would be lost with the older generations"
            ),
            "see what is needed of it, empty it, then give the same command again",
        )),
        Err(errno) => Err((format!("{LOST}: {errno}"), "see the log of the mount")),
    }
}

fn holds_something(dir: &Dir) -> FsResult<bool> {
    let mut listing = dir.list()?;
    while let Some(entry) = listing.peek()? {
        if entry.name != b"." && entry.name != b".." {
            return Ok(true);
        }
        listing.advance();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_aside_is_found() {
        let lower = tempfile::tempdir().unwrap();
        let root = Dir::open_root(lower.path()).unwrap();
        assert_eq!(nothing_aside(&root), Ok(()));
        let kept = lower.path().join(LOST);
        std::fs::create_dir(&kept).unwrap();
        assert_eq!(nothing_aside(&root), Ok(()));
        std::fs::write(kept.join("something"), "kept").unwrap();
        let (message, _) = nothing_aside(&root).unwrap_err();
        assert!(message.contains("would be lost"), "{message}");
        std::fs::remove_dir_all(&kept).unwrap();
        // When in doubt something is.
        std::fs::write(&kept, "not a directory").unwrap();
        assert!(nothing_aside(&root).is_err());
    }
}
