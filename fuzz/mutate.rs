//! Changes to a lower tree: blind ones, and ones that know the grammar and even the keys.

use kms_format::file::{LengthState, PAGE};
use kms_format::gcm::HoleList;
use kms_format::{ContentMode, FileHeader, names};

use super::input::Input;
use super::sample::Sample;
use super::tree::{Body, Object, Tree};

/// Changes a tree in the ways the input says, at most 12 times.
pub fn mutate(sample: &Sample, tree: &mut Tree, input: &mut Input<'_>) {
    for _ in 0..12 {
        if input.is_empty() {
            return;
        }
        once(sample, tree, input);
    }
}

fn once(sample: &Sample, tree: &mut Tree, input: &mut Input<'_>) {
    match input.byte() % 24 {
        0..=3 => flip(tree, input),
        4 | 5 => field(tree, input),
        6 | 7 => resize(tree, input),
        8 => splice(tree, input),
        9 => zero(tree, input),
        10 => {
            let (from, to) = (any(tree, input), any(tree, input));
            let objects = tree.copy(&from);
            replace(tree, &to, objects);
        }
        11 => {
            let (a, b) = (any(tree, input), any(tree, input));
            if !a.starts_with(&format!("{b}/")) && !b.starts_with(&format!("{a}/")) && a != b {
                tree.swap(&a, &b);
            }
        }
        12 => duplicate(tree, input),
        13 => drop(tree.take(&any(tree, input))),
        14 | 15 => retype(tree, input),
        16 => link(tree, input),
        17 => xattr(tree, input),
        18 => mode(tree, input),
        19 => drop(tree.0.insert(
            names::UNCLEAN.to_owned(),
            Object::new(Body::File(Vec::new(), 0)),
        )),
        20 => strange_name(tree, input),
        21 => foreign(sample, tree, input),
        22 => older(sample, tree, input),
        _ => sealed(sample, tree, input),
    }
}

/// The path of any object.
fn any(tree: &Tree, input: &mut Input<'_>) -> String {
    let number = input.below(tree.0.len().max(1));
    tree.0.keys().nth(number).cloned().unwrap_or_default()
}

/// The path of any file.
fn file(tree: &Tree, input: &mut Input<'_>) -> Option<String> {
    let files: Vec<_> = tree
        .0
        .iter()
        .filter(|(_, object)| matches!(object.body, Body::File(..)))
        .collect();
    if files.is_empty() {
        return None;
    }
    Some(files[input.below(files.len())].0.clone())
}

fn with_bytes(
    tree: &mut Tree,
    input: &mut Input<'_>,
    change: impl FnOnce(&mut Vec<u8>, &mut Input<'_>),
) {
    if let Some(path) = file(tree, input)
        && let Body::File(bytes, size) = &mut tree.at(&path).body
    {
        let before = bytes.len() as u64;
        change(bytes, input);
        if *size == before || *size < bytes.len() as u64 {
            *size = bytes.len() as u64;
        }
    }
}

/// Most flips go where the fields are.
fn position(length: usize, input: &mut Input<'_>) -> usize {
    let near = match input.byte() % 4 {
        0 => input.below(256),
        1 => 3968 + input.below(128),
        2 => 4096 * input.below(6) + input.below(48),
        _ => input.below(1 << 16),
    };
    near % length.max(1)
}

fn flip(tree: &mut Tree, input: &mut Input<'_>) {
    with_bytes(tree, input, |bytes, input| {
        let at = position(bytes.len(), input);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << (input.byte() % 8);
        }
    });
}

fn field(tree: &mut Tree, input: &mut Input<'_>) {
    with_bytes(tree, input, |bytes, input| {
        let at = position(bytes.len(), input) & !3;
        let width = [1, 2, 4, 8][input.below(4)];
        for (to, from) in bytes
            .iter_mut()
            .skip(at)
            .zip(&input.awkward().to_le_bytes()[..width])
        {
            *to = *from;
        }
    });
}

fn resize(tree: &mut Tree, input: &mut Input<'_>) {
    let Some(path) = file(tree, input) else {
        return;
    };
    let new = input.awkward();
    if let Body::File(bytes, size) = &mut tree.at(&path).body {
        bytes.truncate(usize::try_from(new).unwrap_or(usize::MAX).min(bytes.len()));
        *size = new;
    }
}

fn splice(tree: &mut Tree, input: &mut Input<'_>) {
    let Some(source) = file(tree, input) else {
        return;
    };
    let source = tree.at(&source).bytes().cloned().unwrap_or_default();
    with_bytes(tree, input, |bytes, input| {
        let unit = [1, 16, 128, 4096][input.below(4)];
        let (from, to) = (unit * input.below(8), unit * input.below(8));
        let taken: Vec<u8> = source
            .iter()
            .skip(from)
            .take(unit * (1 + input.below(3)))
            .copied()
            .collect();
        let end = to + taken.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[to..end].copy_from_slice(&taken);
    });
}

fn zero(tree: &mut Tree, input: &mut Input<'_>) {
    with_bytes(tree, input, |bytes, input| {
        let unit = [16, 512, 4096][input.below(3)];
        let from = (unit * input.below(8)).min(bytes.len());
        let end = (from + unit).min(bytes.len());
        bytes[from..end].fill(0);
    });
}

fn replace(tree: &mut Tree, path: &str, objects: Vec<(String, Object)>) {
    tree.take(path);
    tree.put(path, objects);
}

/// Puts a copy, or another name, of an object into any directory, under its own or another's name.
fn duplicate(tree: &mut Tree, input: &mut Input<'_>) {
    let (from, beside, name) = (any(tree, input), any(tree, input), any(tree, input));
    let folder = beside.rsplit_once('/').map_or("", |(folder, _)| folder);
    let name = name
        .rsplit_once('/')
        .map_or(name.as_str(), |(_, name)| name);
    let to = if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    };
    if from.is_empty()
        || to == from
        || to.starts_with(&format!("{from}/"))
        || from.starts_with(&format!("{to}/"))
    {
        return;
    }
    match input.byte() % 3 {
        0 => {
            let objects = tree.copy(&from);
            replace(tree, &to, objects);
        }
        1 => {
            let objects = tree.take(&from);
            replace(tree, &to, objects);
        }
        _ if matches!(tree.at(&from).body, Body::File(..)) => {
            replace(
                tree,
                &to,
                vec![(String::new(), Object::new(Body::HardLink(from)))],
            );
        }
        _ => {}
    }
}

fn retype(tree: &mut Tree, input: &mut Input<'_>) {
    let path = any(tree, input);
    let other = any(tree, input);
    let body = match input.byte() % 7 {
        0 => Body::Directory,
        1 => Body::File(Vec::new(), 0),
        2 => Body::File(input.bytes(300).to_vec(), input.awkward()),
        3 => Body::Symlink(b"/etc/passwd".to_vec()),
        4 => Body::Symlink(other.into_bytes()),
        5 => Body::Fifo,
        _ => Body::Device,
    };
    if !path.is_empty() {
        // What is written must not make the body of a file disagree with its size.
        let body = match body {
            Body::File(bytes, size) => Body::File(bytes.clone(), size.max(bytes.len() as u64)),
            body => body,
        };
        replace(tree, &path, vec![(String::new(), Object::new(body))]);
    }
}

/// Changes the target of a symlink.
fn link(tree: &mut Tree, input: &mut Input<'_>) {
    let links: Vec<_> = tree
        .0
        .iter()
        .filter_map(|(path, object)| match &object.body {
            Body::Symlink(target) => Some((path.clone(), target.clone())),
            _ => None,
        })
        .collect();
    if links.is_empty() {
        return;
    }
    let (path, mut target) = links[input.below(links.len())].clone();
    match input.byte() % 4 {
        0 => {
            let at = input.below(target.len().max(1));
            if let Some(byte) = target.get_mut(at) {
                *byte = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef0189-_=/."[input.below(41)];
            }
        }
        1 => target = links[input.below(links.len())].1.clone(),
        2 => target.truncate(input.below(target.len().max(1)).max(1)),
        _ => target = vec![b'A'; input.below(1100).max(1)],
    }
    tree.at(&path).body = Body::Symlink(target);
}

fn xattr(tree: &mut Tree, input: &mut Input<'_>) {
    let all: Vec<_> = tree
        .0
        .iter()
        .flat_map(|(path, object)| {
            object
                .xattrs
                .keys()
                .map(|name| (path.clone(), name.clone()))
        })
        .collect();
    if all.is_empty() {
        return;
    }
    let (path, name) = all[input.below(all.len())].clone();
    let (other, from) = all[input.below(all.len())].clone();
    let value = tree.at(&other).xattrs[&from].clone();
    let object = tree.at(&path);
    match input.byte() % 5 {
        0 => drop(object.xattrs.remove(&name)),
        1 => drop(object.xattrs.insert(name, value)),
        2 => drop(object.xattrs.insert(from, value)),
        3 => {
            let odd = [b"user.kmsfs.".as_slice(), &b"A".repeat(input.below(244))].concat();
            object.xattrs.insert(odd, value);
        }
        _ => {
            if let Some(value) = object.xattrs.get_mut(&name) {
                let at = input.below(value.len().max(1));
                match value.get_mut(at) {
                    Some(byte) if input.once_in(2) => *byte ^= 1 << (input.byte() % 8),
                    _ => value.truncate(at),
                }
            }
        }
    }
}

fn mode(tree: &mut Tree, input: &mut Input<'_>) {
    let path = any(tree, input);
    if let Some(object) = tree.0.get_mut(&path) {
        object.mode = [0, 0o7777, 0o4755, 0o1777, 0o200][input.below(5)];
    }
}

/// An entry with a name that no one wrote.
fn strange_name(tree: &mut Tree, input: &mut Input<'_>) {
    let beside = any(tree, input);
    let folder = beside.rsplit_once('/').map_or("", |(folder, _)| folder);
    let name = match input.byte() % 8 {
        0 => "plain".to_owned(),
        1 => "A".repeat([43, 64, 86, 235, 236, 255][input.below(6)]),
        2 => format!("={}", "A".repeat(input.below(60))),
        3 => format!(".kmsfs.n.{}", "A".repeat(input.below(60))),
        4 => format!(".kmsfs.t.{:016x}", input.number()),
        5 => ".kmsfs.lost".to_owned(),
        6 => ".kmsfs.links".to_owned(),
        _ => ".kmsfs.unknown".to_owned(),
    };
    let to = if folder.is_empty() {
        name
    } else {
        format!("{folder}/{name}")
    };
    let body = match input.byte() % 3 {
        0 => Body::Directory,
        1 => Body::Symlink(b"..".to_vec()),
        _ => Body::File(input.bytes(100).to_vec(), 100),
    };
    replace(tree, &to, vec![(String::new(), Object::new(body))]);
}

/// Something of another volume in the place of something of this one.
fn foreign(sample: &Sample, tree: &mut Tree, input: &mut Input<'_>) {
    let (from, to) = (any(&sample.other, input), any(tree, input));
    replace(tree, &to, sample.other.copy(&from));
}

/// Something as it was before.
fn older(sample: &Sample, tree: &mut Tree, input: &mut Input<'_>) {
    let from = any(&sample.older, input);
    replace(tree, &from, sample.older.copy(&from));
}

/// A header page that authenticates, but says what no program of ours would: whoever holds the key can write that.
fn sealed(sample: &Sample, tree: &mut Tree, input: &mut Input<'_>) {
    let policy = &sample.policy;
    with_bytes(tree, input, |bytes, input| {
        let Some(page) = bytes.first_chunk_mut::<PAGE>() else {
            return;
        };
        let Ok(opened) = FileHeader::open(page, policy) else {
            return;
        };
        let mut header = opened.header;
        let written = match (sample.mode, input.byte() % 2) {
            (ContentMode::Gcm, 0) => {
                let mut holes = HoleList::default();
                for _ in 0..input.below(4) {
                    let first = input.awkward() % (1 << 50);
                    let _ = holes.insert(first..first + 1 + u64::from(input.byte()));
                }
                let state = [LengthState::Exact, LengthState::Growing][input.below(2)];
                header.write_units_gcm(&opened.keys, input.awkward(), state, &holes, page)
            }
            (ContentMode::Xts, 0) => header.write_units(&opened.keys, page),
            _ => {
                let content = vec![7; input.below(3713)];
                header.write_inline(&opened.keys, &content, page)
            }
        };
        assert!(
            written.is_ok(),
            "a header of ours can be written: {written:?}"
        );
    });
}
