//! Objects of other kinds, and objects that were added.

use super::Row;
use super::directories::put;
use crate::case::{Case, Look};
use crate::fuzz::sample::Sample;
use crate::fuzz::tree::{Body, Object, Tree};

pub(super) const ROWS: &[Row] = &[
    ("file-replaced-by-special", |sample| {
        vec![
            put(
                sample,
                "folder/small",
                &sample.lower("folder/small"),
                Body::Fifo,
            )
            .shows("Fifo"),
            put(
                sample,
                "folder/small",
                &sample.lower("folder/small"),
                Body::Device,
            )
            .shows("CharDevice"),
        ]
    }),
    ("file-replaced-by-directory", |sample| {
        vec![
            put(
                sample,
                "folder/small",
                &sample.lower("folder/small"),
                Body::Directory,
            )
            .shows(""),
        ]
    }),
    ("file-replaced-by-symlink", |sample| {
        let other = sample.lower("other/small");
        ["/etc/passwd".to_owned(), format!("../{other}")]
            .map(|target| {
                put(
                    sample,
                    "folder/small",
                    &sample.lower("folder/small"),
                    Body::Symlink(target.into_bytes()),
                )
            })
            .into()
    }),
    ("special-replaced", |sample| {
        vec![
            put(
                sample,
                "folder/fifo",
                &sample.lower("folder/fifo"),
                Body::Device,
            )
            .shows("CharDevice"),
        ]
    }),
    ("entry-foreign", |sample| {
        [
            added(sample, "plain", Body::File(b"whatever".to_vec(), 8)),
            added(sample, "plain", Body::Directory),
            added(sample, "=", Body::Fifo),
            added(sample, "AAAA", Body::Symlink(b"/etc".to_vec())),
            added(sample, ".kmsfs.unknown", Body::Directory),
            added(sample, ".kmsfs.lost", Body::Directory),
            added(
                sample,
                ".kmsfs.t.0011223344556677",
                Body::File(vec![7; 100], 100),
            ),
        ]
        .into()
    }),
    ("entry-with-a-name-of-ours", |sample| {
        [
            added(sample, &"A".repeat(43), Body::File(vec![7; 100], 100)),
            added(sample, &"B".repeat(64), Body::Directory),
            added(
                sample,
                &format!("={}", "A".repeat(43)),
                Body::Symlink(b"/etc".to_vec()),
            ),
        ]
        .into()
    }),
    ("hard-link-inside-policy", |sample| {
        let first = sample.lower("folder/small");
        let body = Body::HardLink(first);
        vec![
            put(sample, "other/small", &sample.lower("other/small"), body)
                .shows("the present small file")
                .held("folder/small"),
        ]
    }),
    ("hard-link-into-another-policy", |sample| {
        [
            ("folder/small", "nested/file"),
            ("folder/large", "nested/large"),
            ("nested/file", "other/small"),
        ]
        .into_iter()
        .flat_map(|(from, path)| {
            let case = || {
                put(
                    sample,
                    path,
                    &sample.lower(path),
                    Body::HardLink(sample.lower(from)),
                )
            };
            [case(), case().held(from).what("while the other is open")]
        })
        .collect()
    }),
    ("symlink-hard-linked", |sample| {
        let case = || {
            put(
                sample,
                "nested/link",
                &sample.lower("nested/link"),
                Body::HardLink(sample.lower("folder/link")),
            )
        };
        vec![
            case(),
            case().held("folder/link").what("while the other is known"),
        ]
    }),
    ("mode-changed", |sample| {
        ["folder/small", "folder/inner"]
            .map(|path| {
                let lower = sample.lower(path);
                Case::new(sample, path, move |tree| tree.at(&lower).mode = 0o4777)
                    .look(Look::Mode)
                    .shows(0o4777_u32.to_le_bytes())
            })
            .into()
    }),
];

/// An entry that nobody made through the mount.
fn added(sample: &Sample, name: &str, body: Body) -> Case {
    let place = sample.inside("folder", name);
    let lower = place.clone();
    Case::new(sample, "folder", move |tree: &mut Tree| {
        tree.0.insert(place, Object::new(body));
    })
    .lower(lower)
    .what(name)
}
