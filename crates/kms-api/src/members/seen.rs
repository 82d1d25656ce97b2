//! What is looked for in bodies: tests make their own out of it, so that no member is forgotten.

use std::cell::RefCell;
use std::collections::BTreeSet;

/// Names of members, and values of enumerations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) members: BTreeSet<String>,
    pub(crate) values: BTreeSet<&'static str>,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

pub(super) fn member(name: &str) {
    SEEN.with_borrow_mut(|seen| {
        if !seen.members.contains(name) {
            seen.members.insert(name.to_owned());
        }
    });
}

pub(super) fn values(wire: &[&'static str]) {
    SEEN.with_borrow_mut(|seen| seen.values.extend(wire));
}

/// What `decode` looks for.
pub(crate) fn by(decode: impl FnOnce()) -> Seen {
    SEEN.take();
    decode();
    SEEN.take()
}
