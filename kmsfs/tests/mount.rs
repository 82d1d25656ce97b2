//! Real mounts by the real program: coming up, being used, going away.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[path = "support/kmsd.rs"]
#[allow(dead_code, reason = "shared with the tests of the keys")]
mod kmsd;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use kms_api::ErrorCode;
use kms_api::client::Client;
use kms_format::ContentMode;
use kmsfs::control::client::{ask, socket_of};
use kmsfs::control::protocol::{Answer, Command as Control};
use kmsfs::mount::table;

use kmsd::{FakeKmsd, Mood};

const PATIENCE: Duration = Duration::from_secs(20);

/// An initialised lower directory, a kmsd, and a place to mount.
struct Volume {
    folder: tempfile::TempDir,
    server: Arc<FakeKmsd>,
}

impl Volume {
    fn new() -> Volume {
        let folder = tempfile::tempdir().unwrap();
        // Other users go through it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["lower", "mount"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let server = FakeKmsd::start(folder.path().join("kmsd.sock"));
        let volume = Volume { folder, server };
        let client = Client::new(&volume.server.socket);
        kmsfs::init::init(&client, &volume.lower(), "alias/a", "", ContentMode::Xts).unwrap();
        volume
    }

    fn lower(&self) -> PathBuf {
        self.folder.path().join("lower")
    }

    fn point(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.point().join(name)
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
        command
            .arg("mount")
            .arg("--socket")
            .arg(&self.server.socket);
        command.arg("--control").arg(self.control());
        command.arg("--log").arg(self.folder.path().join("log"));
        command.args(options).arg(self.lower()).arg(self.point());
        command
    }

    /// In the background: returns when the program says that the mount can be used.
    fn daemon(&self, options: &[&str]) -> Output {
        self.command(options).output().unwrap()
    }

    fn mount(&self, options: &[&str]) {
        let output = self.daemon(options);
        assert!(output.status.success(), "{}{}", text(&output), self.log());
    }

    fn foreground(&self, options: &[&str]) -> Running {
        let child = self
            .command(options)
            .arg("--foreground")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let running = Running(child);
        wait_until("the mount", || self.is_mounted() && self.control().exists());
        running
    }

    fn is_mounted(&self) -> bool {
        table::mounted_at(&self.point().canonicalize().unwrap())
            .unwrap()
            .is_some()
    }

    fn unmount(&self) {
        // Busy for a moment while a test beside this one starts a program: until its exec, the child
        // holds a copy of this process's descriptors.
        wait_until("the unmount", || {
            Command::new("fusermount3")
                .args(["-u", "-q"])
                .arg(self.point())
                .status()
                .unwrap()
                .success()
        });
        wait_until("the end", || !self.control().exists());
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        drop(
            Command::new("fusermount3")
                .args(["-u", "-z", "-q"])
                .arg(self.point())
                .status(),
        );
    }
}

struct Running(Child);

impl Running {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn status(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "kmsfs does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn the_command_returns_when_the_mount_can_be_used_and_the_data_outlives_it() {
    let volume = Volume::new();
    volume.mount(&[]);
    fs::write(volume.path("file"), "content").unwrap();
    volume.unmount();
    assert!(!volume.path("file").exists());
    volume.mount(&[]);
    assert_eq!(fs::read_to_string(volume.path("file")).unwrap(), "content");
    volume.unmount();
}

#[test]
fn a_refused_root_key_is_said_at_mount_time() {
    let volume = Volume::new();
    *volume.server.mood.lock() = Mood::Refuse(ErrorCode::Disabled);
    let output = volume.daemon(&[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(
        said.contains("DisabledException") && said.contains("kmsctl key enable"),
        "{said}"
    );
    assert!(!volume.is_mounted());
}

#[test]
fn an_absent_kmsd_and_a_wrong_directory_are_said_too() {
    let volume = Volume::new();
    volume.server.disappear();
    let output = volume.daemon(&["-o", "key_wait=0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("kmsd does not answer"),
        "{}",
        text(&output)
    );
    fs::remove_file(volume.lower().join(".kmsfs.volume")).unwrap();
    let output = volume.daemon(&[]);
    assert!(
        text(&output).contains("not a kmsfs volume"),
        "{}",
        text(&output)
    );
    let output = volume.daemon(&["-o", "nonsense"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_second_mount_of_the_same_directory_is_refused_and_names_the_first() {
    let volume = Volume::new();
    let running = volume.foreground(&[]);
    let other = volume.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_kmsfs"))
        .arg("mount")
        .arg("--socket")
        .arg(&volume.server.socket)
        .args([volume.lower(), other])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(
        said.contains(&format!("process {}", running.0.id())),
        "{said}"
    );
    assert!(said.contains(volume.point().to_str().unwrap()), "{said}");
}

#[test]
fn a_copy_mounted_beside_the_original_is_asked_at_a_socket_of_its_own() {
    let original = Volume::new();
    let copy = Volume::new();
    for name in [".kmsfs", ".kmsfs.volume"] {
        fs::copy(original.lower().join(name), copy.lower().join(name)).unwrap();
    }
    let answers = |volume: &Volume| {
        let mount = table::mounted_at(&volume.point().canonicalize().unwrap()).unwrap();
        let socket = socket_of(&mount.unwrap()).unwrap().unwrap();
        match ask(&socket, &Control::Status, PATIENCE).unwrap() {
            Answer::Status(status) => status.lower,
            _ => panic!("not a status"),
        }
    };
    original.mount(&[]);
    copy.mount(&[]);
    assert_eq!(answers(&original), original.lower());
    assert_eq!(answers(&copy), copy.lower());
    copy.unmount();
    assert_eq!(answers(&original), original.lower());
    original.unmount();
}

#[test]
fn sigterm_and_fusermount_end_it_cleanly() {
    let volume = Volume::new();
    let mut running = volume.foreground(&[]);
    fs::write(volume.path("one"), "1").unwrap();
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.status(), 0, "{}", volume.log());
    assert!(!volume.is_mounted() && !volume.control().exists());

    let mut running = volume.foreground(&[]);
    assert_eq!(fs::read_to_string(volume.path("one")).unwrap(), "1");
    volume.unmount();
    assert_eq!(running.status(), 0, "{}", volume.log());
}

#[test]
fn a_busy_mount_leaves_the_tree_and_its_users_keep_their_files() {
    let volume = Volume::new();
    let mut running = volume.foreground(&[]);
    let mut file = File::create(volume.path("busy")).unwrap();
    running.signal(rustix::process::Signal::TERM);
    wait_until("the lazy unmount", || !volume.is_mounted());
    file.write_all(b"still here").unwrap();
    drop(file);
    assert_eq!(running.status(), 0);
    let log = volume.log();
    assert!(log.contains(&format!("{} (", std::process::id())), "{log}");
    volume.mount(&[]);
    assert_eq!(
        fs::read_to_string(volume.path("busy")).unwrap(),
        "still here"
    );
}

#[test]
fn appends_direct_and_mapped_access_and_truncation_see_the_same_file() {
    let volume = Volume::new();
    volume.mount(&[]);
    let path = volume.path("file");
    let pattern: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(&path, &pattern).unwrap();
    let mut append = OpenOptions::new().append(true).open(&path).unwrap();
    append.write_all(b"appended").unwrap();
    let mut content = fs::read(&path).unwrap();
    assert_eq!(content.split_off(pattern.len()), b"appended");
    assert_eq!(content, pattern);

    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .unwrap();
    let mut block = vec![0_u8; 8192];
    let start = block.as_ptr().align_offset(4096);
    let block = block.get_mut(start..start + 4096).unwrap();
    direct.read_exact_at(block, 4096).unwrap();
    assert_eq!(block, pattern.get(4096..8192).unwrap());
    block.fill(b'd');
    direct.write_all_at(block, 8192).unwrap();
    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::Start(8190)).unwrap();
    let mut seen = [0; 4];
    file.read_exact(&mut seen).unwrap();
    assert_eq!(seen.get(2..), Some(&b"dd"[..]));

    // cmp maps both files when it can; what matters is that a program run from the mount works.
    fs::copy("/bin/true", volume.path("program")).unwrap();
    assert!(
        Command::new(volume.path("program"))
            .status()
            .unwrap()
            .success()
    );

    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn other_users_own_what_they_make_and_lose_set_user_id_bits() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let volume = Volume::new();
    volume.mount(&["-o", "allow_other,access=mounter"]);
    fs::set_permissions(volume.point(), fs::Permissions::from_mode(0o1777)).unwrap();
    let as_nobody = |script: &str| {
        let output = Command::new("/bin/sh")
            .args(["-c", script])
            .current_dir(volume.point())
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {}", text(&output));
    };
    as_nobody("umask 027; mkdir d; echo x > d/f; ln -s t d/l; mkfifo d/p");
    for (name, mode) in [("d", 0o750), ("d/f", 0o640), ("d/p", 0o640)] {
        let made = fs::symlink_metadata(volume.path(name)).unwrap();
        assert_eq!((made.uid(), made.gid()), (65534, 65534), "{name}");
        assert_eq!(made.mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(
        fs::symlink_metadata(volume.path("d/l")).unwrap().uid(),
        65534
    );

    for (name, change) in [("write", "echo y >> write"), ("trunc", ": > trunc")] {
        let path = volume.path(name);
        fs::write(&path, "root's").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        as_nobody(change);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7000, 0, "{name}");
    }
}

#[test]
fn a_directory_of_many_lists_each_name_once_with_its_attributes() {
    let volume = Volume::new();
    volume.mount(&[]);
    let directory = volume.path("many");
    fs::create_dir(&directory).unwrap();
    for number in 0..1500 {
        fs::write(directory.join(format!("name-{number}")), vec![b'x'; number]).unwrap();
    }
    volume.unmount();
    volume.mount(&[]);
    let mut seen = vec![false; 1500];
    for item in fs::read_dir(&directory).unwrap() {
        let item = item.unwrap();
        let name = item.file_name().into_string().unwrap();
        let number: usize = name.strip_prefix("name-").unwrap().parse().unwrap();
        assert_eq!(item.metadata().unwrap().len(), number as u64);
        assert!(
            !std::mem::replace(seen.get_mut(number).unwrap(), true),
            "{name} twice"
        );
    }
    assert!(seen.iter().all(|seen| *seen));
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let volume = Volume::new();
    volume.mount(&[]);
    fs::write(volume.path("file"), "x").unwrap();
    volume.unmount();
    volume.mount(&["-o", "ro"]);
    let error = fs::write(volume.path("file"), "y").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read_to_string(volume.path("file")).unwrap(), "x");
}

#[test]
fn control_clients_that_stay_delay_neither_others_nor_the_unmount() {
    let volume = Volume::new();
    volume.mount(&[]);
    let _idle = UnixStream::connect(volume.control()).unwrap();
    let mut busy = UnixStream::connect(volume.control()).unwrap();
    let begin = Instant::now();
    let answer = ask(&volume.control(), &Control::Status, PATIENCE).unwrap();
    assert!(matches!(answer, Answer::Status(_)));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut answer = [0; 4096];
            while busy.write_all(b"{\"command\":\"status\"}\n").is_ok()
                && busy.read(&mut answer).is_ok_and(|length| length > 0)
            {}
        });
        volume.unmount();
    });
    assert!(begin.elapsed() < Duration::from_secs(4), "they delay");
}

fn protect(volume: &Volume, name: &str) -> Answer {
    let command = Control::Protect {
        path: vec![BASE64.encode(name.as_bytes())],
        key: "alias/b".into(),
        mode: "XTS".into(),
    };
    ask(&volume.control(), &command, PATIENCE).unwrap()
}

#[test]
fn a_refused_directory_answers_enokey_and_the_rest_works_meanwhile() {
    let volume = Volume::new();
    volume.mount(&[]);
    fs::create_dir(volume.path("closed")).unwrap();
    assert!(matches!(protect(&volume, "closed"), Answer::Protected(_)));
    fs::write(volume.path("closed/secret"), "secret").unwrap();
    fs::write(volume.path("open"), "open").unwrap();
    // It holds something now.
    assert!(matches!(protect(&volume, "closed"), Answer::Failed(_)));
    assert!(matches!(protect(&volume, "missing"), Answer::Failed(_)));
    volume.unmount();

    volume.mount(&[]);
    *volume.server.mood.lock() = Mood::Refuse(ErrorCode::Disabled);
    let refused = |path: &Path| fs::read(path).map_err(|error| error.raw_os_error());
    assert_eq!(
        refused(&volume.path("closed/secret")),
        Err(Some(libc::ENOKEY))
    );
    assert_eq!(fs::read(volume.path("open")).unwrap(), b"open");
    let Answer::Status(status) = ask(&volume.control(), &Control::Status, PATIENCE).unwrap() else {
        panic!("no status");
    };
    assert_eq!((status.unlocked.len(), status.refused.len()), (1, 1));
    assert!(
        volume.log().contains("kmsctl key enable"),
        "{}",
        volume.log()
    );
    *volume.server.mood.lock() = Mood::Answer;
    wait_until("the unlock", || {
        refused(&volume.path("closed/secret")).is_ok()
    });
}

#[test]
fn an_unlock_that_waits_for_kmsd_stops_nobody_else() {
    let volume = Volume::new();
    volume.mount(&[]);
    fs::create_dir(volume.path("closed")).unwrap();
    assert!(matches!(protect(&volume, "closed"), Answer::Protected(_)));
    fs::write(volume.path("closed/secret"), "secret").unwrap();
    volume.unmount();

    volume.mount(&["-o", "threads=2"]);
    volume.server.disappear();
    let secret = volume.path("closed/secret");
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| fs::read_to_string(&secret)))
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let begin = Instant::now();
        for number in 0..50 {
            fs::write(volume.path(&format!("other-{number}")), "x").unwrap();
        }
        assert!(
            begin.elapsed() < Duration::from_secs(3),
            "the mount is stalled"
        );
        assert!(waiting.iter().all(|thread| !thread.is_finished()));
        volume.server.listen();
        for thread in waiting {
            assert_eq!(thread.join().unwrap().unwrap(), "secret");
        }
    });
}
