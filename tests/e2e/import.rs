//! `kmsctl fs import` into a real mount: everything arrives, whatever interrupts it, and nothing passes for imported that is not.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kms_tests::cli::Said;
use kms_tests::daemon::path_text;
use kms_tests::mount::Mount;
use kms_tests::process::Process;
use kms_tests::require::output_of;
use kms_tests::world::World;
use kms_tests::{programs, require, tree, wait};

/// The work directory of an unfinished import.
const WORK: &str = ".kmsctl-import";

fn machine_can() -> bool {
    crate::machine_can() && require::as_root()
}

fn import(world: &World, options: &[&str], from: &Path, to: &Path) -> Said {
    let mut arguments = vec!["--json", "fs", "import"];
    arguments.extend(options);
    arguments.extend([path_text(from), path_text(to)]);
    world.kmsctl(&arguments)
}

fn shell(folder: &Path, script: &str) {
    output_of(
        Command::new("sh")
            .args(["-euc", script])
            .current_dir(folder),
    );
}

/// Everything about every object but access times, inode numbers and content of files.
fn describe(root: &Path) -> BTreeMap<OsString, String> {
    let mut found = BTreeMap::new();
    let mut links: BTreeMap<u64, Vec<OsString>> = BTreeMap::new();
    for path in tree::walk(root).into_iter().chain([root.to_path_buf()]) {
        let meta = path.symlink_metadata().unwrap();
        let below = path.strip_prefix(root).unwrap().as_os_str().to_owned();
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let attributes = output_of(
            Command::new("getfattr")
                .args(["-h", "-d", "-e", "hex", "-m", "-", "--absolute-names"])
                .arg(&path),
        );
        let attributes: Vec<&str> = attributes.lines().skip(1).collect();
        let text = format!(
            "{:o} {}:{} {} {} {}.{} {:?} {attributes:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev(),
            size,
            meta.mtime(),
            meta.mtime_nsec(),
            fs::read_link(&path).ok(),
        );
        if !meta.is_dir() {
            links.entry(meta.ino()).or_default().push(below.clone());
        }
        found.insert(below, text);
    }
    for mut names in links.into_values() {
        names.sort();
        for name in &names {
            found
                .get_mut(name)
                .unwrap()
                .push_str(&format!(" same as {names:?}"));
        }
    }
    found
}

#[track_caller]
fn assert_imported(from: &Path, to: &Path) {
    let (wanted, found) = (describe(from), describe(to));
    for (path, text) in &wanted {
        assert_eq!(found.get(path), Some(text), "{}", path.display());
    }
    let more: Vec<_> = found
        .keys()
        .filter(|path| !wanted.contains_key(*path))
        .collect();
    assert!(more.is_empty(), "also in the destination: {more:?}");
    for path in tree::files(from) {
        let below = path.strip_prefix(from).unwrap();
        // The holes of the source are terabytes.
        if path.metadata().unwrap().len() < 1 << 30 {
            let same = fs::read(&path).unwrap() == fs::read(to.join(below)).unwrap();
            assert!(same, "{}", below.display());
        }
    }
}

/// What makes copies fail: every type, attribute and link there is.
fn difficult(folder: &Path) {
    fs::create_dir_all(folder.join("a/b")).unwrap();
    shell(
        folder,
        "echo one > a/one; ln a/one a/b/two; ln a/one three
         mknod null c 1 3; mknod block b 7 200; mkfifo pipe; chown 7:8 pipe null
         echo prog > prog; chown 1234:5678 prog; chmod 6755 prog
         mkdir sticky; chmod 3777 sticky; chown 11:12 sticky
         mkdir acl; echo x > acl/file; setfacl -m u:1234:r,g:99:rwx,m::rx acl/file
         setfacl -m u:77:rwx acl; setfacl -d -m u:77:rx,g:88:rwx acl; mkdir acl/inner
         setfattr -n user.one -v 1 a/one; setfattr -n user.dir -v 2 a; setfattr -n user.empty a/b
         setfattr -n trusted.t -v secret a/one; setfattr -n trusted.d -v dir acl
         setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 prog
         echo secret > unreadable; chmod 000 unreadable
         touch -d 1931-05-06T07:08:09.123456789 old; touch empty
         head -c 5000 /dev/urandom > cells; head -c 2500000 /dev/urandom > large",
    );
    symlink("t".repeat(4095), folder.join("long link")).unwrap();
    symlink("nowhere", folder.join("dangling")).unwrap();
    shell(
        folder,
        "setfattr -h -n trusted.link -v on-the-link dangling; chown -h 5:6 dangling
         touch -h -d 1999-01-01T01:02:03.5 dangling",
    );
    fs::write(folder.join("n".repeat(255)), "long name").unwrap();
    fs::write(folder.join("\u{1f40c} \n\"\\"), "strange name").unwrap();
    let sparse = File::create(folder.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 2 << 40).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.set_len(4 << 40).unwrap();
    shell(
        folder,
        "touch -d 2001-02-03T04:05:06.789 a/b a acl sticky .",
    );
}

#[test]
fn everything_arrives_and_is_there_after_a_remount() {
    arrives("xts");
}

#[test]
fn everything_arrives_where_content_is_authenticated_too() {
    arrives("gcm");
}

fn arrives(mode: &str) {
    if !machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/import");
    let lower = world.path("volume.lower");
    fs::create_dir(&lower).unwrap();
    let named = path_text(&lower);
    world
        .kmsctl(&["fs", "init", named, "--key", "alias/import", "--mode", mode])
        .ok();
    let mount = world.mount_with(&lower, &["suid,dev,allow_other,access=mounter"]);
    let from = world.path("from");
    difficult(&from);
    let before = describe(&from);
    let to = mount.path("to");
    fs::create_dir(&to).unwrap();

    let dry = import(&world, &["--dry-run"], &from, &to).ok().json();
    assert_eq!(dry["problems"].as_array().unwrap().len(), 0);
    assert_eq!(
        fs::read_dir(&to).unwrap().count(),
        0,
        "a dry run changes nothing"
    );

    let sums = import(&world, &[], &from, &to).ok().json();
    assert_eq!(sums["complete"], true, "{sums:#}");
    assert_eq!(sums["notes"].as_array().unwrap().len(), 0, "{sums:#}");
    assert_eq!(sums["hard_links"], 2);
    assert_eq!(sums["special_files"], 3);
    assert_imported(&from, &to);
    assert_eq!(before, describe(&from), "the source is only read");
    assert!(to.join("sparse").metadata().unwrap().blocks() < 100);
    mount.unmount();
    let mount = world.mount_with(&lower, &["suid,dev,allow_other,access=mounter"]);
    assert_imported(&from, &mount.path("to"));
    let mut found = [0; 13];
    let sparse = File::open(mount.path("to/sparse")).unwrap();
    sparse.read_exact_at(&mut found, 2 << 40).unwrap();
    assert_eq!(&found, b"in the middle");
    drop(sparse);
    let again = import(&world, &[], &from, &mount.path("to")).ok().json();
    assert_eq!(again["already_there"], again["files"].as_u64().unwrap() + 5);
    mount.unmount();
}

#[test]
fn wrong_places_are_refused_before_anything_is_done() {
    if !machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/import");
    let lower = world.volume("volume", "alias/import");
    let mount = world.mount(&lower);
    let from = world.path("from");
    fs::create_dir(&from).unwrap();
    let refused = |from: &Path, to: &Path, text: &str| {
        let said = import(&world, &[], from, to);
        assert_eq!(said.code, 12, "{}", said.stderr);
        said.fails_with(text);
    };
    let plain = world.path("plain");
    fs::create_dir(&plain).unwrap();
    refused(&from, &plain, "not in a kmsfs mount");
    refused(&lower, &mount.point, "the encrypted directory behind");
    // The folder that holds both.
    refused(&world.path(""), &mount.point, "lie in each other");
    fs::create_dir(mount.path("inner")).unwrap();
    refused(&mount.point, &mount.path("inner"), "lie in each other");
    let unconfirmed = import(&world, &["--remove-source"], &from, &mount.point);
    assert_eq!(unconfirmed.code, 2);
    unconfirmed.fails_with("nobody is at a terminal");
    import(&world, &["--exclude", "["], &from, &mount.point).fails_with("--exclude");
    assert!(!mount.path(WORK).exists());
    mount.unmount();
}

/// Files of sizes around what kmsfs treats differently, in a few directories.
fn many(folder: &Path, number: usize) {
    for index in 0..number {
        let inner = folder.join(format!("d{}", index % 7));
        fs::create_dir_all(&inner).unwrap();
        let size = [0, 10, 3_712, 3_713, 4_096, 20_000, 150_000][index % 7];
        let content: Vec<u8> = (0..size).map(|at| (at * 31 + index * 7) as u8).collect();
        fs::write(inner.join(format!("file {index}")), content).unwrap();
    }
    fs::hard_link(folder.join("d0/file 0"), folder.join("d6/link")).unwrap();
}

/// Every file that has its final name is whole, in the middle of an import too.
fn assert_whole_so_far(from: &Path, to: &Path) -> usize {
    let mut finished = 0;
    for path in tree::files(to) {
        let below = path.strip_prefix(to).unwrap().to_path_buf();
        if below
            .components()
            .any(|part| part.as_os_str().to_string_lossy().starts_with(WORK))
        {
            continue;
        }
        let same = fs::read(&path).unwrap() == fs::read(from.join(&below)).unwrap();
        assert!(same, "{} is not whole", below.display());
        finished += 1;
    }
    finished
}

fn start(world: &World, from: &Path, to: &Path) -> Process {
    let mut command = Command::new(programs::path("kmsctl"));
    command
        .arg("--socket")
        .arg(world.daemon.socket())
        .args(["fs", "import"])
        .args([from, to]);
    Process::start("kmsctl", &mut command, &world.path("import.log"))
}

#[test]
fn an_import_goes_on_after_it_or_the_mount_was_killed() {
    if !machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/import");
    let lower = world.volume("volume", "alias/import");
    let mut mount = world.mount(&lower);
    let from = world.path("from");
    many(&from, 600);
    let begun = |mount: &Mount, number: usize| {
        let folder = mount.path("d3");
        wait::until_true("files being imported", wait::PATIENCE, || {
            fs::read_dir(&folder).is_ok_and(|entries| entries.count() >= number)
        });
    };

    let mut first = start(&world, &from, &mount.point);
    begun(&mount, 10);
    first.kill();
    assert!(mount.path(WORK).exists());
    let finished = assert_whole_so_far(&from, &mount.point);
    assert!(finished > 200, "{finished} files when it was killed");

    let mut second = start(&world, &from, &mount.point);
    begun(&mount, 60);
    mount.process().kill();
    let status = second.wait(wait::PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", second.log());
    assert!(second.log().contains("mounted"), "{}", second.log());
    mount.kill();

    let mount = world.mount(&lower);
    assert!(assert_whole_so_far(&from, &mount.point) >= finished);
    let sums = import(&world, &[], &from, &mount.point).ok().json();
    assert_eq!(sums["complete"], true, "{sums:#}");
    assert_eq!(sums["files"], 600);
    assert!(
        sums["finished_earlier"].as_u64().unwrap() >= 200,
        "{sums:#}"
    );
    assert_imported(&from, &mount.point);
    mount.unmount();
}

#[test]
fn a_file_that_never_rests_is_named_and_not_imported() {
    if !machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/import");
    let lower = world.volume("volume", "alias/import");
    let mount = world.mount(&lower);
    let from = world.path("from");
    many(&from, 10);
    let busy = from.join("busy");
    fs::write(&busy, vec![1; 3 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    let said = thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&busy).unwrap();
            for round in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                file.write_all_at(&[round as u8], round % (3 << 20))
                    .unwrap();
            }
        });
        let said = import(&world, &["--remove-source", "--yes"], &from, &mount.point);
        stop.store(true, Ordering::Relaxed);
        said
    });
    assert_eq!(said.code, 16, "{}", said.stderr);
    let sums = said.json();
    assert_eq!(sums["complete"], false);
    assert_eq!(sums["problems"][0]["path"], "busy");
    assert_eq!(sums["removed"], 0);
    assert!(!mount.path("busy").exists());
    assert!(mount.path(WORK).exists());
    import(&world, &[], &from, &mount.point).ok();
    assert_imported(&from, &mount.point);
    mount.unmount();
}

/// A tmpfs that goes away with the value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(point: PathBuf, size: &str) -> Tmpfs {
        fs::create_dir(&point).unwrap();
        let options = format!("size={size}");
        output_of(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(&point),
        );
        Tmpfs(point)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["-l", path_text(&self.0)])
            .status();
    }
}

#[test]
fn a_full_disk_stops_it_cleanly_and_room_lets_it_go_on() {
    if !machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/import");
    let disk = Tmpfs::mount(world.path("disk"), "6m");
    let lower = disk.0.join("lower");
    world.init(&lower, "alias/import");
    let mount = world.mount(&lower);
    let from = world.path("from");
    many(&from, 500);

    let said = import(&world, &[], &from, &mount.point);
    assert_eq!(said.code, 1, "{}", said.stderr);
    let said = said.fails_with("the destination is full");
    assert!(
        said.stderr.contains("goes on where it stopped"),
        "{}",
        said.stderr
    );
    assert!(said.json()["complete"] == false);
    assert!(mount.path(WORK).exists());
    assert!(assert_whole_so_far(&from, &mount.point) > 50);

    output_of(
        Command::new("mount")
            .args(["-o", "remount,size=64m"])
            .arg(&disk.0),
    );
    let sums = import(&world, &[], &from, &mount.point).ok().json();
    assert!(sums["finished_earlier"].as_u64().unwrap() > 50, "{sums:#}");
    assert_imported(&from, &mount.point);
    mount.unmount();
}

/// A mounted gocryptfs that goes away with the value.
struct Gocryptfs(PathBuf);

impl Gocryptfs {
    fn mount(world: &World) -> Gocryptfs {
        let (cipher, point) = (world.path("gocryptfs"), world.path("from"));
        fs::create_dir(&cipher).unwrap();
        fs::create_dir(&point).unwrap();
        let password = world.path("password");
        fs::write(&password, "correct horse\n").unwrap();
        let run = |arguments: &[&Path]| {
            let mut command = Command::new("gocryptfs");
            command.args(["-q", "-passfile"]).arg(&password);
            output_of(command.args(arguments));
        };
        run(&[
            Path::new("-scryptn"),
            Path::new("10"),
            Path::new("-init"),
            &cipher,
        ]);
        run(&[Path::new("-acl"), &cipher, &point]);
        Gocryptfs(point)
    }
}

impl Drop for Gocryptfs {
    fn drop(&mut self) {
        let _ = Command::new("fusermount3")
            .args(["-u", "-z", path_text(&self.0)])
            .status();
    }
}

#[test]
fn a_gocryptfs_tree_moves_over() {
    if !machine_can() {
        return;
    }
    assert!(
        require::on_path("gocryptfs"),
        "scripts/deps.sh test installs it"
    );
    let world = World::start();
    world.key("alias/import");
    let lower = world.volume("volume", "alias/import");
    let mount = world.mount(&lower);
    let old = Gocryptfs::mount(&world);
    many(&old.0, 100);
    shell(
        &old.0,
        "setfattr -n user.x -v y 'd1/file 1'; setfacl -m u:1234:r 'd1/file 8'; chown 5:6 'd2/file 2'
         ln -s 'd2/file 2' link; mkfifo pipe; truncate -s 1G sparse; echo end >> sparse
         touch -d 2001-02-03 d1 d2 .; touch -d 1988-08-08T08:08:08.8 'd2/file 9'",
    );
    // Compared with a plain copy: the source is going to be removed.
    let copy = world.path("copy");
    tree::copy(&old.0, &copy);
    let sums = import(&world, &["--remove-source", "--yes"], &old.0, &mount.point)
        .ok()
        .json();
    assert_eq!(sums["complete"], true, "{sums:#}");
    // 101 files, of which one has two names, one sparse, a link, a pipe, and seven directories.
    assert_eq!(sums["removed"], 102 + 2 + 7, "{sums:#}");
    assert_eq!(
        fs::read_dir(&old.0).unwrap().count(),
        0,
        "the source is empty"
    );
    assert_imported(&copy, &mount.point);
    assert!(
        mount.path("sparse").metadata().unwrap().blocks() < 1000,
        "holes are kept"
    );
    mount.unmount();
}

#[test]
fn directories_under_keys_of_their_own_take_their_part() {
    if !machine_can() {
        return;
    }
    let world = World::start();
    world.key("alias/import");
    world.key("alias/hr");
    let lower = world.volume("volume", "alias/import");
    let mount = world.mount(&lower);
    fs::create_dir(mount.path("hr")).unwrap();
    world
        .kmsctl(&[
            "fs",
            "protect",
            path_text(&mount.path("hr")),
            "--key",
            "alias/hr",
        ])
        .ok();
    let from = world.path("from");
    fs::create_dir_all(from.join("hr/inner")).unwrap();
    fs::write(from.join("hr/inner/list"), "salaries").unwrap();
    fs::set_permissions(from.join("hr"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::hard_link(from.join("hr/inner/list"), from.join("shared")).unwrap();
    let said = import(&world, &[], &from, &mount.point).ok();
    let sums = said.json();
    assert_eq!(sums["complete"], true);
    assert_eq!(sums["notes"].as_array().unwrap().len(), 1, "{sums:#}");
    assert!(said.stderr.contains("became a copy"), "{}", said.stderr);
    for below in ["shared", "hr/inner/list"] {
        assert_eq!(fs::read(mount.path(below)).unwrap(), b"salaries");
    }
    assert_eq!(mount.path("hr").metadata().unwrap().mode() & 0o7777, 0o2750);
    mount.unmount();
}
