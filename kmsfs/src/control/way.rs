//! `why_denied`: everything on the way to a path that decides whether a user gets there.
//!
//! The mount says what it knows, and asks kmsd on behalf of the user; who asked puts it together with what the kernel checks.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use kms_api::client::User;
use kms_format::PolicyId;
use serde::{Deserialize, Serialize};

use super::Controlled;
use super::protect::failed;
use super::protocol::Failed;
use crate::access::policies::{Policies, Verdict};
use crate::access::users::{Users, Who};
use crate::errno::{Errno, FsResult};
use crate::fs::{Attr, Caller, NodeId};
use crate::inode::Node;
use crate::revoke::LockReason;

/// How long kmsd is waited for, for all policies together.
const PATIENCE: Duration = Duration::from_secs(10);
/// The ACL of an object, as the kernel reads it.
const ACL: &str = "system.posix_acl_access";

/// Who is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asker {
    /// User.
    pub uid: u32,
    /// Group; kmsd knows the others from the name service.
    pub gid: u32,
}

/// The way to a path, as far as it can be gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Way {
    /// The volume.
    pub volume: String,
    /// Each user's own grants count; otherwise everybody who comes counts as the one who mounted.
    pub per_user: bool,
    /// Who mounted.
    pub mounter: u32,
    /// What a user without a grant is answered.
    pub denied: String,
    /// Seconds for which changes are still held, if they are.
    pub frozen: Option<u64>,
    /// The objects on the way, the root of the mount first.
    pub steps: Vec<Step>,
    /// Why it ends before the path does, or why the object at its end cannot be used.
    pub ended: Option<Ended>,
    /// The policies on the way, outermost first.
    pub policies: Vec<OnTheWay>,
    /// Processes of the user whose descriptors of the object fail since access ended. They have to open it again.
    pub cut_off: Vec<u32>,
}

/// An object on the way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Type and permission bits, as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Its access ACL, in base64, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<String>,
}

/// Where the way ends early.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// The error, by its name.
    pub error: String,
    /// kmsd's last refusal of the policy there, for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// A policy on the way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OnTheWay {
    /// Its id.
    pub policy: String,
    /// The first object under it: an index of [`Way::steps`].
    pub at: usize,
    /// ARN of its key; none if kmsd does not say it to the mount.
    pub key_arn: Option<String>,
    /// The encryption context that grants and policies see.
    pub context: BTreeMap<String, String>,
    /// Why nobody may use it.
    pub locked: Vec<LockReason>,
    /// Since how many seconds.
    pub locked_for: Option<u64>,
    /// `kmsctl fs lock --user`.
    pub locked_for_user: bool,
    /// The user lost their grants while they had something open.
    pub revoked_for_user: bool,
    /// What kmsd says of the user, or, where users are not told apart, of the mount.
    pub answer: KmsdAnswer,
    /// kmsd let the user in a moment ago, and that still holds.
    pub kept: bool,
}

/// What kmsd says of somebody who would use a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "text", rename_all = "snake_case")]
pub enum KmsdAnswer {
    /// They may.
    Allowed,
    /// They may not, with kmsd's words.
    Denied(String),
    /// Nobody may use the key.
    Unusable(String),
    /// kmsd does not answer.
    Away(String),
}

/// Whom a mount asks about its users.
pub struct Deciders {
    /// The policies of the volume.
    pub policies: Arc<Policies>,
    /// The users, where they are told apart.
    pub users: Option<Arc<Users>>,
}

pub(super) fn way(mount: &Controlled, path: &[String], who: Asker) -> Result<Way, Failed> {
    let deadline = Instant::now() + PATIENCE;
    let mut gone = Gone::new(mount);
    let mut ended = gone.go(path).err();
    if ended.is_none() {
        ended = mount.fs.examine(&gone.last).err();
    }
    let policies = gone.policies(who, deadline);
    let refusal = match ended {
        Some(errno) if [libc::ENOKEY, libc::ETIMEDOUT].contains(&errno.raw()) => {
            let policy = mount.fs.claimed_policy(&gone.last).ok();
            policy.and_then(|policy| mount.keys.refusal(&policy))
        }
        _ => None,
    };
    let deciders = &mount.deciders;
    Ok(Way {
        volume: mount.keys.volume().to_string(),
        per_user: deciders.users.is_some(),
        mounter: crate::service::mounter().as_raw(),
        denied: deciders
            .users
            .as_ref()
            .map_or(Errno::ACCES, |users| users.denied())
            .name(),
        frozen: mount.fs.frozen_for().map(|left| left.as_secs()),
        cut_off: match ended {
            None => mount.fs.cut_off(&gone.last, who.uid),
            Some(_) => Vec::new(),
        },
        ended: ended.map(|errno| Ended {
            error: errno.name(),
            refusal: refusal.map(|refusal| refusal.to_string()),
        }),
        steps: gone.steps.iter().map(|(_, step)| step.clone()).collect(),
        policies,
    })
}

/// The way as far as it was gone. What was looked up is forgotten when dropped.
struct Gone<'a> {
    mount: &'a Controlled,
    last: Arc<Node>,
    nodes: Vec<NodeId>,
    steps: Vec<(Arc<Node>, Step)>,
}

impl<'a> Gone<'a> {
    fn new(mount: &'a Controlled) -> Gone<'a> {
        Gone {
            mount,
            last: mount.fs.root(),
            nodes: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Goes down to the end of the path, or to where it cannot be gone on.
    fn go(&mut self, path: &[String]) -> FsResult<()> {
        let fs = &self.mount.fs;
        let attr = fs.getattr(&root(), NodeId::ROOT, None)?;
        self.step(&attr);
        for component in path {
            // A name that is none is not there.
            let name = BASE64.decode(component.as_bytes()).unwrap_or_default();
            let parent = self.nodes.last().copied().unwrap_or(NodeId::ROOT);
            let entry = fs.lookup(&root(), parent, &OsString::from_vec(name))?;
            self.nodes.push(entry.node);
            self.last = fs.node(entry.node)?;
            self.step(&entry.attr);
        }
        Ok(())
    }

    fn step(&mut self, attr: &Attr) {
        let number = self.nodes.last().copied().unwrap_or(NodeId::ROOT);
        let acl = self.mount.fs.getxattr(&root(), number, OsStr::new(ACL));
        let step = Step {
            mode: attr.kind.mode_bits() | attr.perm,
            uid: attr.uid,
            gid: attr.gid,
            acl: acl.ok().map(|acl| BASE64.encode(&acl)),
        };
        self.steps.push((Arc::clone(&self.last), step));
    }

    fn policies(&self, who: Asker, deadline: Instant) -> Vec<OnTheWay> {
        let mut found: Vec<(usize, PolicyId)> = Vec::new();
        for (index, (node, _)) in self.steps.iter().enumerate() {
            if let Ok(policy) = self.mount.fs.claimed_policy(node)
                && found.last().is_none_or(|(_, last)| *last != policy)
            {
                found.push((index, policy));
            }
        }
        let found = found.into_iter();
        found
            .map(|(at, policy)| self.policy(at, policy, who, deadline))
            .collect()
    }

    fn policy(&self, at: usize, policy: PolicyId, who: Asker, deadline: Instant) -> OnTheWay {
        let Deciders { policies, users } = &self.mount.deciders;
        let revoker = &self.mount.revoker;
        let row = policies.get(&policy, deadline);
        let (verdict, words) = match (&row, users) {
            (Err(verdict), _) => (verdict.clone(), String::new()),
            (Ok(row), None) => policies.ask_plainly_in_words(row, deadline),
            (Ok(row), Some(users)) => {
                let user = User {
                    uid: who.uid,
                    gid: who.gid,
                    pid: 0,
                };
                row.ask_in_words(&users.lease(), user, deadline)
            }
        };
        let whose = Who {
            policy,
            uid: who.uid,
            gid: who.gid,
        };
        let (locked, since) = revoker.locked(&policy).unzip();
        let (locked_for_user, revoked_for_user) = revoker.shut_out(policy, who.uid);
        OnTheWay {
            policy: policy.to_string(),
            at,
            key_arn: row.as_ref().ok().map(|row| row.key_arn.clone()),
            context: row.map(|row| row.context().clone()).unwrap_or_default(),
            locked: locked.unwrap_or_default(),
            locked_for: since.map(|since| since.as_secs()),
            locked_for_user,
            revoked_for_user,
            answer: match verdict {
                Verdict::Allowed => KmsdAnswer::Allowed,
                Verdict::Denied => KmsdAnswer::Denied(words),
                Verdict::Unusable(text) => KmsdAnswer::Unusable(text),
                Verdict::Away(text) => KmsdAnswer::Away(text),
            },
            kept: users.as_ref().is_some_and(|users| users.is_let_in(&whose)),
        }
    }
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        for node in &self.nodes {
            self.mount.fs.forget(*node, 1);
        }
    }
}

/// The names can be looked up whoever is asked about.
fn root() -> Caller {
    Caller {
        uid: 0,
        gid: 0,
        pid: std::process::id(),
    }
}

/// A user that no question can be asked for.
pub(super) fn check(who: Asker) -> Result<(), Failed> {
    if who.uid == u32::MAX || who.gid == u32::MAX {
        return Err(failed(
            "-1 is no user and no group".to_owned(),
            "name the user by name or number",
        ));
    }
    Ok(())
}
