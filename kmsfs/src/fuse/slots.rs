//! Which request each thread is at, so that a revocation can end what may not be answered any more, and answer what its
//! thread does not.
//!
//! A reply is written under the lock of the thread's slot, after it was judged. So whoever changes what is revoked and
//! then takes the lock of every slot once knows that no reply will be sent that was judged before.

use parking_lot::Mutex;

use super::request::Header;
use crate::revoke::marks::Asked;

/// One thread.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<Busy>>);

/// A request that is being handled.
#[derive(Clone, Copy)]
pub(super) struct Busy {
    pub(super) header: Header,
    pub(super) asked: Asked,
    /// Somebody else has answered it.
    answered: bool,
}

impl Slot {
    /// The thread is at this request from now on.
    pub(super) fn begin(&self, header: Header, asked: Asked) {
        *self.0.lock() = Some(Busy {
            header,
            asked,
            answered: false,
        });
    }

    /// The thread is done with its request. `last` is called, unless somebody else has answered, while nobody can.
    pub(super) fn end<T>(&self, last: impl FnOnce() -> T) -> Option<T> {
        let mut busy = self.0.lock();
        let answered = busy.take().is_some_and(|busy| busy.answered);
        (!answered).then(last)
    }

    /// Calls `answer` for the request the thread is at, which says whether it answered. Returns the request if it did not.
    pub(super) fn interrupt(&self, answer: impl FnOnce(&Busy) -> bool) -> Option<u64> {
        let mut slot = self.0.lock();
        let busy = slot.as_mut().filter(|busy| !busy.answered)?;
        if answer(busy) {
            busy.answered = true;
            return None;
        }
        Some(busy.header.unique)
    }

    /// Whether the thread is still at a request that nobody has answered.
    pub(super) fn is_at(&self, unique: u64) -> bool {
        let slot = self.0.lock();
        slot.is_some_and(|busy| busy.header.unique == unique && !busy.answered)
    }
}
