//! What a revocation does to requests: those that hold it up are answered in the place of their threads.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::asked::asked;
use super::notify;
use super::request::Header;
use super::serve::{Shared, failure};
use super::slots::Slot;
use crate::fs::NodeId;
use crate::revoke::Kernel;
use crate::revoke::marks::{Asked, Class, Verdict};

/// How long a revocation lets writes that are under way come to their end.
const GRACE: Duration = Duration::from_millis(50);

impl Shared {
    /// Answers, in place of their threads, requests that `judge` refuses and that hold up invalidations.
    fn interrupt(&self, judge: &dyn Fn(&Asked) -> Verdict) {
        let mut writing = Vec::new();
        for slot in &self.slots {
            let left = slot.interrupt(|busy| self.refuse(&busy.header, &busy.asked, judge, false));
            if let Some(unique) = left {
                writing.push((slot, unique));
            }
        }
        // Those that change something are let come to their end, so that what they say is true.
        let until = Instant::now() + GRACE;
        for (slot, unique) in writing {
            let holds_up = |slot: &Slot| {
                let mut holds_up = false;
                slot.interrupt(|busy| {
                    holds_up = busy.header.unique == unique
                        && busy.asked.blocks()
                        && matches!(judge(&busy.asked), Verdict::Fail(_));
                    false
                });
                holds_up
            };
            if !holds_up(slot) {
                continue;
            }
            while slot.is_at(unique) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            slot.interrupt(|busy| {
                busy.header.unique == unique && self.refuse(&busy.header, &busy.asked, judge, true)
            });
        }
        let mut queue = self.waiting.queue.lock();
        queue.requests.retain(|(_, request)| {
            let Ok((header, arguments)) = Header::parse(&request.message) else {
                return false;
            };
            !self.refuse(&header, &asked(&header, arguments), judge, true)
        });
    }

    /// Answers a request with the error that `judge` has for it, if it holds up invalidations; one that changes something
    /// only if `changes`. Says whether it was answered.
    fn refuse(
        &self,
        header: &Header,
        asked: &Asked,
        judge: &dyn Fn(&Asked) -> Verdict,
        changes: bool,
    ) -> bool {
        let Verdict::Fail(errno) = judge(asked) else {
            return false;
        };
        let refused = asked.class == Class::Read || changes && asked.blocks();
        if refused {
            self.send(&failure(header, errno));
        }
        refused
    }
}

impl Kernel for Shared {
    fn forget_pages(&self, node: NodeId) -> io::Result<()> {
        notify::forget_pages(&self.connection, node)
    }

    fn forget_attributes(&self, node: NodeId) {
        notify::forget_attributes(&self.connection, node);
    }

    fn forget_names(&self) {
        notify::forget_names(&self.connection);
    }

    fn drain(&self) {
        self.interrupt(&|asked| self.fs.judge(asked));
    }

    fn release(self: Arc<Self>) {
        for request in std::mem::take(&mut *self.parked.lock()) {
            self.enqueue(request);
        }
    }
}
