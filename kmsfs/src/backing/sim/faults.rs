//! Calls that fail on purpose.

use rustix::io::{Errno, Result};

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Mkdir,
    Mknod,
    Symlink,
    Link,
    Unlink,
    Rename,
    Attributes,
    Write,
    Truncate,
    Allocate,
    Xattr,
    Sync,
    Open,
    Stat,
    Read,
    List,
}

impl Op {
    /// Changes the tree or makes changes durable.
    pub(super) fn counts(self) -> bool {
        !matches!(self, Op::Open | Op::Stat | Op::Read | Op::List)
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It does nothing and answers this.
    Errno(Errno),
    /// A write, of half of the bytes. Other calls are not affected.
    Short,
}

type Plan = Box<dyn FnMut(Op, u64) -> Option<Failure> + Send>;

#[derive(Default)]
pub(super) struct Faults {
    plan: Option<Plan>,
    calls: u64,
}

impl Faults {
    pub(super) fn plan(&mut self, plan: Plan) {
        (self.plan, self.calls) = (Some(plan), 0);
    }

    pub(super) fn end(&mut self) -> u64 {
        self.plan = None;
        self.calls
    }

    /// Fails the call if it is time to. Says whether a write is to be cut short.
    pub(super) fn check(&mut self, op: Op) -> Result<bool> {
        self.calls += u64::from(op.counts());
        match self.plan.as_mut().and_then(|plan| plan(op, self.calls)) {
            None => Ok(false),
            Some(Failure::Short) => Ok(true),
            Some(Failure::Errno(errno)) => Err(errno),
        }
    }
}
