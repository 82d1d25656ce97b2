//! Attributes, extended ones, and objects of other users.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};

use super::{NOBODY, Stage, Steps, as_user};

pub(super) fn attributes(steps: &mut Steps) {
    let set = |object: &'static str, name: &'static str| {
        move |stage: &Stage| {
            let flags = XattrFlags::empty();
            Ok(rustix::fs::lsetxattr(
                stage.at(object),
                name,
                b"value",
                flags,
            )?)
        }
    };
    let remove = |object: &'static str, name: &'static str| {
        move |stage: &Stage| Ok(rustix::fs::lremovexattr(stage.at(object), name)?)
    };
    steps.add("create bare", |stage| {
        File::create_new(stage.at("bare")).map(drop)
    });
    steps.add("xattr of a bare file", set("bare", "user.bare"));
    steps.add("xattr of a file", set("small", "user.own"));
    steps.add("xattr of a directory", set("dir", "user.own"));
    steps.add("trusted xattr of a file", set("small", "trusted.own"));
    steps.add("trusted xattr of a directory", set("dir", "trusted.own"));
    steps.add("trusted xattr of a symlink", set("link", "trusted.own"));
    steps.add("remove xattr of a file", remove("small", "user.own"));
    steps.add("remove xattr of a directory", remove("dir", "user.own"));
    steps.add("remove trusted xattr", remove("link", "trusted.own"));
    steps.add(
        "remove trusted xattr of a file",
        remove("small", "trusted.own"),
    );
    let mode = |object: &'static str| {
        move |stage: &Stage| {
            fs::set_permissions(stage.at(object), fs::Permissions::from_mode(0o711))
        }
    };
    let owner = |object: &'static str| {
        move |stage: &Stage| std::os::unix::fs::lchown(stage.at(object), Some(7), Some(8))
    };
    let times = |object: &'static str| {
        move |stage: &Stage| {
            let time = rustix::fs::Timespec {
                tv_sec: 1000,
                tv_nsec: 1,
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            let how = AtFlags::SYMLINK_NOFOLLOW;
            Ok(rustix::fs::utimensat(CWD, stage.at(object), &times, how)?)
        }
    };
    // "small" is open, "bare" is not.
    for object in ["small", "bare", "dir", "fifo"] {
        steps.add("chmod", mode(object));
    }
    for object in ["small", "bare", "dir", "fifo", "link"] {
        steps.add("chown", owner(object));
        steps.add("utimens", times(object));
    }
    let nameless = |work: fn(&File) -> rustix::io::Result<()>| {
        move |stage: &Stage| Ok(stage.with("grown", work)?)
    };
    steps.add(
        "chmod nameless",
        nameless(|file| rustix::fs::fchmod(file, Mode::from(0o640))),
    );
    steps.add(
        "chown nameless",
        nameless(|file| rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(9)), None)),
    );
    steps.add("fifo without a name", |stage| {
        let fifo = rustix::fs::open(stage.at("fifo"), OFlags::PATH, Mode::empty())?;
        stage.keep("fifo", fifo.into());
        fs::remove_file(stage.at("fifo"))
    });
    let pinned = |work: fn(PathBuf) -> io::Result<()>| {
        move |stage: &Stage| {
            use std::os::fd::AsRawFd;
            work(stage.with("fifo", |file| {
                PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
            }))
        }
    };
    steps.add(
        "chmod it",
        pinned(|path| fs::set_permissions(path, fs::Permissions::from_mode(0o600))),
    );
    steps.add(
        "chown it",
        pinned(|path| std::os::unix::fs::chown(path, Some(3), None)),
    );
    steps.add(
        "utimens it",
        pinned(|path| {
            let time = rustix::fs::Timespec {
                tv_sec: 1000,
                tv_nsec: 1,
            };
            let times = rustix::fs::Timestamps {
                last_access: time,
                last_modification: time,
            };
            Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?)
        }),
    );
    steps.add(
        "trusted xattr of it",
        pinned(|path| {
            Ok(rustix::fs::setxattr(
                path,
                "trusted.own",
                b"value",
                XattrFlags::empty(),
            )?)
        }),
    );
    steps.add(
        "remove it",
        pinned(|path| Ok(rustix::fs::removexattr(path, "trusted.own")?)),
    );
    let flags = |object: &'static str| {
        move |stage: &Stage| {
            let file = File::open(stage.at(object))?;
            let set = rustix::fs::ioctl_getflags(&file)? | rustix::fs::IFlags::NODUMP;
            Ok(rustix::fs::ioctl_setflags(&file, set)?)
        }
    };
    steps.add("chattr of a file", flags("bare"));
    steps.add("chattr of a directory", flags("dir"));
}

pub(super) fn others(steps: &mut Steps) {
    let nobody = |program: &'static str, name: &'static str| {
        move |stage: &Stage| as_user(NOBODY, program, &stage.at(name))
    };
    steps.add("mkdir for all", |stage| {
        fs::create_dir(stage.at("all"))?;
        fs::set_permissions(stage.at("all"), fs::Permissions::from_mode(0o777))
    });
    steps.add(
        "create as nobody",
        nobody(
            "use Fcntl; umask 0; sysopen(F, $ARGV[0], O_CREAT|O_WRONLY, 06755) or die $!",
            "all/file",
        ),
    );
    steps.add(
        "mkdir as nobody",
        nobody("umask 0; mkdir($ARGV[0], 0755) or die $!", "all/dir"),
    );
    steps.add(
        "symlink as nobody",
        nobody("symlink('x', $ARGV[0]) or die $!", "all/link"),
    );
    steps.add(
        "fifo as nobody",
        nobody(
            "use POSIX; umask 0; POSIX::mkfifo($ARGV[0], 06755) or die $!",
            "all/fifo",
        ),
    );
    steps.add("set-id bits", |stage| {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(stage.at("all/suid"))?;
        file.set_permissions(fs::Permissions::from_mode(0o6777))
    });
    steps.add(
        "write as nobody",
        nobody(
            "open(F, '>>', $ARGV[0]) or die $!; syswrite(F, 'x') or die $!",
            "all/suid",
        ),
    );
}
