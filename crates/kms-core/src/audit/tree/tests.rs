//! The vectors of RFC 6962's reference implementation, and the definitions of the RFC written down naively.

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;

/// Leaves of the reference implementation's tests (certificate-transparency, merkle_tree_test).
const LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];
/// Its roots of the first 1 to 8 of them.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn hash(text: &str) -> Hash {
    HEXLOWER
        .decode(text.as_bytes())
        .unwrap()
        .try_into()
        .unwrap()
}

fn leaves() -> Vec<Hash> {
    LEAVES
        .iter()
        .map(|leaf| leaf_hash(&HEXLOWER.decode(leaf.as_bytes()).unwrap()))
        .collect()
}

fn numbered(count: usize) -> Vec<Hash> {
    (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn edge(leaves: &[Hash]) -> Edge {
    let mut edge = Edge::new();
    leaves.iter().for_each(|leaf| edge.push(*leaf));
    edge
}

/// MTH of RFC 6962, 2.1.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(naive_split(leaves.len()));
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

fn naive_split(len: usize) -> usize {
    let mut k = 1;
    while k * 2 < len {
        k *= 2;
    }
    k
}

/// PATH of RFC 6962, 2.1.1.
fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(naive_split(leaves.len()));
    if index < left.len() {
        [naive_path(index, left), vec![naive_root(right)]].concat()
    } else {
        [
            naive_path(index - left.len(), right),
            vec![naive_root(left)],
        ]
        .concat()
    }
}

/// SUBPROOF of RFC 6962, 2.1.2.
fn naive_subproof(m: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if m == leaves.len() {
        return if whole {
            Vec::new()
        } else {
            vec![naive_root(leaves)]
        };
    }
    let (left, right) = leaves.split_at(naive_split(leaves.len()));
    if m <= left.len() {
        [naive_subproof(m, left, whole), vec![naive_root(right)]].concat()
    } else {
        [
            naive_subproof(m - left.len(), right, false),
            vec![naive_root(left)],
        ]
        .concat()
    }
}

#[test]
fn roots_of_the_reference_implementation() {
    let leaves = leaves();
    assert_eq!(
        Edge::new().root(),
        hash("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    );
    for (count, root) in (1..).zip(ROOTS) {
        assert_eq!(edge(&leaves[..count]).root(), hash(root), "{count} leaves");
    }
}

#[test]
fn proofs_of_the_reference_implementation() {
    let leaves = leaves();
    let proof = inclusion_proof(&leaves, 5).unwrap();
    let expected = [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ];
    assert_eq!(proof, expected.map(hash));
    assert!(verify_inclusion(&leaves[5], 5, 8, &proof, &hash(ROOTS[7])));
    let consistency = consistency_proof(&edge(&leaves[..6]), &leaves[6..]);
    let expected = [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ];
    assert_eq!(consistency, expected.map(hash));
    assert!(verify_consistency(
        (6, &hash(ROOTS[5])),
        (8, &hash(ROOTS[7])),
        &consistency
    ));
}

#[test]
fn every_proof_of_every_small_tree_is_the_definition_and_verifies() {
    let all = numbered(40);
    for size in 1..=all.len() {
        let leaves = &all[..size];
        let root = naive_root(leaves);
        assert_eq!(edge(leaves).root(), root);
        for index in 0..size {
            let proof = inclusion_proof(leaves, index).unwrap();
            assert_eq!(proof, naive_path(index, leaves));
            assert!(verify_inclusion(
                &leaves[index],
                index as u64,
                size as u64,
                &proof,
                &root
            ));
        }
        assert_eq!(inclusion_proof(leaves, size), None);
        for old in 0..=size {
            let proof = consistency_proof(&edge(&leaves[..old]), &leaves[old..]);
            if old > 0 {
                assert_eq!(proof, naive_subproof(old, leaves, true), "{old} of {size}");
            }
            let old_root = naive_root(&leaves[..old]);
            assert!(verify_consistency(
                (old as u64, &old_root),
                (size as u64, &root),
                &proof
            ));
        }
    }
}

#[test]
fn an_edge_of_the_wrong_size_is_refused() {
    let nodes = edge(&numbered(6)).nodes().to_vec();
    assert!(Edge::from_parts(6, nodes.clone()).is_some());
    assert!(Edge::from_parts(7, nodes.clone()).is_none());
    assert!(Edge::from_parts(0, nodes).is_none());
    for size in 0..20 {
        let edge = edge(&numbered(size));
        assert_eq!(Edge::parse(&edge.to_text()), Some(edge.clone()));
        assert_eq!(Edge::parse(&format!("{}00\n", edge.to_text())), None);
    }
    assert_eq!(Edge::parse(""), None);
}

proptest! {
    #[test]
    fn a_kept_edge_goes_on_as_if_it_had_never_stopped(first in 0..200_usize, second in 0..200_usize) {
        let leaves = numbered(first + second);
        let kept = edge(&leaves[..first]);
        let mut again = Edge::from_parts(kept.size(), kept.nodes().to_vec()).unwrap();
        leaves[first..].iter().for_each(|leaf| again.push(*leaf));
        prop_assert_eq!(again.root(), naive_root(&leaves));
    }

    #[test]
    fn no_altered_inclusion_proof_verifies(
        size in 1..300_usize, pick in any::<prop::sample::Index>(),
        change in 0..6_u8, at in any::<prop::sample::Index>(), bit in 0..256_usize,
    ) {
        let leaves = numbered(size);
        let index = pick.index(size);
        let root = naive_root(&leaves);
        let mut proof = inclusion_proof(&leaves, index).unwrap();
        let (mut leaf, mut place, mut count, mut top) = (leaves[index], index as u64, size as u64, root);
        match change {
            0 => leaf[bit / 8] ^= 1 << (bit % 8),
            1 => top[bit / 8] ^= 1 << (bit % 8),
            2 if !proof.is_empty() => { let at = at.index(proof.len()); proof[at][bit / 8] ^= 1 << (bit % 8); }
            3 => proof.push(leaf),
            4 if !proof.is_empty() => { proof.remove(at.index(proof.len())); }
            _ if size > 1 => place = (place + 1 + at.index(size - 1) as u64) % count,
            _ => count = 0,
        }
        prop_assert!(!verify_inclusion(&leaf, place, count, &proof, &top));
    }

    #[test]
    fn no_altered_consistency_proof_verifies(
        size in 2..300_usize, pick in any::<prop::sample::Index>(),
        change in 0..5_u8, at in any::<prop::sample::Index>(), bit in 0..256_usize,
    ) {
        let leaves = numbered(size);
        let old = 1 + pick.index(size - 1);
        let (mut old_root, mut root) = (naive_root(&leaves[..old]), naive_root(&leaves));
        let mut proof = consistency_proof(&edge(&leaves[..old]), &leaves[old..]);
        match change {
            0 => old_root[bit / 8] ^= 1 << (bit % 8),
            1 => root[bit / 8] ^= 1 << (bit % 8),
            2 => { let at = at.index(proof.len()); proof[at][bit / 8] ^= 1 << (bit % 8); }
            3 => proof.push(root),
            _ => { proof.remove(at.index(proof.len())); }
        }
        prop_assert!(!verify_consistency((old as u64, &old_root), (size as u64, &root), &proof));
    }
}
