//! Whole imports on the file system of the temporary folder, which need not be kmsfs.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::*;

struct Trees {
    folder: tempfile::TempDir,
    options: Options,
}

impl Trees {
    fn new() -> Trees {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("from")).unwrap();
        fs::create_dir(folder.path().join("to")).unwrap();
        let options = Options {
            excludes: Excludes::new(&[]).unwrap(),
            cross_file_systems: false,
            overwrite: false,
            dry_run: false,
            remove_source: false,
            any_destination: true,
            quiet: true,
        };
        Trees { folder, options }
    }

    fn from(&self, below: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join("from").join(below)
    }

    fn to(&self, below: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join("to").join(below)
    }

    fn write(&self, below: &str, content: &str) {
        let path = self.from(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn run(&self) -> Summary {
        let (summary, result) = run(&self.from(""), &self.to(""), &self.options);
        result.unwrap();
        summary.unwrap()
    }

    fn refused(&self) -> Failure {
        run(&self.from(""), &self.to(""), &self.options)
            .1
            .unwrap_err()
    }
}

fn paths(summary: &[report::Remark]) -> Vec<&str> {
    summary.iter().map(|remark| remark.path.as_str()).collect()
}

#[test]
fn a_tree_with_everything_arrives() {
    let trees = Trees::new();
    trees.write("a/deep/er/file", "content");
    trees.write("a/empty", "");
    trees.write("z", &"z".repeat(100_000));
    fs::hard_link(trees.from("z"), trees.from("a/deep/z-too")).unwrap();
    fs::hard_link(trees.from("z"), trees.from("z-three")).unwrap();
    symlink("/nowhere", trees.from("link")).unwrap();
    symlink("x".repeat(4095), trees.from("long-link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        trees.from("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(trees.from("socket")).unwrap();
    let strange = std::ffi::OsStr::from_bytes(b"\xff\n\\\x01");
    fs::write(trees.from(strange), "strange").unwrap();
    fs::create_dir(trees.from("read-only")).unwrap();
    fs::write(trees.from("read-only/file"), "x").unwrap();
    fs::set_permissions(trees.from("read-only"), fs::Permissions::from_mode(0o2551)).unwrap();
    let old =
        fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH - std::time::Duration::new(5, 7));
    fs::File::open(trees.from("a/deep"))
        .unwrap()
        .set_times(old)
        .unwrap();
    fs::File::open(trees.from(""))
        .unwrap()
        .set_times(old)
        .unwrap();

    let sums = trees.run();
    assert!(sums.complete, "{sums:?}");
    assert_eq!(paths(&sums.notes), ["socket"]);
    assert_eq!(
        (
            sums.files,
            sums.hard_links,
            sums.symlinks,
            sums.special_files
        ),
        (5, 2, 2, 1)
    );
    assert_eq!(sums.directories, 5, "with the root");
    assert_eq!(fs::read(trees.to("a/deep/er/file")).unwrap(), b"content");
    assert_eq!(fs::read(trees.to(strange)).unwrap(), b"strange");
    assert_eq!(
        fs::read_link(trees.to("long-link"))
            .unwrap()
            .as_os_str()
            .len(),
        4095
    );
    let ino = |below: &str| trees.to(below).symlink_metadata().unwrap().ino();
    assert_eq!((ino("z"), ino("z")), (ino("a/deep/z-too"), ino("z-three")));
    for below in [
        "",
        "a",
        "a/deep",
        "a/deep/er/file",
        "a/empty",
        "z",
        "link",
        "pipe",
        "read-only",
    ] {
        let (own, copy) = (
            trees.from(below).symlink_metadata().unwrap(),
            trees.to(below).symlink_metadata().unwrap(),
        );
        let view = |meta: &fs::Metadata| {
            (
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
            )
        };
        assert_eq!(view(&own), view(&copy), "{below}");
    }
    assert!(!trees.to(WORK).exists());
}

#[test]
fn a_second_run_finds_everything_there() {
    let trees = Trees::new();
    trees.write("a/b", "one");
    symlink("a", trees.from("s")).unwrap();
    assert_eq!(trees.run().already_there, 0);
    let again = trees.run();
    assert!(again.complete);
    assert_eq!((again.files, again.already_there), (1, 2));
}

#[test]
fn what_differs_is_not_written_over_unless_told() {
    let mut trees = Trees::new();
    trees.write("same-size", "one");
    trees.write("fine", "fine");
    fs::write(trees.to("same-size"), "two").unwrap();
    // Even with the same time.
    let time = trees
        .from("same-size")
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    fs::File::options()
        .write(true)
        .open(trees.to("same-size"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    let sums = trees.run();
    assert!(!sums.complete);
    assert_eq!(paths(&sums.problems), ["same-size"]);
    assert_eq!(fs::read(trees.to("same-size")).unwrap(), b"two");
    assert_eq!(fs::read(trees.to("fine")).unwrap(), b"fine");
    assert!(
        trees.to(WORK).exists(),
        "an import with problems is not finished"
    );

    trees.options.overwrite = true;
    let sums = trees.run();
    assert!(sums.complete, "{sums:?}");
    assert_eq!(sums.finished_earlier, 1);
    assert_eq!(fs::read(trees.to("same-size")).unwrap(), b"one");
    assert!(!trees.to(WORK).exists());
}

#[test]
fn other_types_of_the_same_name_are_never_replaced() {
    let mut trees = Trees::new();
    trees.options.overwrite = true;
    trees.write("file", "x");
    trees.write("directory/inner", "x");
    fs::create_dir(trees.to("file")).unwrap();
    symlink("/", trees.to("directory")).unwrap();
    let sums = trees.run();
    assert_eq!(
        paths(&sums.problems),
        ["directory", "file"]
            .map(|path| path)
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
    );
    assert!(trees.to("file").is_dir());
    assert!(trees.to("directory").is_symlink());
    assert!(!Path::new("/inner").exists());
}

#[test]
fn an_interrupted_import_goes_on() {
    let trees = Trees::new();
    for number in 0..20 {
        trees.write(&format!("d/{number:02}"), &format!("content {number}"));
    }
    fs::hard_link(trees.from("d/03"), trees.from("d/link")).unwrap();
    // A problem keeps the record, as an interruption does.
    trees.write("d/10x", "in the way");
    fs::create_dir_all(trees.to("d/10x")).unwrap();
    assert!(!trees.run().complete);
    let id = {
        let journal = fs::read_to_string(trees.to(WORK).join("journal")).unwrap();
        journal.split("\"id\":\"").nth(1).unwrap()[..16].to_owned()
    };
    let leftover = trees.to(format!("d/{WORK}.{id}.999"));
    fs::write(&leftover, "half").unwrap();
    let unrelated = trees.to(format!("d/{WORK}.other"));
    fs::write(&unrelated, "not ours").unwrap();
    // Meanwhile one file of the source changed, one copy changed, one copy vanished, one source vanished.
    fs::write(trees.from("d/01"), "changed content").unwrap();
    fs::write(trees.to("d/02"), "changed copy").unwrap();
    fs::remove_file(trees.to("d/04")).unwrap();
    fs::remove_file(trees.from("d/05")).unwrap();
    fs::remove_dir(trees.to("d/10x")).unwrap();

    let sums = trees.run();
    assert_eq!(paths(&sums.problems), ["d/02"], "{sums:?}");
    assert_eq!(paths(&sums.notes), ["d/05"]);
    assert_eq!(sums.finished_earlier, 17, "{sums:?}");
    assert_eq!(fs::read(trees.to("d/01")).unwrap(), b"changed content");
    assert_eq!(fs::read(trees.to("d/02")).unwrap(), b"changed copy");
    assert_eq!(fs::read(trees.to("d/04")).unwrap(), b"content 4");
    assert_eq!(fs::read(trees.to("d/10x")).unwrap(), b"in the way");
    assert_eq!(
        trees.to("d/link").metadata().unwrap().ino(),
        trees.to("d/03").metadata().unwrap().ino()
    );
    assert!(!leftover.exists() && unrelated.exists());
}

#[test]
fn the_source_goes_only_after_a_complete_import() {
    let mut trees = Trees::new();
    trees.options.remove_source = true;
    trees.options.excludes = Excludes::new(&["keep".to_owned()]).unwrap();
    trees.write("a/one", "1");
    trees.write("a/keep", "kept");
    trees.write("b/two", "2");
    fs::hard_link(trees.from("b/two"), trees.from("b/three")).unwrap();
    fs::hard_link(trees.from("b/two"), trees.from("four")).unwrap();
    fs::create_dir_all(trees.to("b/two")).unwrap();
    let sums = trees.run();
    assert!(!sums.complete);
    assert_eq!(sums.removed, 0, "a problem keeps the whole source");
    assert!(trees.from("a/one").exists());

    fs::remove_dir(trees.to("b/two")).unwrap();
    let time = trees.from("").metadata().unwrap().modified().unwrap();
    let sums = trees.run();
    assert!(sums.complete, "{sums:?}");
    assert_eq!(sums.removed, 5, "four names and one directory");
    let left: Vec<_> = fs::read_dir(trees.from(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["a"]);
    assert_eq!(fs::read(trees.from("a/keep")).unwrap(), b"kept");
    assert_eq!(fs::read(trees.to("b/three")).unwrap(), b"2");
    assert_eq!(trees.to("").metadata().unwrap().modified().unwrap(), time);
}

#[test]
fn what_changed_since_its_copy_stays_in_the_source() {
    let mut trees = Trees::new();
    trees.write("changed", "old");
    trees.write("copy-changed", "x");
    trees.write("d/unchanged", "x");
    trees.write("in-the-way", "x");
    fs::create_dir(trees.to("in-the-way")).unwrap();
    assert!(!trees.run().complete);
    // The record of a removal that was interrupted.
    let journal = trees.to(WORK).join("journal");
    let mut lines = fs::read_to_string(&journal).unwrap();
    lines.push_str("\"removing\"\n");
    fs::write(&journal, lines).unwrap();
    let failure = trees.refused();
    assert!(
        failure.message.contains("removal of the source has begun"),
        "{failure:?}"
    );

    fs::write(trees.from("changed"), "new").unwrap();
    fs::write(trees.to("copy-changed"), "other").unwrap();
    trees.write("new", "x");
    trees.options.remove_source = true;
    let sums = trees.run();
    assert_eq!(
        paths(&sums.problems),
        ["changed", "copy-changed", "in-the-way", "new"]
    );
    assert!(!sums.complete);
    assert!(!trees.from("d").exists());
    for stays in ["changed", "copy-changed", "in-the-way", "new"] {
        assert!(trees.from(stays).exists(), "{stays}");
    }
}

#[test]
fn a_dry_run_changes_nothing_and_names_what_would_fail() {
    let mut trees = Trees::new();
    trees.options.dry_run = true;
    trees.options.excludes = Excludes::new(&["*.o".to_owned()]).unwrap();
    trees.write("a/b", "1");
    trees.write("a/b.o", "1");
    trees.write("c", "1");
    fs::create_dir(trees.to("c")).unwrap();
    let sums = trees.run();
    assert_eq!(paths(&sums.problems), ["c"]);
    assert_eq!((sums.files, sums.directories), (1, 1));
    assert!(!sums.complete);
    assert_eq!(fs::read_dir(trees.to("")).unwrap().count(), 1);
}

#[test]
fn holes_stay_holes() {
    let trees = Trees::new();
    let file = fs::File::create(trees.from("sparse")).unwrap();
    file.write_all_at(b"x", 1 << 40).unwrap();
    file.set_len((1 << 40) + (1 << 39)).unwrap();
    file.sync_all().unwrap();
    assert!(trees.run().complete);
    let copy = trees.to("sparse").metadata().unwrap();
    assert_eq!(copy.len(), (1 << 40) + (1 << 39));
    assert!(copy.blocks() <= trees.from("sparse").metadata().unwrap().blocks() + 16);
}

#[test]
fn a_source_that_is_an_unfinished_import_is_refused() {
    let trees = Trees::new();
    fs::create_dir(trees.from(WORK)).unwrap();
    assert!(
        trees
            .refused()
            .message
            .contains("holds an unfinished import")
    );
}
