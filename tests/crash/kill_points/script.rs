//! The scripts: what is done on the mount, step by step.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use kms_tests::daemon::path_text;
use kms_tests::world::World;
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, XattrFlags};

use super::WORKERS;

/// Where a script is played.
pub(super) struct Stage<'a> {
    root: PathBuf,
    /// None on a plain directory.
    world: Option<&'a World>,
    open: RefCell<HashMap<&'static str, File>>,
}

impl<'a> Stage<'a> {
    pub(super) fn plain(root: &Path) -> Stage<'a> {
        Stage {
            root: root.to_owned(),
            world: None,
            open: RefCell::default(),
        }
    }

    pub(super) fn mounted(world: &'a World, root: &Path) -> Stage<'a> {
        Stage {
            root: root.to_owned(),
            world: Some(world),
            open: RefCell::default(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn keep(&self, name: &'static str, file: File) {
        self.open.borrow_mut().insert(name, file);
    }

    fn with<T>(&self, name: &str, work: impl FnOnce(&File) -> T) -> T {
        work(
            self.open
                .borrow()
                .get(name)
                .expect("opened by an earlier step"),
        )
    }
}

type Step = Box<dyn Fn(&Stage) -> io::Result<()> + Send + Sync>;

/// Steps, and the lower tree that they begin with.
pub(super) struct Script {
    pub(super) name: &'static str,
    /// One for each worker: a volume has one mount at a time.
    pub(super) lowers: Vec<PathBuf>,
    pub(super) steps: Vec<(&'static str, Step)>,
}

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed) | 1)
        .collect()
}

/// Runs a Perl program as another user.
fn as_nobody(program: &str, path: &Path) -> io::Result<()> {
    let status = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "perl",
            "-e",
            program,
        ])
        .arg(path)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{status}")))
    }
}

fn long(letter: &str) -> String {
    letter.repeat(250)
}

struct Steps(Vec<(&'static str, Step)>);

impl Steps {
    fn add(
        &mut self,
        name: &'static str,
        step: impl Fn(&Stage) -> io::Result<()> + Send + Sync + 'static,
    ) {
        self.0.push((name, Box::new(step)));
    }
}

/// Everything that is done in a healthy tree.
pub(super) fn everything(world: &World) -> Script {
    let lowers = (0..WORKERS)
        .map(|worker| world.volume(&format!("kill-everything{worker}"), "alias/kill"))
        .collect();
    let mut steps = Steps(Vec::new());
    content(&mut steps);
    names(&mut steps);
    attributes(&mut steps);
    others(&mut steps);
    steps.add("protect", |stage| match stage.world {
        None => Ok(()),
        Some(world) => {
            let path = stage.at("empty");
            let done = world.kmsctl(&["fs", "protect", path_text(&path), "--key", "alias/kill"]);
            if done.code == 0 {
                Ok(())
            } else {
                Err(io::Error::other(done.stderr))
            }
        }
    });
    Script {
        name: "everything",
        lowers,
        steps: steps.0,
    }
}

fn content(steps: &mut Steps) {
    let create = |name: &'static str| {
        move |stage: &Stage| {
            let mut options = OpenOptions::new();
            let file = options
                .read(true)
                .write(true)
                .create_new(true)
                .open(stage.at(name))?;
            stage.keep(name, file);
            Ok(())
        }
    };
    let write = |name: &'static str, at: u64, seed: u8, length: usize| {
        move |stage: &Stage| stage.with(name, |file| file.write_all_at(&bytes(seed, length), at))
    };
    let resize = |name: &'static str, size: u64| {
        move |stage: &Stage| stage.with(name, |file| file.set_len(size))
    };
    let allocate = |name: &'static str, how: FallocateFlags, at: u64, length: u64| {
        move |stage: &Stage| {
            Ok(stage.with(name, |file| rustix::fs::fallocate(file, how, at, length))?)
        }
    };
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    steps.add("create small", create("small"));
    steps.add("write inline", write("small", 0, 1, 100));
    steps.add("append inline", write("small", 100, 2, 1001));
    steps.add("cut inline", resize("small", 77));
    steps.add("same size", resize("small", 77));
    steps.add("punch inline", allocate("small", punch, 10, 20));
    steps.add("fsync", |stage| stage.with("small", File::sync_all));
    steps.add("inline to units", write("small", 50, 3, 9000));
    steps.add("extend past the last cell", write("small", 9300, 4, 5));
    steps.add("append within the last cell", write("small", 9305, 5, 3));
    steps.add("overwrite", write("small", 4090, 6, 20));
    steps.add("cut units", resize("small", 5003));
    steps.add("extend units", resize("small", 30_001));
    steps.add("write behind the tail", write("small", 40_000, 7, 4096));
    steps.add("punch units", allocate("small", punch, 4001, 9002));
    steps.add(
        "zero range that extends",
        allocate("small", FallocateFlags::ZERO_RANGE, 43_000, 9000),
    );
    steps.add(
        "allocate",
        allocate("small", FallocateFlags::empty(), 50_000, 10_007),
    );
    steps.add(
        "allocate and keep the size",
        allocate("small", FallocateFlags::KEEP_SIZE, 50_000, 90_007),
    );
    steps.add("units to nothing", resize("small", 0));
    steps.add("write again", write("small", 0, 8, 10));
    steps.add("inline to units by size", resize("small", 100_000));
    steps.add("create large", create("large"));
    steps.add("first write, whole units", write("large", 0, 9, 16_384));
    steps.add("create odd", create("odd"));
    steps.add("first write, odd length", write("odd", 0, 10, 10_001));
    steps.add("create far", create("far"));
    steps.add("first write far out", write("far", 70_000, 11, 3));
    steps.add("create grown", create("grown"));
    steps.add("grow from nothing", resize("grown", 20_000));
    steps.add("copy", |stage| {
        stage.with("large", |from| {
            stage.with("odd", |to| {
                let (mut start, mut end) = (100, 3);
                rustix::fs::copy_file_range(from, Some(&mut start), to, Some(&mut end), 5000)
            })
        })?;
        Ok(())
    });
    steps.add("truncate by open", |stage| {
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(stage.at("odd"))
            .map(drop)
    });
}

fn names(steps: &mut Steps) {
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

fn attributes(steps: &mut Steps) {
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

fn others(steps: &mut Steps) {
    let nobody = |program: &'static str, name: &'static str| {
        move |stage: &Stage| as_nobody(program, &stage.at(name))
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
