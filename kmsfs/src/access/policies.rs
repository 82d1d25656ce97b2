//! The question whether somebody may use a policy: a dry run of `Decrypt` on its key, with the context of its data key.
//!
//! Key and context are those that the registry says, never those of the lower tree: who can write there would otherwise
//! have a key of their own asked about.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kms_api::client::{Asking, Client, ClientError, Kept, LeaseClient, User};
use kms_api::{
    ApiError, DataKeySpec, DecryptRequest, DryRunModifier, ErrorCode, GenerateDataKeyRequest,
    GetPolicyRequest, ResourceId, RevokeMode,
};
use kms_format::{PolicyId, VolumeId};
use parking_lot::RwLock;

use crate::revoke::Revoke;
use crate::volume::kmsd::context;
use crate::volume::refusal::Reason;

/// What kmsd said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Allowed,
    /// No policy or grant of the one who asks, or one that denies.
    Denied,
    /// The key is not to be used by anybody: disabled, pending deletion, gone.
    Unusable(String),
    /// kmsd did not answer, or asked to come again.
    Away(String),
}

/// What the registry says of a policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// ARN of its key.
    pub key_arn: String,
    /// How the access of one user ends.
    pub ending: Revoke,
    /// How many seconds after kmsd was heard of last the policy is locked; never, if None.
    pub lock_after: Option<u64>,
    /// Opens are recorded in the audit log.
    pub record_opens: bool,
    request: DecryptRequest,
}

/// What is known of the policies of a volume.
#[derive(Debug)]
pub struct Policies {
    client: Client,
    socket: PathBuf,
    volume: VolumeId,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    policies: HashMap<PolicyId, Arc<Policy>>,
    /// Rises when something is forgotten: what was asked for before is not kept then.
    life: u64,
}

impl Policies {
    /// Of a volume, from the kmsd at `socket`.
    #[must_use]
    pub fn new(socket: &Path, volume: VolumeId) -> Policies {
        Policies {
            client: Client::new(socket),
            socket: socket.to_owned(),
            volume,
            known: RwLock::default(),
        }
    }

    /// A client of the same kmsd.
    #[must_use]
    pub fn another_client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// What the registry says of a policy.
    ///
    /// # Errors
    /// `Away`, or `Unusable` if it is not in the registry.
    pub fn get(&self, policy: &PolicyId, deadline: Instant) -> Result<Arc<Policy>, Verdict> {
        let life = {
            let known = self.known.read();
            if let Some(policy) = known.policies.get(policy) {
                return Ok(Arc::clone(policy));
            }
            known.life
        };
        let request = GetPolicyRequest {
            volume_id: ResourceId(self.volume.0),
            policy_id: ResourceId(policy.0),
            generation: None,
        };
        let asking = Asking {
            deadline: Some(deadline),
            ..Asking::default()
        };
        let row = match self.client.ask(request, asking) {
            Ok(answer) => answer.output.map_err(|error| match refusal(error) {
                Verdict::Denied => Verdict::Unusable("kmsd tells this mount nothing of it".into()),
                verdict => verdict,
            })?,
            Err(error) => return Err(Verdict::Away(error.to_string())),
        };
        let found = Arc::new(Policy {
            request: DecryptRequest {
                ciphertext_blob: None,
                encryption_context: context(&self.volume, policy, row.generation),
                grant_tokens: Vec::new(),
                key_id: Some(row.key_arn.clone()),
                encryption_algorithm: None,
                dry_run: true,
                dry_run_modifiers: vec![DryRunModifier::IgnoreCiphertext],
            },
            key_arn: row.key_arn,
            ending: match row.settings.revoke_mode {
                RevokeMode::Stale => Revoke::Stale,
                RevokeMode::Kill => Revoke::Kill,
            },
            lock_after: row.settings.lock_after_seconds.map(u64::from),
            record_opens: row.settings.record_opens,
        });
        let mut known = self.known.write();
        if known.life == life {
            known.policies.insert(*policy, Arc::clone(&found));
        }
        Ok(found)
    }

    /// Forgets what is known of the policies under these keys, or of all.
    pub fn forget(&self, key_arns: Option<&[String]>) {
        let mut known = self.known.write();
        known.life += 1;
        let concerned = |one: &Policy| key_arns.is_none_or(|arns| arns.contains(&one.key_arn));
        known.policies.retain(|_, policy| !concerned(policy));
    }

    /// What was known of a policy when it was last asked for.
    #[must_use]
    pub fn known(&self, policy: &PolicyId) -> Option<Arc<Policy>> {
        self.known.read().policies.get(policy).cloned()
    }

    /// Asks as whoever runs this mount, who is no service.
    #[must_use]
    pub fn ask_plainly(&self, policy: &Policy, deadline: Instant) -> Verdict {
        self.ask_plainly_in_words(policy, deadline).0
    }

    /// The same with what kmsd said.
    #[must_use]
    pub fn ask_plainly_in_words(&self, policy: &Policy, deadline: Instant) -> (Verdict, String) {
        let asking = Asking {
            deadline: Some(deadline),
            ..Asking::default()
        };
        match self.client.ask(policy.request.clone(), asking) {
            Ok(answer) => in_words(answer.output),
            Err(error) => (Verdict::Away(error.to_string()), String::new()),
        }
    }
}

impl Policy {
    /// One that the registry might have.
    #[cfg(test)]
    pub(crate) fn for_tests(key_arn: &str, record_opens: bool) -> Policy {
        Policy {
            key_arn: key_arn.to_owned(),
            ending: Revoke::default(),
            lock_after: None,
            record_opens,
            request: DecryptRequest {
                ciphertext_blob: None,
                encryption_context: Default::default(),
                grant_tokens: Vec::new(),
                key_id: Some(key_arn.to_owned()),
                encryption_algorithm: None,
                dry_run: true,
                dry_run_modifiers: Vec::new(),
            },
        }
    }

    /// Asks once, for a user or the mount itself, and says how long the answer may be kept.
    #[must_use]
    pub fn ask(
        &self,
        lease: &LeaseClient,
        user: Option<User>,
        deadline: Instant,
    ) -> (Verdict, Option<Kept>) {
        match lease.ask_until(self.request.clone(), user, Some(deadline)) {
            Ok((answer, kept)) => (verdict(answer), kept),
            Err(error) => (Verdict::Away(error.to_string()), None),
        }
    }

    /// Asks once for a user, for an administrator who wants to know why: with what kmsd said. It is not kept.
    #[must_use]
    pub fn ask_in_words(
        &self,
        lease: &LeaseClient,
        user: User,
        deadline: Instant,
    ) -> (Verdict, String) {
        match lease.ask_until(self.request.clone(), Some(user), Some(deadline)) {
            Ok((answer, _)) => in_words(answer),
            Err(error) => (Verdict::Away(error.to_string()), String::new()),
        }
    }

    /// The encryption context that policies and grants see.
    #[must_use]
    pub fn context(&self) -> &BTreeMap<String, String> {
        &self.request.encryption_context
    }

    /// Asks once whether a user may encrypt under the policy's key, too: a dry run of `GenerateDataKey`.
    #[must_use]
    pub fn ask_to_bring(&self, lease: &LeaseClient, user: User, deadline: Instant) -> Verdict {
        let request = GenerateDataKeyRequest {
            key_id: self.key_arn.clone(),
            encryption_context: self.request.encryption_context.clone(),
            number_of_bytes: None,
            key_spec: Some(DataKeySpec::Aes256),
            grant_tokens: Vec::new(),
            dry_run: true,
        };
        match lease.ask_until(request, Some(user), Some(deadline)) {
            Ok((answer, _)) => verdict(answer),
            Err(error) => Verdict::Away(error.to_string()),
        }
    }
}

fn in_words<T>(answer: Result<T, ApiError>) -> (Verdict, String) {
    let words = answer.as_ref().err().map(ToString::to_string);
    (verdict(answer), words.unwrap_or_default())
}

fn verdict<T>(answer: Result<T, ApiError>) -> Verdict {
    match answer {
        Err(error) => refusal(error),
        Ok(_) => Verdict::Away("kmsd carried out a dry run; update kmsd".to_owned()),
    }
}

fn refusal(error: ApiError) -> Verdict {
    match error.code {
        ErrorCode::DryRunOperation => return Verdict::Allowed,
        ErrorCode::AccessDenied => return Verdict::Denied,
        _ => {}
    }
    let text = error.to_string();
    if Reason::from_client(&ClientError::Api(error)).is_passing() {
        Verdict::Away(text)
    } else {
        Verdict::Unusable(text)
    }
}
