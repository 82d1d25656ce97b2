//! Protection of the whole process against dumps of its memory.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::CryptoError;

/// Makes the kernel refuse core dumps of this process and attaching to it by other processes of the same user.
///
/// Call it first in `main`, before any key exists. It sets `PR_SET_DUMPABLE` to 0 (which an `execve` undoes) and
/// the core size limit to 0 (which children inherit). A side effect of the first is that `/proc/self/*` belongs to
/// root: a program that is not root can no longer open `/proc/self/fd/N` or `/proc/self/mem` by name.
///
/// # Errors
/// [`CryptoError::Harden`] if the kernel refuses, which only a system call filter can cause.
pub fn harden_process() -> Result<(), CryptoError> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).map_err(|source| CryptoError::Harden {
        what: "RLIMIT_CORE",
        source,
    })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|source| CryptoError::Harden {
        what: "PR_SET_DUMPABLE",
        source,
    })
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn process_is_not_dumpable_afterwards() {
        harden_process().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }
}
