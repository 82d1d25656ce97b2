use proptest::prelude::*;

use super::*;

const LONG: u64 = 10_000;

fn one(epoch: u64, now: u64) -> Leases {
    let mut leases = Leases::default();
    leases.acquire("a", 1, LONG, epoch, now);
    leases
}

#[test]
fn asking_renews_and_silence_ends() {
    let mut leases = one(5, 1_000);
    assert_eq!(leases.left("a", 1_000), Some(LONG));
    assert_eq!(leases.applied("a", 5, 5, 9_000), Ok(LONG));
    assert_eq!(leases.left("a", 18_999), Some(1));
    assert_eq!(leases.left("a", 19_000), None);
    assert_eq!(leases.applied("a", 5, 5, 19_000), Err(Lost));
    assert_eq!(leases.run_out(19_000), ["a"]);
    leases.remove("a", 19_000);
    assert_eq!(leases.standing("a", 6, 19_000), Standing::RanOut);
}

#[test]
fn hearing_of_an_epoch_without_applying_it_renews_nothing() {
    let mut leases = one(5, 0);
    for now in (0..9_999).step_by(1_000) {
        assert_eq!(leases.applied("a", 5, 6, now), Ok(LONG - now));
    }
    assert_eq!(leases.standing("a", 6, 9_999), Standing::Relies(1));
    assert_eq!(leases.standing("a", 6, 10_000), Standing::RanOut);
    assert_eq!(leases.applied("a", 6, 6, 10_000), Err(Lost));
}

#[test]
fn a_holder_that_is_always_one_epoch_behind_keeps_its_lease() {
    let mut leases = one(0, 0);
    for step in 1..100_u64 {
        // It applies what it heard of last time; meanwhile there is another one.
        let applied = leases.applied("a", step - 1, step, step * 3_000).map(drop);
        assert_eq!(applied, Ok(()), "step {step}");
        assert!(
            leases
                .left("a", step * 3_000)
                .is_some_and(|left| left >= 7_000)
        );
    }
}

#[test]
fn a_lease_that_was_given_back_is_as_good_as_applied() {
    let mut leases = one(5, 0);
    leases.remove("a", 10);
    assert_eq!(leases.standing("a", 6, 10), Standing::Applied);
}

#[test]
fn after_a_restart_nothing_is_known_to_be_applied() {
    let mut leases = Leases::default();
    leases.adopt("a", 1, LONG, 50_000);
    assert_eq!(leases.standing("a", 1, 50_000), Standing::Relies(LONG));
    assert_eq!(leases.applied("a", 7, 7, 55_000), Ok(LONG));
    assert_eq!(leases.standing("a", 7, 55_000), Standing::Applied);
    // From a store that was newer than this one: it must apply everything.
    leases.adopt("b", 1, LONG, 55_000);
    assert_eq!(leases.applied("b", 90, 7, 55_000), Ok(LONG));
    assert_eq!(leases.standing("b", 7, 55_000), Standing::Relies(LONG));
}

#[test]
fn a_row_cannot_make_a_call_wait_for_ever() {
    let mut leases = Leases::default();
    leases.adopt("a", 1, u64::MAX, 0);
    assert_eq!(leases.left("a", 0), Some(MAX_LEASE_MS));
}

/// What happens to one holder, a daemon and the channel between them.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Time passes.
    Pass(u64),
    /// The store changes: a new epoch.
    Change,
    /// The holder sends a question; it is answered so many milliseconds later.
    Ask(u64),
    /// The holder applies what the last answer said, or is too busy.
    Apply(bool),
    /// kmsd restarts.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u64..6_000).prop_map(Step::Pass),
        2 => Just(Step::Change),
        5 => (0_u64..2_000).prop_map(Step::Ask),
        4 => any::<bool>().prop_map(Step::Apply),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// Whatever happens in whatever order: as long as the holder thinks that it may rely on an answer
    /// from before an epoch, a call that made this epoch still waits.
    #[test]
    fn a_holder_never_relies_longer_than_calls_wait(steps in steps()) {
        let mut now = 0_u64;
        let mut epoch = 1_u64;
        let mut leases = one(epoch, now);
        // The holder's side: the epoch it has applied, until when it relies on its answers, and the newest
        // epoch that it has heard of.
        let mut applied = epoch;
        let mut until = now + LONG;
        let mut heard = epoch;
        for step in steps {
            match step {
                Step::Pass(ms) => now += ms,
                Step::Change => epoch += 1,
                Step::Ask(latency) if now < until => {
                    let sent = now;
                    now += latency / 2;
                    let asked = leases.applied("a", applied, epoch, now);
                    let newest = epoch;
                    now += latency - latency / 2;
                    match asked {
                        Ok(left) => {
                            until = until.max(sent + left);
                            heard = newest;
                        }
                        Err(Lost) => prop_assert!(now >= until, "lost while the holder relies on it"),
                    }
                }
                Step::Apply(true) if now < until => {
                    applied = heard;
                }
                Step::Ask(_) | Step::Apply(_) => {}
                Step::Restart => {
                    leases = Leases::default();
                    leases.adopt("a", 1, LONG, now);
                }
            }
            if now < until {
                for made in applied + 1..=epoch {
                    let standing = leases.standing("a", made, now);
                    prop_assert!(
                        matches!(standing, Standing::Relies(left) if now + left >= until),
                        "epoch {made}, applied {applied}, holder until {until}, now {now}: {standing:?}"
                    );
                }
            }
        }
    }
}
