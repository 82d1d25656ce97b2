//! The Merkle tree of RFC 6962 over the lines of the log: roots, proofs, their verification.
//!
//! The leaf is a line without its newline. While the log grows only the [`Edge`] is kept: the roots of the perfect
//! subtrees that the leaves so far fill, one for each bit of the size. It is what a restart needs, and together
//! with the leaves since, what a consistency proof needs.

use data_encoding::HEXLOWER;
use kms_crypto::sha256;

/// A node of the tree.
pub type Hash = [u8; 32];

/// Hash of a leaf: SHA-256 over a zero byte and the record (RFC 6962, 2.1).
#[must_use]
pub fn leaf_hash(record: &[u8]) -> Hash {
    sha256(&[&[0], record])
}

/// Hash of an inner node: SHA-256 over a one byte and both children.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// The right edge of a growing tree: O(log n) memory, amortised two hashes for each leaf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    /// Roots of the perfect subtrees from left to right, so from the largest to the smallest.
    nodes: Vec<Hash>,
}

impl Edge {
    /// The tree without leaves.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            size: 0,
            nodes: Vec::new(),
        }
    }

    /// An edge that was kept. `None` if that many nodes cannot be the edge of a tree of that size. That the nodes are the
    /// right ones is shown by [`root`](Self::root) alone.
    #[must_use]
    pub fn from_parts(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        let fits = usize::try_from(size.count_ones()).is_ok_and(|count| count == nodes.len());
        fits.then_some(Self { size, nodes })
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the perfect subtrees, largest first.
    #[must_use]
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// The edge as text: the size and the nodes in hexadecimal, a line each.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.size);
        for node in &self.nodes {
            text.push_str(&HEXLOWER.encode(node));
            text.push('\n');
        }
        text
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let size = lines.next()?.parse().ok()?;
        let nodes = lines
            .map(|line| HEXLOWER.decode(line.as_bytes()).ok()?.try_into().ok())
            .collect::<Option<Vec<Hash>>>()?;
        Self::from_parts(size, nodes)
    }

    /// Appends a leaf, given by its [`leaf_hash`].
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        let mut rest = self.size;
        while rest & 1 == 1 {
            let Some(left) = self.nodes.pop() else { break };
            node = node_hash(&left, &node);
            rest >>= 1;
        }
        self.nodes.push(node);
        self.size = self.size.saturating_add(1);
    }

    /// The root; of the empty tree the hash of nothing.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut from_right = self.nodes.iter().rev();
        match from_right.next() {
            None => sha256(&[]),
            Some(last) => from_right.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

/// Root of the tree over these leaf hashes.
#[must_use]
pub fn root_of(leaves: &[Hash]) -> Hash {
    let mut edge = Edge::new();
    leaves.iter().for_each(|leaf| edge.push(*leaf));
    edge.root()
}

/// Inclusion proof of leaf `index` in the tree over `leaves` (RFC 6962, 2.1.1): the siblings from the leaf up. `None` if
/// there is no such leaf.
#[must_use]
pub fn inclusion_proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let (mut leaves, mut index) = (leaves, index);
    let mut from_top = Vec::new();
    while leaves.len() > 1 {
        let (left, right) = leaves.split_at_checked(split(leaves.len()))?;
        if index < left.len() {
            from_top.push(root_of(right));
            leaves = left;
        } else {
            from_top.push(root_of(left));
            index -= left.len();
            leaves = right;
        }
    }
    from_top.reverse();
    Some(from_top)
}

/// Consistency proof (RFC 6962, 2.1.2) from the tree of `old` to the one with `added` appended to it. Empty when
/// one of the trees is empty or nothing was added.
#[must_use]
pub fn consistency_proof(old: &Edge, added: &[Hash]) -> Vec<Hash> {
    let mut proof = Vec::new();
    if old.size > 0 && !added.is_empty() {
        let size = old.size.saturating_add(added.len() as u64);
        subproof(old, added, (0, size), true, &mut proof);
    }
    proof
}

/// SUBPROOF of RFC 6962 over the leaves `from..to`, of which those before `old.size` are the old tree's.
fn subproof(old: &Edge, added: &[Hash], range: (u64, u64), whole: bool, proof: &mut Vec<Hash>) {
    let (from, to) = range;
    if to == old.size {
        if !whole {
            proof.extend(range_root(old, added, from, to));
        }
        return;
    }
    let middle = from + split_u64(to - from);
    if old.size <= middle {
        subproof(old, added, (from, middle), whole, proof);
        proof.extend(range_root(old, added, middle, to));
    } else {
        subproof(old, added, (middle, to), false, proof);
        proof.extend(range_root(old, added, from, middle));
    }
}

/// Root of a subtree that a consistency proof names: wholly old, then it is a node of the old edge, or wholly new.
fn range_root(old: &Edge, added: &[Hash], from: u64, to: u64) -> Option<Hash> {
    if let Some(first) = from.checked_sub(old.size) {
        let first = usize::try_from(first).ok()?;
        let last = usize::try_from(to.checked_sub(old.size)?).ok()?;
        return added.get(first..last).map(root_of);
    }
    let mut start = 0;
    let mut rest = old.size;
    for node in &old.nodes {
        let width = 1_u64 << (u64::BITS - 1 - rest.leading_zeros());
        if (start, start + width) == (from, to) {
            return Some(*node);
        }
        start += width;
        rest -= width;
    }
    None
}

/// Whether `proof` shows that `leaf` is number `index` of the tree with that size and root (RFC 9162, 2.1.3.2).
#[must_use]
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut fn_, mut sn) = (index, size - 1);
    let mut node = *leaf;
    for sibling in proof {
        if sn == 0 {
            return false;
        }
        if fn_ & 1 == 1 || fn_ == sn {
            node = node_hash(sibling, &node);
            while fn_ & 1 == 0 && fn_ != 0 {
                fn_ >>= 1;
                sn >>= 1;
            }
        } else {
            node = node_hash(&node, sibling);
        }
        fn_ >>= 1;
        sn >>= 1;
    }
    sn == 0 && node == *root
}

/// Whether `proof` shows that the first `old.0` leaves of the tree with size and root `new` are the tree with
/// root `old.1` (RFC 9162, 2.1.4.2). From the empty tree everything follows; its proof is empty.
#[must_use]
pub fn verify_consistency(old: (u64, &Hash), new: (u64, &Hash), proof: &[Hash]) -> bool {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size > new_size {
        return false;
    }
    if old_size == new_size {
        return proof.is_empty() && old_root == new_root;
    }
    if old_size == 0 {
        return proof.is_empty() && *old_root == sha256(&[]);
    }
    // A perfect old tree is a node of the new one and left out of the proof.
    let mut nodes = proof.iter();
    let first = if old_size.is_power_of_two() {
        old_root
    } else {
        match nodes.next() {
            Some(node) => node,
            None => return false,
        }
    };
    let (mut fn_, mut sn) = (old_size - 1, new_size - 1);
    while fn_ & 1 == 1 {
        fn_ >>= 1;
        sn >>= 1;
    }
    let (mut old_node, mut new_node) = (*first, *first);
    for sibling in nodes {
        if sn == 0 {
            return false;
        }
        if fn_ & 1 == 1 || fn_ == sn {
            old_node = node_hash(sibling, &old_node);
            new_node = node_hash(sibling, &new_node);
            while fn_ & 1 == 0 && fn_ != 0 {
                fn_ >>= 1;
                sn >>= 1;
            }
        } else {
            new_node = node_hash(&new_node, sibling);
        }
        fn_ >>= 1;
        sn >>= 1;
    }
    sn == 0 && old_node == *old_root && new_node == *new_root
}

/// The largest power of two below `len`, which is at least 2.
fn split(len: usize) -> usize {
    1 << (usize::BITS - 1 - (len - 1).leading_zeros())
}

fn split_u64(len: u64) -> u64 {
    1 << (u64::BITS - 1 - (len - 1).leading_zeros())
}

#[cfg(test)]
mod tests;
