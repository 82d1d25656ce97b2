//! Why a policy is of no use to a user: locks, what kmsd said to the mount, and, if whoever asks may know it, which statement decided
//! and what the key's state is.

use std::time::SystemTime;

use kms_api::{
    Decision, DescribeKeyRequest, DescribeVolumeRequest, KeyState, ResourceId,
    SimulatePrincipalPolicyRequest, Timestamp,
};
use kmsfs::control::way::{KmsdAnswer, OnTheWay, Way};
use kmsfs::revoke::LockReason;

use super::person::{Person, name_of};
use super::{Reason, quoted};
use crate::Context;
use crate::commands::why::{document, next_step};
use crate::output::time;

pub(super) struct Decisions<'a> {
    person: &'a Person,
    context: &'a Context,
}

impl<'a> Decisions<'a> {
    pub(super) fn new(person: &'a Person, context: &'a Context) -> Decisions<'a> {
        Decisions { person, context }
    }

    /// Why the user may not use a policy that begins at `path`.
    pub(super) fn reasons(&self, policy: &OnTheWay, way: &Way, path: &str) -> Vec<Reason> {
        let blank = Reason {
            path: path.to_owned(),
            policy: Some(policy.policy.clone()),
            key: policy.key_arn.clone().or_else(|| self.key_of(policy, way)),
            ..Reason::default()
        };
        let mut found = Vec::new();
        for lock in &policy.locked {
            found.push(self.locked(*lock, policy, &blank));
        }
        let who = self.person.name();
        if policy.locked_for_user {
            found.push(Reason {
                reason: "user_locked",
                error: way.denied.clone(),
                message: format!("{who} was shut out by `kmsctl fs lock --user`"),
                next_step: format!("kmsctl fs unlock --user {who} {}", quoted(path)),
                ..blank.clone()
            });
        }
        let locked = |why| policy.locked.contains(&why);
        match &policy.answer {
            KmsdAnswer::Allowed if policy.revoked_for_user => found.push(Reason {
                reason: "user_revoked",
                error: way.denied.clone(),
                message: format!(
                    "{who} had lost the grant, and the mount has not heard yet that it is back"
                ),
                next_step: "try again in a moment".to_owned(),
                ..blank
            }),
            KmsdAnswer::Allowed => {}
            KmsdAnswer::Denied(words) => found.push(self.denied(words, policy, way, blank)),
            // Said above.
            KmsdAnswer::Unusable(_) if locked(LockReason::KeyUnusable) => {}
            KmsdAnswer::Unusable(words) => found.push(self.unusable(words, blank)),
            KmsdAnswer::Away(_) if policy.kept || locked(LockReason::KmsdLost) => {}
            KmsdAnswer::Away(words) => found.push(Reason {
                reason: "kmsd_away",
                error: "ETIMEDOUT".to_owned(),
                message: format!("kmsd does not answer the mount: {words}"),
                next_step: "systemctl start kmsd".to_owned(),
                ..blank
            }),
        }
        found
    }

    /// The key of a policy that nobody may use is not told to the mount, but perhaps to whoever runs this.
    fn key_of(&self, policy: &OnTheWay, way: &Way) -> Option<String> {
        if matches!(policy.answer, KmsdAnswer::Away(_)) {
            return None;
        }
        let volume_id = way.volume.parse::<ResourceId>().ok()?;
        let request = DescribeVolumeRequest { volume_id };
        let volume = self.context.client.send(request).ok()?;
        let mut policies = volume.policies.into_iter();
        let found = policies.find(|one| one.policy_id.to_string() == policy.policy)?;
        Some(found.key_arn)
    }

    fn locked(&self, lock: LockReason, policy: &OnTheWay, blank: &Reason) -> Reason {
        let since = policy.locked_for.map_or_else(String::new, |seconds| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let at = now.map_or(0, |now| now.as_secs().saturating_sub(seconds));
            let at = i64::try_from(at).unwrap_or(i64::MAX);
            format!(" since {}", time(Timestamp::from_secs(at)))
        });
        let path = quoted(&blank.path);
        match lock {
            LockReason::Administrator => Reason {
                reason: "locked",
                error: "ENOKEY".to_owned(),
                message: format!("it is locked for everybody by `kmsctl fs lock`{since}"),
                next_step: format!("kmsctl fs unlock {path}"),
                ..blank.clone()
            },
            LockReason::KmsdLost => Reason {
                reason: "kmsd_away",
                error: "ENOKEY".to_owned(),
                message: format!("it is locked for everybody{since}, because kmsd is away"),
                next_step: "systemctl start kmsd".to_owned(),
                ..blank.clone()
            },
            LockReason::KeyUnusable => {
                let words = match &policy.answer {
                    KmsdAnswer::Unusable(words) => words.as_str(),
                    _ => "",
                };
                let mut reason = self.unusable(words, blank.clone());
                reason.message = format!("locked for everybody{since}: {}", reason.message);
                reason
            }
        }
    }

    /// Nobody may use the key.
    fn unusable(&self, words: &str, blank: Reason) -> Reason {
        let key = blank.key.as_deref().unwrap_or("KEY");
        let state = blank.key.as_ref().and_then(|arn| {
            let request = DescribeKeyRequest {
                key_id: arn.clone(),
                grant_tokens: Vec::new(),
            };
            let described = self.context.client.send(request).ok()?;
            Some(described.key_metadata.key_state)
        });
        let (message, next_step) = match state {
            Some(KeyState::Disabled) => (
                "its key is disabled".to_owned(),
                format!("kmsctl key enable {key}"),
            ),
            Some(KeyState::PendingDeletion) => (
                "its key is pending deletion".to_owned(),
                format!("kmsctl key cancel-deletion {key} && kmsctl key enable {key}"),
            ),
            Some(KeyState::PendingImport) => (
                "the material of its key is gone and has to be imported again".to_owned(),
                format!("kmsctl key import {key} FILE"),
            ),
            _ => {
                let words = match words.is_empty() {
                    true => "kmsd refuses it to the mount",
                    false => words,
                };
                (
                    format!("its key must not be used: {words}"),
                    format!("kmsctl key describe {key}"),
                )
            }
        };
        Reason {
            reason: "key_unusable",
            error: "ENOKEY".to_owned(),
            message,
            next_step,
            ..blank
        }
    }

    /// kmsd does not let the user use the key, or, where users are not told apart, the one who mounted.
    fn denied(&self, words: &str, policy: &OnTheWay, way: &Way, blank: Reason) -> Reason {
        let (who, principal, error) = match way.per_user {
            true => (
                self.person.name(),
                self.person.principal(),
                way.denied.clone(),
            ),
            false => {
                let mounter = Person::find(&way.mounter.to_string(), &[]);
                let principal = mounter.map_or_else(|_| "root".to_owned(), |one| one.principal());
                let name = name_of(way.mounter);
                (name, principal, "ENOKEY".to_owned())
            }
        };
        let message = match way.per_user {
            true => format!("kmsd does not let {who} use its key"),
            false => format!(
                "kmsd does not let {who} use its key, as whom everybody counts in this mount"
            ),
        };
        let simulated = self.simulate(&principal, policy, way.per_user);
        let key = policy.key_arn.as_deref().unwrap_or("KEY");
        // No more than this directory.
        let grant = format!(
            "kmsctl grant create {key} --to {principal} --operations Decrypt --context kmsfs:policy={}",
            policy.policy
        );
        let (decided_by, next_step) = match simulated {
            Some(by) if by.starts_with("implicit-deny") => (document(&by), grant),
            Some(by) => {
                let step = next_step(&by, &principal, "Decrypt", key);
                (document(&by), step.unwrap_or(grant))
            }
            // Who asks may not know more than the mount was told.
            None => (words.to_owned(), grant),
        };
        Reason {
            reason: "kmsd_refuses",
            error,
            message,
            decided_by: Some(decided_by).filter(|by| !by.is_empty()),
            next_step,
            ..blank
        }
    }

    /// What decides, by the code that decides. None if whoever runs this may not ask that, or if it comes to another result than
    /// the mount was told: something is known to kmsd of the real request that is not known here.
    fn simulate(&self, principal: &str, policy: &OnTheWay, per_user: bool) -> Option<String> {
        let key = policy.key_arn.clone()?;
        let region = key.split(':').nth(3)?.to_owned();
        let request = SimulatePrincipalPolicyRequest {
            principal: principal.to_owned(),
            action: "kms:Decrypt".to_owned(),
            key_id: Some(key),
            encryption_context: policy.context.clone(),
            via_service: per_user.then(|| format!("kmsfs.{region}.amazonaws.com")),
            groups: match per_user {
                true => self.person.group_names(),
                false => Vec::new(),
            },
            ..SimulatePrincipalPolicyRequest::default()
        };
        let answer = self.context.client.send(request).ok()?;
        (answer.decision != Decision::Allowed).then_some(answer.decided_by)
    }
}
