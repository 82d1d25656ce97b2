//! A mounted kmsfs.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::{programs, wait};

/// A mount that is served by a process of its own. Dropping it unmounts and kills.
pub struct Mount {
    /// Where the plain text appears.
    pub point: PathBuf,
    /// The encrypted directory.
    pub lower: PathBuf,
    process: Process,
}

impl Mount {
    /// Mounts `lower` on `point` and waits until it is there.
    pub fn start(lower: &Path, point: &Path, socket: &Path, options: &[&str]) -> Mount {
        Mount::start_under(&[], lower, point, socket, options)
    }

    /// The same with kmsfs started by another program, `under`, that becomes it or runs beside it.
    pub fn start_under(
        under: &[&str],
        lower: &Path,
        point: &Path,
        socket: &Path,
        options: &[&str],
    ) -> Mount {
        std::fs::create_dir_all(point).expect("make the mount point");
        let log = point.with_extension("log");
        let program = programs::path("kmsfs");
        let mut command = match under {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command
            .args(["mount", "--foreground", "--socket"])
            .arg(socket);
        for option in options {
            command.args(["-o", option]);
        }
        command.arg(lower).arg(point);
        let process = Process::start("kmsfs", &mut command, &log);
        let mut mount = Mount {
            point: point.to_path_buf(),
            lower: lower.to_path_buf(),
            process,
        };
        wait::until_true("the mount", wait::PATIENCE, || {
            mount.process.assert_running();
            is_mounted(&mount.point)
        });
        mount
    }

    /// A path below the mount.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.point.join(below)
    }

    /// What kmsfs logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The id of the process that serves the mount.
    pub fn pid(&self) -> rustix::process::Pid {
        self.process.pid()
    }

    /// The process that serves the mount.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Unmounts as a user would, and waits for a clean end of the process.
    #[track_caller]
    pub fn unmount(mut self) {
        if let Err(error) = unmount(&self.point) {
            panic!("unmounting: {error}\n{}", self.log());
        }
        let status = self.process.wait(wait::PATIENCE);
        assert!(
            status.success(),
            "kmsfs ended with {status} after the unmount:\n{}",
            self.log()
        );
    }

    /// SIGKILL in the middle of whatever it does; the dead mount is taken away.
    pub fn kill(mut self) {
        self.process.kill();
        detach(&self.point);
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) {
        let root = File::open(&self.point).expect("open the mount point");
        rustix::fs::syncfs(root).expect("syncfs");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_mounted(&self.point) {
            detach(&self.point);
        }
        // The process is killed by its own drop.
    }
}

/// True when something is mounted on `point`, dead or alive.
pub fn is_mounted(point: &Path) -> bool {
    let parent = point.parent().and_then(|parent| parent.metadata().ok());
    match (point.metadata(), parent) {
        (Ok(own), Some(parent)) => own.dev() != parent.dev(),
        // ENOTCONN: the mount of a process that is gone; EACCES: that of another user.
        (Err(error), _) => [rustix::io::Errno::NOTCONN, rustix::io::Errno::ACCESS]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())),
        (Ok(_), None) => false,
    }
}

/// `fusermount3 -u`, with what it says if it fails.
///
/// A test that runs beside this one may be starting a program just now: until that program's exec, the
/// child holds a copy of every descriptor of this process, files in the mount among them. So "busy" is
/// tried again for a while.
pub fn unmount(point: &Path) -> Result<(), String> {
    let deadline = Instant::now() + wait::PATIENCE;
    loop {
        let output = Command::new("fusermount3")
            .arg("-u")
            .arg(point)
            .output()
            .expect("start fusermount3");
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !said.contains("busy") || Instant::now() > deadline {
            return Err(said);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn detach(point: &Path) {
    let _ = Command::new("fusermount3")
        .args(["-u", "-z", "-q"])
        .arg(point)
        .status();
    wait::until_true("the mount being gone", wait::PATIENCE, || {
        !is_mounted(point)
    });
}
