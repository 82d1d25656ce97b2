//! `lock`, `unlock`, `who`: access to what has a policy of its own, ended and given back by an administrator.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kms_format::PolicyId;

use super::Controlled;
use super::protect::{Walked, failed};
use super::protocol::{Failed, Holding, Locked};
use crate::errno::Errno;
use crate::inode::Node;
use crate::revoke::processes::Use;
use crate::revoke::{LockReason, Revoke};

pub(super) fn lock(
    mount: &Controlled,
    path: &[String],
    user: Option<u32>,
    kill: bool,
) -> Result<Locked, Failed> {
    let (policy, behind) = policy_at(mount, path)?;
    if behind {
        return Err(failed(
            "it is in a directory that is locked already, in which no name can be found".to_owned(),
            "unlock the directory above, lock this one, then lock the other one again",
        ));
    }
    let revoker = &mount.revoker;
    let report = match user {
        Some(user) => {
            let how = if kill { Revoke::Kill } else { Revoke::Stale };
            revoker.lock_user(policy, user, how)
        }
        None => {
            let mut report = revoker.lock_policy(policy, LockReason::Administrator);
            if kill {
                report.killed = revoker.kill_holders(policy);
            }
            report
        }
    };
    if report.aborted {
        return Err(failed(
            "it could not be finished, so the mount was ended: nobody gets anything any more"
                .to_owned(),
            "see the log of the mount, unmount, and mount again",
        ));
    }
    tracing::warn!(%policy, user, kill, files = report.files, "access was ended by an administrator");
    // Looking for them takes longer than ending their access, so it comes after that: what is open stays open.
    let mut holders = holdings(mount, &|node| mount.fs.policy_of(node) == Some(policy));
    holders.retain(|holding| user.is_none_or(|user| holding.uid == user));
    Ok(Locked {
        policy: policy.to_string(),
        files: report.files,
        holders,
        killed: report.killed,
        milliseconds: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
    })
}

pub(super) fn unlock(
    mount: &Controlled,
    path: &[String],
    user: Option<u32>,
) -> Result<bool, Failed> {
    let (policy, _) = policy_at(mount, path)?;
    let revoker = &mount.revoker;
    let Some(user) = user else {
        let reasons = reasons(mount, policy);
        revoker.unlock_policy(policy, LockReason::Administrator);
        let was = reasons.contains(&LockReason::Administrator);
        if let Some(other) = reasons
            .iter()
            .find(|why| **why != LockReason::Administrator)
        {
            let (why, next) = match other {
                LockReason::KmsdLost => ("kmsd is away", "start kmsd; it is unlocked then"),
                _ => (
                    "nobody may use its key",
                    "enable the key; it is unlocked then",
                ),
            };
            return Err(failed(format!("it stays locked, because {why}"), next));
        }
        return Ok(was);
    };
    Ok(revoker.unlock_user(policy, user))
}

pub(super) fn who(mount: &Controlled, path: &[String]) -> Result<Vec<Holding>, Failed> {
    let walked = walk(mount, path)?;
    let directory = mount.fs.node(walked.node()).map_err(gone)?;
    Ok(holdings(mount, &|node| {
        node.is_below(&directory)
            || node
                .nameless()
                .is_some_and(|nameless| nameless.parent.is_below(&directory))
    }))
}

fn reasons(mount: &Controlled, policy: PolicyId) -> Vec<LockReason> {
    let locks = mount.revoker.locks();
    locks
        .into_iter()
        .find(|(locked, _)| *locked == policy)
        .map(|(_, reasons)| reasons)
        .unwrap_or_default()
}

fn walk<'a>(mount: &'a Controlled, path: &[String]) -> Result<Walked<'a>, Failed> {
    Walked::towards(mount, path).map_err(|(_, errno)| gone(errno))
}

/// The policy of a directory that has one of its own. Behind what is locked no names can be read: the policy is that of the
/// directory where it begins, and the path leads on.
fn policy_at(mount: &Controlled, path: &[String]) -> Result<(PolicyId, bool), Failed> {
    let walked = walk(mount, path)?;
    let fs = &mount.fs;
    let here = fs.node(walked.node()).map_err(gone)?;
    // Unlocks it, if it was not used yet.
    let _ = fs.unlock_at(&here);
    let policy = fs.policy_of(&here).ok_or_else(|| gone(Errno::NOKEY))?;
    let nodes = walked.nodes();
    let depth = nodes.iter().rposition(|number| {
        let node = fs.node(*number);
        node.is_ok_and(|node| fs.is_policy_root(&node, &policy))
    });
    match depth {
        Some(depth) if !walked.locked && depth + 1 != nodes.len() => {
            let above = nodes.len() - 1 - depth;
            Err(failed(
                "the directory has no policy of its own".to_owned(),
                &format!(
                    "name the protected directory it is in, {above} level{} up: {}",
                    if above == 1 { "" } else { "s" },
                    "../".repeat(above).trim_end_matches('/'),
                ),
            ))
        }
        _ => Ok((policy, walked.locked)),
    }
}

fn gone(errno: Errno) -> Failed {
    let next_step = match errno.raw() {
        libc::ENOKEY => "its keys are not to be had: see `kmsctl fs status`",
        _ => "name a protected directory of the mount",
    };
    failed(format!("the directory cannot be found: {errno}"), next_step)
}

/// How long processes are looked for. Whoever asks waits that long, and other requests of the control socket do not.
const SEARCH: Duration = Duration::from_secs(5);

/// Who has something open that `concerns` accepts: processes first, those that could not be looked into behind them, then handles
/// that no process shows.
fn holdings(mount: &Controlled, concerns: &dyn Fn(&Arc<Node>) -> bool) -> Vec<Holding> {
    let fs = &mount.fs;
    // What has no name any more is found by its handle only.
    let handles = fs.all_handles();
    let nodes: HashMap<u64, Arc<Node>> = handles
        .iter()
        .map(|handle| (handle.node.lower.ino(), Arc::clone(&handle.node)))
        .collect();
    let node = |ino| nodes.get(&ino).cloned().or_else(|| fs.node_of_inode(ino));
    let looked = mount.revoker.uses(SEARCH);
    let mut seen = HashSet::new();
    let mut found: Vec<_> = looked
        .uses
        .into_iter()
        .filter(|used| node(used.ino).is_some_and(|node| concerns(&node)))
        .map(|used| {
            seen.insert(used.ino);
            shown(used)
        })
        .collect();
    found.extend(looked.unseen.into_iter().map(|process| Holding {
        pid: Some(process.pid),
        uid: process.uid,
        program: process.program,
        how: None,
        path: "it could not be looked into: it may have anything open".to_owned(),
    }));
    for handle in &handles {
        if concerns(&handle.node) && seen.insert(handle.node.lower.ino()) {
            found.push(Holding {
                pid: None,
                uid: handle.opener.uid,
                program: String::new(),
                how: None,
                path: format!("inode {}", handle.node.lower.ino()),
            });
        }
    }
    found
}

fn shown(used: Use) -> Holding {
    Holding {
        pid: Some(used.pid),
        uid: used.uid,
        program: used.program,
        how: Some(used.how),
        path: used.path.to_string_lossy().into_owned(),
    }
}
