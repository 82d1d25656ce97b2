//! How long ending access takes while files are open: `make bench-revoke`, part of `make bench`.
//!
//! A mount with swtpm, kmsd and kmsfs of a release build; a user has 1,000 files of 64 KiB open and in the page cache, half of
//! them mapped, and another user has every tenth open too. Each round ends the access over the control socket, gives it back,
//! and has the user open everything again. Two figures: until nobody gets one more byte, and until the command has its answer,
//! for which kmsfs also looks up who has something open.
//!
//! usage: cargo bench -p kms-tests --bench revoke -- [--rounds N] [--files N]

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends with the reason"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio};
use std::time::{Duration, Instant};

use kms_tests::require;
use kms_tests::world::World;
use kmsfs::control::client;
use kmsfs::control::protocol::{Answer, Command};

const ALICE: u32 = 3001;
const BOB: u32 = 3002;

/// Opens, reads and maps files for each line, then says so.
const OPENER: &str = "
import mmap, os, sys
folder, step = sys.argv[1], int(sys.argv[2])
held = []
for line in sys.stdin:
    for file, shown in held:
        os.close(file)
    held = []
    for number, name in enumerate(sorted(os.listdir(folder))):
        if number % step == 0:
            file = os.open(f'{folder}/{name}', os.O_RDWR if step > 1 else os.O_RDONLY)
            os.pread(file, 1 << 16, 0)
            shown = mmap.mmap(file, 4096, prot=mmap.PROT_READ) if number % 2 else None
            if shown:
                shown[0]
            held.append((file, shown))
    print('ok', flush=True)
";

struct Opener {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Opener {
    fn start(uid: u32, folder: &Path, step: usize) -> Opener {
        let uid = uid.to_string();
        let mut child = Process::new("setpriv")
            .args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"])
            .args(["/usr/bin/python3", "-c", OPENER])
            .arg(folder)
            .arg(step.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Opener {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn open_all(&mut self) {
        writeln!(self.input).unwrap();
        let mut said = String::new();
        self.output.read_line(&mut said).unwrap();
        assert_eq!(said, "ok\n", "a process that opens files ended");
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() {
    let (mut rounds, mut files) = (50_usize, 1000_usize);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number = |value: Option<String>| value.and_then(|value| value.parse().ok());
        match argument.as_str() {
            "--rounds" => rounds = number(arguments.next()).expect("--rounds N"),
            "--files" => files = number(arguments.next()).expect("--files N"),
            // Of cargo.
            "--bench" => {}
            other => panic!("{other}: not an argument of this benchmark"),
        }
    }
    if !(require::fuse() && require::tpm() && require::as_root()) {
        return;
    }
    let world = World::start();
    world.key("alias/bench");
    let lower = world.volume("bench", "alias/bench");
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(world.path(""), everybody).unwrap();
    let socket = world.path("control");
    let control = format!("control={}", socket.display());
    let mount = world.mount_with(&lower, &["allow_other,access=mounter", &control]);
    std::fs::set_permissions(&mount.point, std::fs::Permissions::from_mode(0o777)).unwrap();
    for number in 0..files {
        let path = mount.path(format!("file-{number:06}"));
        std::fs::write(&path, vec![7; 64 << 10]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    }
    println!("Ending access with {files} open files, {rounds} rounds; milliseconds");
    println!("{:33} {:>8} {:>8} {:>8}", "", "median", "p99", "worst");
    for (name, user) in [
        ("one user (stale)", Some(ALICE)),
        ("everybody (lock)", None),
    ] {
        let mut alice = Opener::start(ALICE, &mount.point, 1);
        let mut bob = Opener::start(BOB, &mount.point, 10);
        let took: Vec<[f64; 2]> = (0..rounds)
            .map(|_| {
                alice.open_all();
                bob.open_all();
                let begin = Instant::now();
                let answer = ask(
                    &socket,
                    &Command::Lock {
                        path: Vec::new(),
                        user,
                        kill: false,
                    },
                );
                let whole = begin.elapsed().as_secs_f64() * 1e3;
                let ended = match answer {
                    Answer::Locked(locked) if locked.files >= files => locked.milliseconds,
                    answer => panic!("{answer:?}"),
                };
                ask(
                    &socket,
                    &Command::Unlock {
                        path: Vec::new(),
                        user,
                    },
                );
                [ended as f64, whole]
            })
            .collect();
        for (which, what) in ["no more bytes", "answered"].into_iter().enumerate() {
            let mut took: Vec<f64> = took.iter().map(|both| both[which]).collect();
            took.sort_by(f64::total_cmp);
            let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize];
            let (median, p99, worst) = (at(0.5), at(0.99), at(1.0));
            println!("{name:18} {what:14} {median:8.1} {p99:8.1} {worst:8.1}");
        }
    }
    drop(mount);
}

fn ask(socket: &Path, command: &Command) -> Answer {
    client::ask(socket, command, Duration::from_secs(60)).unwrap()
}
