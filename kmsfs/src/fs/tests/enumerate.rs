//! Every state that a stop may leave of an operation on directories: killed between any two calls, and a power cut at each
//! of these moments with every choice among what was not synced.
//!
//! `cases` says what is done, `promise` what is owed after a stop, `tree` what is there.

mod cases;
mod op;
mod promise;
mod tree;

use std::collections::HashSet;
use std::sync::Arc;

use kms_format::{ContentMode, UnlockedPolicy, names};

use self::cases::{Case, base, cases};
use self::op::{Op, reencrypt};
use self::promise::Promise;
use self::tree::{Thing, Tree, enter, open, parent, read, show};
use super::world::{FixedKeys, World};
use crate::backing::sim::{Every, LowerFs, Model};
use crate::check::{Code, Finding, Severity, check_open};
use crate::errno::Errno;
use crate::fs::Fs;

/// A stop with more states than this is a case that should be smaller.
const MOST: usize = 20_000;

/// Names of objects whose fsyncs do nothing.
type Lie = fn(&str) -> bool;

#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    stops: usize,
    states: usize,
    /// Mounted and looked at: each once for what is owed.
    mounted: usize,
}

/// One case, under way.
struct Run<'a> {
    world: World,
    below: LowerFs,
    policy: Arc<UnlockedPolicy>,
    promise: Promise,
    model: Model,
    tally: &'a mut Tally,
}

fn root_policy(fs: &Fs) -> Arc<UnlockedPolicy> {
    Arc::clone(&fs.context(fs.table.root()).unwrap().policy)
}

/// Directories that were stopped on the way to a new key get there, and nothing changes by that.
fn finish(fs: &Fs, found: &Tree) -> Result<(), String> {
    let mut ended = false;
    for (path, thing) in found {
        let failed = |errno: Errno| format!("{path:?}: {errno}");
        if matches!(thing, Thing::Dir(..)) {
            let node = enter(fs, path).map_err(failed)?;
            let dir = fs.table.get(node).map_err(failed)?;
            if fs.context(&dir).map_err(failed)?.header.reencrypting() {
                reencrypt(fs, node, &mut |_| Ok(())).map_err(failed)?;
                ended = true;
            }
        }
    }
    match ended.then(|| read(fs)).transpose()? {
        Some(after) if after != *found => Err(format!("{} was {}", show(found), show(&after))),
        _ => Ok(()),
    }
}

fn seen(lower: &LowerFs, keys: &Arc<FixedKeys>) -> Result<Tree, String> {
    read(&open(lower, keys).map_err(|errno| format!("cannot be mounted: {errno}"))?)
}

/// What fs check says, before the next mount and after it.
fn sound(left: &LowerFs, keys: &FixedKeys, mounted: bool) -> Result<(), String> {
    let report = check_open(left.root(), keys).map_err(|errno| format!("check: {errno}"))?;
    let bad = |finding: &&Finding| {
        // What is in a directory whose header was never synced is lost, and that is said.
        let lost = !mounted && finding.code == Code::HeaderMissing;
        finding.severity != Severity::Note && !lost
    };
    match report.findings.iter().find(bad) {
        Some(finding) => Err(format!("check, mounted since: {mounted}: {finding:?}")),
        None => Ok(()),
    }
}

impl<'a> Run<'a> {
    fn new(
        case: &Case,
        (model, mode): (Model, ContentMode),
        lie: Option<Lie>,
        tally: &'a mut Tally,
    ) -> Result<Run<'a>, String> {
        let mut world = World::simulated_with(model, mode);
        let policy = world.keys.add_mode(world.volume, mode);
        for policy in [&policy, &root_policy(world.fs())] {
            world.keys.rotate(policy);
        }
        for op in base().iter().chain(&case.before) {
            let done = op.run(world.fs(), &policy);
            done.map_err(|errno| format!("{op:?}: {errno}"))?;
        }
        world.remount();
        let below = world.below().clone();
        if let Some(lie) = lie {
            below.ignore_syncs(lie);
        }
        let durable = seen(&below.crash(Model::Kill, 0), &world.keys)?;
        Ok(Run {
            world,
            below,
            policy,
            promise: Promise::new(model, durable),
            model,
            tally,
        })
    }

    /// Does an operation, and stops it everywhere if that is wanted.
    fn step(&mut self, op: &Op, stop: bool) -> Result<(), String> {
        let failed = |why: String| format!("{op:?}: {why}");
        self.below.watch();
        let done = op.run(self.world.fs(), &self.policy);
        done.map_err(|errno| failed(errno.to_string()))?;
        let mut stops = self.below.watched();
        let after = stops.pop().ok_or("no state")?;
        let tree = seen(&after.crash(Model::Kill, 0), &self.world.keys).map_err(failed)?;
        self.promise.begins(op, tree);
        let mut known = HashSet::new();
        if stop {
            for (number, stop) in stops.iter().enumerate() {
                self.stop(stop, false, &mut known)
                    .map_err(|why| failed(format!("before call {number}: {why}")))?;
            }
        }
        self.promise.returned(op);
        known.clear();
        if stop {
            self.stop(&after, true, &mut known)
                .map_err(|why| failed(format!("when it has returned: {why}")))?;
        }
        Ok(())
    }

    /// All that a stop at this moment may leave.
    fn stop(&mut self, now: &LowerFs, done: bool, known: &mut HashSet<u64>) -> Result<(), String> {
        self.tally.stops += 1;
        self.tally.states += 1;
        self.judge(&now.crash(Model::Kill, 0), Model::Kill, done)
            .map_err(|why| format!("killed: {why}"))?;
        let (mut every, mut count) = (Every::default(), 0);
        while let Some(left) = every.next(now, self.model) {
            count += 1;
            if count > MOST {
                return Err(format!("more than {MOST} states"));
            }
            self.power_cut(&left, done, known)?;
        }
        Ok(())
    }

    fn power_cut(
        &mut self,
        left: &LowerFs,
        done: bool,
        known: &mut HashSet<u64>,
    ) -> Result<(), String> {
        self.tally.states += 1;
        if !known.insert(left.fingerprint()) {
            return Ok(());
        }
        self.judge(left, self.model, done)
            .map_err(|why| format!("after a power cut: {why}"))
    }

    /// Mounts what is left, looks at it, uses it, stops cleanly and mounts it again.
    fn judge(&mut self, left: &LowerFs, how: Model, done: bool) -> Result<(), String> {
        self.tally.mounted += 1;
        let keys = &self.world.keys;
        sound(left, keys, false)?;
        let fs = open(left, keys).map_err(|errno| format!("cannot be mounted: {errno}"))?;
        let found = read(&fs)?;
        self.promise.check(how, done, &found)?;
        // Names that are not there can be had, whatever is left of them.
        let trees = self.promise.trees.iter();
        let names: HashSet<_> = trees.flat_map(Tree::keys).collect();
        for path in names.into_iter().filter(|path| !found.contains_key(*path)) {
            if !matches!(found.get(parent(path)), Some(Thing::Dir(..))) {
                continue;
            }
            for op in [Op::Put(path.clone(), "again"), Op::Unlink(path.clone())] {
                let done = op.run(&fs, &self.policy);
                done.map_err(|errno| format!("{op:?} afterwards: {errno}"))?;
            }
        }
        finish(&fs, &found)?;
        drop(fs);
        // An unmount waits for the look at all files for a moment only; then the next one has to take the mark away.
        let marked = |_: &i32| left.root().stat_at(names::UNCLEAN).err() != Some(Errno::NOENT);
        for _ in (0..10).take_while(marked) {
            seen(left, keys)?;
        }
        if marked(&0) {
            return Err("the mark of use stays after a clean stop".to_owned());
        }
        sound(left, keys, true)?;
        match seen(left, keys)? {
            again if again == found => Ok(()),
            again => Err(format!(
                "{} was {} after a clean stop",
                show(&found),
                show(&again)
            )),
        }
    }
}

/// What is synced at the end of a case, in turn: each directory, and the files that are new.
fn syncs(before: &Tree, after: &Tree) -> Vec<Op> {
    let sync = |(path, thing): (&String, &Thing)| match thing {
        Thing::Dir(..) => Some(Op::SyncDir(path.clone())),
        Thing::File(_) if before.get(path) != Some(thing) => Some(Op::SyncFile(path.clone())),
        Thing::File(_) | Thing::Symlink(_) => None,
    };
    after.iter().filter_map(sync).collect()
}

fn enumerate(
    case: &Case,
    how: (Model, ContentMode),
    lie: Option<Lie>,
    tally: &mut Tally,
) -> Result<(), String> {
    let failed = |why: String| format!("{}: {why}", case.name);
    tally.cases += 1;
    let mut run = Run::new(case, how, lie, tally).map_err(failed)?;
    for op in &case.steps {
        run.step(op, true).map_err(failed)?;
    }
    let (first, last) = match &run.promise.trees[..] {
        [first, .., last] => (first.clone(), last.clone()),
        _ => return Err(failed("it does nothing".to_owned())),
    };
    drop(run);
    for sync in syncs(&first, &last) {
        let mut run = Run::new(case, how, lie, tally).map_err(failed)?;
        for op in &case.steps {
            run.step(op, false).map_err(failed)?;
        }
        run.step(&sync, true).map_err(failed)?;
    }
    Ok(())
}

/// Cases in which the content mode makes no difference are left out of mode gcm, unless it may take long.
fn all(how: (Model, ContentMode)) {
    let full = std::env::var_os("KMS_TESTS_FULL").is_some();
    let mut tally = Tally::default();
    let (model, mode) = how;
    for case in cases() {
        if case.fits(model)
            && (mode == ContentMode::Xts || full || case.makes_files())
            && let Err(why) = enumerate(&case, how, None, &mut tally)
        {
            panic!("{model:?}, {why}");
        }
    }
    println!("{how:?}: {tally:?}");
    assert!(tally.mounted > 1000, "{tally:?}");
}

#[test]
fn every_stop_over_a_journal() {
    all((Model::Journal, ContentMode::Xts));
}

#[test]
fn every_stop_over_the_least_posix_promises() {
    all((Model::Posix, ContentMode::Xts));
}

#[test]
fn every_stop_in_mode_gcm() {
    all((Model::Journal, ContentMode::Gcm));
    if std::env::var_os("KMS_TESTS_FULL").is_some() {
        all((Model::Posix, ContentMode::Gcm));
    }
}

/// The enumeration finds what goes wrong when a sync is left out that FORMAT.md asks for.
#[test]
fn each_sync_is_needed() {
    let lies: [(&str, Model, Lie); 5] = [
        ("header", Model::Journal, |name| name == names::DIR_HEADER),
        ("record of a long name", Model::Journal, |name| {
            name.starts_with(".kmsfs.n.")
        }),
        ("new header", Model::Journal, |name| {
            name.starts_with(".kmsfs.t.")
        }),
        ("record of a target", Model::Journal, |name| {
            name.len() == 32
        }),
        ("name of that record", Model::Posix, |name| {
            name == names::LINKS
        }),
    ];
    for (what, model, lie) in lies {
        let how = (model, ContentMode::Xts);
        let mut tally = Tally::default();
        let found = cases()
            .iter()
            .filter(|case| case.fits(model))
            .find_map(|case| enumerate(case, how, Some(lie), &mut tally).err());
        println!("{what} not synced: {found:?}");
        assert!(found.is_some(), "{what}: nothing was found");
    }
}

/// Were the header with two keys not durable before names change, a power cut would leave names that no key opens.
#[test]
fn both_keys_have_to_be_durable_before_names_change() {
    let lie: Lie = |name| name.starts_with(".kmsfs.t.");
    let mut tally = Tally::default();
    let case = cases().into_iter().find(|case| case.name == "reencrypt");
    let how = (Model::Journal, ContentMode::Xts);
    let found = enumerate(&case.unwrap(), how, Some(lie), &mut tally);
    println!("{found:?}");
    assert!(found.is_err(), "nothing was found");
}

/// Were the second wrap not durable before the name moves, a power cut would leave a file that its directory cannot open.
#[test]
fn the_wrap_has_to_be_durable_before_the_name_moves() {
    let lie: Lie = |name| name.len() >= 43 && !name.starts_with('.');
    let mut tally = Tally::default();
    for what in [
        "rename into another policy",
        "rename over a file of another policy, long",
    ] {
        let case = cases().into_iter().find(|case| case.name == what).unwrap();
        let how = (Model::Journal, ContentMode::Xts);
        let found = enumerate(&case, how, Some(lie), &mut tally);
        println!("{what}: {found:?}");
        assert!(found.is_err(), "{what}: nothing was found");
    }
}
