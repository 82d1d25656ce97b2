//! Access keys ready to verify signatures.

use std::collections::HashMap;
use std::sync::Arc;

use kms_api::sigv4::{SERVICE, Signed, SigningKey, invalid_token, wrong_region};
use kms_api::{ApiError, Scope};
use kms_core::rows::AccessKeyRow;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::Engine;
use crate::auth::Signer;

/// Most access keys that are kept ready.
const MAX_READY: usize = 1024;

/// An access key that is in no catalogue.
#[derive(Clone)]
pub struct FixedKey {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: Zeroizing<String>,
    /// As whom its requests act.
    pub principal: String,
}

#[derive(Default)]
pub(super) struct Signers {
    ready: Mutex<HashMap<String, (Origin, Arc<Signer>)>>,
    fixed: Mutex<HashMap<String, FixedKey>>,
}

/// What a signer was made of; a row that is replaced makes another.
enum Origin {
    Row(Arc<AccessKeyRow>),
    Fixed,
}

impl Signers {
    fn ready(&self, signed: &Signed, row: Option<&Arc<AccessKeyRow>>) -> Option<Arc<Signer>> {
        let ready = self.ready.lock();
        let (origin, signer) = ready.get(&signed.access_key_id)?;
        let same = match (origin, row) {
            (Origin::Row(made), Some(row)) => {
                Arc::ptr_eq(made, row)
                    || (made.secret == row.secret && made.principal == row.principal)
            }
            (Origin::Fixed, None) => true,
            _ => false,
        };
        let fits = same && signer.date == signed.date && signer.scope.region == signed.region;
        fits.then(|| Arc::clone(signer))
    }

    fn keep(&self, origin: Origin, signer: &Arc<Signer>) {
        let mut ready = self.ready.lock();
        if ready.len() >= MAX_READY {
            ready.clear();
        }
        let id = signer.access_key_id.to_string();
        ready.insert(id, (origin, Arc::clone(signer)));
    }
}

impl Engine {
    /// Accepts access keys that are in no catalogue, in the place of those before.
    pub fn use_fixed_keys(&self, keys: impl IntoIterator<Item = FixedKey>) {
        let keys = keys.into_iter().map(|key| (key.id.clone(), key)).collect();
        *self.shared.signers.fixed.lock() = keys;
        self.shared.signers.ready.lock().clear();
    }

    /// The access key that a request names.
    ///
    /// # Errors
    /// There is none, it is disabled, or the Region is not served.
    pub(crate) fn signer(&self, signed: &Signed) -> Result<Arc<Signer>, ApiError> {
        let shared = &self.shared;
        let signers = &shared.signers;
        let id = signed.access_key_id.as_str();
        // Until the secret is open, so that no deletion epoch comes between.
        let kms = shared.kms.read();
        let row = {
            let (snapshot, served) = (kms.snapshot(), kms.served());
            if !served.has_region(snapshot.home(), &signed.region) {
                return Err(wrong_region());
            }
            let row = snapshot.access_key(id).cloned();
            let is_served = |row: &Arc<AccessKeyRow>| {
                served.has_account(snapshot.home(), account(&row.principal))
            };
            row.map(|row| (is_served(&row) && row.enabled, row))
        };
        match row {
            Some((true, row)) => {
                if let Some(signer) = signers.ready(signed, Some(&row)) {
                    return Ok(signer);
                }
                let secret = row.open(&shared.domain.read()).map_err(|error| {
                    tracing::error!(access_key = id, %error, "the secret of an access key does not open");
                    ApiError::bare(kms_api::ErrorCode::Internal)
                })?;
                let signer = Arc::new(make(signed, &secret, &row.principal));
                signers.keep(Origin::Row(row), &signer);
                Ok(signer)
            }
            Some((false, _)) => Err(invalid_token()),
            None => {
                let fixed = signers.fixed.lock().get(id).cloned();
                let fixed = fixed.ok_or_else(invalid_token)?;
                if let Some(signer) = signers.ready(signed, None) {
                    return Ok(signer);
                }
                let signer = Arc::new(make(signed, &fixed.secret, &fixed.principal));
                signers.keep(Origin::Fixed, &signer);
                Ok(signer)
            }
        }
    }

    /// An access key signed a request that was accepted.
    pub(crate) fn access_key_used(&self, id: &str) {
        let now = self.wall_ms();
        self.shared.kms.read().access_key_uses().note(id, now);
    }

    /// The wall clock, in milliseconds.
    pub(crate) fn wall_ms(&self) -> i64 {
        self.shared.clock.read().wall_ms
    }
}

/// The account of an IAM principal.
fn account(principal: &str) -> &str {
    principal.split(':').nth(4).unwrap_or_default()
}

fn make(signed: &Signed, secret: &str, principal: &str) -> Signer {
    let scope = Scope {
        account: account(principal).to_owned(),
        region: signed.region.clone(),
    };
    Signer {
        scope: Arc::new(scope),
        access_key_id: signed.access_key_id.as_str().into(),
        principal: principal.into(),
        date: signed.date.clone(),
        key: SigningKey::derive(secret, &signed.date, &signed.region, SERVICE),
    }
}
