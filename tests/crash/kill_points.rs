//! kmsfs killed (SIGKILL) at every call that changes the lower tree.
//!
//! The build for this test counts those calls, and the compiler names every place in the source that makes one
//! (`backing::failpoint`). A script of steps, one system call each as far as possible, is run once to see which calls it
//! makes; then again and again, killed before or after one of them. Afterwards everything that had returned is there, what
//! was under way is there or not, nothing is damaged, and `kmsctl fs check` finds nothing.
//!
//! Places that clean up after an error are reached by letting a call fail first. The places that were not reached are
//! printed, but for those that cannot be.

mod late_protect;
mod run;
mod script;
mod seen;
mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kms_tests::require;
use kms_tests::world::World;

use self::run::{Plan, Runner};
use self::script::Script;
use crate::rig::say;

/// Places that no script reaches, each with the reason. The line is the source's, without spaces around it.
const OUT_OF_REACH: &[(&str, &str, &str)] = &[
    (
        "kmsfs/src/fs/link.rs",
        "dir.unlink(stored)?;",
        "another process renames the object between two calls",
    ),
    (
        "kmsfs/src/fs/make.rs",
        "Some(_) => named.dir.unlink(sidecar)?,",
        "a record that a power cut tore: a kill leaves it whole or not there",
    ),
    (
        "kmsfs/src/volume/record.rs",
        "let _ = self.directory.unlink(name);",
        "run by kmsctl fs init, not by a mount",
    ),
];

/// How many workers run scripts.
const WORKERS: usize = 3;

#[test]
fn killed_at_every_call_that_changes_the_lower_tree() {
    if !crate::machine_can() {
        return;
    }
    let sites = sites::build();
    let world = World::start();
    world.key("alias/kill");
    let mut covered = BTreeSet::new();
    let kills = kill_everywhere(&world, &sites, &script::everything(&world), &mut covered);
    let reachable: BTreeSet<_> = sites
        .all
        .iter()
        .filter(|site| !out_of_reach(site))
        .collect();
    let missed: Vec<_> = reachable
        .iter()
        .filter(|site| !covered.contains(**site))
        .collect();
    say(&format!(
        "kill points: {kills} kills, {} of {} call sites covered, {} more out of reach",
        reachable.len() - missed.len(),
        reachable.len(),
        sites.all.len() - reachable.len()
    ));
    for site in missed {
        say(&format!(
            "kill points: no kill at {site}: {}",
            sites::source_line(site)
        ));
    }
}

/// The places of one script, and kills at all or some of its calls. Gives the number of kills.
fn kill_everywhere(
    world: &World,
    sites: &sites::Sites,
    script: &Script,
    covered: &mut BTreeSet<String>,
) -> usize {
    let runner = Runner::new(world, sites, script);
    let calls = runner.count();
    let mut plans = Vec::new();
    let mut known = covered.clone();
    for (number, site) in &calls {
        let new = known.insert(site.clone());
        if new || require::full() || number % 9 == 0 {
            plans.push(Plan {
                kill_before: Some(*number),
                ..Plan::default()
            });
        }
        if new || require::full() || number % 9 == 4 {
            plans.push(Plan {
                kill_after: Some(*number),
                ..Plan::default()
            });
        }
    }
    let killed = all(&runner, &plans);
    // What is only done when a call fails: the first call of each place fails, or, in a full run, every call.
    let mut failures = BTreeMap::new();
    for (number, site) in &calls {
        let key = if require::full() {
            format!("{number}")
        } else {
            site.clone()
        };
        failures.entry(key).or_insert(*number);
    }
    let failing: Vec<_> = failures
        .values()
        .map(|number| Plan {
            fail: Some(*number),
            ..Plan::default()
        })
        .collect();
    let mut cleaning = Vec::new();
    for (plan, run) in failing.iter().zip(all(&runner, &failing)) {
        let fail = plan.fail.unwrap_or(0);
        for (number, site) in run.iter().filter(|(number, _)| *number > fail) {
            if known.insert(site.clone()) {
                let plan = Plan {
                    fail: plan.fail,
                    ..Plan::default()
                };
                cleaning.push(Plan {
                    kill_before: Some(*number),
                    ..plan
                });
                cleaning.push(Plan {
                    kill_after: Some(*number),
                    ..plan
                });
            }
        }
    }
    let cleaned = all(&runner, &cleaning);
    let kills = killed.len() + cleaned.len();
    for calls in killed.iter().chain(&cleaned) {
        covered.extend(calls.last().map(|(_, site)| site.clone()));
    }
    say(&format!(
        "kill points: {}: {} calls, {kills} kills, {} failures",
        script.name,
        calls.len(),
        failing.len()
    ));
    kills
}

/// Runs all plans, some at a time; the calls of each.
fn all(runner: &Runner, plans: &[Plan]) -> Vec<Vec<(u64, String)>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (next, done) = (&next, &done);
            scope.spawn(move || {
                while let Some((number, plan)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    plans.get(number).map(|plan| (number, plan))
                } {
                    let calls = runner.run(worker, plan);
                    done.lock().unwrap().insert(number, calls);
                }
            });
        }
    });
    done.into_inner().unwrap().into_values().collect()
}

fn out_of_reach(site: &str) -> bool {
    let line = sites::source_line(site);
    OUT_OF_REACH
        .iter()
        .any(|(file, text, _)| site.starts_with(&format!("{file}:")) && line == *text)
}
