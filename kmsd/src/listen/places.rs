//! Who may hold how many connections.
//!
//! Each kind of user has places of its own: users, however many there are, take none of those who administer kmsd or
//! serve others. Within a kind, when all places are taken, whoever holds the most gives one up to somebody who
//! holds fewer: the one on which nothing has been worked on for the longest time. So a few users cannot shut the others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::server::Limits;
use crate::auth::Kind;

/// Connections by kind and user.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<HashMap<Kind, Users>>,
    /// Counts what happens on connections, to tell which was worked on last.
    clock: AtomicU64,
}

/// Who holds places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Holder {
    /// A user of this host.
    Uid(u32),
    /// An address of the network.
    Address(IpAddr),
}

/// The places that each of them holds.
type Users = HashMap<Holder, Vec<Arc<Place>>>;

const IDLE: u8 = 0;
const WORKING: u8 = 1;
const GIVEN_UP: u8 = 2;

/// The place of one connection.
#[derive(Debug, Default)]
pub(crate) struct Place {
    state: AtomicU8,
    /// When it was worked on last, by [`Places::clock`].
    last: AtomicU64,
    given_up: Notify,
}

/// While it lives a request is worked on, and the connection keeps its place.
#[derive(Debug)]
pub(crate) struct Work<'a>(&'a Slot);

/// A place that is taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    places: Arc<Places>,
    place: Arc<Place>,
    kind: Kind,
    holder: Holder,
}

impl Place {
    /// Gives it up, unless a request is worked on.
    fn give_up(&self) -> bool {
        let given = self
            .state
            .compare_exchange(IDLE, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if given {
            self.given_up.notify_one();
        }
        given
    }
}

impl Slot {
    /// A place for a connection of a user, if there is one.
    pub(super) fn take(
        places: &Arc<Places>,
        limits: &Limits,
        kind: Kind,
        holder: Holder,
    ) -> Option<Self> {
        let mut taken = places.taken.lock();
        let users = taken.entry(kind).or_default();
        let total: usize = users.values().map(Vec::len).sum();
        let own = users.get(&holder).map_or(0, Vec::len);
        let (all, each) = match (kind, holder) {
            (Kind::Known, Holder::Uid(0)) | (Kind::Network, _) => {
                (limits.connections, limits.per_user)
            }
            // The last eighth is root's, so that an administrator gets in when a service runs wild.
            (Kind::Known, _) => (limits.connections - limits.connections / 8, limits.per_user),
            (Kind::User, _) => (
                (limits.connections / 2).max(1),
                (limits.per_user / 4).max(1),
            ),
            // Enough to tell each that it is refused.
            (Kind::Stranger, _) => ((limits.connections / 16).max(1), limits.per_user),
        };
        if own >= each || (total >= all && !make_room(users, own)) {
            return None;
        }
        let place = Arc::new(Place::default());
        place.last.store(places.tick(), Ordering::Relaxed);
        users.entry(holder).or_default().push(Arc::clone(&place));
        drop(taken);
        Some(Self {
            places: Arc::clone(places),
            place,
            kind,
            holder,
        })
    }

    /// A request has arrived whole. `None` when the place has just been given up.
    pub(crate) fn work(&self) -> Option<Work<'_>> {
        self.place
            .state
            .compare_exchange(IDLE, WORKING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
            .then_some(Work(self))
    }

    /// Waits until the place is given up.
    pub(super) async fn given_up(&self) {
        self.place.given_up.notified().await;
    }
}

/// Takes a place from one of those who hold the most, if that leaves it no fewer than the one who asks.
fn make_room(users: &mut Users, own: usize) -> bool {
    let mut most: Vec<(usize, Holder)> = users
        .iter()
        .map(|(holder, held)| (held.len(), *holder))
        .filter(|(count, _)| *count > own.saturating_add(1))
        .collect();
    most.sort_unstable_by(|a, b| b.cmp(a));
    for (_, holder) in most {
        let Some(held) = users.get_mut(&holder) else {
            continue;
        };
        let mut oldest: Vec<(u64, usize)> = held
            .iter()
            .enumerate()
            .map(|(at, place)| (place.last.load(Ordering::Relaxed), at))
            .collect();
        oldest.sort_unstable();
        let given = oldest
            .into_iter()
            .map(|(_, at)| at)
            .find(|at| held.get(*at).is_some_and(|place| place.give_up()));
        if let Some(at) = given {
            held.swap_remove(at);
            tracing::info!(
                ?holder,
                "an idle connection was closed: others need its place"
            );
            return true;
        }
    }
    false
}

impl Places {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let Slot { places, place, .. } = self.0;
        place.last.store(places.tick(), Ordering::Relaxed);
        place.state.store(IDLE, Ordering::Release);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        let Some(users) = taken.get_mut(&self.kind) else {
            return;
        };
        if let Some(held) = users.get_mut(&self.holder) {
            // Not there any more when it was given up.
            held.retain(|place| !Arc::ptr_eq(place, &self.place));
            if held.is_empty() {
                users.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(connections: usize, per_user: usize) -> Limits {
        let second = Duration::from_secs(1);
        Limits {
            connections,
            per_user,
            request: 1024,
            head: second,
            body: second,
            idle: second,
            shutdown: second,
        }
    }

    /// Eight places for users, four of them for one.
    fn places() -> (Arc<Places>, impl Fn(u32) -> Option<Slot>) {
        let places = Arc::new(Places::default());
        let of = Arc::clone(&places);
        let limits = limits(16, 16);
        (places, move |uid| {
            Slot::take(&of, &limits, Kind::User, Holder::Uid(uid))
        })
    }

    fn held(places: &Places, uid: u32) -> usize {
        let taken = places.taken.lock();
        taken[&Kind::User]
            .get(&Holder::Uid(uid))
            .map_or(0, Vec::len)
    }

    #[test]
    fn who_holds_the_most_gives_up_the_place_that_was_used_longest_ago() {
        let (places, take) = places();
        let ones: Vec<Slot> = (0..4).map(|_| take(1).unwrap()).collect();
        let twos: Vec<Slot> = (0..4).map(|_| take(2).unwrap()).collect();
        assert!(take(1).is_none(), "four are the most of one user");
        drop(ones[0].work());
        let busy = ones[1].work().unwrap();
        let busy_too = twos
            .iter()
            .map(|slot| slot.work().unwrap())
            .collect::<Vec<_>>();

        let three = take(3).expect("others make room");
        assert_eq!(
            (held(&places, 1), held(&places, 2), held(&places, 3)),
            (3, 4, 1)
        );
        assert!(ones[2].work().is_none(), "it is given up");
        assert!(ones[3].work().is_some());
        drop(busy_too);
        let four = take(4).expect("others make room");
        assert_eq!(
            (held(&places, 1), held(&places, 2), held(&places, 4)),
            (3, 3, 1)
        );
        drop(busy);
        drop((ones, twos));
        assert_eq!((held(&places, 1), held(&places, 2)), (0, 0));
        drop((three, four));
        assert!(places.taken.lock()[&Kind::User].is_empty());
    }

    #[test]
    fn nobody_gives_up_a_place_to_who_holds_as_many_or_while_working() {
        let (places, take) = places();
        let ones: Vec<Slot> = (0..4).map(|_| take(1).unwrap()).collect();
        let twos: Vec<Slot> = (0..3).map(|_| take(2).unwrap()).collect();
        let three = take(3).unwrap();
        assert!(take(2).is_none(), "it would have the most then");
        let working: Vec<_> = ones.iter().chain(&twos).map(|slot| slot.work()).collect();
        assert!(take(3).is_none(), "all are worked on");
        drop(working);
        let more = take(3).unwrap();
        assert_eq!(
            (held(&places, 1), held(&places, 2), held(&places, 3)),
            (3, 3, 2)
        );
        assert!(take(3).is_none(), "all have their share");
        drop((three, more));
    }
}
