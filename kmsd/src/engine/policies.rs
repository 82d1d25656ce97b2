//! The policies of files, and what the policies in force need to know of callers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use kms_api::{ApiError, ErrorCode, ReloadPoliciesResponse, Response};
use kms_core::policy::ConditionKey;
use parking_lot::Mutex;

use super::{Engine, Shared};
use crate::audit::service;
use crate::policies::{PolicyFiles, PolicyFilesError};
use crate::service::Needs;

/// What comes from files instead of the catalogue.
#[derive(Debug, Default)]
pub(super) struct Outside {
    files: OnceLock<PolicyFiles>,
    /// One reload at a time.
    reloading: Mutex<()>,
    /// What is wrong with the files, for as long as older ones are in force.
    fault: Mutex<Option<String>>,
    /// New policies are in force, and the authorisation epoch has not risen for them yet.
    untold: AtomicBool,
    /// What callers must be asked about, and the revision of the store for which that was found.
    needs: Mutex<Option<(u64, Needs)>>,
}

impl Engine {
    /// Puts the policies of these files in force, for good: [`Engine::watch_policies`] follows their changes.
    ///
    /// # Errors
    /// Something is wrong with a file. Nothing is in force then.
    pub fn use_policies(&self, files: PolicyFiles) -> Result<(), PolicyFilesError> {
        let policies = files.read()?;
        self.shared
            .kms
            .write()
            .set_file_policies(Arc::new(policies));
        *self.shared.outside.needs.lock() = None;
        // A second set is not foreseen.
        let _ = self.shared.outside.files.set(files);
        Ok(())
    }

    /// Reads the policy files again, all or none of them, and returns when nobody relies on a decision of
    /// older ones. Blocks. `why` is for the log.
    ///
    /// # Errors
    /// `MalformedPolicyDocumentException` when something is wrong with a file: the old ones stay in force.
    pub fn reload_policies(&self, why: &str) -> Result<ReloadPoliciesResponse, ApiError> {
        let shared = &self.shared;
        let outside = &shared.outside;
        let Some(files) = outside.files.get() else {
            return Ok(shared.counted(false));
        };
        let reloading = outside.reloading.lock();
        let policies = match files.read() {
            Ok(policies) => policies,
            Err(error) => {
                let text = format!(
                    "The policy files in {} are not in force as they are now; those that were before still are: {error}",
                    files.directory().display()
                );
                tracing::error!(why, "{text}");
                *outside.fault.lock() = Some(text.clone());
                shared.record_event(
                    service("PolicyFilesRefused")
                        .detail("why", why)
                        .detail("reason", error.to_string()),
                );
                return Err(ApiError::new(ErrorCode::MalformedPolicyDocument, text));
            }
        };
        *outside.fault.lock() = None;
        let is_same = shared.kms.read().file_policies().same(&policies);
        if !is_same {
            shared.kms.write().set_file_policies(Arc::new(policies));
            *outside.needs.lock() = None;
            outside.untold.store(true, Ordering::SeqCst);
        }
        drop(reloading);
        let response = shared.counted(!is_same);
        if response.changed {
            shared.record_event(
                service("PolicyFilesLoaded")
                    .detail("why", why)
                    .detail("identityPolicies", response.identity_policies)
                    .detail("guardRails", response.guard_rails),
            );
        }
        tracing::info!(
            why,
            changed = response.changed,
            identity_policies = response.identity_policies,
            guard_rails = response.guard_rails,
            "the policy files have been read"
        );
        self.tell()?;
        Ok(response)
    }

    /// Reads the policy files again for a caller who may ask for it.
    pub(super) async fn reload_by_request(&self) -> Result<Response, ApiError> {
        let engine = self.clone();
        let task = tokio::task::spawn_blocking(move || engine.reload_policies("a request"));
        // A panic in there has been reported by the hook; the caller learns that it failed.
        let done = task.await.unwrap_or_else(|_| {
            let text = "The policy files could not be read again.";
            Err(ApiError::new(ErrorCode::Internal, text))
        });
        done.map(Response::ReloadPolicies)
    }

    /// Reads the policy files again if they have changed. To be called about once a second. Blocks.
    pub fn watch_policies(&self) {
        let outside = &self.shared.outside;
        let changed = outside.files.get().is_some_and(PolicyFiles::have_changed);
        // What fails is in the log, and tried again.
        let _ = match changed {
            true => self.reload_policies("the files have changed").map(|_| ()),
            false => self.tell(),
        };
    }

    /// Which facts about callers the policies in force ask for.
    pub fn needs(&self) -> Needs {
        let kms = self.shared.kms.read();
        let revision = kms.snapshot().meta().revision;
        let mut known = self.shared.outside.needs.lock();
        match *known {
            Some((of, needs)) if of == revision => needs,
            Some(_) | None => {
                let exe_sha256 = kms.asks_for(ConditionKey::ExeSha256);
                let exe = exe_sha256 || kms.asks_for(ConditionKey::Exe);
                let needs = Needs { exe, exe_sha256 };
                *known = Some((revision, needs));
                needs
            }
        }
    }

    /// Makes every decision void that was made under other policies, if that is still to be done.
    fn tell(&self) -> Result<(), ApiError> {
        let untold = &self.shared.outside.untold;
        if !untold.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        self.authorization_changed("policy files").map_err(|error| {
            untold.store(true, Ordering::SeqCst);
            tracing::error!(%error, "new policies are in force, and that could not be noted");
            ApiError::new(
                ErrorCode::Internal,
                "The new policies are in force, but services may rely on older decisions; see kmsd's log.",
            )
        })
    }
}

impl Shared {
    /// What is wrong with the policy files.
    pub(super) fn policy_fault(&self) -> Option<String> {
        self.outside.fault.lock().clone()
    }

    fn counted(&self, changed: bool) -> ReloadPoliciesResponse {
        let (identities, rails) = self.kms.read().file_policies().count();
        ReloadPoliciesResponse {
            changed,
            identity_policies: identities as u64,
            guard_rails: rails as u64,
        }
    }
}
