//! How many requests a principal may make in a second: one bucket of tokens for each principal and class of operations.
//!
//! A request takes a token; without one it is answered with `ThrottlingException` and is not looked at any further. Nothing is
//! recorded for it by itself, or a flood would go on in the audit log: one record from time to time says how many there were.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_api::{ApiError, Caller, CallerRole, ErrorCode, Request};
use kms_core::audit::Record;
use parking_lot::Mutex;

use crate::audit::service;

/// How often it is recorded what was refused.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Operations that share a bucket, as AWS KMS groups its request quotas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Use of symmetric and HMAC keys, and random numbers.
    Symmetric,
    /// Signing, verifying, key agreement and encapsulation.
    Asymmetric,
    /// Pairs of data keys, and new keys: they take long to make.
    KeyMaking,
    /// Whatever else changes something.
    Management,
    /// Descriptions and lists.
    Reading,
}

impl Class {
    /// The class of an operation; none for those that kmsd and its services need to run at all.
    pub fn of(request: &Request) -> Option<Self> {
        Self::named(request.operation(), request.is_read_only())
    }

    fn named(operation: &str, is_read_only: bool) -> Option<Self> {
        Some(match operation {
            "Encrypt"
            | "Decrypt"
            | "ReEncrypt"
            | "GenerateDataKey"
            | "GenerateDataKeyWithoutPlaintext"
            | "GenerateRandom"
            | "GenerateMac"
            | "VerifyMac"
            | "GetPolicy" => Self::Symmetric,
            "Sign" | "Verify" | "DeriveSharedSecret" | "Encapsulate" | "Decapsulate" => {
                Self::Asymmetric
            }
            "CreateKey"
            | "GenerateDataKeyPair"
            | "GenerateDataKeyPairWithoutPlaintext"
            | "GetParametersForImport"
            | "ImportKeyMaterial"
            | "RotateKeyOnDemand"
            | "ReplicateKey" => Self::KeyMaking,
            // Without these nothing can be taken away from anybody.
            "AcquireLease" | "ReleaseLease" | "WaitForEpoch" | "AcknowledgeEpoch"
            | "WaitForEvents" => return None,
            _ if is_read_only => Self::Reading,
            _ => Self::Management,
        })
    }

    /// Its name in records and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "symmetric",
            Self::Asymmetric => "asymmetric",
            Self::KeyMaking => "key_making",
            Self::Management => "management",
            Self::Reading => "reading",
        }
    }
}

/// What the limits are. Rates are requests of one principal in a second; 0: any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// [`Class::Symmetric`].
    pub symmetric: u32,
    /// [`Class::Asymmetric`].
    pub asymmetric: u32,
    /// [`Class::KeyMaking`].
    pub key_making: u32,
    /// [`Class::Management`].
    pub management: u32,
    /// [`Class::Reading`].
    pub reading: u32,
    /// Seconds of a rate that may come at once, after a while without requests.
    pub burst_seconds: u32,
    /// Whether root is limited as well.
    pub root: bool,
    /// Whether services are, and the users on whose behalf they ask.
    pub services: bool,
}

impl RateLimits {
    /// No limits at all.
    pub const NONE: Self = Self {
        symmetric: 0,
        asymmetric: 0,
        key_making: 0,
        management: 0,
        reading: 0,
        burst_seconds: 1,
        root: false,
        services: false,
    };

    fn rate(&self, class: Class) -> u32 {
        match class {
            Class::Symmetric => self.symmetric,
            Class::Asymmetric => self.asymmetric,
            Class::KeyMaking => self.key_making,
            Class::Management => self.management,
            Class::Reading => self.reading,
        }
    }

    fn concerns(&self, caller: &Caller) -> bool {
        match caller.role {
            CallerRole::Internal => false,
            _ if caller.via.is_some() => self.services,
            CallerRole::Service => self.services,
            CallerRole::Root => self.root,
            CallerRole::Admin | CallerRole::User => true,
        }
    }
}

impl Default for RateLimits {
    /// Those of AWS KMS for use of keys; ample for the rest.
    fn default() -> Self {
        Self {
            symmetric: 10_000,
            asymmetric: 1000,
            key_making: 100,
            management: 100,
            reading: 1000,
            burst_seconds: 2,
            root: false,
            services: false,
        }
    }
}

/// The buckets.
#[derive(Debug)]
pub(crate) struct Rates {
    limits: RateLimits,
    /// By principal: the buckets of its classes.
    buckets: Mutex<HashMap<Arc<str>, Vec<Bucket>>>,
}

#[derive(Debug)]
struct Bucket {
    class: Class,
    tokens: f64,
    filled: Instant,
    /// Refused requests since they were recorded last.
    refused: u64,
    reported: Option<Instant>,
}

impl Rates {
    pub(crate) fn new(limits: RateLimits) -> Self {
        Self {
            limits,
            buckets: Mutex::default(),
        }
    }

    /// Takes a token for a request.
    ///
    /// # Errors
    /// There is none: `ThrottlingException`.
    pub(crate) fn admit(&self, request: &Request, caller: &Caller) -> Result<(), ApiError> {
        if !self.limits.concerns(caller) {
            return Ok(());
        }
        match Class::of(request) {
            Some(class) if !self.take(class, &caller.arn, Instant::now()) => Err(throttled()),
            Some(_) | None => Ok(()),
        }
    }

    fn take(&self, class: Class, principal: &Arc<str>, now: Instant) -> bool {
        let rate = self.limits.rate(class);
        if rate == 0 {
            return true;
        }
        let most = self.most(class);
        let mut buckets = self.buckets.lock();
        // Looked for by its text: a clone of the name for each request would cost more than the rest.
        if !buckets.contains_key(&**principal) {
            buckets.insert(Arc::clone(principal), Vec::new());
        }
        let Some(own) = buckets.get_mut(&**principal) else {
            return true;
        };
        let at = own.iter().position(|bucket| bucket.class == class);
        let at = at.unwrap_or_else(|| {
            own.push(Bucket {
                class,
                tokens: most,
                filled: now,
                refused: 0,
                reported: None,
            });
            own.len() - 1
        });
        let Some(bucket) = own.get_mut(at) else {
            return true;
        };
        bucket.fill(rate, most, now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return true;
        }
        bucket.refused = bucket.refused.saturating_add(1);
        false
    }

    fn most(&self, class: Class) -> f64 {
        f64::from(self.limits.rate(class)) * f64::from(self.limits.burst_seconds)
    }

    /// Records of what was refused: for each principal and class at most one in a minute, or with `last` everything.
    pub(crate) fn reports(&self, last: bool) -> Vec<Record> {
        self.reports_at(last, Instant::now())
    }

    fn reports_at(&self, last: bool, now: Instant) -> Vec<Record> {
        let mut reports = Vec::new();
        self.buckets.lock().retain(|principal, own| {
            own.retain_mut(|bucket| {
                let most = self.most(bucket.class);
                bucket.fill(self.limits.rate(bucket.class), most, now);
                let due = bucket
                    .reported
                    .is_none_or(|at| now.saturating_duration_since(at) >= REPORT_INTERVAL);
                if bucket.refused > 0 && (due || last) {
                    reports.push(
                        service("RequestsThrottled")
                            .detail("principal", &**principal)
                            .detail("class", bucket.class.name())
                            .detail("requests", bucket.refused),
                    );
                    bucket.refused = 0;
                    bucket.reported = Some(now);
                }
                // A full bucket is what a principal without one has, too.
                let recent = bucket
                    .reported
                    .is_some_and(|at| now.saturating_duration_since(at) < REPORT_INTERVAL);
                bucket.refused > 0 || recent || bucket.tokens < most
            });
            !own.is_empty()
        });
        reports
    }
}

impl Bucket {
    fn fill(&mut self, rate: u32, most: f64, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + seconds * f64::from(rate)).min(most);
        self.filled = now;
    }
}

/// AWS's words.
fn throttled() -> ApiError {
    ApiError::new(
        ErrorCode::Throttling,
        "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        Rates::new(RateLimits {
            symmetric: 10,
            key_making: 1,
            burst_seconds: 3,
            ..RateLimits::NONE
        })
    }

    fn taken(rates: &Rates, class: Class, who: &str, times: u32, now: Instant) -> u32 {
        let who = who.into();
        (0..times)
            .map(|_| u32::from(rates.take(class, &who, now)))
            .sum()
    }

    #[test]
    fn each_principal_and_class_has_a_bucket_of_its_own() {
        let (rates, now) = (rates(), Instant::now());
        assert_eq!(taken(&rates, Class::Symmetric, "eve", 100, now), 30);
        assert_eq!(taken(&rates, Class::KeyMaking, "eve", 100, now), 3);
        assert_eq!(taken(&rates, Class::Symmetric, "bob", 20, now), 20);
        assert_eq!(
            taken(&rates, Class::Reading, "eve", 1000, now),
            1000,
            "no limit"
        );
    }

    #[test]
    fn a_bucket_fills_at_its_rate_and_not_beyond_its_burst() {
        let (rates, now) = (rates(), Instant::now());
        taken(&rates, Class::Symmetric, "eve", 30, now);
        let later = now + Duration::from_millis(500);
        assert_eq!(taken(&rates, Class::Symmetric, "eve", 100, later), 5);
        let much_later = later + Duration::from_secs(3600);
        assert_eq!(taken(&rates, Class::Symmetric, "eve", 100, much_later), 30);
    }

    #[test]
    fn what_was_refused_is_told_once_a_minute_and_full_buckets_are_forgotten() {
        let (rates, now) = (rates(), Instant::now());
        taken(&rates, Class::KeyMaking, "eve", 10, now);
        taken(&rates, Class::Symmetric, "bob", 1, now);
        let told = rates.reports_at(false, now);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].details["principal"], "eve");
        assert_eq!(told[0].details["class"], "key_making");
        assert_eq!(told[0].details["requests"], 7);
        taken(&rates, Class::KeyMaking, "eve", 2, now);
        assert!(
            rates.reports_at(false, now).is_empty(),
            "it was told just now"
        );
        assert_eq!(rates.reports_at(true, now)[0].details["requests"], 2);
        assert!(
            rates
                .reports_at(false, now + Duration::from_secs(120))
                .is_empty()
        );
        assert!(rates.buckets.lock().is_empty());
    }

    #[test]
    fn root_and_services_have_no_limit_unless_it_is_said() {
        let caller = |role| Caller::new(role, 7, "arn:aws:iam::000000000000:user/x");
        let mut limits = RateLimits::default();
        for (role, limited) in [
            (CallerRole::Root, false),
            (CallerRole::Service, false),
            (CallerRole::Internal, false),
            (CallerRole::Admin, true),
            (CallerRole::User, true),
        ] {
            assert_eq!(limits.concerns(&caller(role)), limited, "{role:?}");
        }
        let mut user = caller(CallerRole::User);
        user.via = Some(Arc::new(kms_api::Via {
            service: "kmsfs".into(),
            arn: "arn:aws:iam::000000000000:user/kmsfs".into(),
            uid: 3,
            pid: 4,
        }));
        assert!(!limits.concerns(&user));
        (limits.root, limits.services) = (true, true);
        assert!(limits.concerns(&user));
        assert!(limits.concerns(&caller(CallerRole::Root)));
        assert!(limits.concerns(&caller(CallerRole::Service)));
        assert!(!limits.concerns(&caller(CallerRole::Internal)));
    }

    #[test]
    fn every_operation_has_its_class() {
        for (_, name) in Request::OPERATIONS {
            let class = Class::named(name, false);
            let symmetric = ["Encrypt", "Decrypt", "GenerateDataKey", "ReEncrypt"];
            if symmetric.contains(name) {
                assert_eq!(class, Some(Class::Symmetric), "{name}");
            }
            assert_eq!(
                class.is_none(),
                name.contains("Lease") && *name != "ListLeases"
                    || name.ends_with("Epoch")
                    || *name == "WaitForEvents",
                "{name}"
            );
        }
        assert_eq!(Class::named("ListKeys", true), Some(Class::Reading));
        assert_eq!(Class::named("DisableKey", false), Some(Class::Management));
    }
}
