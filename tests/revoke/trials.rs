//! Many revocations while eight readers and two writers are as busy as they can be: no call that begins after the command has
//! returned gives anything.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use data_encoding::BASE64;
use kms_tests::mount::Mount;
use kms_tests::wait;
use kmsfs::control::client;
use kmsfs::control::protocol::{Answer, Command, Locked};
use serde_json::json;

use crate::people::{self, ALICE, BOB, as_user, open_file, shared, text};
use crate::shared::{shared_mount, shared_world};

const READERS: u64 = 8;
const WRITERS: u64 = 2;
/// Ways to read, as in `busy.py`.
const WAYS: [&str; 5] = ["read", "splice", "mapping", "open", "stat"];

/// The block of shared memory of `busy.py`.
struct Board {
    file: File,
    path: PathBuf,
}

impl Board {
    fn new(path: PathBuf) -> Board {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(4096).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o666))
            .unwrap();
        Board { file, path }
    }

    fn put(&self, offset: u64, value: u64) {
        self.file
            .write_all_at(&value.to_ne_bytes(), offset)
            .unwrap();
    }

    fn get(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_ne_bytes(bytes)
    }

    /// Field 0: ready for a trial; 1: through with it; 2: what was given too late; 3: what was given at all; 4: in which way.
    fn of(&self, number: u64, field: u64) -> u64 {
        self.get(64 + 64 * number + 8 * field)
    }

    fn wait(&self, numbers: std::ops::Range<u64>, field: u64, trial: u64) {
        wait::until_true("all that are busy", wait::PATIENCE, || {
            numbers
                .clone()
                .all(|number| self.of(number, field) == trial)
        });
    }
}

/// Somebody busy, ended when dropped.
struct Busy(Child);

impl Busy {
    /// From the trial after the one that is on.
    fn start(uid: u32, board: &Board, number: u64, what: &str, files: &[PathBuf]) -> Busy {
        let child = as_user(uid, "/usr/bin/python3")
            .args(["-c", include_str!("busy.py")])
            .arg(&board.path)
            .arg(number.to_string())
            .arg(what)
            .arg(board.get(0).to_string())
            .args(files)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Busy(child)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(socket: &Path, command: &Command) -> Answer {
    client::ask(socket, command, Duration::from_secs(60)).unwrap()
}

fn lock(socket: &Path, user: Option<u32>, kill: bool) -> Locked {
    let path = vec![BASE64.encode(b"inside")];
    match ask(socket, &Command::Lock { path, user, kill }) {
        Answer::Locked(locked) => locked,
        answer => panic!("{answer:?}"),
    }
}

fn unlock(socket: &Path, user: Option<u32>) {
    let path = vec![BASE64.encode(b"inside")];
    let answer = ask(socket, &Command::Unlock { path, user });
    assert!(matches!(answer, Answer::Unlocked(true)), "{answer:?}");
}

fn trials() -> u64 {
    if std::env::var_os("KMS_TESTS_FULL").is_some_and(|full| full == "1") {
        1000
    } else {
        100
    }
}

#[test]
fn not_one_byte_after_the_command_has_returned() {
    if !crate::machine_can() {
        return;
    }
    let world = people::world();
    let socket = world.path("control");
    let control = format!("control={}", text(&socket));
    let mount = shared(&world, "xts", &[&control]);
    let files: Vec<_> = ["a", "b"]
        .iter()
        .map(|name| mount.path("inside").join(name))
        .collect();
    for file in &files {
        open_file(file, "secret");
    }
    let board = Board::new(world.path("board"));
    let mut readers = readers(&board, &files);
    let writers: Vec<_> = (READERS..READERS + WRITERS)
        .map(|number| Busy::start(BOB, &board, number, "write", &files))
        .collect();
    for trial in 1..=trials() {
        let kill = trial % 10 == 0;
        let user = (kill || trial % 3 != 0).then_some(ALICE);
        board.put(0, trial);
        board.wait(0..READERS + WRITERS, 0, trial);
        // At another moment each time.
        std::thread::sleep(Duration::from_micros(trial * 7919 % 9000));
        let locked = lock(&socket, user, kill);
        board.put(8, trial);
        if kill {
            assert_eq!(locked.killed.len() as u64, READERS, "{locked:?}");
            drop(readers);
            check(&board, trial, user, &mount);
            unlock(&socket, user);
            readers = self::readers(&board, &files);
            continue;
        }
        board.wait(0..READERS, 1, trial);
        check(&board, trial, user, &mount);
        unlock(&socket, user);
    }
    for number in 0..READERS + WRITERS {
        assert!(
            board.of(number, 3) > trials(),
            "number {number} did nothing"
        );
    }
    drop((readers, writers));
    mount.unmount();
}

/// As above, by kmsd's own call, in both modes of a policy.
#[test]
fn not_one_byte_after_the_revocation_of_a_grant_has_returned() {
    if !crate::machine_can() {
        return;
    }
    let world = shared_world();
    let mount = shared_mount(&world, "");
    let files: Vec<_> = ["a", "b"].iter().map(|name| mount.path(name)).collect();
    for file in &files {
        open_file(file, "secret");
    }
    let key = world.call("DescribeKey", &json!({"KeyId": "alias/top"}));
    let key = &key["KeyMetadata"]["KeyId"];
    let give = |uid: u32| {
        let grantee = format!("arn:aws:iam::000000000000:user/uid-{uid}");
        let body = json!({"KeyId": key, "GranteePrincipal": grantee, "Operations": ["Decrypt"]});
        world.call("CreateGrant", &body)["GrantId"].clone()
    };
    let volume = &world.call_local("ListVolumes", &json!({}))["Volumes"][0]["VolumeId"];
    let described = world.call_local("DescribeVolume", &json!({ "VolumeId": volume }));
    let policy = &described["Policies"][0]["PolicyId"];
    give(BOB);
    let mut given = give(ALICE);
    let mut knocks = people::Person::start(ALICE);
    let mut admitted = || {
        wait::until_true("a grant to count", wait::PATIENCE, || {
            knocks.does(&["stat", text(&files[0])]).starts_with("ok")
        });
    };
    admitted();
    let board = Board::new(world.path("board"));
    let mut readers = readers(&board, &files);
    let writers: Vec<_> = (READERS..READERS + WRITERS)
        .map(|number| Busy::start(BOB, &board, number, "write", &files))
        .collect();
    let kills = |trial: u64| trial.is_multiple_of(10);
    for trial in 1..=trials() {
        board.put(0, trial);
        board.wait(0..READERS + WRITERS, 0, trial);
        // At another moment each time.
        std::thread::sleep(Duration::from_micros(trial * 7919 % 9000));
        world.call("RevokeGrant", &json!({"KeyId": key, "GrantId": given}));
        board.put(8, trial);
        if kills(trial) {
            for reader in &mut readers {
                let status = reader.0.wait().unwrap();
                assert_eq!(status.signal(), Some(libc::SIGKILL));
            }
        } else {
            board.wait(0..READERS, 1, trial);
        }
        check(&board, trial, Some(ALICE), &mount);
        if kills(trial) != kills(trial + 1) {
            let mode = if kills(trial + 1) { "KILL" } else { "STALE" };
            let body = json!({"VolumeId": volume, "PolicyId": policy, "RevokeMode": mode});
            world.call_local("UpdatePolicy", &body);
        }
        given = give(ALICE);
        admitted();
        if kills(trial) {
            readers = self::readers(&board, &files);
        }
    }
    for number in 0..READERS + WRITERS {
        assert!(
            board.of(number, 3) > trials(),
            "number {number} did nothing"
        );
    }
    drop((readers, writers, knocks));
    mount.unmount();
}

fn readers(board: &Board, files: &[PathBuf]) -> Vec<Busy> {
    (0..READERS)
        .map(|number| Busy::start(ALICE, board, number, "read", files))
        .collect()
}

fn check(board: &Board, trial: u64, user: Option<u32>, mount: &Mount) {
    for number in 0..READERS {
        let late = board.of(number, 2);
        let way = usize::try_from(board.of(number, 4)).unwrap();
        assert!(
            late == 0,
            "trial {trial} (user {user:?}): reader {number} was given something {late} times, last by {}\n{}",
            WAYS[way],
            mount.log()
        );
    }
}
