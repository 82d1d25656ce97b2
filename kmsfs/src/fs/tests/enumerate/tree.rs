//! What a mount shows, all of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use kms_format::PolicyId;

use super::op::ATTRIBUTE;
use crate::backing::sim::LowerFs;
use crate::errno::Errno;
use crate::fs::tests::world::{FixedKeys, me};
use crate::fs::{Fs, FsResult, Kind, NodeId};
use crate::volume::Keys;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    /// With the policy it is under, and its attribute.
    Dir(PolicyId, Option<Vec<u8>>),
    File(Vec<u8>),
    Symlink(Vec<u8>),
}

/// By path; that of the root is empty.
pub(super) type Tree = BTreeMap<String, Thing>;

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

pub(super) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

/// A tree, short enough to read.
pub(super) fn show(tree: &Tree) -> String {
    let line = |(path, thing): (&String, &Thing)| {
        let names = path.split('/');
        let path: Vec<_> = names.map(|name| &name[..name.len().min(12)]).collect();
        let path = path.join("/");
        match thing {
            Thing::Dir(..) => format!("{path}/"),
            Thing::File(content) => format!("{path} ({})", String::from_utf8_lossy(content)),
            Thing::Symlink(target) => format!("{path} -> {} bytes", target.len()),
        }
    };
    tree.iter().map(line).collect::<Vec<_>>().join(", ")
}

pub(super) fn open(lower: &LowerFs, keys: &Arc<FixedKeys>) -> FsResult<Fs> {
    let keys = Arc::clone(keys) as Arc<dyn Keys>;
    Fs::over(lower.root(), Path::new("simulated"), keys, false)
}

/// The node at a path.
pub(super) fn enter(fs: &Fs, path: &str) -> FsResult<NodeId> {
    let names = path.split('/').filter(|name| !name.is_empty());
    names.into_iter().try_fold(NodeId::ROOT, |node, name| {
        Ok(fs.lookup(&me(), node, OsStr::new(name))?.node)
    })
}

/// Everything there is. Each name that is listed must be found and each object be readable, and nothing may be put down
/// to damage.
pub(super) fn read(fs: &Fs) -> Result<Tree, String> {
    let mut tree = Tree::new();
    let mut waiting = vec![(String::new(), NodeId::ROOT, Kind::Directory)];
    while let Some((path, node, kind)) = waiting.pop() {
        let thing = thing(fs, node, kind).map_err(|errno| format!("{path:?}: {errno}"))?;
        if matches!(thing, Thing::Dir(..)) {
            for name in names(fs, node).map_err(|errno| format!("names in {path:?}: {errno}"))? {
                let below = join(&path, &name);
                let entry = fs.lookup(&me(), node, OsStr::new(&name));
                let entry = entry.map_err(|errno| format!("{below:?} is listed, but {errno}"))?;
                waiting.push((below, entry.node, entry.attr.kind));
            }
        }
        if tree.insert(path.clone(), thing).is_some() {
            return Err(format!("{path:?} is listed twice"));
        }
    }
    match fs.reported.lock().len() {
        0 => Ok(tree),
        count => Err(format!("{count} objects count as damaged: {}", show(&tree))),
    }
}

fn names(fs: &Fs, node: NodeId) -> FsResult<Vec<String>> {
    let fh = fs.opendir(&me(), node)?;
    let mut names = Vec::new();
    let listed = fs.readdir(fh, 0, &mut |item| {
        if item.name != "." && item.name != ".." {
            names.push(String::from_utf8_lossy(item.name.as_bytes()).into_owned());
        }
        false
    });
    fs.releasedir(fh);
    listed.map(|()| names)
}

fn thing(fs: &Fs, node: NodeId, kind: Kind) -> FsResult<Thing> {
    Ok(match kind {
        Kind::Directory => {
            let context = fs.context(&fs.table.get(node)?)?;
            let attribute = match fs.getxattr(&me(), node, OsStr::new(ATTRIBUTE)) {
                Err(Errno::NODATA) => None,
                value => Some(value?),
            };
            Thing::Dir(context.policy.policy(), attribute)
        }
        Kind::Symlink => Thing::Symlink(fs.readlink(node)?),
        _ => {
            let fh = fs.open(&me(), node, libc::O_RDONLY, false)?.fh;
            let mut content = vec![0; 10_000];
            let count = fs.read(fh, 0, &mut content);
            fs.release(fh);
            content.truncate(count?);
            Thing::File(content)
        }
    })
}
