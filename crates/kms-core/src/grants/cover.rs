//! Child grants: what a CreateGrant permission that comes from a grant may make.

use std::sync::Arc;

use kms_api::GrantOperation;

use super::{Context, contains, ended, lists};
use crate::clock::{Due, Now};
use crate::ids::KeyId;
use crate::rows::GrantRow;
use crate::snapshot::Snapshot;

/// A grant that is to be made, as far as a parent limits it. Its end is not asked for here: a child is
/// made to end with its parent ([`earlier`]).
#[derive(Clone, Copy, Debug)]
pub struct Child<'a> {
    /// What it is to allow.
    pub operations: &'a [GrantOperation],
    /// Its constraint on the whole encryption context.
    pub context_equals: Option<&'a Context>,
    /// Its constraint on part of the encryption context.
    pub context_subset: Option<&'a Context>,
    /// Its constraint on the source ARN.
    pub source_arn: Option<&'a str>,
}

/// A grant that allows one of `principals` to make `child` on the key; of several the one that ends
/// last.
pub fn find_parent<'a>(
    snapshot: &'a Snapshot,
    key: KeyId,
    principals: &[Arc<str>],
    child: &Child<'_>,
    now: Now,
) -> Option<&'a Arc<GrantRow>> {
    let contexts: Vec<&Context> = [child.context_equals, child.context_subset]
        .into_iter()
        .flatten()
        .collect();
    principals
        .iter()
        .flat_map(|principal| {
            snapshot.grants.candidates(
                key,
                principal,
                GrantOperation::CreateGrant,
                &contexts,
                child.source_arn,
            )
        })
        .filter(|row| covers(row, child) && !ended(row, now))
        .max_by_key(|row| match row.ends {
            None => (i64::MAX, u64::MAX),
            Some(ends) => (ends.wall_ms, ends.elapsed_ms),
        })
}

/// Whether the parent's CreateGrant permission reaches to `child`: no operation that the parent does
/// not list, and constraints at least as strict. Pairs of a Subset may become more, or become Equals;
/// Equals stays as it is.
pub fn covers(parent: &GrantRow, child: &Child<'_>) -> bool {
    let narrower = |part: &Context| {
        child.context_equals.is_some_and(|all| contains(all, part))
            || child
                .context_subset
                .is_some_and(|some| contains(some, part))
    };
    lists(parent, GrantOperation::CreateGrant)
        && child
            .operations
            .iter()
            .all(|operation| lists(parent, *operation))
        && parent
            .context_equals
            .as_ref()
            .is_none_or(|all| child.context_equals == Some(all))
        && parent.context_subset.as_ref().is_none_or(narrower)
        && parent
            .source_arn
            .as_deref()
            .is_none_or(|source| child.source_arn == Some(source))
}

/// The end of a grant that must end by both.
pub fn earlier(one: Option<Due>, other: Option<Due>) -> Option<Due> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Due {
            wall_ms: one.wall_ms.min(other.wall_ms),
            elapsed_ms: one.elapsed_ms.min(other.elapsed_ms),
        }),
        (one, other) => one.or(other),
    }
}
