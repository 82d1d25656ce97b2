//! The simulation: it does what the kernel does, and loses what it says.

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{Every, Failure, LowerFs, Model, Op, Random};
use crate::backing::xattr::Target;
use crate::backing::{Dir, LowerFile};
use crate::errno::{Errno as Number, FsResult};

/// One random call, and what came of it, on whichever tree.
fn step(root: &Dir, random: &mut Random) -> String {
    let mut name = || ["a", "b", "c", "d"][random.below(4)];
    let (first, second, third) = (name(), name(), name());
    let (offset, length) = (random.below(20_000) as u64, random.below(9_000));
    let dir = |name: &str| root.open_dir(name);
    let file = |folder: FsResult<Dir>, name: &str| -> FsResult<LowerFile> {
        folder?.open_file(name, true)
    };
    let call = random.below(20);
    let answer = match call {
        0 | 1 => format!("{:?}", root.make_dir(first, 0o755)),
        2 => format!("{:?}", root.remove_dir(first)),
        3 | 4 => format!(
            "{:?}",
            dir(first).and_then(|at| at.create_file(second, 0o640).map(drop))
        ),
        5 => format!("{:?}", dir(first).and_then(|at| at.unlink(second))),
        6 => format!(
            "{:?}",
            dir(first).and_then(|at| at.make_symlink(second, "target"))
        ),
        7 => format!("{:?}", dir(first).and_then(|at| at.read_link(second))),
        8 => format!(
            "{:?}",
            dir(first).and_then(|at| at.link(second, &dir(third)?, first))
        ),
        9 | 10 => {
            let how = [
                RenameFlags::empty(),
                RenameFlags::NOREPLACE,
                RenameFlags::EXCHANGE,
            ];
            let how = how[random.below(3)];
            let moved = dir(first).and_then(|at| at.rename(second, &dir(third)?, first, how));
            format!("{moved:?}")
        }
        11 => {
            let how = [RenameFlags::empty(), RenameFlags::EXCHANGE][random.below(2)];
            format!("{:?}", root.rename(first, root, second, how))
        }
        12..=14 => {
            let bytes = vec![random.below(256) as u8; length];
            format!(
                "{:?}",
                file(dir(first), second).and_then(|file| file.write_at(&bytes, offset))
            )
        }
        15 => format!(
            "{:?}",
            file(dir(first), second).and_then(|file| file.truncate(offset))
        ),
        16 => format!(
            "{:?}",
            file(dir(first), second).and_then(|file| file.punch(offset, length as u64 + 1))
        ),
        17 => format!(
            "{:?}",
            file(dir(first), second).and_then(|file| file.set_mode(0o600))
        ),
        18 => {
            let named = file(dir(first), second).and_then(|file| {
                Target::File(&file).set(format!("user.{third}").as_bytes(), b"x", 0)
            });
            format!("{named:?}")
        }
        _ => format!(
            "{:?}",
            file(dir(first), second).and_then(|file| file.sync())
        ),
    };
    format!("{call} {first} {second} {third}: {answer}")
}

/// Everything that can be seen in a tree.
fn seen(dir: &Dir, path: &str, out: &mut Vec<String>) {
    let mut listing = dir.list().unwrap();
    let mut names = Vec::new();
    while let Some(entry) = listing.peek().unwrap() {
        names.push(String::from_utf8(entry.name.clone()).unwrap());
        listing.advance();
    }
    names.sort();
    for name in names.iter().filter(|name| *name != "." && *name != "..") {
        let stat = dir.stat_at(name).unwrap();
        let path = format!("{path}/{name}");
        let line = format!("{path} {:o} {}", stat.st_mode, stat.st_nlink);
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                out.push(line);
                seen(&dir.open_dir(name).unwrap(), &path, out);
            }
            libc::S_IFREG => {
                let file = dir.open_file(name, false).unwrap();
                let mut bytes = vec![0; stat.st_size as usize];
                assert_eq!(file.read_at(&mut bytes, 0), Ok(bytes.len()));
                let holes: Vec<_> = (0..stat.st_size as u64)
                    .step_by(1000)
                    .map(|at| (file.seek_data(at), file.seek_hole(at)))
                    .collect();
                let xattrs = Target::File(&file).list().unwrap();
                let mut xattrs: Vec<_> = xattrs.split(|byte| *byte == 0).collect();
                xattrs.sort_unstable();
                let sum: u64 = bytes
                    .iter()
                    .zip(1..)
                    .map(|(byte, at)| u64::from(*byte) * at)
                    .sum();
                out.push(format!("{line} {} {sum} {holes:?} {xattrs:?}", bytes.len()));
            }
            _ => out.push(format!("{line} {:?}", dir.read_link(name).unwrap())),
        }
    }
}

fn look(dir: &Dir) -> Vec<String> {
    let mut out = Vec::new();
    seen(dir, "", &mut out);
    out
}

#[test]
fn it_behaves_like_the_kernel() {
    let mut done = 0;
    for seed in 0..25 {
        let folder = tempfile::tempdir().unwrap();
        rustix::process::umask(rustix::fs::Mode::empty());
        let (real, made) = (
            Dir::open_root(folder.path()).unwrap(),
            LowerFs::new(Model::Kill),
        );
        let simulated = made.root();
        let mut log = Vec::new();
        for number in 0..300 {
            let one = step(&real, &mut Random::new(seed * 1000 + number));
            let other = step(&simulated, &mut Random::new(seed * 1000 + number));
            log.push(one.clone());
            assert_eq!(one, other, "seed {seed}, step {number}");
        }
        assert_eq!(look(&real), look(&simulated), "seed {seed}");
        done += log.iter().filter(|line| line.contains("Ok")).count();
        assert_eq!(
            look(&made.crash(Model::Kill, seed).root()),
            look(&simulated)
        );
    }
    assert!(done > 1000, "{done} calls did anything");
}

/// The different trees that the seeds leave: just those that there are.
fn outcomes(fs: &LowerFs, model: Model) -> Vec<Vec<String>> {
    let mut every = Every::default();
    let mut enumerated: Vec<_> = std::iter::from_fn(|| every.next(fs, model))
        .map(|left| look(&left.root()))
        .collect();
    enumerated.sort();
    enumerated.dedup();
    let mut all: Vec<_> = (0..400)
        .map(|seed| look(&fs.crash(model, seed).root()))
        .collect();
    all.sort();
    all.dedup();
    assert_eq!(all, enumerated);
    all
}

#[test]
fn unsynced_pages_survive_in_any_combination() {
    let fs = LowerFs::new(Model::Journal);
    let root = fs.root();
    let file = root.create_file("file", 0o600).unwrap();
    file.write_at(&[1; 12_288], 0).unwrap();
    file.sync().unwrap();
    root.sync().unwrap();
    assert_eq!(outcomes(&fs, Model::Posix).len(), 1);
    file.write_at(&[2; 12_288], 0).unwrap();
    assert_eq!(outcomes(&fs, Model::Journal).len(), 8);
    // Three pages old or new, and the size before or after.
    file.truncate(8192).unwrap();
    assert!(outcomes(&fs, Model::Journal).len() > 12);
    file.sync_data().unwrap();
    assert_eq!(outcomes(&fs, Model::Journal).len(), 1);
}

#[test]
fn names_survive_as_the_model_says() {
    for (model, expected) in [(Model::Journal, 4), (Model::Posix, 6)] {
        let fs = LowerFs::new(model);
        let root = fs.root();
        root.make_dir("dir", 0o700).unwrap();
        let dir = root.open_dir("dir").unwrap();
        root.sync().unwrap();
        dir.make_symlink("x", "1").unwrap();
        root.make_symlink("y", "2").unwrap();
        root.make_symlink("z", "3").unwrap();
        assert_eq!(outcomes(&fs, model).len(), expected, "{model:?}");
        // In one directory or in the other, never in both or in none.
        dir.sync().unwrap();
        root.sync().unwrap();
        dir.rename("x", &root, "x", RenameFlags::empty()).unwrap();
        let all = outcomes(&fs, model);
        assert_eq!(all.len(), 2);
        assert!(
            all.iter()
                .all(|tree| tree.iter().filter(|line| line.contains("/x")).count() == 1)
        );
        // A file is on the disk; its name only if the journal took it along.
        let file = root.create_file("file", 0o600).unwrap();
        file.sync().unwrap();
        let lost = outcomes(&fs, model)
            .iter()
            .any(|tree| !tree.iter().any(|line| line.starts_with("/file")));
        assert_eq!(lost, model == Model::Posix);
        root.sync().unwrap();
        assert_eq!(outcomes(&fs, model).len(), 1);
    }
}

#[test]
fn a_failed_fsync_is_not_made_good_by_the_next() {
    let fs = LowerFs::new(Model::Journal);
    let root = fs.root();
    let file = root.create_file("file", 0o600).unwrap();
    root.sync().unwrap();
    file.write_at(b"once", 0).unwrap();
    fs.fail(|op, _| (op == Op::Sync).then_some(Failure::Errno(Errno::IO)));
    assert_eq!(file.sync(), Err(Number::IO));
    assert_eq!(fs.mend(), 1);
    file.sync().unwrap();
    assert!(
        outcomes(&fs, Model::Journal).len() > 1,
        "the page is not there"
    );
    file.write_at(b"more", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(outcomes(&fs, Model::Journal).len(), 1);
}

#[test]
fn calls_fail_as_planned() {
    let fs = LowerFs::new(Model::Journal);
    let root = fs.root();
    let file = root.create_file("file", 0o600).unwrap();
    // LowerFile goes on after a short write.
    fs.fail(|op, call| (op == Op::Write && call < 3).then_some(Failure::Short));
    file.write_at(&[7; 1000], 0).unwrap();
    assert_eq!(fs.mend(), 3);
    fs.fail(|_, call| (call == 2).then_some(Failure::Errno(Errno::NOSPC)));
    file.truncate(500).unwrap();
    assert_eq!(file.truncate(600), Err(Number::from_raw(libc::ENOSPC)));
    file.truncate(700).unwrap();
    fs.mend();
    assert_eq!(file.stat().unwrap().st_size, 700);
}
