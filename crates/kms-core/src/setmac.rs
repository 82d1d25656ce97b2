//! A keyed MAC over the set of all rows, updated in time proportional to what changed.
//!
//! Every row is put through HMAC-SHA256 under a key that only this store knows; the outputs are
//! combined by exclusive or, which does not depend on order. Rows are unique by table and id, so two
//! different sets differ in at least one pseudorandom output that cancels nowhere. The combination
//! itself is never stored: what is stored is an HMAC of it, so an attacker learns no output and
//! cannot look for sets that combine alike.

use std::collections::HashMap;

use kms_crypto::{Key, hmac_sha256};

use crate::rows::{RawRow, Table};

/// The running MAC.
pub struct SetMac {
    key: Key<32>,
    rows: HashMap<(Table, String), [u8; 32]>,
    combined: [u8; 32],
}

impl SetMac {
    /// An empty set under `key`.
    pub fn new(key: Key<32>) -> Self {
        Self {
            key,
            rows: HashMap::new(),
            combined: [0; 32],
        }
    }

    /// Adds or replaces a row. The MAC's own row is not part of the set and is ignored.
    pub fn put(&mut self, row: &RawRow) {
        if row.table == Table::Mac {
            return;
        }
        let tag = self.tag(row);
        if let Some(old) = self.rows.insert((row.table, row.id.clone()), tag) {
            xor(&mut self.combined, &old);
        }
        xor(&mut self.combined, &tag);
    }

    /// Removes a row, if it is there.
    pub fn remove(&mut self, table: Table, id: &str) {
        if let Some(old) = self.rows.remove(&(table, id.to_owned())) {
            xor(&mut self.combined, &old);
        }
    }

    /// The MAC of the set as it is now.
    pub fn value(&self) -> [u8; 32] {
        let count = (self.rows.len() as u64).to_be_bytes();
        hmac_sha256(
            self.key.expose(),
            &[b"kmsd set mac 1\0set".as_slice(), &count, &self.combined],
        )
    }

    fn tag(&self, row: &RawRow) -> [u8; 32] {
        let table = row.table.name();
        let lengths = [
            table.len() as u64,
            row.id.len() as u64,
            row.body.len() as u64,
        ];
        let [a, b, c] = lengths.map(u64::to_be_bytes);
        hmac_sha256(
            self.key.expose(),
            &[
                b"kmsd set mac 1\0row".as_slice(),
                &a,
                table.as_bytes(),
                &b,
                row.id.as_bytes(),
                &c,
                &row.body,
            ],
        )
    }
}

fn xor(into: &mut [u8; 32], other: &[u8; 32]) {
    for (a, b) in into.iter_mut().zip(other) {
        *a ^= b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(table: Table, id: &str, body: &str) -> RawRow {
        RawRow {
            table,
            id: id.into(),
            body: body.into(),
        }
    }

    fn mac(rows: &[RawRow]) -> [u8; 32] {
        let mut mac = SetMac::new(Key::from_slice(&[7; 32]).unwrap());
        rows.iter().for_each(|r| mac.put(r));
        mac.value()
    }

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        let a = row(Table::Key, "a", "1");
        let b = row(Table::Alias, "b", "2");
        let base = mac(&[a.clone(), b.clone()]);
        assert_eq!(base, mac(&[b.clone(), a.clone()]));
        for other in [
            vec![a.clone()],
            vec![a.clone(), row(Table::Alias, "b", "3")],
            vec![a.clone(), row(Table::Alias, "c", "2")],
            vec![a.clone(), row(Table::Policy, "b", "2")],
            vec![a, b, row(Table::Key, "c", "")],
            vec![],
        ] {
            assert_ne!(base, mac(&other));
        }
    }

    #[test]
    fn updates_in_place_equal_a_fresh_start() {
        let mut running = SetMac::new(Key::from_slice(&[7; 32]).unwrap());
        running.put(&row(Table::Key, "a", "1"));
        running.put(&row(Table::Key, "b", "1"));
        running.put(&row(Table::Key, "a", "2"));
        running.remove(Table::Key, "b");
        running.remove(Table::Key, "absent");
        running.put(&row(Table::Mac, "store", "not part of the set"));
        assert_eq!(running.value(), mac(&[row(Table::Key, "a", "2")]));
    }
}
