//! Ids of requests and of records, which every request needs two of.

use std::cell::RefCell;

use uuid::{Builder, Uuid, fmt::Hyphenated};

/// How many a thread draws at a time: each draw asks the random generator, which costs more than all the rest of an id.
const DRAWN: usize = 32;

/// A random UUID (version 4).
pub(crate) fn draw() -> Uuid {
    thread_local! {
        static LEFT: RefCell<Vec<[u8; 16]>> = const { RefCell::new(Vec::new()) };
    }
    LEFT.with_borrow_mut(|left| {
        if left.is_empty() {
            let mut drawn = [[0; 16]; DRAWN];
            if kms_crypto::fill_random(drawn.as_flattened_mut()).is_err() {
                // By another way, which asks the kernel.
                return Uuid::new_v4();
            }
            left.extend(drawn);
        }
        left.pop().map_or_else(Uuid::new_v4, |bytes| {
            Builder::from_random_bytes(bytes).into_uuid()
        })
    })
}

/// Its text.
pub(crate) fn text(id: Uuid) -> String {
    let mut buffer = [0; Hyphenated::LENGTH];
    id.as_hyphenated().encode_lower(&mut buffer).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_random_uuids_and_never_the_same() {
        let drawn: Vec<Uuid> = (0..3 * DRAWN + 1).map(|_| draw()).collect();
        let different: std::collections::HashSet<&Uuid> = drawn.iter().collect();
        assert_eq!(different.len(), drawn.len());
        for id in drawn {
            assert_eq!(id.get_version_num(), 4);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            assert_eq!(text(id), id.to_string());
        }
    }

    #[test]
    fn threads_draw_different_ones() {
        let other = std::thread::spawn(|| (0..DRAWN).map(|_| draw()).collect::<Vec<_>>());
        let ours: Vec<Uuid> = (0..DRAWN).map(|_| draw()).collect();
        let others = other.join().unwrap();
        assert!(ours.iter().all(|id| !others.contains(id)));
    }
}
