//! Policy keys from kmsd.
//!
//! kmsd's registry is the truth for key, content mode and generation; the lower tree's record is used
//! only to find the data key's blob, which opens under no other context than its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_api::client::{Asking, Client, ClientError};
use kms_api::{
    ContentMode as WireMode, CreatePolicyRequest, DataKeySpec, DecryptRequest,
    DescribeVolumeRequest, ErrorCode, GenerateDataKeyRequest, GenerateDataKeyResponse,
    GetPolicyRequest, GetPolicyResponse, Operation, ResourceId,
};
use kms_crypto::Key;
use kms_format::volume::{PolicyRecord, VolumeRecord};
use kms_format::{ContentMode, PolicyId, UnlockedPolicy, VolumeId};
use parking_lot::{Condvar, Mutex, RwLock};

use super::refusal::Reason;
use super::{Keys, Refusal, WOULD_WAIT};
use crate::errno::Errno;

/// How long a refusal is believed: a burst of lookups asks kmsd once, an administrator who enabled
/// the key does not notice.
const REFUSAL_TTL: Duration = Duration::from_millis(500);
/// Pause between attempts to reach kmsd.
const RETRY: Duration = Duration::from_millis(100);
/// The same refusal is logged again after this time.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// A policy and the generation of its key.
type Slot = (PolicyId, u32);

/// The policy keys of one volume.
pub struct KmsdKeys {
    client: Client,
    volume: VolumeId,
    limit: Duration,
    record: RwLock<VolumeRecord>,
    unlocked: RwLock<HashMap<Slot, Unlocked>>,
    attempts: Mutex<HashMap<Slot, Arc<Attempt>>>,
    /// Policies of which no key is kept.
    barred: RwLock<HashSet<PolicyId>>,
}

/// An unlocked policy, and what `fs status` shows of it.
#[derive(Clone)]
pub struct Unlocked {
    /// The key.
    pub policy: Arc<UnlockedPolicy>,
    /// ARN of the KMS key, from the registry.
    pub key_arn: String,
    /// The key material the data key was made under.
    pub key_material_id: Option<String>,
}

/// One policy's unlocking: one caller asks, the others wait.
#[derive(Default)]
struct Attempt {
    state: Mutex<AttemptState>,
    changed: Condvar,
}

#[derive(Default)]
struct AttemptState {
    asking: bool,
    refused: Option<(Refusal, Instant)>,
    logged: Option<(Reason, Instant)>,
}

impl KmsdKeys {
    /// Of the volume that `record` describes. An unlock waits for kmsd up to `limit`.
    #[must_use]
    pub fn new(client: Client, record: VolumeRecord, limit: Duration) -> KmsdKeys {
        KmsdKeys {
            client,
            volume: record.volume,
            limit,
            record: RwLock::new(record),
            unlocked: RwLock::default(),
            attempts: Mutex::default(),
            barred: RwLock::default(),
        }
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The client of kmsd.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The record as it is in the lower tree.
    #[must_use]
    pub fn record(&self) -> VolumeRecord {
        self.record.read().clone()
    }

    /// Takes over a record that was just written, with the key of its newest policy.
    pub fn add(&self, record: VolumeRecord, new: Unlocked) {
        let slot = (new.policy.policy(), new.policy.generation());
        *self.record.write() = record;
        self.unlocked.write().insert(slot, new);
    }

    /// Generations of a policy before this one were ended: their keys are forgotten, with the lines of the record, which was just
    /// written without them.
    pub fn end_older(&self, record: VolumeRecord, policy: PolicyId, before: u32) {
        *self.record.write() = record;
        self.unlocked
            .write()
            .retain(|(id, generation), _| *id != policy || *generation >= before);
    }

    /// The policies unlocked so far.
    #[must_use]
    pub fn unlocked(&self) -> Vec<Unlocked> {
        self.unlocked.read().values().cloned().collect()
    }

    /// The last refusal of a policy, if its last unlock was refused.
    #[must_use]
    pub fn refusal(&self, policy: &PolicyId) -> Option<Refusal> {
        let attempts = self.attempts.lock();
        attempts
            .iter()
            .filter(|((id, _), _)| id == policy)
            .find_map(|(_, attempt)| Some(attempt.state.lock().refused.as_ref()?.0.clone()))
    }

    /// Unlocks a policy, waiting for kmsd up to the limit.
    ///
    /// # Errors
    /// Why not.
    pub fn unlock(&self, policy: &PolicyId, generation: u32) -> Result<Unlocked, Refusal> {
        let slot = (*policy, generation);
        if let Some(unlocked) = self.unlocked.read().get(&slot) {
            return Ok(unlocked.clone());
        }
        let attempt = Arc::clone(self.attempts.lock().entry(slot).or_default());
        let mut state = attempt.state.lock();
        loop {
            if let Some(unlocked) = self.unlocked.read().get(&slot) {
                return Ok(unlocked.clone());
            }
            if let Some((refusal, until)) = &state.refused
                && Instant::now() < *until
            {
                return Err(refusal.clone());
            }
            if !state.asking {
                break;
            }
            attempt.changed.wait(&mut state);
        }
        state.asking = true;
        drop(state);
        let answer = self.ask_until_answered(policy, generation);
        let mut state = attempt.state.lock();
        state.asking = false;
        match &answer {
            Ok(unlocked) => {
                // Under this lock: who bars a policy drops what is kept afterwards.
                let barred = self.barred.read();
                if !barred.contains(policy) {
                    self.unlocked.write().insert(slot, unlocked.clone());
                }
                drop(barred);
                state.refused = None;
                if state.logged.take().is_some() {
                    tracing::info!(volume = %self.volume, %policy, key = unlocked.key_arn, "unlocked again");
                }
            }
            Err(refusal) => {
                state.log(refusal);
                state.refused = Some((refusal.clone(), Instant::now() + REFUSAL_TTL));
            }
        }
        drop(state);
        attempt.changed.notify_all();
        answer
    }

    fn ask_until_answered(&self, policy: &PolicyId, generation: u32) -> Result<Unlocked, Refusal> {
        let deadline = super::latest(self.limit);
        let mut waited = false;
        loop {
            match self.ask(policy, generation) {
                Err(refusal) if refusal.reason.is_passing() && Instant::now() < deadline => {
                    if !waited {
                        waited = true;
                        tracing::warn!(limit = ?self.limit, "{refusal}; waiting");
                    }
                    std::thread::sleep(RETRY);
                }
                answer => return answer,
            }
        }
    }

    /// One question. Who has waited already, and was not the first, is not kept for another limit.
    fn send<R: Operation>(&self, request: R) -> Result<R::Output, ClientError> {
        let asking = Asking {
            deadline: Some(super::latest(self.limit.max(Duration::from_secs(1)))),
            ..Asking::default()
        };
        let answer = self.client.send_as(request, asking)?;
        Ok(answer.output)
    }

    /// One generation of a policy as the registry has it, with its secret; the current one if none is named.
    ///
    /// # Errors
    /// kmsd refuses or cannot be reached.
    pub fn registry(
        &self,
        policy: &PolicyId,
        generation: Option<u32>,
    ) -> Result<GetPolicyResponse, ClientError> {
        self.send(GetPolicyRequest {
            volume_id: ResourceId(self.volume.0),
            policy_id: ResourceId(policy.0),
            generation,
        })
    }

    /// A generation that is not kept was ended, or the registry is older than the lower tree: which of the two makes
    /// all the difference to whoever has to put something back.
    fn why_not(&self, policy: &PolicyId, generation: u32, error: &ClientError) -> Reason {
        let gone = error
            .api()
            .is_some_and(|api| api.code == ErrorCode::NotFound);
        if !gone {
            return Reason::from_client(error);
        }
        match self.registry(policy, None) {
            Ok(row) if row.current_generation != generation => Reason::Generation {
                directory: generation,
                registry: row.current_generation,
            },
            _ => Reason::from_client(error),
        }
    }

    fn ask(&self, policy: &PolicyId, generation: u32) -> Result<Unlocked, Refusal> {
        let entry = self.record.read().policy(*policy, generation).cloned();
        let mut key = entry
            .as_ref()
            .map_or_else(|| "unknown".to_owned(), |entry| entry.key_arn.clone());
        let refused = |key: &str, reason| Refusal {
            volume: self.volume,
            policy: *policy,
            key: key.to_owned(),
            reason,
        };
        let row = self
            .registry(policy, Some(generation))
            .map_err(|error| refused(&key, self.why_not(policy, generation, &error)))?;
        key.clone_from(&row.key_arn);
        if row.generation != generation {
            let reason = Reason::Generation {
                directory: generation,
                registry: row.generation,
            };
            return Err(refused(&key, reason));
        }
        let mode = content_mode(row.content_mode);
        let entry = entry.ok_or_else(|| refused(&key, Reason::NoDataKey))?;
        let opened = self
            .send(DecryptRequest {
                ciphertext_blob: Some(kms_api::Blob::new(entry.data_key)),
                encryption_context: context(&self.volume, policy, generation),
                grant_tokens: Vec::new(),
                key_id: Some(row.key_arn.clone()),
                encryption_algorithm: None,
                dry_run: false,
                dry_run_modifiers: Vec::new(),
            })
            .map_err(|error| refused(&key, Reason::from_client(&error)))?;
        let policy = derive(
            (self.volume, *policy, generation, mode),
            opened.plaintext.as_slice(),
            row.policy_secret.as_slice(),
        )
        .map_err(|reason| refused(&key, reason))?;
        Ok(Unlocked {
            policy: Arc::new(policy),
            key_arn: key,
            key_material_id: opened.key_material_id,
        })
    }

    /// Refused recently enough to say so without asking.
    fn known_refusal(&self, slot: &Slot) -> Option<Errno> {
        let attempt = Arc::clone(self.attempts.lock().get(slot)?);
        let state = attempt.state.lock();
        let (refusal, until) = state.refused.as_ref()?;
        (Instant::now() < *until).then(|| refusal.errno())
    }
}

impl Keys for KmsdKeys {
    fn policy_key(
        &self,
        volume: &VolumeId,
        policy: &PolicyId,
        generation: u32,
    ) -> Result<Arc<UnlockedPolicy>, Errno> {
        if *volume != self.volume {
            tracing::error!(%volume, %policy, mounted = %self.volume, "a directory of another volume: not opened");
            return Err(Errno::from_raw(libc::ENOKEY));
        }
        let slot = (*policy, generation);
        if let Some(unlocked) = self.unlocked.read().get(&slot) {
            return Ok(Arc::clone(&unlocked.policy));
        }
        if !super::may_wait() {
            return Err(self.known_refusal(&slot).unwrap_or(WOULD_WAIT));
        }
        self.unlock(policy, generation)
            .map(|unlocked| unlocked.policy)
            .map_err(|refusal| refusal.errno())
    }

    fn of_other_mode(&self, policy: &UnlockedPolicy) -> Option<u32> {
        let record = self.record.read();
        let mut entries = record.policies.iter();
        entries
            .find(|entry| entry.policy == policy.policy() && entry.content_mode != policy.mode())
            .map(|entry| entry.generation)
    }

    fn bar(&self, policy: &PolicyId) {
        self.barred.write().insert(*policy);
        self.unlocked.write().retain(|(kept, _), _| kept != policy);
    }

    fn allow(&self, policy: &PolicyId) {
        self.barred.write().remove(policy);
    }

    fn is_destroyed(&self, policy: &PolicyId) -> bool {
        let described = self.send(DescribeVolumeRequest {
            volume_id: ResourceId(self.volume.0),
        });
        // Only what the registry itself says is gone: that it is not known there may be the wrong registry's fault.
        described.is_ok_and(|volume| {
            let id = ResourceId(policy.0);
            let mut rows = volume.policies.iter();
            rows.any(|row| {
                row.policy_id == id && (row.destroyed_date.is_some() || row.key_state.is_none())
            })
        })
    }

    fn refusal_text(&self, policy: &PolicyId) -> Option<String> {
        self.refusal(policy).map(|refusal| refusal.to_string())
    }
}

impl AttemptState {
    /// One line per refusal, and again only when its reason changes or a minute has passed.
    fn log(&mut self, refusal: &Refusal) {
        let now = Instant::now();
        if let Some((reason, until)) = &self.logged
            && *reason == refusal.reason
            && now < *until
        {
            return;
        }
        tracing::error!(
            volume = %refusal.volume,
            policy = %refusal.policy,
            key = refusal.key,
            errno = %refusal.errno(),
            "{refusal}"
        );
        self.logged = Some((refusal.reason.clone(), now + LOG_AGAIN));
    }
}

/// A policy that kmsd has just registered, with its data key.
pub struct NewPolicy {
    /// For the volume record.
    pub record: PolicyRecord,
    /// For use.
    pub unlocked: Unlocked,
}

/// Registers a policy under `key` (id, ARN or alias) and makes its data key, from the key's current
/// material.
///
/// # Errors
/// kmsd refuses or cannot be reached.
pub fn create_policy(
    client: &Client,
    volume: VolumeId,
    key: &str,
    mode: ContentMode,
) -> Result<NewPolicy, CreateError> {
    let row = client.send(CreatePolicyRequest {
        volume_id: ResourceId(volume.0),
        key_id: key.to_owned(),
        content_mode: match mode {
            ContentMode::Xts => WireMode::Xts,
            ContentMode::Gcm => WireMode::Gcm,
        },
    })?;
    let policy = PolicyId(row.policy_id.0);
    let data_key = data_key(client, &row.key_arn, volume, policy, row.generation)?;
    let unlocked = derive(
        (volume, policy, row.generation, mode),
        data_key.plaintext.as_slice(),
        row.policy_secret.as_slice(),
    )
    .map_err(|reason| CreateError::Unusable(format!("{reason:?}")))?;
    Ok(NewPolicy {
        record: PolicyRecord {
            policy,
            generation: row.generation,
            key_arn: row.key_arn.clone(),
            content_mode: mode,
            data_key: data_key.ciphertext_blob.as_slice().to_vec(),
        },
        unlocked: Unlocked {
            policy: Arc::new(unlocked),
            key_arn: row.key_arn,
            key_material_id: data_key.key_material_id,
        },
    })
}

/// Makes the data key of one generation of a policy, from the key's current material.
pub(super) fn data_key(
    client: &Client,
    key: &str,
    volume: VolumeId,
    policy: PolicyId,
    generation: u32,
) -> Result<GenerateDataKeyResponse, ClientError> {
    client.send(GenerateDataKeyRequest {
        key_id: key.to_owned(),
        encryption_context: context(&volume, &policy, generation),
        number_of_bytes: None,
        key_spec: Some(DataKeySpec::Aes256),
        grant_tokens: Vec::new(),
        dry_run: false,
    })
}

/// Why a policy was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// kmsd refuses or cannot be reached.
    #[error("{0}")]
    Kmsd(#[from] kms_api::client::ClientError),
    /// kmsd's answer does not fit.
    #[error("kmsd's answer cannot be used: {0}; update kmsfs and kmsd together")]
    Unusable(String),
}

/// The encryption context of a policy's data key.
#[must_use]
pub fn context(volume: &VolumeId, policy: &PolicyId, generation: u32) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("kmsfs:volume".to_owned(), volume.to_string()),
        ("kmsfs:policy".to_owned(), policy.to_string()),
        ("kmsfs:generation".to_owned(), generation.to_string()),
    ])
}

pub(super) const fn content_mode(mode: WireMode) -> ContentMode {
    match mode {
        WireMode::Xts => ContentMode::Xts,
        WireMode::Gcm => ContentMode::Gcm,
    }
}

pub(super) fn derive(
    (volume, policy, generation, mode): (VolumeId, PolicyId, u32, ContentMode),
    data_key: &[u8],
    secret: &[u8],
) -> Result<UnlockedPolicy, Reason> {
    let key = |bytes: &[u8], what: &str| {
        Key::<32>::from_slice(bytes)
            .map_err(|error| Reason::Unusable(format!("{what} from kmsd: {error}")))
    };
    let data_key = key(data_key, "the data key")?;
    let secret = key(secret, "the policy secret")?;
    UnlockedPolicy::derive(volume, policy, generation, mode, &data_key, &secret)
        .map_err(|error| Reason::Unusable(error.to_string()))
}
