//! Making, linking, renaming and removing.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};

use super::{Steps, bytes, long};

pub(super) fn names(steps: &mut Steps) {
    steps.add("mkdir", |stage| fs::create_dir(stage.at("dir")));
    steps.add("mkdir below", |stage| fs::create_dir(stage.at("dir/below")));
    steps.add("mkdir empty", |stage| fs::create_dir(stage.at("empty")));
    steps.add("mkdir long", |stage| fs::create_dir(stage.at(&long("d"))));
    steps.add("create long", |stage| {
        File::create_new(stage.at(&long("f"))).map(drop)
    });
    steps.add("symlink", |stage| symlink("target", stage.at("link")));
    steps.add("symlink to far away", |stage| {
        symlink("t".repeat(2000), stage.at("far link"))
    });
    steps.add("another one", |stage| {
        symlink("u".repeat(2000), stage.at("dir/far link"))
    });
    steps.add("symlink long", |stage| {
        symlink("target", stage.at(&long("l")))
    });
    steps.add("fifo", |stage| {
        Ok(rustix::fs::mknodat(
            CWD,
            stage.at("fifo"),
            FileType::Fifo,
            Mode::from(0o644),
            0,
        )?)
    });
    steps.add("link", |stage| {
        fs::hard_link(stage.at("large"), stage.at("dir/linked"))
    });
    steps.add("link long", |stage| {
        fs::hard_link(stage.at("large"), stage.at(&long("h")))
    });
    steps.add("nameless", |stage| {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let file = rustix::fs::open(&stage.root, flags, Mode::from(0o600))?;
        stage.keep("nameless", file.into());
        Ok(())
    });
    steps.add("write nameless", |stage| {
        stage.with("nameless", |file| file.write_all_at(&bytes(12, 5000), 0))
    });
    steps.add("name it", |stage| {
        use std::os::fd::AsRawFd;
        let own = stage.with("nameless", |file| {
            format!("/proc/self/fd/{}", file.as_raw_fd())
        });
        Ok(rustix::fs::linkat(
            CWD,
            own,
            CWD,
            stage.at("named"),
            AtFlags::SYMLINK_FOLLOW,
        )?)
    });
    steps.add("rename", |stage| {
        fs::rename(stage.at("named"), stage.at("dir/moved"))
    });
    steps.add("rename to long", |stage| {
        fs::rename(stage.at("dir/moved"), stage.at(&long("m")))
    });
    steps.add("rename to short", |stage| {
        fs::rename(stage.at(&long("m")), stage.at("moved"))
    });
    steps.add("rename over", |stage| {
        fs::rename(stage.at("moved"), stage.at("far"))
    });
    steps.add("rename over far link", |stage| {
        fs::rename(stage.at("far"), stage.at("far link"))
    });
    steps.add("rename directory", |stage| {
        fs::rename(stage.at("dir/below"), stage.at("below"))
    });
    steps.add("mkdir target", |stage| fs::create_dir(stage.at("target")));
    steps.add("rename over directory", |stage| {
        fs::rename(stage.at("below"), stage.at("target"))
    });
    steps.add("exchange", |stage| {
        let (one, other) = (stage.at("small"), stage.at("dir"));
        Ok(rustix::fs::renameat_with(
            CWD,
            one,
            CWD,
            other,
            RenameFlags::EXCHANGE,
        )?)
    });
    steps.add("exchange back", |stage| {
        let (one, other) = (stage.at("small"), stage.at("dir"));
        Ok(rustix::fs::renameat_with(
            CWD,
            one,
            CWD,
            other,
            RenameFlags::EXCHANGE,
        )?)
    });
    steps.add("unlink", |stage| fs::remove_file(stage.at("grown")));
    steps.add("unlink long", |stage| fs::remove_file(stage.at(&long("f"))));
    steps.add("unlink far link", |stage| {
        fs::remove_file(stage.at("dir/far link"))
    });
    steps.add("write what has no name", |stage| {
        stage.with("grown", |file| file.write_all_at(b"still there", 9))
    });
    steps.add("mkdir for names", |stage| fs::create_dir(stage.at("names")));
    steps.add("rmdir", |stage| fs::remove_dir(stage.at("names")));
    steps.add("rmdir long", |stage| fs::remove_dir(stage.at(&long("d"))));
}
