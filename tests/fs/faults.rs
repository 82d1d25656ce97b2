//! A lower file system that is full, refuses, or is changed behind the mount's back: the right errno, no hang, no damage.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::daemon::path_text;
use kms_tests::mount::Mount;
use kms_tests::process::Process;
use kms_tests::require::{self, output_of};
use kms_tests::wait;
use kms_tests::world::World;
use rustix::fs::{FallocateFlags, XattrFlags};
use tempfile::TempDir;

/// A small ext4 in an image file.
struct Small {
    point: PathBuf,
    _folder: TempDir,
}

impl Small {
    fn make() -> Small {
        let folder = tempfile::Builder::new().prefix("kms-small-").tempdir();
        let folder = folder.unwrap();
        let (image, point) = (folder.path().join("image"), folder.path().join("point"));
        File::create_new(&image).unwrap().set_len(24 << 20).unwrap();
        // Nothing is kept back for root, and a page is a block.
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-m", "0", "-b", "4096", "-N", "4096"]);
        output_of(mkfs.arg(&image));
        fs::create_dir(&point).unwrap();
        let mut mount = Command::new("mount");
        output_of(mount.args(["-o", "loop"]).args([&image, &point]));
        Small {
            point,
            _folder: folder,
        }
    }

    fn remount(&self, how: &str) -> bool {
        let how = format!("remount,{how}");
        let mut mount = Command::new("mount");
        let output = mount.args(["-o", &how]).arg(&self.point).output();
        output.unwrap().status.success()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.point).status();
    }
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 251 + 1) as u8).collect()
}

/// What must not suffer.
fn keep(mount: &Mount) {
    fs::write(mount.path("small"), noise(100)).unwrap();
    fs::write(mount.path("large"), noise(300_000)).unwrap();
    fs::create_dir(mount.path("folder")).unwrap();
    fs::write(mount.path("folder/file"), noise(5_000)).unwrap();
    mount.sync();
}

fn kept(mount: &Mount) {
    assert!(fs::read(mount.path("small")).unwrap() == noise(100));
    assert!(fs::read(mount.path("large")).unwrap()[..300_000] == noise(300_000));
    assert!(fs::read(mount.path("folder/file")).unwrap() == noise(5_000));
}

/// What needs room below, or at least changes something.
fn changes(mount: &Mount) -> Vec<(&'static str, io::Result<()>)> {
    let open = |name: &str| OpenOptions::new().write(true).open(mount.path(name));
    let long = "n".repeat(200);
    vec![
        (
            "create and write",
            fs::write(mount.path("new"), noise(9_000)),
        ),
        ("mkdir", fs::create_dir(mount.path("made"))),
        (
            "append",
            open("large").and_then(|file| file.write_all_at(&noise(1 << 20), 300_000)),
        ),
        (
            "setxattr",
            rustix::fs::setxattr(
                mount.path("folder"),
                "user.large",
                &noise(2_500),
                XattrFlags::empty(),
            )
            .map_err(io::Error::from),
        ),
        ("symlink", symlink("t".repeat(3_000), mount.path("symlink"))),
        (
            "rename",
            fs::rename(mount.path("folder"), mount.path(&long))
                .and_then(|()| fs::rename(mount.path(&long), mount.path("folder"))),
        ),
        (
            "fallocate",
            open("small").and_then(|file| {
                let how = FallocateFlags::KEEP_SIZE;
                Ok(rustix::fs::fallocate(file, how, 0, 8 << 20)?)
            }),
        ),
    ]
}

/// Takes back what [`changes`] did.
fn undo(mount: &Mount) {
    for file in ["new", "symlink"] {
        let _ = fs::remove_file(mount.path(file));
    }
    let _ = fs::remove_dir(mount.path("made"));
    let _ = rustix::fs::removexattr(mount.path("folder"), "user.large");
    let large = OpenOptions::new().write(true).open(mount.path("large"));
    large.unwrap().set_len(300_000).unwrap();
}

/// Every change was refused with `errno`, but for some that may need nothing below.
fn refused(changes: &[(&str, io::Result<()>)], errno: i32, but: &[&str]) {
    for (what, done) in changes {
        let found = done.as_ref().err().and_then(io::Error::raw_os_error);
        let fine = found == Some(errno) || but.contains(what) && done.is_ok();
        assert!(fine, "{what}: {done:?}, not errno {errno}");
    }
}

fn succeeded(changes: &[(&str, io::Result<()>)]) {
    for (what, done) in changes {
        assert!(done.is_ok(), "{what}: {done:?}");
    }
}

/// Runs `test` over a small lower file system in each mode. Afterwards everything is there, and nothing is damaged.
fn over_a_small_lower(test: impl Fn(&Mount, &Small)) {
    if !crate::machine_can() || !require::loop_devices() {
        return;
    }
    let world = World::start();
    world.key("alias/fs");
    for mode in crate::modes() {
        println!("mode {mode}");
        let small = Small::make();
        let lower = small.point.join("volume");
        fs::create_dir(&lower).unwrap();
        world
            .kmsctl(&[
                "fs",
                "init",
                path_text(&lower),
                "--key",
                "alias/fs",
                "--mode",
                mode,
            ])
            .ok();
        let point = world.path(format!("small-{mode}.plain"));
        let mount = Mount::start(&lower, &point, &world.daemon.socket(), &[]);
        keep(&mount);
        test(&mount, &small);
        kept(&mount);
        let changed = changes(&mount);
        succeeded(&changed);
        undo(&mount);
        mount.unmount();
        let mount = Mount::start(&lower, &point, &world.daemon.socket(), &[]);
        kept(&mount);
        mount.unmount();
        world.kmsctl(&["fs", "check", path_text(&lower)]).ok();
    }
}

/// Writes until there is no room for another block.
fn fill(mount: &Mount) {
    fs::create_dir(mount.path("filler")).unwrap();
    let mut file = File::create(mount.path("filler/large")).unwrap();
    let chunk = noise(64 << 10);
    let full = loop {
        if let Err(error) = file.write_all(&chunk) {
            break error;
        }
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{full}");
    file.sync_all().unwrap();
    for number in 0.. {
        assert!(number < 4_096, "it does not fill up");
        let done = fs::write(mount.path(format!("filler/{number}")), [1]);
        if let Err(error) = done {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
            break;
        }
    }
}

/// SEMANTICS: write, ENOSPC
#[test]
fn a_full_lower_file_system() {
    over_a_small_lower(|mount, _| {
        fill(mount);
        let changed = changes(mount);
        // The last block may have gone to another one of them; attributes fit into an inode as far as they are small.
        refused(&changed, libc::ENOSPC, &["rename", "symlink", "mkdir"]);
        assert!(changed.iter().filter(|(_, done)| done.is_err()).count() >= 4);
        // What was appended until there was no room is right.
        let large = fs::read(mount.path("large")).unwrap();
        assert!(noise(1 << 20).starts_with(&large[300_000..]));
        kept(mount);
        // What is there can be overwritten, and removing gives room.
        let large = OpenOptions::new().write(true).open(mount.path("large"));
        large.unwrap().write_all_at(&noise(20_000), 0).unwrap();
        kept(mount);
        fs::remove_dir_all(mount.path("filler")).unwrap();
        mount.sync();
        undo(mount);
    });
}

/// SEMANTICS: EROFS
#[test]
fn a_lower_file_system_that_becomes_read_only() {
    over_a_small_lower(|mount, small| {
        // Not as long as a file below is open for writing, and kmsfs closes some a few seconds late.
        wait::until_true("the lower remounted", wait::PATIENCE, || {
            small.remount("ro")
        });
        refused(&changes(mount), libc::EROFS, &[]);
        let removed = fs::remove_file(mount.path("small")).unwrap_err();
        assert_eq!(removed.raw_os_error(), Some(libc::EROFS));
        kept(mount);
        assert!(small.remount("rw"));
    });
}

/// Calls of kmsfs that change the lower tree, but for removals, answer `errno` as long as this lives.
struct Refusing(Process);

impl Refusing {
    fn start(mount: &Mount, log: &Path, errno: &str) -> Refusing {
        const CALLS: &str = "pwrite64,pwritev,pwritev2,ftruncate,fallocate,mkdirat,symlinkat,linkat,\
            renameat,renameat2,setxattr,lsetxattr,fsetxattr";
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={CALLS}")]);
        strace.args(["-e", &format!("inject={CALLS}:error={errno}")]);
        strace.args(["-p", &mount.pid().as_raw_nonzero().to_string()]);
        let mut process = Process::start("strace", &mut strace, log);
        process.wait_for_log("attached");
        Refusing(process)
    }

    fn stop(mut self) {
        // SIGTERM: strace detaches from every thread, and ends by the signal.
        self.0.signal(rustix::process::Signal::TERM);
        self.0.wait(wait::PATIENCE);
    }
}

/// SEMANTICS: EIO, ESTALE
#[test]
fn a_lower_file_system_that_refuses_every_change() {
    if !require::program("strace") {
        return;
    }
    over_a_small_lower(|mount, small| {
        let errnos = [
            ("EDQUOT", libc::EDQUOT),
            ("EIO", libc::EIO),
            ("ENOSPC", libc::ENOSPC),
            ("ESTALE", libc::ESTALE),
        ];
        for (name, errno) in errnos {
            let log = small.point.with_extension(name);
            let refusing = Refusing::start(mount, &log, name);
            let changed = changes(mount);
            refusing.stop();
            refused(&changed, errno, &[]);
            kept(mount);
            undo(mount);
            kept(mount);
        }
    });
}

/// The lower path of what has this inode number, which is the lower one.
fn lower_of(folder: &Path, inode: u64) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if meta.ino() == inode {
            return Some(path);
        }
        if meta.is_dir()
            && let Some(found) = lower_of(&path, inode)
        {
            return Some(found);
        }
    }
    None
}

/// SEMANTICS: ESTALE
#[test]
fn lower_objects_that_vanish_or_are_replaced() {
    over_a_small_lower(|mount, _| {
        let below = |name: &str| {
            let inode = mount.path(name).metadata().unwrap().ino();
            lower_of(&mount.lower, inode).unwrap()
        };
        let gone = [libc::ENOENT, libc::ESTALE, libc::EIO];
        let refused = |what: &str, error: io::Error| {
            let errno = error.raw_os_error().unwrap();
            assert!(gone.contains(&errno), "{what}: {error}");
        };
        fs::write(mount.path("victim"), noise(20_000)).unwrap();
        fs::create_dir_all(mount.path("lost/inner")).unwrap();
        fs::write(mount.path("lost/inner/file"), "x").unwrap();
        mount.sync();

        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .open(mount.path("victim"));
        let open = open.unwrap();
        let lower = below("victim");
        fs::remove_file(&lower).unwrap();
        // Who has it open goes on.
        open.write_all_at(b"more", 3).unwrap();
        let mut four = [0; 4];
        open.read_exact_at(&mut four, 3).unwrap();
        assert_eq!(&four, b"more");
        drop(open);
        // kmsfs closes it a few seconds later in mode gcm.
        let failed = |what: &str| {
            let read = || fs::read(mount.path("victim")).err();
            refused(what, wait::until(what, wait::PATIENCE, read));
        };
        failed("removed");
        // Something else in its place.
        fs::write(&lower, noise(12_345)).unwrap();
        failed("replaced");
        fs::remove_file(&lower).unwrap();
        fs::remove_dir_all(below("lost")).unwrap();
        refused(
            "removed",
            fs::read(mount.path("lost/inner/file")).unwrap_err(),
        );
        refused(
            "removed",
            fs::write(mount.path("lost/new"), "x").unwrap_err(),
        );
        kept(mount);
    });
}
