//! Operations on directories that take more than one step, and where they are different.

use super::op::Op::{
    self, Attribute, Begin, Exchange, Link, Mkdir, Protect, Put, Reencrypt, Rename, Rmdir, Symlink,
    Tmpfile, Unlink,
};
use crate::backing::sim::Model;

pub(super) struct Case {
    pub(super) name: &'static str,
    /// Durable when it begins.
    pub(super) before: Vec<Op>,
    pub(super) steps: Vec<Op>,
    /// Needs a lower file system that keeps the order of changes in different directories.
    ordered: bool,
}

impl Case {
    pub(super) fn fits(&self, model: Model) -> bool {
        !self.ordered || model == Model::Journal
    }

    /// Whether it is different in the other content mode.
    pub(super) fn makes_files(&self) -> bool {
        let makes = |op: &Op| matches!(op, Put(..) | Tmpfile(..) | Op::Rewrap);
        self.steps.iter().any(makes)
    }
}

/// Name, what is durable before, and the steps.
type Parts = (&'static str, Vec<Op>, Vec<Op>);

/// There from the beginning, in every case.
pub(super) fn base() -> Vec<Op> {
    vec![
        Put(s("a"), "content of a"),
        Put(s("b"), "content of b"),
        Mkdir(s("d")),
        Put(s("d/x"), "content of x"),
        Mkdir(s("e")),
    ]
}

fn s(path: &str) -> String {
    // Names of more than 160 bytes have a record.
    path.replace('1', &"1".repeat(200))
        .replace('2', &"2".repeat(200))
}

fn mkdir(path: &str) -> Op {
    Mkdir(s(path))
}

fn put(path: &str) -> Op {
    Put(s(path), "new content")
}

fn tmpfile(path: &str) -> Op {
    Tmpfile(s(path), "first without a name")
}

fn rename(from: &str, to: &str) -> Op {
    Rename(s(from), s(to))
}

fn exchange(from: &str, to: &str) -> Op {
    Exchange(s(from), s(to))
}

fn link(from: &str, to: &str) -> Op {
    Link(s(from), s(to))
}

fn unlink(path: &str) -> Op {
    Unlink(s(path))
}

fn rmdir(path: &str) -> Op {
    Rmdir(s(path))
}

fn protect(path: &str) -> Op {
    Protect(s(path))
}

/// With an inline target, or one that has a record.
fn near(path: &str) -> Op {
    Symlink(s(path), 20)
}

fn far(path: &str) -> Op {
    Symlink(s(path), 3000)
}

fn made() -> Vec<Parts> {
    vec![
        ("mkdir", vec![], vec![mkdir("n")]),
        ("mkdir, long", vec![], vec![mkdir("1")]),
        (
            "mkdir in mkdir",
            vec![],
            vec![mkdir("n"), mkdir("n/1"), put("n/1/f")],
        ),
        ("create", vec![], vec![put("n")]),
        ("create, long", vec![], vec![put("1")]),
        ("create, empty and long", vec![], vec![Put(s("d/1"), "")]),
        ("O_TMPFILE", vec![], vec![tmpfile("n")]),
        ("O_TMPFILE, long", vec![], vec![tmpfile("d/1")]),
        (
            "O_TMPFILE in mkdir",
            vec![],
            vec![mkdir("n"), tmpfile("n/f")],
        ),
        ("symlink", vec![], vec![near("1")]),
        ("symlink with a record", vec![], vec![far("n")]),
        ("symlink with a record, long", vec![], vec![far("d/1")]),
        (
            "two symlinks with records",
            vec![far("n")],
            vec![far("d/1"), unlink("n")],
        ),
        ("link", vec![], vec![link("a", "n")]),
        ("link, long", vec![], vec![link("a", "1")]),
        ("link, elsewhere", vec![], vec![link("a", "d/1")]),
        (
            "link and unlink, long",
            vec![],
            vec![link("a", "1"), unlink("a")],
        ),
        ("link of a symlink", vec![far("n")], vec![link("n", "1")]),
        ("protect", vec![mkdir("n")], vec![protect("n"), put("n/f")]),
        (
            "protect, long",
            vec![],
            vec![mkdir("1"), protect("1"), put("1/f")],
        ),
        (
            "protect in mkdir",
            vec![],
            vec![mkdir("n"), mkdir("n/m"), protect("n/m"), mkdir("n/m/o")],
        ),
    ]
}

fn removed() -> Vec<Parts> {
    vec![
        ("unlink, long", vec![put("1")], vec![unlink("1")]),
        (
            "unlink of one name",
            vec![link("a", "1"), link("a", "d/1")],
            vec![unlink("1")],
        ),
        (
            "unlink and create, long",
            vec![Put(s("1"), "old")],
            vec![unlink("1"), put("1")],
        ),
        ("unlink of a symlink", vec![far("1")], vec![unlink("1")]),
        (
            "unlink of a linked symlink",
            vec![far("1"), link("1", "n")],
            vec![unlink("1"), unlink("n")],
        ),
        ("rmdir", vec![mkdir("n")], vec![rmdir("n")]),
        ("rmdir, long", vec![mkdir("d/1")], vec![rmdir("d/1")]),
        (
            "rmdir after unlink",
            vec![mkdir("n"), put("n/1")],
            vec![unlink("n/1"), rmdir("n")],
        ),
        ("mkdir and rmdir", vec![], vec![mkdir("1"), rmdir("1")]),
        (
            "rmdir and mkdir",
            vec![mkdir("n")],
            vec![rmdir("n"), mkdir("n"), put("n/f")],
        ),
        (
            "rmdir of a protected one",
            vec![mkdir("n"), protect("n")],
            vec![rmdir("n")],
        ),
    ]
}

fn moved() -> Vec<Parts> {
    vec![
        ("rename", vec![], vec![rename("a", "n")]),
        ("rename, elsewhere", vec![], vec![rename("a", "d/a")]),
        ("rename of a directory", vec![], vec![rename("d", "e/d")]),
        ("rename over a file", vec![], vec![rename("a", "b")]),
        (
            "rename over a file, elsewhere",
            vec![],
            vec![rename("a", "d/x")],
        ),
        (
            "rename of a new file over an old one",
            vec![],
            vec![put("n"), rename("n", "a")],
        ),
        ("rename over a directory", vec![], vec![rename("d", "e")]),
        (
            "rename over a directory, elsewhere",
            vec![mkdir("e/1")],
            vec![rename("d", "e/1")],
        ),
        ("rename, to long", vec![], vec![rename("a", "1")]),
        (
            "rename, from long",
            vec![put("1")],
            vec![rename("1", "d/n")],
        ),
        ("rename, long", vec![put("1")], vec![rename("1", "2")]),
        (
            "rename, long, elsewhere",
            vec![put("1")],
            vec![rename("1", "d/1")],
        ),
        (
            "rename of a directory, long",
            vec![mkdir("1"), Put(s("1/2"), "inside")],
            vec![rename("1", "e/2")],
        ),
        (
            "rename over a file, long",
            vec![Put(s("1"), "one"), Put(s("2"), "two")],
            vec![rename("1", "2")],
        ),
        (
            "rename over a file, long, elsewhere",
            vec![Put(s("1"), "one"), Put(s("d/1"), "two")],
            vec![rename("1", "d/1")],
        ),
        (
            "rename over a symlink",
            vec![far("1")],
            vec![rename("a", "1")],
        ),
        (
            "rename of a symlink",
            vec![far("1")],
            vec![rename("1", "d/x")],
        ),
        (
            "rename of a protected one",
            vec![mkdir("n"), protect("n"), put("n/f")],
            vec![rename("n", "1")],
        ),
        ("exchange", vec![], vec![exchange("a", "b")]),
        (
            "exchange of a file and a directory",
            vec![],
            vec![exchange("a", "d")],
        ),
        (
            "exchange of directories",
            vec![mkdir("e/1"), Put(s("e/1/f"), "inside")],
            vec![exchange("d", "e/1")],
        ),
        (
            "exchange, long",
            vec![Put(s("1"), "one"), far("d/2")],
            vec![exchange("1", "d/2")],
        ),
        (
            "exchange, one long",
            vec![put("1")],
            vec![exchange("1", "d/x")],
        ),
        (
            "back and forth",
            vec![],
            vec![rename("a", "d/1"), rename("d/1", "e/2"), rename("e/2", "a")],
        ),
    ]
}

/// Between policies.
fn crossed() -> Vec<Parts> {
    vec![
        (
            "rename into another policy",
            vec![mkdir("n"), protect("n")],
            vec![rename("a", "n/a")],
        ),
        (
            "rename out of another policy, long",
            vec![mkdir("n"), protect("n"), put("n/1")],
            vec![rename("n/1", "d/1")],
        ),
        (
            "rename over a file of another policy, long",
            vec![mkdir("n"), protect("n"), Put(s("n/1"), "old")],
            vec![rename("a", "n/1")],
        ),
        (
            "rename of an empty file into another policy",
            vec![mkdir("n"), protect("n"), Put(s("f"), "")],
            vec![rename("f", "n/f")],
        ),
        (
            "rename of a new file into another policy",
            vec![mkdir("n"), protect("n")],
            vec![put("f"), rename("f", "n/f")],
        ),
        (
            "rename into another policy and back",
            vec![mkdir("n"), protect("n")],
            vec![rename("a", "n/a"), rename("n/a", "b")],
        ),
    ]
}

/// Directories that get a new key.
fn reencrypted() -> Vec<Parts> {
    let reencrypt = |path| Reencrypt(s(path));
    vec![
        (
            "reencrypt",
            vec![mkdir("d/y"), far("d/z")],
            vec![reencrypt("d")],
        ),
        (
            "reencrypt, long",
            vec![put("d/1"), Attribute(s("d"))],
            vec![reencrypt("d")],
        ),
        (
            "reencrypt with a policy below",
            vec![mkdir("e/n"), protect("e/n"), put("e/n/f")],
            vec![reencrypt("e")],
        ),
        (
            "reencrypt of a protected one",
            vec![mkdir("n"), protect("n"), put("n/f"), mkdir("n/g")],
            vec![reencrypt("n")],
        ),
        ("reencrypt the root", vec![], vec![reencrypt("")]),
        (
            "reencrypt a new one",
            vec![],
            vec![mkdir("n"), put("n/f"), reencrypt("n")],
        ),
        (
            "reencrypt above and below",
            vec![mkdir("e/n"), protect("e/n")],
            vec![reencrypt("e/n"), reencrypt("e")],
        ),
    ]
}

/// What is done in a directory that has two keys.
fn half_way() -> Vec<Parts> {
    let half = || {
        vec![
            Put(s("d/1"), "long one"),
            Put(s("d/w"), "other"),
            mkdir("d/z"),
            far("d/l"),
            Begin(s("d")),
        ]
    };
    vec![
        ("half way", half(), vec![Reencrypt(s("d"))]),
        (
            "half way, unlink and create, long",
            half(),
            vec![unlink("d/1"), put("d/1")],
        ),
        (
            "half way, rename over",
            half(),
            vec![rename("d/x", "d/w"), rename("d/1", "d/2")],
        ),
        (
            "half way, in and out",
            half(),
            vec![rename("d/1", "e/1"), rename("a", "d/1")],
        ),
        (
            "half way, exchange and protect",
            half(),
            vec![exchange("d/x", "d/l"), protect("d/z")],
        ),
        (
            "half way, link and rmdir",
            half(),
            vec![link("d/w", "d/2"), rmdir("d/z")],
        ),
    ]
}

/// With directories whose headers are not durable yet.
fn waiting() -> Vec<Parts> {
    vec![
        (
            "rename of a new directory",
            vec![],
            vec![mkdir("n"), put("n/f"), rename("n", "d/n")],
        ),
        (
            "rename of a new directory, long",
            vec![],
            vec![mkdir("1"), mkdir("1/m"), rename("1", "d/2")],
        ),
        (
            "rename of a new directory over an old one",
            vec![],
            vec![mkdir("n"), put("n/f"), rename("n", "e")],
        ),
        (
            "rename into a new directory",
            vec![],
            vec![mkdir("n"), rename("a", "n/1")],
        ),
        (
            "rename of a directory into a new one",
            vec![],
            vec![mkdir("n"), rename("d", "n/d")],
        ),
        (
            "rename over a new directory",
            vec![],
            vec![mkdir("n"), mkdir("n/1"), rename("d", "n/1")],
        ),
        (
            "exchange with something in a new directory",
            vec![],
            vec![mkdir("n"), put("n/f"), exchange("a", "n/f")],
        ),
        (
            "exchange with a new directory",
            vec![],
            vec![mkdir("n"), put("n/1"), exchange("d", "n")],
        ),
    ]
}

/// The keys of everything under another generation of the policy key.
fn rewrapped() -> Vec<Parts> {
    vec![
        ("rewrap", vec![], vec![Op::Rewrap]),
        (
            "rewrap of symlinks",
            vec![near("l"), far("d/m"), unlink("b")],
            vec![Op::Rewrap],
        ),
        (
            "rewrap of a symlink with two names",
            vec![far("l"), link("l", "d/l"), unlink("b"), unlink("d/x")],
            vec![Op::Rewrap],
        ),
        (
            "rewrap of what is new",
            vec![unlink("b")],
            vec![mkdir("n"), put("n/1"), Op::Rewrap],
        ),
    ]
}

/// Where POSIX itself lets something be lost: it reaches the disk by a directory whose own name does not.
fn ordered() -> Vec<Parts> {
    vec![
        (
            "rename into a new directory in a new one",
            vec![],
            vec![mkdir("n"), mkdir("n/m"), rename("d/x", "n/m/x")],
        ),
        (
            "link into a new directory and unlink",
            vec![],
            vec![mkdir("n"), link("a", "n/1"), unlink("a")],
        ),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let case = |(name, before, steps), ordered| Case {
        name,
        before,
        steps,
        ordered,
    };
    let any = [
        made(),
        removed(),
        moved(),
        crossed(),
        reencrypted(),
        half_way(),
        waiting(),
        rewrapped(),
    ]
    .concat();
    let any = any.into_iter().map(|parts| case(parts, false));
    let ordered = ordered().into_iter().map(|parts| case(parts, true));
    any.chain(ordered).collect()
}
