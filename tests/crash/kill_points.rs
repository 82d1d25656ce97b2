//! kmsfs killed (SIGKILL) at every call that changes the lower tree.
//!
//! The build for this test counts those calls, and the compiler names every place in the source that makes one
//! (`backing::failpoint`). A script of steps, one system call each as far as possible, is run once to see which calls it
//! makes; then again and again, killed before or after one of them. Afterwards everything that had returned is there, what
//! was under way is there or not, nothing is damaged, and `kmsctl fs check` finds nothing.
//!
//! Places that clean up after an error are reached by letting a call or an fsync fail first. A place that is never
//! reached fails the test, unless it is in the list of those that cannot be; one that is reached must not be in that list.

mod late_protect;
mod run;
mod script;
mod seen;
mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use kms_tests::require;
use kms_tests::world::World;

use self::run::{Call, Plan, Run, Runner};
use self::script::Script;
use crate::check::Found;
use crate::rig::{self, say};

/// Places that no script reaches, or only "by chance", each with the reason. The line is the source's, without spaces around it.
const OUT_OF_REACH: &[(&str, &str, &str)] = &[
    (
        "kmsfs/src/fs/link.rs",
        "dir.unlink(stored)?;",
        "another process renames the object between two calls",
    ),
    (
        "kmsfs/src/volume/record.rs",
        "let _ = self.directory.unlink(name);",
        "run by kmsctl fs init, not by a mount",
    ),
    (
        "kmsfs/src/fs/reencrypt_dir.rs",
        "let _ = dir.unlink(sidecar);",
        "by chance: another process removes the object between two calls; the rename's own failures are enumerated in kmsfs/src/fs/tests",
    ),
];

/// How often a kill that came elsewhere is tried again: a thread of kmsfs made a call more or less.
const ATTEMPTS: usize = 3;
/// One call in so many is killed before, and one after, at places that had their kills.
const SAMPLE: u64 = 40;

/// How many workers run scripts.
const WORKERS: usize = 3;

#[test]
fn killed_at_every_call_that_changes_the_lower_tree() {
    if !crate::machine_can() {
        return;
    }
    let start = Instant::now();
    let world = world();
    let sites = sites::build(&world);
    let (mut known, mut covered) = (BTreeSet::new(), BTreeSet::new());
    let mut kills = BTreeMap::new();
    for script in [
        script::everything(&world),
        script::authenticated(&world),
        script::recovery(&world),
        script::frozen(&world),
        script::new_keys(&world),
        script::unprivileged(&world),
    ] {
        let (more, found) = kill_everywhere(&world, &sites, &script, &mut known, &mut covered);
        let sum = kills
            .entry(script.mode)
            .or_insert_with(|| (0, Found::default()));
        sum.0 += more;
        sum.1.add(found);
    }
    let lower = require::output_of(
        Command::new("stat")
            .args(["-f", "-c", "%T"])
            .arg(world.path("")),
    );
    for (mode, (kills, found)) in kills {
        rig::report("kill", lower.trim(), mode, kills, found, start);
    }
    hold_to(&sites, &covered);
}

/// Every place that the compiler knows had a kill, or is in the list of those that cannot have one.
fn hold_to(sites: &sites::Sites, covered: &BTreeSet<String>) {
    let (out, reachable): (Vec<_>, Vec<_>) =
        sites.all.iter().partition(|site| listed(site).is_some());
    let line = |site: &&String| format!("{site}: {}", sites::source_line(site));
    let of = |all: &[&String], had: bool| -> Vec<String> {
        all.iter()
            .filter(|site| covered.contains(**site) == had)
            .map(line)
            .collect()
    };
    let missed = of(&reachable, false);
    say(&format!(
        "kill points: {} of {} call sites compiled in covered, {} more out of reach",
        reachable.len() - missed.len(),
        reachable.len(),
        out.len()
    ));
    assert!(
        missed.is_empty(),
        "no kill at these calls; extend a script below tests/crash/kill_points:\n{missed:#?}"
    );
    let by_chance = |site: &str| {
        let entry = listed(site).and_then(|number| OUT_OF_REACH.get(number));
        entry.is_some_and(|(_, _, why)| why.starts_with("by chance"))
    };
    let never: Vec<_> = out
        .iter()
        .copied()
        .filter(|site| !by_chance(site))
        .collect();
    let reached = of(&never, true);
    assert!(
        reached.is_empty(),
        "within reach; take them out of OUT_OF_REACH:\n{reached:#?}"
    );
    for (number, entry) in OUT_OF_REACH.iter().enumerate() {
        assert!(
            out.iter().any(|site| listed(site) == Some(number)),
            "OUT_OF_REACH names a line that is not there: {entry:?}"
        );
    }
    // What has tests of its own may be reached all the same.
    let unknown = covered.difference(&sites.all);
    let unknown: Vec<_> = unknown.filter(|site| !sites::elsewhere(site)).collect();
    assert!(
        unknown.is_empty(),
        "calls at places that the compiler did not name: {unknown:#?}"
    );
}

/// A kmsd that the user of [`script::unprivileged`] may use as well.
fn world() -> World {
    let mut world = World::enrolled();
    let config = world.daemon.config();
    let text = fs::read_to_string(&config).expect("the configuration");
    let open = text.replacen("[server]\n", "[server]\nadmin_group = \"daemon\"\n", 1);
    fs::write(&config, open).expect("write the configuration");
    run::open_to_all(&world.path(""));
    world.daemon.start();
    world.key("alias/kill");
    world
}

/// Kills at all or some of the calls of one script. Gives the number of kills, and what was compared after all runs.
fn kill_everywhere(
    world: &World,
    sites: &sites::Sites,
    script: &Script,
    known: &mut BTreeSet<(String, u64)>,
    covered: &mut BTreeSet<String>,
) -> (u64, Found) {
    let runner = Runner::new(world, sites, script);
    let calls = runner.count();
    let mut plans = Vec::new();
    for (call, nth) in numbered(&calls) {
        let new = known.insert((call.site.clone(), nth));
        let one_in = |rest| require::full() || call.number % SAMPLE == rest;
        let before = (new || one_in(0)).then_some(Plan {
            kill_before: Some(call.number),
            ..Plan::default()
        });
        let after = (new || one_in(SAMPLE / 2)).then_some(Plan {
            kill_after: Some(call.number),
            ..Plan::default()
        });
        plans.extend(
            before
                .into_iter()
                .chain(after)
                .map(|plan| (plan, call.site.clone())),
        );
    }
    let mut kills = kill(&runner, plans, covered);
    let failing = failures(&calls);
    let mut cleaning = Vec::new();
    for (plan, run) in failing.iter().zip(all(&runner, &failing)) {
        for (call, nth) in numbered(behind_failure(&run.calls, plan)) {
            if known.insert((call.site.clone(), nth)) {
                let (before, after) = (
                    Plan {
                        kill_before: Some(call.number),
                        ..*plan
                    },
                    Plan {
                        kill_after: Some(call.number),
                        ..*plan
                    },
                );
                cleaning.extend([before, after].map(|plan| (plan, call.site.clone())));
            }
        }
    }
    kills += kill(&runner, cleaning, covered);
    say(&format!(
        "kill points: {}: {} calls, {kills} kills, {} failures",
        script.name,
        numbered(&calls).count(),
        failing.len()
    ));
    (kills, runner.found())
}

/// Carries out kills, each at a place that is expected; those that came elsewhere once more. Gives the number of kills.
fn kill(runner: &Runner, mut plans: Vec<(Plan, String)>, covered: &mut BTreeSet<String>) -> u64 {
    let mut kills = 0;
    for _ in 0..ATTEMPTS {
        let only: Vec<_> = plans.iter().map(|(plan, _)| *plan).collect();
        let runs = all(runner, &only);
        let mut elsewhere = Vec::new();
        for ((plan, site), run) in plans.into_iter().zip(runs) {
            kills += u64::from(run.killed.is_some());
            if run.killed.as_ref() != Some(&site) {
                elsewhere.push((plan, site));
            }
            covered.extend(run.killed);
        }
        plans = elsewhere;
    }
    kills
}

/// What is only done when a call fails: the first call and the first fsync of each place fail, or, in a full run, every one.
fn failures(calls: &[Call]) -> Vec<Plan> {
    let mut seen = BTreeSet::new();
    let mut syncs = 0;
    let mut plans = Vec::new();
    for call in calls {
        let sync = call.number == 0;
        syncs += u64::from(sync);
        if !seen.insert((&call.site, sync)) && !require::full() {
            continue;
        }
        plans.push(if sync {
            Plan {
                fail_sync: Some(syncs),
                ..Plan::default()
            }
        } else {
            Plan {
                fail: Some(call.number),
                ..Plan::default()
            }
        });
    }
    plans
}

/// The calls after the one that failed.
fn behind_failure<'a>(calls: &'a [Call], plan: &Plan) -> &'a [Call] {
    let mut syncs = 0;
    let failed = calls.iter().position(|call| {
        syncs += u64::from(call.number == 0);
        match plan.fail_sync {
            Some(number) => syncs == number,
            None => plan.fail == Some(call.number),
        }
    });
    failed.map_or(&[], |at| calls.get(at + 1..).unwrap_or_default())
}

/// The calls that change the tree, each with how many came from the same place just before: a place may make several.
fn numbered(calls: &[Call]) -> impl Iterator<Item = (&Call, u64)> {
    let mut last: Option<(&str, u64)> = None;
    calls
        .iter()
        .filter(|call| call.number > 0)
        .map(move |call| {
            let nth = match last {
                Some((site, nth)) if site == call.site => nth + 1,
                _ => 0,
            };
            last = Some((&call.site, nth));
            (call, nth)
        })
}

/// Runs all plans, some at a time; the calls of each.
fn all(runner: &Runner, plans: &[Plan]) -> Vec<Run> {
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
                    let run = runner.run(worker, plan);
                    done.lock().unwrap().insert(number, run);
                }
            });
        }
    });
    done.into_inner().unwrap().into_values().collect()
}

/// Its number in [`OUT_OF_REACH`].
fn listed(site: &str) -> Option<usize> {
    let line = sites::source_line(site);
    OUT_OF_REACH
        .iter()
        .position(|(file, text, _)| site.starts_with(&format!("{file}:")) && line == *text)
}
