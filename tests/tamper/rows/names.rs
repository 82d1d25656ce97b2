//! Names, symlinks and attributes.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use kms_format::names;
use kms_format::symlink::StoredTarget;

use super::Row;
use super::directories::{put, replace};
use crate::case::{Case, Look};
use crate::fuzz::sample::{Sample, long_name};
use crate::fuzz::tree::{Body, Tree};

pub(super) const ROWS: &[Row] = &[
    ("name-altered", |sample| {
        (0..43)
            .map(|at| {
                let lower = sample.lower("folder/small");
                let mut altered = lower.clone().into_bytes();
                let last = altered.len() - 43 + at;
                altered[last] = if altered[last] == b'A' { b'B' } else { b'A' };
                renamed(sample, &lower, String::from_utf8(altered).unwrap())
            })
            .collect()
    }),
    ("name-of-another-directory", |sample| {
        let name = sample.lower("other/small");
        let name = name.rsplit_once('/').unwrap().1;
        vec![renamed(
            sample,
            &sample.lower("folder/small"),
            sample.inside("folder", name),
        )]
    }),
    ("sidecar-bits", |sample| {
        let path = format!("folder/{}", long_name());
        let bits = Case::bits(sample, &path, &sidecar(sample), (0..60).chain(280..284));
        bits.into_iter().map(Case::listed).collect()
    }),
    ("sidecar-removed", |sample| {
        let (path, sidecar) = (format!("folder/{}", long_name()), sidecar(sample));
        vec![Case::new(sample, &path, move |tree| drop(tree.take(&sidecar))).listed()]
    }),
    ("sidecar-removed-by-name", |sample| {
        let (path, sidecar) = (format!("folder/{}", long_name()), sidecar(sample));
        vec![Case::new(sample, &path, move |tree| {
            drop(tree.take(&sidecar))
        })]
    }),
    ("sidecar-special", |sample| {
        let path = format!("folder/{}", long_name());
        [Body::Fifo, Body::Device, Body::Symlink(b".kmsfs".to_vec())]
            .map(|body| put(sample, &path, &sidecar(sample), body).listed())
            .into()
    }),
    ("symlink-bits", |sample| {
        let length = stored(sample, "folder/link").len() * 8;
        (0..length)
            .filter(|bit| !(8..40).contains(bit))
            .map(|bit| link_bit(sample, bit))
            .collect()
    }),
    ("symlink-generation", |sample| {
        (8..40).map(|bit| link_bit(sample, bit)).collect()
    }),
    ("symlink-swapped", |sample| {
        let (a, b) = (sample.lower("folder/link"), sample.lower("folder/link too"));
        vec![
            Case::new(sample, "folder/link", move |tree| tree.swap(&a, &b))
                .shows("its sister")
                .also(&["folder/link too"]),
        ]
    }),
    ("symlink-plain", |sample| {
        ["/etc/passwd", "..", "x", "/"]
            .map(|target| {
                put(
                    sample,
                    "folder/link",
                    &sample.lower("folder/link"),
                    Body::Symlink(target.into()),
                )
            })
            .into()
    }),
    ("symlink-of-another-policy", |sample| {
        let (from, to) = (sample.lower("folder/link"), sample.lower("nested/link"));
        vec![Case::new(sample, "nested/link", move |tree| {
            replace(tree, &from, &to)
        })]
    }),
    ("symlink-record-bits", |sample| {
        Case::bits(
            sample,
            "folder/long link",
            &record(sample, "folder/long link"),
            (0..12).chain(16..60).chain([1000]),
        )
    }),
    ("symlink-record-removed", |sample| {
        let record = record(sample, "folder/long link");
        vec![Case::new(sample, "folder/long link", move |tree| {
            drop(tree.take(&record))
        })]
    }),
    ("symlink-record-swapped", |sample| {
        let (a, b) = (
            record(sample, "folder/long link"),
            record(sample, "other/long link"),
        );
        vec![
            Case::new(sample, "folder/long link", move |tree| tree.swap(&a, &b))
                .also(&["other/long link"]),
        ]
    }),
    ("links-dir-replaced", |sample| {
        let bodies = [
            Body::Symlink(b"..".to_vec()),
            Body::Fifo,
            Body::File(vec![1], 1),
        ];
        bodies
            .into_iter()
            .map(|body| put(sample, "folder/long link", names::LINKS, body))
            .collect()
    }),
    ("xattr-value-bits", |sample| {
        let all = attributed(sample).into_iter().flat_map(|path| {
            let (name, value) = attribute(sample, path, "user.first");
            (0..value.len() * 8).map(move |bit| {
                let name = name.clone();
                changed(sample, path, "user.first", move |all| {
                    all.get_mut(&name).unwrap()[bit / 8] ^= 1 << (bit % 8);
                })
                .what(format!("bit {bit}"))
            })
        });
        all.collect()
    }),
    ("xattr-swapped", |sample| {
        between(sample, |all, first, second| {
            let (a, b) = (all[first].clone(), all[second].clone());
            all.extend([(first.clone(), b), (second.clone(), a)]);
        })
    }),
    ("xattr-of-another-file", |sample| {
        let Some(path) = attributed(sample).first().copied() else {
            return Vec::new();
        };
        let (name, value) = attribute(sample, path, "user.first");
        let target = "folder/large";
        let lower = format!(
            "{}/{}",
            sample.lower(target),
            String::from_utf8_lossy(&name)
        );
        vec![
            changed(sample, target, "user.first", move |all| {
                drop(all.insert(name, value))
            })
            .look(Look::Attributes)
            .lower(lower),
        ]
    }),
    ("xattr-removed", |sample| {
        between(sample, |all, first, _| drop(all.remove(first)))
    }),
    ("xattr-rolled-back", |sample| {
        attributed(sample)
            .into_iter()
            .map(|path| {
                let older = sample.older.0[&sample.lower(path)].xattrs.clone();
                changed(sample, path, "user.first", move |all| *all = older).shows("an older value")
            })
            .collect()
    }),
];

fn renamed(sample: &Sample, lower: &str, new: String) -> Case {
    let (lower, named) = (lower.to_owned(), new.clone());
    let change = move |tree: &mut Tree| {
        let objects = tree.take(&lower);
        tree.put(&new, objects);
    };
    Case::new(sample, "folder/small", change)
        .listed()
        .lower(named.clone())
        .what(named)
}

/// The lower path of the record of the long name.
fn sidecar(sample: &Sample) -> String {
    let lower = sample.lower(&format!("folder/{}", long_name()));
    let name = lower.rsplit_once('/').unwrap().1;
    sample.inside("folder", &names::sidecar_name(name.as_bytes()).unwrap())
}

/// The bytes that a lower symlink holds.
fn stored(sample: &Sample, path: &str) -> Vec<u8> {
    match &sample.tree.0[&sample.lower(path)].body {
        Body::Symlink(target) => BASE64URL_NOPAD.decode(target).unwrap(),
        other => panic!("{path} is {other:?}"),
    }
}

fn link_bit(sample: &Sample, bit: usize) -> Case {
    let mut bytes = stored(sample, "folder/link");
    bytes[bit / 8] ^= 1 << (bit % 8);
    let body = Body::Symlink(BASE64URL_NOPAD.encode(&bytes).into_bytes());
    put(sample, "folder/link", &sample.lower("folder/link"), body).what(format!("bit {bit}"))
}

/// The lower path of the record of a long target.
fn record(sample: &Sample, path: &str) -> String {
    let stored = BASE64URL_NOPAD.encode(&stored(sample, path));
    let name = StoredTarget::parse(stored.as_bytes())
        .unwrap()
        .record_name()
        .unwrap();
    format!("{}/{name}", names::LINKS)
}

/// A file of each layout and a directory, if the lower file system has attributes.
fn attributed(sample: &Sample) -> Vec<&'static str> {
    if sample.xattrs {
        vec!["folder/small", "folder/large", "folder"]
    } else {
        Vec::new()
    }
}

/// Lower name and value of an attribute, told apart from its sisters by the length of its value.
fn attribute(sample: &Sample, path: &str, name: &str) -> (Vec<u8>, Vec<u8>) {
    let length = 29
        + if name == "user.first" {
            "a value".len()
        } else {
            "its sister".len()
        };
    let all = &sample.tree.0[&sample.lower(path)].xattrs;
    let found = all.iter().find(|(_, value)| value.len() == length);
    let (name, value) = found.unwrap_or_else(|| panic!("no {name} on {path}"));
    (name.clone(), value.clone())
}

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

fn changed(
    sample: &Sample,
    path: &str,
    name: &str,
    change: impl FnOnce(&mut Xattrs) + 'static,
) -> Case {
    let lower = sample.lower(path);
    // Who asks for the whole view sees it, too.
    Case::new(sample, path, move |tree| {
        change(&mut tree.at(&lower).xattrs)
    })
    .look(Look::Attribute(name.to_owned()))
}

/// Something done to the two attributes of each object that has them.
fn between(sample: &Sample, change: fn(&mut Xattrs, &Vec<u8>, &Vec<u8>)) -> Vec<Case> {
    attributed(sample)
        .into_iter()
        .map(|path| {
            let [first, second] =
                ["user.first", "user.second"].map(|name| attribute(sample, path, name).0);
            changed(sample, path, "user.first", move |all| {
                change(all, &first, &second)
            })
        })
        .collect()
}
