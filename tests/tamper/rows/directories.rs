//! Directories and their headers.

use kms_format::{ContentMode, DirHeader, VolumeId};

use super::Row;
use crate::case::{Case, joined};
use crate::fuzz::keys::policy_in;
use crate::fuzz::sample::Sample;
use crate::fuzz::tree::{Body, Object, Tree};

pub(super) const ROWS: &[Row] = &[
    ("dir-header-bits", |sample| {
        Case::bits(
            sample,
            "folder",
            &sample.header("folder"),
            (0..48).chain(68..192),
        )
    }),
    ("dir-header-key", |sample| {
        Case::bits(sample, "folder", &sample.header("folder"), 48..68)
    }),
    ("dir-header-length", header_length),
    ("dir-header-removed", |sample| {
        let header = sample.header("folder");
        vec![Case::new(sample, "folder", move |tree| {
            drop(tree.take(&header))
        })]
    }),
    ("dir-header-removed-empty", |sample| {
        let header = sample.header("bare");
        vec![Case::new(sample, "bare", move |tree| {
            drop(tree.take(&header))
        })]
    }),
    ("dir-header-of-another", |sample| {
        let (from, to) = (sample.header("other"), sample.header("folder"));
        let small = sample.lower("folder/small");
        let change = move |tree: &mut Tree| replace(tree, &from, &to);
        vec![
            Case::new(sample, "folder/small", change)
                .listed()
                .lower(small)
                .also(&["folder"]),
        ]
    }),
    ("dir-header-special", |sample| {
        let other = format!("../{}", sample.header("other"));
        let bodies = [
            Body::Fifo,
            Body::Device,
            Body::Directory,
            Body::Symlink(other.into_bytes()),
        ];
        bodies
            .into_iter()
            .map(|body| put(sample, "folder", &sample.header("folder"), body))
            .collect()
    }),
    ("policy-dir-emptied", |sample| {
        let nested = sample.lower("nested");
        let change = move |tree: &mut Tree| {
            tree.take(&nested);
            tree.0.insert(nested, Object::new(Body::Directory));
        };
        vec![Case::new(sample, "nested", change).shows("")]
    }),
    ("dir-swapped", |sample| {
        let (a, b) = (sample.lower("folder"), sample.lower("other"));
        let shows = joined(&["long link", "small", "witness"]);
        vec![
            Case::new(sample, "folder", move |tree| tree.swap(&a, &b))
                .shows(shows)
                .also(&["other"]),
        ]
    }),
    ("dir-rolled-back", |sample| {
        let (inner, older) = (
            sample.lower("folder/inner"),
            sample.older.copy(&sample.lower("folder/inner")),
        );
        let change = move |tree: &mut Tree| {
            tree.take(&inner);
            tree.put(&inner, older);
        };
        vec![
            Case::new(sample, "folder/inner/file", change)
                .shows("an older inner file")
                .also(&["folder/inner"]),
        ]
    }),
    ("dir-in-place-of-another", |sample| {
        let (from, to) = (sample.lower("folder/inner"), sample.lower("bare"));
        let change = move |tree: &mut Tree| replace(tree, &from, &to);
        vec![Case::new(sample, "bare", change).shows("file")]
    }),
    ("dir-moved-with-its-name", |sample| {
        let inner = sample.lower("folder/inner");
        let name = inner.rsplit_once('/').unwrap().1.to_owned();
        let change = move |tree: &mut Tree| {
            let objects = tree.take(&inner);
            tree.put(&name, objects);
        };
        vec![
            Case::new(sample, "folder/inner", change)
                .listed()
                .also(&["folder"]),
        ]
    }),
    ("policy-dir-swapped", |sample| {
        let (a, b) = (sample.lower("nested"), sample.lower("bare"));
        let shows = joined(&["file", "large", "link", "sub"]);
        vec![
            Case::new(sample, "bare", move |tree| tree.swap(&a, &b))
                .shows(shows)
                .also(&["nested"]),
        ]
    }),
    ("policy-dir-slipped-in", |sample| {
        let (from, to) = (sample.lower("nested"), sample.lower("folder/inner"));
        vec![Case::new(sample, "folder/inner", move |tree| {
            replace(tree, &from, &to)
        })]
    }),
    ("dir-of-another-policy", |sample| {
        let (from, to) = (sample.lower("nested/sub"), sample.lower("folder/inner"));
        vec![Case::new(sample, "folder/inner", move |tree| {
            replace(tree, &from, &to)
        })]
    }),
    ("dir-of-unknown-policy", |sample| {
        let policy = policy_in(volume(sample), 77, 1, sample.mode);
        let header = sample.header("bare");
        let bytes = DirHeader::create(&policy)
            .unwrap()
            .0
            .encode()
            .unwrap()
            .to_vec();
        vec![Case::new(sample, "bare", move |tree| {
            *tree.at(&header).bytes().unwrap() = bytes
        })]
    }),
    ("dir-of-another-volume", |sample| {
        let to = sample.lower("folder");
        let foreign = sample.other.copy(&sample.other_lower["folder"]);
        let change = move |tree: &mut Tree| {
            tree.take(&to);
            tree.put(&to, foreign);
        };
        vec![Case::new(sample, "folder", change)]
    }),
    ("root-header-bits", |sample| {
        Case::bits(sample, "", ".kmsfs", 0..192)
    }),
    ("root-header-replaced", |sample| {
        let others = ["nested", "folder"].map(|path| sample.header(path));
        let mode = match sample.mode {
            ContentMode::Xts => ContentMode::Gcm,
            ContentMode::Gcm => ContentMode::Xts,
        };
        let unknown = DirHeader::create_root(&policy_in(volume(sample), 78, 1, mode))
            .unwrap()
            .0;
        let bytes = unknown.encode().unwrap().to_vec();
        let own = Case::new(sample, "", move |tree| {
            *tree.at(".kmsfs").bytes().unwrap() = bytes
        });
        others
            .into_iter()
            .map(|other| Case::new(sample, "", move |tree| replace(tree, &other, ".kmsfs")))
            .chain([own.what("a policy of the attacker's")])
            .collect()
    }),
    ("dir-replaced-by-symlink", |sample| {
        ["/etc", "..", "."]
            .map(|target| {
                put(
                    sample,
                    "folder/inner",
                    &sample.lower("folder/inner"),
                    Body::Symlink(target.into()),
                )
            })
            .into()
    }),
    ("dir-replaced-by-file", |sample| {
        let body = Body::File(vec![7; 5000], 5008);
        vec![put(
            sample,
            "folder/inner",
            &sample.lower("folder/inner"),
            body,
        )]
    }),
];

fn volume(sample: &Sample) -> VolumeId {
    let header = sample.tree.clone().at(".kmsfs").bytes().unwrap().clone();
    DirHeader::decode(&header).unwrap().volume()
}

fn header_length(sample: &Sample) -> Vec<Case> {
    [0, 1, 100, 191, 193]
        .map(|length| {
            let header = sample.header("folder");
            let change = move |tree: &mut Tree| {
                if let Body::File(bytes, size) = &mut tree.at(&header).body {
                    bytes.resize(length, 0);
                    *size = length as u64;
                }
            };
            Case::new(sample, "folder", change).what(format!("{length} bytes of header"))
        })
        .into()
}

/// Something else in the place of a lower object.
pub(super) fn put(sample: &Sample, path: &str, lower: &str, body: Body) -> Case {
    let what = format!("{body:?}").chars().take(30).collect::<String>();
    let lower = lower.to_owned();
    let change = move |tree: &mut Tree| {
        tree.take(&lower);
        tree.0.insert(lower, Object::new(body));
    };
    Case::new(sample, path, change).what(what)
}

/// A copy of one lower object in the place of another.
pub(super) fn replace(tree: &mut Tree, from: &str, to: &str) {
    let objects = tree.copy(from);
    tree.take(to);
    tree.put(to, objects);
}
