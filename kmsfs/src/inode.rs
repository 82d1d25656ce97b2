//! Objects of the mount and their numbers.
