//! A search that finds nothing must be able to find something.

use super::*;

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn names(list: &[&str]) -> HashSet<OsString> {
    list.iter().map(OsString::from).collect()
}

#[test]
fn noise_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), noise(1 << 20, 1)).unwrap();
    std::fs::write(folder.path().join("b"), noise(1 << 20, 2)).unwrap();
    let leaks = search(
        folder.path(),
        &[b"plain text".to_vec()],
        &names(&["Cargo.toml"]),
    );
    assert!(leaks.content.is_empty() && leaks.names.is_empty() && leaks.equal_pages.is_empty());
    assert!(leaks.entropy > 7.999, "{leaks:?}");
    assert_eq!(leaks.bytes, 2 << 20);
}

#[test]
fn planted_plaintext_is_found_wherever_it_is() {
    let needle = b"plain text".to_vec();
    for position in [0, 1, 4_090, 99_990] {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = noise(100_000, 3);
        bytes[position..position + needle.len()].copy_from_slice(&needle);
        std::fs::write(folder.path().join("a"), bytes).unwrap();
        let leaks = search(
            folder.path(),
            &[b"other text".to_vec(), needle.clone()],
            &names(&[]),
        );
        assert_eq!(leaks.content.len(), 1, "at {position}");
        assert_eq!(leaks.content[0].1, "plain text");
    }
}

#[test]
fn planted_names_and_targets_are_found() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("x/Cargo.toml")).unwrap();
    std::os::unix::fs::symlink("../src/Cargo.toml", folder.path().join("link")).unwrap();
    let leaks = search(folder.path(), &[], &names(&["Cargo.toml"]));
    assert_eq!(leaks.names.len(), 2, "{leaks:?}");
}

#[test]
fn equal_pages_are_found_and_holes_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let page = noise(4_096, 4);
    std::fs::write(
        folder.path().join("a"),
        [noise(4_096, 5), page.clone()].concat(),
    )
    .unwrap();
    std::fs::write(folder.path().join("b"), [page, vec![0; 8_192]].concat()).unwrap();
    std::fs::hard_link(folder.path().join("a"), folder.path().join("same file")).unwrap();
    let leaks = search(folder.path(), &[], &names(&[]));
    assert_eq!(leaks.equal_pages.len(), 1, "{leaks:?}");
}

#[test]
fn a_difference_between_trees_is_found() {
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(left.path().join("a"), "same").unwrap();
    copy_with_tar(left.path(), right.path());
    assert_same(left.path(), right.path());
    std::fs::write(right.path().join("a"), "sane").unwrap();
    let failed = std::panic::catch_unwind(|| assert_same(left.path(), right.path()));
    assert!(failed.is_err());
}
