//! A host booted by a real systemd: `systemd-nspawn` over a throw-away overlay of this machine's root.
//!
//! Everything installed here is there, every write goes to a tmpfs and vanishes. The overlay's base is
//! a bind mount made in a mount namespace of its own, so that nothing done in the test's namespace, a
//! removal of the temporary folder included, can reach through it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::process::Process;
use crate::wait;

/// A booted host. Dropping it cuts its power.
pub struct Host {
    init: Pid,
    container: Process,
    cgroups: Vec<PathBuf>,
    fuse_mode: Option<u32>,
    _folder: TempDir,
}

impl Host {
    /// Boots a host with its own loopback network and `/dev/fuse`, and waits until systemd is up.
    ///
    /// This machine's own enabled services start in it too and may fail there; a test looks at the units
    /// it brought.
    pub fn boot(name: &str) -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{}-{number}", std::process::id());
        let folder = tempfile::Builder::new()
            .prefix("kms-host-")
            .tempdir()
            .expect("a folder");
        let base = folder.path().join("base");
        fs::create_dir(&base).expect("make the base");

        // nspawn makes its payload and supervisor groups beside its own: two hosts must not share one.
        let cgroups = cgroup_roots()
            .into_iter()
            .map(|root| root.join(&name))
            .collect::<Vec<_>>();
        let mut script = String::from("set -e\n");
        for cgroup in &cgroups {
            fs::create_dir_all(cgroup).expect("make a cgroup");
            script += &format!("echo $$ > {}/cgroup.procs\n", cgroup.display());
        }
        // nspawn refuses the root directory itself under --volatile=overlay. With no terminal it starts
        // its PID 1 but never reaches a target: script(1) gives it one.
        script += &format!(
            "mount --bind / {base}\n\
             exec setsid script -qfc 'exec systemd-nspawn -D {base} --volatile=overlay --boot \
             --register=no --keep-unit --link-journal=no --machine={name} --private-network \
             --bind=/dev/fuse' {console}\n",
            base = base.display(),
            console = folder.path().join("console").display(),
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        // The guest's tmpfiles change the mode of the node, which is this machine's own.
        let fuse_mode = fs::metadata("/dev/fuse")
            .ok()
            .map(|meta| meta.permissions().mode());
        let mut container = Process::start("nspawn", &mut command, &folder.path().join("log"));

        let init = wait::until("the host's PID 1", wait::PATIENCE, || {
            container.assert_running();
            init_below(container.pid())
        });
        let host = Host {
            init,
            container,
            cgroups,
            fuse_mode,
            _folder: folder,
        };
        wait::until_true(
            "the host's systemd being up",
            Duration::from_secs(120),
            || {
                let output = host.run_raw(&["systemctl", "is-system-running"]);
                let state = String::from_utf8_lossy(&output.stdout);
                matches!(state.trim(), "running" | "degraded")
            },
        );
        host
    }

    /// Runs a command in the host; whatever comes of it.
    pub fn run_raw(&self, command: &[&str]) -> Output {
        Command::new("nsenter")
            .args([
                "-t",
                &self.init.as_raw_nonzero().to_string(),
                "-m",
                "-u",
                "-i",
                "-n",
                "-p",
                "-C",
            ])
            .args(command)
            .output()
            .expect("start nsenter")
    }

    /// Runs a command in the host that must succeed, and gives its output.
    pub fn run(&self, command: &[&str]) -> String {
        let output = self.run_raw(command);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "in the host, {command:?}: {}\n{stdout}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        stdout
    }

    /// A line of shell in the host, which must succeed.
    pub fn sh(&self, line: &str) -> String {
        self.run(&["sh", "-c", line])
    }

    /// Writes a file into the host's root.
    pub fn install(&self, path: &str, content: &[u8], mode: u32) {
        let path = self.inner(path);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("make the folder");
        fs::write(&path, content).expect("write into the host");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set the mode");
    }

    /// The journal of a unit, for messages of failing tests.
    pub fn journal(&self, unit: &str) -> String {
        let output = self.run_raw(&["journalctl", "--no-pager", "-o", "cat", "-u", unit]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Where a path of the host is in this machine's view.
    fn inner(&self, path: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.init.as_raw_nonzero());
        Path::new(&root).join(path.trim_start_matches('/'))
    }

    /// Shuts the host down in order, and says how it went.
    pub fn power_off(&mut self) {
        self.run_raw(&["systemctl", "poweroff"]);
        self.container.wait(Duration::from_secs(120));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.container.ended().is_none() {
            let _ = rustix::process::kill_process(self.init, Signal::KILL);
            self.container.wait(wait::PATIENCE);
        }
        if let Some(mode) = self.fuse_mode {
            let _ = fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(mode));
        }
        for cgroup in &self.cgroups {
            remove_cgroup(cgroup);
        }
    }
}

/// The hierarchies that nspawn makes groups in: systemd's own and the unified one of a hybrid machine,
/// or the only one of a machine with cgroup v2 alone.
fn cgroup_roots() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.procs").exists() {
        return vec![root.to_path_buf()];
    }
    ["systemd", "unified"]
        .iter()
        .map(|name| root.join(name))
        .filter(|path| path.is_dir())
        .collect()
}

/// Removes a cgroup and those below it; they are empty once the last process is reaped.
fn remove_cgroup(cgroup: &Path) {
    if let Ok(entries) = fs::read_dir(cgroup) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    for _ in 0..100 {
        if fs::remove_dir(cgroup).is_ok() || !cgroup.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process below `pid` that is PID 1 of a namespace of its own.
fn init_below(pid: Pid) -> Option<Pid> {
    children(pid).into_iter().find_map(|child| {
        let status = fs::read_to_string(format!("/proc/{}/status", child.as_raw_nonzero())).ok()?;
        let nested = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        let mut ids = nested.split_whitespace().rev();
        if ids.next() == Some("1") && ids.next().is_some() {
            return Some(child);
        }
        init_below(child)
    })
}

fn children(pid: Pid) -> Vec<Pid> {
    let list = format!("/proc/{0}/task/{0}/children", pid.as_raw_nonzero());
    let list = fs::read_to_string(list).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|id| Pid::from_raw(id.parse().ok()?))
        .collect()
}
