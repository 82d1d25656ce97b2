//! `rewrap`, `rekey`: begins a job, or goes on with one, and tells how far it is.

use std::sync::Arc;
use std::time::Duration;

use kms_api::{ContentMode, DescribeKeyRequest};
use kms_format::{PolicyId, UnlockedPolicy};

use super::protect::Walked;
use super::protocol::{Answer, Failed, JobRequest};
use super::{Controlled, Server};
use crate::errno::Errno;
use crate::inode::Node;
use crate::jobs::cursor::Cursor;
use crate::jobs::reencrypt::Reencrypt;
use crate::jobs::rewrap::Rewrap;
use crate::jobs::run::Spec;
use crate::jobs::{JobKind, Rate, Work};
use crate::volume::kmsd::Unlocked;
use crate::volume::rotate::rotate_policy;

/// Between two words about progress; also a sign of life for the client.
const STEP: Duration = Duration::from_millis(500);

/// Begins a job and tells how far it is until it ends; `send` says whether somebody still listens. The job does not end with the
/// connection.
pub(super) fn job(
    server: &Server,
    request: &JobRequest,
    send: &mut dyn FnMut(&Answer) -> bool,
) -> Answer {
    let begun = {
        let _alone = server.mount.record_lock.lock();
        begin(&server.mount, request)
    };
    match begun {
        Ok(number) => watch(&server.mount, number, send),
        Err(failed) => {
            tracing::warn!(
                kind = request.kind.as_str(),
                reason = failed.message,
                "a job is refused"
            );
            Answer::Failed(failed)
        }
    }
}

/// Tells how far the job is that runs, or what came of the last one.
pub(super) fn watch_running(mount: &Controlled, send: &mut dyn FnMut(&Answer) -> bool) -> Answer {
    match (mount.jobs.number(), mount.jobs.last()) {
        (Some(number), _) => watch(mount, number, send),
        (None, Some(report)) => Answer::JobDone(Box::new(report)),
        (None, None) => Answer::Failed(failed(
            "no job runs in this mount, and none has since it was mounted".to_owned(),
            "begin one: kmsctl fs rewrap DIR",
        )),
    }
}

fn watch(mount: &Controlled, number: u64, send: &mut dyn FnMut(&Answer) -> bool) -> Answer {
    loop {
        if let Some(report) = mount.jobs.wait(number, STEP) {
            return Answer::JobDone(Box::new(report));
        }
        if let Some(progress) = mount.jobs.progress()
            && !send(&Answer::JobProgress(progress.clone()))
        {
            return Answer::JobProgress(progress);
        }
    }
}

/// Goes on with the job whose place is in the lower root, unless somebody stopped it.
pub(super) fn resume(mount: &Controlled) {
    let resumed = (|| {
        let Some(found) = Cursor::read(mount.fs.lower_root()).map_err(refused)? else {
            return Ok(None);
        };
        // One that saw everything would only find again what it could not work on.
        if found.cursor.stopped || found.cursor.is_over() || mount.fs.is_read_only() {
            return Ok(None);
        }
        let (policy, generation) = (found.cursor.policy.clone(), found.cursor.generation);
        let policy: PolicyId = policy
            .parse()
            .map_err(|_| failed("its policy is no id".to_owned(), "delete .kmsfs.job"))?;
        let unlocked = mount
            .keys
            .unlock(&policy, generation)
            .map_err(|refusal| failed(refusal.to_string(), "mount again"))?;
        let cursor = found.open(&unlocked.policy).map_err(refused)?;
        let root = find_root(mount, policy)?;
        start(mount, cursor, root, unlocked.policy).map(Some)
    })();
    match resumed {
        Ok(Some(_)) => {
            tracing::info!("an unfinished job goes on; stop it with kmsctl fs job --stop")
        }
        Ok(None) => {}
        Err(failed) => tracing::warn!(
            reason = failed.message,
            "an unfinished job does not go on by itself: give its command again"
        ),
    }
}

/// Begins a rewrap of what hangs on former key material, where its policy asks for that.
pub(super) fn rewrap_rotated(mount: &Controlled) {
    if mount.fs.is_read_only() || mount.jobs.progress().is_some() {
        return;
    }
    let found = Cursor::read(mount.fs.lower_root()).ok().flatten();
    if found.is_some_and(|found| found.cursor.stopped) {
        // Somebody did not want it just now, and one job at a time has its place: it waits for its command.
        tracing::debug!("a stopped job waits for its command: no rewrap begins by itself");
        return;
    }
    // The newest generation of each policy in use counts.
    let mut unlocked = mount.keys.unlocked();
    unlocked.sort_by_key(|one| std::cmp::Reverse(one.policy.generation()));
    let mut seen = std::collections::HashSet::new();
    for one in unlocked {
        let policy = one.policy.policy();
        if !seen.insert(policy) || !has_newer_material(mount, &one) {
            continue;
        }
        let begun = {
            let _alone = mount.record_lock.lock();
            find_root(mount, policy).and_then(|root| {
                let request = JobRequest {
                    kind: JobKind::Rewrap,
                    path: Vec::new(),
                    key: None,
                    mode: None,
                    rate: Rate::default(),
                    destroy_old: false,
                    // Newer material needs a newer generation, whatever the last job left.
                    anew: true,
                };
                let begun = begin_at(mount, &request, &root);
                if begun.is_err() {
                    mount.fs.leave(&root);
                }
                begun
            })
        };
        match begun {
            Ok(_) => {
                tracing::info!(%policy, "its key has new material: a rewrap begins");
                // One job at a time: the others come next.
                return;
            }
            Err(failed) => {
                tracing::warn!(%policy, reason = failed.message, "its key has new material, but the rewrap does not begin");
            }
        }
    }
}

/// Whether the policy asks for a rewrap after a rotation, and its key was rotated since its data key was made.
fn has_newer_material(mount: &Controlled, one: &Unlocked) -> bool {
    let Some(material) = &one.key_material_id else {
        return false;
    };
    let row = mount.keys.registry(&one.policy.policy(), None);
    let asked = row.is_ok_and(|row| {
        row.settings.rewrap_after_rotation && row.generation == one.policy.generation()
    });
    if !asked {
        return false;
    }
    let described = mount.keys.client().send(DescribeKeyRequest {
        key_id: one.key_arn.clone(),
        grant_tokens: Vec::new(),
    });
    described.is_ok_and(|described| {
        let current = described.key_metadata.current_key_material_id;
        current.is_some_and(|current| current != *material)
    })
}

/// The root of a policy, looked for from above.
fn find_root(mount: &Controlled, policy: PolicyId) -> Result<Arc<Node>, Failed> {
    mount
        .fs
        .find_policy_root(policy)
        .map_err(refused)?
        .ok_or_else(|| {
            failed(
                format!("no directory is under policy {policy} any more"),
                "delete .kmsfs.job in the encrypted directory",
            )
        })
}

fn begin(mount: &Controlled, request: &JobRequest) -> Result<u64, Failed> {
    if mount.fs.is_read_only() {
        return Err(refused(Errno::ROFS));
    }
    let walked = Walked::to(mount, &request.path)?;
    let root = mount.fs.policy_root(walked.node()).map_err(refused)?;
    let begun = begin_at(mount, request, &root);
    if begun.is_err() {
        mount.fs.leave(&root);
    }
    begun
}

fn begin_at(mount: &Controlled, request: &JobRequest, root: &Arc<Node>) -> Result<u64, Failed> {
    let header = mount.fs.context_of(root).map_err(refused)?;
    let policy = header.policy.policy();
    if let (Some(now), Some(number)) = (mount.jobs.progress(), mount.jobs.number()) {
        if now.kind == request.kind && now.policy == policy.to_string() {
            mount.fs.leave(root);
            return Ok(number);
        }
        return Err(failed(
            format!(
                "a {} of policy {} runs in this mount",
                now.kind.as_str(),
                now.policy
            ),
            "wait for it (kmsctl fs job DIR) or stop it (kmsctl fs job DIR --stop)",
        ));
    }
    let now = mount.keys.registry(&policy, None).map_err(|error| {
        failed(
            error.to_string(),
            "check the key with `kmsctl key describe`",
        )
    })?;
    let target = match &request.key {
        Some(key) => Some(key_arn(mount, key)?),
        None => None,
    };
    let mode = match request.mode.as_deref() {
        Some("XTS") => ContentMode::Xts,
        Some("GCM") => ContentMode::Gcm,
        Some(other) => {
            return Err(failed(
                format!("there is no content mode {other}"),
                "give XTS or GCM",
            ));
        }
        None => now.content_mode,
    };
    let found = Cursor::read(mount.fs.lower_root()).ok().flatten();
    // Not in a lower directory that was put back from before: nothing in it hangs on that generation.
    let known = mount
        .keys
        .record()
        .policy(policy, now.current_generation)
        .is_some();
    let behind = header.header.generation() < now.current_generation;
    let right =
        target.as_ref().is_none_or(|target| *target == now.key_arn) && mode == now.content_mode;
    if let Some(found) = found {
        let cursor = &found.cursor;
        let same = cursor.policy == policy.to_string() && cursor.kind == request.kind;
        // One that has seen everything is in nobody's way.
        if !same && !cursor.is_over() {
            return Err(failed(
                format!(
                    "a {} of policy {} is unfinished",
                    cursor.kind.as_str(),
                    cursor.policy
                ),
                "give its command again, and wait for its end (kmsctl fs job DIR)",
            ));
        }
        let current = cursor.generation == now.current_generation;
        // It was done but for the end of the older ones: who does not ask for that begins anew.
        let goes_on = !cursor.kept_older || request.destroy_old;
        if same && current && right && known && goes_on && !request.anew {
            let unlocked = unlock(mount, policy, now.current_generation)?;
            if let Ok(mut cursor) = found.open(&unlocked) {
                cursor.rate = request.rate;
                // As it is said now: what was asked for before it was stopped may have been thought better of.
                cursor.destroy_old = request.destroy_old;
                cursor.stopped = false;
                cursor.failed = 0;
                cursor.kept_older = false;
                return start(mount, cursor, Arc::clone(root), unlocked);
            }
        }
    }
    let unlocked = if behind && right && known && !request.anew {
        // Begun, and interrupted before anything was done.
        unlock(mount, policy, now.current_generation)?
    } else if request.kind == JobKind::Rekey && right && !behind {
        return Err(failed(
            format!(
                "the policy is under key {} already, in mode {}",
                now.key_arn, now.content_mode
            ),
            "use kmsctl fs rewrap for a new generation under the same key",
        ));
    } else {
        let key = target.as_deref();
        match rotate_policy(&mount.keys, &mount.record, policy, key, Some(mode)) {
            Ok(rotated) => rotated.policy,
            // Ending the older ones is the way out: for that everything is looked at under the newest there is.
            Err(error) if ends_older(request) && error.too_many() && known => {
                unlock(mount, policy, now.current_generation)?
            }
            Err(error) => {
                return Err(failed(
                    format!("the policy key cannot be rotated: {error}"),
                    "nothing has changed; mend that, then give the same command again",
                ));
            }
        }
    };
    let cursor = Cursor {
        kind: request.kind,
        policy: policy.to_string(),
        generation: unlocked.generation(),
        position: Vec::new(),
        done: 0,
        changed: 0,
        bytes: 0,
        total: None,
        rate: request.rate,
        destroy_old: request.destroy_old,
        stopped: false,
        failed: 0,
        kept_older: false,
    };
    start(mount, cursor, Arc::clone(root), unlocked)
}

/// Whether a job is asked for no more than that older generations end, once nothing hangs on them.
fn ends_older(request: &JobRequest) -> bool {
    request.kind == JobKind::Rewrap && request.destroy_old
}

fn start(
    mount: &Controlled,
    cursor: Cursor,
    root: Arc<Node>,
    policy: Arc<UnlockedPolicy>,
) -> Result<u64, Failed> {
    let finish = cursor.destroy_old.then(|| mount.end_older(&policy));
    let spec = Spec {
        fs: Arc::clone(&mount.fs),
        work: work(cursor.kind, &policy),
        policy,
        root,
        cursor,
        finish: finish.transpose()?,
    };
    mount.jobs.start(spec).map_err(|busy| {
        failed(
            format!(
                "a {} of policy {} runs in this mount",
                busy.0.kind.as_str(),
                busy.0.policy
            ),
            "wait for it (kmsctl fs job DIR) or stop it (kmsctl fs job DIR --stop)",
        )
    })
}

/// What each kind of job does at an object.
fn work(kind: JobKind, to: &Arc<UnlockedPolicy>) -> Box<dyn Work> {
    match kind {
        JobKind::Rewrap | JobKind::Rekey => Box::new(Rewrap::new(Arc::clone(to))),
        JobKind::Reencrypt => Box::new(Reencrypt::new(Arc::clone(to))),
    }
}

fn unlock(
    mount: &Controlled,
    policy: PolicyId,
    generation: u32,
) -> Result<Arc<UnlockedPolicy>, Failed> {
    let unlocked = mount.keys.unlock(&policy, generation);
    unlocked
        .map(|unlocked| unlocked.policy)
        .map_err(|refusal| failed(refusal.to_string(), "see `kmsctl fs status`"))
}

fn key_arn(mount: &Controlled, key: &str) -> Result<String, Failed> {
    let described = mount.keys.client().send(DescribeKeyRequest {
        key_id: key.to_owned(),
        grant_tokens: Vec::new(),
    });
    described
        .map(|described| described.key_metadata.arn)
        .map_err(|error| {
            failed(
                error.to_string(),
                "check the key with `kmsctl key describe`",
            )
        })
}

fn refused(errno: Errno) -> Failed {
    let next_step = match errno.raw() {
        libc::EROFS => "mount without ro",
        libc::ENOKEY => "unlock the directory first: see the log of the mount",
        _ => "see the log of the mount",
    };
    failed(format!("the job cannot begin: {errno}"), next_step)
}

fn failed(message: String, next_step: &str) -> Failed {
    Failed {
        message,
        next_step: next_step.to_owned(),
    }
}
