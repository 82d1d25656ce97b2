use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::time::Instant;

use kms_core::audit::{Actor, Failure, KMS_SOURCE, Kind, LOCAL_SOURCE};
use serde_json::json;

use super::*;

fn scope() -> Scope {
    Scope::new("000000000000", "local-host-1").unwrap()
}

fn local(name: &str) -> Record {
    Record::service(name.into(), 0, LOCAL_SOURCE, name)
}

fn denied(time: i64) -> Record {
    let mut record = Record::service("d".into(), time, KMS_SOURCE, "Decrypt");
    record.kind = Kind::Api;
    record.caller = Some(
        Actor {
            arn: "mallory".into(),
            ..Actor::default()
        }
        .into(),
    );
    record.error = Some(Failure {
        code: "AccessDeniedException".into(),
        message: None,
    });
    record
}

fn append(observer: &mut impl Observer, begin: u64, records: &[Record]) {
    let appended: Vec<Appended<'_>> = (begin..)
        .zip(records)
        .map(|(seq, record)| Appended {
            seq,
            line: b"",
            record,
        })
        .collect();
    let end = begin + records.len() as u64;
    observer.appended(&appended, end);
}

fn ids(batch: &Batch) -> Vec<(u64, String)> {
    let id = |placed: &Placed| placed.event["id"].as_str().unwrap().to_owned();
    batch
        .events
        .iter()
        .map(|placed| (placed.seq, id(placed)))
        .collect()
}

const NOW: Duration = Duration::ZERO;

#[tokio::test]
async fn a_listener_that_goes_on_from_where_it_was_misses_nothing() {
    let events = Events::new(10);
    let reported = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reported);
    let mut observer = events.observer(scope(), 2, None, move |record| sink.lock().push(record));

    let begin = events.wait(None, 10, NOW).await;
    assert_eq!((begin.next, begin.events.len()), (10, 0));
    append(&mut observer, 10, &[local("A"), denied(0), local("B")]);
    let one = events.wait(Some(begin.next), 1, NOW).await;
    assert_eq!((ids(&one), one.next), (vec![(10, "A".into())], 11));
    let rest = events.wait(Some(one.next), 10, NOW).await;
    assert_eq!((ids(&rest), rest.next), (vec![(12, "B".into())], 13));
    // Asked again, it is told again.
    assert_eq!(ids(&events.wait(Some(11), 10, NOW).await).len(), 1);

    // One that waits is woken by an event, not by a record that is none.
    let waiting = {
        let events = events.clone();
        tokio::spawn(async move { events.wait(Some(13), 10, Duration::from_secs(600)).await })
    };
    tokio::task::yield_now().await;
    append(&mut observer, 13, &[denied(1)]);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    append(&mut observer, 14, &[local("C")]);
    let woken = waiting.await.unwrap();
    assert_eq!((ids(&woken), woken.next), (vec![(14, "C".into())], 15));
    // The second denial was a burst, which the log is to record.
    assert_eq!(reported.lock().len(), 1);
    assert_eq!(reported.lock()[0].operation, "DenialBurst");

    let nothing = events.wait(Some(15), 10, Duration::from_millis(1)).await;
    assert_eq!(
        (nothing.events.len(), nothing.next, nothing.missed),
        (0, 15, false)
    );
    assert!(
        events.wait(Some(9), 10, NOW).await.missed,
        "from before the start"
    );
}

#[tokio::test]
async fn what_no_longer_fits_in_memory_is_said_to_be_missed() {
    let events = Events::new(0);
    let mut observer = events.observer(scope(), 0, None, |_| {});
    for seq in 0..RING as u64 + 2 {
        append(&mut observer, seq, &[local("X")]);
    }
    let batch = events.wait(Some(1), 1, NOW).await;
    assert!(batch.missed);
    assert_eq!(batch.events[0].seq, 2);
    assert!(!events.wait(Some(2), 1, NOW).await.missed);
}

/// A script in a directory of root's.
fn script(text: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hook");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Some((folder, path))
}

#[test]
fn a_program_that_others_could_change_is_not_run() {
    let Some((folder, path)) = script("exit 0") else {
        return;
    };
    check_hook(&path).unwrap();
    let refused = |path: &PathBuf, word: &str| {
        let error = check_hook(path).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    fs::set_permissions(&path, fs::Permissions::from_mode(0o775)).unwrap();
    refused(&path, "written to by others");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&path, "not executable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&path, Some(1000), None).unwrap();
    refused(&path, "belong to root");
    chown(&path, Some(0), None).unwrap();
    // So does a directory on the way, also behind a link.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    check_hook(&link).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    refused(&link, "written to by others");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    chown(folder.path(), Some(1000), None).unwrap();
    refused(&path, "belong to root");
    chown(folder.path(), Some(0), None).unwrap();
    refused(&"hook".into(), "absolute");
    refused(&folder.path().join("none"), "No such file");
    refused(&folder.path().to_owned(), "not a file");
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_program_is_told_of_each_event_in_order_with_a_clean_environment() {
    let Some((folder, path)) = script("env >\"$0.env\"; pwd >>\"$0.env\"; cat >>\"$0.in\"") else {
        return;
    };
    let events = Events::new(0);
    let hook = Hook::start(&path, Duration::from_secs(30)).unwrap();
    let mut observer = events.observer(scope(), 0, Some(hook), |_| {});
    append(
        &mut observer,
        0,
        &[local("First"), denied(0), local("Second")],
    );
    let told = folder.path().join("hook.in");
    let lines = || fs::read_to_string(&told).unwrap_or_default();
    wait_for("two events", || lines().lines().count() == 2);
    let all = lines();
    let mut parsed = all
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(parsed.next().unwrap()["detail-type"], json!("kmsd First"));
    assert_eq!(parsed.next().unwrap()["detail-type"], json!("kmsd Second"));
    let environment = fs::read_to_string(folder.path().join("hook.env")).unwrap();
    for line in environment.lines().filter(|line| line.contains('=')) {
        // What the shell sets by itself, besides PATH.
        let name = line.split('=').next().unwrap();
        assert!(
            ["PATH", "PWD", "_", "SHLVL", "OLDPWD"].contains(&name),
            "{line}"
        );
    }
    assert_eq!(environment.lines().last(), Some("/"));
}

#[test]
fn a_program_that_hangs_is_killed_with_its_children_and_the_next_event_comes() {
    // The first run leaves a child behind that holds all pipes, and does not end either.
    let text = "if [ ! -e \"$0.pid\" ]; then sleep 600 & echo $! >\"$0.pid.new\"; mv \"$0.pid.new\" \"$0.pid\"; wait; fi; cat >\"$0.in\"";
    let Some((folder, path)) = script(text) else {
        return;
    };
    let hook = Hook::start(&path, Duration::from_millis(500)).unwrap();
    hook.tell(Arc::new(json!({ "id": "one" })));
    hook.tell(Arc::new(
        json!({ "id": "two", "long": "x".repeat(200_000) }),
    ));
    let told = folder.path().join("hook.in");
    wait_for("the second event", || {
        fs::read_to_string(&told).is_ok_and(|text| text.contains("\"two\""))
    });
    let pid = fs::read_to_string(folder.path().join("hook.pid")).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    wait_for("the end of the child", || {
        // Gone, or waiting to be reaped by init.
        fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "))
    });
}

#[test]
fn a_process_that_the_program_leaves_behind_does_not_hold_up_the_next_event() {
    // In a session of its own it is not killed, and it holds standard input and error.
    let text = "if [ ! -e \"$0.pid\" ]; then setsid sh -c 'echo $$ >\"$0.new\"; mv \"$0.new\" \"$0\"; exec sleep 600' \"$0.pid\" & \
        while [ ! -e \"$0.pid\" ]; do sleep 0.01; done; exit 0; fi; cat >\"$0.in\"";
    let Some((folder, path)) = script(text) else {
        return;
    };
    let hook = Hook::start(&path, Duration::from_secs(30)).unwrap();
    hook.tell(Arc::new(json!({ "id": "one" })));
    hook.tell(Arc::new(json!({ "id": "two" })));
    let told = folder.path().join("hook.in");
    let begin = Instant::now();
    let second = || fs::read_to_string(&told).is_ok_and(|text| text.contains("\"two\""));
    while !second() && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = fs::read_to_string(folder.path().join("hook.pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(second());
}
