//! How many records a user can have written for requests that nobody allowed.
//!
//! Whoever may connect can ask for what he may not do, as often as he likes, and each time there is a record. Each user has
//! a bucket of tokens; a record of a request that no policy, grant or office allowed takes one. A user without tokens is not
//! answered: his requests are refused before they are looked at, so there is nothing to record, and one record from time to
//! time says how many there were. What a policy allows costs no token.
//!
//! Over the network anybody has as many addresses as he likes, so those who cannot sign have a bucket together beside their
//! own, too: it holds as much as a few of theirs.
//!
//! A user for whom a service asks goes on being answered, since the service has to know whom to let in; what is refused to one
//! without tokens is counted instead of recorded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kms_core::audit::Record;
use parking_lot::Mutex;

use super::log::service;

/// How often it is recorded what was not answered.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// How many times as large the bucket is that all addresses of the network share as that of one of them.
const ADDRESSES_TOGETHER: u32 = 4;
/// Most addresses with a bucket of their own. Further ones have only the common one.
const MAX_ADDRESSES: usize = 4096;

/// Whose bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asker {
    /// A user.
    Uid(u32),
    /// Whoever comes over the network from an address, and signs with no access key that there is.
    Address(IpAddr),
    /// All those addresses together: their records are limited by this as well.
    Addresses,
    /// Whoever signs with an access key: the beginning of its id.
    AccessKey([u8; 20]),
    /// Everybody who is not let in at all, together: a user has tens of thousands of uids in other user namespaces.
    Stranger,
    /// A user for whom a service asks; none for all whom the name service does not know, together.
    Behalf(Option<u32>),
}

impl Asker {
    /// Who signs with this access key.
    pub(crate) fn access_key(id: &str) -> Self {
        let mut beginning = [0; 20];
        for (to, from) in beginning.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Self::AccessKey(beginning)
    }

    /// A client of the network: an IPv6 network of 64 bits is one client, since it costs nothing to have all its addresses.
    pub(crate) fn address(address: IpAddr) -> Self {
        Self::Address(network_of(address))
    }
}

/// The address that stands for all those that one client has.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// The buckets.
#[derive(Debug)]
pub(crate) struct Limit {
    /// Tokens of a full bucket; 0: there is no limit.
    burst: u32,
    per_minute: u32,
    buckets: Mutex<HashMap<Asker, Bucket>>,
    /// Number of buckets that are not full.
    known: AtomicUsize,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    /// Requests that were not answered since it was recorded last.
    unanswered: u64,
    /// The principal of the last of them.
    principal: Arc<str>,
    reported: Option<Instant>,
}

impl Limit {
    pub(crate) fn new(burst: u32, per_minute: u32) -> Self {
        Self {
            burst,
            per_minute,
            buckets: Mutex::default(),
            known: AtomicUsize::new(0),
        }
    }

    /// Whether a request of `asker` is looked at. One that is not is counted.
    pub(crate) fn answers(&self, asker: Asker, principal: &Arc<str>) -> bool {
        if self.known.load(Ordering::Relaxed) == 0 {
            return true;
        }
        let mut buckets = self.buckets.lock();
        let now = Instant::now();
        for asker in Self::charged(asker) {
            let Some(bucket) = buckets.get_mut(&asker) else {
                continue;
            };
            self.fill(asker, bucket, now);
            if bucket.tokens < 1.0 {
                bucket.unanswered = bucket.unanswered.saturating_add(1);
                bucket.principal = Arc::clone(principal);
                return false;
            }
        }
        true
    }

    /// Those from whose buckets a record of `asker` takes a token.
    fn charged(asker: Asker) -> impl Iterator<Item = Asker> {
        let together = matches!(asker, Asker::Address(_)).then_some(Asker::Addresses);
        std::iter::once(asker).chain(together)
    }

    /// Tokens of a full bucket, and those that come in a minute.
    fn size(&self, asker: Asker) -> (f64, f64) {
        let times = match asker {
            Asker::Addresses => f64::from(ADDRESSES_TOGETHER),
            _ => 1.0,
        };
        (
            f64::from(self.burst) * times,
            f64::from(self.per_minute) * times,
        )
    }

    /// Whether a request that nobody allowed has a record of its own. One that has not is counted.
    pub(crate) fn records(&self, asker: Asker, principal: &str) -> bool {
        match asker {
            Asker::Behalf(_) => self.answers(asker, &principal.into()),
            // It would not have been looked at.
            Asker::Uid(_)
            | Asker::Address(_)
            | Asker::Addresses
            | Asker::AccessKey(_)
            | Asker::Stranger => true,
        }
    }

    /// A request of `asker` that nobody allowed is recorded.
    pub(crate) fn charge(&self, asker: Asker) {
        if self.burst == 0 {
            return;
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        for asker in Self::charged(asker) {
            let is_one_too_many = matches!(asker, Asker::Address(_))
                && buckets.len() >= MAX_ADDRESSES
                && !buckets.contains_key(&asker);
            if is_one_too_many {
                continue;
            }
            let bucket = buckets.entry(asker).or_insert_with(|| Bucket {
                tokens: self.size(asker).0,
                filled: now,
                unanswered: 0,
                principal: "".into(),
                reported: None,
            });
            self.fill(asker, bucket, now);
            bucket.tokens = (bucket.tokens - 1.0).max(0.0);
        }
        self.known.store(buckets.len(), Ordering::Relaxed);
    }

    fn fill(&self, asker: Asker, bucket: &mut Bucket, now: Instant) {
        let (full, per_minute) = self.size(asker);
        let minutes = now.saturating_duration_since(bucket.filled).as_secs_f64() / 60.0;
        bucket.tokens = (bucket.tokens + minutes * per_minute).min(full);
        bucket.filled = now;
    }

    /// Records of what was not answered: for each user at most one in a minute, or with `last` everything.
    pub(crate) fn reports(&self, last: bool) -> Vec<Record> {
        if self.known.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock();
        let mut reports = Vec::new();
        buckets.retain(|asker, bucket| {
            self.fill(*asker, bucket, now);
            let due = bucket
                .reported
                .is_none_or(|at| now.saturating_duration_since(at) >= REPORT_INTERVAL);
            if bucket.unanswered > 0 && (due || last) {
                reports.push(report(*asker, bucket));
                bucket.unanswered = 0;
                bucket.reported = Some(now);
            }
            bucket.unanswered > 0 || bucket.tokens < self.size(*asker).0
        });
        self.known.store(buckets.len(), Ordering::Relaxed);
        reports
    }
}

fn report(asker: Asker, bucket: &Bucket) -> Record {
    let event = service(match asker {
        Asker::Uid(_)
        | Asker::Address(_)
        | Asker::Addresses
        | Asker::AccessKey(_)
        | Asker::Stranger => "RequestsNotAnswered",
        Asker::Behalf(_) => "RequestsNotRecorded",
    });
    let event = event
        .detail("lastPrincipal", &*bucket.principal)
        .detail("requests", bucket.unanswered);
    match asker {
        Asker::Uid(uid) => event.detail("uid", uid),
        Asker::Behalf(Some(uid)) => event.detail("uid", uid),
        Asker::Address(address) => event.detail("sourceIPAddress", address.to_string()),
        Asker::Addresses => event.detail("addresses", true),
        Asker::AccessKey(id) => {
            let id = String::from_utf8_lossy(&id);
            event.detail("accessKeyId", id.trim_end_matches('\0'))
        }
        Asker::Stranger | Asker::Behalf(None) => event.detail("strangers", true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(limit: &Limit, asker: Asker, times: u32) -> u32 {
        let principal = "arn:aws:iam::000000000000:user/mallory".into();
        let mut answered = 0;
        for _ in 0..times {
            if limit.answers(asker, &principal) {
                limit.charge(asker);
                answered += 1;
            }
        }
        answered
    }

    #[test]
    fn a_user_beyond_the_limit_is_not_answered_and_others_are() {
        let limit = Limit::new(10, 0);
        assert_eq!(refuse(&limit, Asker::Uid(1000), 25), 10);
        assert_eq!(refuse(&limit, Asker::Uid(1001), 3), 3);
        assert_eq!(refuse(&limit, Asker::Stranger, 11), 10);
        let mut reports = limit.reports(false);
        reports.sort_by_key(|record| record.details["requests"].as_u64());
        let told: Vec<_> = reports
            .iter()
            .map(|record| (record.details.get("uid"), &record.details["requests"]))
            .collect();
        assert_eq!(told, [(None, &1.into()), (Some(&1000.into()), &15.into())]);
        assert_eq!(
            reports[1].details["lastPrincipal"],
            "arn:aws:iam::000000000000:user/mallory"
        );
    }

    fn network(number: u16) -> Asker {
        Asker::address(Ipv6Addr::new(0x2001, 0xdb8, 0, number, 1, 2, 3, 4).into())
    }

    #[test]
    fn many_addresses_have_no_more_than_a_few() {
        let limit = Limit::new(10, 0);
        let answered: u32 = (0..100)
            .map(|number| refuse(&limit, network(number), 3))
            .sum();
        assert_eq!(answered, 10 * ADDRESSES_TOGETHER);
        // Whoever else there is is answered as before.
        let key = Asker::access_key("AKIAIOSFODNN7EXAMPLE");
        assert_eq!(refuse(&limit, key, 3), 3);
        assert_eq!(refuse(&limit, Asker::Uid(1000), 3), 3);
        let reports = limit.reports(false);
        assert_eq!(reports.len(), 1, "the addresses together");
        assert_eq!(reports[0].details["addresses"], true);
        assert_eq!(reports[0].details["requests"], 300 - 40);
        // One address alone is still told by its own name.
        let limit = Limit::new(10, 0);
        assert_eq!(refuse(&limit, network(7), 25), 10);
        let reports = limit.reports(false);
        assert_eq!(reports[0].details["sourceIPAddress"], "2001:db8:0:7::");
        assert_eq!(reports[0].details["requests"], 15);
    }

    #[test]
    fn buckets_of_addresses_are_bounded() {
        let limit = Limit::new(1_000_000, 0);
        for number in 0..u16::try_from(MAX_ADDRESSES).unwrap() + 100 {
            assert_eq!(refuse(&limit, network(number), 1), 1);
        }
        assert_eq!(limit.buckets.lock().len(), MAX_ADDRESSES);
        assert_eq!(refuse(&limit, Asker::Uid(1000), 1), 1);
        assert!(limit.buckets.lock().contains_key(&Asker::Uid(1000)));
    }

    #[test]
    fn what_was_not_answered_is_told_once_in_a_minute_and_at_the_end() {
        let limit = Limit::new(1, 0);
        refuse(&limit, Asker::Uid(1), 3);
        assert_eq!(limit.reports(false).len(), 1);
        assert!(limit.reports(false).is_empty(), "nothing new");
        refuse(&limit, Asker::Uid(1), 4);
        assert!(limit.reports(false).is_empty(), "it was told just now");
        let last = limit.reports(true);
        assert_eq!(last[0].details["requests"], 4);
        assert!(limit.reports(true).is_empty());
    }

    #[test]
    fn buckets_fill_again_and_full_ones_are_forgotten() {
        let limit = Limit::new(2, 60 * 1000);
        refuse(&limit, Asker::Uid(1), 2);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(refuse(&limit, Asker::Uid(1), 1), 1);
        std::thread::sleep(Duration::from_millis(20));
        assert!(limit.reports(true).is_empty());
        assert!(limit.buckets.lock().is_empty());
    }

    #[test]
    fn there_can_be_no_limit() {
        let limit = Limit::new(0, 0);
        assert_eq!(refuse(&limit, Asker::Uid(1), 5000), 5000);
    }
}
