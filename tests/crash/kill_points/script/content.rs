//! Writing, resizing and punching files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;

use super::{Stage, Steps, bytes};

pub(super) fn content(steps: &mut Steps) {
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
