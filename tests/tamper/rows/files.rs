//! Files as a whole, their headers and their sizes.

use kms_format::names::UNCLEAN;

use super::Row;
use super::directories::replace;
use crate::case::Case;
use crate::fuzz::sample::{Sample, large};
use crate::fuzz::tree::{Body, Object, Tree};

/// One that is inline, one that is not.
const BOTH: [&str; 2] = ["folder/small", "folder/large"];
const PAGE: usize = 4096;

pub(super) const ROWS: &[Row] = &[
    ("file-header-bits", |sample| bits(sample, &BOTH, 0..128)),
    ("file-slot-bits", |sample| {
        bits(sample, &BOTH, (128..152).chain(156..256))
    }),
    ("file-slot-generation", |sample| {
        bits(sample, &BOTH, 152..156)
    }),
    ("file-spare-slot-bits", |sample| {
        bits(sample, &BOTH, 3968..4096)
    }),
    ("file-body-bits", |sample| {
        let length = "the present small file".len();
        bits(sample, &["folder/small"], 256..256 + length)
    }),
    ("file-padding-bits", |sample| {
        bits(sample, &BOTH, [300, 1000, 3967].into_iter())
    }),
    ("file-header-of-another", |sample| {
        let (from, to) = (
            sample.lower("folder/other large"),
            sample.lower("folder/large"),
        );
        vec![Case::new(sample, "folder/large", move |tree| {
            let header = tree.at(&from).bytes().unwrap()[..PAGE].to_vec();
            tree.at(&to).bytes().unwrap()[..PAGE].copy_from_slice(&header);
        })]
    }),
    ("file-header-older", |sample| {
        let lower = sample.lower("folder/large");
        let header = sample.older.clone().at(&lower).bytes().unwrap()[..PAGE].to_vec();
        let change = move |tree: &mut Tree| {
            tree.at(&lower).bytes().unwrap()[..PAGE].copy_from_slice(&header);
        };
        vec![Case::new(sample, "folder/large", change)]
    }),
    ("file-header-zeroed", |sample| {
        BOTH.map(|path| {
            let lower = sample.lower(path);
            let change = move |tree: &mut Tree| tree.at(&lower).bytes().unwrap()[..PAGE].fill(0);
            Case::new(sample, path, change).shows("")
        })
        .into()
    }),
    ("file-swapped", |sample| {
        let (a, b) = (sample.lower("folder/small"), sample.lower("other/small"));
        let c = sample.lower("folder/large");
        let first = a.clone();
        vec![
            Case::new(sample, "folder/small", move |tree| tree.swap(&first, &b))
                .shows("elsewhere")
                .also(&["other/small"])
                .what("of another directory"),
            Case::new(sample, "folder/small", move |tree| tree.swap(&a, &c))
                .shows(large(false))
                .also(&["folder/large"])
                .what("of its own directory"),
        ]
    }),
    ("file-rolled-back", |sample| {
        BOTH.map(|path| {
            let lower = sample.lower(path);
            let older = sample.older.copy(&lower);
            let change = move |tree: &mut Tree| {
                tree.take(&lower);
                tree.put(&lower, older);
            };
            let shows = if path == "folder/large" {
                large(true)
            } else {
                b"an older small file".to_vec()
            };
            Case::new(sample, path, change).shows(shows)
        })
        .into()
    }),
    ("file-of-another-policy", |sample| {
        [
            ("nested/file", "folder/small"),
            ("nested/large", "folder/large"),
            ("folder/small", "nested/file"),
        ]
        .map(|(from, path)| {
            let (from, to) = (sample.lower(from), sample.lower(path));
            Case::new(sample, path, move |tree| replace(tree, &from, &to))
        })
        .into()
    }),
    ("file-of-another-volume", |sample| {
        BOTH.map(|path| {
            let lower = sample.lower(path);
            let foreign = sample.other.copy(&sample.other_lower[path]);
            let change = move |tree: &mut Tree| {
                tree.take(&lower);
                tree.put(&lower, foreign);
            };
            Case::new(sample, path, change)
        })
        .into()
    }),
    ("file-removed", |sample| {
        let lower = sample.lower("folder/small");
        vec![Case::new(sample, "folder/small", move |tree| {
            drop(tree.take(&lower))
        })]
    }),
    ("file-cut-to-nothing", |sample| {
        BOTH.map(|path| sized(sample, path, 0).shows("")).into()
    }),
    ("file-cut-in-header", |sample| {
        let sizes = [1, 100, 512, 4095];
        BOTH.into_iter()
            .flat_map(|path| sizes.map(|size| sized(sample, path, size)))
            .collect()
    }),
    ("inline-size", |sample| {
        let sizes = [4096, 4097, 4112, 8192, 12_255, 100_000, 1 << 40];
        sizes.map(|size| sized(sample, "folder/small", size)).into()
    }),
    ("units-cut-to-header", |sample| {
        vec![sized(sample, "folder/large", 4096).shows("")]
    }),
    ("units-cut", |sample| {
        [1, 2, 3]
            .map(|units| {
                let kept = units * PAGE;
                sized(sample, "folder/large", (PAGE + kept) as u64).shows(&large(false)[..kept])
            })
            .into()
    }),
    ("units-extended", |sample| {
        [8, 9, 20]
            .map(|units| {
                let mut shows = large(false);
                shows.resize(units * PAGE, 0);
                sized(sample, "folder/large", ((1 + units) * PAGE) as u64).shows(shows)
            })
            .into()
    }),
    ("units-size-impossible", |sample| {
        [4097, 4100, 4111]
            .map(|size| sized(sample, "folder/large", size))
            .into()
    }),
    ("unclean-added", |sample| {
        let paths = [
            "folder/small",
            "folder/large",
            "folder/sparse",
            "folder/empty",
            "nested/large",
        ];
        paths.map(|path| Case::new(sample, path, unclean)).into()
    }),
    ("unclean-and-cut-to-nothing", |sample| {
        BOTH.map(|path| {
            let (lower, size) = (sample.lower(path), 0);
            let change = move |tree: &mut Tree| {
                unclean(tree);
                resize(tree, &lower, size);
            };
            Case::new(sample, path, change).shows("")
        })
        .into()
    }),
    ("unclean-and-cut", |sample| {
        let lower = sample.lower("folder/large");
        let kept = 2 * PAGE;
        let change = move |tree: &mut Tree| {
            unclean(tree);
            resize(tree, &lower, (PAGE + kept) as u64);
        };
        vec![Case::new(sample, "folder/large", change).shows(&large(false)[..kept])]
    }),
];

fn bits(sample: &Sample, paths: &[&str], bytes: impl Iterator<Item = usize> + Clone) -> Vec<Case> {
    let all = paths
        .iter()
        .map(|path| Case::bits(sample, path, &sample.lower(path), bytes.clone()));
    all.flatten().collect()
}

fn sized(sample: &Sample, path: &str, size: u64) -> Case {
    let lower = sample.lower(path);
    Case::new(sample, path, move |tree| resize(tree, &lower, size)).what(format!("{size} bytes"))
}

fn resize(tree: &mut Tree, lower: &str, new: u64) {
    if let Body::File(bytes, size) = &mut tree.at(lower).body {
        bytes.truncate(usize::try_from(new).unwrap());
        *size = new;
    }
}

fn unclean(tree: &mut Tree) {
    tree.0
        .insert(UNCLEAN.to_owned(), Object::new(Body::File(Vec::new(), 0)));
}
