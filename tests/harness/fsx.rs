//! fsx 0.3.2: random operations on one file, compared with a model in memory after each. The same configuration and seed make
//! the same operations.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::tools::cargo_tool;

/// The configuration of an fsx on a file of at most `length` bytes, with operations of at most `largest` bytes.
pub fn configuration(length: u32, largest: u32) -> String {
    format!(
        "flen = {length}\n[opsize]\nmin = 1\nmax = {largest}\n[weights]\nclose_open = 1\nread = 10\nwrite = 10\n\
         mapread = 10\nmapwrite = 10\ninvalidate = 1\ntruncate = 5\nfsync = 1\nfdatasync = 1\n\
         posix_fallocate = 2\npunch_hole = 2\nsendfile = 2\nposix_fadvise = 1\ncopy_file_range = 3\n"
    )
}

/// What fsx says when it has found something wrong, other than an operation that failed: that may be because the mount is gone.
const FINDINGS: [&str; 3] = ["miscompare", "Mapped non-zero data past EoF", "Size error:"];

/// An fsx that runs until its file cannot be used any more.
pub struct Fsx {
    tool: PathBuf,
    configuration: PathBuf,
    seed: u64,
    log: PathBuf,
    child: Child,
}

impl Fsx {
    /// Begins with a new file at `path`. Configuration, log and what fsx leaves of an error are in `folder`, under `name`.
    #[track_caller]
    pub fn start(
        path: &Path,
        folder: &Path,
        name: &str,
        (length, largest): (u32, u32),
        seed: u64,
    ) -> Fsx {
        let tool = cargo_tool("fsx");
        let file = folder.join(format!("{name}.toml"));
        fs::write(&file, configuration(length, largest)).expect("write the configuration");
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).expect("make the log");
        let child = Command::new(&tool)
            // Each operation has a line before it begins.
            .args(["-vv", "-S", &seed.to_string(), "-f"])
            .arg(&file)
            .arg("-P")
            .arg(folder)
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("start fsx");
        Fsx {
            tool,
            configuration: file,
            seed,
            log,
            child,
        }
    }

    /// How many operations have begun.
    pub fn begun(&self) -> u64 {
        last_step(&fs::read_to_string(&self.log).expect("read the log"))
    }

    /// Fails if fsx has come to an end by itself.
    #[track_caller]
    pub fn assert_running(&mut self) {
        let ended = self.child.try_wait().expect("ask for the state of fsx");
        assert!(ended.is_none(), "fsx ended: {ended:?}\n{}", self.said());
    }

    /// Ends it in the middle of what it does, if it has not ended because its file cannot be used any more, and fails if it had found
    /// something wrong. Gives what is in its file if the last operation that it began did nothing, and if that did everything.
    /// `folder` is on a file system that nobody doubts.
    #[track_caller]
    pub fn end(mut self, folder: &Path) -> [Vec<u8>; 2] {
        // After an error within sendfile it waits for ever for the rest of what it sent to itself.
        self.child.kill().expect("end fsx");
        let status = self.child.wait().expect("wait for fsx");
        let said = fs::read_to_string(&self.log).expect("read the log");
        let found = FINDINGS.iter().any(|finding| said.contains(finding));
        assert!(!status.success() && !found, "{status}\n{}", self.said());
        let begun = last_step(&said);
        [begun.saturating_sub(1), begun].map(|operations| self.again(operations, folder))
    }

    /// What is in a file after this many operations.
    fn again(&self, operations: u64, folder: &Path) -> Vec<u8> {
        let path = folder.join("again");
        let output = Command::new(&self.tool)
            .args(["-S", &self.seed.to_string(), "-f"])
            .arg(&self.configuration)
            .args(["-N", &operations.to_string(), "-P"])
            .arg(folder)
            .arg(&path)
            .output()
            .expect("start fsx");
        assert!(
            output.status.success(),
            "fsx on a plain file: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        fs::read(path).expect("read the plain file")
    }

    fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "fsx with {}, seed {}:\n{}",
            self.configuration.display(),
            self.seed,
            lines[lines.len().saturating_sub(60)..].join("\n")
        )
    }
}

impl Drop for Fsx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number of the last operation that has a line: `[INFO  fsx] 17 write ...`.
fn last_step(log: &str) -> u64 {
    let step = |line: &str| {
        let (_, said) = line.split_once("fsx] ")?;
        // Among what follows an error are the operations of before once more.
        let number = said.split_whitespace().next()?.parse().ok();
        number.filter(|_| !line.starts_with("[ERROR"))
    };
    // A line that is being written has no end yet.
    let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
    whole.lines().rev().find_map(step).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_by_whole_lines() {
        assert_eq!(last_step(""), 0);
        assert_eq!(last_step("[INFO  fsx] 1 wri"), 0);
        let log = "[DEBUG fsx] Using seed 7\n[INFO  fsx]     41 write    0x1 .. 0x2 (0x2 bytes)\n[DEBUG fsx]   \
                   42 skipping zero size read\nthread 'main' panicked\n[INFO  fsx] 43";
        assert_eq!(last_step(log), 42);
    }

    /// The same operations, whether or not somebody watches, and what fsx does not do by itself.
    #[test]
    fn what_an_fsx_did_can_be_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut fsx = Fsx::start(&path, folder.path(), "one", (20_000, 3_000), 11);
        while fsx.begun() < 200 {
            fsx.assert_running();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let [before, after] = fsx.end(folder.path());
        let found = fs::read(&path).unwrap();
        assert!(found.len() == before.len() || found.len() == after.len());
        for (at, byte) in found.iter().enumerate() {
            let of = |content: &[u8]| content.get(at).copied().unwrap_or(0);
            assert!(*byte == of(&before) || *byte == of(&after), "byte {at}");
        }
    }
}
