//! PostgreSQL: initdb, pgbench, SIGKILL of the whole server and of kmsfs below it, recovery, and nothing lost.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::process::Process;
use kms_tests::require::{self, output_of};
use kms_tests::wait;
use rustix::process::{Pid, Signal};

use crate::{MODES, Volume, machine_can};

/// The programs of the newest installed version.
fn programs() -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is not installed: run scripts/deps.sh programs")
        .map(|entry| entry.unwrap().path().join("bin"))
        .filter(|bin| bin.join("postgres").is_file())
        .collect();
    versions.sort();
    versions.pop().expect("a version with a server")
}

/// User and group of the server, which refuses to be root.
fn user() -> (u32, u32) {
    let id = |what: &str| -> u32 {
        let printed = output_of(Command::new("id").args([what, "postgres"]));
        printed.trim().parse().unwrap()
    };
    (id("-u"), id("-g"))
}

struct Cluster {
    volume: Volume,
    bin: PathBuf,
    user: (u32, u32),
    server: Option<Process>,
}

impl Cluster {
    fn new(mode: &'static str) -> Cluster {
        let volume = Volume::new(mode);
        let (bin, user) = (programs(), user());
        // The server's user passes through the folder of the test.
        let open = fs::Permissions::from_mode(0o711);
        fs::set_permissions(volume.world.path(""), open).unwrap();
        let cluster = Cluster {
            volume,
            bin,
            user,
            server: None,
        };
        for folder in [cluster.data(), cluster.sockets()] {
            fs::create_dir(&folder).unwrap();
            chown(&folder, Some(user.0), Some(user.1)).unwrap();
        }
        let data = cluster.data();
        output_of(
            cluster
                .command("initdb")
                .args(["-k", "-E", "UTF8", "--locale=C", "-A", "trust", "-D"])
                .arg(&data),
        );
        let more = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nshared_buffers = 8MB\n\
             max_wal_size = 64MB\nmax_connections = 20\n",
            cluster.sockets().display()
        );
        fs::write(data.join("postgresql.auto.conf"), more).unwrap();
        cluster
    }

    fn data(&self) -> PathBuf {
        self.volume.point().join("data")
    }

    fn sockets(&self) -> PathBuf {
        self.volume.world.path("sockets")
    }

    fn log(&self) -> PathBuf {
        self.volume.world.path("postgres.log")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .uid(self.user.0)
            .gid(self.user.1)
            .current_dir("/")
            .env("PGHOST", self.sockets())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    fn query(&self, sql: &str) -> Option<String> {
        let output = self.command("psql").args(["-XAtqc", sql]).output().unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    #[track_caller]
    fn number(&self, sql: &str) -> i64 {
        let answer = self.query(sql);
        let answer =
            answer.unwrap_or_else(|| panic!("{sql}: no answer; the log:\n{}", self.log_text()));
        answer.parse().unwrap()
    }

    fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Starts the server and waits until it takes queries: recovery is over then.
    #[track_caller]
    fn start(&mut self) {
        let data = self.data();
        let mut command = self.command("postgres");
        command.arg("-D").arg(&data);
        let mut server = Process::start("postgres", &mut command, &self.log());
        wait::until_true("PostgreSQL answering", wait::PATIENCE * 2, || {
            server.assert_running();
            self.query("SELECT 1").is_some()
        });
        self.server = Some(server);
    }

    /// SIGKILL for all of its processes, as if at once: the first one is stopped, so that it starts no others and orders no end.
    fn kill(&mut self) {
        let mut server = self.server.take().expect("it runs");
        server.signal(Signal::STOP);
        let children = children(server.pid());
        for child in &children {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(*child, Signal::KILL);
        }
        server.kill();
        wait::until_true("the server's processes being gone", wait::PATIENCE, || {
            children
                .iter()
                .all(|child| !Path::new(&format!("/proc/{}/stat", child.as_raw_nonzero())).exists())
        });
    }

    /// pgbench at work, until so many more transactions are committed.
    #[track_caller]
    fn load(&mut self, more: i64) -> (Process, i64) {
        let count = "SELECT count(*) FROM pgbench_history";
        let goal = self.number(count) + more;
        let mut command = self.command("pgbench");
        command.args(["-n", "-c", "4", "-t", "1000000"]);
        let bench = Process::start(
            "pgbench",
            &mut command,
            &self.volume.world.path("pgbench.log"),
        );
        let seen = wait::until("transactions of pgbench", wait::PATIENCE * 2, || {
            Some(self.number(count)).filter(|seen| *seen >= goal)
        });
        (bench, seen)
    }

    /// What pgbench's transactions keep equal, the indexes, and the number of transactions that others have seen.
    #[track_caller]
    fn check(&self, seen: i64) {
        let sum = |table: &str, column: &str| {
            self.number(&format!(
                "SELECT coalesce(sum({column}), 0) FROM pgbench_{table}"
            ))
        };
        let history = sum("history", "delta");
        let (accounts, branches, tellers) = (
            sum("accounts", "abalance"),
            sum("branches", "bbalance"),
            sum("tellers", "tbalance"),
        );
        assert_eq!((accounts, branches, tellers), (history, history, history));
        let count = self.number("SELECT count(*) FROM pgbench_history");
        assert!(
            count >= seen,
            "{seen} transactions were committed, {count} are there"
        );
        output_of(self.command("pg_amcheck").args([
            "--install-missing",
            "--heapallindexed",
            "postgres",
        ]));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.kill();
        }
    }
}

fn children(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero().to_string();
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // pid (name) state ppid ...: the name may hold anything but is in parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        (rest.split_whitespace().nth(1)? == parent).then(|| Pid::from_raw(pid))?
    })
    .collect()
}

#[test]
fn recovers_after_kills_of_itself_and_of_kmsfs() {
    if !machine_can() {
        return;
    }
    let rounds = if require::full() { 10 } else { 2 };
    for mode in MODES {
        let mut cluster = Cluster::new(mode);
        cluster.start();
        output_of(cluster.command("pgbench").args(["-i", "-q", "-s", "1"]));
        let mut seen = 0;
        for round in 0..rounds {
            let (mut bench, now) = cluster.load(200 + 150 * round);
            seen = now.max(seen);
            cluster.kill();
            bench.kill();
            cluster.start();
            cluster.check(seen);

            let (mut bench, now) = cluster.load(100 + 130 * round);
            seen = now.max(seen);
            cluster.volume.kill();
            cluster.kill();
            bench.kill();
            cluster.volume.mount();
            cluster.start();
            cluster.check(seen);
        }
        assert!(
            cluster
                .log_text()
                .contains("automatic recovery in progress")
        );
        // A clean end, and every page's checksum over a new mount.
        cluster
            .server
            .as_mut()
            .expect("it runs")
            .signal(Signal::INT);
        let status = cluster.server.take().expect("it runs").wait(wait::PATIENCE);
        assert!(status.success(), "{status}: {}", cluster.log_text());
        cluster.volume.remount();
        let data = cluster.data();
        output_of(
            cluster
                .command("pg_checksums")
                .arg("--check")
                .arg("-D")
                .arg(&data),
        );
        cluster.start();
        cluster.check(seen);
        cluster.kill();
    }
}
